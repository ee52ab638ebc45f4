//! Mounting on macOS, through macFUSE; what it is told is in `macfuse_options.rs`.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fuser::{BackgroundSession, Session, SessionACL};

use super::adapter::Adapter;
use super::drive::Drive;
use super::macfuse;
use super::macfuse_options::options_for;
use crate::MountOptions;
use crate::point::{MountError, is_drive};

/// fuser has one thread here that takes requests, and it never fetches.
pub(super) const THREADS: usize = 1;
/// How long the kernel may take to show a drive that answers.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// A drive that is served. Dropped, its session ends.
pub(super) type Serving = BackgroundSession;

/// Mounts the drive and serves it.
pub(super) fn serve(
    drive: Arc<Drive>,
    point: &Path,
    options: &MountOptions,
) -> Result<Serving, MountError> {
    let session = connect(Adapter::new(drive), point, options)?;
    let session = session.spawn().map_err(|e| MountError::Io(point.display().to_string(), e))?;
    wait_until_shown(point);
    Ok(session)
}

fn connect(
    adapter: Adapter,
    point: &Path,
    options: &MountOptions,
) -> Result<Session<Adapter>, MountError> {
    let acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    let told = options_for(options, &adapter.fs().label());
    match macfuse::connect(adapter, point, &told, acl) {
        Some(Ok(session)) => Ok(session),
        Some(Err(e)) => Err(explain(e, point)),
        None => Err(MountError::NoMacFuse),
    }
}

/// The kernel mounts once the session answers, and doesn't tell.
fn wait_until_shown(point: &Path) {
    let start = Instant::now();
    while !is_drive(point) && start.elapsed() < PATIENCE {
        std::thread::sleep(POLL);
    }
}

fn explain(error: io::Error, point: &Path) -> MountError {
    MountError::Io(
        format!(
            "can't mount on {} (has macFUSE's extension been allowed in System Settings, Privacy & Security?)",
            point.display()
        ),
        error,
    )
}
