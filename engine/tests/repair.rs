//! Repair of the index, interrupted anywhere, and with others at work.

#[path = "prune/world.rs"]
#[allow(dead_code, reason = "each test binary uses a part")]
mod world;

use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};

use fastrand::Rng;
use tresor_engine::Result;
use tresor_engine::format::{BlobId, BlobKind, IndexData, ObjectKind, ObjectName};
use tresor_engine::index::read_object;
use tresor_engine::maintenance::{
    RepairIndexOptions, RepairIndexReport, RepairSnapshotsOptions, RepairSnapshotsReport,
    repair_index, repair_snapshots,
};
use tresor_engine::monitor::Quiet;
use tresor_engine::pack::{NewSegment, PackWriter, Packed};
use tresor_engine::repo::Repository;
use tresor_engine::store::{Store, StoreError, StoreErrorKind};
use tresor_testkit::{Call, HookedStore};

use world::*;

const ALL: RepairIndexOptions = RepairIndexOptions { read_all: true, dry_run: false };

fn repair(repo: &Arc<Repository>, options: &RepairIndexOptions) -> Result<RepairIndexReport> {
    repair_index(repo, options, &Quiet::default())
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
    let (store, kept, _) = broken_index();
    let report = repair(&open(&store), &ALL).unwrap();
    assert!(report.packs_added > 0 && report.unreadable.is_empty(), "{report:?}");
    assert_eq!((report.packs_corrected, report.removed.len()), (1, 1));
    kept.verify(&store, "repaired");
}

#[test]
fn interrupted_anywhere_it_goes_on_and_loses_nothing() {
    let (base, kept, _) = broken_index();
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
    let (base, kept, _) = broken_index();
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
    let (base, kept, tree) = broken_index();
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

/// An index object that is wrong about a pack, which a prune is about to delete: neither
/// brings back what the other removes.
#[test]
fn correcting_gives_way_to_a_prune() {
    let mut rng = Rng::with_seed(8);
    let base = new_store();
    let repo = open(&base);
    let mut kept = Kept::default();
    kept.add(&repo, &some_tree(&mut rng, 3));
    let known = names(&base, ObjectKind::Index);
    kept.add(&repo, &some_tree(&mut rng, 3));
    let second = names(&base, ObjectKind::Index).difference(&known).copied().next().unwrap();
    kept.forget(&repo, 1);
    let mut data = read_object(&base, repo.keys(), &second).unwrap();
    data.packs[0].segments.pop().unwrap();
    put_index(&repo, &IndexData { replaces: vec![second], ..data });
    base.delete(&ObjectName::new(ObjectKind::Index, second)).unwrap();
    let (mut corrected, mut gave_way) = (0, 0);
    for round in 0..60 {
        let store = copy(&base);
        let turns = Turns::new(&[1 + round as usize % 4, 2], Rng::with_seed(round));
        let repaired = std::thread::scope(|scope| {
            let (turns, store) = (&turns, &store);
            scope.spawn(move || drop(turns.run(1, store, |repo| prune_at(repo, &all(), 0))));
            turns.run(0, store, |repo| repair(repo, &ALL))
        });
        match repaired {
            Ok(report) => corrected += report.packs_corrected,
            Err(e) => {
                let text = e.to_string();
                assert!(text.contains("a prune has") || text.contains("no such object"), "{e}");
                gave_way += 1;
            }
        }
        let repo = open(&store);
        let _reliance = repo.index().rely();
        repo.refresh_index().unwrap();
        let lost = repo.index().lost_packs();
        assert!(lost.is_empty(), "round {round}: the index names what the prune has deleted");
        repair(&repo, &ALL).unwrap();
        kept.verify(&store, &format!("round {round}"));
    }
    assert!(corrected > 2 && gave_way > 2, "{corrected} corrected, {gave_way} gave way");
}

fn repair_all(repo: &Arc<Repository>) -> Result<RepairSnapshotsReport> {
    let options =
        RepairSnapshotsOptions { read_data: true, forget_unreadable: true, dry_run: false };
    repair_snapshots(repo, &options, &Quiet::default())
}

/// Whatever the disk can't read now, nothing is removed, and no snapshot is saved without it.
#[test]
fn a_bad_sector_is_not_lost() {
    let store = new_store();
    let mut kept = Kept::default();
    for seed in 1..3 {
        kept.add(&open(&store), &some_tree(&mut Rng::with_seed(seed), 3));
    }
    for kind in [ObjectKind::Index, ObjectKind::Snapshot, ObjectKind::Pack] {
        for (bad, _) in store.list(kind).unwrap() {
            let before = objects(&store);
            let repo = open_over(&store, |store| {
                hooked(store, 0, move |call| match call {
                    Call::Get(name) | Call::GetRange(name, ..) if *name == bad => {
                        let kind = StoreErrorKind::Unreadable;
                        Err(StoreError::new(kind, "read", name.path(), "Input/output error"))
                    }
                    _ => Ok(()),
                })
                .0
            });
            let report = repair(&repo, &ALL).unwrap();
            let named = report.unreadable.iter().any(|(object, reason)| {
                *object == bad.path() && reason.contains("can't read it now")
            });
            assert!(named || kind == ObjectKind::Snapshot, "{report:?}");
            assert!(report.removed.is_empty() && report.packs_missing == 0, "{report:?}");
            match repair_all(&repo) {
                Ok(report) => {
                    assert!(
                        report.repaired.is_empty() && report.forgotten.is_empty(),
                        "{report:?}"
                    );
                    assert_eq!(report.not_now.is_empty(), kind == ObjectKind::Snapshot);
                }
                Err(e) => {
                    assert!(kind == ObjectKind::Index && e.to_string().contains("repair"), "{e}")
                }
            }
            let after = objects(&store);
            assert!(before.keys().all(|name| after.contains_key(name)), "{bad}: something is gone");
            kept.verify(&store, "readable again");
        }
    }
}

/// Packs that no index object names are there: of a running backup, say. Only what is in
/// them may keep a repair from what is lost elsewhere.
#[test]
fn a_running_backup_does_not_keep_snapshots_from_being_repaired() {
    let mut rng = Rng::with_seed(3);
    let store = new_store();
    let mut kept = Kept::default();
    kept.add(&open(&store), &some_tree(&mut rng, 3));
    let elsewhere = copy(&store);
    let known = names(&store, ObjectKind::Index);
    kept.add(&open(&store), &some_tree(&mut rng, 3));
    // Its index object is lost, and its packs: nothing says where its blobs are.
    let old_packs = names(&elsewhere, ObjectKind::Pack);
    let index = names(&store, ObjectKind::Index).difference(&known).copied().next().unwrap();
    store.delete(&ObjectName::new(ObjectKind::Index, index)).unwrap();
    let found = repair_all(&open(&store)).err().unwrap().to_string();
    assert!(found.contains("repair index"), "the packs are there, and name them: {found}");
    for id in names(&store, ObjectKind::Pack).difference(&old_packs) {
        store.delete(&ObjectName::new(ObjectKind::Pack, *id)).unwrap();
    }
    // Somebody else's, not named yet.
    try_backup(&open(&elsewhere), &some_tree(&mut rng, 3), None).unwrap();
    for id in names(&elsewhere, ObjectKind::Pack).difference(&old_packs) {
        let name = ObjectName::new(ObjectKind::Pack, *id);
        store.put(&name, &elsewhere.get(&name).unwrap()).unwrap();
    }
    let report = repair_all(&open(&store)).unwrap();
    assert_eq!(report.repaired.len(), 1, "{report:?}");
    assert_eq!(report.repaired[0].original.id, kept.0[1].0.id);
}

/// Tables of many packs are never all in memory: they go into the index as they come.
#[test]
fn tables_are_written_while_others_are_read() {
    const PACKS: usize = 14;
    let store = new_store();
    let repo = open(&store);
    let mut rng = Rng::with_seed(1);
    let mut writer = PackWriter::new(repo.clone());
    for _ in 0..PACKS {
        // Enough to fill a pack.
        for _ in 0..10 {
            let mut segment = NewSegment::new(BlobKind::Data);
            for _ in 0..10_000 {
                let mut id = [0; 32];
                rng.fill(&mut id);
                segment.push(BlobId(id), b"x");
            }
            writer.add(&Packed::from(segment)).unwrap();
        }
    }
    writer.finish().unwrap();
    for id in names(&store, ObjectKind::Index) {
        store.delete(&ObjectName::new(ObjectKind::Index, id)).unwrap();
    }
    let calls = Arc::new(Mutex::new(Vec::new()));
    let log = calls.clone();
    let repo = open_over(&store, |store| {
        hooked(store, 0, move |call| {
            match call {
                Call::GetRange(name, ..) if name.kind == ObjectKind::Pack => {
                    log.lock().unwrap().push('r');
                }
                Call::Put(name) if name.kind == ObjectKind::Index => log.lock().unwrap().push('w'),
                _ => {}
            }
            Ok(())
        })
        .0
    });
    let report = repair(&repo, &RepairIndexOptions::default()).unwrap();
    assert_eq!(report.blobs_added, PACKS as u64 * 100_000);
    let calls: String = calls.lock().unwrap().iter().collect();
    let before_last_read = &calls[..calls.rfind('r').unwrap()];
    let (reads, writes) = (calls.matches('r').count(), calls.matches('w').count());
    let early = before_last_read.matches('w').count();
    assert!(early > writes / 2, "{early} of {writes} objects before the last of {reads} reads");
}
