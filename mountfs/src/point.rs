//! Where drives are mounted on Unix, whatever they are mounted through.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Tells our drives from other mounts.
pub(crate) const SOURCE_PREFIX: &str = "tresor:";

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
    #[error(
        "mounting needs `fusermount3` for users other than root; install the package fuse3 (macOS: macFUSE)"
    )]
    NoFusermount,
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
    match std::fs::metadata(&absolute) {
        Ok(meta) if !meta.is_dir() => return Err(MountError::NotAFolder(shown)),
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(MountError::Missing(shown)),
        Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) && is_drive(&absolute) => {}
        Err(e) => return Err(MountError::Io(shown, e)),
    }
    if is_drive(&absolute) {
        // The kernel may still know the folder; what it doesn't keep tells whether
        // the program behind the drive has died.
        match rustix::fs::statfs(&absolute) {
            Err(rustix::io::Errno::NOTCONN) => unmount(&absolute, true)?,
            _ => return Err(MountError::Mounted(shown)),
        }
    }
    if let Some(repository) = repository.and_then(|r| r.canonicalize().ok())
        && (repository.starts_with(&absolute) || absolute.starts_with(&repository))
    {
        return Err(MountError::Repository(shown));
    }
    match std::fs::read_dir(&absolute) {
        Ok(mut entries) => match entries.next() {
            None => Ok(absolute),
            Some(_) => Err(MountError::NotEmpty(shown)),
        },
        Err(e) => Err(MountError::Io(shown, e)),
    }
}

/// The path without symlinks; what it leads to is not touched, since a dead
/// drive answers nothing.
fn resolve(point: &Path) -> io::Result<PathBuf> {
    match point.canonicalize() {
        Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) => {
            let absolute = std::path::absolute(point)?;
            match (absolute.parent(), absolute.file_name()) {
                (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
                _ => Ok(absolute),
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => std::path::absolute(point),
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
    drive_kind(point).is_some()
}

/// What a drive comes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux tells"))]
enum Kind {
    Fuse,
    Nfs,
}

#[cfg(target_os = "linux")]
fn drive_kind(point: &Path) -> Option<Kind> {
    let text = std::fs::read("/proc/self/mountinfo").ok()?;
    text.split(|b| *b == b'\n').find_map(|line| drive_at(line, point))
}

/// The drive that this line of mountinfo is about, if it is mounted there.
#[cfg(target_os = "linux")]
fn drive_at(line: &[u8], point: &Path) -> Option<Kind> {
    let mut fields = line.split(|b| *b == b' ');
    let at = unescape(fields.by_ref().nth(4)?);
    let mut mounted = fields.skip_while(|f| *f != b"-").skip(1);
    let kind = mounted.next()?;
    let source = String::from_utf8_lossy(mounted.next()?);
    let kind = match kind {
        // Behind the name of the server.
        b"nfs" => source.contains(&format!(":/{}", crate::nfs::NAME_PREFIX)).then_some(Kind::Nfs),
        // Without fusermount3 the kernel is told of no subtype.
        _ if kind.starts_with(b"fuse") => source.starts_with(SOURCE_PREFIX).then_some(Kind::Fuse),
        _ => None,
    };
    kind.filter(|_| Path::new(OsStr::from_bytes(&at)) == point)
}

/// Whatever is mounted exactly there is taken for one.
#[cfg(not(target_os = "linux"))]
fn drive_kind(point: &Path) -> Option<Kind> {
    use std::os::unix::fs::MetadataExt;
    let device = |p: &Path| std::fs::metadata(p).map(|m| m.dev()).ok();
    let is_mounted = point.parent().is_some_and(|parent| device(point) != device(parent));
    is_mounted.then_some(Kind::Fuse)
}

/// Undoes the octal escapes of mountinfo.
#[cfg(target_os = "linux")]
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let code = tail.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        match code.and_then(|d| u8::from_str_radix(d, 8).ok()).filter(|_| byte == b'\\') {
            Some(code) => {
                out.push(code);
                rest = &tail[3..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

/// Unmounts a drive; a lazy one goes as soon as nothing on it is in use.
pub fn unmount(point: &Path, lazy: bool) -> Result<(), MountError> {
    let shown = point.display().to_string();
    let point = resolve(point).map_err(|e| MountError::Io(shown.clone(), e))?;
    let Some(kind) = drive_kind(&point) else {
        return Err(MountError::NotMounted(shown));
    };
    let unmounted = system_unmount(&point, lazy);
    let is_gone = || kind == Kind::Fuse && fusermount(&point, lazy) || !is_drive(&point);
    if unmounted.is_ok() || is_gone() {
        return Ok(());
    }
    Err(match unmounted {
        // A lazy one is never in use, and only root unmounts what the kernel has mounted.
        Err(e)
            if e.kind() == io::ErrorKind::PermissionDenied
                && (lazy || kind == Kind::Nfs || !is_own(&point)) =>
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

#[cfg(target_os = "linux")]
fn system_unmount(point: &Path, lazy: bool) -> io::Result<()> {
    use rustix::mount::{UnmountFlags, unmount};
    let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::NOFOLLOW };
    Ok(unmount(point, flags)?)
}

#[cfg(not(target_os = "linux"))]
fn system_unmount(point: &Path, lazy: bool) -> io::Result<()> {
    let mut command = Command::new("umount");
    if lazy {
        command.arg("-f");
    }
    let status = command.arg("--").arg(point).status()?;
    if status.success() { Ok(()) } else { Err(io::ErrorKind::ResourceBusy.into()) }
}

fn fusermount(point: &Path, lazy: bool) -> bool {
    let run = |program: &str| {
        let mut command = Command::new(program);
        command.arg("-u").args(lazy.then_some("-z")).arg("--").arg(point);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|s| s.success())
    };
    run("fusermount3") || run("fusermount")
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn octal_escapes() {
        assert_eq!(super::unescape(br"/a\040b\\134"), b"/a b\\\\");
        assert_eq!(super::unescape(br"/x\04"), br"/x\04");
        assert!(!super::is_drive(std::path::Path::new("/proc")));
    }

    #[test]
    fn drives_in_the_table_of_mounts() {
        use super::Kind::{Fuse, Nfs};

        let kind =
            |line: &str| super::drive_at(line.as_bytes(), std::path::Path::new("/mnt/a drive"));
        let line = |kind: &str, source: &str| {
            format!(r"61 29 0:50 / /mnt/a\040drive ro,nosuid - {kind} {source} ro,vers=3")
        };
        assert_eq!(kind(&line("fuse.tresor", "tresor:/srv/repo")), Some(Fuse));
        assert_eq!(kind(&line("nfs", "127.0.0.1:/tresor-00ff")), Some(Nfs));
        assert_eq!(kind(&line("nfs", "[::1]:/tresor-00ff/snapshots")), Some(Nfs));
        assert_eq!(kind(&line("nfs", "127.0.0.1:/srv/tresor-x")), None);
        assert_eq!(kind(&line("fuse.sshfs", "host:/tresor-00ff")), None);
        assert_eq!(kind(&line("ext4", "tresor:/srv/repo")), None);
        assert_eq!(kind(&line("nfs", "127.0.0.1:/tresor-00ff").replace("drive", "drives")), None);
        assert_eq!(kind(""), None);
    }
}
