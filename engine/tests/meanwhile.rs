//! Others are at work before each call of a repair, a forget, or a change of passwords:
//! what was saved is whole, and what was removed stays away.

#[allow(dead_code, reason = "each test binary uses a part")]
#[path = "setback/client.rs"]
mod client;
#[allow(dead_code, reason = "each test binary uses a part")]
#[path = "prune/world.rs"]
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use fastrand::Rng;
use tresor_engine::Result;
use tresor_engine::crypto::{KdfCost, Password};
use tresor_engine::format::{BlobId, ObjectId, ObjectKind, ObjectName, ParityShare};
use tresor_engine::maintenance::{
    RepairObjectsOptions, RepairObjectsReport, RepairSnapshotsOptions, RepairSnapshotsReport,
    repair_objects, repair_snapshots,
};
use tresor_engine::monitor::Quiet;
use tresor_engine::repo::{OpenOptions, Repository};
use tresor_engine::store::Store;
use tresor_testkit::Item;

use client::Client;
use world::*;

const COST: KdfCost = KdfCost { memory: 8 * 1024, passes: 1, lanes: 1 };

/// What others do meanwhile.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Other {
    Backup,
    Forget,
    /// And a prune, which deletes at once.
    ForgetAndPrune,
    Prune,
}

const OTHERS: [Other; 4] = [Other::Backup, Other::Forget, Other::ForgetAndPrune, Other::Prune];

/// Those who add, and who take away as much as can be.
const TWO_OTHERS: [Other; 2] = [Other::Backup, Other::ForgetAndPrune];

/// A tree that is backed up, and a snapshot that is forgotten.
#[derive(Clone)]
struct Material {
    tree: Item,
    gone: ObjectId,
}

impl Other {
    fn does(self, repo: &Arc<Repository>, with: &Material) {
        match self {
            Self::Backup => drop(try_backup(repo, &with.tree, None).unwrap()),
            Self::Forget | Self::ForgetAndPrune => repo.forget(&[with.gone]).unwrap(),
            Self::Prune => {}
        }
        if matches!(self, Self::ForgetAndPrune | Self::Prune) {
            // It refuses as long as a snapshot has lost something.
            let _ = prune_at(repo, &all(), 0);
        }
    }
}

/// Lets others be at work before each call of `work` in turn, to a store and to what is open over
/// it. `look` gets what is there then, what `work` said, and who was at work.
fn meanwhile<T>(
    base: &Store,
    least: usize,
    with: &Material,
    others: &[Other],
    work: impl Fn(&Store) -> T,
    look: impl Fn(&Store, T, Other, &str),
) {
    for &other in others {
        for n in 0.. {
            let store = copy(base);
            let was_at_work = Arc::new(AtomicBool::new(false));
            // Opened before: the password may change.
            let (repo, with, at_work) = (open(&store), with.clone(), was_at_work.clone());
            let hooked = at_call(&store, n, move || {
                at_work.store(true, SeqCst);
                other.does(&repo, &with);
            });
            let said = work(&hooked);
            if !was_at_work.load(SeqCst) {
                assert!(n >= least, "only {n} calls");
                eprintln!("{other:?}: before each of {n} calls");
                break;
            }
            look(&store, said, other, &format!("{other:?} before call {n}"));
        }
    }
}

fn repair(store: &Store) -> Result<RepairSnapshotsReport> {
    repair_snapshots(&open(store), &RepairSnapshotsOptions::default(), &Quiet::default())
}

/// The snapshots that others have saved of this tree meanwhile.
fn add_new(kept: &mut Kept, store: &Store, tree: &Item) {
    for snapshot in open(store).snapshots().unwrap() {
        if !snapshot.is_repaired() && kept.0.iter().all(|(s, _)| s.id != snapshot.id) {
            kept.0.push((snapshot, tree.clone()));
        }
    }
}

/// The trees of repaired snapshots, which can be read.
fn repaired(store: &Store, what: &str) -> Vec<BlobId> {
    let repo = open(store);
    let mut snapshots = repo.snapshots().unwrap();
    snapshots.retain(|s| s.is_repaired());
    snapshots.iter().for_each(|s| reads_whole(&repo, &s.id, what));
    snapshots.iter().map(|s| s.data.tree).collect()
}

/// Whatever others do, what is saved of a damaged snapshot is all that can be saved of it, once.
/// What they have forgotten and pruned is not taken for damaged.
#[test]
fn snapshots_are_repaired() {
    let (base, kept) = lossy();
    let alone = copy(&base);
    repair(&alone).unwrap();
    let [expected] = repaired(&alone, "alone")[..] else { panic!("one repaired snapshot") };
    let (damaged, other_tree) = (kept.0[1].0.id, some_tree(&mut Rng::with_seed(40), 2));
    for gone in [damaged, kept.0[0].0.id] {
        let with = Material { tree: other_tree.clone(), gone };
        let others = if gone == damaged { &OTHERS[..] } else { &OTHERS[1..3] };
        meanwhile(&base, 20, &with, others, repair, |store, report, other, what| {
            let what = &format!("{what}, {} forgotten", gone.short());
            let is_forgotten = matches!(other, Other::Forget | Other::ForgetAndPrune);
            let report = report.unwrap_or_else(|e| panic!("{what}: {e}"));
            let trees = repaired(store, what);
            assert!(trees.iter().all(|tree| *tree == expected), "{what}: not what can be saved");
            let listed = names(store, ObjectKind::Snapshot);
            for repaired in report.repaired {
                assert_eq!(repaired.original.id, damaged, "{what}");
                assert!(repaired.repaired.is_some_and(|id| listed.contains(&id)), "{what}");
            }
            let may_lack = is_forgotten && gone == damaged;
            assert!(trees.len() == 1 || may_lack && trees.is_empty(), "{what}: {trees:?}");
            let mut left = kept.clone();
            left.0.retain(|(s, _)| !is_forgotten || s.id != gone);
            assert!(left.0.iter().all(|(s, _)| listed.contains(&s.id)), "{what}");
            left.0.retain(|(s, _)| s.id != damaged);
            add_new(&mut left, store, &with.tree);
            left.0.retain(|(s, _)| s.id != damaged);
            left.0.iter().for_each(|(s, tree)| holds(&open(store), s, tree, what));
        });
    }
}

/// A backup that stores again what was lost.
#[test]
fn a_backup_heals_what_is_repaired() {
    let (base, kept) = lossy();
    let (healed, tree) = kept.0.last().unwrap();
    let with = Material { tree: tree.clone(), gone: healed.id };
    meanwhile(&base, 20, &with, &[Other::Backup], repair, |store, report, _, what| {
        report.unwrap_or_else(|e| panic!("{what}: {e}"));
        repaired(store, what);
        let mut kept = kept.clone();
        kept.0.retain(|(s, _)| names(store, ObjectKind::Snapshot).contains(&s.id));
        assert_eq!(kept.0.len(), 2, "{what}: an original is gone");
        add_new(&mut kept, store, tree);
        assert_eq!(kept.0.len(), 3, "{what}");
        assert_whole(&open(store), &kept, what);
    });
}

fn mend(store: &Store) -> Result<RepairObjectsReport> {
    repair_objects(store, &RepairObjectsOptions::default(), &Quiet::default())
}

/// An object of each kind that others may remove is damaged, or its parity is.
#[test]
fn objects_are_repaired() {
    let (base, kept, tree) = some_snapshots(new_store_with(ParityShare::new(50)), 2, 2);
    let gone = kept.0[0].0.id;
    let first = |kind| base.list(kind).unwrap().into_iter().map(|(name, _)| name).min().unwrap();
    let other_pack = base.list(ObjectKind::Pack).unwrap().into_iter().max().unwrap().0;
    let snapshot = ObjectName::new(ObjectKind::Snapshot, gone);
    let (pack, index) = (first(ObjectKind::Pack), first(ObjectKind::Index));
    let damaged = [pack, other_pack.parity(), index, snapshot, ObjectName::CONFIG];
    for name in &damaged {
        let mut bytes = base.get(name).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        base.replace(name, &bytes).unwrap();
    }
    base.delete(&ObjectName::new(ObjectKind::Snapshot, kept.0[1].0.id).parity()).unwrap();
    let with = Material { tree, gone };
    meanwhile(&base, 20, &with, &TWO_OTHERS, mend, |store, report, other, what| {
        report.unwrap_or_else(|e| panic!("{what}: {e}"));
        let mut kept = kept.clone();
        if matches!(other, Other::Forget | Other::ForgetAndPrune) {
            kept.0.retain(|(s, _)| s.id != gone);
        }
        add_new(&mut kept, store, &with.tree);
        kept.verify(store, what);
        assert!(mend(store).unwrap().left.is_empty(), "{what}");
        prune_at(&open(store), &all(), 0).unwrap();
        kept.verify_clean(store, what);
        assert_tidy(store, what);
    });
}

#[test]
fn snapshots_are_forgotten() {
    let (base, kept, tree) = three_snapshots();
    let client = Client::new();
    client.is_content(&base, "at first");
    let [first, second] = [kept.0[0].0.id, kept.0[1].0.id];
    for gone in [first, second] {
        let with = Material { tree: tree.clone(), gone };
        let others = if gone == first { &OTHERS[1..3] } else { &OTHERS[..] };
        let work = |store: &Store| open(store).forget(&[first]);
        meanwhile(&base, 5, &with, others, work, |store, result, other, what| {
            result.unwrap_or_else(|e| panic!("{what}: {e}"));
            let mut kept = kept.clone();
            let is_forgotten = matches!(other, Other::Forget | Other::ForgetAndPrune);
            kept.0.retain(|(s, _)| s.id != first && !(is_forgotten && s.id == gone));
            add_new(&mut kept, store, &tree);
            kept.verify(store, what);
            client.twin().is_content(store, what);
        });
    }
}

fn other_password() -> Password {
    Password::new(b"battery staple".to_vec())
}

fn opens(store: &Store, password: &Password) -> bool {
    Repository::open(store.clone(), password, &OpenOptions::default()).is_ok()
}

/// A password is added, changed and removed.
#[test]
fn passwords_change() {
    let (base, kept, tree) = some_snapshots(new_store(), 2, 3);
    let client = Client::new();
    client.is_content(&base, "at first");
    let with = Material { tree: tree.clone(), gone: kept.0[0].0.id };
    let work = |store: &Store| -> Result<()> {
        let repo = open(store);
        let removed = repo.add_key(&other_password(), "second", COST)?;
        repo.change_password(&third_password(), "third", COST)?;
        repo.add_key(&tresor_testkit::password(), "again", COST)?;
        repo.remove_key(&removed)
    };
    meanwhile(&base, 10, &with, &TWO_OTHERS, work, |store, result, other, what| {
        result.unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(!opens(store, &other_password()) && opens(store, &third_password()), "{what}");
        let mut kept = kept.clone();
        let is_forgotten = matches!(other, Other::Forget | Other::ForgetAndPrune);
        kept.0.retain(|(s, _)| !is_forgotten || s.id != with.gone);
        add_new(&mut kept, store, &tree);
        kept.verify(store, what);
        client.twin().is_content(store, what);
    });
}

fn third_password() -> Password {
    Password::new(b"another horse".to_vec())
}
