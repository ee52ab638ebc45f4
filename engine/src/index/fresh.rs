//! Blobs of packs that this process has stored and that no index object names, as far as
//! the index has been read.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::compact::compact;
use super::run::Run;
use super::run_writer::{RunBuilder, merge};
use super::{Found, Location, SegmentAddr};
use crate::format::{BlobId, BlobKind, PackEntry};

/// Blobs kept in memory before they become a run: just below what makes a table of them
/// twice as large.
const IN_MEMORY: usize = 56_000;

pub(super) struct Fresh {
    in_memory: usize,
    blobs: HashMap<BlobId, Place>,
    segments: Vec<(SegmentAddr, BlobKind)>,
    packs: RunBuilder,
    /// Temporary: the next sync reads the index objects instead.
    pub runs: Vec<Arc<Run>>,
}

/// Where a blob lies: of which segment, from where on, how long.
struct Place {
    segment: u32,
    start: u32,
    len: u32,
}

impl Default for Fresh {
    fn default() -> Self {
        Self::new(IN_MEMORY)
    }
}

impl Fresh {
    pub fn new(in_memory: usize) -> Self {
        let (blobs, segments, packs, runs) = Default::default();
        Self { in_memory, blobs, segments, packs, runs }
    }

    pub fn find(&self, id: &BlobId) -> Option<Found> {
        let in_runs = || self.runs.iter().find_map(|run| run.find(id).next());
        self.blobs.get(id).map(|place| self.found(place)).or_else(in_runs)
    }

    fn found(&self, place: &Place) -> Found {
        let (segment, kind) = self.segments[place.segment as usize];
        Found {
            location: Location { segment, start: place.start, len: place.len },
            kind,
            marked: None,
        }
    }

    /// True if there are more runs now.
    pub fn add(&mut self, pack: &PackEntry) -> bool {
        for (offset, segment) in pack.placed() {
            let number = self.segments.len() as u32;
            self.segments.push((SegmentAddr::new(pack, offset, segment), segment.kind));
            for (id, start, len) in segment.blobs() {
                self.blobs.insert(id, Place { segment: number, start, len });
            }
        }
        self.packs.add(pack);
        if self.blobs.len() < self.in_memory {
            return false;
        }
        let Ok(run) = std::mem::take(&mut self.packs).write(None) else { return false };
        self.runs.push(Arc::new(run));
        self.blobs.clear();
        self.segments.clear();
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
