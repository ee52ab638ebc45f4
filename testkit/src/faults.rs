//! Every way in which one call to a store, or all from one on, can fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use tresor_engine::store::{Store, StoreError, StoreErrorKind};

use crate::{Call, HookedStore};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// The call does nothing and fails.
    Before,
    /// The call does its work, and the answer is lost.
    After,
    /// It and every later one does nothing: as if the process had died.
    Dead,
    /// The call does nothing and fails so.
    Once(StoreErrorKind),
    /// So do it and every later one: as if the disk had been unmounted, or can't be read any
    /// more. A disk that is full or read-only fails what writes.
    From(StoreErrorKind),
    /// The object that is stored then, or next, arrives by half, and success is reported.
    Cut,
}

impl Fault {
    pub const ALL: [Self; 13] = [
        Self::Before,
        Self::After,
        Self::Dead,
        Self::Once(StoreErrorKind::NotFound),
        Self::From(StoreErrorKind::NotFound),
        Self::Once(StoreErrorKind::Unreadable),
        Self::From(StoreErrorKind::Unreadable),
        Self::Once(StoreErrorKind::PermissionDenied),
        Self::From(StoreErrorKind::PermissionDenied),
        Self::Once(StoreErrorKind::Truncated),
        Self::From(StoreErrorKind::NoSpace),
        Self::From(StoreErrorKind::ReadOnly),
        Self::Cut,
    ];

    /// Whether nothing can be done after it: then what was begun may be there by half.
    pub fn ends_all(self) -> bool {
        self == Self::Dead || matches!(self, Self::From(kind) if kind != StoreErrorKind::NoSpace)
    }

    /// Whether the call number `n` fails, if `at` is the one that shall.
    fn fails(self, call: &Call, n: usize, at: usize) -> Result<(), StoreError> {
        let error =
            |kind| Err(StoreError::new(kind, "call", "the test store", "it was told to fail"));
        match self {
            Self::Once(kind) if n == at => error(kind),
            Self::From(kind) if n >= at && concerns(kind, call) => error(kind),
            Self::Dead if n >= at => Err(HookedStore::broken()),
            Self::Before | Self::After if n == at => Err(HookedStore::broken()),
            _ => Ok(()),
        }
    }
}

fn concerns(kind: StoreErrorKind, call: &Call) -> bool {
    let stores = matches!(call, Call::Put(_) | Call::Replace(_));
    match kind {
        StoreErrorKind::NoSpace => stores,
        StoreErrorKind::ReadOnly => {
            stores || matches!(call, Call::Delete(_) | Call::Sweep | Call::Create)
        }
        _ => true,
    }
}

/// A store that has a fault.
pub struct Faulty {
    pub store: Store,
    calls: Arc<AtomicUsize>,
    gone: Arc<AtomicBool>,
}

impl Faulty {
    /// A store whose call number `at` fails; 0 is the first.
    pub fn new(store: &Store, fault: Fault, at: usize) -> Self {
        let (calls, cut, gone) = <(Arc<AtomicUsize>, Arc<AtomicBool>, Arc<AtomicBool>)>::default();
        let (counted, cuts, over) = (calls.clone(), cut.clone(), gone.clone());
        let hook = move |call: &Call| {
            if over.load(SeqCst) {
                return Ok(());
            }
            let n = counted.fetch_add(1, SeqCst);
            if fault == Fault::Cut {
                cuts.fetch_or(n == at, SeqCst);
            }
            fault.fails(call, n, at)
        };
        let hooked = HookedStore::new(store.clone(), hook).cutting(cut);
        let hooked = if fault == Fault::After { hooked.afterwards() } else { hooked };
        Self { store: Arc::new(hooked), calls, gone }
    }

    /// How many calls there were, as long as it had its fault.
    pub fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }

    /// From now on nothing fails.
    pub fn heal(&self) {
        self.gone.store(true, SeqCst);
    }
}
