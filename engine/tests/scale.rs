//! What operations cost as a repository grows, in calls of the store and nodes looked
//! at: nothing grows faster than the work, and some things not at all.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use fastrand::Rng;
use tresor_engine::format::{ObjectKind, ObjectName};
use tresor_engine::history::{find, same_version, walk};
use tresor_engine::maintenance::{
    CheckOptions, MaxUnused, PruneOptions, check, plan_prune, prune, stats,
};
use tresor_engine::monitor::Quiet;
use tresor_engine::repo::{OpenOptions, Repository, Snapshot};
use tresor_engine::store::{MemoryStore, Store};
use tresor_testkit::synthetic::{Size, fill};
use tresor_testkit::{Call, HookedStore, Item, backup, init, options, password, random_bytes};

/// Calls of a store.
#[derive(Default)]
struct Cost {
    lists: AtomicU64,
    gets: AtomicU64,
    ranges: AtomicU64,
    bytes: AtomicU64,
}

impl Cost {
    /// Since the last time it was asked: listings, objects read, ranges read, and their bytes.
    fn take(&self) -> [u64; 4] {
        [&self.lists, &self.gets, &self.ranges, &self.bytes].map(|n| n.swap(0, SeqCst))
    }
}

fn counted(store: Store) -> (Store, Arc<Cost>) {
    let cost = Arc::new(Cost::default());
    let counts = cost.clone();
    let hook = move |call: &Call| {
        match call {
            Call::List(_) => counts.lists.fetch_add(1, SeqCst),
            Call::Get(_) => counts.gets.fetch_add(1, SeqCst),
            Call::GetRange(_, _, len) => {
                counts.bytes.fetch_add(*len as u64, SeqCst);
                counts.ranges.fetch_add(1, SeqCst)
            }
            _ => 0,
        };
        Ok(())
    };
    (Arc::new(HookedStore::new(store, hook)), cost)
}

fn open(store: &Store, cache: Option<&Path>) -> Arc<Repository> {
    let options = OpenOptions { cache: cache.map(Path::to_owned), ..Default::default() };
    Repository::open(store.clone(), &password(), &options).unwrap()
}

fn synthetic(size: &Size) -> Store {
    let store: Store = Arc::new(MemoryStore::new());
    init(&store);
    let place = |name: &ObjectName, len: u64| Ok(store.put(name, &vec![0; len as usize])?);
    fill(&open(&store, None), size, &place).unwrap();
    store
}

fn size(snapshots: u64, directories: u64, files: u64, changed: u64) -> Size {
    Size { snapshots, directories, files, chunks: 2, changed, stored: 64, others: 0 }
}

/// Paths with their versions as `find` tells them: which snapshots hold the same.
fn found(repo: &Repository, snapshots: &[Snapshot]) -> Vec<(Vec<u8>, Vec<usize>)> {
    let mut all = Vec::new();
    find(repo, snapshots, &|_, _| true, &mut |path, _, holders| {
        all.push((path.to_vec(), holders.to_vec()));
        Ok(())
    })
    .unwrap();
    all
}

/// The same, one snapshot after the other.
fn found_slowly(repo: &Repository, snapshots: &[Snapshot]) -> Vec<(Vec<u8>, Vec<usize>)> {
    let mut all: BTreeMap<Vec<Vec<u8>>, Vec<_>> = BTreeMap::new();
    for (number, snapshot) in snapshots.iter().enumerate() {
        walk(repo, &snapshot.data.tree, &mut |path, node| {
            let names = path.split(|b| *b == b'/').map(<[u8]>::to_vec).collect();
            // Directories are by themselves, whatever is in them.
            let mut node = node.clone();
            node.tree = None;
            let versions: &mut Vec<(_, Vec<usize>)> = all.entry(names).or_default();
            match versions.iter_mut().find(|(known, _)| same_version(known, &node)) {
                Some((_, holders)) => holders.push(number),
                None => versions.push((node, vec![number])),
            }
            Ok(true)
        })
        .unwrap();
    }
    let flat = |(names, versions): (Vec<Vec<u8>>, Vec<(_, Vec<usize>)>)| {
        let path = names.join(&b'/');
        versions.into_iter().map(move |(_, holders)| (path.clone(), holders))
    };
    all.into_iter().flat_map(flat).collect()
}

#[test]
fn find_tells_what_each_snapshot_tells() {
    let mut rng = Rng::with_seed(3);
    let store: Store = Arc::new(MemoryStore::new());
    init(&store);
    let repo = open(&store, None);
    let mut tree = Item::dir();
    // A directory of several pages, and one that is the same under another name.
    for folder in ["a", "a!b", "b"] {
        let mut dir = Item::dir();
        for n in 0..rng.usize(600..1500) {
            let body = random_bytes(&mut rng, 4);
            dir.entries_mut().insert(format!("f{n}").into_bytes(), Item::file(body));
        }
        tree.entries_mut().insert(folder.into(), dir);
    }
    let copy = tree.entries_mut()[&b"a"[..]].clone();
    tree.entries_mut().insert(b"copy".to_vec(), copy);
    let mut snapshots = Vec::new();
    for _ in 0..12 {
        snapshots.push(backup(&repo, &tree, &options(snapshots.last().cloned())).0);
        for _ in 0..rng.usize(0..4) {
            let folder = *rng.choice(&[&b"a"[..], b"b", b"copy"]).unwrap();
            let Some(dir) = tree.entries_mut().get_mut(folder) else { continue };
            let name = format!("f{}", rng.usize(..1600)).into_bytes();
            if rng.bool() {
                dir.entries_mut().remove(&name);
            } else {
                let body = random_bytes(&mut rng, 5);
                dir.entries_mut().insert(name, Item::file(body));
            }
        }
        if rng.u8(..6) == 0 {
            tree.entries_mut().remove(&b"b"[..]);
        }
    }
    rng.shuffle(&mut snapshots);
    assert!(found(&repo, &snapshots) == found_slowly(&repo, &snapshots));
}

#[test]
fn find_looks_at_what_differs() {
    let looked_at = |snapshots: u64| {
        let (store, cost) = counted(synthetic(&size(snapshots, 1, 4000, 1)));
        let repo = open(&store, None);
        let snapshots = repo.snapshots().unwrap();
        cost.take();
        let nodes = Cell::new(0u64);
        let count = |_: &[u8], _: &_| {
            nodes.set(nodes.get() + 1);
            false
        };
        find(&repo, &snapshots, &count, &mut |_, _, _| Ok(())).unwrap();
        (nodes.get(), cost.take())
    };
    let (few, _) = looked_at(2);
    let (many, [lists, gets, ranges, bytes]) = looked_at(42);
    // A page has less than 600 entries; there are two directories above.
    assert!((many - few) / 40 < 610, "{few} {many}");
    assert_eq!((lists, gets), (0, 0));
    assert!(ranges < 60 && bytes < 20 << 20, "{ranges} {bytes}");
}

#[test]
fn a_repository_known_already_is_opened_at_the_same_cost_whatever_its_size() {
    let cost_of = |directories: u64| {
        let (store, cost) = counted(synthetic(&size(2, directories, 500, 1)));
        let cache = tempfile::tempdir().unwrap();
        let index = store.list(ObjectKind::Index).unwrap().len();
        drop(open(&store, Some(cache.path())));
        cost.take();
        let repo = open(&store, Some(cache.path()));
        let opened = cost.take();
        let blobs: usize = repo.index().runs().iter().map(|run| run.len()).sum();
        (index, blobs, opened)
    };
    let (small, few, at_first) = cost_of(2);
    let (large, many, opened) = cost_of(100);
    assert!(large >= small && many > 40 * few);
    // The config and the key slot; the index is only listed.
    assert_eq!((at_first, opened), ([2, 2, 0, 0], [2, 2, 0, 0]));
}

#[test]
fn a_lookup_asks_few_runs_however_often_the_index_grew() {
    let store: Store = Arc::new(MemoryStore::new());
    init(&store);
    let cache = tempfile::tempdir().unwrap();
    let mut rng = Rng::with_seed(5);
    let mut tree = Item::dir();
    for n in 0..9 {
        tree.entries_mut().insert(vec![b'a' + n], Item::file(random_bytes(&mut rng, 9000)));
        let repo = open(&store, Some(cache.path()));
        let runs = repo.index().runs().len();
        assert!(runs <= 3, "{runs} runs after {n} backups");
        backup(&repo, &tree, &options(None));
    }
}

#[test]
fn a_prune_of_others_makes_nobody_read_all_of_the_index_again() {
    let (store, cost) = counted(Arc::new(MemoryStore::new()));
    init(&store);
    let caches = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [repo, _] = [0, 1].map(|n| open(&store, Some(caches[n].path())));
    let mut rng = Rng::with_seed(8);
    let mut backed_up = || {
        let file = Item::file(random_bytes(&mut rng, 9000));
        backup(&repo, &Item::dir().with("file", file), &options(None)).0
    };
    let snapshots: Vec<_> = std::iter::repeat_with(&mut backed_up).take(20).collect();
    drop(open(&store, Some(caches[1].path())));
    repo.forget(&[snapshots[7].id]).unwrap();
    let options = PruneOptions { max_unused: MaxUnused::Percent(100.0), ..Default::default() };
    let plan = plan_prune(&repo, &options, &Quiet::default()).unwrap();
    assert_eq!(prune(&repo, &options, plan, &Quiet::default()).unwrap().bytes_deleted, 0);
    cost.take();
    let other = open(&store, Some(caches[1].path()));
    let [_, gets, ..] = cost.take();
    // The config, the key slot, and the object that was written anew.
    assert!(gets <= 4, "{gets} objects read");
    assert_eq!(other.index().objects(), repo.index().objects());
    for run in other.index().runs() {
        assert_eq!(run.packs().map(|p| p.entries as usize).sum::<usize>(), run.len());
    }
    let entries = |repo: &Repository| {
        let runs = repo.index().runs();
        let found = runs.iter().flat_map(|r| (0..r.len()).filter_map(|i| r.found(&r.entry(i)?)));
        let mut all: Vec<_> =
            found.map(|f| (f.location.segment, f.location.start, f.marked)).collect();
        all.sort();
        all
    };
    let anew = open(&store, None);
    assert_eq!(entries(&other), entries(&anew));
    assert_eq!(entries(&repo), entries(&anew));
}

#[test]
fn snapshots_are_read_once_each() {
    for n in [10, 200] {
        let (store, cost) = counted(synthetic(&size(n, 4, 3, 1)));
        let repo = open(&store, None);
        cost.take();
        assert_eq!(repo.snapshots().unwrap().len() as u64, n);
        assert_eq!(cost.take(), [1, n, 0, 0]);
        repo.snapshots().unwrap();
        assert_eq!(cost.take(), [1, 0, 0, 0]);
    }
}

/// What an operation costs, with four times as much of everything.
fn grows_with_the_work(name: &str, work: impl Fn(&Arc<Repository>, &[Snapshot])) {
    let cost_of = |factor: u64| {
        let (store, cost) = counted(synthetic(&size(8 * factor, 15 * factor, 80, 4)));
        let repo = open(&store, None);
        let snapshots = repo.snapshots().unwrap();
        let before = repo.counters().bytes_decoded.load(SeqCst);
        cost.take();
        work(&repo, &snapshots);
        let [lists, gets, ranges, bytes] = cost.take();
        (lists, [gets, ranges, bytes, repo.counters().bytes_decoded.load(SeqCst) - before])
    };
    let ((lists, small), (lists_of_large, large)) = (cost_of(1), cost_of(4));
    assert_eq!(lists, lists_of_large, "{name}");
    // Snapshots × changes and files both are four times as many; of what is quadratic
    // there would be sixteen times as much.
    let grown = small.iter().zip(&large).all(|(small, large)| *large <= small * 8 + 10);
    assert!(grown, "{name}: {small:?} {large:?}");
}

#[test]
fn nothing_grows_faster_than_the_work() {
    grows_with_the_work("stats", |repo, snapshots| {
        assert_eq!(stats(repo, snapshots).unwrap().snapshots, snapshots.len() as u64);
    });
    grows_with_the_work("check", |repo, _| {
        let report = check(repo, &CheckOptions::default(), &Quiet::default()).unwrap();
        assert!(report.problems.is_empty(), "{:?}", report.problems.first());
    });
    grows_with_the_work("prune", |repo, _| {
        let plan = plan_prune(repo, &PruneOptions::default(), &Quiet::default()).unwrap();
        assert_eq!(plan.blobs_unused, 0);
    });
    grows_with_the_work("find", |repo, snapshots| {
        find(repo, snapshots, &|_, _| false, &mut |_, _, _| Ok(())).unwrap();
    });
}
