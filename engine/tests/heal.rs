//! A backup that says that it saved a snapshot has saved all of it, whatever the
//! repository has lost of what an earlier one stored: of long files, too, whose
//! lists of chunks are there and whose chunks aren't.

#[allow(dead_code, reason = "each test binary uses a part")]
#[path = "prune/world.rs"]
mod world;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use tresor_engine::format::{BlobKind, Content, IndexData, ObjectId, ObjectKind, ObjectName};
use tresor_engine::index::read_object;
use tresor_engine::maintenance::{MaxUnused, PruneOptions};
use tresor_engine::repo::Snapshot;
use tresor_engine::store::{ObjectStore, Store, StoreError, StoreErrorKind};
use tresor_engine::tree;
use tresor_testkit::{Call, HookedStore, Item, random_bytes};
use world::*;

/// One file with more chunks than fit beside its name.
fn long_file(store: &Store) -> (Item, Snapshot) {
    let mut rng = Rng::with_seed(8);
    let tree = Item::dir().with("long", Item::file(random_bytes(&mut rng, 600_000)));
    let snapshot = try_backup(&open(store), &tree, None).unwrap();
    is_paged(store, &snapshot);
    (tree, snapshot)
}

#[track_caller]
fn is_paged(store: &Store, snapshot: &Snapshot) {
    let node = tree::lookup(&open(store), &snapshot.data.tree, b"long").unwrap().unwrap();
    assert!(matches!(node.content, Some(Content::Pages { .. })), "{:?}", node.content);
}

/// Leaves two index objects, as a backup does that takes its time: of the packs with chunks, whose
/// id this returns with theirs, and of those with everything else.
fn split_index(store: &Store) -> (ObjectName, Vec<ObjectName>) {
    let repo = open(store);
    let (mut data, mut trees) = (Vec::new(), Vec::new());
    let old = names(store, ObjectKind::Index);
    for pack in old.iter().flat_map(|id| read_object(store, repo.keys(), id).unwrap().packs) {
        let is_data = pack.segments.iter().any(|s| s.kind == BlobKind::Data);
        if is_data { data.push(pack) } else { trees.push(pack) }
    }
    let packs = data.iter().map(|p| ObjectName::new(ObjectKind::Pack, p.id)).collect();
    let index = put_index(&repo, &IndexData { packs: data, replaces: vec![] });
    put_index(&repo, &IndexData { packs: trees, replaces: vec![] });
    old.iter().for_each(|id| store.delete(&ObjectName::new(ObjectKind::Index, *id)).unwrap());
    (ObjectName::new(ObjectKind::Index, index), packs)
}

#[test]
fn chunks_that_no_index_object_names_are_stored_again() {
    for (damaged, packs_gone) in [(false, false), (false, true), (true, false), (true, true)] {
        let store = new_store();
        let (tree, first) = long_file(&store);
        let (index, packs) = split_index(&store);
        if damaged {
            let mut bytes = store.get(&index).unwrap();
            bytes[60] ^= 1;
            store.replace(&index, &bytes).unwrap();
        } else {
            store.delete(&index).unwrap();
        }
        packs.iter().filter(|_| packs_gone).for_each(|name| store.delete(name).unwrap());
        let what = format!("damaged: {damaged}, packs gone: {packs_gone}");
        let second = try_backup(&open(&store), &tree, Some(first)).unwrap();
        holds(&open(&store), &second, &tree, &what);
    }
}

/// What a prune leaves of a forgotten snapshot with a long file: its list of chunks, since that
/// lies in a pack with something that another snapshot needs.
struct Forgotten {
    store: Store,
    tree: Item,
    parent: Snapshot,
    options: PruneOptions,
}

impl Forgotten {
    fn new(grace: PruneOptions) -> Self {
        let (store, mut rng) = (new_store(), Rng::with_seed(9));
        let shared = Item::dir().with("s", Item::file(random_bytes(&mut rng, 2 << 20)));
        let dir = Item::dir().with("f", Item::file("inline"));
        let rest = Item::dir().with("shared", shared).with("d", dir);
        let long = Item::file(random_bytes(&mut rng, 600_000));
        let tree = rest.clone().with("long", long);
        let without_dir = Item::dir().with("shared", rest.entries()[b"shared".as_slice()].clone());
        try_backup(&open(&store), &without_dir, None).unwrap();
        let parent = try_backup(&open(&store), &tree, None).unwrap();
        is_paged(&store, &parent);
        try_backup(&open(&store), &rest, None).unwrap();
        Self {
            store,
            tree,
            parent,
            options: PruneOptions { max_unused: MaxUnused::Percent(50.0), ..grace },
        }
    }

    fn forget(&self) {
        open(&self.store).forget(&[self.parent.id]).unwrap();
    }
}

#[test]
fn a_parent_may_be_pruned_between_its_choice_and_the_backup() {
    let w = Forgotten::new(all());
    let repo = open(&w.store);
    w.forget();
    let pruned = prune_at(&open(&w.store), &w.options, 0).unwrap();
    assert!(pruned.bytes_deleted > 100_000, "{pruned:?}");
    let saved = try_backup(&repo, &w.tree, Some(w.parent.clone())).unwrap();
    holds(&open(&w.store), &saved, &w.tree, "the backup");
}

/// A backup sleeps for days right before it saves its snapshot, while its parent is forgotten
/// and pruned; then it saves it and dies before it has looked again. Nobody was told that
/// this snapshot is saved, and it may be damaged; whoever builds on it isn't.
#[test]
fn a_snapshot_that_nobody_looked_at_again_may_be_the_next_parent() {
    let w = Forgotten::new(gentle());
    let dead = Arc::new(AtomicBool::new(false));
    let is_snapshot =
        |call: &Call| matches!(call, Call::Put(name) if name.kind == ObjectKind::Snapshot);
    let (inner, flag, parent, options) = (w.store.clone(), dead.clone(), w.parent.id, w.options);
    let sleeps = HookedStore::new(w.store.clone(), move |call: &Call| {
        if flag.load(SeqCst) {
            return Err(HookedStore::broken());
        }
        if is_snapshot(call) {
            open(&inner).forget(&[parent]).unwrap();
            prune_at(&open(&inner), &options, 0).unwrap();
            assert!(prune_at(&open(&inner), &options, 2 * DAY).unwrap().bytes_deleted > 100_000);
        }
        Ok(())
    });
    let dies = HookedStore::new(Arc::new(sleeps) as Store, move |call: &Call| {
        dead.fetch_or(is_snapshot(call), SeqCst);
        Ok(())
    });
    let repo = open(&(Arc::new(dies.afterwards()) as Store));
    try_backup(&repo, &w.tree, Some(w.parent.clone())).unwrap_err();

    let known: Vec<ObjectId> = names(&w.store, ObjectKind::Snapshot).into_iter().collect();
    let listed = open(&w.store).snapshots().unwrap();
    assert_eq!((known.len(), listed.len()), (3, 3));
    let unconfirmed = listed.into_iter().max_by_key(|s| s.data.saved).unwrap();
    let saved = try_backup(&open(&w.store), &w.tree, Some(unconfirmed.clone())).unwrap();
    let repo = open(&w.store);
    holds(&repo, &saved, &w.tree, "the next backup");
    holds(&repo, &unconfirmed, &w.tree, "the snapshot that it was compared with, healed");
}

/// A listing is older than a pack, as that of a network drive may be: the backup stores again what
/// it needs, and the pack stays as good as it is.
#[test]
fn a_pack_that_a_listing_lacks_is_not_given_up() {
    let mut rng = Rng::with_seed(1);
    let base = new_store();
    let tree = some_tree(&mut rng, 3);
    let mut kept = Kept::default();
    kept.add(&open(&base), &tree);
    for (name, _) in base.list(ObjectKind::Pack).unwrap() {
        let (store, mut kept) = (copy(&base), kept.clone());
        let stale: Store = Arc::new(HookedStore::new(store.clone(), |_| Ok(())).hiding(name));
        let snapshot = try_backup(&open(&stale), &tree, None).unwrap();
        kept.0.push((snapshot, tree.clone()));
        let runs = open(&store).index().runs();
        let mut packs = runs.iter().flat_map(|run| run.packs());
        assert!(packs.all(|pack| pack.marked == 0), "{name} was doomed");
        kept.verify(&store, "with an old listing");
    }
}

/// The backup looks at its own packs, then at the index and the packs in it. That the one says of a
/// pack that it is gone, and the other that it is there, makes nothing wrong: a listing may be old, or a
/// look fail once.
#[test]
fn looks_that_contradict_each_other_lose_nothing() {
    for (gone_for_good, which) in [(false, 0), (true, 0), (true, 1)] {
        let (store, mut rng) = (new_store(), Rng::with_seed(1));
        let mut kept = Kept::default();
        kept.add(&open(&store), &some_tree(&mut rng, 3));
        let tree = some_tree(&mut rng, 5);
        let contrary = Contrary {
            inner: store.clone(),
            named: AtomicBool::new(false),
            looks: AtomicUsize::new(0),
            which,
            gone_for_good,
            victim: Mutex::default(),
        };
        let contrary = Arc::new(contrary);
        let view = contrary.clone();
        let repo = open_over(&store, |_| view as Store);
        let what = format!("for good: {gone_for_good}, pack {which}");
        let saved = try_backup(&repo, &tree, None);
        let victim = contrary.victim.lock().unwrap().unwrap_or_else(|| panic!("{what}: no look"));
        match saved {
            Ok(snapshot) => kept.0.push((snapshot, tree)),
            Err(e) => assert!(gone_for_good, "{what}: {e}"),
        }
        let fresh = open(&store);
        kept.0.iter().for_each(|(snapshot, tree)| holds(&fresh, snapshot, tree, &what));
        // Nothing rests on a pack that is doomed.
        prune_at(&open(&store), &all(), 0).unwrap();
        kept.verify(&store, &format!("{what}: after a prune"));
        assert!(names(&store, ObjectKind::Pack).is_disjoint(&[victim.0.id].into()), "{what}");
    }
}

/// Says of one pack, once its name is in the index, that it isn't there: after it was deleted,
/// while the listing goes on to have it, or just once.
struct Contrary {
    inner: Store,
    named: AtomicBool,
    looks: AtomicUsize,
    which: usize,
    gone_for_good: bool,
    victim: Mutex<Option<(ObjectName, u64)>>,
}

impl ObjectStore for Contrary {
    fn put(&self, name: &ObjectName, data: &[u8]) -> Result<(), StoreError> {
        self.named.fetch_or(name.kind == ObjectKind::Index, SeqCst);
        self.inner.put(name, data)
    }
    fn replace(&self, name: &ObjectName, data: &[u8]) -> Result<(), StoreError> {
        self.inner.replace(name, data)
    }
    fn get(&self, name: &ObjectName) -> Result<Vec<u8>, StoreError> {
        self.inner.get(name)
    }
    fn get_range(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        self.inner.get_range(name, offset, len)
    }
    fn size(&self, name: &ObjectName) -> Result<u64, StoreError> {
        let mut victim = self.victim.lock().unwrap();
        let is_about = name.kind == ObjectKind::Pack && self.named.load(SeqCst);
        if is_about && victim.is_none() && self.looks.fetch_add(1, SeqCst) == self.which {
            *victim = Some((*name, self.inner.size(name)?));
            if self.gone_for_good {
                self.inner.delete(name)?;
            }
            let message = "no such object".to_owned();
            return Err(StoreError::new(StoreErrorKind::NotFound, "look", name.path(), message));
        }
        self.inner.size(name)
    }
    fn list(&self, kind: ObjectKind) -> Result<Vec<(ObjectName, u64)>, StoreError> {
        let mut listed = self.inner.list(kind)?;
        let victim = *self.victim.lock().unwrap();
        listed.extend(victim.filter(|_| kind == ObjectKind::Pack && self.gone_for_good));
        Ok(listed)
    }
    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.inner.delete(name)
    }
    fn settle(&self) -> Result<(), StoreError> {
        self.inner.settle()
    }
    fn sweep(&self, age: Duration) -> Result<(u64, u64), StoreError> {
        self.inner.sweep(age)
    }
    fn create(&self) -> Result<(), StoreError> {
        self.inner.create()
    }
    fn describe(&self) -> String {
        "a store that contradicts itself".into()
    }
}
