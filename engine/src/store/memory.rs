//! Objects in memory, for tests.

use std::time::Duration;

use dashmap::{DashMap, Entry};

use super::{ObjectStore, StoreError, StoreErrorKind};
use crate::format::{ObjectKind, ObjectName};

#[derive(Default)]
pub struct MemoryStore {
    objects: DashMap<ObjectName, Vec<u8>>,
}

impl MemoryStore {
    pub fn new() -> Self {
        Self::default()
    }

    fn with<T>(
        &self,
        name: &ObjectName,
        work: impl FnOnce(&mut Vec<u8>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match self.objects.get_mut(name) {
            Some(mut bytes) => work(&mut bytes),
            None => Err(StoreError::new(
                StoreErrorKind::NotFound,
                "read",
                name.path(),
                "no such object",
            )),
        }
    }
}

impl ObjectStore for MemoryStore {
    fn put(&self, name: &ObjectName, data: &[u8]) -> Result<(), StoreError> {
        match self.objects.entry(*name) {
            Entry::Occupied(_) if name.kind == ObjectKind::Config => Err(StoreError::new(
                StoreErrorKind::AlreadyExists,
                "write",
                name.path(),
                "it is there already",
            )),
            Entry::Occupied(_) => Ok(()),
            Entry::Vacant(place) => {
                place.insert(data.to_vec());
                Ok(())
            }
        }
    }

    fn replace(&self, name: &ObjectName, data: &[u8]) -> Result<(), StoreError> {
        self.objects.insert(*name, data.to_vec());
        Ok(())
    }

    fn get(&self, name: &ObjectName) -> Result<Vec<u8>, StoreError> {
        self.with(name, |bytes| match bytes.len() as u64 {
            len if len > name.kind.max_len() => {
                Err(StoreError::too_long(name.path(), name.kind, len))
            }
            _ => Ok(bytes.clone()),
        })
    }

    fn get_range(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        self.with(name, |bytes| {
            if len == 0 {
                return Ok(Vec::new());
            }
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let part = bytes.get(start..start.saturating_add(len));
            part.map(<[u8]>::to_vec).ok_or_else(|| {
                StoreError::new(
                    StoreErrorKind::Truncated,
                    "read",
                    name.path(),
                    "it is shorter than that",
                )
            })
        })
    }

    fn size(&self, name: &ObjectName) -> Result<u64, StoreError> {
        self.with(name, |bytes| Ok(bytes.len() as u64))
    }

    fn list(&self, kind: ObjectKind) -> Result<Vec<(ObjectName, u64)>, StoreError> {
        let of_kind = self.objects.iter().filter(|o| o.key().kind == kind);
        Ok(of_kind.map(|o| (*o.key(), o.value().len() as u64)).collect())
    }

    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.objects.remove(name);
        Ok(())
    }

    fn settle(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn sweep(&self, _: Duration) -> Result<(u64, u64), StoreError> {
        Ok((0, 0))
    }

    fn create(&self) -> Result<(), StoreError> {
        // Only key slots may be left of an interrupted init, and their parity.
        let may_be_left = [ObjectKind::Key, ObjectKind::Parity];
        if self.objects.iter().any(|o| !may_be_left.contains(&o.key().kind)) {
            let message = "the store is not empty";
            return Err(StoreError::new(
                StoreErrorKind::AlreadyExists,
                "create",
                "memory",
                message,
            ));
        }
        Ok(())
    }

    fn describe(&self) -> String {
        "memory".into()
    }
}
