//! Removing snapshots and key slots. What is removed on purpose is written down first: a
//! client that misses something can then tell whether it was forgotten or lost.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use super::open::now;
use super::{Damaged, Repository};
use crate::error::{Error, Result};
use crate::format::{
    Forgotten, ForgottenData, ObjectId, ObjectKind, ObjectName, Purpose, Time, sealed,
};
use crate::object;

/// So many records are replaced by one.
const MANY: usize = 16;
/// Longer ones are left alone: joining them again and again would cost more than it saves.
const LARGE: u64 = 1 << 20;
/// Ids in one record.
const MOST_IDS: usize = 100_000;
/// How often to begin again when records are joined while they are read.
const ATTEMPTS: usize = 16;

/// Records that have been read: they never change.
#[derive(Default)]
pub(super) struct Records {
    read: Mutex<HashMap<ObjectId, Arc<ForgottenData>>>,
}

/// What the records in the store say.
#[derive(Default)]
pub(super) struct Evidence {
    /// Names of all records that are there.
    pub listed: HashSet<ObjectId>,
    pub read: HashMap<ObjectId, Arc<ForgottenData>>,
    /// Records that can't be read, and why: they say nothing.
    pub damaged: Vec<Damaged>,
}

impl Evidence {
    /// There may be records, but they can't be got at.
    pub fn unreadable(error: &Error) -> Self {
        let damaged = vec![(ObjectId([0; 32]), error.to_string())];
        Self { damaged, ..Self::default() }
    }

    /// What was removed, as the records say.
    pub fn of(&self, kind: ObjectKind) -> HashSet<ObjectId> {
        self.read.values().flat_map(|data| ids(data, kind)).collect()
    }
}

fn ids(data: &ForgottenData, kind: ObjectKind) -> impl Iterator<Item = ObjectId> {
    let list = if kind == ObjectKind::Key { &data.key_slots } else { &data.snapshots };
    list.iter().map(|f| f.id)
}

impl Repository {
    /// Removes snapshots; their data stays until the next prune.
    pub fn forget(&self, ids: &[ObjectId]) -> Result<()> {
        self.remove_recorded(ObjectKind::Snapshot, ids)
    }

    /// Removes a snapshot or a key slot that must not stay, even if that can't be recorded.
    pub(crate) fn take_back(&self, kind: ObjectKind, id: ObjectId) -> Result<()> {
        self.remove_recorded(kind, &[id]).or_else(|e| {
            self.remove(kind, &[id])?;
            self.removed(kind, &[id]);
            Err(e)
        })
    }

    /// Records are stored for good before anything is deleted.
    pub(super) fn remove_recorded(&self, kind: ObjectKind, ids: &[ObjectId]) -> Result<()> {
        self.remove_recorded_unless(kind, ids, || Ok(()))
    }

    /// The same, unless `refuse` does so, which is asked when the record is there for good:
    /// of two processes that ask so about each other, one at least sees the other's record.
    pub(super) fn remove_recorded_unless(
        &self,
        kind: ObjectKind,
        ids: &[ObjectId],
        refuse: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let (mut joined, mut records) = (Vec::new(), Vec::new());
        for ids in ids.chunks(MOST_IDS) {
            let (record, others) = self.record(kind, ids)?;
            records.push(record);
            joined.extend(others);
        }
        if let Err(e) = refuse() {
            // It says what isn't so. What it repeats is still in the others.
            self.remove(ObjectKind::Forgotten, &records)?;
            return Err(e);
        }
        self.remove(kind, ids)?;
        if !joined.is_empty() {
            self.remove(ObjectKind::Forgotten, &joined)?;
        }
        self.removed(kind, ids);
        Ok(())
    }

    /// What can't be removed keeps no other.
    fn remove(&self, kind: ObjectKind, ids: &[ObjectId]) -> Result<()> {
        let mut first = Ok(());
        for id in ids {
            let deleted = self.store().delete(&ObjectName::new(kind, *id));
            first = first.and(deleted);
        }
        self.store().settle()?;
        Ok(first?)
    }

    /// Stores a record. If there are many, the new one repeats them: those that are
    /// returned with it may then be deleted.
    fn record(&self, kind: ObjectKind, ids: &[ObjectId]) -> Result<(ObjectId, Vec<ObjectId>)> {
        let mut all = Entries::default();
        all.add(kind, ids.iter().map(|id| Forgotten { id: *id, at: now() }));
        let listed = self.store().list(ObjectKind::Forgotten)?;
        let small = listed.into_iter().filter(|(_, size)| *size < LARGE);
        let small: Vec<_> = small.map(|(name, _)| name.id).collect();
        let mut joined = Vec::new();
        if small.len() >= MANY {
            for id in small {
                match self.read_record(&id) {
                    Ok(data) => {
                        all.add(ObjectKind::Snapshot, data.snapshots.iter().copied());
                        all.add(ObjectKind::Key, data.key_slots.iter().copied());
                        joined.push(id);
                    }
                    // Joined by somebody else, or damaged: that one is not ours to remove.
                    Err(e) if e.is_damage() => {}
                    Err(e) => return Err(e),
                }
            }
        }
        let object = sealed::seal(self.keys(), Purpose::Forgotten, &all.data())?;
        let record = self.put_object(ObjectKind::Forgotten, &object)?;
        self.store().settle()?;
        Ok((record, joined))
    }

    /// What the records say, but for those that the caller knows already.
    pub(super) fn evidence(&self, known: impl Fn(&ObjectId) -> bool) -> Result<Evidence> {
        for _ in 0..ATTEMPTS {
            let listed = self.store().list(ObjectKind::Forgotten)?;
            let listed: HashSet<_> = listed.into_iter().map(|(name, _)| name.id).collect();
            let mut evidence = Evidence { listed, ..Evidence::default() };
            let mut vanished = false;
            for id in evidence.listed.iter().filter(|id| !known(id)) {
                match self.read_record(id) {
                    Ok(data) => drop(evidence.read.insert(*id, data)),
                    Err(e) if e.is_not_found() => vanished = true,
                    Err(Error::Damaged { reason, .. }) => evidence.damaged.push((*id, reason)),
                    Err(e) if e.is_damage() => evidence.damaged.push((*id, e.to_string())),
                    Err(e) => return Err(e),
                }
            }
            // What it said is in another one.
            if !vanished {
                return Ok(evidence);
            }
        }
        Err(Error::Invalid(
            "records of what was forgotten keep vanishing while they are read; try again".into(),
        ))
    }

    /// Records of what was forgotten that can't be read.
    pub fn damaged_records(&self) -> Result<Vec<Damaged>> {
        self.records.forget();
        Ok(self.evidence(|_| false)?.damaged)
    }

    fn read_record(&self, id: &ObjectId) -> Result<Arc<ForgottenData>> {
        if let Some(data) = self.records.get(id) {
            return Ok(data);
        }
        let name = ObjectName::new(ObjectKind::Forgotten, *id);
        let bytes = object::read(self.store(), &name)?;
        let data: ForgottenData = sealed::open(self.keys(), Purpose::Forgotten, bytes)
            .map_err(|e| Error::damaged(name, e))?;
        let data = Arc::new(data);
        self.records.keep(*id, &data);
        Ok(data)
    }
}

impl Records {
    fn get(&self, id: &ObjectId) -> Option<Arc<ForgottenData>> {
        self.lock().get(id).cloned()
    }

    fn keep(&self, id: ObjectId, data: &Arc<ForgottenData>) {
        self.lock().insert(id, data.clone());
    }

    fn forget(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectId, Arc<ForgottenData>>> {
        self.read.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Entries of several records, each id once, with the first time that was given.
#[derive(Default)]
struct Entries {
    snapshots: BTreeMap<ObjectId, Time>,
    key_slots: BTreeMap<ObjectId, Time>,
}

impl Entries {
    fn add(&mut self, kind: ObjectKind, entries: impl Iterator<Item = Forgotten>) {
        let all = if kind == ObjectKind::Key { &mut self.key_slots } else { &mut self.snapshots };
        for entry in entries {
            let at = all.entry(entry.id).or_insert(entry.at);
            *at = entry.at.min(*at);
        }
    }

    fn data(self) -> ForgottenData {
        let list = |all: BTreeMap<ObjectId, Time>| {
            all.into_iter().map(|(id, at)| Forgotten { id, at }).collect()
        };
        ForgottenData { snapshots: list(self.snapshots), key_slots: list(self.key_slots) }
    }
}
