//! What macOS has beyond attributes, modes and times: flags, times of creation and its own
//! access control lists. Other systems have `own.rs`.

use std::ffi::CString;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, Stat, statat};
use rustix::io::Errno;
use tresor_engine::format::macos::{
    ACL, CREATED, FLAGS, KEPT_FLAGS, LOCKING_FLAGS, PREFIX, SYSTEM_FLAGS, created_value,
};
use tresor_engine::format::{Node, NodeKind, Time, Xattr};
use tresor_engine::sink::{MetadataProblem, Streams};
use tresor_engine::source::SourceFile;

use super::handle::Handle;
use super::{acl, stat};

/// Whether attributes of this name are kept by other calls than those for attributes.
pub(super) fn has_own_calls(name: &[u8]) -> bool {
    name.starts_with(PREFIX)
}

/// Whether an attribute is one of any length that can be read and written in parts.
pub(super) fn is_fork(name: &[u8]) -> bool {
    name == b"com.apple.ResourceFork"
}

/// Most that is read or written at once.
const PIECE: usize = 1 << 20;

/// A resource fork of what is open.
struct Fork {
    fd: OwnedFd,
    name: CString,
}

pub(super) fn open_fork(fd: OwnedFd, name: &[u8]) -> io::Result<Box<dyn SourceFile>> {
    let mut fork = Fork { fd, name: CString::new(name)? };
    if fork.len()? == 0 {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(Box::new(fork))
}

impl Fork {
    fn get(&self, buf: *mut libc::c_void, len: usize, at: u32) -> io::Result<usize> {
        let (fd, name) = (self.fd.as_raw_fd(), self.name.as_ptr());
        // SAFETY: the buffer has this length, and the name ends with a NUL.
        let got = unsafe { libc::fgetxattr(fd, name, buf, len, at, 0) };
        match usize::try_from(got) {
            Ok(got) => Ok(got),
            Err(_) if last_error() == Errno::NOATTR => Ok(0),
            Err(_) => Err(io::Error::last_os_error()),
        }
    }

    fn len(&mut self) -> io::Result<u64> {
        Ok(self.get(std::ptr::null_mut(), 0, 0)? as u64)
    }
}

impl SourceFile for Fork {
    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let Ok(at) = u32::try_from(offset) else { return Ok(0) };
        let left = self.len()?.saturating_sub(offset);
        let len = buf.len().min(PIECE).min(left as usize);
        if len == 0 { Ok(0) } else { self.get(buf[..len].as_mut_ptr().cast(), len, at) }
    }

    fn next_data(&mut self, offset: u64) -> io::Result<Option<Range<u64>>> {
        Ok(Some(offset..u64::MAX))
    }

    fn stat(&mut self) -> io::Result<Node> {
        let mut node = Node::new("", NodeKind::File);
        node.size = self.len()?;
        Ok(node)
    }
}

/// Makes a resource fork what the snapshot has of it. What is there is left alone until it is known to be otherwise.
pub(super) fn put_fork(
    fd: BorrowedFd<'_>,
    name: &[u8],
    size: u64,
    streams: &mut dyn Streams,
) -> io::Result<()> {
    let mut there = Fork { fd: fd.try_clone_to_owned()?, name: CString::new(name)? };
    if there.len()? == size && streams.is_right(name, &mut there)? {
        return Ok(());
    }
    match fs::fremovexattr(fd, name) {
        Ok(()) | Err(Errno::NOATTR) => {}
        Err(e) => return Err(e.into()),
    }
    let set = |bytes: &[u8], at: u64| {
        let too_long = |_| io::Error::from(io::ErrorKind::FileTooLarge);
        for (number, piece) in bytes.chunks(PIECE).enumerate() {
            let at = u32::try_from(at + (number * PIECE) as u64).map_err(too_long)?;
            let (fd, name) = (fd.as_raw_fd(), there.name.as_ptr());
            // SAFETY: the bytes are of this length, and the name ends with a NUL.
            let code =
                unsafe { libc::fsetxattr(fd, name, piece.as_ptr().cast(), piece.len(), at, 0) };
            if code != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // As long as it shall be, so that what isn't given is zeros.
    let longest = size.checked_sub(1).map_or(Ok(()), |last| set(&[0], last));
    let put = longest.and_then(|()| streams.write(name, &mut |bytes, at| set(bytes, at)));
    if put.is_err() {
        // A half of it is worse than nothing.
        let _ = fs::fremovexattr(fd, name);
    }
    put
}

/// Adds to the attributes of an entry what else there is, in order of their names. What can't be
/// read is an error, and the others are there.
pub(super) fn read_rest(handle: &Handle<'_>, all: &mut Vec<Xattr>) -> io::Result<()> {
    let now = handle.stat()?;
    let mut add = |name: &[u8], value: Vec<u8>| all.push(Xattr { name: name.to_vec(), value });
    let flags = now.st_flags & KEPT_FLAGS;
    if flags != 0 {
        add(FLAGS, flags.to_le_bytes().into());
    }
    let time = created(&now);
    // File systems that don't keep it say 1970.
    if time != stat::mtime(&now) && time.seconds > 0 {
        add(CREATED, created_value(time));
    }
    let rights = handle.fd().map_or(Ok(None), acl::read).map(|text| {
        if let Some(text) = text {
            add(ACL, text);
        }
    });
    all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    rights.map_err(|e| io::Error::new(e.kind(), format!("access control list: {e}")))
}

fn created(stat: &Stat) -> Time {
    stat::time(stat.st_birthtime, stat.st_birthtime_nsec)
}

// Of the system's library; the crate libc doesn't have it.
unsafe extern "C" {
    fn fsync_volume_np(fd: libc::c_int, flags: libc::c_int) -> libc::c_int;
}

/// Forces all that was written to the file system of a directory to its disk.
pub(super) fn force(dir: BorrowedFd<'_>) -> io::Result<()> {
    /// `SYNC_VOLUME_FULLSYNC`, to the platter, and `SYNC_VOLUME_WAIT`.
    const FLAGS: libc::c_int = 0x01 | 0x02;
    // SAFETY: takes numbers; the directory is open.
    match unsafe { fsync_volume_np(dir.as_raw_fd(), FLAGS) } {
        0 => Ok(()),
        _ => match last_error() {
            Errno::NOTSUP | Errno::INVAL | Errno::NOTTY => {
                rustix::fs::sync();
                Ok(())
            }
            e => Err(e.into()),
        },
    }
}

/// Takes away what keeps an entry from being changed. If that fails, so will what needs it, and tells.
pub(super) fn unlock(handle: &Handle<'_>, now: &Stat) {
    if now.st_flags & LOCKING_FLAGS != 0 {
        let _ = set_flags(&Entry::of(handle), now.st_flags & !LOCKING_FLAGS);
    }
}

/// The same for a directory that is open.
pub(super) fn unlock_dir(dir: BorrowedFd<'_>, now: &Stat) {
    if now.st_flags & LOCKING_FLAGS != 0 {
        let _ = set_flags(&Entry::Open(dir), now.st_flags & !LOCKING_FLAGS);
    }
}

/// Sets what is not to be set before the times: that of creation, which an earlier
/// modification would move, and an ACL, which may forbid everything else.
pub(super) fn apply(handle: &Handle<'_>, node: &Node, problems: &mut Vec<MetadataProblem>) {
    let mut problem = |what: &str, error: io::Error| {
        problems.push(MetadataProblem { what: what.into(), error });
    };
    let is_created = |time| handle.stat().is_ok_and(|now| created(&now) == time);
    if let Some(time) = node.created()
        && !is_created(time)
        && let Err(e) = set_created(&Entry::of(handle), time)
    {
        problem("time of creation", e.into());
    }
    let wanted = node.macos_acl();
    match handle.fd() {
        Some(fd) => {
            let is_right = acl::read(fd).is_ok_and(|now| now.as_deref() == wanted);
            if !is_right && let Err(e) = acl::write(fd, wanted) {
                problem("access control list", e);
            }
        }
        None if wanted.is_some() => {
            problem("access control list", io::ErrorKind::Unsupported.into());
        }
        None => {}
    }
}

/// Sets what lets nothing be changed any more; nor may the entry be renamed then. Only root
/// may set the system's flags.
pub(super) fn seal(handle: &Handle<'_>, node: &Node, problems: &mut Vec<MetadataProblem>) {
    let seal = || {
        let now = handle.stat()?.st_flags;
        let wanted = now & !KEPT_FLAGS | node.macos_flags();
        if wanted == now {
            return Ok(());
        }
        match set_flags(&Entry::of(handle), wanted) {
            Err(Errno::PERM) if node.macos_flags() & SYSTEM_FLAGS != 0 => {
                set_flags(&Entry::of(handle), wanted & !SYSTEM_FLAGS)?;
                Err(Errno::PERM.into())
            }
            done => Ok(done?),
        }
    };
    if let Err(error) = seal() {
        problems.push(MetadataProblem { what: "flags".into(), error });
    }
}

/// Does something to the entry `name` that goes with it, also if it is locked.
pub(super) fn insist<T>(
    dir: BorrowedFd<'_>,
    name: &[u8],
    mut op: impl FnMut() -> Result<T, Errno>,
) -> Result<T, Errno> {
    match op() {
        Err(Errno::PERM) if unlock_name(dir, name).is_some() => op(),
        done => done,
    }
}

/// Does something to the entry `name`, which stays as it is, also if it is locked.
pub(super) fn unlocked<T>(
    dir: BorrowedFd<'_>,
    name: &[u8],
    mut op: impl FnMut() -> Result<T, Errno>,
) -> Result<T, Errno> {
    let first = op();
    if !matches!(first, Err(Errno::PERM)) {
        return first;
    }
    let Some(flags) = unlock_name(dir, name) else { return first };
    let done = op();
    set_flags(&Entry::Name(dir, name), flags).and(done)
}

/// The flags that the entry had, if some of them were in the way and are no more.
fn unlock_name(dir: BorrowedFd<'_>, name: &[u8]) -> Option<u32> {
    let flags = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?.st_flags;
    let was_locked = flags & LOCKING_FLAGS != 0;
    let entry = Entry::Name(dir, name);
    (was_locked && set_flags(&entry, flags & !LOCKING_FLAGS).is_ok()).then_some(flags)
}

/// What has attributes of the file system.
enum Entry<'a> {
    Open(BorrowedFd<'a>),
    /// Not followed.
    Name(BorrowedFd<'a>, &'a [u8]),
}

impl<'a> Entry<'a> {
    fn of(handle: &'a Handle<'_>) -> Self {
        match handle {
            Handle::Open(fd) => Self::Open(fd.as_fd()),
            Handle::Name(dir, name) => Self::Name(*dir, name),
        }
    }
}

fn set_flags(entry: &Entry<'_>, flags: u32) -> Result<(), Errno> {
    set(entry, libc::ATTR_CMN_FLAGS, flags)
}

fn set_created(entry: &Entry<'_>, time: Time) -> Result<(), Errno> {
    let time = libc::timespec { tv_sec: time.seconds, tv_nsec: time.nanos.into() };
    set(entry, libc::ATTR_CMN_CRTIME, time)
}

/// Sets one attribute, of which `T` is what the system takes for it.
fn set<T>(entry: &Entry<'_>, attribute: libc::attrgroup_t, mut value: T) -> Result<(), Errno> {
    let mut list = libc::attrlist {
        bitmapcount: libc::ATTR_BIT_MAP_COUNT,
        reserved: 0,
        commonattr: attribute,
        volattr: 0,
        dirattr: 0,
        fileattr: 0,
        forkattr: 0,
    };
    let list = (&raw mut list).cast();
    let (place, len) = ((&raw mut value).cast(), size_of::<T>());
    let code = match entry {
        // SAFETY: the list and the value live and are of the lengths said.
        Entry::Open(fd) => unsafe { libc::fsetattrlist(fd.as_raw_fd(), list, place, len, 0) },
        Entry::Name(dir, name) => {
            let name = std::ffi::CString::new(*name).map_err(|_| Errno::INVAL)?;
            let no_follow = libc::FSOPT_NOFOLLOW;
            // SAFETY: the same, and the name ends with a NUL.
            unsafe {
                libc::setattrlistat(dir.as_raw_fd(), name.as_ptr(), list, place, len, no_follow)
            }
        }
    };
    if code == 0 { Ok(()) } else { Err(last_error()) }
}

pub(super) fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Makes a FIFO or a device. macOS has the calls for that since version 13, so this looks
/// for them; before that there are only such that take a whole path.
pub(super) fn make_node(
    dir: BorrowedFd<'_>,
    name: &[u8],
    kind: libc::mode_t,
    device: u32,
) -> io::Result<()> {
    type MakeNode = unsafe extern "C" fn(
        libc::c_int,
        *const libc::c_char,
        libc::mode_t,
        libc::dev_t,
    ) -> libc::c_int;
    // SAFETY: looks through what is loaded for a name that ends with a NUL.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"mknodat".as_ptr()) };
    if found.is_null() {
        let message = "FIFOs and devices can be made from macOS 13 on";
        return Err(io::Error::new(io::ErrorKind::Unsupported, message));
    }
    // SAFETY: what has this name in the system's library is of this type.
    let make: MakeNode = unsafe { std::mem::transmute(found) };
    let name = std::ffi::CString::new(name)?;
    // SAFETY: the name ends with a NUL.
    match unsafe { make(dir.as_raw_fd(), name.as_ptr(), kind | 0o600, device.cast_signed()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
