//! Prunes where packs have rotted.

use tresor_engine::format::{IndexData, ObjectId, Time};
use tresor_engine::index::read_object;

use super::*;

/// The same blobs lie in packs that are doomed and have rotted, and in others that are marked
/// and whole: those are kept, whatever the packs are called.
#[test]
fn a_rotten_copy_is_no_reason_to_drop_a_whole_one() {
    for swapped in [false, true] {
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
        let repo = open(&store);
        for id in names(&store, ObjectKind::Index) {
            let mut data = read_object(&store, repo.keys(), &id).unwrap();
            for pack in &mut data.packs {
                let seconds = if is_rotten(&pack.id) { 1 } else { 1000 };
                pack.marked = Some(Time::new(seconds, 0));
            }
            put_index(&repo, &IndexData { replaces: vec![id], ..data });
        }
        for (name, _) in store.list(ObjectKind::Pack).unwrap() {
            if is_rotten(&name.id) {
                let mut bytes = store.get(&name).unwrap();
                bytes[60] ^= 1;
                store.replace(&name, &bytes).unwrap();
            }
        }
        for _ in 0..3 {
            prune_at(&open(&store), &all(), 0).unwrap();
        }
        kept.verify(&store, &format!("swapped: {swapped}"));
        assert!(!names(&store, ObjectKind::Pack).iter().any(is_rotten));
    }
}
