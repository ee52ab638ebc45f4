//! Prunes where packs have rotted.

use std::collections::HashSet;

use tresor_engine::format::{IndexData, ObjectId, Time};
use tresor_engine::index::read_object;

use super::*;

/// Gives packs a mark, as many seconds into 1970 as `mark` says: those of 1 are doomed.
fn mark(store: &Store, mark: impl Fn(&ObjectId) -> Option<i64>) {
    let repo = open(store);
    for id in names(store, ObjectKind::Index) {
        let mut data = read_object(store, repo.keys(), &id).unwrap();
        for pack in &mut data.packs {
            pack.marked = mark(&pack.id).map(|seconds| Time::new(seconds, 0));
        }
        put_index(&repo, &IndexData { replaces: vec![id], ..data });
    }
}

fn rot(store: &Store, packs: impl IntoIterator<Item = ObjectId>) {
    for id in packs {
        let name = ObjectName::new(ObjectKind::Pack, id);
        let mut bytes = store.get(&name).unwrap();
        bytes[60] ^= 1;
        store.replace(&name, &bytes).unwrap();
    }
}

/// The same blobs lie in packs that are doomed and have rotted, and in others that are marked,
/// or doomed as well, and whole: those are kept, whatever the packs are called.
#[test]
fn a_rotten_copy_is_no_reason_to_drop_a_whole_one() {
    for (swapped, mark_of_whole) in [(false, 1), (true, 1), (false, 1000), (true, 1000)] {
        let mut rng = Rng::with_seed(17);
        let store = new_store();
        let mut twin = objects(&store);
        let tree = some_tree(&mut rng, 4);
        let mut kept = Kept::default();
        kept.add(&open(&store), &tree);
        let own = names(&store, ObjectKind::Pack);
        let elsewhere = store_of(&twin);
        try_backup(&open(&elsewhere), &tree, None).unwrap();
        twin = objects(&elsewhere);
        twin.retain(|name, _| matches!(name.kind, ObjectKind::Pack | ObjectKind::Index));
        twin.iter().for_each(|(name, bytes)| store.put(name, bytes).unwrap());

        let is_rotten = |id: &ObjectId| own.contains(id) != swapped;
        mark(&store, |id| Some(if is_rotten(id) { 1 } else { mark_of_whole }));
        rot(&store, names(&store, ObjectKind::Pack).into_iter().filter(is_rotten));
        for _ in 0..3 {
            prune_at(&open(&store), &all(), 0).unwrap();
        }
        kept.verify(&store, &format!("swapped: {swapped}, whole ones marked {mark_of_whole}"));
        assert!(!names(&store, ObjectKind::Pack).iter().any(is_rotten));
    }
}

/// There is nothing but a rotten copy: what can be read of it stays, and nothing new relies on it.
#[test]
fn the_only_copy_stays_and_is_not_relied_on() {
    let mut rng = Rng::with_seed(18);
    let store = new_store();
    let tree = some_tree(&mut rng, 4);
    let mut kept = Kept::default();
    kept.add(&open(&store), &tree);
    let rotten: HashSet<_> = chunks(&store).into_iter().map(|(pack, _)| pack).collect();
    assert!(!rotten.is_empty());
    mark(&store, |id| rotten.contains(id).then_some(1));
    rot(&store, rotten.iter().copied());
    for options in [gentle(), all()] {
        prune_at(&open(&store), &options, 0).unwrap();
        assert!(names(&store, ObjectKind::Pack).is_superset(&rotten));
    }
    kept.0.push((try_backup(&open(&store), &tree, None).unwrap(), tree));
    for (snapshot, tree) in &kept.0 {
        holds(&open(&store), snapshot, tree, "stored again");
    }
    for _ in 0..2 {
        prune_at(&open(&store), &all(), 0).unwrap();
    }
    kept.verify(&store, "the rotten copy has gone");
    assert!(names(&store, ObjectKind::Pack).is_disjoint(&rotten));
}
