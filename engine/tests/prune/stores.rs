//! Stores that change under whoever uses them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use tresor_engine::format::{ObjectKind, ObjectName, Time};
use tresor_engine::store::{ObjectStore, Store, StoreError};

use super::store_of;

/// A store that can be exchanged.
pub struct Gate(Mutex<Store>);

impl Gate {
    pub fn new(store: Store) -> Arc<Self> {
        Arc::new(Self(Mutex::new(store)))
    }

    pub fn exchange(&self, store: Store) {
        *self.0.lock().unwrap() = store;
    }

    fn inner(&self) -> Store {
        self.0.lock().unwrap().clone()
    }
}

impl ObjectStore for Gate {
    fn put(&self, name: &ObjectName, data: &[u8]) -> Result<(), StoreError> {
        self.inner().put(name, data)
    }
    fn replace(&self, name: &ObjectName, data: &[u8]) -> Result<(), StoreError> {
        self.inner().replace(name, data)
    }
    fn get(&self, name: &ObjectName) -> Result<Vec<u8>, StoreError> {
        self.inner().get(name)
    }
    fn get_range(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        self.inner().get_range(name, offset, len)
    }
    fn size(&self, name: &ObjectName) -> Result<u64, StoreError> {
        self.inner().size(name)
    }
    fn list(&self, kind: ObjectKind) -> Result<Vec<(ObjectName, u64)>, StoreError> {
        self.inner().list(kind)
    }
    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.inner().delete(name)
    }
    fn settle(&self) -> Result<(), StoreError> {
        self.inner().settle()
    }
    fn settle_all(&self) -> Result<(), StoreError> {
        self.inner().settle_all()
    }
    fn added_since(&self, kind: ObjectKind, time: Time) -> Result<Vec<ObjectName>, StoreError> {
        self.inner().added_since(kind, time)
    }
    fn clock(&self) -> Option<Time> {
        self.inner().clock()
    }
    fn sweep(&self, age: Duration) -> Result<(u64, u64), StoreError> {
        self.inner().sweep(age)
    }
    fn create(&self) -> Result<(), StoreError> {
        self.inner().create()
    }
    fn describe(&self) -> String {
        self.inner().describe()
    }
}

/// A store that may forget, when the power fails, what was not settled.
pub struct Volatile {
    now: Store,
    changes: Mutex<Vec<(ObjectName, Option<Vec<u8>>)>>,
    durable: Store,
}

impl Volatile {
    pub fn new(objects: &BTreeMap<ObjectName, Vec<u8>>) -> Arc<Self> {
        let (now, durable) = (store_of(objects), store_of(objects));
        Arc::new(Self { now, durable, changes: Mutex::default() })
    }

    /// What is there after the power failed, if of the last changes only the very last survives.
    pub fn after_losing_all_but_the_last(&self) -> Store {
        if let Some((name, bytes)) = self.changes.lock().unwrap().drain(..).next_back() {
            apply(&self.durable, &name, bytes);
        }
        self.durable.clone()
    }

    /// What is there after the power failed: of the last changes any may be lost.
    pub fn after_power_loss(&self, rng: &mut Rng) -> Store {
        for (name, bytes) in self.changes.lock().unwrap().drain(..) {
            if rng.bool() {
                apply(&self.durable, &name, bytes);
            }
        }
        self.durable.clone()
    }
}

fn apply(store: &Store, name: &ObjectName, bytes: Option<Vec<u8>>) {
    match bytes {
        Some(bytes) => store.replace(name, &bytes).unwrap(),
        None => store.delete(name).unwrap(),
    }
}

impl ObjectStore for Volatile {
    fn put(&self, name: &ObjectName, data: &[u8]) -> Result<(), StoreError> {
        self.now.put(name, data)?;
        self.changes.lock().unwrap().push((*name, Some(data.to_vec())));
        Ok(())
    }
    fn replace(&self, name: &ObjectName, data: &[u8]) -> Result<(), StoreError> {
        self.now.replace(name, data)?;
        self.changes.lock().unwrap().push((*name, Some(data.to_vec())));
        Ok(())
    }
    fn get(&self, name: &ObjectName) -> Result<Vec<u8>, StoreError> {
        self.now.get(name)
    }
    fn get_range(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        self.now.get_range(name, offset, len)
    }
    fn size(&self, name: &ObjectName) -> Result<u64, StoreError> {
        self.now.size(name)
    }
    fn list(&self, kind: ObjectKind) -> Result<Vec<(ObjectName, u64)>, StoreError> {
        self.now.list(kind)
    }
    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.now.delete(name)?;
        self.changes.lock().unwrap().push((*name, None));
        Ok(())
    }
    fn settle(&self) -> Result<(), StoreError> {
        for (name, bytes) in self.changes.lock().unwrap().drain(..) {
            apply(&self.durable, &name, bytes);
        }
        Ok(())
    }
    fn sweep(&self, age: Duration) -> Result<(u64, u64), StoreError> {
        self.now.sweep(age)
    }
    fn create(&self) -> Result<(), StoreError> {
        self.now.create()
    }
    fn describe(&self) -> String {
        "a volatile store".into()
    }
}
