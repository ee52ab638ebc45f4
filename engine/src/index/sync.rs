//! Makes the index equal to the index objects in the store.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::compact::compact;
use super::run::Run;
use super::run_writer::{RunBuilder, TEMP_PREFIX, merge};
use crate::crypto::Keys;
use crate::error::{Error, Result};
use crate::format::{IndexData, ObjectId, ObjectKind, ObjectName, PackEntry, Purpose, sealed};
use crate::object;
use crate::store::Store;
use crate::workers::{self, Room};

/// Entries gathered before they become a run.
const RUN_ENTRIES: usize = 400_000;
/// Index objects read at once, and how many bytes they may have together: a store that is
/// far away answers late.
const BATCH: usize = 32;
const BATCH_BYTES: u64 = 16 << 20;
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
    /// Files of all runs that were made or known, to remove those that are not needed in
    /// the end.
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

    /// Reads what no run covers yet. Then [`finish`](Self::finish), or
    /// [`give_up`](Self::give_up).
    pub fn read(&mut self) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let listed = self.store.list(ObjectKind::Index)?;
            let listed = listed.into_iter().map(|(name, size)| (name.id, size)).collect();
            if self.attempt(&listed)? {
                return Ok(());
            }
        }
        Err(Error::Invalid(
            "index objects keep vanishing while they are read; is a prune running? Try again"
                .into(),
        ))
    }

    /// Makes runs few, and removes files that are not needed any more.
    pub fn finish(&mut self) {
        self.compact();
        self.remove_files();
    }

    /// After an error: what was read beside the `known` runs, to go on from the next time.
    pub fn give_up(mut self, known: &[Arc<Run>]) -> Vec<Arc<Run>> {
        let covered: HashSet<_> = known.iter().flat_map(|run| run.covered()).collect();
        let is_new = |run: &Arc<Run>| !run.covered().iter().any(|id| covered.contains(id));
        self.runs.retain(is_new);
        let read = self.runs.clone();
        self.runs.extend(known.iter().cloned());
        self.remove_files();
        read
    }

    /// `listed` are all index objects and their lengths. False if one vanished meanwhile.
    fn attempt(&mut self, listed: &HashMap<ObjectId, u64>) -> Result<bool> {
        self.damaged.clear();
        self.replaced.retain(|id, _| listed.contains_key(id));
        self.runs.retain(|run| !run.is_broken() && !run.covered().is_empty());
        // Everything that a readable object in the store replaces. It only grows:
        // what an object replaces counts also when that object is itself replaced.
        let mut replaced: HashSet<ObjectId> = HashSet::new();
        loop {
            let told = self.runs.iter().flat_map(|r| r.replaces());
            replaced.extend(told.filter(|(_, by)| listed.contains_key(by)).map(|(id, _)| *id));
            replaced.extend(self.replaced.values().flatten());
            self.leave_out(|id| !listed.contains_key(id), &replaced);
            // What replaced it has vanished: it is in force again.
            self.replaced.retain(|id, _| replaced.contains(id));
            let covered: HashSet<_> = self.runs.iter().flat_map(|r| r.covered()).collect();
            let damaged: HashSet<_> = self.damaged.iter().map(|d| &d.0).collect();
            let known = |id: &ObjectId| {
                covered.contains(id) || damaged.contains(id) || self.replaced.contains_key(id)
            };
            let wanted = listed.iter().filter(|(id, _)| !known(id)).map(|(id, len)| (*id, *len));
            let wanted: Vec<_> = wanted.collect();
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

    /// Takes what is not in force out of the runs; of what is replaced, and there, it is
    /// kept what that replaces. A run that can't be written is read again from the store.
    fn leave_out(&mut self, is_gone: impl Fn(&ObjectId) -> bool, replaced: &HashSet<ObjectId>) {
        for run in std::mem::take(&mut self.runs) {
            let covered = run.covered().iter().copied();
            let gone: HashSet<_> =
                covered.filter(|id| is_gone(id) || replaced.contains(id)).collect();
            if gone.is_empty() {
                self.runs.push(run);
                continue;
            }
            for id in gone.iter().filter(|id| !is_gone(id)) {
                self.replaced.entry(*id).or_default();
            }
            for (id, by) in run.replaces().filter(|(_, by)| gone.contains(*by)) {
                if let Some(replaces) = self.replaced.get_mut(by) {
                    replaces.push(*id);
                }
            }
            if gone.len() < run.covered().len()
                && let Ok(rest) = merge(&[run], &gone, self.folder)
            {
                self.push(rest);
            }
        }
    }

    /// Reads index objects into runs; of those in `replaced` only what they
    /// replace. False if one has vanished.
    fn load(&mut self, wanted: &[(ObjectId, u64)], replaced: &HashSet<ObjectId>) -> Result<bool> {
        let mut builder = RunBuilder::default();
        let mut vanished = false;
        for batch in batches(wanted) {
            for (id, result) in self.read_many(batch)? {
                match result {
                    Ok(data) if replaced.contains(&id) => {
                        self.replaced.insert(id, data.replaces);
                    }
                    Ok(data) => {
                        let number = builder.covered.len() as u32;
                        builder.covered.push(id);
                        builder.replaces.extend(data.replaces.into_iter().map(|id| (id, number)));
                        data.packs.iter().for_each(|p| builder.add(p));
                    }
                    Err(Error::Store(e)) if e.is_not_found() => vanished = true,
                    Err(Error::Damaged { reason, .. }) => self.damaged.push((id, reason)),
                    Err(e) if e.is_damage() => self.damaged.push((id, e.to_string())),
                    Err(e) => return Err(e),
                }
                if builder.len() >= RUN_ENTRIES {
                    self.keep(std::mem::take(&mut builder))?;
                }
            }
            if vanished {
                break;
            }
        }
        self.keep(builder)?;
        Ok(!vanished)
    }

    fn read_many(&self, ids: &[(ObjectId, u64)]) -> Result<Vec<(ObjectId, Result<IndexData>)>> {
        let room = Room { bytes: BATCH_BYTES, of: &|(_, len)| *len };
        workers::map(ids, BATCH, room, |(id, _)| Ok((*id, read_object(self.store, self.keys, id))))
    }

    fn keep(&mut self, builder: RunBuilder) -> Result<()> {
        if builder.covered.is_empty() {
            return Ok(());
        }
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

    fn compact(&mut self) {
        let (folder, files) = (self.folder, &mut self.files);
        compact(&mut self.runs, |group| {
            let merged = merge(group, &HashSet::new(), folder)?;
            files.extend(merged.path().map(Path::to_owned));
            // At once, so that this needs little room.
            for path in group.iter().filter_map(|run| run.path()) {
                if files.remove(path) {
                    let _ = std::fs::remove_file(path);
                }
            }
            Ok(Arc::new(merged))
        });
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

/// Parts of bounded number and length.
fn batches(wanted: &[(ObjectId, u64)]) -> impl Iterator<Item = &[(ObjectId, u64)]> {
    let mut rest = wanted;
    std::iter::from_fn(move || {
        let mut left = BATCH_BYTES;
        let fits = |(_, len): &&(ObjectId, u64)| {
            let fits = *len <= left;
            left = left.saturating_sub(*len);
            fits
        };
        let count = rest.iter().take(BATCH).take_while(fits).count().max(1);
        let (batch, after) = rest.split_at_checked(count)?;
        rest = after;
        Some(batch)
    })
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
