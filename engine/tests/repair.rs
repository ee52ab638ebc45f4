//! Repair of the index, interrupted anywhere, and with others at work.

#[path = "prune/world.rs"]
#[allow(dead_code, reason = "each test binary uses a part")]
mod world;

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use fastrand::Rng;
use tresor_engine::Result;
use tresor_engine::format::{IndexData, ObjectKind, ObjectName};
use tresor_engine::index::read_object;
use tresor_engine::maintenance::{RepairIndexOptions, RepairIndexReport, repair_index};
use tresor_engine::monitor::Quiet;
use tresor_engine::repo::Repository;
use tresor_engine::store::Store;
use tresor_testkit::{HookedStore, Item};

use world::*;

const ALL: RepairIndexOptions = RepairIndexOptions { read_all: true, dry_run: false };

fn repair(repo: &Arc<Repository>, options: &RepairIndexOptions) -> Result<RepairIndexReport> {
    repair_index(repo, options, &Quiet::default())
}

/// Two snapshots; one index object is damaged, one says of a pack what isn't so, one is lost.
fn broken() -> (Store, Kept, Item) {
    let mut rng = Rng::with_seed(7);
    let store = new_store();
    let mut kept = Kept::default();
    let mut tree = some_tree(&mut rng, 3);
    for _ in 0..3 {
        kept.add(&open(&store), &tree);
        tree = change(&mut rng, &tree);
    }
    let repo = open(&store);
    let mut index: Vec<_> = names(&store, ObjectKind::Index).into_iter().collect();
    index.sort();
    let [damaged, lying, lost] = index[..] else { panic!("{index:?}") };
    let name = ObjectName::new(ObjectKind::Index, damaged);
    let mut bytes = store.get(&name).unwrap();
    bytes[50] ^= 1;
    let mut data = read_object(&store, repo.keys(), &lying).unwrap();
    data.packs[0].segments.pop().unwrap();
    put_index(&repo, &IndexData { replaces: vec![lying], ..data });
    for id in [damaged, lying, lost] {
        store.delete(&ObjectName::new(ObjectKind::Index, id)).unwrap();
    }
    store.put(&name, &bytes).unwrap();
    (store, kept, tree)
}

fn calls(store: &Store) -> usize {
    let mut calls = None;
    let repo = open_over(&copy(store), |store| {
        let (store, counter) = hooked(store, usize::MAX, |_| Ok(()));
        calls = Some(counter);
        store
    });
    repair(&repo, &ALL).unwrap();
    calls.unwrap().load(SeqCst)
}

#[test]
fn all_that_is_wrong_is_mended() {
    let (store, kept, _) = broken();
    let report = repair(&open(&store), &ALL).unwrap();
    assert!(report.packs_added > 0 && report.unreadable.is_empty(), "{report:?}");
    assert_eq!((report.packs_corrected, report.removed.len()), (1, 1));
    kept.verify(&store, "repaired");
}

#[test]
fn interrupted_anywhere_it_goes_on_and_loses_nothing() {
    let (base, kept, _) = broken();
    let total = calls(&base);
    for n in 0..total {
        let store = copy(&base);
        let before = open(&store).index().objects().len();
        let broken = |s: &Store| hooked(s, n, |_| Err(HookedStore::broken())).0;
        assert!(repair(&open_over(&store, broken), &ALL).is_err(), "call {n} of {total}");
        assert!(open(&store).index().objects().len() >= before, "call {n}: an entry is lost");
        repair(&open(&store), &ALL).unwrap();
        kept.verify(&store, &format!("call {n} of {total}"));
    }
}

/// A power loss in the middle, too: what damaged objects said is there before they go.
#[test]
fn nothing_is_removed_before_what_replaces_it_is_there_for_good() {
    let (base, kept, _) = broken();
    let mut rng = Rng::with_seed(9);
    let total = calls(&base);
    for n in 0..total {
        let volatile = Volatile::new(&objects(&base));
        let store: Store = volatile.clone();
        let broken = |s: &Store| hooked(s, n, |_| Err(HookedStore::broken())).0;
        let _ = repair(&open_over(&store, broken), &ALL);
        let left = volatile.after_power_loss(&mut rng);
        repair(&open(&left), &ALL).unwrap();
        kept.verify(&left, &format!("call {n} of {total}"));
    }
}

#[test]
fn others_may_be_at_work() {
    let (base, kept, tree) = broken();
    let total = calls(&base);
    for n in 0..total {
        for work in 0..2 {
            let store = copy(&base);
            let (other, source, inner) = (open(&store), tree.clone(), store.clone());
            let repo = open_over(&store, |s| {
                at_call(s, n, move || match work {
                    0 => drop(try_backup(&other, &source, None).unwrap()),
                    // It refuses as long as something is wrong.
                    _ => drop(prune_at(&open(&inner), &all(), 0)),
                })
            });
            // It may have to be run again.
            let _ = repair(&repo, &ALL);
            repair(&open(&store), &ALL).unwrap();
            let mut kept = kept.clone();
            let repo = open(&store);
            for snapshot in repo.snapshots().unwrap() {
                if kept.0.iter().all(|(s, _)| s.id != snapshot.id) {
                    kept.0.push((snapshot, tree.clone()));
                }
            }
            kept.verify(&store, &format!("call {n} of {total}, {work}"));
        }
    }
}
