//! A store with faults.

use std::cell::Cell;
use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};

use tresor_engine::format::ObjectName;
use tresor_engine::store::Store;
use tresor_testkit::{Call, HookedStore};

pub type Range = (ObjectName, u64);

/// What happens to reads from packs.
#[derive(Clone, Debug, Default)]
pub enum Fault {
    #[default]
    None,
    /// The nth from now on fails, and so does the same read afterwards: kernels try again.
    Fail(u64),
    /// The nth from now on gives a wrong byte, likewise.
    Damage(u64),
    FailAll,
    /// These wait until there is another fault.
    Stall(HashSet<Range>),
    StallAll,
}

thread_local! {
    /// Whether the read that this thread is in is the one that is hit.
    static HIT: Cell<bool> = const { Cell::new(false) };
}

#[derive(Default)]
pub struct Faults {
    pub fault: Mutex<Fault>,
    changed: Condvar,
    pub reads: AtomicU64,
    pub waiting: AtomicUsize,
    pub seen: Mutex<Vec<Range>>,
    /// What the nth read was of.
    pub hit: Mutex<Option<Range>>,
}

impl Faults {
    /// The store, with these faults.
    pub fn store(self: &Arc<Self>, inner: Store) -> Store {
        let (before, after) = (self.clone(), self.clone());
        let hooked = HookedStore::new(inner, move |call| match call {
            Call::GetRange(name, offset, _) => {
                before.meet((*name, *offset)).map_err(|_| HookedStore::broken())
            }
            _ => Ok(()),
        });
        Arc::new(hooked.altering(move |bytes| after.garble(bytes)))
    }

    pub fn set(&self, fault: Fault) {
        self.reads.store(0, SeqCst);
        *self.hit.lock().unwrap() = None;
        *self.fault.lock().unwrap() = fault;
        self.changed.notify_all();
    }

    /// Before a read.
    fn meet(&self, range: Range) -> io::Result<()> {
        let number = self.reads.fetch_add(1, SeqCst) + 1;
        self.seen.lock().unwrap().push(range);
        let stalls = |fault: &Fault| match fault {
            Fault::StallAll => true,
            Fault::Stall(ranges) => ranges.contains(&range),
            _ => false,
        };
        let fault = self.fault.lock().unwrap();
        if let Fault::Fail(nth) | Fault::Damage(nth) = *fault
            && nth == number
        {
            *self.hit.lock().unwrap() = Some(range);
        }
        HIT.set(*self.hit.lock().unwrap() == Some(range));
        let fails = match *fault {
            Fault::Fail(_) => HIT.get(),
            Fault::FailAll => true,
            _ => false,
        };
        if stalls(&fault) {
            self.waiting.fetch_add(1, SeqCst);
            drop(self.changed.wait_while(fault, |fault| stalls(fault)).unwrap());
            self.waiting.fetch_sub(1, SeqCst);
        }
        if fails { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
    }

    /// After a read.
    fn garble(&self, bytes: &mut [u8]) {
        if let Fault::Damage(_) = *self.fault.lock().unwrap()
            && HIT.get()
        {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }
    }
}
