//! A repository in memory that is used, interrupted, and looked at with fresh eyes.

pub mod looks;
pub mod stores;

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use fastrand::Rng;
use tresor_engine::Result;
use tresor_engine::archiver::backup as run_backup;
use tresor_engine::crypto::KdfCost;
use tresor_engine::format::{
    BlobId, BlobKind, ChunkSizes, IndexData, ObjectId, ObjectKind, ObjectName, ParityShare,
    Purpose, Time, sealed,
};
use tresor_engine::index::{Entry, read_object};
use tresor_engine::maintenance::{
    CheckOptions, MaxUnused, PruneOptions, PruneOutcome, PrunePlan, check, prune,
};
use tresor_engine::monitor::Quiet;
use tresor_engine::pack::{NewSegment, PackWriter, Packed};
use tresor_engine::repo::{InitOptions, OpenOptions, Repository, Snapshot, now};
use tresor_engine::store::{MemoryStore, Store, StoreError};
use tresor_testkit::{Call, HookedStore, Item, options, password, random_bytes};

pub use looks::*;
use stores::Gate;

pub const DAY: i64 = 24 * 3600;

/// A new repository whose password costs next to nothing.
pub fn new_store() -> Store {
    new_store_with(None)
}

/// So small that files of 400 KB have long lists of them, in pages of their own.
const SMALL: ChunkSizes = ChunkSizes { min: 1 << 10, average: 1 << 10, max: 2 << 10 };

pub fn new_store_with(parity: Option<ParityShare>) -> Store {
    new_store_of(parity, SMALL)
}

pub fn new_store_of(parity: Option<ParityShare>, chunks: ChunkSizes) -> Store {
    let store: Store = Arc::new(MemoryStore::new());
    let cost = KdfCost { memory: 8 * 1024, passes: 1, lanes: 1 };
    let options = InitOptions { label: "test".into(), cost, parity, chunks };
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
    let gate = Gate::new(store.clone());
    let repo = open(&(gate.clone() as Store));
    gate.exchange(wrap(store));
    repo
}

/// Runs `first` until its call `n`, there `second` until its call `m`, then the
/// rest of `first`, then the rest of `second`.
pub fn crossed<A>(
    store: &Store,
    (n, m): (usize, usize),
    first: impl FnOnce(&Arc<Repository>) -> A,
    second: impl FnOnce(&Arc<Repository>) + Send + 'static,
) -> A {
    let (pause, paused) = mpsc::channel::<()>();
    let (first_ended, wait) = mpsc::channel::<()>();
    let thread: Arc<Mutex<Option<JoinHandle<()>>>> = Arc::default();
    let (inner, started) = (store.clone(), thread.clone());
    let repo = open_over(store, |store| {
        at_call(store, n, move || {
            let run = move || {
                let ended = pause.clone();
                let repo = open_over(&inner, |s| {
                    at_call(s, m, move || {
                        pause.send(()).unwrap();
                        let _ = wait.recv();
                    })
                });
                second(&repo);
                let _ = ended.send(());
            };
            *started.lock().unwrap() = Some(std::thread::spawn(run));
            paused.recv().unwrap();
        })
    });
    let result = first(&repo);
    drop(first_ended);
    if let Some(thread) = thread.lock().unwrap().take() {
        thread.join().unwrap();
    }
    result
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
    let grace = Duration::ZERO;
    PruneOptions { max_unused: MaxUnused::Percent(0.0), grace, ..PruneOptions::default() }
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

/// The extended attribute that some entries have, which is too long for a node.
pub const LONG: &str = "user.long";

/// What was backed up in several trees of `rounds` with as many `files` each, of which one snapshot
/// of the needed ones is left.
pub fn partly_needed(
    store: Store,
    (rounds, files): (usize, usize),
    mut file: impl FnMut() -> Item,
    is_needed: impl Fn(usize, usize) -> bool,
) -> (Store, Kept) {
    let repo = open(&store);
    let mut kept = Kept::default();
    let mut needed = Item::dir();
    for round in 0..rounds {
        let mut tree = Item::dir();
        for n in 0..files {
            let (name, file) = (format!("f{round}-{n}"), file());
            if is_needed(round, n) {
                needed = needed.with(name.as_str(), file.clone());
            }
            tree = tree.with(name.as_str(), file);
        }
        kept.add(&repo, &tree);
    }
    kept.add(&repo, &needed);
    while kept.0.len() > 1 {
        kept.forget(&repo, 0);
    }
    (store, kept)
}

/// A tree of a few files. One of them has a long stream, and so has a directory.
pub fn some_tree(rng: &mut Rng, files: usize) -> Item {
    let empty = Item::file("").with_attribute(LONG, random_bytes(rng, 70_000));
    let sub = Item::dir().with("empty", empty);
    let mut tree = Item::dir().with("sub", sub.with_attribute(LONG, random_bytes(rng, 70_000)));
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
    if rng.bool() {
        let len = rng.usize(66_000..90_000);
        let sub = tree.entries_mut().get_mut(&b"sub"[..]).unwrap();
        let changed = if rng.bool() { sub } else { sub.entries_mut().values_mut().next().unwrap() };
        changed.set_attribute(LONG, random_bytes(rng, len));
    }
    for _ in 0..3 {
        let (n, bytes) = (rng.u16(..), random_bytes(rng, 9_000));
        tree.entries_mut().insert(format!("f{n}").into_bytes(), Item::file(bytes));
    }
    tree
}

/// Several at work on one store, one call at a time: at each call it is anybody's turn.
pub struct Turns {
    /// Whose turn it is, and how often each gets one compared with the others: 0 if it has ended.
    state: Mutex<(usize, Vec<usize>, Rng)>,
    changed: Condvar,
}

impl Turns {
    pub fn new(weights: &[usize], mut rng: Rng) -> Arc<Self> {
        let first = rng.usize(..weights.len());
        let state = Mutex::new((first, weights.to_vec(), rng));
        Arc::new(Self { state, changed: Condvar::new() })
    }

    /// Waits for its turn, and gives it to somebody. Who has `ended` wants no more.
    fn step(&self, me: usize, ended: bool) {
        let mut state = self.state.lock().unwrap();
        while state.0 != me {
            state = self.changed.wait(state).unwrap();
        }
        let (turn, weights, rng) = &mut *state;
        if ended {
            weights[me] = 0;
        }
        let wheel = weights.iter().enumerate().flat_map(|(i, n)| std::iter::repeat_n(i, *n));
        if let Some(next) = rng.choice(wheel.collect::<Vec<_>>()) {
            *turn = next;
        }
        self.changed.notify_all();
    }

    /// Runs `work` with an open repository over `store` that takes turns.
    pub fn run<T>(
        self: &Arc<Self>,
        me: usize,
        store: &Store,
        work: impl FnOnce(&Arc<Repository>) -> T,
    ) -> T {
        let repo = open_over(store, |store| self.taken_by(me, store));
        let result = work(&repo);
        self.step(me, true);
        result
    }

    /// The same with the store alone.
    pub fn run_on<T>(
        self: &Arc<Self>,
        me: usize,
        store: &Store,
        work: impl FnOnce(&Store) -> T,
    ) -> T {
        let result = work(&self.taken_by(me, store));
        self.step(me, true);
        result
    }

    fn taken_by(self: &Arc<Self>, me: usize, store: &Store) -> Store {
        let turns = self.clone();
        let turn = move |_: &Call| {
            turns.step(me, false);
            Ok(())
        };
        hooked(store, 0, turn).0
    }
}

/// Three snapshots, of which prune has something to repack and to delete if the
/// first is forgotten.
pub fn three_snapshots() -> (Store, Kept, Item) {
    some_snapshots(new_store(), 3, 6)
}

/// Several snapshots of a tree of so many files, as it changes, and the tree as it is then.
pub fn some_snapshots(store: Store, count: usize, files: usize) -> (Store, Kept, Item) {
    let mut rng = Rng::with_seed(3);
    let repo = open(&store);
    let mut kept = Kept::default();
    let mut tree = some_tree(&mut rng, files);
    for _ in 0..count {
        kept.add(&repo, &tree);
        tree = change(&mut rng, &tree);
    }
    (store, kept, tree)
}

/// Three snapshots; one index object is damaged, one says of a pack what isn't so, one is lost.
pub fn broken_index() -> (Store, Kept, Item) {
    let mut rng = Rng::with_seed(7);
    let store = new_store();
    let mut kept = Kept::default();
    let mut tree = some_tree(&mut rng, 3);
    for _ in 0..3 {
        kept.add(&open(&store), &tree);
        tree = change(&mut rng, &tree);
    }
    let repo = open(&store);
    let mut index: Vec<_> = names(&store, ObjectKind::Index).into_iter().collect();
    index.sort();
    let [damaged, lying, lost] = index[..] else { panic!("{index:?}") };
    let name = ObjectName::new(ObjectKind::Index, damaged);
    let mut bytes = store.get(&name).unwrap();
    bytes[50] ^= 1;
    let mut data = read_object(&store, repo.keys(), &lying).unwrap();
    data.packs[0].segments.pop().unwrap();
    put_index(&repo, &IndexData { replaces: vec![lying], ..data });
    for id in [damaged, lying, lost] {
        store.delete(&ObjectName::new(ObjectKind::Index, id)).unwrap();
    }
    store.put(&name, &bytes).unwrap();
    (store, kept, tree)
}

/// Chunks that the index names, each with its pack.
pub fn chunks(store: &Store) -> Vec<(ObjectId, Entry)> {
    let runs = open(store).index().runs();
    let entries =
        runs.iter().flat_map(|run| (0..run.len()).map(move |i| (run, run.entry(i).unwrap())));
    let chunks = entries.filter(|(_, entry)| entry.kind == BlobKind::Data);
    chunks.map(|(run, entry)| (run.pack(entry.pack).unwrap().id, entry)).collect()
}

/// Two snapshots, of which the second has lost a pack of chunks.
pub fn lossy() -> (Store, Kept) {
    let mut rng = Rng::with_seed(12);
    let store = new_store();
    let repo = open(&store);
    let mut kept = Kept::default();
    kept.add(&repo, &some_tree(&mut rng, 3));
    let before = names(&store, ObjectKind::Pack);
    kept.add(&repo, &some_tree(&mut rng, 3));
    let (id, _) = chunks(&store).into_iter().find(|(id, _)| !before.contains(id)).unwrap();
    store.delete(&ObjectName::new(ObjectKind::Pack, id)).unwrap();
    (store, kept)
}

/// Stores full packs of blobs that nobody needs, which need several index objects.
pub fn fill_with_junk(repo: &Arc<Repository>, packs: usize) {
    let mut rng = Rng::with_seed(1);
    let mut writer = PackWriter::new(repo.clone());
    for _ in 0..packs * 10 {
        let mut segment = NewSegment::new(BlobKind::Data);
        for _ in 0..10_000 {
            let mut id = [0; 32];
            rng.fill(&mut id);
            segment.push(BlobId(id), b"x");
        }
        writer.add(&Packed::from(segment)).unwrap();
    }
    writer.finish().unwrap();
}
