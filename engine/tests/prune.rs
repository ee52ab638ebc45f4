//! Prune: whatever happens, remaining snapshots are whole, and in the end what
//! nobody needs is gone.

#[path = "prune/cases.rs"]
mod cases;
#[path = "prune/clocks.rs"]
mod clocks;
#[path = "prune/rotten.rs"]
mod rotten;
#[allow(dead_code, reason = "each test binary uses a part")]
#[path = "prune/world.rs"]
mod world;

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

use fastrand::Rng;
use tresor_engine::Error;
use tresor_engine::format::{ObjectKind, ObjectName};
use tresor_engine::maintenance::{PruneOptions, plan_prune};
use tresor_engine::monitor::Quiet;
use tresor_engine::repo::Snapshot;
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
                    let options = PruneOptions { max_unused_percent: percent, ..gentle() };
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

/// The store fails from some call on, for every call there is; then the power
/// goes, and of what was not settled some is lost.
#[test]
fn interrupted_at_every_call() {
    for options in [gentle(), all()] {
        let (base, kept, _) = busy(2);
        let before = objects(&base);
        let total = calls_of_a_prune(&base, &options);
        assert!(total > 40);
        for n in 0..total {
            let what = format!("grace {:?}, call {n} of {total}", options.grace);
            let mut rng = Rng::with_seed(n as u64);
            let volatile = Volatile::new(&before);
            let store: Store = volatile.clone();
            let repo = open_over(&store, |s| hooked(s, n, |_| Err(HookedStore::broken())).0);
            prune_at(&repo, &options, 0).unwrap_err();
            let whole = copy(&store);
            kept.verify(&whole, &what);
            // What was unindexed can be marked only now.
            if n % 3 == 0 {
                finish(&whole, &kept, &options, &what);
            }
            let store = volatile.after_power_loss(&mut rng);
            kept.verify(&store, &format!("{what}, power lost"));
            finish(&store, &kept, &options, &what);
        }
    }
}

/// Interrupted again and again, it makes progress all the same.
#[test]
fn interrupted_many_times() {
    for seed in 0..rounds(6) {
        let (base, kept, _) = busy(3);
        let mut rng = Rng::with_seed(seed);
        let mut store = base;
        let total = calls_of_a_prune(&store, &all());
        for round in 0..6 {
            let options = if rng.bool() { all() } else { gentle() };
            let volatile = Volatile::new(&objects(&store));
            let n = total / 2 + rng.usize(..total / 2);
            let repo = open_over(&(volatile.clone() as Store), |s| {
                hooked(s, n, |_| Err(HookedStore::broken())).0
            });
            let _ = prune_at(&repo, &options, round * 30 * 3600);
            store = volatile.after_power_loss(&mut rng);
        }
        kept.verify(&store, &format!("seed {seed}"));
        finish(&store, &kept, &gentle(), &format!("seed {seed}"));
    }
}

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
    for round in 0..rounds(40) {
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
            kept.0.push((snapshot, gone.clone()));
        }
        kept.verify(&store, &what);
        finish(&store, &kept, &gentle(), &what);
    }
}

/// What two prunes want at once. The third pair is of two minds about what to keep.
fn pairs() -> [(PruneOptions, PruneOptions); 3] {
    let lazy = PruneOptions { max_unused_percent: 100.0, ..gentle() };
    [(gentle(), gentle()), (all(), all()), (lazy, all())]
}

/// Another prune, whole, before each call of a prune. The one that comes too
/// late gives way.
#[test]
fn two_prunes() {
    for (ours, theirs) in pairs() {
        let (base, kept, _) = busy(5);
        let total = calls_of_a_prune(&base, &ours);
        for n in 0..total {
            let what = format!("{ours:?} and {theirs:?}, call {n} of {total}");
            let store = copy(&base);
            let other = open(&store);
            let repo = open_over(&store, |inner| {
                at_call(inner, n, move || assert!(prune_at(&other, &theirs, 0).is_ok()))
            });
            if let Err(e) = prune_at(&repo, &ours, 0) {
                let text = e.to_string();
                let gone = text.contains("another prune") || text.contains("no such object");
                assert!(gone, "{what}: {e}");
            }
            kept.verify(&store, &what);
            if n % 4 == 0 {
                finish(&store, &kept, &all(), &what);
            }
        }
    }
}

#[test]
fn two_prunes_crossed() {
    for (ours, theirs) in pairs() {
        let (base, kept, _) = busy(5);
        let (mine, others) = (calls_of_a_prune(&base, &ours), calls_of_a_prune(&base, &theirs));
        for round in 0..rounds(25) {
            let mut rng = Rng::with_seed(round);
            let store = copy(&base);
            let steps = (rng.usize(..mine), rng.usize(..others));
            let what = format!("{ours:?} and {theirs:?}, calls {steps:?}");
            let _ = crossed(
                &store,
                steps,
                |repo| prune_at(repo, &ours, 0),
                move |repo| drop(prune_at(repo, &theirs, 0)),
            );
            kept.verify(&store, &what);
            finish(&store, &kept, &all(), &what);
        }
    }
}

/// A backup that sleeps between storing its packs and naming them in the index.
struct Suspended {
    wake: mpsc::Sender<()>,
    thread: JoinHandle<Result<Snapshot, Error>>,
}

impl Suspended {
    fn new(store: &Store, tree: &Item) -> Self {
        let (asleep, is_asleep) = mpsc::channel();
        let (wake, woken) = mpsc::channel::<()>();
        let woken = Mutex::new(Some(woken));
        let repo = open_over(store, |store| {
            hooked(store, 0, move |call| {
                if !matches!(call, Call::Put(name) if name.kind == ObjectKind::Index) {
                    return Ok(());
                }
                let first = woken.lock().unwrap().take();
                if let Some(woken) = first {
                    asleep.send(()).unwrap();
                    let _ = woken.recv();
                }
                Ok(())
            })
            .0
        });
        let tree = tree.clone();
        let thread = std::thread::spawn(move || try_backup(&repo, &tree, None));
        is_asleep.recv().unwrap();
        Self { wake, thread }
    }

    /// What the backup comes to.
    fn go_on(self) -> Result<Snapshot, Error> {
        drop(self.wake);
        self.thread.join().unwrap()
    }
}

/// A backup slept for days: its packs were marked as garbage. It goes on before any
/// call of the prune that deletes them, or when they are gone.
#[test]
fn a_suspended_backup_goes_on() {
    let mut rng = Rng::with_seed(1);
    let base = new_store();
    let mut kept = Kept::default();
    kept.add(&open(&base), &some_tree(&mut rng, 5));
    let tree = some_tree(&mut rng, 5);
    let (mut n, mut ended) = (0, false);
    let (mut saved, mut lost) = (0, 0);
    while !ended {
        let what = format!("call {n}");
        let (store, mut kept) = (copy(&base), kept.clone());
        let backup = Suspended::new(&store, &tree);
        prune_at(&open(&store), &gentle(), -3 * DAY).unwrap();
        let backup = Arc::new(Mutex::new(Some(backup)));
        let (sender, receiver) = mpsc::channel();
        let wakes = backup.clone();
        let repo = open_over(&store, |s| {
            at_call(s, n, move || {
                let backup = wakes.lock().unwrap().take().unwrap();
                sender.send(backup.go_on()).unwrap();
            })
        });
        let pruned = prune_at(&repo, &gentle(), 0);
        // The backup changed the index, to disown what it took for lost.
        let gave_way = pruned.is_err();
        let other = pruned.err().map_or("another prune".to_owned(), |e| e.to_string());
        assert!(other.contains("another prune"), "{what}: {other}");
        let backup = backup.lock().unwrap().take();
        ended = backup.is_some();
        match backup.map_or_else(|| receiver.recv().unwrap(), Suspended::go_on) {
            Ok(snapshot) => {
                saved += 1;
                assert!(!gave_way, "{what}");
                kept.0.push((snapshot, tree.clone()));
            }
            Err(e) => {
                lost += 1;
                assert!(e.to_string().contains("run the backup again"), "{what}: {e}");
            }
        }
        kept.verify(&store, &what);
        kept.add(&open(&store), &tree);
        kept.verify(&store, &format!("{what}, and another backup"));
        finish(&store, &kept, &gentle(), &what);
        n += 1;
    }
    assert!(saved > 10 && lost > 2, "{saved} saved, {lost} lost");
}

/// Its packs are gone when it wakes up, and then it fails for another reason.
#[test]
fn a_suspended_backup_goes_on_and_fails() {
    let mut rng = Rng::with_seed(1);
    let store = new_store();
    let mut kept = Kept::default();
    kept.add(&open(&store), &some_tree(&mut rng, 5));
    let tree = some_tree(&mut rng, 5);
    let (step, other) = (AtomicUsize::new(0), open(&store));
    let repo = open_over(&store, |store| {
        let at = move |n| step.compare_exchange(n, n + 1, SeqCst, SeqCst).is_ok();
        let hook = move |call: &Call| match call {
            Call::Put(name) if name.kind == ObjectKind::Index && at(0) => {
                prune_at(&other, &gentle(), -3 * DAY).unwrap();
                assert!(prune_at(&other, &gentle(), 0).unwrap().packs_deleted > 0);
                Ok(())
            }
            Call::Settle if at(1) => Err(HookedStore::broken()),
            _ => Ok(()),
        };
        hooked(store, 0, hook).0
    });
    let error = try_backup(&repo, &tree, None).unwrap_err();
    assert!(error.to_string().contains("told to fail"), "{error}");
    kept.verify(&store, "no index object names what is gone");
    kept.add(&open(&store), &tree);
    finish(&store, &kept, &gentle(), "another backup");
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
    for round in 0..rounds(60) {
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
            kept.0.push((snapshot, tree.clone()));
        }
        kept.add(&open(&store), &tree);
        kept.verify(&store, &what);
        finish(&store, &kept, &gentle(), &what);
    }
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
