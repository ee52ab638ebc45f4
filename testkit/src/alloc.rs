//! An allocator that counts, so that what some work takes can be held against a limit.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static TOTAL: AtomicUsize = AtomicUsize::new(0);
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// To be made the global allocator of a test's program; elsewhere nothing is counted.
pub struct Counting;

fn grew(by: usize) {
    COUNT.fetch_add(1, Relaxed);
    TOTAL.fetch_add(by, Relaxed);
    PEAK.fetch_max(LIVE.fetch_add(by, Relaxed) + by, Relaxed);
}

// SAFETY: every call is passed on as it is; the counters don't touch memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grew(layout.size());
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grew(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both may be there at the same time.
        grew(size);
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// What some work has allocated; the first two in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allocated {
    /// Most at one time, beyond what was there before.
    pub peak: usize,
    /// All together.
    pub total: usize,
    /// How often.
    pub count: usize,
}

/// What `work` allocates, on whatever thread. Nothing else must run meanwhile.
pub fn measure<T>(work: impl FnOnce() -> T) -> (T, Allocated) {
    let (live, total, count) = (LIVE.load(Relaxed), TOTAL.load(Relaxed), COUNT.load(Relaxed));
    PEAK.store(live, Relaxed);
    let done = work();
    let peak = PEAK.load(Relaxed).saturating_sub(live);
    let (total, count) = (TOTAL.load(Relaxed) - total, COUNT.load(Relaxed) - count);
    (done, Allocated { peak, total, count })
}
