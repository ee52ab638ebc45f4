//! Mounting and unmounting.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};

use super::adapter::Adapter;
use crate::OnError;
use crate::core::SnapshotFs;
use crate::idle::{Activity, end_when_idle};

/// Threads that take requests; most of what must be fetched is answered by others.
/// More make the kernel wake one that sleeps on another processor. Only on Linux
/// can there be several.
pub(super) const THREADS: usize = if cfg!(target_os = "linux") { 2 } else { 1 };
const READ_AHEAD_KIB: u32 = 1024;
/// Tells our drives from other mounts.
const SOURCE_PREFIX: &str = "tresor:";

pub struct MountOptions {
    /// Let other users in; the kernel then checks their permissions.
    pub allow_other: bool,
    /// What `df` and `mount` show as the source, behind `tresor:`.
    pub source: String,
    /// Folder of the repository, if it is a local one.
    pub repository: Option<PathBuf>,
    /// Unmount when nothing has been asked for as long as this.
    pub idle_exit: Option<Duration>,
    /// Told of each operation that fails for want of data.
    pub on_error: OnError,
}

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

/// A mounted drive. Dropped, it is unmounted.
pub struct Mounted {
    session: BackgroundSession,
    point: PathBuf,
}

impl Mounted {
    /// Where it is, without symlinks.
    pub fn point(&self) -> &Path {
        &self.point
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
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoAtime,
        // The option list is separated by commas.
        MountOption::FSName(SOURCE_PREFIX.to_owned() + &options.source.replace([',', '\\'], "_")),
        MountOption::Subtype("tresor".into()),
    ];
    if options.allow_other {
        config.acl = SessionACL::All;
        config.mount_options.push(MountOption::DefaultPermissions);
    }
    if cfg!(target_os = "linux") {
        config.n_threads = Some(THREADS);
        config.clone_fd = true;
    }
    let activity = Arc::new(Activity::new());
    let adapter = Adapter::new(fs, options.on_error.clone(), activity.clone(), options.allow_other);
    let session = Session::new(adapter, &point, &config)
        .and_then(Session::spawn)
        .map_err(|e| explain(e, &point))?;
    read_further_ahead(&point);
    if let Some(limit) = options.idle_exit {
        end_when_idle(activity, limit, leave_if_unused(point.clone()));
    }
    Ok(Mounted { session, point })
}

/// Lets the kernel ask for more at once when a file is read in sequence. Only
/// root may; else reads stay 128 KiB long, which is slower and nothing more.
fn read_further_ahead(point: &Path) {
    #[cfg(target_os = "linux")]
    if let Ok(meta) = std::fs::metadata(point) {
        use std::os::unix::fs::MetadataExt;
        let device = meta.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let file = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
        let _ = std::fs::write(file, READ_AHEAD_KIB.to_string());
    }
}

/// What is open on the drive, or has its working folder there, keeps it.
pub(crate) fn leave_if_unused(point: PathBuf) -> impl Fn() -> bool + Send + 'static {
    move || matches!(unmount(&point, false), Ok(()) | Err(MountError::NotMounted(_)))
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

fn explain(error: io::Error, point: &Path) -> MountError {
    let text = error.to_string();
    if !Path::new("/dev/fuse").exists() && cfg!(target_os = "linux") {
        MountError::NoFuse
    } else if text.contains("user_allow_other") {
        MountError::AllowOther
    } else if error.kind() == io::ErrorKind::NotFound {
        MountError::NoFusermount
    } else {
        MountError::Io(format!("can't mount on {}", point.display()), error)
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
#[cfg(target_os = "linux")]
pub fn is_drive(point: &Path) -> bool {
    let Ok(text) = std::fs::read("/proc/self/mountinfo") else { return false };
    text.split(|b| *b == b'\n').any(|line| is_drive_at(line, point))
}

/// Whether this line of mountinfo is about a drive that is mounted there.
#[cfg(target_os = "linux")]
fn is_drive_at(line: &[u8], point: &Path) -> bool {
    let mut fields = line.split(|b| *b == b' ');
    let at = fields.by_ref().nth(4).map(unescape);
    let mut mounted = fields.skip_while(|f| *f != b"-").skip(1);
    let kind = mounted.next().unwrap_or_default();
    let source = mounted.next().map(String::from_utf8_lossy).unwrap_or_default();
    let is_ours = match kind {
        // Behind the name of the server.
        b"nfs" => source.contains(&format!(":/{}", crate::nfs::NAME_PREFIX)),
        // Without fusermount3 the kernel is told of no subtype.
        _ => kind.starts_with(b"fuse") && source.starts_with(SOURCE_PREFIX),
    };
    is_ours && at.is_some_and(|at| Path::new(OsStr::from_bytes(&at)) == point)
}

/// Whether anything is mounted exactly there.
#[cfg(not(target_os = "linux"))]
pub fn is_drive(point: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |p: &Path| std::fs::metadata(p).map(|m| m.dev()).ok();
    point.parent().is_some_and(|parent| device(point) != device(parent))
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
    if !is_drive(&point) {
        return Err(MountError::NotMounted(shown));
    }
    let unmounted = system_unmount(&point, lazy);
    if unmounted.is_ok() || fusermount(&point, lazy) || !is_drive(&point) {
        return Ok(());
    }
    Err(match unmounted {
        // A lazy one is never in use.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied && lazy => MountError::Foreign(shown),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied && !is_own(&point) => {
            MountError::Foreign(shown)
        }
        _ => MountError::Busy(shown),
    })
}

/// Whether this user mounted the drive: nobody else can look at it, except where
/// others were let in.
fn is_own(point: &Path) -> bool {
    // What the kernel has mounted through NFS is root's.
    #[cfg(target_os = "linux")]
    if rustix::fs::statfs(point).is_ok_and(|fs| fs.f_type == rustix::fs::NFS_SUPER_MAGIC) {
        return rustix::process::geteuid().is_root();
    }
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
        let is_ours =
            |line: &str| super::is_drive_at(line.as_bytes(), std::path::Path::new("/mnt/a drive"));
        let line = |kind: &str, source: &str| {
            format!(r"61 29 0:50 / /mnt/a\040drive ro,nosuid - {kind} {source} ro,vers=3")
        };
        assert!(is_ours(&line("fuse.tresor", "tresor:/srv/repo")));
        assert!(is_ours(&line("nfs", "127.0.0.1:/tresor-00ff")));
        assert!(is_ours(&line("nfs", "[::1]:/tresor-00ff/snapshots")));
        assert!(!is_ours(&line("nfs", "127.0.0.1:/srv/tresor-x")));
        assert!(!is_ours(&line("fuse.sshfs", "host:/tresor-00ff")));
        assert!(!is_ours(&line("ext4", "tresor:/srv/repo")));
        assert!(!is_ours(&line("nfs", "127.0.0.1:/tresor-00ff").replace("drive", "drives")));
        assert!(!is_ours(""));
    }
}
