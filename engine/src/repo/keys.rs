//! Key slots of an open repository: any number of passwords over one master key.

use std::sync::MutexGuard;

use super::Repository;
use super::open::{encode, now, read_slot};
use crate::crypto::{KdfCost, Password};
use crate::error::{Error, Result};
use crate::format::{KeySlot, ObjectId, ObjectKind, ObjectName, Purpose, SlotInfo, sealed};
use crate::object;

/// A key slot as its owner sees it.
#[derive(Clone, Debug)]
pub struct SlotDescription {
    pub id: ObjectId,
    /// `None` if it can't be read; the reason.
    pub info: Result<SlotInfo, String>,
    pub cost: Option<KdfCost>,
    /// Whether the repository was opened with it.
    pub current: bool,
}

impl Repository {
    pub fn key_slots(&self) -> Result<Vec<SlotDescription>> {
        let before = self.before();
        let mut slots = self.store().list(ObjectKind::Key)?;
        slots.sort();
        let ids: Vec<_> = slots.iter().map(|(name, _)| name.id).collect();
        self.compare(&before, ObjectKind::Key, &ids, &[]);
        let current = *self.slot();
        let describe = |name: ObjectName| {
            let slot = read_slot(self.store(), &name);
            let info = slot
                .as_ref()
                .map_err(|e| e.to_string())
                .and_then(|slot| sealed::open(self.keys(), Purpose::SlotInfo, slot.info.clone()));
            let cost = slot.ok().map(|s| s.cost());
            SlotDescription { id: name.id, info, cost, current: name.id == current }
        };
        Ok(slots.into_iter().map(|(name, _)| describe(name)).collect())
    }

    /// Adds a password.
    pub fn add_key(&self, password: &Password, label: &str, cost: KdfCost) -> Result<ObjectId> {
        let info = SlotInfo { created: now(), label: label.to_owned() };
        let slot = KeySlot::new(self.keys(), &self.id(), password, cost, &info)?;
        let slot = encode(&slot)?;
        let name = ObjectName::new(ObjectKind::Key, ObjectId::of(&slot));
        let added =
            object::write(self.store(), &name, &slot).and_then(|()| Ok(self.store().settle()?));
        if let Err(error) = added {
            // A password that was reported as not added must not open the repository.
            if self.store().size(&name).is_ok() {
                let _ = self.take_back(name.kind, name.id);
            }
            return Err(error);
        }
        self.stored(ObjectKind::Key, name.id, None);
        Ok(name.id)
    }

    /// Removes a slot; never the one in use, and not if another process is removing that: one
    /// that opens is always left.
    pub fn remove_key(&self, id: &ObjectId) -> Result<()> {
        if *id == *self.slot() {
            return Err(Error::Invalid(
                "this is the key slot in use; open the repository with another password to remove it".into(),
            ));
        }
        self.remove_slot(id)
    }

    /// Removes a slot that isn't in use. Two processes may each want to remove what the other
    /// one has opened the repository with.
    fn remove_slot(&self, id: &ObjectId) -> Result<()> {
        let own = *self.slot();
        let stays = || {
            let gone = match self.store().size(&ObjectName::new(ObjectKind::Key, own)) {
                Err(e) if e.is_not_found() => true,
                other => other.map(|_| false)?,
            };
            match gone || self.evidence(|_| false)?.of(ObjectKind::Key).contains(&own) {
                false => Ok(()),
                true => Err(Error::Invalid(
                    "another process removes the key slot with which this one has opened the repository, so none was removed; look at `tresor key list`, or change the password in use first".into(),
                )),
            }
        };
        stays()?;
        self.remove_recorded_unless(ObjectKind::Key, &[*id], stays)
    }

    fn slot(&self) -> MutexGuard<'_, ObjectId> {
        self.slot.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Changes the password of the slot in use: the new slot is there for good
    /// before the old one goes.
    pub fn change_password(
        &self,
        password: &Password,
        label: &str,
        cost: KdfCost,
    ) -> Result<ObjectId> {
        let id = self.add_key(password, label, cost)?;
        let old = std::mem::replace(&mut *self.slot(), id);
        self.remove_slot(&old)?;
        Ok(id)
    }

    /// Opens a slot by the beginning of its id.
    pub fn find_key(&self, prefix: &str) -> Result<ObjectId> {
        let slots = self.key_slots()?;
        let mut hits = slots.iter().filter(|s| s.id.to_string().starts_with(prefix));
        match (hits.next(), hits.next()) {
            (Some(slot), None) => Ok(slot.id),
            (None, _) => Err(Error::Invalid(format!(
                "no key slot begins with {prefix:?}; `tresor key list` shows them"
            ))),
            _ => Err(Error::Invalid(format!(
                "several key slots begin with {prefix:?}; give more digits"
            ))),
        }
    }
}
