//! Repair of the index, interrupted anywhere, and with others at work.

#[path = "prune/world.rs"]
#[allow(dead_code, reason = "each test binary uses a part")]
mod world;

use std::collections::HashSet;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};

use fastrand::Rng;
use tresor_engine::Result;
use tresor_engine::format::{BlobKind, IndexData, Node, ObjectId, ObjectKind, ObjectName};
use tresor_engine::history;
use tresor_engine::index::read_object;
use tresor_engine::maintenance::{
    RepairIndexOptions, RepairIndexReport, RepairSnapshotsOptions, RepairSnapshotsReport,
    plan_prune, repair_index, repair_snapshots,
};
use tresor_engine::monitor::Quiet;
use tresor_engine::repo::Repository;
use tresor_engine::store::{Store, StoreError, StoreErrorKind};
use tresor_testkit::{Call, HookedStore, Item, random_bytes};

use world::stores::Volatile;
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
    let mut calls_of_prune = None;
    let counted = open_over(&copy(&base), |store| {
        let (store, counter) = hooked(store, usize::MAX, |_| Ok(()));
        calls_of_prune = Some(counter);
        store
    });
    prune_at(&counted, &all(), 0).unwrap();
    let (total, others) = (calls(&base), calls_of_prune.unwrap().load(SeqCst));
    let (mut corrected, mut gave_way) = (0, 0);
    for round in 0..150 {
        let mut rng = Rng::with_seed(round);
        // Late in both: there they write.
        let steps = (total - rng.usize(1..30), others - rng.usize(1..20));
        let what = format!("calls {steps:?} of {total} and {others}");
        let store = copy(&base);
        let other = |repo: &Arc<Repository>| drop(prune_at(repo, &all(), 0));
        match crossed(&store, steps, |repo| repair(repo, &ALL), other) {
            Ok(report) => corrected += report.packs_corrected,
            Err(e) => {
                let text = e.to_string();
                assert!(
                    text.contains("a prune has") || text.contains("no such object"),
                    "{what}: {e}"
                );
                gave_way += 1;
            }
        }
        let repo = open(&store);
        let _reliance = repo.index().rely();
        repo.refresh_index().unwrap();
        let lost = repo.index().lost_packs();
        assert!(lost.is_empty(), "{what}: the index names what the prune has deleted");
        if round % 8 == 0 {
            repair(&repo, &ALL).unwrap();
            kept.verify(&store, &what);
        }
    }
    assert!(corrected > 2 && gave_way > 2, "{corrected} corrected, {gave_way} gave way");
}

fn repair_all(repo: &Arc<Repository>) -> Result<RepairSnapshotsReport> {
    let options =
        RepairSnapshotsOptions { read_data: true, forget_unreadable: true, dry_run: false };
    repair_snapshots(repo, &options, &Quiet::default())
}

/// An object is damaged until it is read for the first, second, third … time. Whenever it was whole
/// in time it must stay, and all with it; returns how often it is read.
fn whole_from_some_reading_on(
    (base, kept): (&Store, &Kept),
    name: ObjectName,
    repair: impl Fn(&Arc<Repository>),
) -> usize {
    let good = base.get(&name).unwrap();
    for good_from in 1.. {
        let store = copy(base);
        let mut bytes = good.clone();
        bytes[60] ^= 1;
        store.replace(&name, &bytes).unwrap();
        let (inner, reads, good) = (store.clone(), Arc::new(Mutex::new(0)), good.clone());
        let counted = reads.clone();
        let repo = open_over(&store, |store| {
            hooked(store, 0, move |call| {
                let mut reads = counted.lock().unwrap();
                let reads_it = matches!(call, Call::Get(n) if *n == name);
                *reads += usize::from(reads_it);
                if reads_it && *reads == good_from {
                    inner.replace(&name, &good)?;
                }
                Ok(())
            })
            .0
        });
        repair(&repo);
        let is_there = names(&store, name.kind).contains(&name.id);
        if *reads.lock().unwrap() < good_from {
            assert!(!is_there);
            return good_from - 1;
        }
        assert!(is_there, "whole at reading {good_from}, and removed");
        kept.verify(&store, &format!("whole at reading {good_from}"));
    }
    unreachable!("it is read without end")
}

/// A snapshot can't be read, and when it is read again, it can: it isn't removed.
#[test]
fn a_snapshot_that_can_be_read_at_the_last_look_stays() {
    let (base, kept) = whole(9);
    let name = ObjectName::new(ObjectKind::Snapshot, kept.0[0].0.id);
    let readings =
        whole_from_some_reading_on((&base, &kept), name, |repo| drop(repair_all(repo).unwrap()));
    assert!(readings > 2, "{readings} readings");
}

/// The same with an object of the index.
#[test]
fn an_index_object_that_can_be_read_at_the_last_look_stays() {
    let (base, kept) = whole(9);
    let name = base.list(ObjectKind::Index).unwrap()[0].0;
    let readings =
        whole_from_some_reading_on((&base, &kept), name, |repo| drop(repair(repo, &ALL).unwrap()));
    assert!(readings > 1, "{readings} readings");
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
            let repo = open_over(&store, |store| unreadable(store, bad));
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

/// A pack is put back while the tables of others are read: it is not taken for lost.
#[test]
fn a_pack_that_is_put_back_meanwhile_is_not_lost() {
    let (base, kept) = whole(5);
    for (name, _) in base.list(ObjectKind::Pack).unwrap() {
        let store = copy(&base);
        let bytes = store.get(&name).unwrap();
        store.delete(&name).unwrap();
        let (inner, listed) = (store.clone(), Mutex::new(0));
        let repo = open_over(&store, |store| {
            hooked(store, 0, move |call| {
                let mut listed = listed.lock().unwrap();
                match call {
                    Call::List(ObjectKind::Pack) => *listed += 1,
                    Call::Get(_) | Call::GetRange(..) if *listed == 1 => {
                        inner.put(&name, &bytes).unwrap();
                    }
                    _ => {}
                }
                Ok(())
            })
            .0
        });
        repair(&repo, &ALL).unwrap();
        let plan = plan_prune(&open(&store), &all(), &Quiet::default()).unwrap();
        assert_eq!(plan.packs_recovered, 0, "it was doomed: {plan:?}");
        kept.verify(&store, "put back");
    }
}

/// Two snapshots of different trees, one after the other.
fn whole(seed: u64) -> (Store, Kept) {
    let mut rng = Rng::with_seed(seed);
    let (store, mut kept) = (new_store(), Kept::default());
    (0..2).for_each(|_| drop(kept.add(&open(&store), &some_tree(&mut rng, 3))));
    (store, kept)
}

/// Flips a byte in each of the packs that came since.
fn spoil(store: &Store, packs: impl IntoIterator<Item = ObjectId>) {
    for id in packs {
        let name = ObjectName::new(ObjectKind::Pack, id);
        let mut bytes = store.get(&name).unwrap();
        bytes[60] ^= 1;
        store.delete(&name).unwrap();
        store.put(&name, &bytes).unwrap();
    }
}

/// The page of an empty folder is damaged, which the index doesn't know; what is saved of
/// folders that are lost are empty ones.
#[test]
fn a_lost_page_that_is_needed_again_is_stored_again() {
    let store = new_store();
    let mut kept = Kept::default();
    let mut tree = Item::dir().with("empty", Item::dir());
    tree = tree.with("full", Item::dir().with("file", Item::file("what is in it is not much")));
    kept.add(&open(&store), &tree);
    let old = names(&store, ObjectKind::Pack);
    tree = tree.with("new", Item::file(""));
    kept.add(&open(&store), &tree);
    spoil(&store, old);
    let report = repair_all(&open(&store)).unwrap();
    let repaired = report.repaired.iter().find_map(|r| r.repaired).expect("the second one");
    let repo = open(&store);
    let snapshots = repo.snapshots().unwrap();
    let snapshot = snapshots.iter().find(|s| s.id == repaired).unwrap();
    let mut found = Vec::new();
    history::walk(&repo, &snapshot.data.tree, &mut |path, node| {
        let path = String::from_utf8_lossy(path).into_owned();
        // No backup takes what is there for what is not whole.
        assert_eq!(path.ends_with(".damaged"), node.ctime == Node::LOOK_AGAIN, "{path}");
        found.push(path);
        Ok(true)
    })
    .unwrap();
    found.sort();
    assert_eq!(found, ["/empty.damaged", "/full.damaged", "/new"]);
}

/// Names as long as names may be are cut, between characters where there are some.
#[test]
fn long_names_of_damaged_files_are_cut() {
    let long: [Vec<u8>; 5] = [
        vec![0x80; 255],
        vec![b'x'; 255],
        "ä".repeat(127).into_bytes(),
        ["x".repeat(3), "𝄞".repeat(63)].concat().into_bytes(),
        [vec![b'x'; 200], vec![0xbf; 55]].concat(),
    ];
    let mut rng = Rng::with_seed(6);
    let store = new_store();
    let mut kept = Kept::default();
    let (mut good, mut bad) =
        (random_bytes(&mut rng, 2_000_000), random_bytes(&mut rng, 2_000_000));
    let mut tree = Item::dir().with("whole", Item::file(good.clone()));
    kept.add(&open(&store), &tree);
    let old = names(&store, ObjectKind::Pack);
    good.append(&mut bad);
    for name in &long {
        tree.entries_mut().insert(name.clone(), Item::file(good.clone()));
    }
    kept.add(&open(&store), &tree);
    // Chunks only: of packs that came, those that hold no page.
    let repo = open(&store);
    let mut lost = names(&store, ObjectKind::Pack);
    lost.retain(|id| !old.contains(id));
    for run in repo.index().runs() {
        for entry in (0..run.len()).filter_map(|i| run.entry(i)) {
            if entry.kind == BlobKind::Tree {
                lost.remove(&run.pack(entry.pack).unwrap().id);
            }
        }
    }
    assert!(!lost.is_empty());
    for id in lost {
        store.delete(&ObjectName::new(ObjectKind::Pack, id)).unwrap();
    }
    let report = repair_all(&open(&store)).unwrap();
    let [repaired] = &report.repaired[..] else { panic!("{report:?}") };
    let mut kept_as = HashSet::new();
    for loss in &repaired.losses {
        let name = &loss.kept_as.as_ref().unwrap()[1..];
        let (whole, start) = (&loss.path[1..], &name[..name.len() - 8]);
        assert!(name.len() <= 255 && name.ends_with(b".damaged"), "{name:?}");
        assert!(whole.starts_with(start) && start.len() > 240, "{name:?}");
        assert!(std::str::from_utf8(whole).is_err() || std::str::from_utf8(start).is_ok());
        kept_as.insert(name.to_vec());
    }
    assert_eq!(kept_as.len(), long.len());
}

/// With a part of the index that can't be read now, nothing follows from what the rest says.
#[test]
fn with_a_bad_sector_under_the_index_nothing_is_doomed() {
    let (store, kept) = whole(9);
    let bad = store.list(ObjectKind::Index).unwrap()[0].0;
    let pack = store.list(ObjectKind::Pack).unwrap()[0].0;
    let bytes = store.get(&pack).unwrap();
    store.delete(&pack).unwrap();
    let repo = open_over(&store, |store| unreadable(store, bad));
    let report = repair(&repo, &ALL).unwrap();
    assert_eq!((report.packs_missing, report.removed.len()), (0, 0), "{report:?}");
    store.put(&pack, &bytes).unwrap();
    kept.verify(&store, "put back");
    let plan = plan_prune(&open(&store), &all(), &Quiet::default()).unwrap();
    assert_eq!(plan.packs_recovered, 0, "it was doomed: {plan:?}");
}

/// A store in which the disk can't read an object.
fn unreadable(store: &Store, bad: ObjectName) -> Store {
    hooked(store, 0, move |call| match call {
        Call::Get(name) | Call::GetRange(name, ..) if *name == bad => {
            let kind = StoreErrorKind::Unreadable;
            Err(StoreError::new(kind, "read", name.path(), "Input/output error"))
        }
        _ => Ok(()),
    })
    .0
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
    const PACKS: usize = 10;
    let store = new_store();
    let repo = open(&store);
    fill_with_junk(&repo, PACKS);
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
