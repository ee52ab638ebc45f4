//! The index: which pack holds which blob, and where.
//!
//! Index objects in the store are the truth about what has been saved; runs
//! (`run.rs`) make them searchable without holding them in memory.

mod run;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};

pub use run::{Entry, PackInfo, Run, RunBuilder};

use crate::crypto::Keys;
use crate::error::{Error, Result};
use crate::format::{
    BlobId, BlobKind, IndexData, ObjectId, ObjectKind, ObjectName, PackEntry, Purpose, sealed,
};
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
    /// Offset of the byte after this segment.
    pub fn end(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.sealed_len)
    }
}

/// Where a blob lies: `segment[start..start + len]` once decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// Entries gathered before they become a run.
const RUN_ENTRIES: usize = 1 << 20;
/// Blobs of packs written by this process that are kept in memory before they become a run.
const DELTA_ENTRIES: usize = 1 << 18;
/// A lookup asks every run, so there are few.
const MOST_RUNS: usize = 6;

#[derive(Default)]
struct State {
    runs: Vec<Arc<Run>>,
    /// Blobs of packs that this process wrote and that no run covers yet.
    delta: HashMap<BlobId, Found>,
    delta_packs: RunBuilder,
    damaged: Vec<(ObjectId, String)>,
}

pub struct Index {
    folder: Option<PathBuf>,
    state: RwLock<State>,
    syncing: Mutex<()>,
    /// Index objects in force at any sync since the last `reset_seen`.
    seen: Mutex<HashSet<ObjectId>>,
}

impl Index {
    /// `folder` is where runs are kept between processes; without one they are temporary.
    pub fn new(folder: Option<PathBuf>) -> Self {
        let folder = folder.filter(|f| std::fs::create_dir_all(f).is_ok());
        let runs = folder.as_deref().map(cached_runs).unwrap_or_default();
        let state = RwLock::new(State { runs, ..State::default() });
        Self { folder, state, syncing: Mutex::new(()), seen: Mutex::default() }
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
        if let Some(found) = state.delta.get(id) {
            return Some(*found);
        }
        let mut marked = None;
        for found in state.runs.iter().flat_map(|run| run.find(id)) {
            if found.marked.is_none() {
                return Some(found);
            }
            marked = Some(found);
        }
        marked
    }

    /// Every place of the blob, best first.
    pub fn find_all(&self, id: &BlobId) -> Vec<Found> {
        let state = self.read();
        let mut all: Vec<_> = state.delta.get(id).copied().into_iter().collect();
        all.extend(state.runs.iter().flat_map(|run| run.find(id)));
        all.sort_by_key(|f| f.marked.is_some());
        all
    }

    /// Takes up a pack that this process has just stored.
    pub fn add(&self, pack: &PackEntry) {
        let mut state = self.write();
        for (offset, segment) in pack.placed() {
            let addr = SegmentAddr {
                pack: pack.id,
                salt: pack.salt,
                offset,
                sealed_len: segment.sealed_len,
                raw_len: segment.raw_len() as u32,
            };
            for (id, start, len) in segment.blobs() {
                let location = Location { segment: addr, start, len };
                state.delta.insert(id, Found { location, kind: segment.kind, marked: None });
            }
        }
        state.delta_packs.add(pack);
        if state.delta.len() >= DELTA_ENTRIES {
            // Temporary: the next sync reads the index objects instead.
            if let Ok(run) = std::mem::take(&mut state.delta_packs).write(None) {
                state.runs.push(Arc::new(run));
                state.delta.clear();
            }
        }
    }

    /// Index objects that couldn't be read, and why.
    pub fn damaged(&self) -> Vec<(ObjectId, String)> {
        self.read().damaged.clone()
    }

    /// Runs that hold the whole index, for walking over all of it. Only
    /// complete right after a sync.
    pub fn runs(&self) -> Vec<Arc<Run>> {
        self.read().runs.clone()
    }

    /// Index objects that are in force.
    pub fn objects(&self) -> HashSet<ObjectId> {
        let state = self.read();
        let covered = state.runs.iter().flat_map(|r| r.covered());
        covered.copied().chain(state.damaged.iter().map(|d| d.0)).collect()
    }

    /// Starts to collect anew which index objects are relied on.
    pub fn reset_seen(&self) {
        *self.seen() = self.objects();
    }

    /// Index objects that were in force at any time since `reset_seen`.
    pub fn seen_objects(&self) -> HashSet<ObjectId> {
        self.seen().clone()
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, HashSet<ObjectId>> {
        self.seen.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Makes the index equal to the index objects in the store. Reads only
    /// those that no run covers yet.
    pub fn sync(&self, store: &Store, keys: &Keys) -> Result<()> {
        let _one_at_a_time = self.syncing.lock().unwrap_or_else(|e| e.into_inner());
        for _ in 0..8 {
            let listed = store.list(ObjectKind::Index)?;
            let listed: HashSet<ObjectId> = listed.into_iter().map(|(name, _)| name.id).collect();
            if self.sync_with(store, keys, &listed)? {
                let objects = self.objects();
                self.seen().extend(objects);
                return Ok(());
            }
        }
        Err(Error::Invalid(
            "index objects keep vanishing while they are read; is a prune running? Try again"
                .into(),
        ))
    }

    /// False if an object vanished meanwhile.
    fn sync_with(&self, store: &Store, keys: &Keys, listed: &HashSet<ObjectId>) -> Result<bool> {
        let (mut runs, stale): (Vec<_>, Vec<_>) =
            self.read().runs.iter().cloned().partition(|run| {
                !run.covered().is_empty() && run.covered().iter().all(|id| listed.contains(id))
            });
        let mut loader =
            Loader { store, keys, folder: self.folder.as_deref(), damaged: Vec::new() };
        loop {
            let replaced: HashSet<_> = runs.iter().flat_map(|r| r.replaces()).copied().collect();
            runs.retain(|run| !run.covered().iter().any(|id| replaced.contains(id)));
            let covered: HashSet<_> = runs.iter().flat_map(|r| r.covered()).copied().collect();
            let damaged: HashSet<_> = loader.damaged.iter().map(|d| d.0).collect();
            let wanted: Vec<_> = listed
                .iter()
                .filter(|id| {
                    !covered.contains(id) && !replaced.contains(id) && !damaged.contains(id)
                })
                .copied()
                .collect();
            if wanted.is_empty() {
                break;
            }
            let Some(new) = loader.load(&wanted)? else { return Ok(false) };
            runs.extend(new);
        }
        let runs = self.compact(runs);
        let keep: HashSet<_> = runs.iter().filter_map(|r| r.path().map(Path::to_owned)).collect();
        for run in stale {
            if let Some(path) = run.path().filter(|p| !keep.contains(*p)) {
                let _ = std::fs::remove_file(path);
            }
        }
        let damaged = loader.damaged;
        *self.write() = State { runs, damaged, ..State::default() };
        Ok(true)
    }

    /// Merges runs until there are few; failing to is no harm.
    fn compact(&self, mut runs: Vec<Arc<Run>>) -> Vec<Arc<Run>> {
        if runs.len() <= MOST_RUNS {
            return runs;
        }
        runs.sort_by_key(|r| std::cmp::Reverse(r.len()));
        // A run that outweighs the rest stays as it is: merging costs its size.
        let rest: usize = runs[1..].iter().map(|r| r.len()).sum();
        let from = usize::from(runs[0].len() > 4 * rest);
        let Ok(merged) = run::merge(&runs[from..], self.folder.as_deref()) else { return runs };
        for run in runs.drain(from..) {
            if let Some(path) = run.path() {
                let _ = std::fs::remove_file(path);
            }
        }
        runs.push(Arc::new(merged));
        runs
    }
}

/// Runs left by earlier processes. Two of them may cover the same object when
/// two processes wrote at once: the later one is dropped.
fn cached_runs(folder: &Path) -> Vec<Arc<Run>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut runs: Vec<Run> = Vec::new();
    let mut covered = HashSet::new();
    for path in
        entries.flatten().map(|e| e.path()).filter(|p| p.extension() == Some("run".as_ref()))
    {
        match Run::open(&path) {
            Ok(run) if !run.covered().iter().any(|id| covered.contains(id)) => {
                covered.extend(run.covered().iter().copied());
                runs.push(run);
            }
            _ => {
                let _ = std::fs::remove_file(&path);
            }
        }
    }
    runs.into_iter().map(Arc::new).collect()
}

struct Loader<'a> {
    store: &'a Store,
    keys: &'a Keys,
    folder: Option<&'a Path>,
    damaged: Vec<(ObjectId, String)>,
}

impl Loader<'_> {
    /// Reads index objects into runs. `None` if one has vanished.
    fn load(&mut self, wanted: &[ObjectId]) -> Result<Option<Vec<Arc<Run>>>> {
        let mut runs = Vec::new();
        let mut builder = RunBuilder::default();
        for batch in wanted.chunks(16) {
            let results: Vec<_> = std::thread::scope(|scope| {
                let read = |id: &ObjectId| (*id, self.read(id));
                let readers: Vec<_> = batch
                    .chunks(4)
                    .map(|ids| scope.spawn(move || ids.iter().map(read).collect::<Vec<_>>()))
                    .collect();
                readers.into_iter().filter_map(|r| r.join().ok()).flatten().collect()
            });
            for (id, result) in results {
                match result {
                    Ok(data) => {
                        builder.covered.push(id);
                        builder.replaces.extend(data.replaces);
                        data.packs.iter().for_each(|p| builder.add(p));
                    }
                    Err(Error::Store(e)) if e.is_not_found() => return Ok(None),
                    Err(Error::Damaged { reason, .. }) => self.damaged.push((id, reason)),
                    Err(e) => return Err(e),
                }
                if builder.len() >= RUN_ENTRIES {
                    runs.push(Arc::new(self.finish(std::mem::take(&mut builder))?));
                }
            }
        }
        if !builder.covered.is_empty() {
            runs.push(Arc::new(self.finish(builder)?));
        }
        Ok(Some(runs))
    }

    fn read(&self, id: &ObjectId) -> Result<IndexData> {
        read_object(self.store, self.keys, id)
    }

    fn finish(&self, mut builder: RunBuilder) -> Result<Run> {
        builder.replaces.sort();
        builder.replaces.dedup();
        let what = || match self.folder {
            Some(folder) => format!("can't write the local index cache in {}", folder.display()),
            None => "can't write a temporary file for the index".to_owned(),
        };
        builder.write(self.folder).map_err(|e| Error::io(what(), e))
    }
}

/// Reads one index object.
pub fn read_object(store: &Store, keys: &Keys, id: &ObjectId) -> Result<IndexData> {
    let name = ObjectName::new(ObjectKind::Index, *id);
    let data: IndexData = sealed::open(keys, Purpose::Index, store.get(&name)?)
        .map_err(|e| Error::damaged(name, e))?;
    if data.packs.iter().all(PackEntry::is_sane) {
        Ok(data)
    } else {
        Err(Error::damaged(name, "it describes an impossible pack"))
    }
}
