//! Backups and a prune at the same time.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc;

use fastrand::Rng;
use tresor_engine::Error;
use tresor_engine::format::{ObjectKind, ObjectName};

use super::world::*;
use super::{busy, calls_of_a_prune, finish, rounds};

/// A whole backup of what prune is about to drop, before each call of a prune.
#[test]
fn a_backup_during_a_prune() {
    let (base, kept, gone) = busy(4);
    let total = calls_of_a_prune(&base, &gentle());
    for n in 0..total {
        let what = format!("call {n} of {total}");
        let (store, mut kept) = (copy(&base), kept.clone());
        let (sender, receiver) = mpsc::channel();
        let repo = open_over(&store, |inner| {
            let (other, tree) = (open(inner), gone.clone());
            at_call(inner, n, move || sender.send(try_backup(&other, &tree, None)).unwrap())
        });
        prune_at(&repo, &gentle(), 0).unwrap();
        // Prunes of the same differ by a call or two: packs are filled at random.
        let Ok(backup) = receiver.try_recv() else {
            assert!(n * 10 > total * 9, "only {n} of {total} calls");
            break;
        };
        kept.0.push((backup.unwrap(), gone.clone()));
        kept.verify(&store, &what);
        finish(&store, &kept, &gentle(), &what);
    }
}

/// A whole prune before calls of a backup of what it drops.
#[test]
fn a_prune_during_a_backup() {
    let (base, kept, gone) = busy(4);
    let mut counter = None;
    let repo = open_over(&copy(&base), |store| {
        let (store, calls) = hooked(store, usize::MAX, |_| Ok(()));
        counter = Some(calls);
        store
    });
    try_backup(&repo, &gone, None).unwrap();
    let total = counter.unwrap().load(SeqCst);
    for n in 0..total {
        let what = format!("call {n} of {total}");
        let (store, mut kept) = (copy(&base), kept.clone());
        let other = open(&store);
        let repo = open_over(&store, |inner| {
            at_call(inner, n, move || assert!(prune_at(&other, &gentle(), 0).is_ok()))
        });
        kept.0.push((try_backup(&repo, &gone, None).unwrap(), gone.clone()));
        kept.verify(&store, &what);
        finish(&store, &kept, &gentle(), &what);
    }
}

/// A prune begins in the middle of a backup and ends after it, or the other way round.
#[test]
fn a_prune_and_a_backup_crossed() {
    let (base, kept, gone) = busy(4);
    let total = calls_of_a_prune(&base, &gentle());
    let (all, mut saved_ones) = (rounds(40), 0);
    for round in 0..all {
        let mut rng = Rng::with_seed(round);
        let (store, mut kept) = (copy(&base), kept.clone());
        let backup_first = rng.bool();
        let what = format!("round {round}, backup first: {backup_first}");
        let tree = gone.clone();
        let saved = if backup_first {
            let steps = (rng.usize(..25), rng.usize(..total));
            crossed(
                &store,
                steps,
                |repo| try_backup(repo, &tree, None),
                |repo| assert!(prune_at(repo, &gentle(), 0).is_ok()),
            )
        } else {
            let steps = (rng.usize(..total), rng.usize(..25));
            let (sender, receiver) = mpsc::channel();
            crossed(
                &store,
                steps,
                |repo| prune_at(repo, &gentle(), 0).unwrap(),
                move |repo| sender.send(try_backup(repo, &tree, None)).unwrap(),
            );
            // Nothing, if the prune had fewer calls than that.
            receiver.recv().unwrap_or(Err(Error::Interrupted))
        };
        if let Ok(snapshot) = saved {
            saved_ones += 1;
            kept.0.push((snapshot, gone.clone()));
        }
        kept.verify(&store, &what);
        finish(&store, &kept, &gentle(), &what);
    }
    eprintln!("{saved_ones} of {all} saved");
    assert!(saved_ones * 2 > all, "only {saved_ones} of {all} saved");
}

/// A pack of what nobody needs any more is gone, and the index still names it; a
/// backup needs it again, heals the loss, and a prune runs at the same time.
#[test]
fn healing_and_pruning_at_once() {
    let (base, kept, _) = busy(7);
    let tree = some_tree(&mut Rng::with_seed(70), 4);
    let packs = names(&base, ObjectKind::Pack);
    let repo = open(&base);
    let snapshot = try_backup(&repo, &tree, None).unwrap();
    repo.forget(&[snapshot.id]).unwrap();
    let new: Vec<_> = names(&base, ObjectKind::Pack).difference(&packs).copied().collect();
    base.delete(&ObjectName::new(ObjectKind::Pack, new[0])).unwrap();
    let total = calls_of_a_prune(&base, &gentle());
    let (all, mut saved_ones) = (rounds(60), 0);
    for round in 0..all {
        let mut rng = Rng::with_seed(round);
        let (store, mut kept) = (copy(&base), kept.clone());
        let steps = (rng.usize(..40), rng.usize(..total));
        let what = format!("round {round}, calls {steps:?}");
        let saved = crossed(
            &store,
            steps,
            |repo| try_backup(repo, &tree, None),
            // One of the two gives way.
            |repo| drop(prune_at(repo, &gentle(), 0)),
        );
        if let Ok(snapshot) = saved {
            saved_ones += 1;
            kept.0.push((snapshot, tree.clone()));
        }
        kept.add(&open(&store), &tree);
        kept.verify(&store, &what);
        finish(&store, &kept, &gentle(), &what);
    }
    eprintln!("{saved_ones} of {all} saved");
    assert!(saved_ones * 2 > all, "only {saved_ones} of {all} saved");
}

/// Somebody saves a snapshot of what is being deleted at once.
#[test]
fn a_snapshot_that_comes_at_the_last_moment() {
    let mut rng = Rng::with_seed(1);
    let base = new_store();
    let repo = open(&base);
    let mut kept = Kept::default();
    kept.add(&repo, &some_tree(&mut rng, 5));
    kept.add(&repo, &some_tree(&mut rng, 5));
    let name = ObjectName::new(ObjectKind::Snapshot, kept.0[1].0.id);
    let bytes = base.get(&name).unwrap();
    base.delete(&name).unwrap();
    let total = calls_of_a_prune(&base, &all());
    let mut put_back = 0;
    for n in 0..total {
        let (store, mut remaining) = (copy(&base), kept.clone());
        let (inner, bytes) = (store.clone(), bytes.clone());
        let objects = names(&store, ObjectKind::Index);
        let (sender, saved) = mpsc::channel();
        let repo = open_over(&store, |s| {
            at_call(s, n, move || {
                inner.put(&name, &bytes).unwrap();
                // A backup looks whether what it relied on is still there.
                let there = objects.is_subset(&names(&inner, ObjectKind::Index));
                if !there {
                    inner.delete(&name).unwrap();
                }
                sender.send(there).unwrap();
            })
        });
        prune_at(&repo, &all(), 0).unwrap();
        if saved.recv().unwrap() {
            put_back += 1;
        } else {
            remaining.0.pop();
        }
        remaining.verify(&store, &format!("call {n} of {total}"));
        finish(&store, &remaining, &all(), &format!("call {n} of {total}"));
    }
    assert!(put_back > 10, "{put_back} of {total}");
}
