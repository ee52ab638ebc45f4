//! What isn't ready yet has a passing name.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use windows_sys::Wdk::Storage::FileSystem::{
    FILE_RENAME_IGNORE_READONLY_ATTRIBUTE, FILE_RENAME_POSIX_SEMANTICS,
    FILE_RENAME_REPLACE_IF_EXISTS, FileRenameInformation, FileRenameInformationEx,
};
use windows_sys::Win32::Storage::FileSystem::{
    DELETE, FILE_ATTRIBUTE_DIRECTORY, FILE_READ_DATA, FILE_WRITE_ATTRIBUTES, LockFile,
};

use super::{nt, remove, stat};
use crate::passing::{TRIES, YOUNGEST, is_passing_name, new_name};

/// An open entry under a passing name. Dropped before it got its real name, it is removed.
pub(super) struct Temp {
    pub file: File,
    dir: Arc<File>,
    gone: bool,
}

impl Temp {
    /// `number`: the directory's own.
    pub fn make(dir: &Arc<File>, number: u64, how: nt::Open) -> io::Result<Self> {
        let mut tries = 0;
        loop {
            match how.open_no_follow(dir, &super::wide(&new_name(number))?) {
                Ok(file) => return Ok(Self { file, dir: dir.clone(), gone: false }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && tries < TRIES => tries += 1,
                Err(e) => return Err(e),
            }
        }
    }

    /// Says that the file is being written, until it is closed. Where that can't be said, it looks
    /// like a leftover only as long as nothing is written to it.
    pub fn claim(&self) {
        let _ = lock(&self.file);
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

/// Removes what runs that are dead have left in a directory, of which these are the names; how
/// much that was.
pub(super) fn remove_leftovers(dir: &File, number: u64, names: &[Vec<u8>]) -> io::Result<u64> {
    let mut removed = 0;
    for name in names.iter().filter(|name| is_passing_name(name, number)) {
        match remove_dead(dir, name) {
            Ok(done) => removed += u64::from(done),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(removed)
}

fn remove_dead(dir: &File, name: &[u8]) -> io::Result<bool> {
    let wide = super::wide(name)?;
    let open = |access: u32| nt::Open::existing(access).open_no_follow(dir, &wide);
    let (node, _) = stat::node(name, &open(0)?)?;
    let changed = UNIX_EPOCH + Duration::from_secs(node.ctime.seconds.try_into().unwrap_or(0));
    let age = SystemTime::now().duration_since(changed).unwrap_or_default();
    if age <= YOUNGEST {
        return Ok(false);
    }
    let access = DELETE | FILE_WRITE_ATTRIBUTES;
    let file = match open(if node.is_file() { access | FILE_READ_DATA } else { access }) {
        // Not to be opened by us, and so not ours to remove.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Ok(false),
        opened => opened?,
    };
    if node.is_file() && !lock(&file) {
        return Ok(false);
    }
    match remove::mark(&file) {
        // What was to become a link is empty.
        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
        done => done.map(|()| true),
    }
}

/// A number of the directory's own.
pub(super) fn number(dir: &File) -> io::Result<u64> {
    Ok(stat::node(b"", dir)?.0.inode)
}

/// Where no file has a byte, so that nobody is kept from reading.
const LOCKED_AT: u32 = 0x7fff_ffff;

/// Locks a file until it is closed, if nobody else has done so.
fn lock(file: &File) -> bool {
    // SAFETY: takes numbers; the file is open.
    unsafe { LockFile(nt::raw(file), 0, LOCKED_AT, 1, 0) != 0 }
}
