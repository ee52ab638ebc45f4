//! What isn't ready yet has a passing name.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, FileType, FlockOperation, OFlags, flock, fstat, renameat, unlinkat};
use rustix::io::Errno;

use crate::passing::{TRIES, YOUNGEST, is_passing_name, new_name};

/// An entry under a passing name. Dropped before it got its real name, it is removed.
pub(super) struct TempName {
    dir: Arc<OwnedFd>,
    name: Vec<u8>,
    gone: bool,
}

impl TempName {
    /// Calls `make` with a name; it fails if that exists. `number`: the directory's own.
    pub fn make<T>(
        dir: &Arc<OwnedFd>,
        number: u64,
        mut make: impl FnMut(&[u8]) -> io::Result<T>,
    ) -> io::Result<(Self, T)> {
        let mut tries = 0;
        loop {
            let name = new_name(number);
            match make(&name) {
                Ok(made) => return Ok((Self { dir: dir.clone(), name, gone: false }, made)),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && tries < TRIES => tries += 1,
                Err(e) => return Err(e),
            }
        }
    }

    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Gives the entry its name in place of what has it; a directory stays, and is an error.
    pub fn rename_to(mut self, name: &[u8]) -> io::Result<()> {
        super::own::insist(self.dir.as_fd(), name, || {
            renameat(&*self.dir, &self.name, &*self.dir, name)
        })?;
        self.gone = true;
        Ok(())
    }

    /// The same for a further name of a file. If `name` is one of them already,
    /// the system does nothing and the passing name remains to be removed.
    pub fn rename_link_to(self, name: &[u8]) -> io::Result<()> {
        Ok(renameat(&*self.dir, &self.name, &*self.dir, name)?)
    }
}

impl Drop for TempName {
    fn drop(&mut self) {
        if !self.gone {
            let _ = unlinkat(&*self.dir, &self.name, AtFlags::empty());
        }
    }
}

/// A number of the directory's own.
pub(super) fn number(dir: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(fstat(dir)?.st_ino)
}

/// Says that the file is being written, until it is closed. Where that can't be said,
/// it looks like a leftover only as long as nothing is written to it.
pub(super) fn claim(file: BorrowedFd<'_>) {
    let _ = flock(file, FlockOperation::NonBlockingLockExclusive);
}

/// Removes what runs that are dead have left in a directory; how much that was.
pub(super) fn remove_leftovers(dir: BorrowedFd<'_>) -> io::Result<u64> {
    let number = number(dir)?;
    let mut removed = 0;
    for name in super::names(dir)?.into_iter().filter(|name| is_passing_name(name, number)) {
        if is_dead(dir, &name)? {
            match unlinkat(dir, &name, AtFlags::empty()) {
                Ok(()) => removed += 1,
                Err(Errno::NOENT) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(removed)
}

fn is_dead(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<bool> {
    let stat = match super::stat::stat(dir, name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    // Also of a link to another file: making the link has changed it.
    let changed = UNIX_EPOCH + Duration::from_secs(stat.st_ctime.try_into().unwrap_or(0));
    let age = SystemTime::now().duration_since(changed).unwrap_or_default();
    if age <= YOUNGEST || FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Ok(false);
    }
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(true);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags, rustix::fs::Mode::empty()) {
        Ok(file) => Ok(flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()),
        // Not to be opened by us, and so not ours to remove.
        Err(Errno::NOENT | Errno::ACCESS | Errno::LOOP) => Ok(false),
        Err(e) => Err(e.into()),
    }
}
