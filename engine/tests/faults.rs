//! Every call to the store fails once, in every way a store can fail. What was
//! reported as saved stays, and the next run carries on.

#[allow(dead_code, reason = "each test binary uses a part")]
#[path = "setback/client.rs"]
mod client;
#[allow(dead_code, reason = "each test binary uses a part")]
#[path = "prune/world.rs"]
mod world;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};

use tresor_engine::Error;
use tresor_engine::crypto::{KdfCost, Password};
use tresor_engine::format::{ObjectId, ObjectKind};
use tresor_engine::maintenance::{
    RepairIndexOptions, RepairSnapshotsOptions, repair_index, repair_snapshots,
};
use tresor_engine::monitor::Quiet;
use tresor_engine::repo::{InitOptions, OpenOptions, Repository};
use tresor_engine::store::{LocalStore, MemoryStore, Store, StoreError, StoreErrorKind};
use tresor_testkit::{Call, HookedStore, password};

use client::Client;
use world::*;

const COST: KdfCost = KdfCost { memory: 8 * 1024, passes: 1, lanes: 1 };

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
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

/// Whether nothing could be done after it: then what was begun may be there by half.
fn ends_all(what: &str) -> bool {
    let is = |fault: &Fault| what.starts_with(&format!("{fault:?}"));
    let from =
        |fault: &Fault| matches!(fault, Fault::From(kind) if *kind != StoreErrorKind::NoSpace);
    FAULTS.iter().filter(|fault| from(fault) || **fault == Fault::Dead).any(is)
}

const FAULTS: [Fault; 13] = [
    Fault::Before,
    Fault::After,
    Fault::Dead,
    Fault::Once(StoreErrorKind::NotFound),
    Fault::From(StoreErrorKind::NotFound),
    Fault::Once(StoreErrorKind::Unreadable),
    Fault::From(StoreErrorKind::Unreadable),
    Fault::Once(StoreErrorKind::PermissionDenied),
    Fault::From(StoreErrorKind::PermissionDenied),
    Fault::Once(StoreErrorKind::Truncated),
    Fault::From(StoreErrorKind::NoSpace),
    Fault::From(StoreErrorKind::ReadOnly),
    Fault::Cut,
];

fn fails(kind: StoreErrorKind, call: &Call) -> bool {
    let stores = matches!(call, Call::Put(_) | Call::Replace(_));
    match kind {
        StoreErrorKind::NoSpace => stores,
        StoreErrorKind::ReadOnly => {
            stores || matches!(call, Call::Delete(_) | Call::Sweep | Call::Create)
        }
        _ => true,
    }
}

/// A store whose `at`th call fails, and the number of calls so far.
fn faulty(store: &Store, fault: Fault, at: usize) -> (Store, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let cut = Arc::new(AtomicBool::new(false));
    let cuts = cut.clone();
    let hook = move |call: &Call| {
        let n = counted.fetch_add(1, SeqCst);
        if fault == Fault::Cut {
            cuts.fetch_or(n == at, SeqCst);
            return Ok(());
        }
        let error =
            |kind| Err(StoreError::new(kind, "call", "the test store", "it was told to fail"));
        match fault {
            Fault::Once(kind) if n == at => error(kind),
            Fault::From(kind) if n >= at && fails(kind, call) => error(kind),
            Fault::Dead if n > at => Err(HookedStore::broken()),
            Fault::Before | Fault::After | Fault::Dead if n == at => Err(HookedStore::broken()),
            _ => Ok(()),
        }
    };
    let store = match fault {
        Fault::After => HookedStore::new(store.clone(), hook).afterwards(),
        _ => HookedStore::new(store.clone(), hook).cutting(cut),
    };
    (Arc::new(store), calls)
}

fn try_open(store: &Store, password: &Password) -> Option<Arc<Repository>> {
    Repository::open(store.clone(), password, &OpenOptions::default()).ok()
}

fn other_password() -> Password {
    Password::new(b"battery staple".to_vec())
}

/// Lets every call of `work` fail in turn and in every way. `look` gets the store
/// as it is afterwards, and what `work` said.
fn every_call<T>(
    base: &Store,
    least: usize,
    work: impl Fn(&Arc<Repository>) -> tresor_engine::Result<T>,
    look: impl Fn(&Store, tresor_engine::Result<T>, &str),
) {
    for fault in FAULTS {
        for at in 0.. {
            let store = copy(base);
            let mut calls = None;
            let repo = open_over(&store, |store| {
                let (store, counter) = faulty(store, fault, at);
                calls = Some(counter);
                store
            });
            let result = work(&repo);
            drop(repo);
            let what = format!("{fault:?}, call {at}");
            if calls.unwrap().load(SeqCst) <= at {
                assert!(at >= least, "only {at} calls");
                eprintln!("{fault:?}: each of {at} calls");
                look(&store, Ok(result.unwrap()), &what);
                break;
            }
            look(&store, result, &what);
        }
    }
}

/// Whether something may be left to do: it failed, or has believed the store that once said of an
/// object that it isn't there, or no good.
fn may_be_undone<T>(result: &tresor_engine::Result<T>, what: &str) -> bool {
    result.is_err() || what.starts_with("Once")
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
        |repo| try_backup(repo, &tree, parent.clone()),
        |store, result, what| {
            client.twin().is_content(store, what);
            let mut kept = kept.clone();
            let failed = result.is_err();
            kept.0.extend(result.ok().map(|s| (s, tree.clone())));
            let repo = open(store);
            assert_whole(&repo, &kept, what);
            // A snapshot whose saving was not reported is not there, or whole if nobody could
            // remove it.
            let others = repo.snapshots().unwrap().len() - kept.0.len();
            assert!(!failed || ends_all(what) || others == 0, "{what}: a snapshot was left");
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
        |repo| repo.forget(&gone),
        |store, result, what| {
            assert_whole(&open(store), &kept, what);
            let client = client.twin();
            client.is_content(store, what);
            if may_be_undone(&result, what) {
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
        |repo| repo.forget(&[gone, last]),
        |store, result, what| {
            client.twin().is_content(store, what);
            let records = names(store, ObjectKind::Forgotten).len();
            // One that couldn't be read is passed over, and stays.
            let most = if may_be_undone(&result, what) { 2 } else { 1 };
            assert!(result.is_err() || records <= most, "{what}: {records}");
            if may_be_undone(&result, what) {
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
        |repo| prune_at(repo, &all(), 0),
        |store, result, what| {
            kept.verify(store, what);
            if may_be_undone(&result, what) {
                prune_at(&open(store), &all(), 0).unwrap();
            }
            kept.verify_clean(store, what);
        },
    );
}

/// The old password opens it whatever happens, and once `work` is done, perhaps only the
/// second time, whether the other one does is decided.
fn of_keys(
    base: &Store,
    kept: &Kept,
    work: impl Fn(&Arc<Repository>) -> tresor_engine::Result<()>,
    other_opens: bool,
) {
    let client = Client::new();
    client.is_content(base, "at first");
    every_call(base, 2, &work, |store, result, what| {
        assert_whole(&open(store), kept, what);
        client.twin().is_content(store, what);
        if result.is_err() {
            work(&open(store)).unwrap();
        }
        assert_eq!(try_open(store, &other_password()).is_some(), other_opens, "{what}");
    });
}

#[test]
fn a_key_is_added() {
    let (base, kept, _) = three_snapshots();
    let add = |repo: &Arc<Repository>| repo.add_key(&other_password(), "second", COST).map(drop);
    of_keys(&base, &kept, add, true);
    every_call(&base, 2, add, |store, result, what| {
        let opens = try_open(store, &other_password()).is_some();
        assert!(result.is_ok() || ends_all(what) || !opens, "{what}: reported as not added");
    });
}

#[test]
fn a_key_is_removed() {
    let (base, kept, _) = three_snapshots();
    let id = open(&base).add_key(&other_password(), "second", COST).unwrap();
    of_keys(&base, &kept, |repo| repo.remove_key(&id), false);
}

/// Two processes each remove what the other one has opened the repository with: whatever
/// one has done when the other one is through, somebody can open it.
#[test]
fn two_keys_remove_each_other() {
    let (base, kept, _) = three_snapshots();
    let first = open(&base).key_slots().unwrap()[0].id;
    let second = open(&base).add_key(&other_password(), "second", COST).unwrap();
    let (mut neither, mut one) = (0, 0);
    for at in 0.. {
        let store = copy(&base);
        let other = try_open(&store, &other_password()).unwrap();
        let (removed, answer) = mpsc::channel();
        let repo = open_over(&store, |store| {
            at_call(store, at, move || removed.send(other.remove_key(&first).is_ok()).unwrap())
        });
        let result = repo.remove_key(&second);
        drop(repo);
        let Ok(other_result) = answer.try_recv() else { break };
        let what = format!("call {at}: {result:?}, the other one {other_result}");
        let by_first = try_open(&store, &password());
        let by_second = try_open(&store, &other_password());
        neither += usize::from(result.is_err() && !other_result);
        one += usize::from(result.is_ok() != other_result);
        assert!(!(result.is_ok() && other_result), "{what}");
        let repo = by_first.or(by_second).unwrap_or_else(|| panic!("{what}: locked out"));
        assert_whole(&repo, &kept, &what);
    }
    assert!(one > 2, "{one}, {neither}");
}

#[test]
fn the_password_is_changed() {
    let (base, kept, _) = three_snapshots();
    every_call(
        &base,
        4,
        |repo| repo.change_password(&other_password(), "new", COST),
        |store, result, what| {
            let (old, new) = (try_open(store, &password()), try_open(store, &other_password()));
            if result.is_ok() {
                assert!(new.is_some() && old.is_none(), "{what}");
            }
            let repo = new.or(old).unwrap_or_else(|| panic!("{what}: locked out"));
            assert_whole(&repo, &kept, what);
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
        |repo| repair_index(repo, &options, &Quiet::default()),
        |store, result, what| {
            assert!(open(store).index().objects().len() >= before, "{what}: an entry is lost");
            if may_be_undone(&result, what) {
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
    every_call(&base, 20, repair, |store, result, what| {
        if may_be_undone(&result, what) {
            repair(&open(store)).unwrap();
        }
        let repo = open(store);
        let listed = names(store, ObjectKind::Snapshot);
        assert!(kept.0.iter().all(|(s, _)| listed.contains(&s.id)), "{what}: an original is gone");
        holds(&repo, &kept.0[0].0, &kept.0[0].1, what);
        // A repair whose answer was lost isn't done twice, and says what it did.
        let again = repair(&repo).unwrap();
        assert!(again.repaired.len() == 1 && again.repaired[0].already, "{what}: {again:?}");
        assert_eq!(listed.len(), 3, "{what}");
    });
}

/// Whatever fails, the repository is there and opens, or it can be made then.
#[test]
fn init() {
    let folder = tempfile::tempdir().unwrap();
    for fault in FAULTS {
        for at in 0.. {
            let path = folder.path().join(format!("{fault:?}-{at}"));
            let memory: Store = Arc::new(MemoryStore::new());
            let mut ended = false;
            for store in [memory, Arc::new(LocalStore::new(path))] {
                let what = format!("{}, {fault:?}, call {at}", store.describe());
                let (hooked, calls) = faulty(&store, fault, at);
                let made = init_with(&hooked);
                ended = calls.load(SeqCst) <= at;
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
