//! Snapshots that come, or come back, while a prune is at work.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

use tresor_engine::format::ObjectId;
use tresor_engine::maintenance::prune;

use super::*;

/// A pack isn't there when the plan is made, and is there again before it is carried out: what
/// relies on it by then needs it.
#[test]
fn a_pack_that_was_put_back_since_the_plan() {
    let mut rng = Rng::with_seed(41);
    for cut in [false, true] {
        let store = new_store();
        let mut kept = Kept::default();
        kept.add(&open(&store), &some_tree(&mut rng, 3));
        let others = names(&store, ObjectKind::Pack);
        let (_, tree) = {
            kept.add(&open(&store), &some_tree(&mut rng, 3));
            kept.forget(&open(&store), 1)
        };
        let packs: Vec<_> = names(&store, ObjectKind::Pack).difference(&others).copied().collect();
        let packs: Vec<_> = packs.iter().map(|id| ObjectName::new(ObjectKind::Pack, *id)).collect();
        let whole: Vec<_> = packs.iter().map(|name| store.get(name).unwrap()).collect();
        for (name, bytes) in packs.iter().zip(&whole) {
            if cut {
                store.replace(name, &bytes[..bytes.len() / 2]).unwrap();
            } else {
                store.delete(name).unwrap();
            }
        }
        let repo = open(&store);
        let plan = plan_prune(&repo, &all(), &Quiet::default()).unwrap();
        for (name, bytes) in packs.iter().zip(&whole) {
            store.replace(name, bytes).unwrap();
        }
        kept.0.push((try_backup(&open(&store), &tree, None).unwrap(), tree));
        prune(&repo, &all(), plan, &Quiet::default()).unwrap();
        kept.verify(&store, &format!("cut off: {cut}"));
    }
}

/// One prune deletes a pack that was marked long ago. Then a snapshot comes that needs it; another
/// prune sees it and unmarks the pack, but gives way to the first one and takes that back.
#[test]
fn a_pack_that_another_prune_unmarks_and_then_gives_way() {
    let mut rng = Rng::with_seed(42);
    let store = new_store();
    let mut kept = Kept::default();
    kept.add(&open(&store), &some_tree(&mut rng, 3));
    let late = kept.add(&open(&store), &some_tree(&mut rng, 3));
    let late = ObjectName::new(ObjectKind::Snapshot, late.id);
    let bytes = store.get(&late).unwrap();
    let (snapshot, tree) = kept.forget(&open(&store), 1);
    prune_at(&open(&store), &gentle(), -3 * DAY).unwrap();

    let second: Arc<Mutex<Option<Second>>> = Arc::default();
    let (inner, shared) = (store.clone(), second.clone());
    let first = open_over(&store, |store| {
        hooked(store, 0, move |call| {
            let mut second = shared.lock().unwrap();
            match call {
                Call::Put(name) if name.kind == ObjectKind::Index && second.is_none() => {
                    inner.put(&late, &bytes).unwrap();
                    *second = Some(Second::until_it_writes_the_index(&inner));
                }
                // It has looked for others, and found none.
                Call::Delete(name) if name.kind == ObjectKind::Index => {
                    second.iter_mut().for_each(Second::write);
                }
                _ => {}
            }
            Ok(())
        })
        .0
    });
    let _ = prune_at(&first, &gentle(), 0);
    second.lock().unwrap().take().unwrap().go_on();
    kept.0.push((snapshot, tree));
    kept.verify(&store, "after both");
    finish(&store, &kept, &gentle(), "and later");
}

/// A prune that stops before it stores an index object, and again right after that.
struct Second {
    go: mpsc::Sender<()>,
    stopped: mpsc::Receiver<()>,
    thread: JoinHandle<()>,
    has_written: bool,
}

impl Second {
    fn until_it_writes_the_index(store: &Store) -> Self {
        let (stops, stopped) = mpsc::channel();
        let (go, goes) = mpsc::channel::<()>();
        let state = Mutex::new((0, goes));
        let repo = open_over(store, |store| {
            hooked(store, 0, move |call| {
                let (step, goes) = &mut *state.lock().unwrap();
                let writes = matches!(call, Call::Put(name) if name.kind == ObjectKind::Index);
                if (*step == 0 && writes) || *step == 1 {
                    *step += 1;
                    let _ = stops.send(());
                    let _ = goes.recv();
                }
                Ok(())
            })
            .0
        });
        let thread = std::thread::spawn(move || drop(prune_at(&repo, &gentle(), 0)));
        stopped.recv().unwrap();
        Self { go, stopped, thread, has_written: false }
    }

    fn write(&mut self) {
        if !std::mem::replace(&mut self.has_written, true) {
            self.go.send(()).unwrap();
            self.stopped.recv().unwrap();
        }
    }

    fn go_on(self) {
        assert!(self.has_written);
        drop(self.go);
        self.thread.join().unwrap();
    }
}

/// Before a backup saves its snapshot, what it relies on is marked, and then lost: a mark is
/// no reason to take it for being there.
#[test]
fn what_is_freshly_marked_and_missing_is_not_relied_on() {
    let mut rng = Rng::with_seed(43);
    let store = new_store();
    let tree = some_tree(&mut rng, 3);
    let first = try_backup(&open(&store), &tree, None).unwrap();
    let relied_on: HashSet<ObjectId> = chunks(&store).into_iter().map(|(pack, _)| pack).collect();
    let (inner, done) = (store.clone(), Mutex::new(false));
    let repo = open_over(&store, |store| {
        hooked(store, 0, move |call| {
            let saves = matches!(call, Call::Put(name) if name.kind == ObjectKind::Snapshot);
            if saves && !std::mem::replace(&mut done.lock().unwrap(), true) {
                open(&inner).forget(&[first.id]).unwrap();
                prune_at(&open(&inner), &gentle(), 0).unwrap();
                for id in &relied_on {
                    inner.delete(&ObjectName::new(ObjectKind::Pack, *id))?;
                }
            }
            Ok(())
        })
        .0
    });
    let tree = tree.with("more", Item::file(random_bytes(&mut rng, 5_000)));
    let saved = try_backup(&repo, &tree, None);
    let error = saved.expect_err("a snapshot that lacks something was saved").to_string();
    assert!(error.contains("run the backup again"), "{error}");
    assert!(names(&store, ObjectKind::Snapshot).is_empty());
}
