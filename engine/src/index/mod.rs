//! The index: which pack holds which blob, and where.
//!
//! Index objects in the store are the truth about what has been saved; runs
//! (`run.rs`) make them searchable without holding them in memory, and are kept
//! equal to them (`sync.rs`).

mod compact;
mod fresh;
mod reliance;
mod run;
mod run_writer;
mod sync;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};

pub use reliance::Reliance;
pub use run::{Entry, PackInfo, Run};
pub use run_writer::RunBuilder;
pub use sync::read_object;

use fresh::Fresh;
use reliance::{Relying, Unreliable};
use sync::{Sync, cached_runs};

use crate::crypto::Keys;
use crate::error::{Error, Result};
use crate::format::{BlobId, BlobKind, ObjectId, PackEntry, SegmentEntry};
use crate::store::Store;

/// Where a segment lies, and what is needed to open it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentAddr {
    pub pack: ObjectId,
    pub salt: [u8; 32],
    /// Bytes from the start of the pack; also the nonce.
    pub offset: u32,
    /// Length in the pack.
    pub sealed_len: u32,
    /// Length decompressed.
    pub raw_len: u32,
}

impl SegmentAddr {
    /// Of a segment that begins at `offset` in a pack, see [`PackEntry::placed`].
    pub fn new(pack: &PackEntry, offset: u32, segment: &SegmentEntry) -> Self {
        Self {
            pack: pack.id,
            salt: pack.salt,
            offset,
            sealed_len: segment.sealed_len,
            raw_len: segment.raw_len() as u32,
        }
    }

    /// Offset of the byte after this segment.
    pub fn end(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.sealed_len)
    }
}

/// Where a blob lies: `segment[start..start + len]` once decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    pub segment: SegmentAddr,
    pub start: u32,
    pub len: u32,
}

#[derive(Clone, Copy, Debug)]
pub struct Found {
    pub location: Location,
    pub kind: BlobKind,
    /// Since when (seconds since 1970) prune wants to delete the pack: read it,
    /// but don't rely on it for new snapshots.
    pub marked: Option<i64>,
}

#[derive(Default)]
struct State {
    runs: Vec<Arc<Run>>,
    fresh: Fresh,
    /// Index objects in the store that are not in force, and what they replace.
    replaced: HashMap<ObjectId, Vec<ObjectId>>,
    damaged: Vec<(ObjectId, String)>,
    unreliable: Unreliable,
}

pub struct Index {
    folder: Option<PathBuf>,
    state: RwLock<State>,
    /// What syncs have read that failed afterwards: of no use to anybody but the next one.
    syncing: Mutex<Vec<Arc<Run>>>,
    /// Held by who merges runs of fresh blobs.
    merging: Mutex<()>,
    /// Backups that rely on the index.
    relying: Relying,
}

impl Index {
    /// `folder` is where runs are kept between processes; without one they are temporary.
    pub fn new(folder: Option<PathBuf>) -> Self {
        let folder = folder.filter(|f| std::fs::create_dir_all(f).is_ok());
        let runs = folder.as_deref().map(cached_runs).unwrap_or_default();
        let state = RwLock::new(State { runs, ..State::default() });
        let (syncing, merging, relying) = Default::default();
        Self { folder, state, syncing, merging, relying }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(|e| e.into_inner())
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(|e| e.into_inner())
    }

    /// A place of the blob, preferably in a pack that is not marked.
    pub fn find(&self, id: &BlobId) -> Option<Found> {
        let state = self.read();
        if let Some(found) = state.fresh.find(id) {
            return Some(found);
        }
        let mut places = Vec::new();
        for found in state.runs.iter().flat_map(|run| run.find(id)) {
            if found.marked.is_none() {
                return Some(found);
            }
            places.push(found);
        }
        settle_marks(&mut places);
        places.first().copied()
    }

    /// Every place of the blob, best first.
    pub fn find_all(&self, id: &BlobId) -> Vec<Found> {
        let state = self.read();
        let mut places: Vec<_> = state.fresh.find(id).into_iter().collect();
        places.extend(state.runs.iter().flat_map(|run| run.find(id)));
        settle_marks(&mut places);
        places
    }

    /// For backups: collects which index objects they rely on, from those in force now on.
    /// Until it is dropped, a sync also lists packs, and those that are lost are not relied on.
    pub fn rely(&self) -> Reliance {
        // A sync adds to it before its objects are in force here.
        let _no_sync = self.syncing.lock().unwrap_or_else(|e| e.into_inner());
        self.relying.add(self.objects())
    }

    /// Whether a new snapshot may rely on what the index says of this blob: a pack
    /// has it that is there and won't be deleted.
    pub fn can_rely_on(&self, id: &BlobId) -> bool {
        let state = self.read();
        let mut places = state.runs.iter().flat_map(|run| run.find(id));
        let reliable = |found: Found| {
            found.marked.is_none() && !state.unreliable.contains(&found.location.segment.pack)
        };
        places.any(reliable) || state.fresh.find(id).is_some()
    }

    /// Whether nothing new may rely on a pack, though an entry of it isn't marked.
    pub fn is_unreliable(&self, pack: &ObjectId) -> bool {
        self.read().unreliable.contains(pack)
    }

    /// Packs that the index names and the store has lost, as of the last sync of a backup.
    pub fn lost_packs(&self) -> HashSet<ObjectId> {
        self.read().unreliable.lost.clone()
    }

    /// Something in a pack is not what it must be: as long as this index lives, nothing new
    /// relies on it.
    pub fn add_damaged(&self, pack: ObjectId) {
        if !self.is_damaged(&pack) {
            self.write().unreliable.damaged.insert(pack);
        }
    }

    fn is_damaged(&self, pack: &ObjectId) -> bool {
        self.read().unreliable.damaged.contains(pack)
    }

    /// Packs that were found damaged when something in them was read.
    pub fn damaged_packs(&self) -> HashSet<ObjectId> {
        self.read().unreliable.damaged.clone()
    }

    /// Packs in the store that no index object in force names, and their lengths, as of the
    /// last sync of a backup.
    pub fn unnamed_packs(&self) -> Vec<(ObjectId, u64)> {
        self.read().unreliable.unnamed.clone()
    }

    /// Takes up a pack that this process has just stored.
    pub fn add(&self, pack: &PackEntry) {
        if !self.write().fresh.add(pack) {
            return;
        }
        // Lookups go on meanwhile.
        let Ok(_one_at_a_time) = self.merging.try_lock() else { return };
        let before = self.read().fresh.runs.clone();
        let merged = fresh::merged(&before);
        self.write().fresh.replace(&before, merged);
    }

    /// Index objects that couldn't be read, and why.
    pub fn damaged(&self) -> Vec<(ObjectId, String)> {
        self.read().damaged.clone()
    }

    /// Runs that hold the whole index, for walking over all of it, as it was at the
    /// last sync.
    pub fn runs(&self) -> Vec<Arc<Run>> {
        self.read().runs.clone()
    }

    /// Index objects that are in force.
    pub fn objects(&self) -> HashSet<ObjectId> {
        self.read().runs.iter().flat_map(|r| r.covered()).copied().collect()
    }

    /// Index objects in the store that others replace, each with what it replaces itself.
    pub fn replaced(&self) -> HashMap<ObjectId, Vec<ObjectId>> {
        self.read().replaced.clone()
    }

    /// Makes the index equal to the index objects in the store. Reads only
    /// those that no run covers yet.
    pub fn sync(&self, store: &Store, keys: &Keys) -> Result<()> {
        let mut spare = self.syncing.lock().unwrap_or_else(|e| e.into_inner());
        let (mut runs, replaced) = {
            let state = self.read();
            (state.runs.clone(), state.replaced.clone())
        };
        runs.extend(spare.iter().cloned());
        self.sync_from(store, keys, runs, replaced, &mut spare)
    }

    /// Like `sync`, and reads every index object again: what was read before
    /// says nothing about what is in the store now.
    pub fn reload(&self, store: &Store, keys: &Keys) -> Result<()> {
        let mut spare = self.syncing.lock().unwrap_or_else(|e| e.into_inner());
        self.sync_from(store, keys, Vec::new(), HashMap::new(), &mut spare)
    }

    /// Like `sync`, and checks every byte of the local copy: for those who draw
    /// conclusions from what is not in the index.
    pub fn sync_checked(&self, store: &Store, keys: &Keys) -> Result<()> {
        for _ in 0..2 {
            self.sync(store, keys)?;
            if self.runs().iter().all(|run| run.verify()) {
                return Ok(());
            }
        }
        let place = match &self.folder {
            Some(folder) => folder.display().to_string(),
            None => "temporary files".to_owned(),
        };
        Err(Error::Invalid(format!(
            "the local copy of the index in {place} is garbled again and again; is that disk failing?"
        )))
    }

    fn sync_from(
        &self,
        store: &Store,
        keys: &Keys,
        runs: Vec<Arc<Run>>,
        replaced: HashMap<ObjectId, Vec<ObjectId>>,
        spare: &mut Vec<Arc<Run>>,
    ) -> Result<()> {
        let known = self.runs();
        let files = known.iter().chain(&*spare).filter_map(|r| r.path().map(Path::to_owned));
        let files = files.collect();
        let mut sync = Sync::new(store, keys, self.folder.as_deref(), runs, replaced, files);
        let read = sync.read().and_then(|()| {
            let mut unreliable = Unreliable::doomed(&sync.runs);
            if !self.relying.is_empty() {
                unreliable.look_for_lost(&sync.runs, store)?;
            }
            Ok(unreliable)
        });
        let unreliable = match read {
            Ok(unreliable) => unreliable,
            Err(e) => {
                *spare = sync.give_up(&known);
                return Err(e);
            }
        };
        sync.finish();
        spare.clear();
        let Sync { runs, replaced, damaged, .. } = sync;
        self.relying.rely_on(runs.iter().flat_map(|r| r.covered()));
        let mut state = self.write();
        let mut unreliable = unreliable;
        unreliable.damaged.clone_from(&state.unreliable.damaged);
        *state = State { runs, replaced, damaged, unreliable, ..State::default() };
        Ok(())
    }
}

/// A pack that several entries name is marked only if all of them are, and then
/// since the earliest of them; best places first.
fn settle_marks(places: &mut Vec<Found>) {
    let mut marks: HashMap<ObjectId, Option<i64>> = HashMap::new();
    for place in places.iter() {
        let mark = marks.entry(place.location.segment.pack).or_insert(place.marked);
        // None, which is not marked, is less than any time.
        *mark = place.marked.min(*mark);
    }
    for place in places.iter_mut() {
        place.marked = marks[&place.location.segment.pack];
    }
    // Entries that contradict each other about a pack are different places: one may be right.
    places.sort_by_key(|p| (p.marked.is_some(), std::cmp::Reverse(p.marked), p.location));
    places.dedup_by_key(|p| p.location);
}

#[cfg(test)]
mod tests {
    use super::run::tests::{blob, pack};
    use super::*;

    #[test]
    fn what_one_backup_stores_is_found_in_few_places() {
        let index = Index::new(None);
        index.write().fresh = Fresh::new(100);
        let mut most = 0;
        for n in 0..200 {
            index.add(&pack(n as u8, n * 100..n * 100 + 100));
            most = most.max(index.read().fresh.runs.len());
        }
        assert!(most <= 5, "{most} runs");
        for n in 0..200 * 100 {
            let found = index.find(&blob(n)).unwrap();
            assert_eq!(u64::from(found.location.segment.pack.0[0]), n / 100);
        }
        assert!(index.find(&blob(200 * 100)).is_none());
    }
}
