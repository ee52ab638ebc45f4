//! Access control lists of macOS, as the text that its library makes of them: with the
//! identifiers that they are kept by, and names and numbers for people.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use rustix::io::Errno;

use super::macos::last_error;

/// `ACL_TYPE_EXTENDED`
const EXTENDED: c_int = 0x100;
/// What every list begins with, and an empty one is.
const EMPTY: &[u8] = b"!#acl 1\n";

// Of the system's library; the crate libc doesn't have them.
unsafe extern "C" {
    fn acl_init(count: c_int) -> *mut c_void;
    fn acl_free(object: *mut c_void) -> c_int;
    fn acl_get_fd_np(fd: c_int, kind: c_int) -> *mut c_void;
    fn acl_set_fd_np(fd: c_int, list: *mut c_void, kind: c_int) -> c_int;
    fn acl_to_text(list: *mut c_void, length: *mut isize) -> *mut c_char;
    fn acl_from_text(text: *const c_char) -> *mut c_void;
}

/// Something that the library has made.
struct Owned(NonNull<c_void>);

impl Owned {
    fn new(made: *mut c_void) -> Result<Self, Errno> {
        NonNull::new(made).map(Self).ok_or_else(last_error)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: it was made by the library, and nobody has it any more.
        unsafe { acl_free(self.0.as_ptr()) };
    }
}

/// `None` if there is none, or only an empty one.
pub(super) fn read(fd: BorrowedFd<'_>) -> io::Result<Option<Vec<u8>>> {
    // SAFETY: takes numbers.
    let list = match Owned::new(unsafe { acl_get_fd_np(fd.as_raw_fd(), EXTENDED) }) {
        Ok(list) => list,
        // None, or a file system without them.
        Err(Errno::NOENT | Errno::NOTSUP | Errno::OPNOTSUPP) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    // SAFETY: the list lives; the length may be left out.
    let text = Owned::new(unsafe { acl_to_text(list.0.as_ptr(), std::ptr::null_mut()) }.cast())?;
    // SAFETY: it is a string that ends with a NUL, and lives.
    let text = unsafe { CStr::from_ptr(text.0.as_ptr().cast()) }.to_bytes();
    Ok((text != EMPTY).then(|| text.to_vec()))
}

/// `None` takes away what is there.
pub(super) fn write(fd: BorrowedFd<'_>, text: Option<&[u8]>) -> io::Result<()> {
    let list = match text {
        Some(text) => {
            let text = CString::new(text)?;
            // SAFETY: it ends with a NUL.
            unsafe { acl_from_text(text.as_ptr()) }
        }
        // SAFETY: takes a number.
        None => unsafe { acl_init(1) },
    };
    let list = Owned::new(list)?;
    // SAFETY: the list lives.
    match unsafe { acl_set_fd_np(fd.as_raw_fd(), list.0.as_ptr(), EXTENDED) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
