//! Mounting.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::drive::Drive;
use super::host::{Serving, serve};
use crate::MountOptions;
use crate::core::SnapshotFs;
use crate::idle::{Activity, end_when_idle};
use crate::point::{MountError, leave_if_unused, prepare, unmount};

/// A mounted drive. Dropped, it is unmounted.
pub struct Mounted {
    session: Session,
    point: Point,
}

/// Serves the drive until the kernel ends that, because somebody has unmounted it, or this is dropped.
struct Session(Option<Serving>);

impl Session {
    fn wait(mut self) -> io::Result<()> {
        let Some(session) = &mut self.0 else { return Ok(()) };
        let nothing = std::thread::spawn(|| Ok(()));
        let served = std::mem::replace(&mut session.guard, nothing);
        let ended = served.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")));
        // After an error it may still be mounted.
        if ended.is_ok() {
            self.forget()
        } else {
            drop(self.0.take())
        }
        ended
    }

    /// Dropped, fuser 0.18 would unmount what is at the mount point, though the drive is gone:
    /// it takes the answer of a dead connection for that of a living one. That may be an automount,
    /// or somebody's new drive.
    fn forget(&mut self) {
        std::mem::forget(self.0.take());
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.0.as_ref().is_some_and(|session| session.guard.is_finished()) {
            self.forget();
        }
    }
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
        self.session.wait()
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
    let drive = Arc::new(Drive::new(fs, activity.clone(), options));
    let session = serve(drive, &point, options)?;
    if let Some(limit) = options.idle_exit {
        end_when_idle(activity, limit, leave_if_unused(point.clone()));
    }
    Ok(Mounted { session: Session(Some(session)), point: Point(point) })
}
