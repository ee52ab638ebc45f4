//! Snapshots of an open repository.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use super::Repository;
use crate::error::{Error, Result};
use crate::format::{ObjectId, ObjectKind, ObjectName, Purpose, SnapshotData, sealed};
use crate::object;
use crate::workers;

#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Name of the object.
    pub id: ObjectId,
    pub data: Arc<SnapshotData>,
}

/// A snapshot object that can't be read, and why.
pub type Damaged = (ObjectId, String);

/// Snapshots that have been read: they never change. Damaged ones are looked at
/// again and again, as they may be put back.
#[derive(Default)]
pub(super) struct Known {
    read: Mutex<HashMap<ObjectId, Arc<SnapshotData>>>,
}

const READERS: usize = 8;

impl Repository {
    /// Ids of all snapshots: one listing of the store.
    pub fn snapshot_ids(&self) -> Result<Vec<ObjectId>> {
        let before = self.before();
        let ids = self.list_snapshots()?;
        self.compare(&before, ObjectKind::Snapshot, &ids, &[]);
        Ok(ids)
    }

    fn list_snapshots(&self) -> Result<Vec<ObjectId>> {
        let listed = self.store().list(ObjectKind::Snapshot)?;
        Ok(listed.into_iter().map(|(name, _)| name.id).collect())
    }

    /// Every readable snapshot, oldest first.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>> {
        Ok(self.snapshots_and_damaged()?.0)
    }

    /// Every readable snapshot, oldest first, and the damaged ones with what is wrong.
    pub fn snapshots_and_damaged(&self) -> Result<(Vec<Snapshot>, Vec<Damaged>)> {
        let before = self.before();
        let ids = self.list_snapshots()?;
        let known = || self.snapshots.read.lock().unwrap_or_else(|e| e.into_inner());
        let new: Vec<_> = {
            let known = known();
            ids.iter().filter(|id| !known.contains_key(id)).copied().collect()
        };
        let mut damaged = Vec::new();
        // A panic is an error: a snapshot that is passed over would look forgotten.
        for (id, result) in workers::map(&new, READERS, |id| Ok((*id, self.read_snapshot(id))))? {
            match result {
                Ok(data) => drop(known().insert(id, Arc::new(data))),
                // Forgotten meanwhile. If it is still there, it must not look so.
                Err(e) if e.is_not_found() => {
                    match self.store().size(&ObjectName::new(ObjectKind::Snapshot, id)) {
                        Err(gone) if gone.is_not_found() => {}
                        Err(other) => return Err(other.into()),
                        Ok(_) => return Err(e),
                    }
                }
                Err(Error::Damaged { reason, .. }) => damaged.push((id, reason)),
                Err(e) if e.is_damage() => damaged.push((id, e.to_string())),
                Err(e) => return Err(e),
            }
        }
        let mut known = known();
        let listed: HashSet<_> = ids.iter().copied().collect();
        known.retain(|id, _| listed.contains(id));
        let snapshot = |id| Some(Snapshot { id, data: known.get(&id)?.clone() });
        let mut good: Vec<_> = ids.iter().filter_map(|id| snapshot(*id)).collect();
        drop(known);
        good.sort_by_key(|s| (s.data.time, s.id));
        self.compare(&before, ObjectKind::Snapshot, &ids, &good);
        Ok((good, damaged))
    }

    fn read_snapshot(&self, id: &ObjectId) -> Result<SnapshotData> {
        let name = ObjectName::new(ObjectKind::Snapshot, *id);
        let bytes = object::read(self.store(), &name)?;
        sealed::open(self.keys(), Purpose::Snapshot, bytes).map_err(|e| Error::damaged(name, e))
    }

    /// Writes a snapshot. Everything it needs must be in the store and indexed.
    pub fn save_snapshot(&self, data: &SnapshotData) -> Result<ObjectId> {
        let object = sealed::seal(self.keys(), Purpose::Snapshot, data)?;
        let name = ObjectName::new(ObjectKind::Snapshot, ObjectId::of(&object));
        let saved =
            object::write(self.store(), &name, &object).and_then(|()| Ok(self.store().settle()?));
        if let Err(error) = saved {
            // What nobody was told of, and nobody has confirmed, must not stay.
            if self.store().size(&name).is_ok() {
                let _ = self.take_back(name.id);
            }
            return Err(error);
        }
        self.stored(ObjectKind::Snapshot, name.id, Some(data));
        Ok(name.id)
    }
}
