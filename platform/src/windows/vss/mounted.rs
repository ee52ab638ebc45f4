//! Volumes that are mounted in folders.

use std::io;

use tresor_engine::naming::from_utf16;
use windows_sys::Win32::Foundation::{HANDLE, INVALID_HANDLE_VALUE};
use windows_sys::Win32::Storage::FileSystem::{
    FindFirstVolumeW, FindNextVolumeW, FindVolumeClose, GetVolumePathNamesForVolumeNameW,
};

use super::super::path::recorded_path;
use crate::snapshot::Wanted;

/// Names of volumes are shorter.
const MOST_NAME: usize = 64;
/// `C:\`
const LETTER: usize = 3;

/// The folders with a volume in them that a backup would come to.
pub(super) fn met(wanted: &Wanted) -> Vec<String> {
    let mut met = Vec::new();
    for volume in volumes() {
        let folders = paths(&volume).into_iter().filter(|path| path.len() > LETTER);
        met.extend(folders.filter(|folder| is_met(wanted, &recorded_path(folder.as_bytes()))));
    }
    met
}

fn is_met(wanted: &Wanted, mounted: &[u8]) -> bool {
    wanted
        .paths
        .iter()
        .any(|path| lies_in(path, mounted) || !wanted.one_file_system && lies_in(mounted, path))
}

fn lies_in(path: &[u8], folder: &[u8]) -> bool {
    let (path, folder) = (path.to_ascii_lowercase(), folder.to_ascii_lowercase());
    let rest = path.strip_prefix(folder.strip_suffix(b"/").unwrap_or(&folder));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
}

struct Search(HANDLE);

impl Drop for Search {
    fn drop(&mut self) {
        // SAFETY: it is open, and closed only here.
        unsafe { FindVolumeClose(self.0) };
    }
}

/// `\\?\Volume{…}\` of each, ending with a zero.
fn volumes() -> Vec<[u16; MOST_NAME]> {
    let mut name = [0; MOST_NAME];
    // SAFETY: the buffer is as long as we say; the handle is ours if there is one.
    let found = unsafe { FindFirstVolumeW(name.as_mut_ptr(), MOST_NAME as u32) };
    if found == INVALID_HANDLE_VALUE {
        return Vec::new();
    }
    let search = Search(found);
    let mut all = vec![name];
    // SAFETY: as above.
    while unsafe { FindNextVolumeW(search.0, name.as_mut_ptr(), MOST_NAME as u32) } != 0 {
        all.push(name);
    }
    all
}

/// Where it is mounted.
fn paths(volume: &[u16; MOST_NAME]) -> Vec<String> {
    const MORE_DATA: i32 = 234;
    let mut buffer = vec![0u16; 1 << 10];
    loop {
        let mut len = 0;
        let (to, room) = (buffer.as_mut_ptr(), buffer.len() as u32);
        // SAFETY: the name ends with a zero, and the buffer is as long as we say.
        let told = unsafe { GetVolumePathNamesForVolumeNameW(volume.as_ptr(), to, room, &mut len) };
        let wanted = usize::try_from(len).unwrap_or(0);
        if told != 0 {
            let names = buffer.split(|unit| *unit == 0).filter(|name| !name.is_empty());
            return names.map(|name| String::from_utf8_lossy(&from_utf16(name)).into()).collect();
        }
        let error = io::Error::last_os_error().raw_os_error();
        if error != Some(MORE_DATA) || wanted <= buffer.len() {
            // It may have been taken away.
            return Vec::new();
        }
        buffer.resize(wanted, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_that_a_backup_comes_to() {
        let met = |paths: &[&[u8]], one_file_system| {
            let stop = &|| false;
            let wanted =
                Wanted { paths, system_state: false, one_file_system, required: false, stop };
            is_met(&wanted, b"/C/Data two")
        };
        assert!(met(&[b"/"], false) && met(&[b"/C"], false) && met(&[b"/c/data TWO"], false));
        assert!(met(&[b"/C/Data two/x"], true) && met(&[b"/C/Data two"], true));
        assert!(!met(&[b"/C"], true) && !met(&[b"/C/Data"], false) && !met(&[b"/D"], false));
    }
}
