//! The same in repositories with parity: an object and its parity are two calls, and either
//! may fail.

use tresor_engine::format::ParityShare;
use tresor_engine::maintenance::{CheckOptions, check};
use tresor_engine::store::StoreErrorKind;
use tresor_testkit::Item;

use super::keys::{add, of_keys, opens_if_added, other_password};
use super::*;

/// What else can fail is no other for parity.
const FAULTS: [Fault; 6] = [
    Fault::Before,
    Fault::After,
    Fault::Dead,
    Fault::Once(StoreErrorKind::NotFound),
    Fault::From(StoreErrorKind::NoSpace),
    Fault::Cut,
];

fn two_snapshots() -> (Store, Kept, Item) {
    some_snapshots(new_store_with(ParityShare::new(50)), 2, 2)
}

/// All that is kept is there and whole, and nothing else is wrong; or, if it `failed`, only
/// with parity.
#[track_caller]
fn is_whole(store: &Store, kept: &Kept, failed: bool, what: &str) {
    let repo = open(store);
    let options = CheckOptions { read_data: true, ..Default::default() };
    let mut problems = check(&repo, &options, &Quiet::default()).unwrap().problems;
    problems.retain(|p| !failed || !p.message.contains("parity"));
    assert!(problems.is_empty(), "{what}: {problems:#?}");
    kept.0.iter().for_each(|(snapshot, tree)| holds(&repo, snapshot, tree, what));
}

#[test]
fn a_backup_with_parity() {
    let (base, kept, tree) = two_snapshots();
    let parent = kept.0.last().map(|(s, _)| s.clone());
    let run = |repo: &Arc<Repository>| try_backup(repo, &tree, parent.clone());
    every_call(&base, 12, &FAULTS, run, |store, result, fault, what| {
        let (mut kept, failed) = (kept.clone(), result.is_err());
        kept.0.extend(result.ok().map(|s| (s, tree.clone())));
        is_whole(store, &kept, failed, what);
        // Whole, if nobody could remove it.
        for snapshot in open(store).snapshots().unwrap() {
            if kept.0.iter().all(|(s, _)| s.id != snapshot.id) {
                assert!(failed && fault.ends_all(), "{what}: a snapshot was left");
                kept.0.push((snapshot, tree.clone()));
            }
        }
        kept.add(&open(store), &tree);
        prune_at(&open(store), &all(), 0).unwrap();
        kept.verify_clean(store, what);
        assert_tidy(store, what);
    });
}

#[test]
fn a_prune_with_parity() {
    let (base, mut kept, _) = two_snapshots();
    kept.forget(&open(&base), 0);
    let run = |repo: &Arc<Repository>| prune_at(repo, &all(), 0);
    // It makes many calls.
    let faults = [Fault::After, Fault::Dead, Fault::Cut];
    every_call(&base, 20, &faults, run, |store, result, fault, what| {
        is_whole(store, &kept, result.is_err(), what);
        if may_be_undone(&result, fault) {
            run(&open(store)).unwrap();
        }
        kept.verify_clean(store, what);
        assert_tidy(store, what);
    });
}

#[test]
fn a_key_is_added_with_parity() {
    let (base, kept, _) = two_snapshots();
    of_keys(&base, &FAULTS, add, true, |store, result, fault, what| {
        is_whole(store, &kept, result.is_err(), what);
        opens_if_added(store, result, fault, what);
    });
}

/// Who has its parity can make a key slot of it.
#[test]
fn a_key_is_removed_with_parity() {
    let (base, kept, _) = two_snapshots();
    let id = open(&base).add_key(&other_password(), "second", COST).unwrap();
    let remove = |repo: &Arc<Repository>| repo.remove_key(&id);
    of_keys(&base, &FAULTS, remove, false, |store, result, _, what| {
        is_whole(store, &kept, result.is_err(), what);
        let slot = names(store, ObjectKind::Key).contains(&id);
        let parity = names(store, ObjectKind::Parity).contains(&id);
        assert!(slot || !parity, "{what}: it is removed, and its parity is there");
        assert!(result.is_err() || !slot, "{what}");
    });
}
