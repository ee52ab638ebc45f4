//! Calls relative to an open directory. None follows a link, and paths may be of any
//! length, since each call names one entry.

use std::fs::File;
use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::ptr::{null, null_mut};

use windows_sys::Wdk::Foundation::OBJECT_ATTRIBUTES;
use windows_sys::Wdk::Storage::FileSystem as wdk;
use windows_sys::Win32::Foundation::{
    HANDLE, NTSTATUS, OBJ_CASE_INSENSITIVE, RtlNtStatusToDosError, STATUS_BUFFER_OVERFLOW,
    STATUS_INVALID_DEVICE_REQUEST, STATUS_INVALID_INFO_CLASS, STATUS_INVALID_PARAMETER,
    STATUS_NO_MORE_FILES, STATUS_NO_SUCH_FILE, STATUS_NOT_IMPLEMENTED, STATUS_NOT_SUPPORTED,
    UNICODE_STRING,
};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_READ_ATTRIBUTES, FILE_SHARE_DELETE, FILE_SHARE_READ, FILE_SHARE_WRITE, SYNCHRONIZE,
};
use windows_sys::Win32::System::IO::{DeviceIoControl, IO_STATUS_BLOCK};

/// How an entry is opened.
#[derive(Clone, Copy)]
pub(super) struct Open {
    pub access: u32,
    pub disposition: u32,
    pub options: u32,
    pub attributes: u32,
}

impl Open {
    /// An entry that is there, whatever it is.
    pub fn existing(access: u32) -> Self {
        Self { access, disposition: wdk::FILE_OPEN, options: 0, attributes: 0 }
    }

    pub fn new(access: u32, options: u32) -> Self {
        Self { access, disposition: wdk::FILE_CREATE, options, attributes: 0 }
    }

    pub fn with(self, options: u32) -> Self {
        Self { options: self.options | options, ..self }
    }

    /// Lets the system follow what it knows how to, such as files kept elsewhere.
    pub fn open(self, dir: &File, name: &[u16]) -> io::Result<File> {
        self.call(dir, name, 0)
    }

    pub fn open_no_follow(self, dir: &File, name: &[u16]) -> io::Result<File> {
        self.call(dir, name, wdk::FILE_OPEN_REPARSE_POINT)
    }

    fn call(self, dir: &File, name: &[u16], follow: u32) -> io::Result<File> {
        let length = u16::try_from(name.len() * 2).map_err(|_| io::ErrorKind::InvalidFilename)?;
        let text = UNICODE_STRING {
            Length: length,
            MaximumLength: length,
            Buffer: name.as_ptr().cast_mut(),
        };
        let object = OBJECT_ATTRIBUTES {
            Length: size_of::<OBJECT_ATTRIBUTES>() as u32,
            RootDirectory: raw(dir),
            ObjectName: &text,
            Attributes: OBJ_CASE_INSENSITIVE,
            SecurityDescriptor: null(),
            SecurityQualityOfService: null(),
        };
        let options = self.options
            | follow
            | wdk::FILE_SYNCHRONOUS_IO_NONALERT
            | wdk::FILE_OPEN_FOR_BACKUP_INTENT;
        let mut handle = null_mut();
        let mut block = IO_STATUS_BLOCK::default();
        // SAFETY: every pointer is to something that lives until the call has returned.
        check(unsafe {
            wdk::NtCreateFile(
                &mut handle,
                self.access | SYNCHRONIZE | FILE_READ_ATTRIBUTES,
                &object,
                &mut block,
                null(),
                self.attributes,
                FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE,
                self.disposition,
                options,
                null(),
                0,
            )
        })?;
        // SAFETY: the call has succeeded, so the handle is ours.
        Ok(unsafe { OwnedHandle::from_raw_handle(handle) }.into())
    }
}

pub(super) fn raw(file: &File) -> HANDLE {
    file.as_raw_handle()
}

fn check(status: NTSTATUS) -> io::Result<()> {
    if status >= 0 {
        return Ok(());
    }
    // SAFETY: only looks the number up.
    Err(io::Error::from_raw_os_error(unsafe { RtlNtStatusToDosError(status) } as i32))
}

/// Information of a fixed size.
pub(super) fn query<T: Default>(file: &File, class: i32) -> io::Result<T> {
    let mut value = T::default();
    let mut block = IO_STATUS_BLOCK::default();
    let (to, len) = ((&raw mut value).cast(), size_of::<T>() as u32);
    // SAFETY: the buffer is as long as we say; each caller names the class of its type.
    check(unsafe { wdk::NtQueryInformationFile(raw(file), &mut block, to, len, class) })?;
    Ok(value)
}

/// Information of any length, in `u64` so that it is aligned; `None` if the file system has no
/// such thing. Any other failure says nothing about what there is.
pub(super) fn query_list(file: &File, class: i32) -> io::Result<Option<Vec<u64>>> {
    let mut len = 4 << 10;
    loop {
        let mut buffer = vec![0u64; len / 8];
        let mut block = IO_STATUS_BLOCK::default();
        let to = buffer.as_mut_ptr().cast();
        // SAFETY: the buffer is as long as we say.
        let status =
            unsafe { wdk::NtQueryInformationFile(raw(file), &mut block, to, len as u32, class) };
        match status {
            STATUS_BUFFER_OVERFLOW if len < 4 << 20 => {
                len *= 4;
                continue;
            }
            // What file systems say that don't know the question; the last two FAT and drivers.
            STATUS_NOT_IMPLEMENTED
            | STATUS_NOT_SUPPORTED
            | STATUS_INVALID_INFO_CLASS
            | STATUS_INVALID_PARAMETER
            | STATUS_INVALID_DEVICE_REQUEST => return Ok(None),
            status => check(status)?,
        }
        buffer.truncate(block.Information.div_ceil(8));
        return Ok(Some(buffer));
    }
}

pub(super) fn set<T>(file: &File, class: i32, value: &T) -> io::Result<()> {
    // SAFETY: a reference is valid for the bytes of its type.
    let bytes =
        unsafe { std::slice::from_raw_parts((&raw const *value).cast::<u8>(), size_of::<T>()) };
    set_bytes(file, class, bytes)
}

fn set_bytes(file: &File, class: i32, bytes: &[u8]) -> io::Result<()> {
    let mut block = IO_STATUS_BLOCK::default();
    let (from, len) = (bytes.as_ptr().cast(), bytes.len() as u32);
    // SAFETY: the buffer is as long as we say.
    check(unsafe { wdk::NtSetInformationFile(raw(file), &mut block, from, len, class) })
}

/// Gives an open file another name, or one more: `FILE_RENAME_INFORMATION` and
/// `FILE_LINK_INFORMATION` look the same.
pub(super) fn set_name(
    file: &File,
    class: i32,
    flags: u32,
    dir: &File,
    name: &[u16],
) -> io::Result<()> {
    // In `u64` so that it is aligned: flags, handle, length, name.
    let mut buffer = vec![u64::from(flags), raw(dir) as u64];
    let mut tail = ((name.len() * 2) as u32).to_le_bytes().to_vec();
    tail.extend(name.iter().flat_map(|unit| unit.to_le_bytes()));
    // The system wants the whole structure, in which the name has room for two units.
    let len = (16 + tail.len()).max(24);
    tail.resize(tail.len().next_multiple_of(8).max(8), 0);
    buffer
        .extend(tail.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().unwrap_or_default())));
    // SAFETY: `len` is within the buffer.
    let bytes = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), len) };
    set_bytes(file, class, bytes)
}

/// Names in a directory, as the system gives them.
pub(super) fn names(dir: &File, mut each: impl FnMut(&[u16])) -> io::Result<()> {
    let mut buffer = vec![0u64; 8 << 10];
    let mut first = true;
    loop {
        let mut block = IO_STATUS_BLOCK::default();
        let (to, len) = (buffer.as_mut_ptr().cast(), (buffer.len() * 8) as u32);
        // SAFETY: the buffer is as long as we say.
        let status = unsafe {
            wdk::NtQueryDirectoryFile(
                raw(dir),
                null_mut(),
                None,
                null(),
                &mut block,
                to,
                len,
                wdk::FileNamesInformation,
                false,
                null(),
                first,
            )
        };
        match status {
            STATUS_NO_MORE_FILES | STATUS_NO_SUCH_FILE => return Ok(()),
            status => check(status)?,
        }
        first = false;
        // The length of a name stands at 8, the name at 12.
        for_each(&buffer, block.Information, 8, 12, |_, name| each(name));
    }
}

/// Goes through a list of records that each begin with the distance to the next one
/// and have a name somewhere. Nothing outside the buffer is touched, whatever it says.
pub(super) fn for_each(
    buffer: &[u64],
    filled: usize,
    length_at: usize,
    name_at: usize,
    mut each: impl FnMut(&[u8], &[u16]),
) {
    let all: Vec<u8> = buffer.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut rest = &all[..filled.min(all.len())];
    let number = |bytes: &[u8], at: usize| -> Option<usize> {
        let bytes = bytes.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
    };
    while let (Some(next), Some(len)) = (number(rest, 0), number(rest, length_at)) {
        let Some(name) = rest.get(name_at..name_at.saturating_add(len)) else { return };
        let name: Vec<u16> =
            name.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect();
        each(rest, &name);
        match rest.get(next..) {
            Some(after) if next > 0 => rest = after,
            _ => return,
        }
    }
}

/// A request of the file system; returns how many bytes it answered.
pub(super) fn control(
    file: &File,
    code: u32,
    input: &[u8],
    output: &mut [u8],
) -> io::Result<usize> {
    let mut filled = 0;
    // SAFETY: both buffers are as long as we say, and it isn't overlapped.
    let done = unsafe {
        DeviceIoControl(
            raw(file),
            code,
            input.as_ptr().cast(),
            input.len() as u32,
            output.as_mut_ptr().cast(),
            output.len() as u32,
            &mut filled,
            null_mut(),
        )
    };
    if done == 0 { Err(io::Error::last_os_error()) } else { Ok(filled as usize) }
}
