//! Snapshots that come, or come back, while a prune is at work.

use std::collections::HashSet;
use std::sync::Mutex;

use tresor_engine::format::{BlobKind, ObjectId};

use super::*;

/// Before a backup saves its snapshot, what it relies on is marked, and then lost: a mark is
/// no reason to take it for being there.
#[test]
fn what_is_freshly_marked_and_missing_is_not_relied_on() {
    let mut rng = Rng::with_seed(43);
    let store = new_store();
    let tree = some_tree(&mut rng, 3);
    let first = try_backup(&open(&store), &tree, None).unwrap();
    let runs = open(&store).index().runs();
    let entries =
        runs.iter().flat_map(|run| (0..run.len()).map(move |i| (run, run.entry(i).unwrap())));
    let chunks = entries.filter(|(_, entry)| entry.kind == BlobKind::Data);
    let relied_on: HashSet<ObjectId> =
        chunks.map(|(run, entry)| run.pack(entry.pack).unwrap().id).collect();
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
