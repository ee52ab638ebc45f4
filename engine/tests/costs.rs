//! What an unchanged file costs, in allocations, and an unchanged backup in calls of the
//! store: counted, so that no clock is needed.

use std::sync::{Arc, Mutex};

use tresor_engine::format::{BlobKind, ObjectKind};
use tresor_engine::pack::{NewSegment, PackWriter, Packed};
use tresor_engine::repo::Repository;
use tresor_engine::store::{MemoryStore, Store};
use tresor_testkit::{
    Call, Counting, HookedStore, Item, backup, init, measure, open, options, random_bytes,
};

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

/// An open repository, and the calls to its store from now on.
fn recorded(store: Store) -> (Arc<Repository>, Arc<Mutex<Vec<Call>>>) {
    let calls: Arc<Mutex<Vec<Call>>> = Arc::default();
    let seen = calls.clone();
    let hook = move |call: &Call| {
        seen.lock().unwrap().push(*call);
        Ok(())
    };
    let repo = open(&(Arc::new(HookedStore::new(store, hook)) as Store));
    calls.lock().unwrap().clear();
    (repo, calls)
}

/// What a second backup of so many files costs: allocations, and calls of the store.
fn unchanged(files: usize) -> (usize, Vec<Call>) {
    let tree = tree(files);
    let store: Store = Arc::new(MemoryStore::new());
    init(&store);
    let (parent, _) = backup(&open(&store), &tree, &options(None));
    let (repo, calls) = recorded(store);
    let ((snapshot, _), made) = measure(|| backup(&repo, &tree, &options(Some(parent.clone()))));
    assert_eq!(snapshot.data.tree, parent.data.tree);
    (made.count, std::mem::take(&mut *calls.lock().unwrap()))
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

/// The calls of a first backup of this tree. `before` does something to the empty repository.
fn first(tree: &Item, before: impl FnOnce(&Store)) -> Vec<Call> {
    let store: Store = Arc::new(MemoryStore::new());
    init(&store);
    before(&store);
    let (repo, calls) = recorded(store);
    backup(&repo, tree, &options(None));
    std::mem::take(&mut *calls.lock().unwrap())
}

fn count(calls: &[Call], of: impl Fn(&Call) -> bool) -> usize {
    calls.iter().filter(|call| of(call)).count()
}

fn sizes_of_packs(calls: &[Call]) -> usize {
    count(calls, |c| matches!(c, Call::Size(name) if name.kind == ObjectKind::Pack))
}

/// Each pack is looked at when it has arrived, and before the snapshot is saved.
#[test]
fn a_first_backup_asks_for_little() {
    let noise = |n| random_bytes(&mut fastrand::Rng::with_seed(n), 10 << 20);
    let tree = (0..6).fold(Item::dir(), |tree, n| tree.with(format!("{n}"), Item::file(noise(n))));
    let calls = first(&tree, |_| ());
    let packs = count(&calls, |c| matches!(c, Call::Put(name) if name.kind == ObjectKind::Pack));
    assert!(packs > 3, "{packs} packs");
    assert_eq!(sizes_of_packs(&calls), 2 * packs, "{packs} packs");
    assert_eq!(count(&calls, |c| *c == Call::List(ObjectKind::Pack)), 1);
}

/// Packs that interrupted ones have left are listed together, not asked for one by one.
#[test]
fn a_first_backup_that_takes_up_many_packs() {
    const MANY: u64 = 160;
    let tree = |n: u64| {
        let bytes = random_bytes(&mut fastrand::Rng::with_seed(n), 3_000);
        Item::dir().with(format!("file {n}"), Item::file(bytes))
    };
    let interrupted = |store: &Store| {
        let repo = open(
            &(Arc::new(HookedStore::new(store.clone(), |call| match call {
                Call::Put(name) if name.kind == ObjectKind::Index => Err(HookedStore::broken()),
                _ => Ok(()),
            })) as Store),
        );
        for n in 0..MANY / 2 {
            let mut writer = PackWriter::new(repo.clone());
            for kind in [BlobKind::Data, BlobKind::Tree] {
                let mut segment = NewSegment::new(kind);
                let bytes = random_bytes(&mut fastrand::Rng::with_seed(n), 500);
                segment.push(repo.keys().blob_id(kind, &bytes), &bytes);
                writer.add(&Packed::from(segment)).unwrap();
            }
            assert!(writer.finish().is_err());
        }
    };
    let calls = first(&tree(1), interrupted);
    let read = count(&calls, |c| matches!(c, Call::Get(name) if name.kind == ObjectKind::Pack));
    assert_eq!(read as u64, MANY);
    let asked = sizes_of_packs(&calls);
    // Once each, before it is named; its own ones are few.
    assert!(asked <= MANY as usize + 6, "{asked} sizes of packs");
    assert!(count(&calls, |c| *c == Call::List(ObjectKind::Pack)) <= 2);
}
