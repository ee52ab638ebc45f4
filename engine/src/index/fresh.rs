//! Blobs of packs that this process has stored and that no index object names, as far as
//! the index has been read.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::compact::compact;
use super::run::Run;
use super::run_writer::{RunBuilder, merge};
use super::{Found, Location, SegmentAddr};
use crate::format::{BlobId, PackEntry};

/// Blobs kept in memory before they become a run: just below what makes a table of them
/// twice as large.
const IN_MEMORY: usize = 56_000;

pub(super) struct Fresh {
    in_memory: usize,
    blobs: HashMap<BlobId, Found>,
    packs: RunBuilder,
    /// Temporary: the next sync reads the index objects instead.
    pub runs: Vec<Arc<Run>>,
}

impl Default for Fresh {
    fn default() -> Self {
        Self::new(IN_MEMORY)
    }
}

impl Fresh {
    pub fn new(in_memory: usize) -> Self {
        Self { in_memory, blobs: HashMap::new(), packs: RunBuilder::default(), runs: Vec::new() }
    }

    pub fn find(&self, id: &BlobId) -> Option<Found> {
        let in_runs = || self.runs.iter().find_map(|run| run.find(id).next());
        self.blobs.get(id).copied().or_else(in_runs)
    }

    /// True if there are more runs now.
    pub fn add(&mut self, pack: &PackEntry) -> bool {
        for (offset, segment) in pack.placed() {
            let addr = SegmentAddr::new(pack, offset, segment);
            for (id, start, len) in segment.blobs() {
                let location = Location { segment: addr, start, len };
                self.blobs.insert(id, Found { location, kind: segment.kind, marked: None });
            }
        }
        self.packs.add(pack);
        if self.blobs.len() < self.in_memory {
            return false;
        }
        let Ok(run) = std::mem::take(&mut self.packs).write(None) else { return false };
        self.runs.push(Arc::new(run));
        self.blobs.clear();
        true
    }

    /// Takes over runs that were merged out of those there were before, unless they
    /// are not needed any more.
    pub fn replace(&mut self, before: &[Arc<Run>], merged: Vec<Arc<Run>>) {
        let is_in = |run: &Arc<Run>, runs: &[Arc<Run>]| runs.iter().any(|r| Arc::ptr_eq(r, run));
        if before.iter().all(|run| is_in(run, &self.runs)) {
            self.runs.retain(|run| !is_in(run, before));
            self.runs.extend(merged);
        }
    }
}

/// Merges such runs, so that there are few. Takes a while.
pub(super) fn merged(runs: &[Arc<Run>]) -> Vec<Arc<Run>> {
    let mut runs = runs.to_vec();
    compact(&mut runs, |group| merge(group, &HashSet::new(), None).map(Arc::new));
    runs
}
