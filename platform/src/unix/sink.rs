//! Writes a file tree. What replaces something gets a passing name first and
//! the real one when it is complete, so that a name always stands for the old or the new.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};

use rustix::fs::{AtFlags, Mode, OFlags, linkat, mkdirat, openat, symlinkat, unlinkat};
use rustix::io::Errno;
use tresor_engine::format::{Node, NodeKind};
use tresor_engine::sink::{self, MetadataProblem, SinkDir, SinkFile, Streams};
use tresor_engine::source::SourceFile;

use super::handle::{self, Handle};
use super::settle::{self, FileSystems};
use super::temp::{self, TempName};
use super::{check, metadata, own, stat};
use crate::kept::Kept;
use crate::passing;

pub(super) struct Directory {
    fd: Arc<OwnedFd>,
    /// For passing names; not asked for again for each file.
    number: OnceLock<u64>,
    written: Arc<FileSystems>,
    kept: Arc<Kept>,
}

impl Directory {
    pub fn target(fd: OwnedFd, kept: Kept) -> io::Result<Self> {
        Self::new(fd, Arc::default(), Arc::new(kept))
    }

    fn new(fd: OwnedFd, written: Arc<FileSystems>, kept: Arc<Kept>) -> io::Result<Self> {
        written.note(fd.as_fd())?;
        Ok(Self { fd: Arc::new(fd), number: OnceLock::new(), written, kept })
    }

    fn below(&self, fd: OwnedFd) -> io::Result<Arc<dyn SinkDir>> {
        Ok(Arc::new(Self::new(fd, self.written.clone(), self.kept.clone())?))
    }

    fn number(&self) -> io::Result<u64> {
        let number = match self.number.get() {
            Some(number) => *number,
            None => temp::number(self.fd())?,
        };
        let _ = self.number.set(number);
        Ok(number)
    }

    /// Makes an entry under a passing name.
    fn passing<T>(&self, make: impl FnMut(&[u8]) -> io::Result<T>) -> io::Result<(TempName, T)> {
        TempName::make(&self.fd, self.number()?, make)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl SinkDir for Directory {
    fn names(&self) -> io::Result<Vec<Vec<u8>>> {
        let (mut names, number) = (super::names(self.fd())?, self.number()?);
        names.retain(|name| !passing::is_note_name(name, number));
        Ok(names)
    }

    fn stat(&self, name: &[u8]) -> io::Result<Option<Node>> {
        match stat::stat(self.fd(), name) {
            Ok(stat) => stat::node(name, &stat).map(Some),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn make_dir(&self, name: &[u8]) -> io::Result<Arc<dyn SinkDir>> {
        check(name)?;
        match mkdirat(self.fd(), name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        let fd = super::open_dir(self.fd(), name).map_err(|e| match errno(&e) {
            Some(Errno::NOTDIR | Errno::LOOP) => {
                let message = "there is something else of that name in the target";
                io::Error::new(io::ErrorKind::AlreadyExists, message)
            }
            _ => e,
        })?;
        handle::let_in(fd.as_fd())?;
        self.below(fd)
    }

    fn open_dir(&self, name: &[u8]) -> io::Result<Arc<dyn SinkDir>> {
        self.below(super::open_dir(self.fd(), name)?)
    }

    fn open_file(&self, name: &[u8]) -> io::Result<Box<dyn SourceFile>> {
        super::source::open_file(self.fd(), name)
    }

    fn open_stream(&self, node: &Node, name: &[u8]) -> io::Result<Box<dyn SourceFile>> {
        super::xattr::open(self.fd(), node, name)
    }

    fn create_file(&self, node: &Node) -> io::Result<Box<dyn SinkFile>> {
        check(&node.name)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (temp, fd) =
            self.passing(|temp| Ok(openat(self.fd(), temp, flags, Mode::RUSR | Mode::WUSR)?))?;
        temp::claim(fd.as_fd());
        Ok(Box::new(NewFile { file: fd.into(), temp, len: 0 }))
    }

    fn make_special(
        &self,
        node: &Node,
        streams: &mut dyn Streams,
    ) -> io::Result<Vec<MetadataProblem>> {
        check(&node.name)?;
        let (temp, ()) = self.passing(|temp| special(self.fd(), temp, node))?;
        let passing = temp.name().to_vec();
        let handle = Handle::open(self.fd(), &passing, node.kind)?;
        let mut problems = metadata::apply(&handle, node, streams)?;
        let handle = handle.called(&node.name);
        temp.rename_to(&node.name)?;
        own::seal(&handle, node, &mut problems);
        Ok(problems)
    }

    fn link(&self, name: &[u8], target: &dyn SinkDir, target_name: &[u8]) -> io::Result<()> {
        check(name)?;
        check(target_name)?;
        let Some(target) = target.as_any().downcast_ref::<Self>() else {
            return Err(invalid("a link can't lead to another kind of target"));
        };
        let (temp, ()) = self.passing(|temp| {
            let link = || linkat(target.fd(), target_name, self.fd(), temp, AtFlags::empty());
            Ok(own::unlocked(target.fd(), target_name, link)?)
        })?;
        temp.rename_link_to(name)
    }

    fn set_metadata(
        &self,
        node: &Node,
        streams: &mut dyn Streams,
    ) -> io::Result<Vec<MetadataProblem>> {
        let handle = Handle::open(self.fd(), &node.name, node.kind)?;
        let mut problems = metadata::apply(&handle, node, streams)?;
        own::seal(&handle, node, &mut problems);
        Ok(problems)
    }

    fn set_own_metadata(
        &self,
        node: &Node,
        streams: &mut dyn Streams,
    ) -> io::Result<Vec<MetadataProblem>> {
        let handle = Handle::of(self.fd())?;
        // Opened before it may be closed to us.
        let disk = settle::open(self.fd(), ".");
        let mut problems = metadata::apply(&handle, node, streams)?;
        own::seal(&handle, node, &mut problems);
        disk.and_then(|dir| settle::settle(dir.as_fd()))?;
        Ok(problems)
    }

    fn remove(&self, name: &[u8]) -> io::Result<()> {
        check(name)?;
        Ok(own::insist(self.fd(), name, || unlinkat(self.fd(), name, AtFlags::empty()))?)
    }

    fn remove_dir_all(&self, name: &[u8]) -> io::Result<()> {
        check(name)?;
        super::remove::remove_dir_all(self.fd(), name, &self.kept)
    }

    fn kept(&self, name: &[u8]) -> io::Result<sink::Kept> {
        Ok(self.kept.look(&stat::identity(&stat::stat(self.fd(), name)?)))
    }

    fn remove_leftovers(&self) -> io::Result<u64> {
        temp::remove_leftovers(self.fd())
    }

    fn begin(&self, job: u32) -> io::Result<bool> {
        settle::begin(self.fd(), job)
    }

    fn force(&self) -> io::Result<()> {
        self.written.force()
    }

    fn end(&self, job: u32) -> io::Result<()> {
        settle::end(self.fd(), job)
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

/// A file that has only a passing name yet.
struct NewFile {
    file: File,
    temp: TempName,
    /// End of what was written.
    len: u64,
}

impl SinkFile for NewFile {
    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(data, offset)?;
        // An empty write makes a file no longer.
        if !data.is_empty() {
            self.len = self.len.max(offset + data.len() as u64);
        }
        Ok(())
    }

    fn finish(
        self: Box<Self>,
        node: &Node,
        streams: &mut dyn Streams,
    ) -> io::Result<Vec<MetadataProblem>> {
        let Self { file, temp, len } = *self;
        check(&node.name)?;
        if len != node.size {
            file.set_len(node.size)?;
        }
        let handle = Handle::Open(file.into());
        let mut problems = metadata::apply(&handle, node, streams)?;
        temp.rename_to(&node.name)?;
        own::seal(&handle, node, &mut problems);
        Ok(problems)
    }
}

fn special(dir: BorrowedFd<'_>, name: &[u8], node: &Node) -> io::Result<()> {
    match node.kind {
        NodeKind::Symlink => {
            let target = node.target.as_deref().unwrap_or_default();
            // The system would say "not found", as if it looked for it.
            if target.is_empty() {
                return Err(invalid("a symlink can't have an empty target"));
            }
            Ok(symlinkat(target, dir, name)?)
        }
        NodeKind::File | NodeKind::Directory => Err(invalid("is no special file")),
        _ => make_node(dir, name, node),
    }
}

#[cfg(target_os = "linux")]
fn make_node(dir: BorrowedFd<'_>, name: &[u8], node: &Node) -> io::Result<()> {
    use rustix::fs::{FileType, mknodat};
    let (kind, device) = match node.kind {
        NodeKind::Fifo => (FileType::Fifo, 0),
        NodeKind::Socket => (FileType::Socket, 0),
        NodeKind::CharDevice => (FileType::CharacterDevice, device(node)?),
        _ => (FileType::BlockDevice, device(node)?),
    };
    Ok(mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, device)?)
}

/// The system takes 32 bits and would drop the rest unseen.
#[cfg(target_os = "linux")]
fn device(node: &Node) -> io::Result<u64> {
    let device = node.device.filter(|d| u32::try_from(*d).is_ok());
    device.ok_or_else(|| invalid("has no device number that this system knows"))
}

#[cfg(target_os = "macos")]
fn make_node(dir: BorrowedFd<'_>, name: &[u8], node: &Node) -> io::Result<()> {
    let (kind, device) = match node.kind {
        NodeKind::Fifo => (libc::S_IFIFO, 0),
        NodeKind::CharDevice => (libc::S_IFCHR, device(node)?),
        NodeKind::BlockDevice => (libc::S_IFBLK, device(node)?),
        _ => {
            let message = "a socket can't be made on macOS but by a program that uses it";
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        }
    };
    own::make_node(dir, name, kind, device)
}

#[cfg(target_os = "macos")]
fn device(node: &Node) -> io::Result<u32> {
    let device = node.device.and_then(super::device::own);
    device.ok_or_else(|| invalid("has no device number that this system knows"))
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

fn errno(e: &io::Error) -> Option<Errno> {
    Errno::from_io_error(e)
}
