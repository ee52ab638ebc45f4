//! Mounting through FUSE.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};

use super::adapter::Adapter;
use crate::OnError;
use crate::core::SnapshotFs;
use crate::idle::{Activity, end_when_idle};
use crate::point::{MountError, SOURCE_PREFIX, prepare, unmount};

/// Threads that take requests; most of what must be fetched is answered by others.
/// More make the kernel wake one that sleeps on another processor. Only on Linux
/// can there be several.
pub(super) const THREADS: usize = if cfg!(target_os = "linux") { 2 } else { 1 };
const READ_AHEAD_KIB: u32 = 1024;

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
        let point = point.clone();
        // What is open on the drive, or has its working folder there, keeps it.
        end_when_idle(activity, limit, move || {
            matches!(unmount(&point, false), Ok(()) | Err(MountError::NotMounted(_)))
        });
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
