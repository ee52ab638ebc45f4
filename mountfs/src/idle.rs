//! Ending a drive that nobody uses.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How often a drive that is idle, but in use, is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// When something was asked for last.
pub struct Activity {
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

/// Ends a drive once nothing has been asked for as long as `limit`; `end` says whether
/// that could be done, or the drive is still in use.
pub fn end_when_idle(
    activity: Arc<Activity>,
    limit: Duration,
    end: impl Fn() -> bool + Send + 'static,
) {
    std::thread::spawn(move || {
        loop {
            let left = limit.saturating_sub(activity.idle());
            if !left.is_zero() {
                std::thread::sleep(left);
            } else if end() {
                return;
            } else {
                std::thread::sleep(AGAIN.min(limit));
            }
        }
    });
}
