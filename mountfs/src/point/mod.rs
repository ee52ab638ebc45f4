//! Mount points: whether a drive can be mounted there, what is mounted there, and unmounting
//! it, whatever it comes through.

#[cfg(not(target_os = "macos"))]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
mod own;

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[cfg(not(target_os = "macos"))]
use linux as host;
#[cfg(target_os = "macos")]
use macos as host;
pub(crate) use own::Mount;

/// Tells our drives from other mounts.
pub(crate) const SOURCE_PREFIX: &str = "tresor:";
/// How long a server on this machine may take to take a connection, and a drive to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why a drive could not be mounted or unmounted, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("the mount point {0} doesn't exist; make it with `mkdir {0}`")]
    Missing(String),
    #[error("the mount point {0} is not a folder")]
    NotAFolder(String),
    #[error("the mount point {0} is not empty; choose an empty folder")]
    NotEmpty(String),
    #[error("a drive is mounted on {0} already; `tresor umount {0}` removes it")]
    Mounted(String),
    #[error("the mount point {0} holds the repository, or lies in it; choose another folder")]
    Repository(String),
    #[error(
        "this system has no FUSE (/dev/fuse is missing); install the package fuse3 or load the kernel module with `modprobe fuse`"
    )]
    NoFuse,
    #[error("mounting needs `fusermount3` for users other than root; install the package fuse3")]
    NoFusermount,
    #[error(
        "a drive needs macFUSE 4 or newer, which is not installed here: get it with `brew install --cask macfuse`, or from macfuse.io; or use `--via nfs`, which needs nothing"
    )]
    NoMacFuse,
    #[error(
        "--allow-other is not permitted here; write `user_allow_other` into /etc/fuse.conf, or leave it out"
    )]
    AllowOther,
    #[error("no drive is mounted on {0}")]
    NotMounted(String),
    #[error(
        "the drive on {0} is in use; close what is open there, or `tresor umount --lazy {0}` removes it as soon as it isn't"
    )]
    Busy(String),
    #[error("something is mounted over the drive on {0}; unmount that, and the drive goes, too")]
    Covered(String),
    #[error(
        "the drive on {0} was mounted by another user, or `fusermount3` is missing (package fuse3); unmount it as the user who mounted it, or as root"
    )]
    Foreign(String),
    #[error("{0}: {1}")]
    Io(String, io::Error),
}

/// Checks the mount point and clears a drive that died there.
pub(crate) fn prepare(point: &Path, repository: Option<&Path>) -> Result<PathBuf, MountError> {
    let shown = point.display().to_string();
    let absolute = resolve(point).map_err(|e| MountError::Io(shown.clone(), e))?;
    if let Some(drive) = drive_there(&absolute) {
        if !drive.is_dead(&absolute) {
            return Err(MountError::Mounted(shown));
        }
        Mount::new(absolute.clone(), Some(drive)).unmount(true)?;
    }
    match std::fs::metadata(&absolute) {
        Ok(meta) if !meta.is_dir() => return Err(MountError::NotAFolder(shown)),
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(MountError::Missing(shown)),
        Err(e) => return Err(MountError::Io(shown, e)),
    }
    if let Some(repository) = repository.and_then(|r| r.canonicalize().ok())
        && (repository.starts_with(&absolute) || absolute.starts_with(&repository))
    {
        return Err(MountError::Repository(shown));
    }
    let mut entries = std::fs::read_dir(&absolute).map_err(|e| MountError::Io(shown.clone(), e))?;
    // Finder leaves its own in each folder that it has shown.
    let of_finder = |entry: io::Result<std::fs::DirEntry>| {
        entry.is_ok_and(|entry| entry.file_name() == ".DS_Store")
    };
    if entries.all(of_finder) { Ok(absolute) } else { Err(MountError::NotEmpty(shown)) }
}

/// The path without symlinks. A drive that it leads to is not touched, since a dead one
/// answers nothing.
fn resolve(point: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(point)?;
    if let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name())
        && let Ok(parent) = parent.canonicalize()
        && is_drive(&parent.join(name))
    {
        return Ok(parent.join(name));
    }
    match point.canonicalize() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(absolute),
        other => other,
    }
}

/// What the user means by a mount point.
pub fn mount_point(typed: &Path) -> io::Result<PathBuf> {
    std::path::absolute(typed)
}

/// The root folder of what is mounted there.
pub fn drive_root(point: &Path) -> io::Result<PathBuf> {
    point.canonicalize()
}

/// Whether a tresor drive is mounted exactly there.
pub fn is_drive(point: &Path) -> bool {
    drive_there(point).is_some()
}

/// What was mounted there last lies on top, and hides a drive below it.
fn drive_there(point: &Path) -> Option<Drive> {
    host::mounts_at(point).pop().flatten()
}

/// What a drive comes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Fuse,
    Nfs,
}

/// Behind the prefix of what the server exports.
const NAME_DIGITS: usize = 32;

impl Kind {
    /// By what the table of mounts says of a mount: its kind and its source.
    fn of(kind: &[u8], source: &[u8]) -> Option<Self> {
        let (kind, source) = (String::from_utf8_lossy(kind), String::from_utf8_lossy(source));
        // Behind the name of the server, which may be an address with colons.
        let digits = || {
            let (_, path) = source.split_once(":/")?;
            path.split('/').next()?.strip_prefix(crate::nfs::NAME_PREFIX)
        };
        let is_ours = |d: &str| d.len() == NAME_DIGITS && d.bytes().all(|b| b.is_ascii_hexdigit());
        match kind.as_ref() {
            "nfs" => digits().is_some_and(is_ours).then_some(Self::Nfs),
            // `fuse.tresor`; `fuse` without fusermount3, since the kernel is told of no
            // subtype then; `macfuse`.
            kind if kind.contains("fuse") => {
                source.starts_with(SOURCE_PREFIX).then_some(Self::Fuse)
            }
            _ => None,
        }
    }
}

/// A drive in the table of mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Drive {
    kind: Kind,
    /// Where it comes from.
    source: Vec<u8>,
    /// The system's number of this file system. No other has it as long as something on it is
    /// in use, mounted or not.
    device: Vec<u8>,
    /// Where its server listens, if that is known.
    server: Option<SocketAddr>,
}

impl Drive {
    /// Whether the program behind a drive has died.
    fn is_dead(&self, point: &Path) -> bool {
        match self.kind {
            // The kernel may still know the folder; what it doesn't keep tells.
            Kind::Fuse => asked(point).is_some_and(|answer| {
                answer.is_err_and(|e| {
                    let code = Some(e.raw_os_error());
                    code == Some(libc::ENOTCONN)
                        || (cfg!(target_os = "macos") && code == Some(libc::ENXIO))
                })
            }),
            // Not looked at: the system's client would ask again for minutes.
            Kind::Nfs => self.server.is_some_and(|server| {
                let answer = TcpStream::connect_timeout(&server, PATIENCE);
                answer.is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
            }),
        }
    }
}

/// What a drive says, unless it stands still: who asks would wait as long as it does, so that is
/// a thread of its own.
fn asked(point: &Path) -> Option<rustix::io::Result<()>> {
    let (answer, answered) = std::sync::mpsc::channel();
    let point = point.to_owned();
    let ask = move || {
        let _ = answer.send(rustix::fs::statfs(&point).map(drop));
    };
    std::thread::Builder::new().spawn(ask).ok()?;
    answered.recv_timeout(PATIENCE).ok()
}

/// Unmounts whatever drive is there; a lazy one goes as soon as nothing on it is in use.
pub fn unmount(point: &Path, lazy: bool) -> Result<(), MountError> {
    let shown = point.display().to_string();
    let point = resolve(point).map_err(|e| MountError::Io(shown.clone(), e))?;
    match drive_there(&point) {
        Some(drive) => unmount_drive(&drive, &point, lazy, shown),
        None => Err(MountError::NotMounted(shown)),
    }
}

/// Unmounts what lies on top there, which was this drive a moment ago: systems take paths only.
fn unmount_drive(drive: &Drive, point: &Path, lazy: bool, shown: String) -> Result<(), MountError> {
    let kind = drive.kind;
    let unmounted = if kind == Kind::Nfs && drive.is_dead(point) {
        host::forced_unmount(point)
    } else {
        system_unmount(point, lazy)
    };
    let is_gone = || {
        kind == Kind::Fuse && host::helper_unmount(point, lazy)
            || drive_there(point).as_ref() != Some(drive)
    };
    if unmounted.is_ok() || is_gone() {
        return Ok(());
    }
    Err(match unmounted {
        // A lazy one is never in use, and only root unmounts what the kernel has mounted.
        Err(e)
            if e.kind() == io::ErrorKind::PermissionDenied
                && (lazy || kind == Kind::Nfs || !is_own(point)) =>
        {
            MountError::Foreign(shown)
        }
        _ => MountError::Busy(shown),
    })
}

/// Whether this user mounted the drive: nobody else can look at it, except where
/// others were let in.
fn is_own(point: &Path) -> bool {
    std::fs::metadata(point).is_ok()
}

pub(crate) use host::unmount as system_unmount;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_gone_is_known() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Some(listener.local_addr().unwrap());
        let drive = Drive { kind: Kind::Nfs, source: Vec::new(), device: Vec::new(), server };
        let point = Path::new("/nowhere");
        assert!(!drive.is_dead(point));
        drop(listener);
        assert!(drive.is_dead(point));
        assert!(!Drive { server: None, ..drive }.is_dead(point));
    }
}
