//! Reads a file tree.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::{FileType, OFlags, SeekFrom, Stat, fstat, readlinkat, seek};
use rustix::io::Errno;
use tresor_engine::format::{Node, NodeKind};
use tresor_engine::source::{Room, SourceDir, SourceFile};

use super::{owners, stat, xattr};

/// Files from this length on are announced to be read from end to end.
#[cfg(target_os = "linux")]
const LARGE: i64 = 1 << 20;

pub(super) struct Directory {
    fd: OwnedFd,
}

impl Directory {
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl SourceDir for Directory {
    fn names(&self) -> io::Result<Vec<Vec<u8>>> {
        super::names(self.fd.as_fd())
    }

    fn stat(&self, name: &[u8]) -> io::Result<(Node, u64)> {
        let stat = stat::stat(self.fd.as_fd(), name)?;
        Ok((stat::node(name, &stat)?, stat::device(&stat)))
    }

    /// On macOS `/` is the system's own volume, and nearly all that lies in it, as it seems, is
    /// on another one.
    fn device(&self) -> io::Result<Option<u64>> {
        let stat = fstat(&self.fd)?;
        Ok(Some(stat::device(&stat)).filter(|_| !cfg!(target_os = "macos")))
    }

    fn details(&self, node: &mut Node, room: &mut Room) -> io::Result<()> {
        super::check(&node.name)?;
        owners::name(node);
        if node.kind == NodeKind::Symlink {
            let target = readlinkat(&self.fd, &node.name, Vec::new())?.into_bytes();
            node.size = target.len() as u64;
            node.target = Some(target);
        }
        xattr::read(self.fd.as_fd(), node, room)
    }

    fn open_stream(&self, node: &Node, name: &[u8]) -> io::Result<Box<dyn SourceFile>> {
        xattr::open(self.fd.as_fd(), node, name)
    }

    fn open_dir(&self, name: &[u8]) -> io::Result<Arc<dyn SourceDir>> {
        Ok(Arc::new(Self::new(super::open_dir(self.fd.as_fd(), name)?)))
    }

    fn open_file(&self, name: &[u8]) -> io::Result<Box<dyn SourceFile>> {
        open_file(self.fd.as_fd(), name)
    }
}

/// Opens a regular file and nothing else, whatever has taken its place.
pub(super) fn open_file(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Box<dyn SourceFile>> {
    super::check(name)?;
    // Opening a FIFO must not wait for a writer, a terminal not become ours.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = match super::open_quietly(dir, name, flags) {
        #[cfg(target_os = "linux")]
        Err(Errno::AGAIN) => open_leased(dir, name)?,
        opened => opened?,
    };
    let stat = fstat(&fd)?;
    check_regular(&stat)?;
    #[cfg(target_os = "linux")]
    if stat.st_size >= LARGE {
        let _ = rustix::fs::fadvise(&fd, 0, None, rustix::fs::Advice::Sequential);
    }
    Ok(Box::new(RegularFile { file: fd.into() }))
}

fn check_regular(stat: &Stat) -> io::Result<()> {
    if FileType::from_raw_mode(stat.st_mode).is_file() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a regular file"))
}

/// Another process (a file server) has a lease on the file and has been told to
/// give it up; waits for that, which is safe once it is known to be a file.
#[cfg(target_os = "linux")]
fn open_leased(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    use rustix::fs::{CWD, Mode, openat};
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = openat(dir, name, flags, Mode::empty())?;
    check_regular(&fstat(&place)?)?;
    let path = super::handle::proc_path(place.as_fd());
    Ok(super::open_quietly(CWD, &path, OFlags::RDONLY)?)
}

struct RegularFile {
    file: File,
}

impl SourceFile for RegularFile {
    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn next_data(&mut self, offset: u64) -> io::Result<Option<Range<u64>>> {
        // No file is longer than this, and no position can be.
        if offset > i64::MAX as u64 {
            return Ok(None);
        }
        let start = match seek(&self.file, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            Err(e) if is_unsupported(e) => return Ok(Some(offset..u64::MAX)),
            Err(e) => return Err(e.into()),
        };
        match seek(&self.file, SeekFrom::Hole(start)) {
            Ok(end) => Ok(Some(start..end)),
            // It was cut off meanwhile.
            Err(Errno::NXIO) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn stat(&mut self) -> io::Result<Node> {
        stat::node(b"", &fstat(&self.file)?)
    }

    /// By a name, attributes are reached through `/proc`, which takes ten times as long.
    #[cfg(target_os = "linux")]
    fn details(&self, node: &mut Node, room: &mut Room) -> io::Result<bool> {
        owners::name(node);
        xattr::read_open(self.file.as_fd(), node, room)?;
        Ok(true)
    }
}

fn is_unsupported(e: Errno) -> bool {
    e == Errno::INVAL || e == Errno::NOTSUP || e == Errno::OPNOTSUPP || e == Errno::NOTTY
}
