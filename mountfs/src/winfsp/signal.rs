//! How `tresor umount` reaches the process that serves a drive: an event that it waits for.

use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::path::Path;
use std::ptr::null;

use windows_sys::Win32::Foundation::{ERROR_ALREADY_EXISTS, GetLastError, WAIT_OBJECT_0};
use windows_sys::Win32::System::Threading::{
    CreateEventW, EVENT_MODIFY_STATE, INFINITE, OpenEventW, SetEvent, WaitForSingleObject,
};

pub(super) struct Signal(OwnedHandle);

/// The event of a mount point; names are of a session and know no `\`.
fn name(point: &Path) -> Vec<u16> {
    let point = point.to_string_lossy().to_uppercase().replace('\\', "/");
    let point = point.trim_end_matches('/');
    format!("Local\\tresor-drive-{point}").encode_utf16().chain([0]).collect()
}

impl Signal {
    /// `None` if somebody serves a drive there already.
    pub fn new(point: &Path) -> io::Result<Option<Self>> {
        let name = name(point);
        // SAFETY: the name ends with a zero; the handle is ours if there is one.
        unsafe {
            let event = CreateEventW(null(), 1, 0, name.as_ptr());
            let is_known = GetLastError() == ERROR_ALREADY_EXISTS;
            if event.is_null() {
                return Err(io::Error::last_os_error());
            }
            let event = OwnedHandle::from_raw_handle(event);
            Ok((!is_known).then_some(Self(event)))
        }
    }

    pub fn wait(&self) -> io::Result<()> {
        // SAFETY: the handle is open.
        match unsafe { WaitForSingleObject(self.0.as_raw_handle(), INFINITE) } {
            WAIT_OBJECT_0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn open(point: &Path) -> Option<OwnedHandle> {
    let name = name(point);
    // SAFETY: the name ends with a zero; the handle is ours if there is one.
    unsafe {
        let event = OpenEventW(EVENT_MODIFY_STATE, 0, name.as_ptr());
        (!event.is_null()).then(|| OwnedHandle::from_raw_handle(event))
    }
}

pub(super) fn is_served(point: &Path) -> bool {
    open(point).is_some()
}

/// Asks whoever serves the drive to end; whether there is one.
pub(super) fn send(point: &Path) -> bool {
    // SAFETY: the handle is open.
    open(point).is_some_and(|event| unsafe { SetEvent(event.as_raw_handle()) != 0 })
}
