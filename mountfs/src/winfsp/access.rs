//! Who may use a drive: the user who mounted it, the system and administrators. What was
//! recorded of each file is in the snapshot, and a restore brings it back.

use std::io;
use std::ptr::null_mut;

use windows_sys::Win32::Foundation::{CloseHandle, HANDLE};
use windows_sys::Win32::Security::{
    GetLengthSid, GetTokenInformation, TOKEN_QUERY, TOKEN_USER, TokenUser,
};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};

/// Self-relative, with a list of rights that nothing is inherited into.
const CONTROL: u16 = 0x8000 | 0x1000 | 0x0004;
const ALL: u32 = 0x001f_01ff;
/// S-1-5-18 and S-1-5-32-544.
const SYSTEM: &[u8] = &[1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0];
const ADMINISTRATORS: &[u8] = &[1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 32, 2, 0, 0];

/// A security descriptor for everything on the drive. It lets the user write, too: what he
/// is to be told is that the drive is read-only, not that he lacks rights.
pub(super) fn descriptor() -> io::Result<Vec<u8>> {
    Ok(of_user(&current_user()?))
}

fn of_user(user: &[u8]) -> Vec<u8> {
    let mut entries = Vec::new();
    for sid in [user, SYSTEM, ADMINISTRATORS] {
        entries.extend([0, 0]);
        entries.extend((8 + sid.len() as u16).to_le_bytes());
        entries.extend(ALL.to_le_bytes());
        entries.extend(sid);
    }
    let head = 20u32;
    let group = head + user.len() as u32;
    let list = group + ADMINISTRATORS.len() as u32;
    let mut bytes = vec![1, 0];
    bytes.extend(CONTROL.to_le_bytes());
    bytes.extend([head, group, 0, list].iter().flat_map(|at| at.to_le_bytes()));
    bytes.extend(user);
    bytes.extend(ADMINISTRATORS);
    bytes.extend([2, 0]);
    bytes.extend((8 + entries.len() as u16).to_le_bytes());
    bytes.extend([3, 0, 0, 0]);
    bytes.extend(entries);
    bytes
}

fn current_user() -> io::Result<Vec<u8>> {
    let mut token = null_mut();
    // SAFETY: the place for the handle lives, and the handle is closed.
    unsafe {
        if OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &mut token) == 0 {
            return Err(io::Error::last_os_error());
        }
        let user = user_of(token);
        CloseHandle(token);
        user
    }
}

fn user_of(token: HANDLE) -> io::Result<Vec<u8>> {
    // As long as a user's number can be, and aligned.
    let mut buffer = [0u64; 32];
    let (to, len) = (buffer.as_mut_ptr().cast(), size_of_val(&buffer) as u32);
    let mut filled = 0;
    // SAFETY: the buffer is as long as we say; the system points into it.
    unsafe {
        if GetTokenInformation(token, TokenUser, to, len, &mut filled) == 0 {
            return Err(io::Error::last_os_error());
        }
        let sid = (*buffer.as_ptr().cast::<TOKEN_USER>()).User.Sid;
        let bytes = std::slice::from_raw_parts(sid.cast::<u8>(), GetLengthSid(sid) as usize);
        Ok(bytes.to_vec())
    }
}
