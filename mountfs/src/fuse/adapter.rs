//! The requests of macFUSE, by way of fuser. On Linux only tests build it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tresor_engine::format::{NodeKind, Time};

use super::drive::{
    BLOCK, Drive, FOR_GOOD, LONGEST_NAME, look_up, rdev, seeks_hole, valid, xattr, xattr_names,
};
use crate::core::{Attr, Ino, LookUp, SnapshotFs};

pub(super) struct Adapter {
    drive: Arc<Drive>,
}

impl Adapter {
    pub fn new(drive: Arc<Drive>) -> Self {
        Self { drive }
    }

    #[cfg(target_os = "macos")]
    pub fn fs(&self) -> &SnapshotFs {
        &self.drive.fs
    }
}

fn ino_of(number: INodeNo) -> Ino {
    Ino(number.0)
}

fn system_time(time: Time) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(time.nanos.min(999_999_999)));
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let base = if time.seconds >= 0 {
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    } else {
        SystemTime::UNIX_EPOCH.checked_sub(seconds)
    };
    base.and_then(|t| t.checked_add(nanos)).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn file_type(kind: NodeKind) -> FileType {
    match kind {
        NodeKind::File => FileType::RegularFile,
        NodeKind::Directory => FileType::Directory,
        NodeKind::Symlink => FileType::Symlink,
        NodeKind::Fifo => FileType::NamedPipe,
        NodeKind::Socket => FileType::Socket,
        NodeKind::CharDevice => FileType::CharDevice,
        NodeKind::BlockDevice => FileType::BlockDevice,
    }
}

fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.allocated.div_ceil(512),
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: system_time(attr.created),
        kind: file_type(attr.kind),
        perm: attr.mode as u16,
        nlink: attr.links,
        uid: attr.uid,
        gid: attr.gid,
        rdev: rdev(attr.device_parts()),
        blksize: BLOCK,
        flags: attr.flags,
    }
}

/// What tells a kernel that there is no such entry, so that it doesn't ask again.
fn no_entry() -> FileAttr {
    file_attr(&Attr::of_virtual(Ino(0), NodeKind::File, 0, Time::default()))
}

/// Answers a question for an extended attribute, or for the length of one.
fn reply_xattr(reply: ReplyXattr, size: u32, value: &[u8]) {
    if size == 0 {
        reply.size(value.len() as u32);
    } else if value.len() > size as usize {
        reply.error(Errno::ERANGE);
    } else {
        reply.data(value);
    }
}

// Files and directories are opened, and nothing is agreed on: the bits that mean so on Linux mean
// something else to macFUSE (it has a lock for each file instead of "directories need not be opened").
impl Filesystem for Adapter {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.as_bytes().to_vec();
        let look = move |fs: &SnapshotFs| look_up(fs, ino_of(parent), &name);
        self.drive.answer(ino_of(parent), look, move |found| match found {
            Ok(Some(attr)) => reply.entry(&valid(&attr), &file_attr(&attr), Generation(0)),
            Ok(None) => reply.entry(&FOR_GOOD, &no_entry(), Generation(0)),
            Err(e) => reply.error(e),
        });
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        self.drive.fs.forget(ino_of(ino), count);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.drive.answer(
            ino_of(ino),
            move |fs| fs.attr(ino_of(ino)),
            move |found| match found {
                Ok(attr) => reply.attr(&valid(&attr), &file_attr(&attr)),
                Err(e) => reply.error(e),
            },
        );
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        self.drive.answer(
            ino_of(ino),
            move |fs| fs.readlink(ino_of(ino)),
            move |found| match found {
                Ok(target) => reply.data(&target),
                Err(e) => reply.error(e),
            },
        );
    }

    fn open(&self, _: &Request, _: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            reply.error(Errno::EROFS);
        } else {
            reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH);
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let size = size as usize;
        let read = move |fs: &SnapshotFs| {
            // What follows is on its way while this is fetched.
            fs.read_ahead(ino_of(ino), offset, size);
            fs.read_at(ino_of(ino), offset, size)
        };
        self.drive.answer(ino_of(ino), read, move |done| match done {
            Ok(bytes) => reply.data(&bytes),
            Err(e) => reply.error(e),
        });
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let list = move |fs: &SnapshotFs, reply: &mut ReplyDirectory| {
            fs.read_dir(ino_of(ino), offset, LookUp::Nothing, &mut |entry| {
                let (number, kind) = (INodeNo(entry.attr.ino.0), file_type(entry.attr.kind));
                !reply.add(number, entry.next, kind, OsStr::from_bytes(entry.name))
            })
        };
        self.drive.fill(ino_of(ino), reply, list, |reply, done| match done {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        });
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let list = move |fs: &SnapshotFs, reply: &mut ReplyDirectoryPlus| {
            fs.read_dir(ino_of(ino), offset, LookUp::Everything, &mut |entry| {
                let (name, attr) = (OsStr::from_bytes(entry.name), file_attr(&entry.attr));
                let (number, valid) = (INodeNo(entry.attr.ino.0), valid(&entry.attr));
                !reply.add(number, entry.next, name, &valid, &attr, Generation(0))
            })
        };
        self.drive.fill(ino_of(ino), reply, list, |reply, done| match done {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let volume = self.drive.fs.volume();
        let blocks = volume.bytes.div_ceil(u64::from(BLOCK));
        reply.statfs(blocks, 0, 0, volume.entries, 0, BLOCK, LONGEST_NAME, BLOCK);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.as_bytes().to_vec();
        let none = self.drive.no_such_xattr(&name);
        let find = move |fs: &SnapshotFs| xattr(fs, ino_of(ino), &name);
        self.drive.answer(ino_of(ino), find, move |found| match found {
            Ok(Some(value)) => reply_xattr(reply, size, &value),
            Ok(None) => reply.error(none),
            Err(e) => reply.error(e),
        });
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.drive.answer(
            ino_of(ino),
            move |fs| xattr_names(fs, ino_of(ino)),
            move |found| match found {
                Ok(names) => reply_xattr(reply, size, &names),
                Err(e) => reply.error(e),
            },
        );
    }

    fn access(&self, _: &Request, _: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        if mask.contains(AccessFlags::W_OK) { reply.error(Errno::EROFS) } else { reply.ok() }
    }

    fn lseek(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let hole = match seeks_hole(whence) {
            Ok(hole) => hole,
            Err(e) => return reply.error(e),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        self.drive.answer(
            ino_of(ino),
            move |fs| fs.seek(ino_of(ino), offset, hole),
            move |found| match found {
                Ok(Some(at)) => reply.offset(at as i64),
                Ok(None) => reply.error(Errno::ENXIO),
                Err(e) => reply.error(e),
            },
        );
    }

    #[cfg(target_os = "macos")]
    fn getxtimes(&self, _: &Request, ino: INodeNo, reply: fuser::ReplyXTimes) {
        self.drive.answer(
            ino_of(ino),
            move |fs| fs.attr(ino_of(ino)),
            move |found| match found {
                // That it was ever backed up there is not what is asked.
                Ok(attr) => reply.xtimes(SystemTime::UNIX_EPOCH, system_time(attr.created)),
                Err(e) => reply.error(e),
            },
        );
    }

    // Everything that would change something.

    #[cfg(target_os = "macos")]
    fn setvolname(&self, _: &Request, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    #[cfg(target_os = "macos")]
    fn exchange(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: INodeNo,
        _: &OsStr,
        _: u64,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &std::path::Path, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: INodeNo,
        _: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn setxattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: &[u8],
        _: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn create(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        reply.error(Errno::EROFS);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use fuser::{Config, Session};
    use tresor_testkit::Item;

    use super::*;
    use crate::fuse::drive::tests::drive_of;

    #[test]
    fn times_before_1970() {
        let before = system_time(Time::new(-2, 500_000_000));
        let gap = SystemTime::UNIX_EPOCH.duration_since(before).unwrap();
        assert_eq!(gap, Duration::from_millis(1500));
    }

    /// On macOS this is all there is; here it is at least called by some kernel.
    #[test]
    fn a_kernel_is_answered() {
        let file = Item::file(vec![7; 300_000]);
        let drive = drive_of(&Item::dir().with("folder", Item::dir().with("file", file)));
        let point = tempfile::tempdir().unwrap();
        let session = Session::new(Adapter::new(drive), point.path(), &Config::default()).unwrap();
        let session = session.spawn().unwrap();
        let file = point.path().join("folder/file");
        assert_eq!(std::fs::read(&file).unwrap(), vec![7; 300_000]);
        assert_eq!(std::fs::metadata(&file).unwrap().size(), 300_000);
        assert_eq!(std::fs::read_dir(point.path().join("folder")).unwrap().count(), 1);
        assert!(std::fs::metadata(point.path().join("none")).is_err());
        let refused = std::fs::write(&file, "x").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
        drop(session);
    }
}
