//! Single cases: what prune and the index make of leftovers, lies, and broken things.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use fastrand::Rng;
use tresor_engine::Error;
use tresor_engine::format::{BlobKind, Content, IndexData, ObjectId, ObjectKind, ObjectName, Time};
use tresor_engine::index::read_object;
use tresor_engine::maintenance::{
    CheckOptions, PruneOptions, PrunePlan, check, plan_prune, plan_prune_without, prune, stats,
};
use tresor_engine::monitor::Quiet;
use tresor_engine::repo::{OpenOptions, Repository, now};
use tresor_engine::store::{Store, StoreError, StoreErrorKind};
use tresor_testkit::{Call, HookedStore, Item, password, random_bytes};

use super::world::stores::Volatile;
use super::world::*;
use super::{busy, finish};

/// Y is replaced by X, which is replaced by Z: Y stays out of force as long as X
/// is there, whoever looks and in whatever order they came.
#[test]
fn what_a_replaced_object_replaces_stays_replaced() {
    let cache = tempfile::tempdir().unwrap();
    let store = new_store();
    let with_cache = || {
        let options = OpenOptions { cache: Some(cache.path().to_owned()), ..Default::default() };
        Repository::open(store.clone(), &password(), &options).unwrap()
    };
    let mut kept = Kept::default();
    let repo = with_cache();
    kept.add(&repo, &some_tree(&mut Rng::with_seed(1), 3));
    let y = *names(&store, ObjectKind::Index).iter().next().unwrap();
    let data = read_object(&store, repo.keys(), &y).unwrap();
    let watching = open(&store);
    let reliance = watching.index().rely();
    let x = put_index(&repo, &IndexData { packs: data.packs.clone(), replaces: vec![y] });
    watching.refresh_index().unwrap();
    assert_eq!(watching.index().objects(), [x].into());
    let z = put_index(&repo, &IndexData { packs: data.packs, replaces: vec![x] });
    for repo in [&watching, &repo, &open(&store), &with_cache(), &with_cache()] {
        for _ in 0..3 {
            repo.refresh_index().unwrap();
            assert_eq!(repo.index().objects(), [z].into());
            let replaced = repo.index().replaced();
            assert_eq!((&replaced[&x], &replaced[&y]), (&vec![y], &vec![]));
        }
    }
    assert_eq!(reliance.objects(), [x, y, z].into());
    assert_eq!(watching.index().rely().objects(), [z].into());
    // Without Z, X is in force again.
    store.delete(&ObjectName::new(ObjectKind::Index, z)).unwrap();
    for repo in [&watching, &open(&store), &with_cache()] {
        repo.refresh_index().unwrap();
        assert_eq!(repo.index().objects(), [x].into());
    }
    prune_at(&watching, &gentle(), 0).unwrap();
    assert_eq!(names(&store, ObjectKind::Index), [x].into());
    kept.verify(&store, "in the end");
}

/// Prune 1 replaces Y and dies before it deletes it; prune 2 replaces what prune 1 wrote.
#[test]
fn leftovers_do_not_come_back() {
    let mut rng = Rng::with_seed(1);
    let store = new_store();
    let repo = open(&store);
    let mut kept = Kept::default();
    let (first, second) = (some_tree(&mut rng, 4), some_tree(&mut rng, 4));
    kept.add(&repo, &first);
    kept.add(&repo, &second);
    kept.add(&repo, &some_tree(&mut rng, 4));
    let old = names(&store, ObjectKind::Index);
    kept.forget(&repo, 0);
    let dying = open_over(&store, |store| {
        hooked(store, 0, |call| match call {
            Call::Delete(_) => Err(HookedStore::broken()),
            _ => Ok(()),
        })
        .0
    });
    prune_at(&dying, &gentle(), -3 * DAY).unwrap_err();
    assert!(names(&store, ObjectKind::Index).is_superset(&old));
    prune_at(&open(&store), &gentle(), 0).unwrap();
    // The packs of the first are gone, and nothing says that they are there.
    let repo = open(&store);
    let packs = names(&store, ObjectKind::Pack);
    assert!(repo.index().runs().iter().all(|r| r.packs().all(|p| packs.contains(&p.id))));
    kept.add(&repo, &first);
    kept.verify(&store, "after a backup of the first");
}

/// An old index object under another name would escape being replaced.
#[test]
fn an_index_object_under_another_name_is_damaged() {
    let store = new_store();
    let mut kept = Kept::default();
    kept.add(&open(&store), &some_tree(&mut Rng::with_seed(1), 3));
    let index = store.list(ObjectKind::Index).unwrap()[0].0;
    let wrong = ObjectName::new(ObjectKind::Index, ObjectId([7; 32]));
    store.put(&wrong, &store.get(&index).unwrap()).unwrap();
    let repo = open(&store);
    assert_eq!(repo.index().damaged()[0].0, wrong.id);
    assert_eq!(repo.index().objects(), [index.id].into());
    let error = prune_at(&repo, &gentle(), 0).unwrap_err().to_string();
    assert!(error.contains(&wrong.path()) && error.contains("tresor check"), "{error}");
}

/// A blob lies in two packs, one of them is gone or cut off.
#[test]
fn a_missing_copy_is_no_reason_to_drop_the_good_one() {
    for options in [gentle(), all()] {
        for cut in [None, Some(100)] {
            let mut rng = Rng::with_seed(1);
            let store = new_store();
            let tree = some_tree(&mut rng, 5);
            let elsewhere = copy(&store);
            let mut kept = Kept::default();
            kept.add(&open(&store), &tree);
            let packs = names(&store, ObjectKind::Pack);
            kept.add(&open(&elsewhere), &tree);
            for (name, bytes) in objects(&elsewhere) {
                if name.kind != ObjectKind::Config {
                    store.put(&name, &bytes).unwrap();
                }
            }
            for id in one_copy_each(&store, &packs) {
                let name = ObjectName::new(ObjectKind::Pack, id);
                let bytes = store.get(&name).unwrap();
                store.delete(&name).unwrap();
                cut.iter().for_each(|len| store.put(&name, &bytes[..*len]).unwrap());
            }
            let repo = open(&store);
            for later in [0, 2 * DAY, 4 * DAY] {
                prune_at(&repo, &options, later).unwrap();
            }
            kept.verify(&store, "after prunes");
        }
    }
}

/// Of packs with data those that are in `packs`, of packs with trees those that are not.
fn one_copy_each(store: &Store, packs: &HashSet<ObjectId>) -> HashSet<ObjectId> {
    let repo = open(store);
    let mut chosen = HashSet::new();
    for run in repo.index().runs() {
        for entry in (0..run.len()).filter_map(|i| run.entry(i)) {
            let id = run.pack(entry.pack).unwrap().id;
            if packs.contains(&id) == (entry.kind == BlobKind::Data) {
                chosen.insert(id);
            }
        }
    }
    chosen
}

#[test]
fn prune_refuses_what_it_can_not_know() {
    let mut rng = Rng::with_seed(1);
    let base = new_store();
    let mut kept = Kept::default();
    kept.add(&open(&base), &some_tree(&mut rng, 5));
    kept.add(&open(&base), &some_tree(&mut rng, 5));
    for kind in [ObjectKind::Pack, ObjectKind::Index, ObjectKind::Snapshot] {
        for (name, _) in base.list(kind).unwrap() {
            for missing in [true, false] {
                if missing && kind == ObjectKind::Snapshot {
                    continue;
                }
                let store = copy(&base);
                let mut bytes = store.get(&name).unwrap();
                store.delete(&name).unwrap();
                if !missing {
                    bytes.truncate(bytes.len() - 1);
                    store.put(&name, &bytes).unwrap();
                }
                let repo = open(&store);
                let before = objects(&store);
                let error = prune_at(&repo, &all(), 0).unwrap_err().to_string();
                assert_eq!(objects(&store), before);
                if kind == ObjectKind::Index && missing {
                    assert!(error.contains("blob"), "{error}");
                } else {
                    assert!(error.contains(&name.path()), "{error}");
                }
                assert!(error.contains("tresor check"), "{error}");
            }
        }
    }
}

/// A snapshot that comes after the plan and can't be read.
#[test]
fn prune_refuses_a_damaged_snapshot_that_comes_late() {
    let store = new_store();
    let repo = open(&store);
    let mut kept = Kept::default();
    kept.add(&repo, &some_tree(&mut Rng::with_seed(1), 5));
    kept.add(&repo, &some_tree(&mut Rng::with_seed(2), 5));
    kept.forget(&repo, 0);
    let plan = plan_prune(&repo, &all(), &Quiet::default()).unwrap();
    let late = ObjectName::new(ObjectKind::Snapshot, ObjectId([1; 32]));
    store.put(&late, b"what is this?").unwrap();
    let packs = names(&store, ObjectKind::Pack);
    let error = prune(&repo, &all(), plan, &Quiet::default()).unwrap_err().to_string();
    assert!(error.contains(&late.path()), "{error}");
    assert_eq!(names(&store, ObjectKind::Pack), packs);
}

#[test]
fn a_grace_must_be_long_enough() {
    let store = new_store();
    let repo = open(&store);
    for (seconds, good) in [(0, true), (1, false), (7199, false), (7200, true)] {
        let options = PruneOptions { grace: Duration::from_secs(seconds), ..all() };
        let plan = plan_prune(&repo, &options, &Quiet::default());
        assert_eq!(plan.is_ok(), good);
        if let Err(e) = plan {
            assert!(matches!(&e, Error::Invalid(m) if m.contains("two hours")), "{e}");
            let plan = plan_prune(&repo, &all(), &Quiet::default()).unwrap();
            prune(&repo, &options, plan, &Quiet::default()).unwrap_err();
        }
    }
}

/// The plan for when snapshots are forgotten is the one that a prune makes then.
#[test]
fn a_plan_without_some_snapshots() {
    let (store, mut kept, _) = busy(8);
    let before = objects(&store);
    let at_first = shown(&plan_prune(&open(&store), &all(), &Quiet::default()));
    let forgotten = kept.0.iter().take(2).map(|(s, _)| s.id).collect();
    let foreseen =
        plan_prune_without(&open(&store), &forgotten, &all(), &Quiet::default()).unwrap();
    assert_eq!(objects(&store), before, "something was written");
    let changed = copy(&store);
    open(&changed).forget(&forgotten.iter().copied().collect::<Vec<_>>()).unwrap();
    let plan = plan_prune(&open(&changed), &all(), &Quiet::default());
    assert_eq!(shown(&Ok(foreseen)), shown(&plan));
    assert_ne!(shown(&plan), at_first);
    // Carried out while they are still there, it spares what they need.
    let plan = plan_prune_without(&open(&store), &forgotten, &all(), &Quiet::default()).unwrap();
    prune(&open(&store), &all(), plan, &Quiet::default()).unwrap();
    kept.verify(&store, "a plan that came too early");
    kept.0.drain(..2);
    finish(&changed, &kept, &all(), "forgotten");
}

/// What a plan tells.
fn shown(plan: &tresor_engine::Result<PrunePlan>) -> [u64; 15] {
    let p = plan.as_ref().unwrap();
    [
        p.snapshots,
        p.blobs_used,
        p.blobs_unused,
        p.bytes_used,
        p.bytes_unused,
        p.packs_kept,
        p.packs_repack,
        p.bytes_repack,
        p.packs_mark,
        p.bytes_mark,
        p.packs_delete,
        p.bytes_delete,
        p.packs_waiting,
        p.packs_recovered,
        p.packs_unindexed,
    ]
}

/// A plan is carried out after another prune has changed everything.
#[test]
fn a_plan_that_is_outdated() {
    let (store, kept, _) = busy(6);
    let repo = open(&store);
    let plan = plan_prune(&repo, &all(), &Quiet::default()).unwrap();
    prune_at(&open(&store), &all(), 0).unwrap();
    let error = prune(&repo, &all(), plan, &Quiet::default()).unwrap_err().to_string();
    assert!(error.contains("another prune"), "{error}");
    finish(&store, &kept, &all(), "outdated");
}

/// A pack is marked in one index object and not in another: then it isn't.
#[test]
fn entries_that_contradict_each_other() {
    let store = new_store();
    let repo = open(&store);
    let mut kept = Kept::default();
    kept.add(&repo, &some_tree(&mut Rng::with_seed(1), 3));
    kept.add(&repo, &some_tree(&mut Rng::with_seed(2), 3));
    for id in names(&store, ObjectKind::Index) {
        let data = read_object(&store, repo.keys(), &id).unwrap();
        for days in [3, 5] {
            let mut packs = data.packs.clone();
            let time = Time::new(now().seconds - days * DAY, 0);
            packs.iter_mut().for_each(|p| p.marked = Some(time));
            put_index(&repo, &IndexData { packs, replaces: Vec::new() });
        }
    }
    kept.forget(&repo, 1);
    let repo = open(&store);
    let needed = stats(&repo, &[kept.0[0].0.clone()]).unwrap().blobs;
    let plan = plan_prune(&repo, &gentle(), &Quiet::default()).unwrap();
    assert_eq!(
        (plan.packs_delete, plan.packs_waiting, plan.packs_recovered),
        (0, 0, 0),
        "{plan:?}"
    );
    assert_eq!(plan.blobs_used, needed);
    assert!(plan.blobs_unused < 2 * needed, "{plan:?}");
    for run in repo.index().runs() {
        for i in 0..run.len() {
            let places = repo.index().find_all(&run.entry(i).unwrap().id);
            assert!(places.len() == 1 && places[0].marked.is_none());
        }
    }
    finish(&store, &kept, &gentle(), "contradiction");
}

/// One entry dooms a pack and another one isn't marked: nothing new relies on it.
#[test]
fn nothing_relies_on_a_pack_that_any_entry_dooms() {
    let store = new_store();
    let mut kept = Kept::default();
    let tree = some_tree(&mut Rng::with_seed(1), 3);
    let parent = kept.add(&open(&store), &tree);
    let repo = open(&store);
    for id in names(&store, ObjectKind::Index) {
        let mut data = read_object(&store, repo.keys(), &id).unwrap();
        data.packs.iter_mut().for_each(|p| p.marked = Some(Time::new(1, 0)));
        put_index(&repo, &data);
    }
    let (packs, index) = (names(&store, ObjectKind::Pack), names(&store, ObjectKind::Index));
    kept.0.push((try_backup(&open(&store), &tree, Some(parent)).unwrap(), tree));
    packs.into_iter().for_each(|id| delete(&store, ObjectKind::Pack, id));
    index.into_iter().for_each(|id| delete(&store, ObjectKind::Index, id));
    kept.verify(&store, "without the doomed packs");
}

fn delete(store: &Store, kind: ObjectKind, id: ObjectId) {
    store.delete(&ObjectName::new(kind, id)).unwrap();
}

/// The index says that a pack holds a blob, and it doesn't: nothing is concluded from that.
#[test]
fn a_pack_that_lacks_what_the_index_says_is_left_alone() {
    let mut rng = Rng::with_seed(1);
    let store = new_store();
    let repo = open(&store);
    let mut kept = Kept::default();
    let file = |rng: &mut Rng| Item::file(random_bytes(rng, 900));
    kept.add(&repo, &Item::dir().with("a", file(&mut rng)).with("b", file(&mut rng)));
    let first = names(&store, ObjectKind::Index);
    let snapshot = kept.add(&repo, &Item::dir().with("c", file(&mut rng)));
    kept.forget(&repo, 0);
    let node = tresor_engine::tree::lookup(&repo, &snapshot.data.tree, b"c").unwrap().unwrap();
    let Some(Content::Extents(extents)) = &node.content else { panic!("no extents") };
    let blob = extents[0].id.unwrap();
    for id in names(&store, ObjectKind::Index) {
        let mut data = read_object(&store, repo.keys(), &id).unwrap();
        if first.contains(&id) {
            let mut segments = data.packs.iter_mut().flat_map(|p| &mut p.segments);
            let segment = segments.find(|s| s.kind == BlobKind::Data).unwrap();
            assert_eq!(segment.blob_count(), 2);
            segment.blobs[..32].copy_from_slice(&blob.0);
        } else {
            data.packs.retain(|p| p.segments[0].kind == BlobKind::Tree);
        }
        put_index(&repo, &IndexData { replaces: vec![id], ..data });
    }
    let repo = open(&store);
    let found = repo.index().find(&blob).unwrap();
    let monitor = Quiet::default();
    let plan = plan_prune(&repo, &gentle(), &monitor).unwrap();
    prune(&repo, &gentle(), plan, &monitor).unwrap();
    let problems = monitor.problems.lock().unwrap();
    assert!(problems.len() == 1 && problems[0].1.contains("lacks blobs"), "{problems:?}");
    let after = repo.index().find(&blob).unwrap();
    assert_eq!((after.location, after.marked), (found.location, None));
}

/// Of index objects one can't be read from the disk.
#[test]
fn a_bad_sector_under_the_index() {
    let store = new_store();
    let mut kept = Kept::default();
    kept.add(&open(&store), &some_tree(&mut Rng::with_seed(1), 3));
    let bad = store.list(ObjectKind::Index).unwrap()[0].0;
    kept.add(&open(&store), &some_tree(&mut Rng::with_seed(2), 3));
    let failing: Store = Arc::new(HookedStore::new(store.clone(), move |call| match call {
        Call::Get(name) if *name == bad => {
            let kind = StoreErrorKind::Unreadable;
            Err(StoreError::new(kind, "read", name.path(), "Input/output error"))
        }
        _ => Ok(()),
    }));
    let repo = open(&failing);
    let damaged = repo.index().damaged();
    assert!(damaged.len() == 1 && damaged[0].0 == bad.id);
    assert!(damaged[0].1.contains("Input/output error"), "{damaged:?}");
    let mut out = Vec::new();
    let node = tresor_engine::tree::lookup(&repo, &kept.0[1].0.data.tree, b"f0").unwrap().unwrap();
    tresor_engine::restorer::read_file(&repo, &node, &mut out).unwrap();
    assert!(prune_at(&repo, &all(), 0).unwrap_err().to_string().contains(&bad.path()));
    let report = check(&repo, &CheckOptions::default(), &Quiet::default()).unwrap();
    assert!(report.problems.iter().any(|p| p.object == bad.path()));
}

/// A reader that panics must not look like an index without that object.
#[test]
fn a_panic_while_the_index_is_read_is_an_error() {
    let store = new_store();
    for seed in 0..20 {
        Kept::default().add(&open(&store), &some_tree(&mut Rng::with_seed(seed), 3));
    }
    let panicking: Store = Arc::new(HookedStore::new(store, |call| match call {
        Call::Get(name) if name.kind == ObjectKind::Index => panic!("a test's panic"),
        _ => Ok(()),
    }));
    let error = Repository::open(panicking, &password(), &OpenOptions::default());
    assert!(error.err().unwrap().to_string().contains("panicked"));
}

/// Nor must a snapshot look forgotten. Several readers panic.
#[test]
fn panics_while_snapshots_are_read_are_an_error() {
    let store = new_store();
    for seed in 0..20 {
        Kept::default().add(&open(&store), &some_tree(&mut Rng::with_seed(seed), 1));
    }
    let repo = open_over(&store, |store| {
        hooked(store, 0, |call| match call {
            Call::Get(name) if name.kind == ObjectKind::Snapshot => panic!("a test's panic"),
            _ => Ok(()),
        })
        .0
    });
    assert!(repo.snapshots().unwrap_err().to_string().contains("panicked"));
}

/// The local cache of the index is garbled, or its disk can't be written.
#[test]
fn a_bad_cache_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let store = new_store();
    let open_cached = |path: &std::path::Path| {
        let options = OpenOptions { cache: Some(path.to_owned()), ..Default::default() };
        Repository::open(store.clone(), &password(), &options).unwrap()
    };
    let mut kept = Kept::default();
    let repo = open_cached(folder.path());
    kept.add(&repo, &some_tree(&mut Rng::with_seed(1), 30));
    let gone = kept.add(&repo, &some_tree(&mut Rng::with_seed(2), 30));
    repo.refresh_index().unwrap();
    kept.forget(&repo, 1);
    assert!(!names(&store, ObjectKind::Snapshot).contains(&gone.id));
    let cache = repo.cache_folder().unwrap().clone();
    let runs = || -> Vec<_> {
        let paths = std::fs::read_dir(&cache).unwrap().map(|e| e.unwrap().path());
        paths.filter(|p| p.extension() == Some("run".as_ref())).collect()
    };
    let len = std::fs::metadata(&runs()[0]).unwrap().len() as usize;
    for at in (0..len).step_by(97) {
        let repo = open_cached(folder.path());
        let path = &runs()[0];
        let mut bytes = std::fs::read(path).unwrap();
        let at = at.min(bytes.len() - 1);
        bytes[at] ^= 0x40;
        // A new file: a mapped one must not change.
        std::fs::remove_file(path).unwrap();
        std::fs::write(path, bytes).unwrap();
        drop(repo);
        let repo = open_cached(folder.path());
        let plan = plan_prune(&repo, &gentle(), &Quiet::default()).unwrap();
        assert_eq!(plan.packs_repack + plan.packs_recovered, 0);
        assert!(plan.packs_mark > 0);
    }
    // A file where the folder should be.
    let file = folder.path().join("file");
    std::fs::write(&file, "in the way").unwrap();
    let repo = open_cached(&file);
    prune_at(&repo, &all(), 0).unwrap();
    kept.verify_clean(&store, "without a cache");
}

/// The index needs several objects: the one that replaces others is stored when all that
/// stand beside it are there for good. The power fails after each of them.
#[test]
fn what_stands_in_for_the_index_is_there_before_it_takes_effect() {
    let base = new_store();
    fill_with_junk(&open(&base), 3);
    join_index(&base);
    let packs = names(&base, ObjectKind::Pack);
    let before = objects(&base);
    let mut stored = 0;
    while stored < 10 {
        let volatile = Volatile::new(&before);
        let puts = Arc::new(AtomicUsize::new(0));
        let counted = puts.clone();
        let repo = open_over(&(volatile.clone() as Store), |store| {
            hooked(store, 0, move |call| match call {
                Call::Put(name) if name.kind == ObjectKind::Index => {
                    counted.fetch_add(1, SeqCst);
                    Ok(())
                }
                // The power fails at the first call after this many.
                _ if counted.load(SeqCst) > stored => Err(HookedStore::broken()),
                _ => Ok(()),
            })
            .0
        });
        let ended = prune_at(&repo, &gentle(), 0).is_ok();
        let left = volatile.after_losing_all_but_the_last();
        let repo = open(&left);
        let runs = repo.index().runs();
        let named: HashSet<_> =
            runs.iter().flat_map(|run| run.packs().map(|p| p.id).collect::<Vec<_>>()).collect();
        assert!(packs.is_subset(&named), "after {} index objects an entry is lost", stored + 1);
        if ended {
            break;
        }
        stored += 1;
    }
    assert!((2..10).contains(&stored), "{stored} index objects");
}
