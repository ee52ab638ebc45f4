//! Unmounting a drive that nobody uses.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::mount::{MountError, unmount};

/// How often a drive that is idle, but in use, is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// When the kernel asked for something last.
pub(super) struct Activity {
    start: Instant,
    last: AtomicU64,
}

impl Activity {
    pub fn new() -> Self {
        Self { start: Instant::now(), last: AtomicU64::new(0) }
    }

    pub fn note(&self) {
        self.last.store(self.start.elapsed().as_millis() as u64, Relaxed);
    }

    fn idle(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.last.load(Relaxed)))
    }
}

/// Unmounts once nothing has been asked for as long as `limit`. What is open
/// on the drive, or has its working folder there, keeps it.
pub(super) fn unmount_when_idle(activity: Arc<Activity>, limit: Duration, point: PathBuf) {
    std::thread::spawn(move || {
        loop {
            let left = limit.saturating_sub(activity.idle());
            if !left.is_zero() {
                std::thread::sleep(left);
                continue;
            }
            match unmount(&point, false) {
                Ok(()) | Err(MountError::NotMounted(_)) => return,
                Err(_) => std::thread::sleep(AGAIN.min(limit)),
            }
        }
    });
}
