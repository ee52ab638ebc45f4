//! Removes a directory with all in it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, fstat, unlinkat};
use rustix::io::Errno;

use super::{handle, own, stat};
use crate::kept::Kept;

/// A directory that is being emptied.
struct Frame {
    fd: OwnedFd,
    name: Vec<u8>,
    names: std::vec::IntoIter<Vec<u8>>,
}

/// Follows no symlink and stays on one file system: what happens to be mounted
/// below was never part of what shall be removed.
pub(super) fn remove_dir_all(dir: BorrowedFd<'_>, name: &[u8], kept: &Kept) -> io::Result<()> {
    let device = stat::device(&fstat(dir)?);
    let mut stack = vec![Frame::open(dir, name.to_vec(), device, kept)?];
    while let Some(frame) = stack.last_mut() {
        match frame.names.next() {
            Some(name) => {
                if !remove_file(frame.fd.as_fd(), &name)? {
                    let below = Frame::open(frame.fd.as_fd(), name, device, kept)?;
                    stack.push(below);
                }
            }
            None => {
                let Some(done) = stack.pop() else { break };
                let above = stack.last().map_or(dir, |frame| frame.fd.as_fd());
                ignore_missing(unlinkat(above, &done.name, AtFlags::REMOVEDIR))?;
            }
        }
    }
    Ok(())
}

impl Frame {
    fn open(dir: BorrowedFd<'_>, name: Vec<u8>, device: u64, kept: &Kept) -> io::Result<Self> {
        let fd = super::open_dir(dir, &name)?;
        let there = fstat(&fd)?;
        kept.check(&stat::identity(&there))?;
        if stat::device(&there) != device {
            let message = "another file system is mounted in it";
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
        }
        handle::let_in(fd.as_fd())?;
        let names = super::names(fd.as_fd())?.into_iter();
        Ok(Self { fd, name, names })
    }
}

/// Whether it is gone; if not, it is a directory.
fn remove_file(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<bool> {
    match own::insist(dir, name, || unlinkat(dir, name, AtFlags::empty())) {
        // What a directory gives on Linux and elsewhere.
        Err(Errno::ISDIR | Errno::PERM) if is_dir(dir, name)? => Ok(false),
        result => ignore_missing(result).map(|()| true),
    }
}

fn is_dir(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<bool> {
    let stat = stat::stat(dir, name)?;
    Ok(rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())
}

fn ignore_missing(result: Result<(), Errno>) -> io::Result<()> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        result => Ok(result?),
    }
}
