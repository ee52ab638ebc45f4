//! Snapshots of an open repository.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use super::Repository;
use crate::error::{Error, Result};
use crate::format::{ObjectId, ObjectKind, ObjectName, Purpose, SnapshotData, Time, sealed};
use crate::object;
use crate::workers::{self, Room};

#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Name of the object.
    pub id: ObjectId,
    pub data: Arc<SnapshotData>,
}

/// The tag of snapshots that `repair snapshots` has saved of others.
pub const REPAIRED: &str = "repaired";

/// Two are the same if their objects are.
impl PartialEq for Snapshot {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Snapshot {}

impl Snapshot {
    /// Snapshots go by their times; those of one moment with the repaired ones first, so that what was
    /// backed up is later than what is left of it.
    pub fn order(&self) -> (Time, bool, ObjectId) {
        (self.data.time, !self.is_repaired(), self.id)
    }

    pub fn is_repaired(&self) -> bool {
        self.data.tags.iter().any(|tag| tag == REPAIRED)
    }
}

/// A snapshot object that can't be read, and why.
pub type Damaged = (ObjectId, String);

/// Snapshots that have been read: they never change. Damaged ones are looked at
/// again and again, as they may be put back.
#[derive(Default)]
pub(super) struct Known {
    read: Mutex<HashMap<ObjectId, Arc<SnapshotData>>>,
}

/// Snapshots read at once, and how many bytes they may have together. They are small; junk
/// in their place may not be.
const READERS: usize = 8;
const READ_BYTES: u64 = 16 << 20;

impl Repository {
    /// Ids of all snapshots: one listing of the store.
    pub fn snapshot_ids(&self) -> Result<Vec<ObjectId>> {
        let before = self.before();
        let ids: Vec<_> = self.list_snapshots()?.into_iter().map(|(id, _)| id).collect();
        self.compare(&before, ObjectKind::Snapshot, &ids, &[]);
        Ok(ids)
    }

    /// With their lengths.
    fn list_snapshots(&self) -> Result<Vec<(ObjectId, u64)>> {
        let listed = self.store().list(ObjectKind::Snapshot)?;
        Ok(listed.into_iter().map(|(name, size)| (name.id, size)).collect())
    }

    /// Every readable snapshot, oldest first.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>> {
        Ok(self.snapshots_and_damaged()?.0)
    }

    /// Every readable snapshot, oldest first, and the damaged ones with what is wrong.
    pub fn snapshots_and_damaged(&self) -> Result<(Vec<Snapshot>, Vec<Damaged>)> {
        let before = self.before();
        let listed = self.list_snapshots()?;
        let ids: Vec<_> = listed.iter().map(|(id, _)| *id).collect();
        let known = || self.snapshots.read.lock().unwrap_or_else(|e| e.into_inner());
        let new: Vec<_> = {
            let known = known();
            listed.into_iter().filter(|(id, _)| !known.contains_key(id)).collect()
        };
        let room = Room { bytes: READ_BYTES, of: &|(_, size)| *size };
        let read = |(id, _): &(ObjectId, u64)| Ok((*id, self.read_snapshot(id)));
        let mut damaged = Vec::new();
        let mut forgotten = false;
        // A panic is an error: a snapshot that is passed over would look forgotten.
        for (id, result) in workers::map(&new, READERS, room, read)? {
            match result {
                Ok(data) => drop(known().insert(id, Arc::new(data))),
                // Forgotten meanwhile. If it is still there, it must not look so.
                Err(e) if e.is_not_found() => {
                    match self.store().size(&ObjectName::new(ObjectKind::Snapshot, id)) {
                        Err(gone) if gone.is_not_found() => forgotten = true,
                        Err(other) => return Err(other.into()),
                        Ok(_) => return Err(e),
                    }
                }
                Err(Error::Damaged { reason, .. }) => damaged.push((id, reason)),
                Err(e) if e.is_damage() => damaged.push((id, e.to_string())),
                Err(e) => return Err(e),
            }
        }
        if forgotten {
            // Nor if the whole store is gone since.
            self.list_snapshots()?;
        }
        let mut known = known();
        let listed: HashSet<_> = ids.iter().copied().collect();
        known.retain(|id, _| listed.contains(id));
        let snapshot = |id| Some(Snapshot { id, data: known.get(&id)?.clone() });
        let mut good: Vec<_> = ids.iter().filter_map(|id| snapshot(*id)).collect();
        drop(known);
        good.sort_by_key(Snapshot::order);
        self.compare(&before, ObjectKind::Snapshot, &ids, &good);
        Ok((good, damaged))
    }

    pub(crate) fn read_snapshot(&self, id: &ObjectId) -> Result<SnapshotData> {
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
                let _ = self.take_back(name.kind, name.id);
            }
            return Err(error);
        }
        self.stored(ObjectKind::Snapshot, name.id, Some(data));
        Ok(name.id)
    }
}
