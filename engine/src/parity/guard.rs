//! A store whose objects have parity: it is made and removed with them, and damage that
//! shows when an object is read is made good in memory.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use lru::LruCache;

use super::{Whole, make, mend};
use crate::format::{ObjectKind, ObjectName, ParityShare};
use crate::store::{ObjectStore, Store, StoreError, StoreErrorKind};

/// Mended objects that are kept, as a damaged pack is read piece by piece.
const KEPT: NonZeroUsize = NonZeroUsize::new(2).unwrap();

pub struct Guarded {
    inner: Store,
    share: ParityShare,
    mended: Mutex<Mended>,
}

struct Mended {
    recent: LruCache<ObjectName, Arc<Vec<u8>>>,
    /// Everything that was found damaged and mended.
    names: BTreeSet<ObjectName>,
    /// What can't be mended is not tried for each read.
    hopeless: BTreeSet<ObjectName>,
}

impl Guarded {
    pub fn new(inner: Store, share: ParityShare) -> Self {
        let recent = LruCache::new(KEPT);
        let mended = Mended { recent, names: BTreeSet::new(), hopeless: BTreeSet::new() };
        Self { inner, share, mended: Mutex::new(mended) }
    }

    /// Objects that were found damaged, and were mended in memory only.
    pub fn names_mended(&self) -> Vec<ObjectName> {
        self.lock().names.iter().copied().collect()
    }

    /// To be told of an object that was mended elsewhere.
    pub fn note_mended(&self, name: ObjectName) {
        self.lock().names.insert(name);
    }

    /// Makes the parity of an object that has none, or none that is whole.
    pub fn make_parity(&self, name: &ObjectName, bytes: &[u8]) -> Result<(), StoreError> {
        self.inner.replace(&name.parity(), &self.parity_of(name, bytes)?)
    }

    fn parity_of(&self, name: &ObjectName, bytes: &[u8]) -> Result<Vec<u8>, StoreError> {
        make(bytes, self.share).map_err(|e| {
            StoreError::new(StoreErrorKind::Other, "write", name.parity().path(), e.to_string())
        })
    }

    fn lock(&self) -> MutexGuard<'_, Mended> {
        self.mended.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Whether these are other bytes than the name says, as far as it does.
fn is_damaged(name: &ObjectName, bytes: &[u8]) -> bool {
    let is_named_by_hash = !matches!(name.kind, ObjectKind::Config | ObjectKind::Parity);
    is_named_by_hash && blake3::hash(bytes).as_bytes() != &name.id.0
}

/// Errors that tell of damage to one object.
fn is_damage(error: &StoreError) -> bool {
    matches!(error.kind, StoreErrorKind::Truncated | StoreErrorKind::Unreadable)
}

impl ObjectStore for Guarded {
    fn put(&self, name: &ObjectName, data: &[u8]) -> Result<(), StoreError> {
        // In this order, so that parity that is listed before its object is not, is of one
        // that was deleted.
        self.inner.put(name, data)?;
        self.inner.put(&name.parity(), &self.parity_of(name, data)?)
    }

    fn replace(&self, name: &ObjectName, data: &[u8]) -> Result<(), StoreError> {
        self.inner.replace(name, data)?;
        self.make_parity(name, data)
    }

    fn get(&self, name: &ObjectName) -> Result<Vec<u8>, StoreError> {
        let result = self.inner.get(name);
        let damaged = match &result {
            Ok(bytes) => is_damaged(name, bytes),
            Err(e) => is_damage(e),
        };
        match damaged.then(|| self.mended(name)).flatten() {
            Some(bytes) => Ok(bytes.to_vec()),
            None => result,
        }
    }

    fn get_range(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        let result = self.inner.get_range(name, offset, len);
        if !result.as_ref().is_err_and(is_damage) {
            return result;
        }
        let part = self.mended(name).and_then(|bytes| {
            let start = usize::try_from(offset).ok()?;
            Some(bytes.get(start..start.checked_add(len)?)?.to_vec())
        });
        part.map_or(result, Ok)
    }

    fn mended(&self, name: &ObjectName) -> Option<Arc<Vec<u8>>> {
        // Others wait: they want the same pack, most likely.
        let mut mended = self.lock();
        if let Some(bytes) = mended.recent.get(name) {
            return Some(bytes.clone());
        }
        if name.kind == ObjectKind::Parity || mended.hopeless.contains(name) {
            return None;
        }
        match mend(&self.inner, name) {
            Ok(Ok(Whole { bytes, was_damaged })) => {
                let bytes = Arc::new(bytes);
                mended.recent.put(*name, bytes.clone());
                if was_damaged {
                    mended.names.insert(*name);
                }
                Some(bytes)
            }
            Ok(Err(_)) => {
                mended.hopeless.insert(*name);
                None
            }
            // The caller knows of an error already, and that one says more.
            Err(_) => None,
        }
    }

    fn size(&self, name: &ObjectName) -> Result<u64, StoreError> {
        self.inner.size(name)
    }

    fn list(&self, kind: ObjectKind) -> Result<Vec<(ObjectName, u64)>, StoreError> {
        self.inner.list(kind)
    }

    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        // First: the parity of a key slot is as good as the slot.
        self.inner.delete(&name.parity())?;
        self.inner.delete(name)
    }

    fn settle(&self) -> Result<(), StoreError> {
        self.inner.settle()
    }

    fn settle_all(&self) -> Result<(), StoreError> {
        self.inner.settle_all()
    }

    fn sweep(&self, age: Duration) -> Result<(u64, u64), StoreError> {
        self.inner.sweep(age)
    }

    fn create(&self) -> Result<(), StoreError> {
        self.inner.create()
    }

    fn space(&self) -> Option<(u64, u64)> {
        self.inner.space()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
