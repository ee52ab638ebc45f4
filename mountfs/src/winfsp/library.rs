//! Finds WinFsp's DLL, which lies where its installer has put it and on no search path.

use std::ffi::OsStr;
use std::os::windows::ffi::OsStrExt;
use std::path::PathBuf;
use std::ptr::null_mut;

use windows_sys::Win32::System::LibraryLoader::{
    LOAD_LIBRARY_SEARCH_APPLICATION_DIR, LOAD_LIBRARY_SEARCH_DLL_LOAD_DIR,
    LOAD_LIBRARY_SEARCH_SYSTEM32, LoadLibraryExW,
};
use windows_sys::Win32::System::Registry::{HKEY_LOCAL_MACHINE, RRF_RT_REG_SZ, RegGetValueW};

const NAME: &str = if cfg!(target_arch = "aarch64") { "winfsp-a64.dll" } else { "winfsp-x64.dll" };

/// Loads it beside this program or from where it is installed; once it is loaded, its
/// name alone means it.
pub(super) fn load() -> bool {
    let flags = LOAD_LIBRARY_SEARCH_APPLICATION_DIR | LOAD_LIBRARY_SEARCH_SYSTEM32;
    load_from(OsStr::new(NAME), flags)
        || installed().is_some_and(|path| {
            let flags = LOAD_LIBRARY_SEARCH_DLL_LOAD_DIR | LOAD_LIBRARY_SEARCH_SYSTEM32;
            load_from(path.as_os_str(), flags)
        })
}

fn wide(text: &OsStr) -> Vec<u16> {
    text.encode_wide().chain([0]).collect()
}

fn load_from(path: &OsStr, flags: u32) -> bool {
    // SAFETY: the path ends with a zero. The library is meant to run code when it is loaded.
    unsafe { !LoadLibraryExW(wide(path).as_ptr(), null_mut(), flags).is_null() }
}

fn installed() -> Option<PathBuf> {
    ["SOFTWARE\\WOW6432Node\\WinFsp", "SOFTWARE\\WinFsp"].into_iter().find_map(|key| {
        let (key, value) = (wide(OsStr::new(key)), wide(OsStr::new("InstallDir")));
        let mut text = [0u16; 512];
        let mut bytes = size_of_val(&text) as u32;
        let to = text.as_mut_ptr().cast();
        // SAFETY: the names end with zeros, and the buffer is as long as we say.
        let status = unsafe {
            RegGetValueW(
                HKEY_LOCAL_MACHINE,
                key.as_ptr(),
                value.as_ptr(),
                RRF_RT_REG_SZ,
                null_mut(),
                to,
                &mut bytes,
            )
        };
        let length = text.iter().position(|unit| *unit == 0).filter(|_| status == 0)?;
        let folder = String::from_utf16(&text[..length]).ok()?;
        Some(PathBuf::from(folder).join("bin").join(NAME))
    })
}
