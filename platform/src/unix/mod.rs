//! Linux and macOS. Everything is reached by calls relative to an open
//! directory and none follows a symlink, so that paths may be of any length and
//! what others rename meanwhile can't lead elsewhere.

#[cfg(target_os = "macos")]
mod acl;
#[cfg(target_os = "macos")]
mod apfs;
#[cfg(any(target_os = "macos", test))]
mod device;
mod handle;
#[cfg(target_os = "macos")]
mod macos;
mod metadata;
#[cfg(not(target_os = "macos"))]
mod own;
mod owners;
mod path;
mod remove;
mod settle;
mod sink;
mod source;
mod stat;
mod temp;
#[cfg(any(target_os = "macos", test))]
mod tmutil;
#[cfg(any(target_os = "macos", test))]
mod view;
mod xattr;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tresor_engine::exclude::SystemRule;
use tresor_engine::format::{Node, is_valid_name};
use tresor_engine::sink::SinkDir;
use tresor_engine::source::SourceDir;

use crate::kept::Kept;
use crate::snapshot::{NoSnapshot, Problem, SourceSnapshot, SystemState, Wanted};
#[cfg(target_os = "macos")]
use macos as own;
pub(crate) use owners::{home, user};
pub use path::{absolute_path, recorded_path};

/// A directory is opened only to reach what is in it, which needs no right to
/// list it: `/home` may be closed to the user who backs up his part of it.
#[cfg(target_os = "linux")]
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
#[cfg(not(target_os = "linux"))]
const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);

/// The whole machine, from `/` on, as a source.
pub fn source_root() -> io::Result<Arc<dyn SourceDir>> {
    open_source(Path::new("/"))
}

/// LVM and Btrfs could do it, too; nothing here asks them yet.
#[cfg(not(target_os = "macos"))]
pub fn hold_source(_: &Wanted) -> Result<Box<dyn SourceSnapshot>, NoSnapshot> {
    Err(NoSnapshot::Unknown)
}

#[cfg(target_os = "macos")]
pub fn hold_source(wanted: &Wanted) -> Result<Box<dyn SourceSnapshot>, NoSnapshot> {
    apfs::hold_source(wanted)
}

/// There is none apart from the files.
pub fn system_state() -> Result<SystemState, NoSnapshot> {
    Err(NoSnapshot::Unknown)
}

/// These systems have no lists of what is not to be backed up.
pub fn system_rules() -> io::Result<(Vec<SystemRule>, Vec<Problem>)> {
    Ok(Default::default())
}

/// Any directory as the root of a source.
pub fn open_source(dir: &Path) -> io::Result<Arc<dyn SourceDir>> {
    Ok(Arc::new(source::Directory::new(open_root(dir)?)))
}

/// An existing directory as the target of a restore.
///
/// Owners are restored by their recorded numbers, never by name: numbers are
/// what the file system keeps, they can't be taken over by whoever gets a name,
/// and a restore on the same machine is exact. (The names are in the snapshot
/// for a person to read.) A user who isn't root can't give files away; his
/// restored files belong to him and lose setuid and setgid where the owner
/// isn't the recorded one, without an error, as `tar` and `rsync` do it.
///
/// Files are not synced one by one, but whole file systems at the end.
pub fn open_sink(dir: &Path) -> io::Result<Arc<dyn SinkDir>> {
    open_sink_keeping(dir, Kept::default())
}

/// The same, with folders in it that are left alone.
pub fn open_sink_keeping(dir: &Path, kept: Kept) -> io::Result<Arc<dyn SinkDir>> {
    Ok(Arc::new(sink::Directory::target(open_root(dir)?, kept)?))
}

/// Device and number of a directory.
pub(crate) type Identity = (u64, u64);

/// Which directory this is, and itself, held open.
pub(crate) fn identify(dir: &Path) -> io::Result<(Identity, std::fs::File)> {
    let open = open_root(dir)?;
    Ok((stat::identity(&rustix::fs::fstat(&open)?), open.into()))
}

fn open_root(dir: &Path) -> io::Result<OwnedFd> {
    rustix::fs::open(dir, DIRECTORY, Mode::empty())
        .map_err(io::Error::from)
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", dir.display())))
}

/// Gives a node the owner that this process's files have.
pub(crate) fn own(node: &mut Node) {
    node.uid = rustix::process::geteuid().as_raw();
    node.gid = rustix::process::getegid().as_raw();
    owners::name(node);
}

/// Refuses names that would lead out of a directory.
fn check(name: &[u8]) -> io::Result<()> {
    if is_valid_name(name) {
        return Ok(());
    }
    let message = format!("{:?} can't be a name in a directory", String::from_utf8_lossy(name));
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

fn open_dir(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    check(name)?;
    Ok(rustix::fs::openat(dir, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?)
}

/// Opens to read, and leaves no trace in the access time where the system lets us.
fn open_quietly(dir: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC;
    #[cfg(target_os = "linux")]
    match rustix::fs::openat(dir, name, flags | OFlags::NOATIME, Mode::empty()) {
        // Only the owner and root may.
        Err(Errno::PERM) => {}
        opened => return opened,
    }
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

/// Names in a directory. It is opened anew, since reading moves a position.
fn names(dir: BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    let fd = open_quietly(dir, b".", OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut names = Vec::new();
    let mut add = |name: &std::ffi::CStr| {
        if name != c"." && name != c".." {
            names.push(name.to_bytes().to_vec());
        }
    };
    #[cfg(target_os = "linux")]
    {
        let mut buffer = Vec::with_capacity(32 << 10);
        let mut entries = rustix::fs::RawDir::new(fd, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            add(entry?.file_name());
        }
    }
    #[cfg(not(target_os = "linux"))]
    for entry in rustix::fs::Dir::new(fd)? {
        add(entry?.file_name());
    }
    Ok(names)
}
