//! The kernel's requests.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tresor_engine::format::{NodeKind, Time};

use super::errno::errno;
use super::pool::Pool;
use crate::core::{Attr, FsError, FsResult, Handle, Ino, SnapshotFs};

/// What is in a snapshot never changes.
const FOR_GOOD: Duration = Duration::from_secs(365 * 24 * 3600);
/// Virtual folders do.
const FOR_NOW: Duration = Duration::from_secs(1);
/// Threads for reads that must fetch.
const READERS: usize = 16;
/// Requests of the kernel's own readahead under way at once.
const MAX_BACKGROUND: u16 = 64;
const BLOCK: u32 = 4096;

/// Called with a line about each operation that fails for want of data.
pub type OnError = Arc<dyn Fn(&str) + Send + Sync>;

pub(super) struct Adapter {
    fs: Arc<SnapshotFs>,
    pool: Pool,
    on_error: OnError,
    check_permissions: bool,
}

impl Adapter {
    pub fn new(fs: Arc<SnapshotFs>, on_error: OnError, check_permissions: bool) -> Self {
        Self { fs, pool: Pool::new(READERS), on_error, check_permissions }
    }

    /// The errno of an error; one about the repository is reported with the path.
    fn fail(&self, ino: Ino, error: &FsError) -> Errno {
        report(&self.fs, &self.on_error, ino, error)
    }
}

fn report(fs: &SnapshotFs, on_error: &OnError, ino: Ino, error: &FsError) -> Errno {
    if let FsError::Io(reason) = error {
        on_error(&format!("{}: {reason}", fs.path(ino)));
    }
    errno(error)
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

/// A device number as the kernel's protocol has it: 12 bits major, 20 bits minor.
fn rdev(device: u64) -> u32 {
    let major = ((device >> 8) & 0xfff) | ((device >> 32) & !0xfff);
    let minor = (device & 0xff) | ((device >> 12) & !0xff);
    ((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)) as u32
}

fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.allocated.div_ceil(512),
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: system_time(attr.mtime),
        kind: file_type(attr.kind),
        perm: attr.mode as u16,
        nlink: attr.links,
        uid: attr.uid,
        gid: attr.gid,
        rdev: rdev(attr.device),
        blksize: BLOCK,
        flags: 0,
    }
}

fn ttl(attr: &Attr) -> Duration {
    if attr.changes { FOR_NOW } else { FOR_GOOD }
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

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_ASYNC_DIO,
        ];
        // The kernel takes this one as a wish to check permissions at all.
        let acl = self.check_permissions.then_some(InitFlags::FUSE_POSIX_ACL);
        for flag in wanted.into_iter().chain(acl) {
            // What an older kernel lacks is only slower.
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.fs.lookup(ino_of(parent), name.as_bytes()) {
            Ok(attr) => reply.entry(&ttl(&attr), &file_attr(&attr), Generation(0)),
            Err(e) => reply.error(self.fail(ino_of(parent), &e)),
        }
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        self.fs.forget(ino_of(ino), count);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.fs.attr(ino_of(ino)) {
            Ok(attr) => reply.attr(&ttl(&attr), &file_attr(&attr)),
            Err(e) => reply.error(self.fail(ino_of(ino), &e)),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.fs.readlink(ino_of(ino)) {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(self.fail(ino_of(ino), &e)),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        let opened = self
            .fs
            .open(ino_of(ino))
            .and_then(|handle| Ok((handle, self.fs.attr(ino_of(ino))?.changes)));
        match opened {
            // The one file that changes is the status; its length isn't known before.
            Ok((handle, true)) => {
                reply.opened(FileHandle(handle.0), FopenFlags::FOPEN_DIRECT_IO);
            }
            Ok((handle, false)) => {
                let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
                reply.opened(FileHandle(handle.0), flags);
            }
            Err(e) => reply.error(self.fail(ino_of(ino), &e)),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (handle, size) = (Handle(handle.0), size as usize);
        if let Some(bytes) = self.fs.read_cached(handle, offset, size) {
            reply.data(&bytes);
            self.fs.read_ahead(handle, offset, size);
            return;
        }
        let (fs, on_error) = (self.fs.clone(), self.on_error.clone());
        self.pool.run(move || {
            fs.read_ahead(handle, offset, size);
            match fs.read_at(handle, offset, size) {
                Ok(bytes) => reply.data(&bytes),
                Err(e) => reply.error(report(&fs, &on_error, ino_of(ino), &e)),
            }
        });
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.fs.release(Handle(handle.0));
        reply.ok();
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.fs.open_dir(ino_of(ino)) {
            Ok((handle, changes)) => {
                let keep = FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE;
                let flags = if changes { FopenFlags::empty() } else { keep };
                reply.opened(FileHandle(handle.0), flags);
            }
            Err(e) => reply.error(self.fail(ino_of(ino), &e)),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.fs.read_dir(Handle(handle.0), offset, false, &mut |entry| {
            let (number, kind) = (INodeNo(entry.attr.ino.0), file_type(entry.attr.kind));
            !reply.add(number, entry.next, kind, OsStr::from_bytes(entry.name))
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(self.fail(ino_of(ino), &e)),
        }
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let listed = self.fs.read_dir(Handle(handle.0), offset, true, &mut |entry| {
            let (name, attr) = (OsStr::from_bytes(entry.name), file_attr(&entry.attr));
            let (number, ttl) = (INodeNo(entry.attr.ino.0), ttl(&entry.attr));
            !reply.add(number, entry.next, name, &ttl, &attr, Generation(0))
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(self.fail(ino_of(ino), &e)),
        }
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.fs.release_dir(Handle(handle.0));
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let volume = self.fs.volume();
        let blocks = volume.bytes.div_ceil(u64::from(BLOCK));
        reply.statfs(blocks, 0, 0, volume.entries, 0, BLOCK, 255, BLOCK);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        match self.fs.xattr(ino_of(ino), name.as_bytes()) {
            Ok(value) => reply_xattr(reply, size, &value),
            Err(e) => reply.error(self.fail(ino_of(ino), &e)),
        }
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        match self.fs.xattr_names(ino_of(ino)) {
            Ok(names) => {
                let list: Vec<u8> = names.into_iter().flat_map(|n| [n, vec![0]].concat()).collect();
                reply_xattr(reply, size, &list);
            }
            Err(e) => reply.error(self.fail(ino_of(ino), &e)),
        }
    }

    fn access(&self, _: &Request, _: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        if mask.contains(AccessFlags::W_OK) { reply.error(Errno::EROFS) } else { reply.ok() }
    }

    fn lseek(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let hole = match whence {
            libc::SEEK_DATA => false,
            libc::SEEK_HOLE => true,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        let found: FsResult<_> = self.fs.seek(Handle(handle.0), offset, hole);
        match found {
            Ok(Some(at)) => reply.offset(at as i64),
            Ok(None) => reply.error(Errno::ENXIO),
            Err(e) => reply.error(self.fail(ino_of(ino), &e)),
        }
    }

    // Everything that would change something.

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
    use super::*;

    #[test]
    fn times_before_1970_and_device_numbers() {
        let before = system_time(Time::new(-2, 500_000_000));
        let gap = SystemTime::UNIX_EPOCH.duration_since(before).unwrap();
        assert_eq!(gap, Duration::from_millis(1500));
        assert_eq!(rdev(0x0801), 0x0801);
        // makedev(259, 300)
        assert_eq!(rdev(0x0011_032c), (259 << 8) | (300 & 0xff) | ((300 & !0xff) << 12));
    }
}
