//! Every call to the store fails once, in every way a store can fail. What was
//! reported as saved stays, and the next run carries on.

#[allow(dead_code, reason = "each test binary uses a part")]
#[path = "setback/client.rs"]
mod client;
#[cfg(unix)]
#[allow(dead_code, reason = "each test binary uses a part")]
#[path = "restore/kit.rs"]
mod kit;
#[allow(dead_code, reason = "each test binary uses a part")]
#[path = "prune/world.rs"]
mod world;

#[path = "faults/keys.rs"]
mod keys;
#[path = "faults/parity.rs"]
mod parity;
#[cfg(unix)]
#[path = "faults/reading.rs"]
mod reading;

use std::sync::Arc;

use tresor_engine::Error;
use tresor_engine::crypto::{KdfCost, Password};
use tresor_engine::format::{ObjectId, ObjectKind};
use tresor_engine::maintenance::{
    RepairIndexOptions, RepairSnapshotsOptions, repair_index, repair_snapshots,
};
use tresor_engine::monitor::Quiet;
use tresor_engine::repo::{InitOptions, OpenOptions, Repository};
use tresor_engine::store::{LocalStore, MemoryStore, Store};
use tresor_testkit::{Fault, Faulty, password};

use client::Client;
use world::*;

const COST: KdfCost = KdfCost { memory: 8 * 1024, passes: 1, lanes: 1 };

fn try_open(store: &Store, password: &Password) -> Option<Arc<Repository>> {
    Repository::open(store.clone(), password, &OpenOptions::default()).ok()
}

/// Lets every call of `work` fail in turn and in these ways. `look` gets the store
/// as it is afterwards, what `work` said, and how it failed.
fn every_call<T>(
    base: &Store,
    least: usize,
    faults: &[Fault],
    work: impl Fn(&Arc<Repository>) -> tresor_engine::Result<T>,
    look: impl Fn(&Store, tresor_engine::Result<T>, Fault, &str),
) {
    for &fault in faults {
        for at in 0.. {
            let store = copy(base);
            let mut faulty = None;
            let repo = open_over(&store, |store| {
                let new = Faulty::new(store, fault, at);
                faulty.insert(new).store.clone()
            });
            let result = work(&repo);
            drop(repo);
            let what = format!("{fault:?}, call {at}");
            if faulty.unwrap().calls() <= at {
                assert!(at >= least, "only {at} calls");
                eprintln!("{fault:?}: each of {at} calls");
                look(&store, Ok(result.unwrap()), fault, &what);
                break;
            }
            look(&store, result, fault, &what);
        }
    }
}

/// Whether something may be left to do: it failed, or has believed the store that once said of an
/// object that it isn't there, or no good.
fn may_be_undone<T>(result: &tresor_engine::Result<T>, fault: Fault) -> bool {
    result.is_err() || matches!(fault, Fault::Once(_))
}

#[test]
fn backup() {
    let (base, kept, tree) = three_snapshots();
    let parent = kept.0.last().map(|(s, _)| s.clone());
    let client = Client::new();
    client.is_content(&base, "at first");
    every_call(
        &base,
        6,
        &Fault::ALL,
        |repo| try_backup(repo, &tree, parent.clone()),
        |store, result, fault, what| {
            client.twin().is_content(store, what);
            let mut kept = kept.clone();
            let failed = result.is_err();
            kept.0.extend(result.ok().map(|s| (s, tree.clone())));
            let repo = open(store);
            assert_whole(&repo, &kept, what);
            // A snapshot whose saving was not reported is not there, or whole if nobody could
            // remove it.
            let others = repo.snapshots().unwrap().len() - kept.0.len();
            assert!(!failed || fault.ends_all() || others == 0, "{what}: a snapshot was left");
            for snapshot in repo.snapshots().unwrap() {
                if kept.0.iter().all(|(s, _)| s.id != snapshot.id) {
                    holds(&repo, &snapshot, &tree, what);
                }
            }
            kept.add(&open(store), &tree);
            assert_whole(&open(store), &kept, &format!("{what}, and again"));
        },
    );
}

#[test]
fn forget() {
    let (base, mut kept, _) = three_snapshots();
    let gone: Vec<ObjectId> = kept.0.drain(..2).map(|(s, _)| s.id).collect();
    let client = Client::new();
    client.is_content(&base, "at first");
    every_call(
        &base,
        5,
        &Fault::ALL,
        |repo| repo.forget(&gone),
        |store, result, fault, what| {
            assert_whole(&open(store), &kept, what);
            let client = client.twin();
            client.is_content(store, what);
            if may_be_undone(&result, fault) {
                open(store).forget(&gone).unwrap();
            }
            kept.verify(store, what);
            client.is_content(store, &format!("{what}, and again"));
        },
    );
}

/// As many records as are joined by the next forget.
#[test]
fn records_are_joined() {
    let (base, mut kept, _) = three_snapshots();
    let (client, mut victims) = (Client::new(), Vec::new());
    let repo = client.open(&base);
    for _ in 0..17 {
        victims.push(repo.save_snapshot(&kept.0[0].0.data).unwrap());
    }
    client.is_content(&base, "at first");
    let last = victims.pop().unwrap();
    victims.iter().for_each(|id| open(&base).forget(&[*id]).unwrap());
    assert_eq!(names(&base, ObjectKind::Forgotten).len(), 16);
    let gone = kept.0.remove(0).0.id;
    every_call(
        &base,
        20,
        &Fault::ALL,
        |repo| repo.forget(&[gone, last]),
        |store, result, fault, what| {
            client.twin().is_content(store, what);
            let records = names(store, ObjectKind::Forgotten).len();
            // One that couldn't be read is passed over, and stays.
            let most = if may_be_undone(&result, fault) { 2 } else { 1 };
            assert!(result.is_err() || records <= most, "{what}: {records}");
            if may_be_undone(&result, fault) {
                open(store).forget(&[gone, last]).unwrap();
            }
            assert!(names(store, ObjectKind::Forgotten).len() <= 16, "{what}");
            client.twin().is_content(store, &format!("{what}, and again"));
            kept.verify(store, what);
        },
    );
}

#[test]
fn prune() {
    let (base, mut kept, _) = three_snapshots();
    kept.forget(&open(&base), 0);
    every_call(
        &base,
        20,
        &Fault::ALL,
        |repo| prune_at(repo, &all(), 0),
        |store, result, fault, what| {
            kept.verify(store, what);
            if may_be_undone(&result, fault) {
                prune_at(&open(store), &all(), 0).unwrap();
            }
            kept.verify_clean(store, what);
        },
    );
}

#[test]
fn repair_of_the_index() {
    let (base, kept, _) = broken_index();
    let options = RepairIndexOptions { read_all: true, dry_run: false };
    let before = open(&base).index().objects().len();
    every_call(
        &base,
        20,
        &Fault::ALL,
        |repo| repair_index(repo, &options, &Quiet::default()),
        |store, result, fault, what| {
            assert!(open(store).index().objects().len() >= before, "{what}: an entry is lost");
            if may_be_undone(&result, fault) {
                repair_index(&open(store), &options, &Quiet::default()).unwrap();
            }
            kept.verify(store, what);
        },
    );
}

#[test]
fn repair_of_snapshots() {
    let (base, kept) = lossy();
    let options = RepairSnapshotsOptions::default();
    let repair = |repo: &Arc<Repository>| repair_snapshots(repo, &options, &Quiet::default());
    every_call(&base, 20, &Fault::ALL, repair, |store, result, fault, what| {
        if let Ok(report) = &result {
            let saved = report.repaired.iter().find_map(|r| r.repaired);
            saved.into_iter().for_each(|id| reads_whole(&open(store), &id, what));
        }
        if may_be_undone(&result, fault) {
            repair(&open(store)).unwrap();
        }
        let repo = open(store);
        let listed = names(store, ObjectKind::Snapshot);
        assert!(kept.0.iter().all(|(s, _)| listed.contains(&s.id)), "{what}: an original is gone");
        holds(&repo, &kept.0[0].0, &kept.0[0].1, what);
        // A repair whose answer was lost isn't done twice, and says what it did.
        let again = repair(&repo).unwrap();
        assert!(again.repaired.len() == 1 && again.repaired[0].already, "{what}: {again:?}");
        reads_whole(&open(store), &again.repaired[0].repaired.unwrap(), what);
        assert_eq!(listed.len(), 3, "{what}");
    });
}

/// Whatever fails, the repository is there and opens, or it can be made then.
#[test]
fn init() {
    let folder = tempfile::tempdir().unwrap();
    for fault in Fault::ALL {
        for at in 0.. {
            let path = folder.path().join(format!("{fault:?}-{at}"));
            let memory: Store = Arc::new(MemoryStore::new());
            let mut ended = false;
            for store in [memory, Arc::new(LocalStore::new(path))] {
                let what = format!("{}, {fault:?}, call {at}", store.describe());
                let faulty = Faulty::new(&store, fault, at);
                let made = init_with(&faulty.store);
                ended = faulty.calls() <= at;
                assert!(!ended || (made.is_ok() && at > 3), "{what}");
                if try_open(&store, &password()).is_none() {
                    assert!(made.is_err(), "{what}: it was reported as made");
                    init_with(&store).unwrap_or_else(|e| panic!("{what}: {e}"));
                }
                Kept::default().verify(&store, &what);
                assert!(matches!(init_with(&store), Err(Error::RepositoryExists(_))), "{what}");
            }
            if ended {
                break;
            }
        }
    }
}

fn init_with(store: &Store) -> tresor_engine::Result<()> {
    let options =
        InitOptions { label: "test".into(), cost: COST, parity: None, chunks: Default::default() };
    Repository::init(store, &password(), &options)
}
