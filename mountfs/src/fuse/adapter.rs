//! The kernel's requests.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Release};
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tresor_engine::format::{NodeKind, Time};
use tresor_engine::repo::without_fetching;

use super::errno::errno;
use super::host::{THREADS, negotiate};
use crate::OnError;
use crate::core::{Attr, Changes, FsError, FsResult, Ino, SnapshotFs};
use crate::idle::Activity;
use crate::pool::Pool;

/// What is in a snapshot never changes.
const FOR_GOOD: Duration = Duration::from_secs(365 * 24 * 3600);
/// Virtual folders do. With the time between looks at the store less than a second.
const FOR_NOW: Duration = Duration::from_millis(400);
const BLOCK: u32 = 4096;

/// What is needed to answer, on any thread.
struct Drive {
    fs: Arc<SnapshotFs>,
    on_error: OnError,
}

impl Drive {
    /// The errno of an error; one about the repository is reported with the path.
    fn fail(&self, ino: Ino, error: &FsError) -> Errno {
        if let Some(message) = self.fs.failed(ino, error) {
            (self.on_error)(&message);
        }
        errno(error)
    }
}

pub(super) struct Adapter {
    drive: Arc<Drive>,
    pool: Pool,
    /// Held by the one request that may fetch where it arrived.
    fetching_here: AtomicBool,
    activity: Arc<Activity>,
    check_permissions: bool,
    /// Files and directories need not be opened, since there are no handles.
    opens_nothing: bool,
    opens_no_directory: bool,
}

impl Adapter {
    pub fn new(
        fs: Arc<SnapshotFs>,
        on_error: OnError,
        activity: Arc<Activity>,
        check_permissions: bool,
    ) -> Self {
        Self {
            drive: Arc::new(Drive { fs, on_error }),
            pool: Pool::new(),
            fetching_here: AtomicBool::default(),
            activity,
            check_permissions,
            opens_nothing: false,
            opens_no_directory: false,
        }
    }

    #[cfg(target_os = "macos")]
    pub fn fs(&self) -> &SnapshotFs {
        &self.drive.fs
    }

    /// Answers at once if nothing needs fetching. One request at a time may fetch
    /// on the thread that it came to, which saves waking another one; the rest go
    /// to the pool, and a thread stays free for what comes: no request waits for
    /// another's.
    fn answer<T>(
        &self,
        ino: INodeNo,
        work: impl Fn(&SnapshotFs) -> FsResult<T> + Send + 'static,
        reply: impl FnOnce(Result<T, Errno>) + Send + 'static,
    ) {
        self.fill(ino, (), move |fs, ()| work(fs), move |(), done| reply(done));
    }

    /// The same with a reply that `work` fills.
    fn fill<R: Send + 'static, T>(
        &self,
        ino: INodeNo,
        mut into: R,
        work: impl Fn(&SnapshotFs, &mut R) -> FsResult<T> + Send + 'static,
        reply: impl FnOnce(R, Result<T, Errno>) + Send + 'static,
    ) {
        self.activity.note();
        let ino = ino_of(ino);
        match without_fetching(|| work(&self.drive.fs, &mut into)) {
            Err(FsError::WouldFetch) => {
                let drive = self.drive.clone();
                let fetch = move |turn: Option<Turn>| {
                    let done = work(&drive.fs, &mut into);
                    // Before the answer, which may bring the next request at once.
                    drop(turn);
                    reply(into, done.map_err(|e| drive.fail(ino, &e)));
                };
                match Turn::take(&self.fetching_here) {
                    // A reply that is dropped by a panic answers EIO, as on the pool.
                    turn @ Some(_) => drop(catch_unwind(AssertUnwindSafe(|| fetch(turn)))),
                    None => self.pool.run(move || fetch(None)),
                }
            }
            done => reply(into, done.map_err(|e| self.drive.fail(ino, &e))),
        }
    }
}

/// The right to fetch on a thread that takes requests.
struct Turn<'a>(&'a AtomicBool);

impl<'a> Turn<'a> {
    fn take(taken: &'a AtomicBool) -> Option<Self> {
        (THREADS > 1 && !taken.swap(true, Acquire)).then(|| Self(taken))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(false, Release);
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

/// A device number as the kernel's protocol has it: 12 bits major, 20 bits minor.
fn rdev((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
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

fn ttl(attr: &Attr) -> Duration {
    match attr.changes {
        Changes::Never => FOR_GOOD,
        Changes::Sometimes => FOR_NOW,
        Changes::Always => Duration::ZERO,
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

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        (self.opens_nothing, self.opens_no_directory) = negotiate(config, self.check_permissions);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.as_bytes().to_vec();
        let look = move |fs: &SnapshotFs| match fs.lookup(ino_of(parent), &name) {
            Err(FsError::NotFound) if fs.is_fixed(ino_of(parent)) => Ok(None),
            other => other.map(Some),
        };
        self.answer(parent, look, move |found| match found {
            Ok(Some(attr)) => reply.entry(&ttl(&attr), &file_attr(&attr), Generation(0)),
            Ok(None) => reply.entry(&FOR_GOOD, &no_entry(), Generation(0)),
            Err(e) => reply.error(e),
        });
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        self.drive.fs.forget(ino_of(ino), count);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.answer(
            ino,
            move |fs| fs.attr(ino_of(ino)),
            move |found| match found {
                Ok(attr) => reply.attr(&ttl(&attr), &file_attr(&attr)),
                Err(e) => reply.error(e),
            },
        );
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        self.answer(
            ino,
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
        } else if self.opens_nothing {
            // Never asks again, and keeps pages.
            reply.error(Errno::ENOSYS);
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
        self.answer(ino, read, move |done| match done {
            Ok(bytes) => reply.data(&bytes),
            Err(e) => reply.error(e),
        });
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.opens_no_directory {
            reply.error(Errno::ENOSYS);
        } else {
            reply.opened(FileHandle(0), FopenFlags::empty());
        }
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
            fs.read_dir(ino_of(ino), offset, false, &mut |entry| {
                let (number, kind) = (INodeNo(entry.attr.ino.0), file_type(entry.attr.kind));
                !reply.add(number, entry.next, kind, OsStr::from_bytes(entry.name))
            })
        };
        self.fill(ino, reply, list, |reply, done| match done {
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
            fs.read_dir(ino_of(ino), offset, true, &mut |entry| {
                let (name, attr) = (OsStr::from_bytes(entry.name), file_attr(&entry.attr));
                let (number, ttl) = (INodeNo(entry.attr.ino.0), ttl(&entry.attr));
                !reply.add(number, entry.next, name, &ttl, &attr, Generation(0))
            })
        };
        self.fill(ino, reply, list, |reply, done| match done {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let volume = self.drive.fs.volume();
        let blocks = volume.bytes.div_ceil(u64::from(BLOCK));
        reply.statfs(blocks, 0, 0, volume.entries, 0, BLOCK, 255, BLOCK);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.as_bytes().to_vec();
        let is_acl = name.starts_with(b"system.posix_acl_");
        // A kernel that checks ACLs takes any other error for a refusal.
        let none =
            if is_acl && self.check_permissions { Errno::NO_XATTR } else { Errno::EOPNOTSUPP };
        let find = move |fs: &SnapshotFs| match fs.xattr(ino_of(ino), &name) {
            Err(FsError::NoSuchAttributes) => Ok(None),
            other => other.map(Some),
        };
        self.answer(ino, find, move |found| match found {
            Ok(Some(value)) => reply_xattr(reply, size, &value),
            Ok(None) => reply.error(none),
            Err(e) => reply.error(e),
        });
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.answer(
            ino,
            move |fs| fs.xattr_names(ino_of(ino)),
            move |found| match found {
                Ok(names) => {
                    let list: Vec<u8> =
                        names.into_iter().flat_map(|n| [n, vec![0]].concat()).collect();
                    reply_xattr(reply, size, &list);
                }
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
        let hole = match whence {
            libc::SEEK_DATA => false,
            libc::SEEK_HOLE => true,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        self.answer(
            ino,
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
        self.answer(
            ino,
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
    use super::*;

    #[test]
    fn times_before_1970_and_device_numbers() {
        let before = system_time(Time::new(-2, 500_000_000));
        let gap = SystemTime::UNIX_EPOCH.duration_since(before).unwrap();
        assert_eq!(gap, Duration::from_millis(1500));
        assert_eq!(rdev((8, 1)), 0x0801);
        assert_eq!(rdev((259, 300)), (259 << 8) | (300 & 0xff) | ((300 & !0xff) << 12));
    }
}
