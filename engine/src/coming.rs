//! Segments that somebody is fetching together with others: whoever wants one of them waits
//! for that instead of fetching it again.

use std::collections::HashSet;
use std::sync::{Condvar, Mutex, MutexGuard};

use crate::index::SegmentAddr;

#[derive(Default)]
pub struct Coming {
    segments: Mutex<HashSet<SegmentAddr>>,
    arrived: Condvar,
}

impl Coming {
    fn lock(&self) -> MutexGuard<'_, HashSet<SegmentAddr>> {
        self.segments.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub fn contains(&self, addr: &SegmentAddr) -> bool {
        self.lock().contains(addr)
    }

    /// Waits until nobody is fetching it. Who holds a claim must not wait.
    pub fn wait_for(&self, addr: &SegmentAddr) {
        let waits = |segments: &mut HashSet<SegmentAddr>| segments.contains(addr);
        drop(self.arrived.wait_while(self.lock(), waits).unwrap_or_else(|e| e.into_inner()));
    }

    /// For the caller to fetch: those that nobody else is fetching, and that are still
    /// `wanted` when that is certain.
    pub fn claim(
        &self,
        mut addrs: Vec<SegmentAddr>,
        wanted: impl Fn(&SegmentAddr) -> bool,
    ) -> Claim<'_> {
        let mut segments = self.lock();
        addrs.retain(|addr| wanted(addr) && segments.insert(*addr));
        drop(segments);
        Claim { coming: self, addrs }
    }
}

/// Segments that one thread is fetching; when it is dropped, others need wait no longer.
pub struct Claim<'c> {
    coming: &'c Coming,
    pub addrs: Vec<SegmentAddr>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut segments = self.coming.lock();
        for addr in &self.addrs {
            segments.remove(addr);
        }
        drop(segments);
        self.coming.arrived.notify_all();
    }
}
