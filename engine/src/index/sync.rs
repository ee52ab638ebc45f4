//! Makes the index equal to the index objects in the store.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::run::Run;
use super::run_writer::{RunBuilder, TEMP_PREFIX, merge};
use crate::crypto::Keys;
use crate::error::{Error, Result};
use crate::format::{IndexData, ObjectId, ObjectKind, ObjectName, PackEntry, Purpose, sealed};
use crate::object;
use crate::store::Store;

/// Entries gathered before they become a run.
const RUN_ENTRIES: usize = 400_000;
/// A run is left alone if it has so many times the entries of all smaller ones.
const OUTWEIGHS: usize = 4;
/// Index objects read at once, and by how many threads.
const BATCH: usize = 8;
const READERS: usize = 4;
/// How often to begin again when objects vanish while they are read.
const ATTEMPTS: usize = 16;
/// Runs whose writing was interrupted are removed after this long.
const OLD_TEMP: Duration = Duration::from_secs(24 * 3600);

/// Index objects as they were found. Objects don't change, so what is known of
/// one stays true when another vanishes and all begins again.
pub(super) struct Sync<'a> {
    store: &'a Store,
    keys: &'a Keys,
    folder: Option<&'a Path>,
    /// They cover the objects in force.
    pub runs: Vec<Arc<Run>>,
    /// Objects in the store that others replace, each with what it replaces itself:
    /// as long as it is there, that counts too.
    pub replaced: HashMap<ObjectId, Vec<ObjectId>>,
    pub damaged: Vec<(ObjectId, String)>,
    /// Files of all runs that were made or known, to remove those that are not needed.
    files: HashSet<PathBuf>,
}

impl<'a> Sync<'a> {
    pub fn new(
        store: &'a Store,
        keys: &'a Keys,
        folder: Option<&'a Path>,
        runs: Vec<Arc<Run>>,
        replaced: HashMap<ObjectId, Vec<ObjectId>>,
        files: HashSet<PathBuf>,
    ) -> Self {
        Self { store, keys, folder, runs, replaced, damaged: Vec::new(), files }
    }

    /// Reads what no run covers yet.
    pub fn run(&mut self) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let listed = self.store.list(ObjectKind::Index)?;
            let listed: HashSet<ObjectId> = listed.into_iter().map(|(name, _)| name.id).collect();
            if self.attempt(&listed)? {
                self.compact();
                self.remove_files();
                return Ok(());
            }
        }
        Err(Error::Invalid(
            "index objects keep vanishing while they are read; is a prune running? Try again"
                .into(),
        ))
    }

    /// False if an object vanished meanwhile.
    fn attempt(&mut self, listed: &HashSet<ObjectId>) -> Result<bool> {
        self.damaged.clear();
        self.replaced.retain(|id, _| listed.contains(id));
        self.runs.retain(|run| {
            let covered = run.covered();
            !run.is_broken() && !covered.is_empty() && covered.iter().all(|id| listed.contains(id))
        });
        // Everything that a readable object in the store replaces. It only grows:
        // what an object replaces counts also when that object is itself replaced,
        // and the run that told so is dropped.
        let mut replaced: HashSet<ObjectId> = HashSet::new();
        loop {
            replaced.extend(self.runs.iter().flat_map(|r| r.replaces()));
            replaced.extend(self.replaced.values().flatten());
            self.runs.retain(|run| !run.covered().iter().any(|id| replaced.contains(id)));
            // What replaced it has vanished: it is in force again.
            self.replaced.retain(|id, _| replaced.contains(id));
            let covered: HashSet<_> = self.runs.iter().flat_map(|r| r.covered()).collect();
            let damaged: HashSet<_> = self.damaged.iter().map(|d| &d.0).collect();
            let known = |id: &ObjectId| {
                covered.contains(id) || damaged.contains(id) || self.replaced.contains_key(id)
            };
            let wanted: Vec<_> = listed.iter().filter(|id| !known(id)).copied().collect();
            if wanted.is_empty() {
                break;
            }
            if !self.load(&wanted, &replaced)? {
                return Ok(false);
            }
        }
        // Nobody needs what is damaged and replaced.
        let (gone, damaged) =
            std::mem::take(&mut self.damaged).into_iter().partition(|d| replaced.contains(&d.0));
        self.damaged = damaged;
        let gone: Vec<(ObjectId, String)> = gone;
        self.replaced.extend(gone.into_iter().map(|(id, _)| (id, Vec::new())));
        Ok(true)
    }

    /// Reads index objects into runs; of those in `replaced` only what they
    /// replace. False if one has vanished.
    fn load(&mut self, wanted: &[ObjectId], replaced: &HashSet<ObjectId>) -> Result<bool> {
        let mut builder = RunBuilder::default();
        let mut vanished = false;
        for batch in wanted.chunks(BATCH) {
            for (id, result) in self.read_many(batch)? {
                match result {
                    Ok(data) if replaced.contains(&id) => {
                        self.replaced.insert(id, data.replaces);
                    }
                    Ok(data) => {
                        builder.covered.push(id);
                        builder.replaces.extend(data.replaces);
                        data.packs.iter().for_each(|p| builder.add(p));
                    }
                    Err(Error::Store(e)) if e.is_not_found() => vanished = true,
                    Err(Error::Damaged { reason, .. }) => self.damaged.push((id, reason)),
                    Err(e) if e.is_damage() => self.damaged.push((id, e.to_string())),
                    Err(e) => return Err(e),
                }
                if builder.len() >= RUN_ENTRIES {
                    self.finish(std::mem::take(&mut builder))?;
                }
            }
            if vanished {
                break;
            }
        }
        self.finish(builder)?;
        Ok(!vanished)
    }

    fn read_many(&self, ids: &[ObjectId]) -> Result<Vec<(ObjectId, Result<IndexData>)>> {
        let (store, keys) = (self.store, self.keys);
        std::thread::scope(|scope| {
            let read = |id: &ObjectId| (*id, read_object(store, keys, id));
            let readers: Vec<_> = ids
                .chunks(BATCH / READERS)
                .map(|ids| scope.spawn(move || ids.iter().map(read).collect::<Vec<_>>()))
                .collect();
            // All are joined: the scope would panic for one that isn't.
            let parts: Vec<_> = readers.into_iter().map(|r| r.join()).collect();
            let mut all = Vec::new();
            for part in parts {
                // An object that is passed over would look as if nobody had it.
                let panicked = |_| {
                    Error::Invalid(
                        "a thread that reads the index panicked; please report it".into(),
                    )
                };
                all.extend(part.map_err(panicked)?);
            }
            Ok(all)
        })
    }

    fn finish(&mut self, mut builder: RunBuilder) -> Result<()> {
        if builder.covered.is_empty() {
            return Ok(());
        }
        builder.replaces.sort();
        builder.replaces.dedup();
        let run = builder
            .write(self.folder)
            .map_err(|e| Error::io("can't hold the index, neither in a file nor in memory", e))?;
        self.push(run);
        Ok(())
    }

    fn push(&mut self, run: Run) {
        self.files.extend(run.path().map(Path::to_owned));
        self.runs.push(Arc::new(run));
    }

    /// Merges runs until each outweighs all smaller ones: a lookup asks every run, so
    /// there are few, and merging costs their size, so an entry is rarely merged.
    /// Failing to is no harm.
    fn compact(&mut self) {
        self.runs.sort_by_key(|r| std::cmp::Reverse(r.len()));
        let mut left: usize = self.runs.iter().map(|r| r.len()).sum();
        let outweighs = |run: &&Arc<Run>| {
            left -= run.len();
            run.len() > OUTWEIGHS * left
        };
        let from = self.runs.iter().take_while(outweighs).count();
        if self.runs.len() - from > 1
            && let Ok(merged) = merge(&self.runs[from..], self.folder)
        {
            self.runs.truncate(from);
            self.push(merged);
        }
    }

    fn remove_files(&mut self) {
        for run in &self.runs {
            if let Some(path) = run.path() {
                self.files.remove(path);
            }
        }
        for path in self.files.drain() {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Reads one index object.
pub fn read_object(store: &Store, keys: &Keys, id: &ObjectId) -> Result<IndexData> {
    let name = ObjectName::new(ObjectKind::Index, *id);
    // Checked against its name: an old object under another one would escape being replaced.
    let bytes = object::read(store, &name)?;
    let data: IndexData =
        sealed::open(keys, Purpose::Index, bytes).map_err(|e| Error::damaged(name, e))?;
    if data.packs.iter().all(PackEntry::is_sane) {
        Ok(data)
    } else {
        Err(Error::damaged(name, "it describes an impossible pack"))
    }
}

/// Runs left by earlier processes. Two of them may cover the same object when
/// two processes wrote at once: the later one is dropped.
pub(super) fn cached_runs(folder: &Path) -> Vec<Arc<Run>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut runs: Vec<Run> = Vec::new();
    let mut covered = HashSet::new();
    for path in entries.flatten().map(|e| e.path()) {
        if path.extension() != Some("run".as_ref()) {
            remove_old_temp(&path);
            continue;
        }
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

fn remove_old_temp(path: &Path) {
    let is_temp = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(TEMP_PREFIX));
    let age = |m: std::fs::Metadata| SystemTime::now().duration_since(m.modified().ok()?).ok();
    let old = || std::fs::metadata(path).ok().and_then(age).is_some_and(|age| age >= OLD_TEMP);
    if is_temp && old() {
        let _ = std::fs::remove_file(path);
    }
}
