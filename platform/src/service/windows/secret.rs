//! Files that only the system's account and administrators can read.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::FromRawHandle;
use std::path::{Path, PathBuf};
use std::ptr::null_mut;

use windows_sys::Win32::Foundation::{GENERIC_WRITE, INVALID_HANDLE_VALUE, LocalFree};
use windows_sys::Win32::Security::Authorization::{
    ConvertStringSecurityDescriptorToSecurityDescriptorW, SDDL_REVISION_1,
};
use windows_sys::Win32::Security::SECURITY_ATTRIBUTES;
use windows_sys::Win32::Storage::FileSystem::{
    CREATE_NEW, CreateFileW, FILE_ATTRIBUTE_NORMAL, READ_CONTROL,
};

use super::super::{Result, ServiceError};
use super::wide;

/// Nothing is inherited. Administrators could take the right to read it anyway.
const RIGHTS: &str = "D:P(A;;FA;;;SY)(A;;FA;;;BA)";
/// The account's own folder, which other users can't even look into.
const FOLDER: &str = "System32\\config\\systemprofile\\AppData\\Local\\tresor\\services";

fn file_of(name: &str) -> Result<PathBuf> {
    let missing = || {
        let error = io::Error::new(io::ErrorKind::NotFound, "the variable isn't set");
        ServiceError::Io("%SystemRoot%".into(), error)
    };
    let root = std::env::var_os("SystemRoot").map(PathBuf::from).filter(|p| p.is_absolute());
    Ok(root.ok_or_else(missing)?.join(FOLDER).join(name).with_extension("password"))
}

pub(super) fn keep(name: &str, secret: &[u8]) -> Result<PathBuf> {
    let file = file_of(name)?;
    let failed = |e| ServiceError::Io(file.display().to_string(), e);
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    // One that a service left behind that wasn't removed by `remove`.
    forget(name)?;
    let written = create(&file).and_then(|mut made| made.write_all(secret));
    written.map_err(failed)?;
    Ok(file)
}

/// Whether there was one.
pub(super) fn forget(name: &str) -> Result<bool> {
    let file = file_of(name)?;
    match std::fs::remove_file(&file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(ServiceError::Io(file.display().to_string(), e)),
        Ok(()) => Ok(true),
    }
}

/// A new file that has these rights from the start.
fn create(path: &Path) -> io::Result<File> {
    let rights = wide(OsStr::new(RIGHTS));
    let mut descriptor = null_mut();
    // SAFETY: the text and the path end with zeros, the places for the answers live, the
    // descriptor is freed, and the handle is ours.
    unsafe {
        if ConvertStringSecurityDescriptorToSecurityDescriptorW(
            rights.as_ptr(),
            SDDL_REVISION_1,
            &mut descriptor,
            null_mut(),
        ) == 0
        {
            return Err(io::Error::last_os_error());
        }
        let attributes = SECURITY_ATTRIBUTES {
            nLength: size_of::<SECURITY_ATTRIBUTES>() as u32,
            lpSecurityDescriptor: descriptor,
            bInheritHandle: 0,
        };
        let path = wide(path.as_os_str());
        let handle = CreateFileW(
            path.as_ptr(),
            GENERIC_WRITE,
            0,
            &attributes,
            CREATE_NEW,
            FILE_ATTRIBUTE_NORMAL,
            null_mut(),
        );
        let error = io::Error::last_os_error();
        LocalFree(descriptor);
        if handle == INVALID_HANDLE_VALUE {
            return Err(error);
        }
        Ok(File::from_raw_handle(handle))
    }
}

/// Whether only the system, administrators and its owner can read a file.
pub(super) fn is_secret(path: &Path) -> Result<bool> {
    let failed = |e| ServiceError::Io(path.display().to_string(), e);
    let mut options = std::fs::OpenOptions::new();
    let file = options.access_mode(READ_CONTROL).open(path).map_err(failed)?;
    let descriptor = crate::windows::security_of(&file).map_err(failed)?;
    Ok(lets_in_nobody(&descriptor).unwrap_or(false))
}

/// S-1-5-18 and S-1-5-32-544.
const SYSTEM: &[u8] = &[1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0];
const ADMINISTRATORS: &[u8] = &[1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 32, 2, 0, 0];
const DENIED: u8 = 1;
const INHERIT_ONLY: u8 = 8;

/// Whether a self-relative descriptor gives rights to nobody else; `None` if it is damaged.
fn lets_in_nobody(descriptor: &[u8]) -> Option<bool> {
    let number = |at: usize| {
        let bytes = descriptor.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let owner = descriptor.get(number(4)?..)?;
    let owner = owner.get(..8 + 4 * usize::from(*owner.get(1)?))?;
    let list = number(16)?;
    if list == 0 {
        // Without a list everybody may do everything.
        return Some(false);
    }
    let mut rest = descriptor.get(list + 8..)?;
    for _ in 0..number(list + 4)? & 0xffff {
        let (&[kind, flags, low, high], _) = rest.split_first_chunk()?;
        let entry = rest.get(..usize::from(u16::from_le_bytes([low, high])))?;
        let applies = kind != DENIED && flags & INHERIT_ONLY == 0;
        if applies && ![SYSTEM, ADMINISTRATORS, owner].contains(&entry.get(8..)?) {
            return Some(false);
        }
        rest = rest.get(entry.len().max(4)..)?;
    }
    Some(true)
}
