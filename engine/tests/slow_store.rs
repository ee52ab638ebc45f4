//! A store that is far away: several requests are under way at once, so that the line
//! need not wait for answers. Counted, not timed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use fastrand::Rng;
use tresor_engine::format::ObjectKind;
use tresor_engine::maintenance::{CheckOptions, PruneOptions, check, plan_prune, prune};
use tresor_engine::monitor::Quiet;
use tresor_engine::repo::{Repository, Snapshot};
use tresor_engine::restorer::{RestoreOptions, restore};
use tresor_engine::store::{MemoryStore, Store};
use tresor_testkit::{
    Call, HookedStore, Item, Line, SlowStore, Traffic, backup, init, open, options, random_bytes,
};

const LINE: Line = Line { latency: Duration::from_millis(40), bytes_per_second: 1e9 };

/// Small files in folders, and text in them so that they don't lie in the tree itself.
fn small_files(folders: usize, files: usize, len: usize) -> Item {
    let mut rng = Rng::with_seed(5);
    let mut tree = Item::dir();
    for folder in 0..folders {
        let below = (0..files).fold(Item::dir(), |dir, n| {
            dir.with(format!("file {n:04}"), Item::file(random_bytes(&mut rng, len)))
        });
        tree = tree.with(format!("folder {folder:03}"), below);
    }
    tree
}

fn slow(store: &Store) -> (Store, Arc<Traffic>) {
    let (slow, traffic) = SlowStore::new(store.clone(), LINE);
    (Arc::new(slow), traffic)
}

fn saved(tree: &Item) -> (Store, Snapshot) {
    let store: Store = Arc::new(MemoryStore::new());
    init(&store);
    let (snapshot, _) = backup(&open(&store), tree, &options(None));
    (store, snapshot)
}

/// Restores it; what went over the line.
fn restored(tree: &Item) -> Arc<Traffic> {
    let (store, snapshot) = saved(tree);
    let (slow, traffic) = slow(&store);
    let repo = open(&slow);
    traffic.reset();
    let target = tempfile::tempdir().unwrap();
    let sink = tresor_platform::open_sink(target.path()).unwrap();
    let (options, monitor) = (RestoreOptions::default(), Arc::new(Quiet::default()));
    let done = restore(&repo, &snapshot.data.tree, &[], sink, &options, monitor).unwrap();
    assert_eq!((done.files_restored, done.errors), (done.files, 0));
    traffic
}

#[test]
fn small_files_are_fetched_many_at_a_time() {
    const BYTES: u64 = 24 << 20;
    let traffic = restored(&small_files(48, 64, 8 << 10));
    let (requests, most) = (traffic.requests.load(SeqCst), traffic.most.load(SeqCst));
    // A segment holds 256 KiB; several of them come with each read.
    assert!(requests < BYTES / (256 << 10), "{requests} requests");
    assert!(most >= 4, "{most} at once");
    // What two batches share may be fetched twice.
    let bytes = traffic.bytes.load(SeqCst);
    assert!(bytes < BYTES * 5 / 4, "{bytes} bytes");
}

#[test]
fn a_large_file_is_fetched_by_several_reads_at_once() {
    let file = Item::file(random_bytes(&mut Rng::with_seed(6), 32 << 20));
    let traffic = restored(&Item::dir().with("file", file));
    let most = traffic.most.load(SeqCst);
    assert!(most >= 3, "{most} at once");
}

/// How many reads of objects of a kind are under way at most while `work` is done.
fn most_reads(
    store: &Store,
    kind: ObjectKind,
    work: impl FnOnce(&Arc<Repository>, &dyn Fn()),
) -> usize {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let seen = most.clone();
    let hook = move |call: &Call| {
        if matches!(call, Call::Get(name) if name.kind == kind) {
            seen.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
            std::thread::sleep(LINE.latency);
            now.fetch_sub(1, SeqCst);
        }
        Ok(())
    };
    let repo = open(&(Arc::new(HookedStore::new(store.clone(), hook)) as Store));
    work(&repo, &|| most.store(0, SeqCst));
    most.load(SeqCst)
}

/// Each backup leaves an index object and a snapshot.
fn with_history(backups: usize) -> Store {
    let store: Store = Arc::new(MemoryStore::new());
    init(&store);
    for n in 0..backups {
        let file = Item::file(random_bytes(&mut Rng::with_seed(n as u64), 5000));
        backup(&open(&store), &Item::dir().with("file", file), &options(None));
    }
    store
}

#[test]
fn prune_reads_several_index_objects_at_once() {
    let most = most_reads(&with_history(8), ObjectKind::Index, |repo, reset| {
        let snapshots = repo.snapshots().unwrap();
        let ids: Vec<_> = snapshots.iter().skip(2).map(|s| s.id).collect();
        repo.forget(&ids).unwrap();
        let options = PruneOptions { grace: Duration::ZERO, ..PruneOptions::default() };
        let plan = plan_prune(repo, &options, &Quiet::default()).unwrap();
        // What came before reads none that is known.
        reset();
        prune(repo, &options, plan, &Quiet::default()).unwrap();
    });
    assert!(most >= 3, "{most} at once");
}

#[test]
fn check_reads_several_snapshots_at_once() {
    let most = most_reads(&with_history(8), ObjectKind::Snapshot, |repo, reset| {
        repo.snapshots().unwrap();
        reset();
        let report = check(repo, &CheckOptions::default(), &Quiet::default()).unwrap();
        assert!(report.problems.is_empty());
    });
    assert!(most >= 3, "{most} at once");
}

#[test]
fn packs_are_looked_up_together() {
    let file = Item::file(random_bytes(&mut Rng::with_seed(7), 200 << 20));
    let store: Store = Arc::new(MemoryStore::new());
    init(&store);
    let (slow, traffic) = slow(&store);
    let repo = open(&slow);
    traffic.reset();
    backup(&repo, &Item::dir().with("file", file), &options(None));
    let most = traffic.most.load(SeqCst);
    assert!(most >= 6, "{most} at once");
}
