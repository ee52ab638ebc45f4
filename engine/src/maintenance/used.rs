//! Which places of blobs are in use: a bit for each entry of the index.

use std::collections::HashSet;
use std::sync::Arc;

use crate::format::{BlobId, ObjectId};
use crate::index::{Index, PackInfo, Run};

/// A set of index entries, one bit each.
pub(super) struct UsedBlobs {
    runs: Vec<Arc<Run>>,
    /// Number of the first entry of each run.
    bases: Vec<usize>,
    bits: Vec<u64>,
    /// Packs not to be relied on if there is another place.
    bad: HashSet<ObjectId>,
}

/// What `insert` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    /// Now used in this pack.
    New(ObjectId),
    Before,
    /// No pack has it, or only bad ones.
    Unknown,
}

impl UsedBlobs {
    /// All entries of a freshly synced index. Places in `bad` packs don't count.
    pub fn new(index: &Index, bad: HashSet<ObjectId>) -> Self {
        let runs = index.runs();
        let mut total = 0;
        let mut bases = Vec::new();
        for run in &runs {
            bases.push(total);
            total += run.len();
        }
        Self { runs, bases, bits: vec![0; total.div_ceil(64)], bad }
    }

    /// Marks one place of the blob as used: an unmarked pack if possible.
    pub fn insert(&mut self, id: &BlobId) -> Inserted {
        let mut best: Option<(bool, usize, ObjectId)> = None;
        for (run, base) in self.runs.iter().zip(&self.bases) {
            for at in run.positions(id) {
                if self.has(base + at) {
                    return Inserted::Before;
                }
                let Some(pack) = run.pack(run.entry(at).pack) else { continue };
                let place = (pack.marked != 0, base + at, pack.id);
                if !self.bad.contains(&pack.id) && best.is_none_or(|b| place < b) {
                    best = Some(place);
                }
            }
        }
        match best {
            Some((_, number, pack)) => {
                self.bits[number / 64] |= 1 << (number % 64);
                Inserted::New(pack)
            }
            None => Inserted::Unknown,
        }
    }

    fn has(&self, number: usize) -> bool {
        self.bits[number / 64] >> (number % 64) & 1 == 1
    }

    /// Every entry of the index with its pack, and whether it is used.
    pub fn entries(&self) -> impl Iterator<Item = (crate::index::Entry, PackInfo, bool)> + '_ {
        self.runs.iter().zip(&self.bases).flat_map(move |(run, base)| {
            run.entries().enumerate().filter_map(move |(i, entry)| {
                Some((entry, run.pack(entry.pack)?, self.has(base + i)))
            })
        })
    }

    pub fn packs(&self) -> impl Iterator<Item = PackInfo> + '_ {
        self.runs.iter().flat_map(|run| run.packs())
    }

    /// Whether this place of the blob is the one in use.
    pub fn uses(&self, id: &BlobId, pack: &ObjectId) -> bool {
        self.runs.iter().zip(&self.bases).any(|(run, base)| {
            run.positions(id).any(|at| {
                self.has(base + at) && run.pack(run.entry(at).pack).is_some_and(|p| p.id == *pack)
            })
        })
    }
}
