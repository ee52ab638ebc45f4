//! A repository that was set back to an older state, or of which something was removed or
//! put back, is noticed by who has seen a newer state; and nobody cries wolf.

#[path = "setback/client.rs"]
mod client;
#[path = "setback/honest.rs"]
mod honest;
#[allow(dead_code, reason = "each test binary uses a part")]
#[path = "prune/world.rs"]
mod world;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use fastrand::Rng;
use tresor_engine::Error;
use tresor_engine::crypto::{KdfCost, Password};
use tresor_engine::format::{ForgottenData, ObjectId, ObjectKind, ObjectName, Purpose, sealed};
use tresor_engine::maintenance::{
    CheckOptions, RepairIndexOptions, RepairSnapshotsOptions, check, plan_prune, repair_index,
    repair_snapshots,
};
use tresor_engine::monitor::Quiet;
use tresor_engine::repo::{Notice, Repository, now};
use tresor_engine::store::Store;
use tresor_testkit::{Call, HookedStore, Item};

use client::Client;
use world::*;

const COST: KdfCost = KdfCost { memory: 8 * 1024, passes: 1, lanes: 1 };

fn other_password(n: u32) -> Password {
    Password::new(format!("another one, number {n}").into_bytes())
}

/// A repository, its snapshots, and the tree of the last one.
struct History {
    store: Store,
    kept: Kept,
    tree: Item,
    rng: Rng,
    /// What repairs had to repair.
    repaired: BTreeSet<&'static str>,
}

impl History {
    fn new(seed: u64, backups: usize) -> Self {
        let mut rng = Rng::with_seed(seed);
        let tree = some_tree(&mut rng, 3);
        let (store, kept, repaired) = (new_store(), Kept::default(), BTreeSet::new());
        let mut history = Self { store, kept, tree, rng, repaired };
        (0..backups).for_each(|_| history.backup(&open(&history.store.clone())));
        history
    }

    fn backup(&mut self, repo: &Arc<Repository>) {
        self.tree = change(&mut self.rng, &self.tree);
        self.kept.add(repo, &self.tree);
    }

    /// Some object of this kind.
    fn any(&mut self, kind: ObjectKind) -> Option<ObjectName> {
        let all = self.store.list(kind).unwrap();
        self.rng.choice(all).map(|(name, _)| name)
    }

    fn id(&self, n: usize) -> ObjectId {
        self.kept.0[n].0.id
    }
}

fn problems(repo: &Arc<Repository>) -> Vec<(String, String)> {
    let report = check(repo, &CheckOptions::default(), &Quiet::default()).unwrap();
    report.problems.into_iter().map(|p| (p.object, p.message)).collect()
}

/// Prune must not do anything.
#[track_caller]
fn prune_refuses(client: &Client, store: &Store, what: &str) {
    let before = objects(store);
    let repo = client.open(store);
    let plan = plan_prune(&repo, &all(), &Quiet::default()).unwrap();
    let result = tresor_engine::maintenance::prune(&repo, &all(), plan, &Quiet::default());
    assert!(matches!(result, Err(Error::OlderState(_))), "{what}: {result:?}");
    assert!(matches!(repo.refuse_older_state(), Err(Error::OlderState(_))), "{what}");
    assert!(objects(store) == before, "{what}: something has changed");
}

/// The repository after each step of a history, and what a client has seen by then.
struct Step {
    objects: BTreeMap<ObjectName, Vec<u8>>,
    client: Client,
    snapshots: HashSet<ObjectId>,
    slots: HashSet<ObjectId>,
}

fn steps() -> Vec<Step> {
    let mut history = History::new(1, 0);
    let (client, other) = (Client::new(), Client::new());
    let store = history.store.clone();
    let mut steps: Vec<Step> = Vec::new();
    let mut slot = None;
    for step in 0..12 {
        let by = if step % 3 == 2 { &other } else { &client };
        let repo = by.open(&store);
        match step {
            0 | 1 | 2 | 6 | 9 => history.backup(&repo),
            3 => drop(history.kept.forget(&repo, 0)),
            4 => drop(prune_at(&repo, &all(), 0).unwrap()),
            5 => slot = Some(repo.add_key(&other_password(1), "second", COST).unwrap()),
            7 => repo.remove_key(&slot.unwrap()).unwrap(),
            8 => drop(history.kept.forget(&repo, 1)),
            10 => repo.forget(&[history.kept.0.remove(0).0.id]).unwrap(),
            _ => drop(prune_at(&repo, &all(), 0).unwrap()),
        }
        client.is_content(&store, &format!("step {step}"));
        other.is_content(&store, &format!("step {step}, the other"));
        steps.push(Step {
            objects: objects(&store),
            client: client.twin(),
            snapshots: names(&store, ObjectKind::Snapshot),
            slots: names(&store, ObjectKind::Key),
        });
    }
    steps
}

#[test]
fn every_rollback_is_noticed() {
    let steps = steps();
    let mut noticed = 0;
    for (i, old) in steps.iter().enumerate() {
        for (j, new) in steps.iter().enumerate().skip(i + 1) {
            let what = format!("from {j} back to {i}");
            let store = store_of(&old.objects);
            let client = new.client.twin();
            let setback = client.look(&store);
            // What a prune has removed isn't needed by anything.
            let same = old.snapshots == new.snapshots && old.slots == new.slots;
            assert_eq!(setback.is_empty(), same, "{what}: {setback:#?}");
            if same {
                continue;
            }
            noticed += 1;
            let lost = |difference: &tresor_engine::repo::Difference| -> HashSet<ObjectId> {
                difference.lost.iter().map(|l| l.0).collect()
            };
            let missing = |new: &HashSet<ObjectId>, old: &HashSet<ObjectId>| -> HashSet<_> {
                new.difference(old).copied().collect()
            };
            assert_eq!(lost(&setback.snapshots), missing(&new.snapshots, &old.snapshots), "{what}");
            assert_eq!(lost(&setback.key_slots), missing(&new.slots, &old.slots), "{what}");
            let back: HashSet<_> = setback.snapshots.put_back.iter().copied().collect();
            assert_eq!(back, missing(&old.snapshots, &new.snapshots), "{what}");
            let said = problems(&client.open(&store));
            let differences = setback.snapshots.lost.len()
                + setback.snapshots.put_back.len()
                + setback.key_slots.lost.len()
                + setback.key_slots.put_back.len();
            assert_eq!(said.len(), differences, "{what}: {said:#?}");
            prune_refuses(&client, &store, &what);
            // Saved all the same, and still noticed.
            let mut kept = Kept::default();
            kept.add(&client.open(&store), &Item::dir());
            assert!(!client.look(&store).is_empty(), "{what}: after a backup");
            client.told();
            // Taken as it is, it is whole.
            let repo = client.try_open(&store, true).unwrap();
            repo.snapshots().unwrap();
            assert!(repo.setback().is_empty(), "{what}");
            let told = client.told();
            assert!(told.iter().all(|n| matches!(n, Notice::Accepted(_))), "{what}: {told:?}");
            assert!(!told.is_empty(), "{what}");
            prune_at(&repo, &all(), 0).unwrap();
            client.is_content(&store, &what);
        }
    }
    assert!(noticed > 50, "{noticed}");
}

#[test]
fn one_that_is_withheld_is_noticed() {
    let history = History::new(2, 4);
    let store = history.store.clone();
    let (client, stranger) = (Client::new(), Client::new());
    client.is_content(&store, "at first");
    for n in 0..4 {
        let less = copy(&store);
        less.delete(&ObjectName::new(ObjectKind::Snapshot, history.id(n))).unwrap();
        let client = client.twin();
        let setback = client.look(&less);
        let data = &history.kept.0[n].0.data;
        assert_eq!(setback.snapshots.lost, [(history.id(n), data.time)]);
        assert!(setback.snapshots.put_back.is_empty() && setback.key_slots.is_empty());
        assert_eq!(client.told().len(), 1, "each thing is said once");
        prune_refuses(&client, &less, "withheld");
        // It is there again: all is well.
        client.told();
        client.is_content(&store, "given back");
        // Who hasn't seen it can't miss it.
        stranger.twin().is_content(&less, "somebody else");
    }
}

/// It vanishes when a prune is planned already: that looks again before it removes anything.
#[test]
fn one_that_vanishes_during_a_prune_is_noticed() {
    let mut history = History::new(8, 3);
    let store = history.store.clone();
    let client = Client::new();
    client.is_content(&store, "at first");
    history.kept.forget(&client.open(&store), 0);
    let lost = ObjectName::new(ObjectKind::Snapshot, history.id(1));
    let (inner, now) = (store.clone(), Arc::new(AtomicBool::new(false)));
    let is_time = now.clone();
    let hooked: Store = Arc::new(HookedStore::new(store.clone(), move |call| match call {
        Call::List(ObjectKind::Snapshot) if is_time.load(SeqCst) => inner.delete(&lost),
        _ => Ok(()),
    }));
    let repo = client.open(&hooked);
    let plan = plan_prune(&repo, &all(), &Quiet::default()).unwrap();
    let before = names(&store, ObjectKind::Pack);
    now.store(true, SeqCst);
    let result = tresor_engine::maintenance::prune(&repo, &all(), plan, &Quiet::default());
    assert!(matches!(result, Err(Error::OlderState(_))), "{result:?}");
    assert!(names(&store, ObjectKind::Pack).is_superset(&before));
}

/// Two clients: what one has forgotten, the other takes for forgotten, and knows if it comes back.
#[test]
fn one_that_is_put_back_is_noticed() {
    let mut history = History::new(3, 4);
    let store = history.store.clone();
    let (one, other) = (Client::new(), Client::new());
    one.is_content(&store, "one");
    other.is_content(&store, "other");
    let name = ObjectName::new(ObjectKind::Snapshot, history.id(1));
    let bytes = store.get(&name).unwrap();
    history.kept.forget(&one.open(&store), 1);
    other.is_content(&store, "forgotten elsewhere");
    store.put(&name, &bytes).unwrap();
    for client in [&one, &other] {
        let setback = client.look(&store);
        assert_eq!(setback.snapshots.put_back, [name.id]);
        assert!(setback.snapshots.lost.is_empty());
        prune_refuses(client, &store, "put back");
    }
    one.told();
    // Forgotten once more, it is as it was.
    let repo = one.try_open(&store, false).unwrap();
    repo.forget(&[name.id]).unwrap();
    one.is_content(&store, "forgotten again");
}

#[test]
fn a_removed_key_slot_that_is_put_back_is_noticed() {
    let history = History::new(4, 1);
    let store = history.store.clone();
    let (one, other) = (Client::new(), Client::new());
    let id = one.open(&store).add_key(&other_password(1), "second", COST).unwrap();
    other.is_content(&store, "with two");
    let name = ObjectName::new(ObjectKind::Key, id);
    let bytes = store.get(&name).unwrap();
    one.open(&store).remove_key(&id).unwrap();
    one.is_content(&store, "removed");
    other.is_content(&store, "removed elsewhere");
    store.put(&name, &bytes).unwrap();
    for client in [&one, &other] {
        assert_eq!(client.look(&store).key_slots.put_back, [id]);
        let said = problems(&client.open(&store));
        assert!(said[0].0 == name.path() && said[0].1.contains("password"), "{said:?}");
    }
    one.open(&store).remove_key(&id).unwrap();
    one.told();
    one.is_content(&store, "removed again");
    // One that is gone though nobody has removed it.
    let id = one.open(&store).add_key(&other_password(2), "third", COST).unwrap();
    store.delete(&ObjectName::new(ObjectKind::Key, id)).unwrap();
    assert_eq!(one.look(&store).key_slots.lost.len(), 1);
}

/// Who has no key can't write a record, and can't make one say something else.
#[test]
fn forged_records_hide_nothing() {
    let history = History::new(5, 3);
    let store = history.store.clone();
    let client = Client::new();
    client.is_content(&store, "at first");
    open(&store).forget(&[history.id(0)]).unwrap();
    let lost = ObjectName::new(ObjectKind::Snapshot, history.id(1));
    let other = new_store();
    let data = ForgottenData {
        snapshots: vec![tresor_engine::format::Forgotten { id: lost.id, at: Default::default() }],
        key_slots: Vec::new(),
    };
    let elsewhere = sealed::seal(open(&other).keys(), Purpose::Forgotten, &data).unwrap();
    // Sealed with the right key, but for another purpose.
    let misplaced = sealed::seal(open(&store).keys(), Purpose::Snapshot, &data).unwrap();
    let genuine = names(&store, ObjectKind::Forgotten).into_iter().next().unwrap();
    let genuine = store.get(&ObjectName::new(ObjectKind::Forgotten, genuine)).unwrap();
    let mut flipped = genuine.clone();
    flipped[60] ^= 1;
    let junk = [b"junk".to_vec(), Vec::new(), elsewhere, misplaced, flipped];
    for bytes in junk {
        let store = copy(&store);
        store.delete(&lost).unwrap();
        let name = ObjectName::new(ObjectKind::Forgotten, ObjectId::of(&bytes));
        store.put(&name, &bytes).unwrap();
        // A genuine one under another name, too.
        let copied = ObjectName::new(ObjectKind::Forgotten, ObjectId([7; 32]));
        store.put(&copied, &genuine).unwrap();
        let client = client.twin();
        let setback = client.look(&store);
        assert_eq!(setback.snapshots.lost.iter().map(|l| l.0).collect::<Vec<_>>(), [lost.id]);
        assert_eq!(setback.damaged_records, 2);
        let said = problems(&client.open(&store));
        for named in [name, copied, lost] {
            assert!(said.iter().any(|p| p.0 == named.path()), "{named}: {said:?}");
        }
        prune_refuses(&client, &store, "forged");
        // They stand in nobody's way otherwise.
        for _ in 0..20 {
            let id = open(&store).save_snapshot(&history.kept.0[2].0.data).unwrap();
            open(&store).forget(&[id]).unwrap();
        }
        assert!(names(&store, ObjectKind::Forgotten).is_superset(&HashSet::from([name.id])));
        assert_eq!(client.look(&store).snapshots.lost.len(), 1);
    }
}

/// Records that vanish or rot make what they told of look lost: better than the other way round.
#[test]
fn a_damaged_record_is_said_to_be_the_reason() {
    let history = History::new(6, 2);
    let store = history.store.clone();
    let client = Client::new();
    client.is_content(&store, "at first");
    open(&store).forget(&[history.id(0)]).unwrap();
    let name = store.list(ObjectKind::Forgotten).unwrap()[0].0;
    let bytes = store.get(&name).unwrap();
    store.delete(&name).unwrap();
    store.put(&name, &bytes[..50]).unwrap();
    let setback = client.look(&store);
    assert_eq!((setback.snapshots.lost.len(), setback.damaged_records), (1, 1));
    // The folder can't be read at all: that keeps nobody from anything else.
    let hook = |call: &Call| match call {
        Call::List(ObjectKind::Forgotten) => Err(HookedStore::broken()),
        _ => Ok(()),
    };
    let broken: Store = Arc::new(HookedStore::new(store.clone(), hook));
    let setback = client.look(&broken);
    assert_eq!((setback.snapshots.lost.len(), setback.damaged_records), (1, 1));
    store.delete(&name).unwrap();
    store.put(&name, &bytes).unwrap();
    client.told();
    client.is_content(&store, "mended");
}

#[test]
fn a_state_file_that_is_of_no_use_is_made_anew() {
    let history = History::new(7, 2);
    let store = history.store.clone();
    let client = Client::new();
    client.is_content(&store, "at first");
    let id: String = open(&store).id().iter().map(|b| format!("{b:02x}")).collect();
    let path = client.folder.path().join(&id);
    let bytes = std::fs::read(&path).unwrap();
    let other = Client::new();
    let elsewhere = new_store();
    other.is_content(&elsewhere, "another repository");
    let other_id: String = open(&elsewhere).id().iter().map(|b| format!("{b:02x}")).collect();
    let foreign = std::fs::read(other.folder.path().join(other_id)).unwrap();
    let mut flipped = bytes.clone();
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    let mut cases: Vec<_> = [0, 1, 14, 15, 40, 47, 60].map(|n| bytes[..n].to_vec()).into();
    cases.extend([flipped, foreign, vec![0; 1000]]);
    for (n, case) in cases.into_iter().enumerate() {
        std::fs::write(&path, case).unwrap();
        assert!(client.look(&store).is_empty(), "case {n}");
        let told = client.told();
        assert!(matches!(&told[..], [Notice::NoState(at, _)] if *at == path), "case {n}: {told:?}");
        client.is_content(&store, &format!("case {n}: made anew"));
        let less = copy(&store);
        less.delete(&ObjectName::new(ObjectKind::Snapshot, history.id(0))).unwrap();
        assert_eq!(client.look(&less).snapshots.lost.len(), 1, "case {n}: it works again");
        client.told();
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        for entry in std::fs::read_dir(client.folder.path()).unwrap().flatten() {
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
        }
    }
    // It can't be written: everything works, and it is said once.
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let repo = client.open(&store);
    repo.snapshots().unwrap();
    repo.save_snapshot(&history.kept.0[0].0.data).unwrap();
    assert_eq!(repo.snapshots().unwrap().len(), 3);
    let told = client.told();
    assert!(matches!(&told[..], [Notice::NoState(..), Notice::NotKept(..)]), "{told:?}");
}

/// Times that can't be right are known by who has looked in between.
#[test]
fn forged_times_are_noticed() {
    let mut history = History::new(14, 2);
    let store = history.store.clone();
    let client = Client::new();
    let forge = |days: i64| {
        let mut data = history.kept.0[0].0.data.as_ref().clone();
        data.time.seconds += days * DAY;
        data.saved.seconds += days * DAY;
        open(&store).save_snapshot(&data).unwrap()
    };
    // Before the first look nothing is known.
    forge(-30);
    client.is_content(&store, "at first");
    assert!(client.open(&store).odd_snapshots().is_empty());
    let start = now();
    let odd: HashSet<_> = [forge(-300), forge(-2), forge(2), forge(300)].into();
    forge(0);
    let repo = open(&store);
    history.backup(&repo);
    client.is_content(&store, "then");
    history.backup(&client.open(&store));
    let found = client.open(&store).odd_snapshots();
    assert_eq!(found.keys().copied().collect::<HashSet<_>>(), odd);
    let came = found.values().map(|came| came.expect("it was seen"));
    assert!(came.into_iter().all(|came| start <= came && came <= now()), "{found:?}");
    client.open(&store).forget(&odd.iter().copied().collect::<Vec<_>>()).unwrap();
    assert!(client.open(&store).odd_snapshots().is_empty());
}
