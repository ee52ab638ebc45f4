//! Names for what isn't ready yet.

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::sync::Arc;

use windows_sys::Wdk::Storage::FileSystem::{
    FILE_RENAME_IGNORE_READONLY_ATTRIBUTE, FILE_RENAME_POSIX_SEMANTICS,
    FILE_RENAME_REPLACE_IF_EXISTS, FileRenameInformation, FileRenameInformationEx,
};
use windows_sys::Win32::Storage::FileSystem::{FILE_ATTRIBUTE_DIRECTORY, FILE_WRITE_ATTRIBUTES};

use super::{nt, remove, stat};

/// Tries to find a name that is free; one is enough unless somebody plays tricks.
const TRIES: usize = 16;

/// An open entry under a passing name. Dropped before it got its real name, it is removed.
pub(super) struct Temp {
    pub file: File,
    dir: Arc<File>,
    gone: bool,
}

impl Temp {
    pub fn make(dir: &Arc<File>, how: nt::Open) -> io::Result<Self> {
        let mut tries = 0;
        loop {
            match how.open_no_follow(dir, &random_name()) {
                Ok(file) => return Ok(Self { file, dir: dir.clone(), gone: false }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && tries < TRIES => tries += 1,
                Err(e) => return Err(e),
            }
        }
    }

    /// Gives the entry its name in place of what has it; a directory stays, and is an error.
    pub fn rename_to(mut self, name: &[u8]) -> io::Result<()> {
        let wide = super::wide(name)?;
        let flags = FILE_RENAME_REPLACE_IF_EXISTS
            | FILE_RENAME_POSIX_SEMANTICS
            | FILE_RENAME_IGNORE_READONLY_ATTRIBUTE;
        let rename = |class, flags| nt::set_name(&self.file, class, flags, &self.dir, &wide);
        let mut done = rename(FileRenameInformationEx, flags);
        if done.is_err() {
            // Older systems, and file systems other than NTFS.
            make_room(&self.dir, &wide)?;
            done = rename(FileRenameInformation, FILE_RENAME_REPLACE_IF_EXISTS);
        }
        done?;
        self.gone = true;
        Ok(())
    }
}

/// Nothing that is read-only may be replaced, and no directory.
pub(super) fn make_room(dir: &File, name: &[u16]) -> io::Result<()> {
    match nt::Open::existing(FILE_WRITE_ATTRIBUTES).open_no_follow(dir, name) {
        Ok(there) => {
            let attributes = stat::basic(&there)?.FileAttributes;
            let is_dir = attributes & FILE_ATTRIBUTE_DIRECTORY != 0;
            if is_dir && stat::link_tag(&there, attributes)? == 0 {
                return Err(io::Error::new(io::ErrorKind::IsADirectory, "is a directory"));
            }
            remove::make_writable(&there)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.gone {
            let _ = remove::mark(&self.file);
        }
    }
}

/// The hasher's seed is random; it need not be secret, since making the entry fails if
/// the name exists.
fn random_name() -> Vec<u16> {
    format!(".tresor-{:016x}", RandomState::new().build_hasher().finish()).encode_utf16().collect()
}
