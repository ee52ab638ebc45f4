//! A store that asks before each call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use tresor_engine::format::{ObjectKind, ObjectName, Time};
use tresor_engine::repo::now;
use tresor_engine::store::{ObjectStore, Store, StoreError, StoreErrorKind};

/// A call to a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Put(ObjectName),
    Replace(ObjectName),
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

type Observe = dyn Fn(&ObjectName, &[u8]) + Send + Sync;

/// Passes calls on if the hook agrees. The hook may count, delay, or fail them.
pub struct HookedStore {
    inner: Store,
    hook: Arc<Hook>,
    alter: Option<Arc<Alter>>,
    cut: Option<Arc<AtomicBool>>,
    observe: Option<Arc<Observe>>,
    /// The hook is asked once the call has had its effect.
    afterwards: bool,
    /// Listings leave it out.
    hidden: Option<ObjectName>,
    /// How many seconds the clock is fast, if not the store's own shall be asked.
    fast: Option<i64>,
}

impl HookedStore {
    pub fn new(
        inner: Store,
        hook: impl Fn(&Call) -> Result<(), StoreError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            inner,
            hook: Arc::new(hook),
            alter: None,
            cut: None,
            observe: None,
            afterwards: false,
            hidden: None,
            fast: None,
        }
    }

    /// The hook is asked when the call has been carried out: its error is that of a
    /// connection that broke before the answer came.
    pub fn afterwards(self) -> Self {
        Self { afterwards: true, ..self }
    }

    /// Its clock is so many seconds fast. To the engine it is the same whether a store's
    /// clock is wrong or that of a host on a store that has none.
    pub fn fast_by(self, seconds: i64) -> Self {
        Self { fast: Some(seconds), ..self }
    }

    fn run<T>(
        &self,
        call: Call,
        work: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if !self.afterwards {
            (self.hook)(&call)?;
            return work();
        }
        let result = work()?;
        (self.hook)(&call)?;
        Ok(result)
    }

    /// Its listings are older than this object, as those of a network drive may be.
    pub fn hiding(self, name: ObjectName) -> Self {
        Self { hidden: Some(name), ..self }
    }

    /// Lets `alter` change what is read from packs.
    pub fn altering(self, alter: impl Fn(&mut [u8]) + Send + Sync + 'static) -> Self {
        Self { alter: Some(Arc::new(alter)), ..self }
    }

    /// Lets `observe` see all that shall be stored, also what the hook then fails.
    pub fn observing(self, observe: impl Fn(&ObjectName, &[u8]) + Send + Sync + 'static) -> Self {
        Self { observe: Some(Arc::new(observe)), ..self }
    }

    /// Once this is set, the next object is stored by half, and success is reported.
    pub fn cutting(self, cut: Arc<AtomicBool>) -> Self {
        Self { cut: Some(cut), ..self }
    }

    fn what_arrives<'a>(&self, data: &'a [u8]) -> &'a [u8] {
        let cut = self.cut.as_ref().is_some_and(|cut| cut.swap(false, SeqCst));
        if cut { &data[..data.len() / 2] } else { data }
    }

    /// An error as a broken connection gives it.
    pub fn broken() -> StoreError {
        StoreError::new(StoreErrorKind::Other, "call", "the test store", "it was told to fail")
    }
}

impl ObjectStore for HookedStore {
    fn put(&self, name: &ObjectName, data: &[u8]) -> Result<(), StoreError> {
        if let Some(observe) = &self.observe {
            observe(name, data);
        }
        self.run(Call::Put(*name), || self.inner.put(name, self.what_arrives(data)))
    }

    fn replace(&self, name: &ObjectName, data: &[u8]) -> Result<(), StoreError> {
        self.run(Call::Replace(*name), || self.inner.replace(name, self.what_arrives(data)))
    }

    fn get(&self, name: &ObjectName) -> Result<Vec<u8>, StoreError> {
        self.run(Call::Get(*name), || self.inner.get(name))
    }

    fn get_range(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        let mut bytes = self
            .run(Call::GetRange(*name, offset, len), || self.inner.get_range(name, offset, len))?;
        if let Some(alter) = &self.alter {
            alter(&mut bytes);
        }
        Ok(bytes)
    }

    fn size(&self, name: &ObjectName) -> Result<u64, StoreError> {
        self.run(Call::Size(*name), || self.inner.size(name))
    }

    fn list(&self, kind: ObjectKind) -> Result<Vec<(ObjectName, u64)>, StoreError> {
        let mut listed = self.run(Call::List(kind), || self.inner.list(kind))?;
        listed.retain(|(name, _)| self.hidden != Some(*name));
        Ok(listed)
    }

    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.run(Call::Delete(*name), || self.inner.delete(name))
    }

    fn settle(&self) -> Result<(), StoreError> {
        self.run(Call::Settle, || self.inner.settle())
    }

    fn settle_all(&self) -> Result<(), StoreError> {
        self.run(Call::Settle, || self.inner.settle_all())
    }

    fn added_since(&self, kind: ObjectKind, time: Time) -> Result<Vec<ObjectName>, StoreError> {
        self.run(Call::List(kind), || self.inner.added_since(kind, time))
    }

    fn clock(&self) -> Option<Time> {
        match self.fast {
            Some(seconds) => Some(Time::new(now().seconds + seconds, 0)),
            None => self.inner.clock(),
        }
    }

    fn sweep(&self, age: Duration) -> Result<(u64, u64), StoreError> {
        self.run(Call::Sweep, || self.inner.sweep(age))
    }

    fn create(&self) -> Result<(), StoreError> {
        self.run(Call::Create, || self.inner.create())
    }

    fn make_folders(&self) -> Result<Vec<ObjectKind>, StoreError> {
        self.run(Call::Create, || self.inner.make_folders())
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
