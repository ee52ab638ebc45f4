//! What the system says about an entry, as a node.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, Stat};
use tresor_engine::format::{LinkId, Node, NodeKind, Time};

use crate::stamp::change_time;

/// One call that follows no symlink and mounts nothing.
pub(super) fn stat(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Stat> {
    #[cfg(target_os = "linux")]
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    #[cfg(not(target_os = "linux"))]
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    super::check(name)?;
    Ok(rustix::fs::statat(dir, name, flags)?)
}

pub(super) fn kind(stat: &Stat) -> io::Result<NodeKind> {
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => NodeKind::File,
        FileType::Directory => NodeKind::Directory,
        FileType::Symlink => NodeKind::Symlink,
        FileType::Fifo => NodeKind::Fifo,
        FileType::Socket => NodeKind::Socket,
        FileType::CharacterDevice => NodeKind::CharDevice,
        FileType::BlockDevice => NodeKind::BlockDevice,
        FileType::Unknown => {
            let message = "is of a kind that can't be backed up";
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        }
    })
}

/// Permission bits with setuid, setgid and sticky.
#[allow(clippy::unnecessary_cast, reason = "16 bits on macOS")]
pub(super) fn mode(stat: &Stat) -> u32 {
    stat.st_mode as u32 & 0o7777
}

pub(super) fn mtime(stat: &Stat) -> Time {
    time(stat.st_mtime, stat.st_mtime_nsec)
}

pub(super) fn atime(stat: &Stat) -> Time {
    time(stat.st_atime, stat.st_atime_nsec)
}

/// Integers of different types on different systems.
pub(super) fn time<N: TryInto<u32>>(seconds: impl Into<i64>, nanos: N) -> Time {
    Time::new(seconds.into(), nanos.try_into().unwrap_or_default())
}

/// Number of the file system.
pub(super) fn device(stat: &Stat) -> u64 {
    number(stat.st_dev)
}

pub(super) fn identity(stat: &Stat) -> super::Identity {
    (device(stat), stat.st_ino)
}

/// The number of a device as the system has it, of which macOS makes a signed one.
#[cfg(target_os = "macos")]
fn number(device: libc::dev_t) -> u64 {
    device.cast_unsigned().into()
}
#[cfg(not(target_os = "macos"))]
fn number(device: libc::dev_t) -> u64 {
    device
}

/// The number that a snapshot has for a device.
#[cfg(target_os = "macos")]
fn recorded(device: libc::dev_t) -> u64 {
    super::device::recorded(device.cast_unsigned())
}
#[cfg(not(target_os = "macos"))]
fn recorded(device: libc::dev_t) -> u64 {
    number(device)
}

#[allow(clippy::unnecessary_cast, reason = "types differ between systems")]
pub(super) fn node(name: &[u8], stat: &Stat) -> io::Result<Node> {
    let kind = kind(stat)?;
    let mut node = Node::new(name, kind);
    node.mode = mode(stat);
    (node.uid, node.gid) = (stat.st_uid, stat.st_gid);
    (node.mtime, node.atime) = (mtime(stat), atime(stat));
    node.ctime = change_time(time(stat.st_ctime, stat.st_ctime_nsec), node.mtime);
    node.inode = stat.st_ino;
    match kind {
        NodeKind::File | NodeKind::Symlink => node.size = stat.st_size as u64,
        NodeKind::CharDevice | NodeKind::BlockDevice => node.device = Some(recorded(stat.st_rdev)),
        _ => {}
    }
    if stat.st_nlink > 1 && kind != NodeKind::Directory {
        let names = (stat.st_nlink as u64).min(u32::MAX.into()) as u32;
        node.link = Some(LinkId { device: device(stat), inode: node.inode, names });
    }
    Ok(node)
}
