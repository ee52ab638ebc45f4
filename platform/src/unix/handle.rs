//! An entry held fast, to look at it and to change it: whatever its name comes
//! to stand for meanwhile, it stays the same entry.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, RawMode, Stat, Timestamps, Uid};
use rustix::io::Errno;
use tresor_engine::format::NodeKind;

use super::xattr::Holder;

pub(super) enum Handle<'a> {
    /// Open to read or to write.
    Open(OwnedFd),
    /// Open only as a place in the file system, which needs no rights and
    /// disturbs no device; and the path in `/proc` that leads to it.
    #[cfg(target_os = "linux")]
    Place(OwnedFd, Vec<u8>),
    /// What can't be opened where there is no such thing, so only named.
    Name(BorrowedFd<'a>, &'a [u8]),
}

impl<'a> Handle<'a> {
    /// The entry `name` of `dir`, which is thought to be of this kind.
    pub fn open(dir: BorrowedFd<'a>, name: &'a [u8], kind: NodeKind) -> io::Result<Self> {
        super::check(name)?;
        #[cfg(target_os = "linux")]
        if has_proc() {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(dir, name, flags, Mode::empty())?;
            let path = proc_path(fd.as_fd());
            return Ok(Self::Place(fd, path));
        }
        let flags = match kind {
            NodeKind::File | NodeKind::Directory => OFlags::NOFOLLOW | OFlags::NONBLOCK,
            #[cfg(target_os = "macos")]
            NodeKind::Symlink => {
                OFlags::from_bits_retain(libc::O_SYMLINK as u32) | OFlags::NONBLOCK
            }
            _ => return Ok(Self::Name(dir, name)),
        };
        Ok(Self::Open(super::open_quietly(dir, name, flags)?))
    }

    /// A directory that is open already.
    pub fn of(dir: BorrowedFd<'a>) -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        if has_proc() {
            let fd = dir.try_clone_to_owned()?;
            let path = proc_path(fd.as_fd());
            return Ok(Self::Place(fd, path));
        }
        Ok(Self::Open(super::open_quietly(dir, b".", OFlags::RDONLY | OFlags::DIRECTORY)?))
    }

    /// The same entry once it has another name.
    pub fn called<'b>(self, name: &'b [u8]) -> Handle<'b>
    where
        'a: 'b,
    {
        match self {
            Self::Open(fd) => Handle::Open(fd),
            #[cfg(target_os = "linux")]
            Self::Place(fd, path) => Handle::Place(fd, path),
            Self::Name(dir, _) => Handle::Name(dir, name),
        }
    }

    pub fn stat(&self) -> io::Result<Stat> {
        match self {
            Self::Open(fd) => Ok(rustix::fs::fstat(fd)?),
            #[cfg(target_os = "linux")]
            Self::Place(fd, _) => Ok(rustix::fs::fstat(fd)?),
            Self::Name(dir, name) => super::stat::stat(*dir, name),
        }
    }

    pub fn chown(&self, user: Option<Uid>, group: Option<Gid>) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => rustix::fs::fchown(fd, user, group),
            #[cfg(target_os = "linux")]
            Self::Place(fd, _) => rustix::fs::chownat(fd, c"", user, group, AtFlags::EMPTY_PATH),
            Self::Name(dir, name) => {
                rustix::fs::chownat(dir, *name, user, group, AtFlags::SYMLINK_NOFOLLOW)
            }
        }
    }

    /// Not for symlinks.
    pub fn chmod(&self, mode: u32) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => chmod(fd.as_fd(), mode),
            #[cfg(target_os = "linux")]
            Self::Place(fd, _) => chmod(fd.as_fd(), mode),
            Self::Name(dir, name) => {
                let mode = Mode::from_raw_mode(mode as RawMode);
                rustix::fs::chmodat(dir, *name, mode, AtFlags::SYMLINK_NOFOLLOW)
            }
        }
    }

    pub fn set_times(&self, times: &Timestamps) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => rustix::fs::futimens(fd, times),
            #[cfg(target_os = "linux")]
            Self::Place(_, path) => {
                rustix::fs::utimensat(rustix::fs::CWD, path, times, AtFlags::empty())
            }
            Self::Name(dir, name) => {
                rustix::fs::utimensat(dir, *name, times, AtFlags::SYMLINK_NOFOLLOW)
            }
        }
    }

    #[cfg(target_os = "macos")]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Open(fd) => Some(fd.as_fd()),
            Self::Name(..) => None,
        }
    }

    /// The entry as something that has extended attributes.
    pub fn holder(&self) -> Option<Holder<'_>> {
        match self {
            Self::Open(fd) => Some(Holder::Open(fd.as_fd())),
            #[cfg(target_os = "linux")]
            Self::Place(_, path) => Some(Holder::Followed(path)),
            Self::Name(..) => None,
        }
    }
}

/// Sets the mode of what is open, be it only as a place.
pub(super) fn chmod(fd: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(mode as RawMode);
    match rustix::fs::fchmod(fd, mode) {
        #[cfg(target_os = "linux")]
        Err(Errno::BADF) => rustix::fs::chmod(proc_path(fd), mode),
        result => result,
    }
}

/// A directory of the target that its owner has closed to himself is opened up
/// until its metadata is set, as a restore would otherwise fail in it. Root needs no such thing.
pub(super) fn let_in(dir: BorrowedFd<'_>) -> io::Result<()> {
    let stat = rustix::fs::fstat(dir)?;
    super::own::unlock_dir(dir, &stat);
    let mode = super::stat::mode(&stat);
    let me = rustix::process::geteuid();
    if !me.is_root() && stat.st_uid == me.as_raw() && mode & 0o700 != 0o700 {
        chmod(dir, mode | 0o700)?;
    }
    Ok(())
}

/// A path that leads to what is open.
#[cfg(target_os = "linux")]
pub(super) fn proc_path(fd: BorrowedFd<'_>) -> Vec<u8> {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into_bytes()
}

/// Whether `/proc` is mounted, which it may not be in a rescue system.
#[cfg(target_os = "linux")]
pub(super) fn has_proc() -> bool {
    static THERE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *THERE.get_or_init(|| rustix::fs::stat(c"/proc/self/fd").is_ok())
}
