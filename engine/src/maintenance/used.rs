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
    /// Entries of blobs in use that have several places, one as good as the other.
    tied: Vec<u64>,
    packs: Packs,
    /// For each pack whether it can't be relied on.
    bad: Vec<bool>,
}

/// What `insert` found.
#[derive(Clone, Copy, Debug)]
pub(super) enum Inserted {
    /// Now used in this pack; and how long it is.
    New(PackInfo, u32),
    Before(u32),
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
        let bits = vec![0; total.div_ceil(64)];
        Self { runs, bases, tied: bits.clone(), bits, packs, bad }
    }

    pub fn packs(&self) -> &Packs {
        &self.packs
    }

    /// Places of the blob: the number of the entry and that of the pack.
    fn places<'u>(&'u self, id: &BlobId) -> impl Iterator<Item = (usize, usize)> + use<'u> {
        self.places_with_len(id).map(|(number, pack, _)| (number, pack))
    }

    /// The same, and how long the blob is.
    fn places_with_len<'u>(
        &'u self,
        id: &BlobId,
    ) -> impl Iterator<Item = (usize, usize, u32)> + use<'u> {
        let id = *id;
        self.runs.iter().zip(&self.bases).enumerate().flat_map(move |(r, (run, base))| {
            run.positions(&id).filter_map(move |at| {
                let entry = run.entry(at)?;
                Some((base + at, self.packs.number(r, &entry)?, entry.len))
            })
        })
    }

    /// Marks one place of the blob as used: in an unmarked pack if possible. Of
    /// several it is always the same one, whoever looks.
    pub fn insert(&mut self, id: &BlobId) -> Inserted {
        let mut best: Option<(u8, ObjectId, usize, usize, u32)> = None;
        let mut as_good = 0;
        for (number, pack, len) in self.places_with_len(id) {
            if has(&self.bits, number) {
                return Inserted::Before(len);
            }
            let place = (self.rank(pack), self.packs.all[pack].id, number, pack, len);
            if self.bad[pack] || best.is_some_and(|b| b.0 < place.0) {
                continue;
            }
            as_good = if best.is_some_and(|b| b.0 == place.0) { as_good + 1 } else { 1 };
            best = Some(best.map_or(place, |b| b.min(place)));
        }
        let Some((rank, _, number, pack, len)) = best else { return Inserted::Unknown };
        set(&mut self.bits, number);
        if as_good > 1 {
            let is_tied = |pack: usize| !self.bad[pack] && self.rank(pack) == rank;
            let tied: Vec<_> = self.places(id).filter(|(_, pack)| is_tied(*pack)).collect();
            tied.iter().for_each(|(number, _)| set(&mut self.tied, *number));
        }
        Inserted::New(self.packs.all[pack], len)
    }

    /// 0 for a pack that isn't marked, 1 for a marked one, 2 for a doomed one.
    fn rank(&self, pack: usize) -> u8 {
        let info = &self.packs.all[pack];
        u8::from(info.marked != 0) + u8::from(info.is_doomed())
    }

    /// When all are inserted: of several places that are as good, the one counts whose pack has
    /// the least that nobody needs. So a prune relies on the copies that an interrupted one
    /// has made, and what those were made from is garbage.
    pub fn prefer_best_used(&mut self) {
        if self.tied.iter().all(|bits| *bits == 0) {
            return;
        }
        let unneeded = self.unneeded();
        for run in 0..self.runs.len() {
            for at in 0..self.runs[run].len() {
                let number = self.bases[run] + at;
                if !(has(&self.tied, number) && has(&self.bits, number)) {
                    continue;
                }
                let Some(entry) = self.runs[run].entry(at) else { continue };
                let tied = self.places(&entry.id).filter(|(number, _)| has(&self.tied, *number));
                let best = tied.min_by_key(|(_, pack)| (unneeded[*pack], self.packs.all[*pack].id));
                if let Some((best, _)) = best {
                    clear(&mut self.bits, number);
                    set(&mut self.bits, best);
                }
            }
        }
    }

    /// Of each pack, how much of it is blobs that nobody needs, in millionths.
    fn unneeded(&self) -> Vec<u64> {
        let mut sums = vec![(0, 0); self.packs.all.len()];
        for (number, entry, pack) in self.numbered() {
            let (unneeded, all): &mut (u64, u64) = &mut sums[pack];
            *all += u64::from(entry.len);
            if !has(&self.bits, number) && !has(&self.tied, number) {
                *unneeded += u64::from(entry.len);
            }
        }
        sums.into_iter()
            .map(|(unneeded, all)| unneeded.saturating_mul(1_000_000) / all.max(1))
            .collect()
    }

    /// All packs that have the blob, bad ones too.
    pub fn packs_with(&self, id: &BlobId) -> impl Iterator<Item = &PackInfo> {
        self.places(id).map(|(_, pack)| &self.packs.all[pack])
    }

    /// Marks a place in a bad pack as used; for blobs that `insert` doesn't know.
    pub fn insert_bad(&mut self, id: &BlobId) {
        let place = self.places(id).next();
        if let Some((number, _)) = place {
            set(&mut self.bits, number);
        }
    }

    /// The same for a place in one of these packs; false if there is none, or it is used already.
    pub fn insert_in(&mut self, id: &BlobId, packs: &HashSet<ObjectId>) -> bool {
        let all = &self.packs.all;
        let place = self.places(id).find(|(_, pack)| packs.contains(&all[*pack].id));
        match place {
            Some((number, _)) if !has(&self.bits, number) => {
                set(&mut self.bits, number);
                true
            }
            _ => false,
        }
    }

    /// A pack that should have the blob; for those that `insert` doesn't know.
    pub fn bad_place(&self, id: &BlobId) -> Option<PackInfo> {
        self.places(id).next().map(|(_, pack)| self.packs.all[pack])
    }

    /// Every entry of the index once, with the number of its pack and whether it is used.
    pub fn entries(&self) -> impl Iterator<Item = (Entry, usize, bool)> + '_ {
        self.numbered().map(|(number, entry, pack)| (entry, pack, has(&self.bits, number)))
    }

    /// Every entry of the index with its number and that of its pack.
    fn numbered(&self) -> impl Iterator<Item = (usize, Entry, usize)> + '_ {
        self.runs.iter().zip(&self.bases).enumerate().flat_map(move |(r, (run, base))| {
            (0..run.len()).filter_map(move |i| {
                let entry = run.entry(i)?;
                let pack = self.packs.number(r, &entry)?;
                Some((base + i, entry, pack))
            })
        })
    }

    /// Whether the place of the blob in this pack is the one in use.
    pub fn uses(&self, id: &BlobId, pack: &ObjectId) -> bool {
        self.places(id)
            .any(|(number, in_pack)| self.packs.all[in_pack].id == *pack && has(&self.bits, number))
    }
}

fn set(bits: &mut [u64], number: usize) {
    bits[number / 64] |= 1 << (number % 64);
}

fn clear(bits: &mut [u64], number: usize) {
    bits[number / 64] &= !(1 << (number % 64));
}

fn has(bits: &[u64], number: usize) -> bool {
    bits[number / 64] >> (number % 64) & 1 == 1
}
