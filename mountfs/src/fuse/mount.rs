//! Mounting.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::drive::Drive;
use super::host::{Serving, serve};
use crate::MountOptions;
use crate::core::SnapshotFs;
use crate::idle::{Activity, end_when_idle};
use crate::point::{Mount, MountError, prepare};

/// `umount -f` first cuts the drive off, and then unmounts it if nothing on it is in use.
const TO_BE_UNMOUNTED: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(20);

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
        let nothing = thread::spawn(|| Ok(()));
        let served = std::mem::replace(&mut session.guard, nothing);
        served.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))?;
        if self.stays() {
            return Err(self.cut_off());
        }
        self.forget();
        Ok(())
    }

    /// Nobody would answer there any more.
    fn cut_off(&mut self) -> io::Error {
        let unmounted = self.mount.unmount(true);
        self.forget();
        let why = "the kernel has cut it off while it was in use, as `umount -f` makes it";
        io::Error::other(match unmounted {
            Ok(()) => format!("{why}; it is unmounted now"),
            Err(e) => format!("{why}; and {e}"),
        })
    }

    /// Whether it is still mounted a moment after the kernel has asked for the last time.
    fn stays(&self) -> bool {
        let polls = TO_BE_UNMOUNTED.as_millis() / POLL.as_millis();
        (0..polls).all(|poll| {
            if poll > 0 {
                thread::sleep(POLL);
            }
            self.mount.is_there()
        })
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
    // Whoever ends it need not wait for that.
    #[cfg(not(target_os = "macos"))]
    if let Some(device) = mounted.mount.device() {
        super::host::read_further_ahead(device);
    }
    if let Some(limit) = options.idle_exit {
        end_when_idle(activity, limit, mounted.mount.clone().leave_if_unused());
    }
    Ok(mounted)
}
