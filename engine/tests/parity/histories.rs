//! Whatever is done to a repository, interrupted or not: each object has parity, and there is
//! no other parity.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use tresor_engine::crypto::{KdfCost, Password};
use tresor_engine::format::ObjectId;
use tresor_engine::maintenance::{RepairIndexOptions, repair_index};
use tresor_engine::repo::Repository;
use tresor_testkit::{Call, Fault, Faulty, HookedStore};

use super::*;

const COST: KdfCost = KdfCost { memory: 8 * 1024, passes: 1, lanes: 1 };

#[test]
fn random_histories() {
    for seed in 0..3 {
        let mut rng = Rng::with_seed(seed);
        let store = new_store_with(share(5));
        let mut kept = Kept::default();
        let mut tree = some_tree(&mut rng, 4);
        let mut keys = Vec::new();
        for step in 0..12 {
            let repo = open(&store);
            let what = format!("seed {seed}, step {step}");
            match rng.u8(..7) {
                0 | 1 => {
                    kept.add(&repo, &tree);
                    tree = change(&mut rng, &tree);
                }
                2 if kept.0.len() > 1 => drop(kept.forget(&repo, rng.usize(..kept.0.len()))),
                3 => drop(prune_at(&repo, &all(), 0)),
                4 => {
                    let password = Password::new(vec![b'x'; keys.len() + 1]);
                    keys.push(repo.add_key(&password, "another", COST).unwrap());
                }
                5 => keys.pop().into_iter().for_each(|id| repo.remove_key(&id).unwrap()),
                _ => drop(repair_index(&repo, &RepairIndexOptions::default(), &Quiet::default())),
            }
            assert_tidy(&store, &what);
            kept.verify(&store, &what);
        }
    }
}

/// What is interrupted; whether it got to its end.
type Work<'a> = &'a dyn Fn(&Arc<Repository>) -> bool;

/// The process dies at each call of a backup or a prune: the next prune leaves parity in order,
/// and what the index names never lacks it.
#[test]
fn interrupted_anywhere() {
    let mut rng = Rng::with_seed(1);
    let store = new_store_with(share(5));
    let mut kept = Kept::default();
    let mut tree = some_tree(&mut rng, 2);
    for _ in 0..2 {
        kept.add(&open(&store), &tree);
        tree = change(&mut rng, &tree);
    }
    kept.forget(&open(&store), 0);
    let works: [Work; 2] =
        [&|repo| try_backup(repo, &tree, None).is_ok(), &|repo| prune_at(repo, &all(), 0).is_ok()];
    for (n, work) in works.iter().enumerate() {
        for at in 0.. {
            let store = copy(&store);
            let repo =
                open_over(&store, |store| hooked(store, at, |_| Err(HookedStore::broken())).0);
            let done = work(&repo);
            let what = format!("work {n} died at call {at}");
            let bare = bare_packs_of_the_index(&store);
            assert!(bare.is_empty(), "{what}: {bare:?}");
            prune_at(&open(&store), &all(), 0).unwrap();
            assert_tidy(&store, &what);
            if done {
                assert!(at > 10, "{what}");
                break;
            }
        }
    }
}

/// Named as there and unmarked, and without parity.
fn bare_packs_of_the_index(store: &Store) -> Vec<ObjectName> {
    let parity = names(store, ObjectKind::Parity);
    let packs = names(store, ObjectKind::Pack);
    let runs = open(store).index().runs();
    let named = runs.iter().flat_map(|r| r.packs().collect::<Vec<_>>());
    let bare = named.filter(|p| p.marked == 0 && packs.contains(&p.id) && !parity.contains(&p.id));
    bare.map(|p| ObjectName::new(ObjectKind::Pack, p.id)).collect()
}

/// A backup stores a pack without naming it, and dies before it stores its parity.
#[test]
fn a_pack_that_repair_index_enters_gets_parity() {
    let store = new_store_with(share(5));
    let tree = one_file(50_000);
    let repo = open_over(&store, |store| {
        Arc::new(HookedStore::new(store.clone(), |call| match call {
            Call::Put(name) if name.kind != ObjectKind::Pack => Err(HookedStore::broken()),
            _ => Ok(()),
        }))
    });
    try_backup(&repo, &tree, None).unwrap_err();
    assert!(!names(&store, ObjectKind::Pack).is_empty());
    repair_index(&open(&store), &RepairIndexOptions::default(), &Quiet::default()).unwrap();
    assert_tidy(&store, "after repair index");
}

/// The store reports success, and half of an object or of its parity has arrived: it is stored
/// again, or the backup says so; once it is done, all is there.
#[test]
fn half_of_an_object_arrives() {
    let base = new_store_with(share(5));
    for at in 0.. {
        let store = copy(&base);
        let mut kept = Kept::default();
        let cut = Arc::new(AtomicBool::new(false));
        let (cuts, puts) = (cut.clone(), AtomicUsize::new(0));
        let repo = open_over(&store, |store| {
            let hook = move |call: &Call| {
                let is_it = matches!(call, Call::Put(_)) && puts.fetch_add(1, SeqCst) == at;
                cuts.fetch_or(is_it, SeqCst);
                Ok(())
            };
            Arc::new(HookedStore::new(store.clone(), hook).cutting(cut.clone()))
        });
        let tree = one_file(20_000);
        let what = format!("object {at}");
        if let Ok(snapshot) = try_backup(&repo, &tree, None) {
            kept.0.push((snapshot, tree.clone()));
            assert_tidy(&store, &what);
        }
        kept.add(&open(&store), &tree);
        prune_at(&open(&store), &all(), 0).unwrap();
        kept.verify_clean(&store, &what);
        assert_tidy(&store, &what);
        if at == 8 {
            break;
        }
    }
}

/// What is stored by half whenever it is stored, is reported, and nothing of it is left.
#[test]
fn a_store_that_always_cuts_parity() {
    let store = new_store_with(share(5));
    let repo = open_over(&store, |store| {
        let cut = Arc::new(AtomicBool::new(false));
        let cuts = cut.clone();
        let hook = move |call: &Call| {
            let is_parity = |name: &ObjectName| name.kind == ObjectKind::Parity;
            let is_it = matches!(call, Call::Put(name) | Call::Replace(name) if is_parity(name));
            cuts.store(is_it, SeqCst);
            Ok(())
        };
        Arc::new(HookedStore::new(store.clone(), hook).cutting(cut))
    });
    let error = try_backup(&repo, &one_file(1000), None).unwrap_err().to_string();
    assert!(error.contains("parity/") && error.contains("arrived"), "{error}");
    assert!(names(&store, ObjectKind::Snapshot).is_empty());
}

/// Prune makes anew parity that has arrived by half, as it makes what is missing.
#[test]
fn a_prune_makes_parity_that_is_cut_anew() {
    let (store, kept) = repository(5, &one_file(50_000));
    let before = objects(&store);
    // That of the config may be all that is right of it.
    let config = ObjectName::CONFIG.parity();
    for name in before.keys().filter(|name| name.kind == ObjectKind::Parity && **name != config) {
        change_object(&store, name, |bytes| bytes.truncate(bytes.len() / 2));
    }
    prune_at(&open(&store), &all(), 0).unwrap();
    kept.verify(&store, "after a prune");
    assert_tidy(&store, "after a prune");
    assert!(objects(&store) == before);
}

/// Parity of a key slot opens the repository as the slot does: it never outlives it.
#[test]
fn parity_of_a_key_slot_goes_first() {
    let base = new_store_with(share(5));
    let id = open(&base).add_key(&Password::new(b"old".to_vec()), "old", COST).unwrap();
    let slot = ObjectName::new(ObjectKind::Key, id);
    let deleted = Arc::new(Mutex::new(Vec::new()));
    let seen = deleted.clone();
    let repo = open_over(&base, |store| {
        Arc::new(HookedStore::new(store.clone(), move |call| {
            if let Call::Delete(name) = call {
                seen.lock().unwrap().push(*name);
            }
            Ok(())
        }))
    });
    repo.remove_key(&id).unwrap();
    assert_eq!(*deleted.lock().unwrap(), [slot.parity(), slot]);
    assert_tidy(&base, "after the key is removed");
}

/// A repair that is interrupted at any call, in any way, has lost nothing, and the next one
/// finishes it.
#[test]
fn an_interrupted_repair() {
    let (base, kept) = repository(5, &one_file(60_000));
    let before = objects(&base);
    let snapshot = largest(&base, ObjectKind::Snapshot);
    let pack = largest(&base, ObjectKind::Pack);
    for name in [ObjectName::CONFIG, largest(&base, ObjectKind::Key), pack, pack.parity()] {
        change_object(&base, &name, |bytes| bytes[9] ^= 1);
    }
    // All that a repair can do: mend, make parity anew, and remove it.
    base.delete(&snapshot.parity()).unwrap();
    base.put(&ObjectName::new(ObjectKind::Parity, ObjectId([7; 32])), b"of nothing").unwrap();
    for fault in Fault::ALL {
        for at in 0.. {
            let store = copy(&base);
            let faulty = Faulty::new(&store, fault, at);
            let result = try_repair(&faulty.store, false);
            let what = format!("{fault:?}, call {at}");
            // Each object is there as it was, or whole; but for parity that arrived by half.
            let after = objects(&store);
            for name in before.keys() {
                let as_it_was = base.get(name).ok().as_ref() == after.get(name);
                assert!(as_it_was || after.get(name) == before.get(name), "{what}: {name}");
            }
            let ended = faulty.calls() <= at;
            if result.is_ok_and(|report| report.left.is_empty() && !matches!(fault, Fault::Once(_)))
            {
                assert!(after == before, "{what}: reported as whole");
            }
            assert!(repair(&store).left.is_empty(), "{what}");
            assert!(objects(&store) == before, "{what}");
            if ended {
                assert!(at > 20, "{what}");
                break;
            }
        }
    }
    kept.verify(&store_of(&before), "the original");
}
