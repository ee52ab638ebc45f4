//! Extended attributes, POSIX ACLs and file capabilities among them: on Linux
//! these are attributes like others, kept as they are.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{self, XattrFlags};
use rustix::io::Errno;
use tresor_engine::contents::size_of;
use tresor_engine::format::{Node, Stream, Xattr};
use tresor_engine::sink::Streams;
use tresor_engine::source::{Bytes, Room, SourceFile};

use super::handle::Handle;

/// What has attributes.
pub(super) enum Holder<'a> {
    Open(BorrowedFd<'a>),
    /// A path whose last part is not followed.
    #[cfg(target_os = "linux")]
    Named(&'a [u8]),
    /// A path whose last part is followed: one in `/proc` that leads to an open file.
    #[cfg(target_os = "linux")]
    Followed(&'a [u8]),
}

#[cfg(target_os = "linux")]
const NO_SUCH: Errno = Errno::NODATA;
#[cfg(not(target_os = "linux"))]
const NO_SUCH: Errno = Errno::NOATTR;

type Result<T> = std::result::Result<T, Errno>;

impl Holder<'_> {
    fn list(&self, buffer: &mut [u8]) -> Result<usize> {
        match self {
            Self::Open(fd) => fs::flistxattr(fd, buffer),
            #[cfg(target_os = "linux")]
            Self::Named(path) => fs::llistxattr(*path, buffer),
            #[cfg(target_os = "linux")]
            Self::Followed(path) => fs::listxattr(*path, buffer),
        }
    }

    fn get_into(&self, name: &[u8], buffer: &mut [u8]) -> Result<usize> {
        match self {
            Self::Open(fd) => fs::fgetxattr(fd, name, buffer),
            #[cfg(target_os = "linux")]
            Self::Named(path) => fs::lgetxattr(*path, name, buffer),
            #[cfg(target_os = "linux")]
            Self::Followed(path) => fs::getxattr(*path, name, buffer),
        }
    }

    /// Length of an attribute.
    fn len(&self, name: &[u8]) -> Result<usize> {
        match self {
            Self::Open(fd) => fs::fgetxattr_query(fd, name),
            #[cfg(target_os = "linux")]
            Self::Named(path) => fs::lgetxattr_query(*path, name),
            #[cfg(target_os = "linux")]
            Self::Followed(path) => fs::getxattr_query(*path, name),
        }
    }

    pub fn set(&self, name: &[u8], value: &[u8]) -> Result<()> {
        let flags = XattrFlags::empty();
        // It is written from its beginning on, and what is there beyond its end would stay.
        #[cfg(target_os = "macos")]
        if super::own::is_fork(name) {
            self.remove(name)?;
        }
        match self {
            Self::Open(fd) => fs::fsetxattr(fd, name, value, flags),
            #[cfg(target_os = "linux")]
            Self::Named(path) => fs::lsetxattr(*path, name, value, flags),
            #[cfg(target_os = "linux")]
            Self::Followed(path) => fs::setxattr(*path, name, value, flags),
        }
    }

    /// Removes an attribute; it is fine if there is none.
    pub fn remove(&self, name: &[u8]) -> Result<()> {
        let removed = match self {
            Self::Open(fd) => fs::fremovexattr(fd, name),
            #[cfg(target_os = "linux")]
            Self::Named(path) => fs::lremovexattr(*path, name),
            #[cfg(target_os = "linux")]
            Self::Followed(path) => fs::removexattr(*path, name),
        };
        if removed == Err(NO_SUCH) { Ok(()) } else { removed }
    }

    /// `None` if there is no such attribute.
    pub fn get(&self, name: &[u8]) -> Result<Option<Vec<u8>>> {
        match growing(|buffer| self.get_into(name, buffer)) {
            Ok(value) => Ok(Some(value)),
            Err(NO_SUCH) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Names of the attributes that are kept, in order; none where the file system has none.
    pub fn names(&self) -> Result<Vec<Vec<u8>>> {
        let list = match growing(|buffer| self.list(buffer)) {
            Ok(list) => list,
            Err(e) if e == Errno::NOTSUP || e == Errno::OPNOTSUPP => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut names: Vec<_> =
            list.split(|b| *b == 0).filter(|n| is_kept(n)).map(<[u8]>::to_vec).collect();
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// Adds those that the room keeps. What can't be read is an error once the others are there.
    fn read(&self, into: &mut Vec<Xattr>, room: &mut Room) -> io::Result<()> {
        let mut failed = Ok(());
        for name in self.names().map_err(|e| self.of_part(b"their list", e))? {
            match self.get_kept(&name, room) {
                Ok(Some(value)) => into.push(Xattr { name, value }),
                // It has vanished since.
                Ok(None) => {}
                Err(e) => failed = failed.and(Err(self.of_part(&name, e))),
            }
        }
        failed
    }

    /// The error of something that belongs to an entry. Only by a name does "not found" say that
    /// the entry itself is gone.
    fn of_part(&self, what: &[u8], error: Errno) -> io::Error {
        let error = io::Error::from(error);
        let kind = match (error.kind(), self) {
            (io::ErrorKind::NotFound, Self::Open(_)) => io::ErrorKind::Other,
            (kind, _) => kind,
        };
        io::Error::new(kind, format!("{}: {error}", what.escape_ascii()))
    }

    fn get_kept(&self, name: &[u8], room: &mut Room) -> Result<Option<Vec<u8>>> {
        // Mostly one call does it.
        let mut small = [0; 1 << 10];
        let len = match self.get_into(name, &mut small) {
            Ok(len) if len < small.len() => {
                return Ok(room.keeps(name, len as u64).then(|| small[..len].to_vec()));
            }
            Ok(_) | Err(Errno::RANGE) => self.len(name),
            Err(e) => Err(e),
        };
        match len {
            Ok(len) if room.keeps(name, len as u64) => self.get(name),
            Ok(_) | Err(NO_SUCH) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Makes a stream what the snapshot has of it. If that can't be read, what is there stays.
    pub fn put(&self, stream: &Stream, streams: &mut dyn Streams) -> io::Result<()> {
        let size = size_of(&stream.content).map_err(io::Error::other)?;
        #[cfg(target_os = "macos")]
        if let (Self::Open(fd), true) = (self, super::own::is_fork(&stream.name)) {
            return super::own::put_fork(*fd, &stream.name, size, streams);
        }
        if size > MOST_SET as u64 {
            let message = format!("has {size} bytes, and this system has {MOST_SET} at most");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        if let Some(now) = self.get(&stream.name)?
            && streams.is_right(&stream.name, &mut Bytes(now))?
        {
            return Ok(());
        }
        let mut value = vec![0; size as usize];
        streams.write(&stream.name, &mut |bytes, at| {
            let place = value.get_mut(at as usize..at as usize + bytes.len());
            place.ok_or(io::ErrorKind::InvalidData)?.copy_from_slice(bytes);
            Ok(())
        })?;
        Ok(self.set(&stream.name, &value)?)
    }
}

/// Gives a node the attributes of this entry of `dir` that the room keeps, in order of their names;
/// none at all rather than an empty list. What can't be read is an error, and the others are there.
pub(super) fn read(dir: BorrowedFd<'_>, node: &mut Node, room: &mut Room) -> io::Result<()> {
    let mut all = Vec::new();
    let done = read_all(dir, node, &mut all, room);
    give(node, all);
    done
}

/// The same of an open file.
#[cfg(target_os = "linux")]
pub(super) fn read_open(file: BorrowedFd<'_>, node: &mut Node, room: &mut Room) -> io::Result<()> {
    let mut all = Vec::new();
    let done = Holder::Open(file).read(&mut all, room);
    give(node, all);
    done
}

fn give(node: &mut Node, all: Vec<Xattr>) {
    node.xattrs = if all.is_empty() { None } else { Some(all) };
}

fn read_all(
    dir: BorrowedFd<'_>,
    node: &Node,
    into: &mut Vec<Xattr>,
    room: &mut Room,
) -> io::Result<()> {
    // There are no calls relative to a directory, but a path through `/proc`
    // to the directory does it, in one call for the many files without any.
    #[cfg(target_os = "linux")]
    if let Some(path) = proc_path(dir, node) {
        return Holder::Named(&path).read(into, room);
    }
    let handle = Handle::open(dir, &node.name, node.kind)?;
    let done = handle.holder().map_or(Ok(()), |holder| holder.read(into, room));
    #[cfg(target_os = "macos")]
    let done = done.and(super::own::read_rest(&handle, into));
    done
}

/// Opens an attribute of an entry of `dir`.
pub(super) fn open(
    dir: BorrowedFd<'_>,
    node: &Node,
    name: &[u8],
) -> io::Result<Box<dyn SourceFile>> {
    super::check(&node.name)?;
    let absent = || io::Error::from(io::ErrorKind::NotFound);
    #[cfg(target_os = "linux")]
    if let Some(path) = proc_path(dir, node) {
        let value = Holder::Named(&path).get(name)?;
        return Ok(Box::new(Bytes(value.ok_or_else(absent)?)));
    }
    let handle = Handle::open(dir, &node.name, node.kind)?;
    #[cfg(target_os = "macos")]
    let handle = match handle {
        Handle::Open(fd) if super::own::is_fork(name) => return super::own::open_fork(fd, name),
        handle => handle,
    };
    let value = handle.holder().map(|holder| holder.get(name)).transpose()?.flatten();
    Ok(Box::new(Bytes(value.ok_or_else(absent)?)))
}

/// The path through `/proc` to an entry.
#[cfg(target_os = "linux")]
fn proc_path(dir: BorrowedFd<'_>, node: &Node) -> Option<Vec<u8>> {
    let path = || [&super::handle::proc_path(dir), &b"/"[..], &node.name].concat();
    super::handle::has_proc().then(path)
}

/// What macOS notes of a file for its own protection, and lets nobody set.
const OF_MACOS_ITSELF: [&[u8]; 3] =
    [b"com.apple.provenance", b"com.apple.macl", b"com.apple.rootless"];

/// Whether an attribute is part of a backup. On Linux the rest of `system.` is another view of
/// what a file system keeps elsewhere; ACLs of NFSv4 and CIFS mounts, which could be set back
/// on such a mount only, are not kept.
fn is_kept(name: &[u8]) -> bool {
    if !cfg!(target_os = "linux") {
        return !name.is_empty()
            && !super::own::has_own_calls(name)
            && !OF_MACOS_ITSELF.contains(&name);
    }
    let prefixes: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
    is_acl(name) || prefixes.iter().any(|p| name.starts_with(p))
}

/// Whether a restore removes it where the snapshot doesn't have it. Labels that
/// the system itself gives each file (SELinux, IMA, macOS' provenance) stay.
pub(super) fn is_removable(name: &[u8]) -> bool {
    if !cfg!(target_os = "linux") {
        return !name.starts_with(b"com.apple.");
    }
    !name.starts_with(b"security.") || name == b"security.capability"
}

/// Whether an attribute says who may do what, or what a program may.
pub(super) fn gives_rights(name: &[u8]) -> bool {
    is_acl(name) || name == b"security.capability"
}

pub(super) fn is_acl(name: &[u8]) -> bool {
    name == b"system.posix_acl_access" || name == b"system.posix_acl_default"
}

/// Reads something whose length is not known and may change at any time.
fn growing(mut read: impl FnMut(&mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
    let mut small = [0; 1 << 10];
    match read(&mut small) {
        Ok(len) if len < small.len() => return Ok(small[..len].to_vec()),
        Ok(_) | Err(Errno::RANGE) => {}
        Err(e) => return Err(e),
    }
    // Linux has at most 64 KiB of each; a resource fork on macOS can be larger, and macOS
    // gives its beginning where there is no room for all. So what fills the buffer may go on.
    let mut len = 128 << 10;
    loop {
        let mut buffer = vec![0; len];
        match read(&mut buffer) {
            Ok(read) if read < len => {
                buffer.truncate(read);
                return Ok(buffer);
            }
            Ok(_) | Err(Errno::RANGE) if len < MOST => len *= 4,
            Ok(_) => return Err(Errno::RANGE),
            Err(e) => return Err(e),
        }
    }
}

/// No attribute is set that is longer.
const MOST_SET: usize = if cfg!(target_os = "linux") { 64 << 10 } else { MOST };

/// No attribute is read that is longer, but for macOS' resource forks; `128 << 10` times a power of 4.
const MOST: usize = 128 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn which_are_kept_and_removed() {
        for name in [
            "user.x",
            "trusted.x",
            "security.capability",
            "security.selinux",
            "system.posix_acl_access",
            "system.posix_acl_default",
        ] {
            assert!(is_kept(name.as_bytes()), "{name}");
            let own = name != "security.selinux";
            assert_eq!(is_removable(name.as_bytes()), own, "{name}");
        }
        for name in ["", "system.nfs4_acl", "system.posix_acl_accessx", "btrfs.compression"] {
            assert!(!is_kept(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn grows_while_it_must() {
        for len in [0, 1 << 10, (1 << 10) + 1, 64 << 10, 300_000] {
            let read = |buffer: &mut [u8]| {
                buffer.get_mut(..len).ok_or(Errno::RANGE)?.fill(7);
                Ok(len)
            };
            assert_eq!(growing(read).unwrap(), vec![7; len]);
        }
        assert_eq!(growing(|_| Err(Errno::RANGE)), Err(Errno::RANGE));
        assert_eq!(growing(|buffer: &mut [u8]| Ok(buffer.len())), Err(Errno::RANGE));
    }

    #[test]
    fn what_gives_only_the_beginning_is_read_whole() {
        for len in [0, (1 << 10) - 1, 1 << 10, (1 << 10) + 1, 128 << 10, 300_000] {
            let read = |buffer: &mut [u8]| {
                let some = len.min(buffer.len());
                buffer[..some].fill(7);
                Ok(some)
            };
            assert_eq!(growing(read).unwrap(), vec![7; len]);
        }
    }
}
