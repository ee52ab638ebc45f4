//! The same work for many things, on several threads.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::error::{Error, Result};

/// Does `work` for each item, on up to so many threads. Ends with the first error.
pub(crate) fn for_each<T: Sync>(
    items: &[T],
    most: usize,
    work: impl Fn(&T) -> Result<()> + Send + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let run = || -> Result<()> {
            while let Some(item) = items.get(next.fetch_add(1, Relaxed)) {
                // The others shall not go on for hours.
                work(item).inspect_err(|_| next.store(items.len(), Relaxed))?;
            }
            Ok(())
        };
        let threads: Vec<_> = (0..most.min(items.len())).map(|_| scope.spawn(run)).collect();
        let panicked = |_| {
            Err(Error::Invalid("a thread that reads objects panicked; please report it".into()))
        };
        // All are joined: the scope would panic for one that isn't.
        let results: Vec<_> =
            threads.into_iter().map(|t| t.join().unwrap_or_else(panicked)).collect();
        results.into_iter().collect()
    })
}

/// What `work` gives for each item, in any order. Ends with the first error.
pub(crate) fn map<T: Sync, R: Send>(
    items: &[T],
    most: usize,
    work: impl Fn(&T) -> Result<R> + Send + Sync,
) -> Result<Vec<R>> {
    let done = Mutex::new(Vec::with_capacity(items.len()));
    for_each(items, most, |item| {
        let result = work(item)?;
        done.lock().unwrap_or_else(|e| e.into_inner()).push(result);
        Ok(())
    })?;
    Ok(done.into_inner().unwrap_or_else(|e| e.into_inner()))
}
