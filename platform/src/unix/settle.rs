//! What a restore has written, on its way to the disk: a note that it is under way, and the
//! file systems that it has written to.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, Mode, OFlags, fstat, fsync, openat, unlinkat};
use rustix::io::Errno;

use super::{own, stat, temp};
use crate::passing;

/// The file systems that directories of a target are on: others may be mounted in it.
#[derive(Default)]
pub(super) struct FileSystems(Mutex<Vec<FileSystem>>);

struct FileSystem {
    device: u64,
    /// A directory on it; none if it couldn't be opened for that.
    dir: Option<OwnedFd>,
}

impl FileSystems {
    pub fn note(&self, dir: BorrowedFd<'_>) -> io::Result<()> {
        let device = stat::device(&fstat(dir)?);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.iter().any(|known| known.device == device) {
            all.push(FileSystem { device, dir: open(dir, ".").ok() });
        }
        Ok(())
    }

    /// Forces all that was written to them to their disks, and waits for that.
    pub fn force(&self) -> io::Result<()> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().try_for_each(|known| match &known.dir {
            Some(dir) => own::force(dir.as_fd()),
            None => {
                rustix::fs::sync();
                Ok(())
            }
        })
    }
}

/// What is only there to be reached can't be forced to the disk.
pub(super) fn open(dir: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(dir, name, flags, Mode::empty())?)
}

fn has_note(dir: BorrowedFd<'_>) -> io::Result<bool> {
    let number = temp::number(dir)?;
    Ok(super::names(dir)?.iter().any(|name| passing::is_note_name(name, number)))
}

/// Whether a directory above has one: what lies here may be of that restore. Only on the same
/// file system, and as far as they can be listed.
fn has_note_above(dir: BorrowedFd<'_>) -> io::Result<bool> {
    let device = stat::device(&fstat(dir)?);
    let mut at = open(dir, ".")?;
    loop {
        let above = open(at.as_fd(), "..")?;
        let is_root = temp::number(above.as_fd())? == temp::number(at.as_fd())?;
        if is_root || stat::device(&fstat(&above)?) != device {
            return Ok(false);
        }
        if has_note(above.as_fd())? {
            return Ok(true);
        }
        at = above;
    }
}

/// Notes that a restore into this directory is under way; whether one was, into this or one
/// above, that did not end.
pub(super) fn begin(dir: BorrowedFd<'_>, job: u32) -> io::Result<bool> {
    let number = temp::number(dir)?;
    let in_doubt = has_note(dir)? || has_note_above(dir).unwrap_or(false);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(dir, passing::note_name(job, number), flags, Mode::RUSR | Mode::WUSR) {
        Ok(note) => settle(note.as_fd())?,
        Err(Errno::EXIST) => {}
        Err(e) => return Err(e.into()),
    }
    settle(open(dir, ".")?.as_fd())?;
    Ok(in_doubt)
}

pub(super) fn end(dir: BorrowedFd<'_>, job: u32) -> io::Result<()> {
    let note = passing::note_name(job, temp::number(dir)?);
    Ok(unlinkat(dir, note, AtFlags::empty())?)
}

/// Some shares have no call for that; then what there is must do.
pub(super) fn settle(file: BorrowedFd<'_>) -> io::Result<()> {
    match fsync(file) {
        Err(Errno::INVAL | Errno::NOTSUP) => Ok(()),
        other => Ok(other?),
    }
}
