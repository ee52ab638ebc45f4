//! A repository in memory that is used, interrupted, and looked at with fresh eyes.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use tresor_engine::Result;
use tresor_engine::archiver::backup as run_backup;
use tresor_engine::crypto::KdfCost;
use tresor_engine::format::{
    IndexData, ObjectId, ObjectKind, ObjectName, ParityShare, Purpose, Time, sealed,
};
use tresor_engine::history;
use tresor_engine::index::read_object;
use tresor_engine::maintenance::{
    CheckOptions, PruneOptions, PruneOutcome, PrunePlan, check, prune,
};
use tresor_engine::monitor::Quiet;
use tresor_engine::repo::{InitOptions, OpenOptions, Repository, Snapshot, now};
use tresor_engine::restorer::read_file;
use tresor_engine::store::{MemoryStore, ObjectStore, Store, StoreError};
use tresor_testkit::{Body, Call, HookedStore, Item, options, password, random_bytes};

pub const DAY: i64 = 24 * 3600;

/// A new repository whose password costs next to nothing.
pub fn new_store() -> Store {
    new_store_with(None)
}

pub fn new_store_with(parity: Option<ParityShare>) -> Store {
    let store: Store = Arc::new(MemoryStore::new());
    let cost = KdfCost { memory: 8 * 1024, passes: 1, lanes: 1 };
    let options = InitOptions { label: "test".into(), cost, parity };
    Repository::init(&store, &password(), &options).unwrap();
    store
}

pub fn open(store: &Store) -> Arc<Repository> {
    Repository::open(store.clone(), &password(), &OpenOptions::default()).unwrap()
}

pub fn objects(store: &Store) -> BTreeMap<ObjectName, Vec<u8>> {
    let names = ObjectKind::ALL.into_iter().flat_map(|kind| store.list(kind).unwrap());
    names.map(|(name, _)| (name, store.get(&name).unwrap())).collect()
}

pub fn store_of(objects: &BTreeMap<ObjectName, Vec<u8>>) -> Store {
    let store: Store = Arc::new(MemoryStore::new());
    objects.iter().for_each(|(name, bytes)| store.put(name, bytes).unwrap());
    store
}

pub fn copy(store: &Store) -> Store {
    store_of(&objects(store))
}

pub fn names(store: &Store, kind: ObjectKind) -> HashSet<ObjectId> {
    store.list(kind).unwrap().into_iter().map(|(name, _)| name.id).collect()
}

/// From the call number `n` (0 is the first) on, the hook decides.
pub fn hooked(
    store: &Store,
    n: usize,
    hook: impl Fn(&Call) -> Result<(), StoreError> + Send + Sync + 'static,
) -> (Store, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let hooked = HookedStore::new(store.clone(), move |call| {
        if counted.fetch_add(1, SeqCst) >= n { hook(call) } else { Ok(()) }
    });
    (Arc::new(hooked), calls)
}

/// Runs `work` once, before the call number `n`.
pub fn at_call(store: &Store, n: usize, work: impl FnOnce() + Send + 'static) -> Store {
    let work = Mutex::new(Some(work));
    hooked(store, n, move |_| {
        let work = work.lock().unwrap().take();
        work.into_iter().for_each(|work| work());
        Ok(())
    })
    .0
}

/// An open repository over another view of its store: it knows what was known
/// when it was opened, and counts calls from then on.
pub fn open_over(store: &Store, wrap: impl FnOnce(&Store) -> Store) -> Arc<Repository> {
    let gate: Arc<Gate> = Arc::new(Gate(Mutex::new(store.clone())));
    let repo = open(&(gate.clone() as Store));
    *gate.0.lock().unwrap() = wrap(store);
    repo
}

/// A store that can be exchanged.
struct Gate(Mutex<Store>);

impl Gate {
    fn inner(&self) -> Store {
        self.0.lock().unwrap().clone()
    }
}

impl ObjectStore for Gate {
    fn put(&self, name: &ObjectName, data: &[u8]) -> Result<(), StoreError> {
        self.inner().put(name, data)
    }
    fn replace(&self, name: &ObjectName, data: &[u8]) -> Result<(), StoreError> {
        self.inner().replace(name, data)
    }
    fn get(&self, name: &ObjectName) -> Result<Vec<u8>, StoreError> {
        self.inner().get(name)
    }
    fn get_range(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        self.inner().get_range(name, offset, len)
    }
    fn size(&self, name: &ObjectName) -> Result<u64, StoreError> {
        self.inner().size(name)
    }
    fn list(&self, kind: ObjectKind) -> Result<Vec<(ObjectName, u64)>, StoreError> {
        self.inner().list(kind)
    }
    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.inner().delete(name)
    }
    fn settle(&self) -> Result<(), StoreError> {
        self.inner().settle()
    }
    fn sweep(&self, age: Duration) -> Result<(u64, u64), StoreError> {
        self.inner().sweep(age)
    }
    fn create(&self) -> Result<(), StoreError> {
        self.inner().create()
    }
    fn describe(&self) -> String {
        self.inner().describe()
    }
}

/// A store that may forget, when the power fails, what was not settled.
pub struct Volatile {
    now: Store,
    changes: Mutex<Vec<(ObjectName, Option<Vec<u8>>)>>,
    durable: Store,
}

impl Volatile {
    pub fn new(objects: &BTreeMap<ObjectName, Vec<u8>>) -> Arc<Self> {
        let (now, durable) = (store_of(objects), store_of(objects));
        Arc::new(Self { now, durable, changes: Mutex::default() })
    }

    /// What is there after the power failed: of the last changes any may be lost.
    pub fn after_power_loss(&self, rng: &mut Rng) -> Store {
        for (name, bytes) in self.changes.lock().unwrap().drain(..) {
            if rng.bool() {
                apply(&self.durable, &name, bytes);
            }
        }
        self.durable.clone()
    }
}

fn apply(store: &Store, name: &ObjectName, bytes: Option<Vec<u8>>) {
    match bytes {
        Some(bytes) => store.replace(name, &bytes).unwrap(),
        None => store.delete(name).unwrap(),
    }
}

impl ObjectStore for Volatile {
    fn put(&self, name: &ObjectName, data: &[u8]) -> Result<(), StoreError> {
        self.now.put(name, data)?;
        self.changes.lock().unwrap().push((*name, Some(data.to_vec())));
        Ok(())
    }
    fn replace(&self, name: &ObjectName, data: &[u8]) -> Result<(), StoreError> {
        self.now.replace(name, data)?;
        self.changes.lock().unwrap().push((*name, Some(data.to_vec())));
        Ok(())
    }
    fn get(&self, name: &ObjectName) -> Result<Vec<u8>, StoreError> {
        self.now.get(name)
    }
    fn get_range(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        self.now.get_range(name, offset, len)
    }
    fn size(&self, name: &ObjectName) -> Result<u64, StoreError> {
        self.now.size(name)
    }
    fn list(&self, kind: ObjectKind) -> Result<Vec<(ObjectName, u64)>, StoreError> {
        self.now.list(kind)
    }
    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.now.delete(name)?;
        self.changes.lock().unwrap().push((*name, None));
        Ok(())
    }
    fn settle(&self) -> Result<(), StoreError> {
        for (name, bytes) in self.changes.lock().unwrap().drain(..) {
            apply(&self.durable, &name, bytes);
        }
        Ok(())
    }
    fn sweep(&self, age: Duration) -> Result<(u64, u64), StoreError> {
        self.now.sweep(age)
    }
    fn create(&self) -> Result<(), StoreError> {
        self.now.create()
    }
    fn describe(&self) -> String {
        "a volatile store".into()
    }
}

/// Snapshots and the trees they must hold.
#[derive(Clone, Default)]
pub struct Kept(pub Vec<(Snapshot, Item)>);

impl Kept {
    pub fn add(&mut self, repo: &Arc<Repository>, tree: &Item) -> Snapshot {
        let parent = self.0.last().map(|(s, _)| s.clone());
        let snapshot = try_backup(repo, tree, parent).unwrap();
        self.0.push((snapshot.clone(), tree.clone()));
        snapshot
    }

    pub fn forget(&mut self, repo: &Repository, number: usize) -> (Snapshot, Item) {
        let (snapshot, tree) = self.0.remove(number);
        repo.forget(&[snapshot.id]).unwrap();
        (snapshot, tree)
    }

    /// With fresh eyes: exactly these snapshots are there, check finds nothing
    /// wrong, and every file reads back.
    #[track_caller]
    pub fn verify(&self, store: &Store, what: &str) {
        let repo = open(store);
        let known: HashSet<_> = self.0.iter().map(|(s, _)| s.id).collect();
        assert_eq!(names(store, ObjectKind::Snapshot), known, "{what}");
        let options = CheckOptions { read_data: true, ..Default::default() };
        let report = check(&repo, &options, &Quiet::default()).unwrap();
        assert!(report.problems.is_empty(), "{what}: {:#?}", report.problems);
        // Another one: that one has read pages already.
        let repo = open(store);
        self.0.iter().for_each(|(snapshot, tree)| holds(&repo, snapshot, tree, what));
    }

    /// After the last prune: nothing is left that no snapshot needs.
    #[track_caller]
    pub fn verify_clean(&self, store: &Store, what: &str) {
        self.verify(store, what);
        let repo = open(store);
        let plan = PrunePlan::at(&repo, &all(), now(), &Quiet::default()).unwrap();
        assert_eq!(plan.blobs_unused, 0, "{what}: {plan:?}");
        assert_eq!(plan.packs_unindexed + plan.packs_delete + plan.packs_waiting, 0, "{what}");
        assert!(repo.index().replaced().is_empty());
        let indexed: HashSet<_> = repo
            .index()
            .runs()
            .iter()
            .flat_map(|r| r.packs().map(|p| p.id).collect::<Vec<_>>())
            .collect();
        assert_eq!(names(store, ObjectKind::Pack), indexed, "{what}");
    }
}

/// Exactly this tree is in the snapshot.
#[track_caller]
pub fn holds(repo: &Repository, snapshot: &Snapshot, tree: &Item, what: &str) {
    let mut count = 0;
    history::walk(repo, &snapshot.data.tree, &mut |path, node| {
        count += 1;
        let mut item = tree;
        for name in path.split(|b| *b == b'/').skip(1) {
            item = &item.entries()[name];
        }
        if let Body::File(bytes, _) = &item.body {
            let mut out = Vec::new();
            read_file(repo, node, &mut out).unwrap();
            assert!(out == **bytes, "{what}: {path:?} differs");
        }
        Ok(true)
    })
    .unwrap();
    assert_eq!(count, tree.count(), "{what}");
}

pub fn try_backup(
    repo: &Arc<Repository>,
    tree: &Item,
    parent: Option<Snapshot>,
) -> Result<Snapshot> {
    let outcome = run_backup(repo, tree.source(), &options(parent), Arc::new(Quiet::default()))?;
    Ok(Snapshot { id: outcome.snapshot.unwrap(), data: Arc::new(outcome.data) })
}

/// Deletes at once whatever is not needed.
pub fn all() -> PruneOptions {
    PruneOptions { max_unused_percent: 0.0, max_repack_bytes: None, grace: Duration::ZERO }
}

/// A day of grace.
pub fn gentle() -> PruneOptions {
    PruneOptions { grace: Duration::from_secs(DAY as u64), ..all() }
}

/// Plans and prunes as if it were some seconds later.
pub fn prune_at(
    repo: &Arc<Repository>,
    options: &PruneOptions,
    later: i64,
) -> Result<PruneOutcome> {
    let time = Time::new(now().seconds + later, 0);
    let plan = PrunePlan::at(repo, options, time, &Quiet::default())?;
    prune(repo, options, plan, &Quiet::default())
}

pub fn put_index(repo: &Repository, data: &IndexData) -> ObjectId {
    let object = sealed::seal(repo.keys(), Purpose::Index, data).unwrap();
    repo.put_object(ObjectKind::Index, &object).unwrap()
}

/// Makes one index object of all.
pub fn join_index(store: &Store) {
    let repo = open(store);
    let replaces: Vec<_> = repo.index().objects().into_iter().collect();
    let read = |id| read_object(store, repo.keys(), id).unwrap().packs;
    let packs = replaces.iter().flat_map(read).collect();
    put_index(&repo, &IndexData { packs, replaces: replaces.clone() });
    for id in replaces {
        store.delete(&ObjectName::new(ObjectKind::Index, id)).unwrap();
    }
}

/// A tree of a few files.
pub fn some_tree(rng: &mut Rng, files: usize) -> Item {
    let mut tree = Item::dir().with("sub", Item::dir().with("empty", Item::file("")));
    for i in 0..files {
        let len = if rng.u8(..8) == 0 { rng.usize(..400_000) } else { rng.usize(..20_000) };
        tree.entries_mut().insert(format!("f{i}").into_bytes(), Item::file(random_bytes(rng, len)));
    }
    tree
}

/// Some files changed, others gone, new ones.
pub fn change(rng: &mut Rng, tree: &Item) -> Item {
    let mut tree = tree.clone();
    let names: Vec<_> = tree.entries().keys().filter(|n| n[0] == b'f').cloned().collect();
    for name in names {
        match rng.u8(..4) {
            0 => drop(tree.entries_mut().remove(&name)),
            1 => {
                let bytes = random_bytes(rng, 3_000);
                tree.entries_mut().get_mut(&name).unwrap().write(bytes);
            }
            _ => {}
        }
    }
    for _ in 0..3 {
        let (n, bytes) = (rng.u16(..), random_bytes(rng, 9_000));
        tree.entries_mut().insert(format!("f{n}").into_bytes(), Item::file(bytes));
    }
    tree
}
