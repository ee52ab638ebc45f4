//! Which places of blobs are in use: a bit for each entry of the index.

use std::collections::hash_map::Entry as Slot;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::format::{BlobId, ObjectId};
use crate::index::{Entry, Index, PackInfo, Run};

/// A pack that another entry names already.
const AGAIN: u32 = u32::MAX;

/// Every pack of the index once. A pack that several entries name is marked only
/// if all of them are, and then since the latest of them: deleting can wait.
pub(super) struct Packs {
    all: Vec<PackInfo>,
    numbers: HashMap<ObjectId, u32>,
    /// For each run, the numbers of its packs in `all`.
    of_runs: Vec<Vec<u32>>,
}

impl Packs {
    pub fn new(runs: &[Arc<Run>]) -> Self {
        let mut packs = Self { all: Vec::new(), numbers: HashMap::new(), of_runs: Vec::new() };
        for run in runs {
            let of_run = run.packs().map(|pack| packs.add(pack)).collect();
            packs.of_runs.push(of_run);
        }
        packs
    }

    fn add(&mut self, pack: PackInfo) -> u32 {
        match self.numbers.entry(pack.id) {
            Slot::Occupied(number) => {
                let known = &mut self.all[*number.get() as usize];
                let both = known.marked != 0 && pack.marked != 0;
                known.marked = if both { known.marked.max(pack.marked) } else { 0 };
                AGAIN
            }
            Slot::Vacant(place) => {
                let number = *place.insert(self.all.len() as u32);
                self.all.push(pack);
                number
            }
        }
    }

    pub fn get(&self, id: &ObjectId) -> Option<&PackInfo> {
        self.numbers.get(id).map(|number| &self.all[*number as usize])
    }

    pub fn iter(&self) -> impl Iterator<Item = &PackInfo> {
        self.all.iter()
    }

    /// The number in `all` of the pack that an entry of a run lies in; `None` for
    /// an entry that repeats another one.
    fn number(&self, run: usize, entry: &Entry) -> Option<usize> {
        let number = self.of_runs[run].get(entry.pack as usize)?;
        (*number != AGAIN).then_some(*number as usize)
    }
}

/// A set of index entries, one bit each.
pub(super) struct UsedBlobs {
    runs: Vec<Arc<Run>>,
    /// Number of the first entry of each run.
    bases: Vec<usize>,
    bits: Vec<u64>,
    packs: Packs,
    /// For each pack whether it can't be relied on.
    bad: Vec<bool>,
}

/// What `insert` found.
#[derive(Clone, Copy, Debug)]
pub(super) enum Inserted {
    /// Now used in this pack.
    New(PackInfo),
    Before,
    /// No pack has it, or only bad ones.
    Unknown,
}

impl UsedBlobs {
    /// All entries of a freshly synced index. Places in bad packs don't count.
    pub fn new(index: &Index, is_bad: impl Fn(&PackInfo) -> bool) -> Self {
        let runs = index.runs();
        let mut total = 0;
        let mut bases = Vec::new();
        for run in &runs {
            bases.push(total);
            total += run.len();
        }
        let packs = Packs::new(&runs);
        let bad = packs.iter().map(is_bad).collect();
        Self { runs, bases, bits: vec![0; total.div_ceil(64)], packs, bad }
    }

    pub fn packs(&self) -> &Packs {
        &self.packs
    }

    /// Places of the blob: the number of the entry and that of the pack.
    fn places<'u>(&'u self, id: &BlobId) -> impl Iterator<Item = (usize, usize)> + use<'u> {
        let id = *id;
        self.runs.iter().zip(&self.bases).enumerate().flat_map(move |(r, (run, base))| {
            run.positions(&id)
                .filter_map(move |at| Some((base + at, self.packs.number(r, &run.entry(at)?)?)))
        })
    }

    /// Marks one place of the blob as used: in an unmarked pack if possible. Of
    /// several it is always the same one, whoever looks.
    pub fn insert(&mut self, id: &BlobId) -> Inserted {
        let mut best: Option<(u8, ObjectId, usize, usize)> = None;
        for (number, pack) in self.places(id) {
            if self.has(number) {
                return Inserted::Before;
            }
            let info = &self.packs.all[pack];
            // Not marked, marked, doomed.
            let rank = u8::from(info.marked != 0) + u8::from(info.is_doomed());
            let place = (rank, info.id, number, pack);
            if !self.bad[pack] && best.is_none_or(|b| place < b) {
                best = Some(place);
            }
        }
        let Some((_, _, number, pack)) = best else { return Inserted::Unknown };
        self.set(number);
        Inserted::New(self.packs.all[pack])
    }

    /// All packs that have the blob, bad ones too.
    pub fn packs_with(&self, id: &BlobId) -> impl Iterator<Item = &PackInfo> {
        self.places(id).map(|(_, pack)| &self.packs.all[pack])
    }

    /// Marks a place in a bad pack as used; for blobs that `insert` doesn't know.
    pub fn insert_bad(&mut self, id: &BlobId) {
        let place = self.places(id).next();
        if let Some((number, _)) = place {
            self.set(number);
        }
    }

    /// The same for a place in one of these packs; false if there is none, or it is used already.
    pub fn insert_in(&mut self, id: &BlobId, packs: &HashSet<ObjectId>) -> bool {
        let all = &self.packs.all;
        let place = self.places(id).find(|(_, pack)| packs.contains(&all[*pack].id));
        match place {
            Some((number, _)) if !self.has(number) => {
                self.set(number);
                true
            }
            _ => false,
        }
    }

    /// A pack that should have the blob; for those that `insert` doesn't know.
    pub fn bad_place(&self, id: &BlobId) -> Option<PackInfo> {
        self.places(id).next().map(|(_, pack)| self.packs.all[pack])
    }

    fn set(&mut self, number: usize) {
        self.bits[number / 64] |= 1 << (number % 64);
    }

    fn has(&self, number: usize) -> bool {
        self.bits[number / 64] >> (number % 64) & 1 == 1
    }

    /// Every entry of the index once, with the number of its pack and whether it is used.
    pub fn entries(&self) -> impl Iterator<Item = (Entry, usize, bool)> + '_ {
        self.runs.iter().zip(&self.bases).enumerate().flat_map(move |(r, (run, base))| {
            (0..run.len()).filter_map(move |i| {
                let entry = run.entry(i)?;
                Some((entry, self.packs.number(r, &entry)?, self.has(base + i)))
            })
        })
    }

    /// Whether the place of the blob in this pack is the one in use.
    pub fn uses(&self, id: &BlobId, pack: &ObjectId) -> bool {
        self.places(id)
            .any(|(number, in_pack)| self.packs.all[in_pack].id == *pack && self.has(number))
    }
}
