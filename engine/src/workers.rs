//! The same work for many things, on several threads.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard};

use crate::error::{Error, Result};
use crate::format::{ObjectId, ObjectKind};
use crate::store::Store;

/// Also what a thread has held that panicked.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Does `work` for each item, on up to so many threads. Ends with the first error.
pub(crate) fn for_each<T: Sync>(
    items: &[T],
    most: usize,
    work: impl Fn(&T) -> Result<()> + Send + Sync,
) -> Result<()> {
    for_each_within(items, most, Room { bytes: u64::MAX, of: &|_| 0 }, work)
}

/// How many bytes the items that are being worked on may take together, and how many one
/// of them does. One that takes more is worked on alone.
#[derive(Clone, Copy)]
pub(crate) struct Room<'a, T> {
    pub bytes: u64,
    pub of: &'a (dyn Fn(&T) -> u64 + Sync),
}

/// The same, on fewer threads when items are large.
pub(crate) fn for_each_within<T: Sync>(
    items: &[T],
    most: usize,
    room: Room<'_, T>,
    work: impl Fn(&T) -> Result<()> + Send + Sync,
) -> Result<()> {
    let queue = Queue { items, room, state: Mutex::default(), changed: Condvar::new() };
    std::thread::scope(|scope| {
        let run = || -> Result<()> {
            while let Some(taken) = queue.take() {
                // The others shall not go on for hours.
                work(taken.item).inspect_err(|_| queue.lock().next = items.len())?;
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
    room: Room<'_, T>,
    work: impl Fn(&T) -> Result<R> + Send + Sync,
) -> Result<Vec<R>> {
    let done = Mutex::new(Vec::with_capacity(items.len()));
    for_each_within(items, most, room, |item| {
        let result = work(item)?;
        lock(&done).push(result);
        Ok(())
    })?;
    Ok(done.into_inner().unwrap_or_else(|e| e.into_inner()))
}

/// How long objects of a kind are, as the store lists them now; one that has vanished takes
/// nothing.
pub(crate) fn sizes(store: &Store, kind: ObjectKind) -> Result<impl Fn(&ObjectId) -> u64 + Sync> {
    let listed = store.list(kind)?;
    let sizes: HashMap<_, _> = listed.into_iter().map(|(name, size)| (name.id, size)).collect();
    Ok(move |id: &ObjectId| sizes.get(id).copied().unwrap_or(0))
}

/// Items in the order in which they are taken: a large one is not passed by until there is
/// room for it.
struct Queue<'a, T> {
    items: &'a [T],
    room: Room<'a, T>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    next: usize,
    /// Bytes of the items that are being worked on.
    taken: u64,
}

impl<'a, T> Queue<'a, T> {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn take(&self) -> Option<Taken<'_, 'a, T>> {
        let Room { bytes: most, of } = self.room;
        let is_full = |state: &mut State| {
            let next = self.items.get(state.next).map_or(0, of);
            state.taken > 0 && state.taken.saturating_add(next) > most
        };
        let waited = self.changed.wait_while(self.lock(), is_full);
        let mut state = waited.unwrap_or_else(|e| e.into_inner());
        let item = self.items.get(state.next)?;
        let bytes = of(item);
        state.next += 1;
        state.taken = state.taken.saturating_add(bytes);
        Some(Taken { queue: self, item, bytes })
    }
}

/// An item that is being worked on: makes room when that is done, also by a panic.
struct Taken<'q, 'a, T> {
    queue: &'q Queue<'a, T>,
    item: &'a T,
    bytes: u64,
}

impl<T> Drop for Taken<'_, '_, T> {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.taken = state.taken.saturating_sub(self.bytes);
        drop(state);
        self.queue.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
    use std::time::Duration;

    use super::*;

    /// Does something for items of these sizes; the most bytes and items there were at once.
    fn busiest(sizes: &[u64], most: usize, bytes: u64) -> (u64, usize) {
        let (now, peak) = (AtomicU64::new(0), AtomicU64::new(0));
        let (busy, most_busy) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let room = Room { bytes, of: &|size| *size };
        let done = map(sizes, most, room, |size| {
            peak.fetch_max(now.fetch_add(*size, SeqCst) + size, SeqCst);
            most_busy.fetch_max(busy.fetch_add(1, SeqCst) + 1, SeqCst);
            std::thread::sleep(Duration::from_millis(5));
            busy.fetch_sub(1, SeqCst);
            now.fetch_sub(*size, SeqCst);
            Ok(*size)
        });
        let mut done = done.unwrap();
        let mut sizes = sizes.to_vec();
        done.sort_unstable();
        sizes.sort_unstable();
        assert_eq!(done, sizes);
        (peak.load(SeqCst), most_busy.load(SeqCst))
    }

    #[test]
    fn many_small_items_and_few_large_ones_at_once() {
        let (peak, busy) = busiest(&[1; 64], 8, 100);
        assert!((2..=8).contains(&busy) && peak == busy as u64, "{busy}");
        let (peak, busy) = busiest(&[40; 16], 8, 100);
        assert!(peak <= 80 && busy <= 2, "{peak} bytes, {busy} items");
        // Larger than all the room: alone.
        assert_eq!(busiest(&[500; 4], 8, 100), (500, 1));
        assert_eq!(busiest(&[1, 500, 1, 60, 60, 1, 1, 500], 8, 100).0, 500);
    }

    #[test]
    fn an_error_or_a_panic_makes_nobody_wait() {
        let room = Room { bytes: 1, of: &|_: &u32| 1 };
        let error = for_each_within(&[1, 2, 3, 4], 4, room, |n| match n {
            2 => Err(Error::Interrupted),
            1 => Ok(()),
            n => panic!("{n} was taken after an error"),
        });
        assert!(matches!(error, Err(Error::Interrupted)), "{error:?}");
        let done = AtomicUsize::new(0);
        let error = for_each_within(&[1, 2, 3, 4], 2, room, |n| {
            assert!(*n != 1, "told to panic");
            done.fetch_add(1, SeqCst);
            Ok(())
        });
        assert!(matches!(error, Err(Error::Invalid(_))), "{error:?}");
        assert_eq!(done.load(SeqCst), 3);
    }
}
