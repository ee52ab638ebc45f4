//! Prune: whatever happens, remaining snapshots are whole, and in the end what
//! nobody needs is gone.

#[path = "prune/beside.rs"]
mod beside;
#[path = "prune/cases.rs"]
mod cases;
#[path = "prune/clocks.rs"]
mod clocks;
#[path = "prune/interrupted.rs"]
mod interrupted;
#[path = "prune/late.rs"]
mod late;
#[path = "prune/limits.rs"]
mod limits;
#[path = "prune/resumed.rs"]
mod resumed;
#[path = "prune/rotten.rs"]
mod rotten;
#[path = "prune/suspended.rs"]
mod suspended;
#[path = "prune/two.rs"]
mod two;
#[path = "prune/unnamed.rs"]
mod unnamed;
#[allow(dead_code, reason = "each test binary uses a part")]
#[path = "prune/world.rs"]
mod world;

use std::sync::atomic::Ordering::SeqCst;

use fastrand::Rng;
use tresor_engine::format::{ObjectKind, ObjectName};
use tresor_engine::maintenance::{MaxUnused, PruneOptions, plan_prune};
use tresor_engine::monitor::Quiet;
use tresor_engine::store::Store;
use tresor_testkit::{Call, HookedStore, Item, random_bytes};

use world::*;

/// Times to repeat something random; `TRESOR_TEST_ROUNDS=20` does it 20 times as often.
fn rounds(usual: u64) -> u64 {
    let factor = std::env::var("TRESOR_TEST_ROUNDS").ok().and_then(|n| n.parse().ok());
    usual * factor.unwrap_or(1)
}

/// Many backups, forgets and prunes in any order.
#[test]
fn random_histories() {
    for seed in 0..rounds(8) {
        let mut rng = Rng::with_seed(seed);
        let store = new_store();
        let mut repo = open(&store);
        let mut kept = Kept::default();
        let mut tree = some_tree(&mut rng, 12);
        let mut trees = vec![tree.clone()];
        // To backups, marks are of long ago, or of just now.
        let mut clock = if rng.bool() { -60 * DAY } else { 0 };
        for step in 0..24 {
            let what = format!("seed {seed}, step {step}");
            match rng.u8(..8) {
                0..=2 => {
                    tree = match rng.u8(..4) {
                        0 => trees[rng.usize(..trees.len())].clone(),
                        _ => change(&mut rng, &tree),
                    };
                    trees.push(tree.clone());
                    kept.add(&repo, &tree);
                }
                3..=4 if kept.0.len() > 1 => {
                    kept.forget(&repo, rng.usize(..kept.0.len()));
                }
                5 => repo = open(&store),
                6 => drop(prune_at(&repo, &all(), clock).unwrap()),
                _ => {
                    clock += rng.i64(0..40 * 3600);
                    let percent = [0.0, 5.0, 100.0][rng.usize(..3)];
                    let options =
                        PruneOptions { max_unused: MaxUnused::Percent(percent), ..gentle() };
                    prune_at(&repo, &options, clock).unwrap();
                }
            }
            if step % 3 == 2 {
                kept.verify(&store, &what);
            }
        }
        while kept.0.len() > 1 {
            kept.forget(&repo, 0);
        }
        prune_at(&repo, &all(), clock).unwrap();
        kept.verify_clean(&store, &format!("seed {seed}, in the end"));
    }
}

/// A repository in which a prune has everything to do: packs to repack, to mark, to
/// delete, to unmark, and to enter in the index; blobs that lie in two packs; and
/// index objects that an interrupted prune has left. Also returns the tree of the
/// snapshot whose packs are to be deleted.
fn busy(seed: u64) -> (Store, Kept, Item) {
    let mut rng = Rng::with_seed(seed);
    let store = new_store();
    let repo = open(&store);
    let mut kept = Kept::default();
    let tree = some_tree(&mut rng, 10);
    let other = some_tree(&mut rng, 4);
    let returning = some_tree(&mut rng, 4);
    kept.add(&repo, &tree);
    kept.add(&repo, &other);
    kept.add(&repo, &returning);
    // Snapshots of a kind, stored twice by two that didn't know of each other.
    let twice = some_tree(&mut rng, 3);
    let elsewhere = copy(&store);
    kept.add(&repo, &twice);
    try_backup(
        &open(&elsewhere),
        &twice.clone().with("more", Item::file(random_bytes(&mut rng, 9000))),
        None,
    )
    .unwrap();
    for (name, bytes) in objects(&elsewhere) {
        if name.kind != ObjectKind::Snapshot && name.kind != ObjectKind::Config {
            store.put(&name, &bytes).unwrap();
        }
    }
    join_index(&store);
    let repo = open(&store);
    // To be deleted (marked long ago), and to be unmarked.
    let (gone, _) = kept.forget(&repo, 1);
    let (back, back_tree) = kept.forget(&repo, 1);
    let name = ObjectName::new(ObjectKind::Snapshot, back.id);
    assert!(!names(&store, ObjectKind::Snapshot).contains(&gone.id));
    let bytes = objects(&elsewhere)[&name].clone();
    let dying = open_over(&store, |store| {
        // It dies before it deletes index objects that it has replaced.
        hooked(store, 0, |call| match call {
            Call::Delete(name) if name.kind == ObjectKind::Index => Err(HookedStore::broken()),
            _ => Ok(()),
        })
        .0
    });
    prune_at(&dying, &gentle(), -3 * DAY).unwrap_err();
    store.put(&name, &bytes).unwrap();
    kept.0.push((back, back_tree));
    // To be repacked and to be marked.
    let repo = open(&store);
    kept.add(&repo, &change(&mut rng, &tree));
    let unneeded = kept.add(&repo, &some_tree(&mut rng, 3));
    let at = kept.0.iter().position(|(s, _)| s.id == unneeded.id).unwrap();
    kept.forget(&repo, at);
    kept.forget(&repo, 0);
    // In no index object.
    let interrupted = open_over(&store, |store| {
        hooked(store, 0, |call| match call {
            Call::Put(name) if name.kind == ObjectKind::Index => Err(HookedStore::broken()),
            _ => Ok(()),
        })
        .0
    });
    try_backup(&interrupted, &some_tree(&mut rng, 3), None).unwrap_err();
    kept.verify(&store, "busy");
    let plan = plan_prune(&open(&store), &gentle(), &Quiet::default()).unwrap();
    assert!(plan.packs_repack > 0 && plan.packs_mark > 0 && plan.packs_delete > 0, "{plan:?}");
    assert!(plan.packs_recovered > 0 && plan.packs_unindexed > 0, "{plan:?}");
    assert!(!open(&store).index().replaced().is_empty());
    (store, kept, other)
}

/// Prunes until all that is not needed must be gone.
#[track_caller]
fn finish(store: &Store, kept: &Kept, options: &PruneOptions, what: &str) {
    let repo = open(store);
    for later in [0, 2 * DAY, 4 * DAY] {
        prune_at(&repo, options, later).unwrap_or_else(|e| panic!("{what}: {e}"));
    }
    kept.verify_clean(store, what);
}

#[test]
fn a_busy_repository_is_pruned() {
    for options in [gentle(), all()] {
        let (store, kept, _) = busy(1);
        finish(&store, &kept, &options, "busy");
    }
}

fn calls_of_a_prune(base: &Store, options: &PruneOptions) -> usize {
    let mut calls = None;
    let repo = open_over(&copy(base), |store| {
        let (store, counter) = hooked(store, usize::MAX, |_| Ok(()));
        calls = Some(counter);
        store
    });
    prune_at(&repo, options, 0).unwrap();
    calls.unwrap().load(SeqCst)
}
