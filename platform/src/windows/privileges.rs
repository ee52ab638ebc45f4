//! What this process may do, and what it is told.

use std::ptr::null_mut;
use std::sync::OnceLock;

use windows_sys::Win32::Foundation::{CloseHandle, ERROR_NOT_ALL_ASSIGNED, GetLastError, LUID};
use windows_sys::Win32::Security::{
    AdjustTokenPrivileges, LUID_AND_ATTRIBUTES, LookupPrivilegeValueW, SE_PRIVILEGE_ENABLED,
    TOKEN_ADJUST_PRIVILEGES, TOKEN_PRIVILEGES, TOKEN_QUERY,
};
use windows_sys::Win32::System::Console::{
    CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT, GetStdHandle, STD_ERROR_HANDLE,
    STD_INPUT_HANDLE, STD_OUTPUT_HANDLE, SetConsoleCtrlHandler, SetStdHandle,
};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};
use windows_sys::core::BOOL;

#[derive(Default)]
struct Held {
    restore: bool,
    security: bool,
}

static HELD: OnceLock<Held> = OnceLock::new();

/// Takes the rights that administrators and backup operators have: to read and write files
/// that are closed to them, to give them away, to make links. Others go without.
pub(super) fn take() {
    held();
}

fn held() -> &'static Held {
    HELD.get_or_init(|| {
        enable("SeBackupPrivilege");
        enable("SeCreateSymbolicLinkPrivilege");
        Held { restore: enable("SeRestorePrivilege"), security: enable("SeSecurityPrivilege") }
    })
}

pub(super) fn may_give_away() -> bool {
    held().restore
}

pub(super) fn may_audit() -> bool {
    held().security
}

fn enable(name: &str) -> bool {
    let name: Vec<u16> = name.encode_utf16().chain([0]).collect();
    let mut luid = LUID::default();
    let mut token = null_mut();
    // SAFETY: the name ends with a zero, every pointer is to something that lives, and
    // the token is closed.
    unsafe {
        if LookupPrivilegeValueW(std::ptr::null(), name.as_ptr(), &mut luid) == 0
            || OpenProcessToken(
                GetCurrentProcess(),
                TOKEN_ADJUST_PRIVILEGES | TOKEN_QUERY,
                &mut token,
            ) == 0
        {
            return false;
        }
        let one = LUID_AND_ATTRIBUTES { Luid: luid, Attributes: SE_PRIVILEGE_ENABLED };
        let wanted = TOKEN_PRIVILEGES { PrivilegeCount: 1, Privileges: [one] };
        let done = AdjustTokenPrivileges(token, 0, &wanted, 0, null_mut(), null_mut());
        // It succeeds also if the user hasn't got the right.
        let error = GetLastError();
        CloseHandle(token);
        done != 0 && error != ERROR_NOT_ALL_ASSIGNED
    }
}

/// Closes standard input, output and errors: whoever reads them sees their end.
pub(crate) fn close_streams() {
    for stream in [STD_INPUT_HANDLE, STD_OUTPUT_HANDLE, STD_ERROR_HANDLE] {
        // SAFETY: Rust asks for the handle at each use, and passes over one that isn't there.
        unsafe {
            let handle = GetStdHandle(stream);
            if SetStdHandle(stream, null_mut()) != 0 && !handle.is_null() {
                CloseHandle(handle);
            }
        }
    }
}

static ON_STOP: OnceLock<fn()> = OnceLock::new();

/// Has `stop` called when the user presses Ctrl-C, closes the window or logs off.
pub fn on_console_stop(stop: fn()) -> std::io::Result<()> {
    let _ = ON_STOP.set(stop);
    // SAFETY: the handler is a function that is there for good.
    if unsafe { SetConsoleCtrlHandler(Some(handler), 1) } == 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

unsafe extern "system" fn handler(event: u32) -> BOOL {
    // Services are told of anybody who logs off, and of the end by their manager.
    let is_of_others = matches!(event, CTRL_LOGOFF_EVENT | CTRL_SHUTDOWN_EVENT);
    if is_of_others && crate::service::is_service() {
        return 1;
    }
    if let Some(stop) = ON_STOP.get() {
        stop();
        // The process ends as soon as this returns, and some seconds later at any rate. Until then
        // it can tidy up; it ends by itself when that is done.
        while ends_the_process(event) {
            std::thread::park();
        }
    }
    1
}

/// Whether Windows ends the process after this event, whatever the handler says.
fn ends_the_process(event: u32) -> bool {
    matches!(event, CTRL_CLOSE_EVENT | CTRL_LOGOFF_EVENT | CTRL_SHUTDOWN_EVENT)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
    use std::time::Duration;

    use windows_sys::Win32::System::Console::CTRL_C_EVENT;

    use super::*;

    static STOPS: AtomicU32 = AtomicU32::new(0);

    /// What would end the process does so only after it had its time.
    #[test]
    fn who_is_told_of_the_end_has_time_to_tidy_up() {
        let _ = ON_STOP.set(|| {
            STOPS.fetch_add(1, SeqCst);
        });
        // SAFETY: takes a number.
        let told = |event| move || unsafe { handler(event) };
        assert_eq!(told(CTRL_C_EVENT)(), 1);
        let events = [CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT];
        let waiting = events.map(|event| std::thread::spawn(told(event)));
        while STOPS.load(SeqCst) < 4 {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(300));
        assert!(waiting.iter().all(|thread| !thread.is_finished()));
    }
}
