//! The Event Log, where a service says what it has to say.

use std::ffi::OsStr;
use std::io;
use std::ptr::{null, null_mut};

use windows_sys::Win32::System::EventLog::{
    DeregisterEventSource, EVENTLOG_ERROR_TYPE, RegisterEventSourceW, ReportEventW,
};
use windows_sys::Win32::System::Registry::{
    HKEY_LOCAL_MACHINE, REG_DWORD, REG_EXPAND_SZ, RegDeleteKeyW, RegSetKeyValueW,
};

use super::wide;

const SOURCE: &str = "tresor";
const KEY: &str = "SYSTEM\\CurrentControlSet\\Services\\EventLog\\Application\\tresor";
/// A program of Windows in which the text of each number up to 1000 is what comes with it.
const MESSAGES: &str = "%SystemRoot%\\System32\\EventCreate.exe";
const NUMBER: u32 = 1;
/// Errors, warnings and what is neither.
const KINDS: u32 = 7;
/// Longer texts are refused.
const MOST: usize = 31_000;

/// Writes an error there.
pub fn report(text: &str) {
    let text: Vec<u16> = text.encode_utf16().filter(|u| *u != 0).take(MOST).chain([0]).collect();
    let source = wide(OsStr::new(SOURCE));
    // SAFETY: every text ends with a zero, and the source is closed.
    unsafe {
        let source = RegisterEventSourceW(null(), source.as_ptr());
        if !source.is_null() {
            let texts = [text.as_ptr()];
            ReportEventW(
                source,
                EVENTLOG_ERROR_TYPE,
                0,
                NUMBER,
                null_mut(),
                texts.len() as u16,
                0,
                texts.as_ptr(),
                null(),
            );
            DeregisterEventSource(source);
        }
    }
}

/// Has the Event Viewer show the texts as they are.
pub(super) fn register() -> io::Result<()> {
    let messages = wide(OsStr::new(MESSAGES));
    let bytes: Vec<u8> = messages.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    set("EventMessageFile", REG_EXPAND_SZ, &bytes)?;
    set("TypesSupported", REG_DWORD, &KINDS.to_le_bytes())
}

fn set(name: &str, kind: u32, value: &[u8]) -> io::Result<()> {
    let (key, name) = (wide(OsStr::new(KEY)), wide(OsStr::new(name)));
    // SAFETY: the names end with zeros, and the value is as long as we say.
    let status = unsafe {
        RegSetKeyValueW(
            HKEY_LOCAL_MACHINE,
            key.as_ptr(),
            name.as_ptr(),
            kind,
            value.as_ptr().cast(),
            value.len() as u32,
        )
    };
    if status == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(status as i32)) }
}

/// Best effort: nobody is harmed by what stays.
pub(super) fn unregister() {
    // SAFETY: the name ends with a zero.
    unsafe { RegDeleteKeyW(HKEY_LOCAL_MACHINE, wide(OsStr::new(KEY)).as_ptr()) };
}
