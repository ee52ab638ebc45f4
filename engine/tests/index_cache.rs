//! The local copy of the index: what is left in its folder when reading the index fails again
//! and again, and that what was read need not be read once more.

#[allow(dead_code, reason = "each test binary uses a part")]
#[path = "prune/world.rs"]
mod world;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use fastrand::Rng;
use tresor_engine::format::{ObjectId, ObjectKind};
use tresor_engine::index::Run;
use tresor_engine::repo::{OpenOptions, Repository};
use tresor_engine::store::Store;
use tresor_testkit::{Call, HookedStore, password};

use world::{Kept, change, new_store, open, some_tree, try_backup};

/// Which index objects the files in the folder hold; each only once.
fn cached(folder: &Path) -> Vec<ObjectId> {
    let mut covered = Vec::new();
    for entry in walk(folder) {
        covered.extend(Run::open(&entry).unwrap().covered().iter().copied());
    }
    covered.sort();
    let count = covered.len();
    covered.dedup();
    assert_eq!(covered.len(), count, "several files hold the same");
    covered
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => files.extend(walk(&entry.path())),
            false => files.push(entry.path()),
        }
    }
    files
}

/// Each time other clients have added to the index; it is read, and then something fails: the
/// listing of packs that a backup needs, or an index object.
#[test]
fn reading_the_index_fails_again_and_again() {
    for fails_at_packs in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let mut rng = Rng::with_seed(5);
        let store = new_store();
        let mut kept = Kept::default();
        let mut tree = some_tree(&mut rng, 4);
        kept.add(&open(&store), &tree);
        let broken = Arc::new(AtomicBool::new(false));
        let read: Arc<Mutex<Vec<ObjectId>>> = Arc::default();
        let (is_broken, seen) = (broken.clone(), read.clone());
        let hooked: Store = Arc::new(HookedStore::new(store.clone(), move |call| {
            let fails = match call {
                Call::List(ObjectKind::Pack) => fails_at_packs,
                Call::Get(name) if name.kind == ObjectKind::Index => {
                    seen.lock().unwrap().push(name.id);
                    // Others of the same listing have been read.
                    !fails_at_packs && seen.lock().unwrap().len() % 3 == 0
                }
                _ => false,
            };
            if fails && is_broken.load(SeqCst) { Err(HookedStore::broken()) } else { Ok(()) }
        }));
        let options = OpenOptions { cache: Some(folder.path().to_owned()), ..Default::default() };
        let opened = || Repository::open(hooked.clone(), &password(), &options).unwrap();
        let repo = opened();
        for round in 0..8 {
            for _ in 0..2 {
                tree = change(&mut rng, &tree);
                kept.add(&open(&store), &tree);
            }
            broken.store(true, SeqCst);
            let failed = try_backup(&repo, &tree, None).is_err();
            assert!(failed || !fails_at_packs, "round {round}");
            broken.store(false, SeqCst);
            cached(folder.path());
        }
        if fails_at_packs {
            let read = std::mem::take(&mut *read.lock().unwrap());
            let all = open(&store).index().objects();
            // At most its own lacks.
            assert!(cached(folder.path()).len() + 1 >= all.len());
            assert_eq!(read.len(), read.iter().collect::<std::collections::HashSet<_>>().len());
        }
        drop(repo);
        // With what is in the folder, and without.
        let last = kept.0.last().unwrap().clone();
        let again = try_backup(&opened(), &tree, Some(last.0)).unwrap();
        kept.0.push((again, tree.clone()));
        assert_eq!(cached(folder.path()).len(), open(&store).index().objects().len());
        kept.verify(&hooked, "in the end");
    }
}
