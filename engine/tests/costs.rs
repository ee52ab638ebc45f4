//! What an unchanged file costs, in allocations, and an unchanged backup in calls of the
//! store: counted, so that no clock is needed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tresor_engine::format::ObjectKind;
use tresor_engine::store::{MemoryStore, Store};
use tresor_testkit::{Call, HookedStore, Item, backup, init, open, options};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: as the caller vouches.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as the caller vouches.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: as the caller vouches.
        unsafe { System.realloc(place, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Files that don't lie in the tree itself, a hundred in a folder.
fn tree(files: usize) -> Item {
    (0..files / 100).fold(Item::dir(), |tree, folder| {
        let below = (0..100).fold(Item::dir(), |dir, n| {
            dir.with(format!("file {n:03}"), Item::file(format!("{folder} {n} ").repeat(50)))
        });
        tree.with(format!("folder {folder:05}"), below)
    })
}

/// What a second backup of so many files costs: allocations, and calls of the store.
fn unchanged(files: usize) -> (u64, Vec<Call>) {
    let tree = tree(files);
    let store: Store = Arc::new(MemoryStore::new());
    init(&store);
    let (parent, _) = backup(&open(&store), &tree, &options(None));
    let calls = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = calls.clone();
    let hook = move |call: &Call| {
        seen.lock().unwrap().push(*call);
        Ok(())
    };
    let repo = open(&(Arc::new(HookedStore::new(store, hook)) as Store));
    calls.lock().unwrap().clear();
    let before = ALLOCATIONS.load(Relaxed);
    let (snapshot, _) = backup(&repo, &tree, &options(Some(parent.clone())));
    let made = ALLOCATIONS.load(Relaxed) - before;
    assert_eq!(snapshot.data.tree, parent.data.tree);
    let calls = calls.lock().unwrap().clone();
    (made, calls)
}

#[test]
fn an_unchanged_file_costs_few_allocations_and_no_calls() {
    const FEW: usize = 2_000;
    const MANY: usize = 12_000;
    let ((few, _), (many, calls)) = (unchanged(FEW), unchanged(MANY));
    let each = (many - few) as f64 / (MANY - FEW) as f64;
    eprintln!("{each:.2} allocations for each file");
    assert!(each < LIMIT, "{each:.2} allocations for each file");
    // One snapshot, and no pack or index object.
    let puts: Vec<_> = calls.iter().filter(|c| matches!(c, Call::Put(_))).collect();
    assert!(matches!(puts[..], [Call::Put(name)] if name.kind == ObjectKind::Snapshot), "{puts:?}");
    // Of the tree: 12,000 nodes are some megabytes, in segments of 256 KiB.
    let ranges = calls.iter().filter(|c| matches!(c, Call::GetRange(..))).count();
    assert!(ranges < 24, "{ranges} reads from packs");
    assert!(calls.len() < 50, "{} calls", calls.len());
}

/// The source in memory clones, which makes more of them than reading a disk.
const LIMIT: f64 = 8.5;
