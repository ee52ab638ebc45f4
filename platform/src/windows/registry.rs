//! Reads the registry.

use std::io;
use std::ptr::{null, null_mut};

use windows_sys::Win32::Foundation::{ERROR_MORE_DATA, ERROR_NO_MORE_ITEMS, ERROR_SUCCESS};
use windows_sys::Win32::System::Registry::{
    HKEY, HKEY_LOCAL_MACHINE, KEY_READ, REG_EXPAND_SZ, REG_MULTI_SZ, REG_SZ, RegCloseKey,
    RegEnumKeyExW, RegEnumValueW, RegOpenKeyExW,
};

/// The longest name of a key (255) or value (16383), and the zero after it.
const LONGEST_NAME: usize = 16384;
/// Lists of files are short; what is longer than this is none.
const MOST: usize = 1 << 20;

/// An open key of HKEY_LOCAL_MACHINE.
pub(super) struct Key(HKEY);

impl Drop for Key {
    fn drop(&mut self) {
        // SAFETY: open, and closed once.
        unsafe { RegCloseKey(self.0) };
    }
}

fn check(result: u32) -> io::Result<()> {
    if result == ERROR_SUCCESS { Ok(()) } else { Err(io::Error::from_raw_os_error(result as i32)) }
}

impl Key {
    pub fn open(path: &str) -> io::Result<Self> {
        Self::open_in(HKEY_LOCAL_MACHINE, path)
    }

    fn open_in(key: HKEY, path: &str) -> io::Result<Self> {
        let path: Vec<u16> = path.encode_utf16().chain([0]).collect();
        let mut opened = null_mut();
        // SAFETY: the path ends with a zero and the result goes to something that lives.
        check(unsafe { RegOpenKeyExW(key, path.as_ptr(), 0, KEY_READ, &mut opened) })?;
        Ok(Self(opened))
    }

    pub fn open_below(&self, name: &str) -> io::Result<Self> {
        Self::open_in(self.0, name)
    }

    /// The names of the keys in this one.
    pub fn keys(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        loop {
            let mut name = [0u16; 256];
            let mut len = name.len() as u32;
            let number = names.len() as u32;
            // SAFETY: the buffer is as long as we say.
            let result = unsafe {
                RegEnumKeyExW(
                    self.0,
                    number,
                    name.as_mut_ptr(),
                    &mut len,
                    null(),
                    null_mut(),
                    null_mut(),
                    null_mut(),
                )
            };
            if result == ERROR_NO_MORE_ITEMS {
                return Ok(names);
            }
            check(result)?;
            names.push(String::from_utf16_lossy(&name[..len as usize]));
        }
    }

    /// Every value that is text, with its name and its lines.
    pub fn texts(&self) -> io::Result<Vec<(String, Vec<String>)>> {
        let mut all = Vec::new();
        let mut room = 4096;
        let mut number = 0;
        loop {
            let mut name = vec![0u16; LONGEST_NAME];
            let mut data = vec![0u16; room / 2];
            let (mut len, mut filled, mut kind) = (LONGEST_NAME as u32, room as u32, 0);
            // SAFETY: both buffers are as long as we say.
            let result = unsafe {
                RegEnumValueW(
                    self.0,
                    number,
                    name.as_mut_ptr(),
                    &mut len,
                    null(),
                    &mut kind,
                    data.as_mut_ptr().cast(),
                    &mut filled,
                )
            };
            match result {
                ERROR_NO_MORE_ITEMS => return Ok(all),
                ERROR_MORE_DATA if room < MOST => {
                    room *= 4;
                    continue;
                }
                result => check(result)?,
            }
            number += 1;
            if [REG_SZ, REG_EXPAND_SZ, REG_MULTI_SZ].contains(&kind) {
                let text = &data[..(filled as usize / 2).min(data.len())];
                let lines = text.split(|unit| *unit == 0).filter(|line| !line.is_empty());
                let lines = lines.map(String::from_utf16_lossy).collect();
                all.push((String::from_utf16_lossy(&name[..len as usize]), lines));
            }
        }
    }

    /// One value that is text.
    pub fn text(&self, name: &str) -> io::Result<Option<String>> {
        let mut all = self.texts()?.into_iter();
        let found = all.find(|(of, _)| of.eq_ignore_ascii_case(name));
        Ok(found.and_then(|(_, lines)| lines.into_iter().next()))
    }
}
