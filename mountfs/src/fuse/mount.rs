//! Mounting.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::drive::Drive;
use super::host::{Serving, serve};
use crate::MountOptions;
use crate::core::SnapshotFs;
use crate::idle::{Activity, end_when_idle};
use crate::point::{Mount, MountError, prepare};

/// A mounted drive. Dropped, it is unmounted.
pub struct Mounted {
    /// Serves the drive until the kernel ends that, because somebody has unmounted it, or this is
    /// dropped.
    session: Option<Serving>,
    mount: Mount,
}

impl Mounted {
    /// Where it is, without symlinks.
    pub fn point(&self) -> &Path {
        self.mount.point()
    }

    /// Waits until somebody unmounts it.
    pub fn wait(mut self) -> io::Result<()> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let nothing = std::thread::spawn(|| Ok(()));
        let served = std::mem::replace(&mut session.guard, nothing);
        served.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))?;
        self.forget();
        Ok(())
    }

    /// Dropped, fuser 0.18 would unmount what is at the mount point, whatever that is: it takes
    /// the answer of a dead connection for that of a living one. It may be an automount, or
    /// somebody's new drive. On macOS it knows nothing of the mount point.
    fn forget(&mut self) {
        std::mem::forget(self.session.take());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // After an error it may still be mounted. There is nobody to be told.
        if self.session.is_some() {
            let _ = self.mount.unmount(true);
            self.forget();
        }
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
    let mounted = options.own.mounting(|| {
        let session = serve(drive, &point, options)?;
        let mount = Mount::made(point.clone());
        Ok((Mounted { session: Some(session), mount: mount.clone() }, mount))
    })?;
    if let Some(limit) = options.idle_exit {
        end_when_idle(activity, limit, mounted.mount.clone().leave_if_unused());
    }
    Ok(mounted)
}
