//! Mounting and unmounting.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fuser::BackgroundSession;

use super::adapter::Adapter;
use super::host;
use crate::MountOptions;
use crate::core::SnapshotFs;
use crate::idle::{Activity, end_when_idle};

/// Tells our drives from other mounts.
pub(super) const SOURCE_PREFIX: &str = "tresor:";

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
    #[error(
        "the drive on {0} was mounted by another user, or `fusermount3` is missing (package fuse3); unmount it as the user who mounted it, or as root"
    )]
    Foreign(String),
    #[error("{0}: {1}")]
    Io(String, io::Error),
}

/// A mounted drive. Dropped, it is unmounted.
pub struct Mounted {
    session: BackgroundSession,
    point: Point,
}

/// Where it is mounted. On macOS the session knows nothing of that, and doesn't unmount it.
struct Point(PathBuf);

impl Drop for Point {
    fn drop(&mut self) {
        if cfg!(target_os = "macos") {
            // It may be gone already.
            let _ = unmount(&self.0, true);
        }
    }
}

impl Mounted {
    /// Where it is, without symlinks.
    pub fn point(&self) -> &Path {
        &self.point.0
    }

    /// Waits until somebody unmounts it.
    pub fn wait(self) -> io::Result<()> {
        self.session.join()
    }
}

/// Mounts the drive; it answers when this returns.
pub fn mount(
    fs: Arc<SnapshotFs>,
    point: &Path,
    options: &MountOptions,
) -> Result<Mounted, MountError> {
    let point = prepare(point, options.repository.as_deref())?;
    let activity = Arc::new(Activity::new());
    let adapter = Adapter::new(fs, options.on_error.clone(), activity.clone(), options.allow_other);
    let session = host::connect(adapter, &point, options)?;
    let session = session.spawn().map_err(|e| MountError::Io(point.display().to_string(), e))?;
    host::mounted(&point);
    if let Some(limit) = options.idle_exit {
        end_when_idle(activity, limit, leave_if_unused(point.clone()));
    }
    Ok(Mounted { session, point: Point(point) })
}

/// What is open on the drive, or has its working folder there, keeps it.
pub(crate) fn leave_if_unused(point: PathBuf) -> impl Fn() -> bool + Send + 'static {
    move || matches!(unmount(&point, false), Ok(()) | Err(MountError::NotMounted(_)))
}

/// Checks the mount point and clears a drive that died there.
pub(crate) fn prepare(point: &Path, repository: Option<&Path>) -> Result<PathBuf, MountError> {
    let shown = point.display().to_string();
    let absolute = resolve(point).map_err(|e| MountError::Io(shown.clone(), e))?;
    match drive_kind(&absolute) {
        // Not looked at: if it has died, the system's client asks it again for minutes.
        Some(Kind::Nfs) => return Err(MountError::Mounted(shown)),
        // The kernel may still know the folder; what it doesn't keep tells whether
        // the program behind the drive has died.
        Some(Kind::Fuse) => match rustix::fs::statfs(&absolute) {
            Err(e) if is_dead(&e.into()) => unmount(&absolute, true)?,
            _ => return Err(MountError::Mounted(shown)),
        },
        None => {}
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

/// Whether the program behind a drive has died: what kernels say then.
fn is_dead(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code == Some(libc::ENOTCONN) || (cfg!(target_os = "macos") && code == Some(libc::ENXIO))
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
    drive_kind(point).is_some()
}

/// What a drive comes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Fuse,
    Nfs,
}

impl Kind {
    /// By what the table of mounts says of a mount: its kind and its source.
    fn of(kind: &[u8], source: &[u8]) -> Option<Self> {
        let (kind, source) = (String::from_utf8_lossy(kind), String::from_utf8_lossy(source));
        // Behind the name of the server.
        let of_nfs = || source.contains(&format!(":/{}", crate::nfs::NAME_PREFIX));
        match kind.as_ref() {
            "nfs" => of_nfs().then_some(Self::Nfs),
            // `fuse.tresor`; `fuse` without fusermount3, since the kernel is told of no
            // subtype then; `macfuse`.
            kind if kind.contains("fuse") => {
                source.starts_with(SOURCE_PREFIX).then_some(Self::Fuse)
            }
            _ => None,
        }
    }
}

fn drive_kind(point: &Path) -> Option<Kind> {
    drive_there(point).map(|(kind, _)| kind)
}

/// Where the drive that is mounted exactly there comes from, as the table of mounts has it.
pub(crate) fn drive_source(point: &Path) -> Option<Vec<u8>> {
    drive_there(point).map(|(_, source)| source)
}

#[cfg(target_os = "macos")]
fn drive_there(point: &Path) -> Option<(Kind, Vec<u8>)> {
    let mounts = crate::macos::mounts();
    let there = |mount: &&crate::macos::Mount| Path::new(OsStr::from_bytes(mount.point())) == point;
    let mount = mounts.iter().rev().find(there)?;
    Kind::of(mount.kind(), mount.source()).map(|kind| (kind, mount.source().to_vec()))
}

#[cfg(not(target_os = "macos"))]
fn drive_there(point: &Path) -> Option<(Kind, Vec<u8>)> {
    let text = std::fs::read("/proc/self/mountinfo").ok()?;
    text.split(|b| *b == b'\n').find_map(|line| drive_at(line, point))
}

/// The drive that this line of mountinfo is about, if it is mounted there.
#[cfg(not(target_os = "macos"))]
fn drive_at(line: &[u8], point: &Path) -> Option<(Kind, Vec<u8>)> {
    let mut fields = line.split(|b| *b == b' ');
    let at = unescape(fields.by_ref().nth(4)?);
    let mut mounted = fields.skip_while(|f| *f != b"-").skip(1);
    let (kind, source) = (mounted.next()?, mounted.next()?);
    let kind = Kind::of(kind, source).filter(|_| Path::new(OsStr::from_bytes(&at)) == point)?;
    Some((kind, source.to_vec()))
}

/// Undoes the octal escapes of mountinfo.
#[cfg(not(target_os = "macos"))]
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
    let is_gone = || kind == Kind::Fuse && helper_unmount(&point, lazy) || !is_drive(&point);
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

#[cfg(target_os = "macos")]
pub(crate) use crate::macos::unmount as system_unmount;
#[cfg(target_os = "macos")]
use crate::macos::unmount_by_service as helper_unmount;

#[cfg(not(target_os = "macos"))]
pub(crate) fn system_unmount(point: &Path, lazy: bool) -> io::Result<()> {
    use rustix::mount::{UnmountFlags, unmount};
    let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::NOFOLLOW };
    Ok(unmount(point, flags)?)
}

#[cfg(not(target_os = "macos"))]
fn helper_unmount(point: &Path, lazy: bool) -> bool {
    use std::process::{Command, Stdio};

    let run = |program: &str| {
        let mut command = Command::new(program);
        command.arg("-u").args(lazy.then_some("-z")).arg("--").arg(point);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|s| s.success())
    };
    run("fusermount3") || run("fusermount")
}

#[cfg(all(test, not(target_os = "macos")))]
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

        let at = std::path::Path::new("/mnt/a drive");
        let kind = |line: &str| super::drive_at(line.as_bytes(), at).map(|(kind, _)| kind);
        let line = |kind: &str, source: &str| {
            format!(r"61 29 0:50 / /mnt/a\040drive ro,nosuid - {kind} {source} ro,vers=3")
        };
        assert_eq!(kind(&line("fuse.tresor", "tresor:/srv/repo")), Some(Fuse));
        assert_eq!(kind(&line("macfuse", "tresor:/srv/repo")), Some(Fuse));
        assert_eq!(kind(&line("nfs", "127.0.0.1:/tresor-00ff")), Some(Nfs));
        assert_eq!(kind(&line("nfs", "[::1]:/tresor-00ff/snapshots")), Some(Nfs));
        assert_eq!(kind(&line("nfs", "127.0.0.1:/srv/tresor-x")), None);
        assert_eq!(kind(&line("fuse.sshfs", "host:/tresor-00ff")), None);
        assert_eq!(kind(&line("ext4", "tresor:/srv/repo")), None);
        assert_eq!(kind(&line("nfs", "127.0.0.1:/tresor-00ff").replace("drive", "drives")), None);
        assert_eq!(kind(""), None);
    }
}
