//! A cache bounded by bytes that forgets what was used longest ago.

use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use lru::LruCache;

pub struct Cache<K: Hash + Eq, V> {
    inner: Mutex<Inner<K, V>>,
    limit: AtomicUsize,
}

struct Inner<K: Hash + Eq, V> {
    entries: LruCache<K, (Arc<V>, usize)>,
    bytes: usize,
}

impl<K: Hash + Eq, V> Cache<K, V> {
    pub fn new(limit: usize) -> Self {
        let inner = Inner { entries: LruCache::unbounded(), bytes: 0 };
        Self { inner: Mutex::new(inner), limit: AtomicUsize::new(limit) }
    }

    /// From now on at least this much is kept.
    pub fn grow(&self, limit: usize) {
        self.limit.fetch_max(limit, Relaxed);
    }

    /// The cached value, or what `make` gives with its weight in bytes. Two
    /// threads may make the same value at once.
    pub fn get_or<E>(
        &self,
        key: K,
        make: impl FnOnce() -> Result<(Arc<V>, usize), E>,
    ) -> Result<Arc<V>, E> {
        if let Some((value, _)) = self.lock().entries.get(&key) {
            return Ok(value.clone());
        }
        let (value, weight) = make()?;
        let mut inner = self.lock();
        if let Some((_, old)) = inner.entries.push(key, (value.clone(), weight)) {
            inner.bytes -= old.1;
        }
        inner.bytes += weight;
        while inner.bytes > self.limit.load(Relaxed) && inner.entries.len() > 1 {
            if let Some((_, (_, weight))) = inner.entries.pop_lru() {
                inner.bytes -= weight;
            }
        }
        Ok(value)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner<K, V>> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_within_its_limit_and_keeps_what_is_used() {
        let cache = Cache::<u32, u32>::new(100);
        let get = |k| cache.get_or::<()>(k, || Ok((Arc::new(k), 10))).unwrap();
        for k in 0..50 {
            assert_eq!(*get(k), k);
            get(0);
        }
        assert_eq!(cache.lock().bytes, 100);
        assert!(cache.lock().entries.contains(&0));
    }
}
