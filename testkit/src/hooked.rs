//! A store that asks before each call.

use std::sync::Arc;
use std::time::Duration;

use tresor_engine::format::{ObjectKind, ObjectName};
use tresor_engine::store::{ObjectStore, Store, StoreError, StoreErrorKind};

/// A call to a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Put(ObjectName),
    Get(ObjectName),
    /// Offset and length.
    GetRange(ObjectName, u64, usize),
    Size(ObjectName),
    List(ObjectKind),
    Delete(ObjectName),
    Settle,
    Sweep,
    Create,
}

type Hook = dyn Fn(&Call) -> Result<(), StoreError> + Send + Sync;

type Alter = dyn Fn(&mut [u8]) + Send + Sync;

/// Passes calls on if the hook agrees. The hook may count, delay, or fail them.
pub struct HookedStore {
    inner: Store,
    hook: Arc<Hook>,
    alter: Option<Arc<Alter>>,
}

impl HookedStore {
    pub fn new(
        inner: Store,
        hook: impl Fn(&Call) -> Result<(), StoreError> + Send + Sync + 'static,
    ) -> Self {
        Self { inner, hook: Arc::new(hook), alter: None }
    }

    /// Lets `alter` change what is read from packs.
    pub fn altering(self, alter: impl Fn(&mut [u8]) + Send + Sync + 'static) -> Self {
        Self { alter: Some(Arc::new(alter)), ..self }
    }

    /// An error as a broken connection gives it.
    pub fn broken() -> StoreError {
        StoreError::new(StoreErrorKind::Other, "call", "the test store", "it was told to fail")
    }
}

impl ObjectStore for HookedStore {
    fn put(&self, name: &ObjectName, data: &[u8]) -> Result<(), StoreError> {
        (self.hook)(&Call::Put(*name))?;
        self.inner.put(name, data)
    }

    fn get(&self, name: &ObjectName) -> Result<Vec<u8>, StoreError> {
        (self.hook)(&Call::Get(*name))?;
        self.inner.get(name)
    }

    fn get_range(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        (self.hook)(&Call::GetRange(*name, offset, len))?;
        let mut bytes = self.inner.get_range(name, offset, len)?;
        if let Some(alter) = &self.alter {
            alter(&mut bytes);
        }
        Ok(bytes)
    }

    fn size(&self, name: &ObjectName) -> Result<u64, StoreError> {
        (self.hook)(&Call::Size(*name))?;
        self.inner.size(name)
    }

    fn list(&self, kind: ObjectKind) -> Result<Vec<(ObjectName, u64)>, StoreError> {
        (self.hook)(&Call::List(kind))?;
        self.inner.list(kind)
    }

    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        (self.hook)(&Call::Delete(*name))?;
        self.inner.delete(name)
    }

    fn settle(&self) -> Result<(), StoreError> {
        (self.hook)(&Call::Settle)?;
        self.inner.settle()
    }

    fn sweep(&self, age: Duration) -> Result<(u64, u64), StoreError> {
        (self.hook)(&Call::Sweep)?;
        self.inner.sweep(age)
    }

    fn create(&self) -> Result<(), StoreError> {
        (self.hook)(&Call::Create)?;
        self.inner.create()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
