//! Backups that sleep between storing packs and naming them, while others prune.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

use fastrand::Rng;
use tresor_engine::Error;
use tresor_engine::format::ObjectKind;
use tresor_engine::repo::Snapshot;
use tresor_engine::store::Store;
use tresor_testkit::{Call, HookedStore, Item};

use super::world::*;
use super::{busy, finish};

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
        // The backup may have changed the index, to disown what it took for lost.
        let other = pruned.err().map_or("another prune".to_owned(), |e| e.to_string());
        assert!(other.contains("another prune"), "{what}: {other}");
        let backup = backup.lock().unwrap().take();
        ended = backup.is_some();
        match backup.map_or_else(|| receiver.recv().unwrap(), Suspended::go_on) {
            Ok(snapshot) => {
                saved += 1;
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

/// A first backup takes up what a prune has just copied. The prune gives way to another one
/// and disowns its copies; the backup does without them.
#[test]
fn a_backup_does_without_the_copies_of_a_prune_that_gave_way() {
    let (base, kept, gone) = busy(9);
    let more = some_tree(&mut Rng::with_seed(90), 3);
    for tree in [gone, more] {
        let (store, mut kept) = (copy(&base), kept.clone());
        let backup: Arc<Mutex<Option<Suspended>>> = Arc::default();
        let (asleep, other, source) = (backup.clone(), store.clone(), tree.clone());
        let copied = AtomicBool::new(false);
        let pruning = open_over(&store, |store| {
            hooked(store, 0, move |call| {
                copied.fetch_or(matches!(call, Call::Put(n) if n.kind == ObjectKind::Pack), SeqCst);
                let names_them = matches!(call, Call::Put(n) if n.kind == ObjectKind::Index);
                let mut backup = asleep.lock().unwrap();
                if names_them && copied.load(SeqCst) && backup.is_none() {
                    *backup = Some(Suspended::new(&other, &source));
                    prune_at(&open(&other), &gentle(), 0).unwrap();
                }
                Ok(())
            })
            .0
        });
        let error = prune_at(&pruning, &gentle(), 0).unwrap_err().to_string();
        assert!(error.contains("another prune"), "{error}");
        let backup = backup.lock().unwrap().take().unwrap();
        let snapshot = backup.go_on().unwrap();
        kept.0.push((snapshot, tree.clone()));
        kept.verify(&store, "a backup beside two prunes");
        finish(&store, &kept, &gentle(), "a backup beside two prunes");
    }
}

/// A prune marks what a backup has relied on. Then the backup sleeps, before any of its
/// calls: another one stores a part of that anew, and when the grace is over the rest is deleted.
#[test]
fn a_backup_sleeps_while_a_part_of_what_it_needs_is_stored_anew() {
    let mut rng = Rng::with_seed(7);
    let part = some_tree(&mut rng, 2);
    let another = Item::dir().with("part", part.clone());
    let tree = another.clone().with("z", some_tree(&mut rng, 2));
    let base = new_store();
    let mut kept = Kept::default();
    kept.add(&open(&base), &some_tree(&mut rng, 2));
    // One after the other, so that the part's pages lie in a pack of their own.
    for gone in [&another, &tree] {
        let gone = try_backup(&open(&base), gone, None).unwrap();
        open(&base).forget(&[gone.id]).unwrap();
    }
    let (mut saved, mut refused) = (0, 0);
    for first in 0.. {
        let mut second = first;
        loop {
            let what = format!("calls {first} and {second}");
            let (store, mut kept) = (copy(&base), kept.clone());
            let (calls, others) = (AtomicUsize::new(0), store.clone());
            let meanwhile: Arc<Mutex<Option<Snapshot>>> = Arc::default();
            let (source, stored) = (another.clone(), meanwhile.clone());
            let repo = open_over(&store, |store| {
                let hook = move |_: &Call| {
                    let call = calls.fetch_add(1, SeqCst);
                    if call == first {
                        prune_at(&open(&others), &gentle(), 0).unwrap();
                    }
                    if call == second {
                        let snapshot = try_backup(&open(&others), &source, None).unwrap();
                        *stored.lock().unwrap() = Some(snapshot);
                        prune_at(&open(&others), &gentle(), DAY + 3600).unwrap();
                    }
                    Ok(())
                };
                hooked(store, 0, hook).0
            });
            let backup = try_backup(&repo, &tree, None);
            let Some(snapshot) = meanwhile.lock().unwrap().take() else { break };
            kept.0.push((snapshot, another.clone()));
            match backup {
                Ok(snapshot) => {
                    saved += 1;
                    kept.0.push((snapshot, tree.clone()));
                }
                Err(e) => {
                    refused += 1;
                    assert!(e.to_string().contains("run the backup again"), "{what}: {e}");
                }
            }
            kept.verify(&store, &what);
            second += 1;
        }
        if second == first {
            break;
        }
    }
    assert!(saved > 10 && refused > 2, "{saved} saved, {refused} refused");
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
