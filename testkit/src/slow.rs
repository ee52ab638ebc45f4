//! A store at the other end of a line: each request takes a while to be answered, and all
//! share what the line carries.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tresor_engine::format::{ObjectKind, ObjectName, Time};
use tresor_engine::store::{ObjectStore, Store, StoreError};

/// What a line carries.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// From a request to the beginning of its answer.
    pub latency: Duration,
    /// In both directions together.
    pub bytes_per_second: f64,
}

/// What went over it.
#[derive(Default, Debug)]
pub struct Traffic {
    pub requests: AtomicU64,
    pub bytes: AtomicU64,
    under_way: AtomicUsize,
    /// The most requests under way at once.
    pub most: AtomicUsize,
}

impl Traffic {
    /// Forgets what there was.
    pub fn reset(&self) {
        self.requests.store(0, SeqCst);
        self.bytes.store(0, SeqCst);
        self.most.store(0, SeqCst);
    }
}

pub struct SlowStore {
    inner: Store,
    line: Line,
    /// When the line has carried all that was given to it.
    free: Mutex<Instant>,
    traffic: Arc<Traffic>,
}

impl SlowStore {
    pub fn new(inner: Store, line: Line) -> (Self, Arc<Traffic>) {
        let traffic = Arc::new(Traffic::default());
        let free = Mutex::new(Instant::now());
        (Self { inner, line, free, traffic: traffic.clone() }, traffic)
    }

    /// Answers late; `bytes` of the answer, or of what is sent, go over the line.
    fn slowly<T>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError>,
        bytes: impl Fn(&T) -> usize,
    ) -> Result<T, StoreError> {
        let traffic = &self.traffic;
        traffic.requests.fetch_add(1, SeqCst);
        traffic.most.fetch_max(traffic.under_way.fetch_add(1, SeqCst) + 1, SeqCst);
        std::thread::sleep(self.line.latency);
        let result = work();
        let bytes = result.as_ref().map_or(0, bytes);
        traffic.bytes.fetch_add(bytes as u64, SeqCst);
        let takes = Duration::from_secs_f64(bytes as f64 / self.line.bytes_per_second);
        let done = {
            let mut free = self.free.lock().unwrap_or_else(|e| e.into_inner());
            *free = (*free).max(Instant::now()) + takes;
            *free
        };
        std::thread::sleep(done.saturating_duration_since(Instant::now()));
        traffic.under_way.fetch_sub(1, SeqCst);
        result
    }
}

impl ObjectStore for SlowStore {
    fn put(&self, name: &ObjectName, data: &[u8]) -> Result<(), StoreError> {
        self.slowly(|| self.inner.put(name, data), |()| data.len())
    }

    fn replace(&self, name: &ObjectName, data: &[u8]) -> Result<(), StoreError> {
        self.slowly(|| self.inner.replace(name, data), |()| data.len())
    }

    fn get(&self, name: &ObjectName) -> Result<Vec<u8>, StoreError> {
        self.slowly(|| self.inner.get(name), Vec::len)
    }

    fn get_range(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        self.slowly(|| self.inner.get_range(name, offset, len), Vec::len)
    }

    fn size(&self, name: &ObjectName) -> Result<u64, StoreError> {
        self.slowly(|| self.inner.size(name), |_| 0)
    }

    fn list(&self, kind: ObjectKind) -> Result<Vec<(ObjectName, u64)>, StoreError> {
        // About what a name and a length take in a listing.
        self.slowly(|| self.inner.list(kind), |list| list.len() * 100)
    }

    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.slowly(|| self.inner.delete(name), |()| 0)
    }

    /// What is far away is settled when it answers.
    fn settle(&self) -> Result<(), StoreError> {
        self.inner.settle()
    }

    fn settle_all(&self) -> Result<(), StoreError> {
        self.inner.settle_all()
    }

    fn added_since(&self, kind: ObjectKind, time: Time) -> Result<Vec<ObjectName>, StoreError> {
        self.slowly(|| self.inner.added_since(kind, time), |list| list.len() * 100)
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

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
