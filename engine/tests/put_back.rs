//! What a repository once held and holds no more comes back, as from an old copy of it: each
//! object alone, some, and all at once. Nothing is lost by it, nothing forgotten comes back as
//! something else, and who has seen it go is told.

#[path = "setback/client.rs"]
mod client;
#[allow(dead_code, reason = "each test binary uses a part")]
#[path = "prune/world.rs"]
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fastrand::Rng;
use tresor_engine::Error;
use tresor_engine::crypto::{KdfCost, Password};
use tresor_engine::format::{ObjectId, ObjectKind, ObjectName, ParityShare};
use tresor_engine::history;
use tresor_engine::maintenance::{
    CheckOptions, RepairIndexOptions, RepairObjectsOptions, check, repair_index, repair_objects,
    scrub,
};
use tresor_engine::monitor::Quiet;
use tresor_engine::repo::{OpenOptions, Repository, Snapshot};
use tresor_engine::restorer::read_file;
use tresor_engine::store::Store;
use tresor_testkit::{Body, Item, password};

use client::Client;
use world::*;

const COST: KdfCost = KdfCost { memory: 8 * 1024, passes: 1, lanes: 1 };

type Objects = BTreeMap<ObjectName, Vec<u8>>;

/// A repository in use.
struct History {
    objects: Objects,
    /// What it held once, and doesn't any more.
    gone: Objects,
    kept: Kept,
    forgotten: Vec<(Snapshot, Item)>,
    /// Has seen it as it is.
    client: Client,
}

fn once() -> Password {
    Password::new(b"battery staple".to_vec())
}

fn history(parity: Option<ParityShare>) -> History {
    let mut rng = Rng::with_seed(31);
    let store = new_store_with(parity);
    let client = Client::new();
    let (mut kept, mut forgotten, mut ever) = (Kept::default(), Vec::new(), Objects::new());
    let mut tree = some_tree(&mut rng, 4);
    let look = |ever: &mut Objects| {
        client.is_content(&store, "on the way");
        ever.extend(objects(&store));
    };
    for round in 0..3 {
        for _ in 0..2 {
            kept.add(&open(&store), &tree);
            tree = change(&mut rng, &tree);
        }
        look(&mut ever);
        forgotten.push(kept.forget(&open(&store), 0));
        match round {
            0 => drop(open(&store).add_key(&once(), "second", COST).unwrap()),
            1 => {
                // It is another one from now on.
                let options = OpenOptions::default();
                let repo = Repository::open(store.clone(), &once(), &options).unwrap();
                repo.change_password(&Password::new(b"new".to_vec()), "new", COST).unwrap();
                prune_at(&open(&store), &gentle(), 0).unwrap();
            }
            _ => drop(prune_at(&open(&store), &gentle(), 2 * DAY).unwrap()),
        }
        look(&mut ever);
    }
    // So many forgotten ones that their records are joined.
    for _ in 0..16 {
        let id = open(&store).save_snapshot(&kept.0[0].0.data).unwrap();
        open(&store).forget(&[id]).unwrap();
        ever.extend(objects(&store));
    }
    prune_at(&open(&store), &all(), 0).unwrap();
    client.is_content(&store, "in the end");
    kept.verify(&store, "in the end");
    let objects = objects(&store);
    let mut gone = ever;
    gone.retain(|name, _| !objects.contains_key(name));
    for kind in ObjectKind::ALL {
        let stays = kind == ObjectKind::Config || kind == ObjectKind::Parity && parity.is_none();
        assert_eq!(gone.keys().any(|name| name.kind == kind), !stays, "{kind:?}");
    }
    History { objects, gone, kept, forgotten, client }
}

impl History {
    fn with(&self, back: impl IntoIterator<Item = ObjectName>) -> Store {
        let store = store_of(&self.objects);
        back.into_iter().for_each(|name| store.put(&name, &self.gone[&name]).unwrap());
        store
    }

    /// All that is new and forgotten: what it needs may be named where it is no more.
    fn everything(&self) -> Item {
        let trees = self.forgotten.iter().chain(&self.kept.0).map(|(_, tree)| tree.clone());
        let folder = |all: Item, (n, tree): (usize, Item)| all.with(format!("tree {n}"), tree);
        trees.enumerate().fold(Item::dir(), folder)
    }

    fn one_case(&self, back: &BTreeSet<ObjectName>, what: &str) {
        let store = self.with(back.iter().copied());
        self.is_noticed(&store, back, what);
        self.all_is_there(&store, back, what);
        self.then_backup(&copy(&store), back, what);
        self.then_prune(&copy(&store), back, what);
        self.then_repair(&copy(&store), back, what);
        self.then_remove(&store, back, what);
    }

    /// Who has seen snapshots and key slots go is told, and doesn't prune.
    fn is_noticed(&self, store: &Store, back: &BTreeSet<ObjectName>, what: &str) {
        let of = |kind| -> Vec<ObjectId> {
            back.iter().filter(|name| name.kind == kind).map(|name| name.id).collect()
        };
        let client = self.client.twin();
        let mut setback = client.look(store);
        setback.snapshots.put_back.sort();
        setback.key_slots.put_back.sort();
        assert_eq!(setback.snapshots.put_back, of(ObjectKind::Snapshot), "{what}");
        assert_eq!(setback.key_slots.put_back, of(ObjectKind::Key), "{what}");
        assert!(setback.snapshots.lost.is_empty() && setback.key_slots.lost.is_empty(), "{what}");
        let refused = client.open(store);
        refused.snapshots().unwrap();
        let refused = matches!(refused.refuse_older_state(), Err(Error::OlderState(_)));
        assert_eq!(refused, !setback.is_empty(), "{what}");
    }

    /// What wasn't forgotten is whole, and nothing else is named.
    fn all_is_there(&self, store: &Store, back: &BTreeSet<ObjectName>, what: &str) {
        let repo = open(store);
        self.kept.0.iter().for_each(|(snapshot, tree)| holds(&repo, snapshot, tree, what));
        self.forgotten_is_right(&repo, what);
        // Bytes are what names say; parity of what is gone is nothing that is wrong.
        let options = CheckOptions { read_data: true, ..Default::default() };
        let report = check(&repo, &options, &Quiet::default()).unwrap();
        let of_kept = |file: &&String| {
            self.kept.0.iter().any(|(snapshot, _)| file.starts_with(&snapshot.id.short()))
        };
        let files: Vec<_> = report.problems.iter().flat_map(|p| &p.files).filter(of_kept).collect();
        assert!(files.is_empty(), "{what}: {files:?}");
        let has = |kind| back.iter().any(|name| name.kind == kind);
        if !has(ObjectKind::Snapshot) && !has(ObjectKind::Index) {
            // Where there is parity, what comes back without has none.
            let others = report.problems.iter().filter(|p| !p.message.contains("has no parity"));
            assert_eq!(others.count(), 0, "{what}: {:#?}", report.problems);
        }
        let scrubbed = scrub(store, &Quiet::default()).unwrap();
        let others = scrubbed.problems.iter().filter(|p| !p.message.contains("has no parity"));
        assert_eq!(others.count(), 0, "{what}: {:#?}", scrubbed.problems);
    }

    /// Snapshots that are there again hold what they held, as far as anything can be read.
    fn forgotten_is_right(&self, repo: &Repository, what: &str) {
        let listed = repo.snapshots().unwrap();
        for (snapshot, tree) in &self.forgotten {
            if !listed.iter().any(|s| s.id == snapshot.id) {
                continue;
            }
            let _ = history::walk(repo, &snapshot.data.tree, &mut |path, node| {
                let names = path.split(|b| *b == b'/').skip(1);
                let item = names.fold(tree, |item, name| &item.entries()[name]);
                let mut out = Vec::new();
                if let Body::File(bytes, _) = &item.body
                    && read_file(repo, node, &mut out).is_ok()
                {
                    assert!(out == **bytes, "{what}: {path:?} has other bytes");
                }
                Ok(true)
            });
        }
    }

    /// A backup relies on nothing that isn't there, whatever the index says.
    fn then_backup(&self, store: &Store, back: &BTreeSet<ObjectName>, what: &str) {
        let tree = self.everything();
        for parent in [None, self.kept.0.last().map(|(s, _)| s.clone())] {
            let store = copy(store);
            let snapshot = try_backup(&open(&store), &tree, parent).unwrap();
            holds(&open(&store), &snapshot, &tree, &format!("{what}: a backup"));
            let pruned = prune_at(&open(&store), &all(), 0);
            // Snapshots that are there again may lack what they need.
            let may_refuse = back.iter().any(|name| name.kind == ObjectKind::Snapshot);
            assert!(pruned.is_ok() || may_refuse, "{what}: {:?}", pruned.err());
            holds(&open(&store), &snapshot, &tree, &format!("{what}: a backup and a prune"));
        }
    }

    fn then_prune(&self, store: &Store, back: &BTreeSet<ObjectName>, what: &str) {
        for options in [gentle(), all()] {
            let pruned = prune_at(&open(store), &options, 0);
            let has_snapshot = back.iter().any(|name| name.kind == ObjectKind::Snapshot);
            assert!(pruned.is_ok() || has_snapshot, "{what}: {:?}", pruned.err());
            let repo = open(store);
            let what = format!("{what}: after a prune");
            self.kept.0.iter().for_each(|(snapshot, tree)| holds(&repo, snapshot, tree, &what));
            self.forgotten_is_right(&repo, &what);
        }
        if back.iter().all(|n| !matches!(n.kind, ObjectKind::Snapshot | ObjectKind::Key)) {
            self.kept.verify_clean(store, &format!("{what}: after prunes"));
        }
    }

    /// Repairs put the index right, and mend nothing that is whole.
    fn then_repair(&self, store: &Store, back: &BTreeSet<ObjectName>, what: &str) {
        let what = format!("{what}: after repairs");
        // Without parity that is refused.
        if let Ok(report) =
            repair_objects(store, &RepairObjectsOptions::default(), &Quiet::default())
        {
            assert!(report.mended.is_empty() && report.left.is_empty(), "{what}: {report:?}");
        }
        let options = RepairIndexOptions { read_all: true, dry_run: false };
        repair_index(&open(store), &options, &Quiet::default()).unwrap();
        let repo = open(store);
        self.kept.0.iter().for_each(|(snapshot, tree)| holds(&repo, snapshot, tree, &what));
        self.forgotten_is_right(&repo, &what);
        if !back.iter().any(|name| name.kind == ObjectKind::Snapshot) {
            self.kept.verify(store, &what);
        }
    }

    /// What had been removed can be removed again, and then all is as it was.
    fn then_remove(&self, store: &Store, back: &BTreeSet<ObjectName>, what: &str) {
        let (client, once) = (self.client.twin(), &once());
        let opens = || Repository::open(store.clone(), once, &OpenOptions::default()).is_ok();
        let slots: Vec<_> = back.iter().filter(|name| name.kind == ObjectKind::Key).collect();
        // That is noticed, and not prevented.
        let of_once = slots.iter().any(|slot| self.opens_with_once(slot));
        assert_eq!(opens(), of_once, "{what}");
        let snapshots: Vec<_> =
            back.iter().filter(|n| n.kind == ObjectKind::Snapshot).map(|n| n.id).collect();
        let repo = client.open(store);
        if !snapshots.is_empty() {
            repo.forget(&snapshots).unwrap();
        }
        slots.iter().for_each(|slot| repo.remove_key(&slot.id).unwrap());
        assert!(!opens(), "{what}: after removing it again");
        client.told();
        client.is_content(store, &format!("{what}, and removed again"));
    }

    fn opens_with_once(&self, slot: &ObjectName) -> bool {
        let store = self.with([*slot]);
        Repository::open(store, &once(), &OpenOptions::default()).is_ok()
    }
}

#[test]
fn each_object_that_is_gone_comes_back() {
    each_comes_back(None);
}

#[test]
fn each_comes_back_with_parity() {
    each_comes_back(ParityShare::new(50));
}

fn each_comes_back(parity: Option<ParityShare>) {
    let history = history(parity);
    let mut rng = Rng::with_seed(2);
    let mut cases = 0;
    for kind in ObjectKind::ALL {
        let of_kind: Vec<_> = history.gone.keys().filter(|n| n.kind == kind).copied().collect();
        // Many records, and parity, say much the same.
        let most = if parity.is_some() { 3 } else { 6 };
        for name in rng.choose_multiple(of_kind, most) {
            history.one_case(&BTreeSet::from([name]), &format!("{name} is back"));
            cases += 1;
        }
    }
    assert!(cases >= 15, "{cases}");
}

#[test]
fn some_and_all_come_back_at_once() {
    let history = history(None);
    let mut rng = Rng::with_seed(3);
    history.one_case(&history.gone.keys().copied().collect(), "all are back");
    for round in 0..6 {
        let back = history.gone.keys().copied().filter(|_| rng.bool()).collect();
        history.one_case(&back, &format!("round {round}, {} are back", BTreeSet::len(&back)));
    }
}

/// The config never changes, so there is no older one; but there may be one of another repository.
#[test]
fn a_config_of_another_repository() {
    for parity in [None, ParityShare::new(50)] {
        let mut rng = Rng::with_seed(4);
        let store = new_store_with(parity);
        let mut kept = Kept::default();
        kept.add(&open(&store), &some_tree(&mut rng, 3));
        let whole = copy(&store);
        let other = new_store_with(parity);
        for name in [ObjectName::CONFIG, ObjectName::CONFIG.parity()] {
            if let Ok(bytes) = other.get(&name) {
                store.replace(&name, &bytes).unwrap();
            }
        }
        let opened = Repository::open(store.clone(), &password(), &OpenOptions::default());
        assert!(opened.is_err());
        let before = objects(&store);
        let _ = repair_objects(&store, &RepairObjectsOptions::default(), &Quiet::default());
        assert!(objects(&store) == before, "nobody knows which one is right");
        for (name, _) in whole.list(ObjectKind::Config).unwrap() {
            store.replace(&name, &whole.get(&name).unwrap()).unwrap();
            if let Ok(bytes) = whole.get(&name.parity()) {
                store.replace(&name.parity(), &bytes).unwrap();
            }
        }
        kept.verify(&store, "put back from a copy");
    }
}

/// It takes nothing more than the old password, as docs/threat-model.md says.
#[test]
fn a_password_that_was_changed_opens_what_comes_back() {
    let history = history(None);
    let slots = history.gone.keys().filter(|name| name.kind == ObjectKind::Key);
    let opened = slots.filter(|slot| history.opens_with_once(slot)).count();
    assert_eq!(opened, 1);
    let store: Store = store_of(&history.objects);
    let repo: Result<Arc<Repository>, _> =
        Repository::open(store, &once(), &OpenOptions::default());
    assert!(matches!(repo, Err(Error::WrongPassword(..))), "{:?}", repo.err());
}
