//! How far away the store is, as its answers tell.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A store that takes longer to answer is far: few large reads, many at once, are better than
/// many small ones. A disk in this machine and a share in the same house answer sooner.
const FAR: Duration = Duration::from_millis(5);
/// One answer counts for so little of what is thought of the next ones.
const WEIGHT: u64 = 4;

#[derive(Default, Debug)]
pub struct Distance {
    /// Nanoseconds that an answer takes, of late; 0 if there was none yet.
    usual: AtomicU64,
}

impl Distance {
    pub fn answered(&self, after: Duration) {
        let took = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX / 2).max(1);
        // That two threads at once overwrite each other's answer is no harm.
        let usual = match self.usual.load(Relaxed) {
            0 => took,
            usual => usual - usual / WEIGHT + took / WEIGHT,
        };
        self.usual.store(usual.max(1), Relaxed);
    }

    pub fn is_far(&self) -> bool {
        Duration::from_nanos(self.usual.load(Relaxed)) >= FAR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_late_answer_is_no_distance() {
        let distance = Distance::default();
        assert!(!distance.is_far());
        (0..10).for_each(|_| distance.answered(Duration::from_micros(80)));
        distance.answered(Duration::from_millis(15));
        assert!(!distance.is_far());
        (0..10).for_each(|_| distance.answered(Duration::from_millis(15)));
        assert!(distance.is_far());
        (0..10).for_each(|_| distance.answered(Duration::from_micros(80)));
        assert!(!distance.is_far());
        distance.answered(Duration::MAX);
        assert!(distance.is_far());
    }
}
