//! Mounting.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fuser::BackgroundSession;

use super::adapter::Adapter;
use super::host;
use crate::MountOptions;
use crate::core::SnapshotFs;
use crate::idle::{Activity, end_when_idle};
use crate::point::{MountError, leave_if_unused, prepare, unmount};

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
