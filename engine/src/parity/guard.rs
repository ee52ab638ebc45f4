//! A store whose objects have parity: it is made and removed with them, and damage that
//! shows when an object is read is made good in memory.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use lru::LruCache;

use super::{is_damage, make, mend};
use crate::format::{ObjectId, ObjectKind, ObjectName, ParityShare, Time};
use crate::object;
use crate::store::{ObjectStore, Store, StoreError, StoreErrorKind};

/// Mended objects that are kept, as a damaged pack is read piece by piece.
const KEPT: NonZeroUsize = NonZeroUsize::new(2).unwrap();

/// Told of each object that is damaged and could be read all the same, once.
pub type OnMended = Arc<dyn Fn(&ObjectName) + Send + Sync>;

pub struct Guarded {
    inner: Store,
    share: ParityShare,
    on_mended: Option<OnMended>,
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
    pub fn new(inner: Store, share: ParityShare, on_mended: Option<OnMended>) -> Self {
        let recent = LruCache::new(KEPT);
        let mended = Mended { recent, names: BTreeSet::new(), hopeless: BTreeSet::new() };
        Self { inner, share, on_mended, mended: Mutex::new(mended) }
    }

    /// Objects that were found damaged, and were mended in memory only.
    pub fn names_mended(&self) -> Vec<ObjectName> {
        self.lock().names.iter().copied().collect()
    }

    /// To be told of an object that was mended elsewhere.
    pub fn note_mended(&self, name: ObjectName) {
        let is_new = self.lock().names.insert(name);
        if let Some(tell) = self.on_mended.as_ref().filter(|_| is_new) {
            tell(&name);
        }
    }

    pub fn share(&self) -> ParityShare {
        self.share
    }

    /// Makes the parity of an object, for `work` to store. Parity itself has none.
    fn with_parity(
        &self,
        name: &ObjectName,
        bytes: &[u8],
        work: impl FnOnce(&ObjectName, &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        if name.kind == ObjectKind::Parity {
            return Ok(());
        }
        let parity = name.parity();
        let made = make(bytes, self.share).map_err(|e| {
            StoreError::new(StoreErrorKind::Other, "write", parity.path(), e.to_string())
        })?;
        work(&parity, &made)
    }

    /// Stores the parity of an object of this kind, and looks whether all of it has arrived.
    fn put_parity(
        &self,
        of: ObjectKind,
        name: &ObjectName,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        self.inner.put(name, bytes)?;
        match object::has_arrived(&self.inner, name, bytes) {
            Ok(true) => Ok(()),
            Err(e) if e.is_not_found() && object::may_vanish(of) => Ok(()),
            Err(e) => Err(e),
            // It may have been there by half, and then the store has left it alone.
            Ok(false) => object::replace(&self.inner, name, bytes).inspect_err(|_| {
                // Missing parity is seen sooner.
                let _ = self.inner.delete(name);
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Mended> {
        self.mended.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Whether these are other bytes than the name says, as far as it does.
fn is_damaged(name: &ObjectName, bytes: &[u8]) -> bool {
    let is_named_by_hash = !matches!(name.kind, ObjectKind::Config | ObjectKind::Parity);
    is_named_by_hash && ObjectId::of(bytes) != name.id
}

impl ObjectStore for Guarded {
    fn put(&self, name: &ObjectName, data: &[u8]) -> Result<(), StoreError> {
        // In this order, so that parity that is listed before its object is not, is of one
        // that was deleted.
        self.inner.put(name, data)?;
        self.with_parity(name, data, |parity, bytes| self.put_parity(name.kind, parity, bytes))
    }

    fn replace(&self, name: &ObjectName, data: &[u8]) -> Result<(), StoreError> {
        self.inner.replace(name, data)?;
        self.with_parity(name, data, |parity, bytes| object::replace(&self.inner, parity, bytes))
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
        let whole = match mend(&self.inner, name) {
            Ok(Ok(whole)) => whole,
            Ok(Err(_)) => {
                mended.hopeless.insert(*name);
                return None;
            }
            // The caller knows of an error already, and that one says more.
            Err(_) => return None,
        };
        let bytes = Arc::new(whole.bytes);
        mended.recent.put(*name, bytes.clone());
        drop(mended);
        if whole.was_damaged {
            self.note_mended(*name);
        }
        Some(bytes)
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

    fn added_since(&self, kind: ObjectKind, time: Time) -> Result<Vec<ObjectName>, StoreError> {
        self.inner.added_since(kind, time)
    }

    fn clock(&self) -> Option<Time> {
        self.inner.clock()
    }

    fn sweep(&self, age: Duration) -> Result<(u64, u64), StoreError> {
        self.inner.sweep(age)
    }

    fn create(&self) -> Result<(), StoreError> {
        self.inner.create()
    }

    fn make_folders(&self) -> Result<Vec<ObjectKind>, StoreError> {
        self.inner.make_folders()
    }

    fn space(&self) -> Option<(u64, u64)> {
        self.inner.space()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
