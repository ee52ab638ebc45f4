//! Every kind of object, damaged in every way, met by every operation: never wrong
//! bytes, never a panic, the damage is named, and what isn't touched is still there.

#[path = "prune/world.rs"]
#[allow(dead_code, reason = "each test binary uses a part")]
mod world;

use std::collections::BTreeSet;
use std::sync::Arc;

use fastrand::Rng;
use tresor_engine::crypto::KdfCost;
use tresor_engine::format::{ObjectId, ObjectKind, ObjectName, ParityShare, display_name};
use tresor_engine::maintenance::{
    CheckOptions, Loss, RepairIndexOptions, RepairObjectsOptions, RepairSnapshotsOptions, check,
    repair_index, repair_objects, repair_snapshots, scrub,
};
use tresor_engine::monitor::Quiet;
use tresor_engine::repo::{OpenOptions, Repository, Snapshot};
use tresor_engine::restorer::{read_attribute, read_file};
use tresor_engine::store::Store;
use tresor_engine::tree::resolve;
use tresor_testkit::{Body, Damage, Item, is_named, password, random_bytes};

use world::*;

fn base(parity: Option<ParityShare>) -> (Store, Kept) {
    let mut rng = Rng::with_seed(11);
    let store = new_store_with(parity);
    let repo = open(&store);
    let cost = KdfCost { memory: 8 * 1024, passes: 1, lanes: 1 };
    repo.add_key(&password(), "another", cost).unwrap();
    let mut kept = Kept::default();
    // Their lists of chunks have pages of their own.
    let long = Item::file(random_bytes(&mut rng, 450_000));
    let long = long.with_attribute(LONG, random_bytes(&mut rng, 450_000));
    let mut tree = some_tree(&mut rng, 4).with("long", long);
    for _ in 0..2 {
        let snapshot = kept.add(&repo, &tree);
        tree = change(&mut rng, &tree);
        // One more of the same, that is forgotten: two records.
        let twin = repo.save_snapshot(&snapshot.data).unwrap();
        repo.forget(&[twin]).unwrap();
    }
    (store, kept)
}

fn try_open(store: &Store) -> Option<Arc<Repository>> {
    Repository::open(store.clone(), &password(), &OpenOptions::default()).ok()
}

fn files(item: &Item, path: &[u8], out: &mut Vec<(Vec<u8>, Vec<u8>)>) {
    for (name, item) in item.entries() {
        let path = [path, b"/", name].concat();
        match &item.body {
            Body::Dir(_) => files(item, &path, out),
            Body::File(bytes, _) => out.push((path, bytes.to_vec())),
            Body::Other => {}
        }
    }
}

/// Entries with a long stream, and that.
fn streams(item: &Item, path: &[u8], out: &mut Vec<(Vec<u8>, Vec<u8>)>) {
    for (name, item) in item.entries() {
        let path = [path, b"/", name].concat();
        if let Some(stream) = item.node.xattr(LONG.as_bytes()) {
            out.push((path.clone(), stream.to_vec()));
        }
        if let Body::Dir(_) = item.body {
            streams(item, &path, out);
        }
    }
}

/// How a stream is called in messages.
fn stream_of(path: &[u8]) -> String {
    format!("{} (stream {LONG})", display_name(path))
}

fn is_stream(file: &str) -> bool {
    file.ends_with(')')
}

/// Reads every file and stream; returns those that can't be. None may have other bytes or be
/// gone without an error.
#[track_caller]
fn unreadable(repo: &Repository, snapshot: &Snapshot, tree: &Item, what: &str) -> BTreeSet<String> {
    let mut all = Vec::new();
    files(tree, b"", &mut all);
    let mut lost = BTreeSet::new();
    for (path, bytes) in all {
        let names: Vec<_> = path.split(|b| *b == b'/').skip(1).collect();
        let mut out = Vec::new();
        let read = resolve(repo, &snapshot.data.tree, &names).and_then(|node| {
            read_file(repo, &node.expect("an entry is gone without an error"), &mut out)
        });
        match read {
            Ok(_) => assert!(out == bytes, "{what}: {path:?} has other bytes"),
            Err(_) => drop(lost.insert(format!("{}:{}", snapshot.id.short(), display_name(&path)))),
        }
    }
    let mut all = Vec::new();
    streams(tree, b"", &mut all);
    for (path, bytes) in all {
        let names: Vec<_> = path.split(|b| *b == b'/').skip(1).collect();
        let mut out = Vec::new();
        let read = resolve(repo, &snapshot.data.tree, &names).and_then(|node| {
            let node = node.expect("an entry is gone without an error");
            let value = node.attribute(LONG.as_bytes()).expect("a stream is gone");
            read_attribute(repo, value, &mut out)
        });
        match read {
            Ok(()) => assert!(out == bytes, "{what}: the stream of {path:?} has other bytes"),
            Err(_) => drop(lost.insert(format!("{}:{}", snapshot.id.short(), stream_of(&path)))),
        }
    }
    lost
}

#[track_caller]
fn all_unreadable(store: &Store, kept: &Kept, what: &str) -> BTreeSet<String> {
    let repo = open(store);
    kept.0.iter().flat_map(|(snapshot, tree)| unreadable(&repo, snapshot, tree, what)).collect()
}

#[test]
fn every_object_every_damage_every_operation() {
    every_case(None);
}

#[test]
fn the_same_with_parity() {
    every_case(ParityShare::new(50));
}

fn every_case(parity: Option<ParityShare>) {
    let (base, kept) = base(parity);
    let mut rng = Rng::with_seed(3);
    let mut cases = 0;
    for kind in ObjectKind::ALL {
        let mut victims: Vec<_> = base.list(kind).unwrap().into_iter().map(|o| o.0).collect();
        victims.sort();
        for victim in victims {
            for how in Damage::ALL {
                // That takes its time, and much of it is the same.
                if parity.is_some() && rng.u8(..3) > 0 {
                    continue;
                }
                let store = copy(&base);
                let Some(wrong) = how.inflict(&store, victim, &mut rng) else { continue };
                one_case(&store, &kept, wrong, how);
                cases += 1;
            }
        }
    }
    eprintln!("{cases} cases of objects and kinds of damage, each met by six operations");
    assert!(cases > 40, "{cases}");
}

fn one_case(store: &Store, kept: &Kept, wrong: ObjectName, how: Damage) {
    let what = format!("{how:?} {wrong}");
    let quiet = Quiet::default();
    // Without a key: what lies there and isn't what its name says. A config has no hash
    // in its name, and what is gone is missed by nobody.
    let scrubbed = scrub(store, &quiet).unwrap();
    if wrong.kind != ObjectKind::Config && how != Damage::Delete {
        // Of a config and a parity that has too little of it, it can't tell which one is wrong.
        let of_config = wrong == ObjectName::CONFIG.parity();
        let is_named = |object: &str| object == wrong.path() || of_config && object == "config";
        assert!(scrubbed.problems.iter().any(|p| is_named(&p.object)), "{what}: scrub");
    }
    let Some(repo) = try_open(store) else {
        // Swapped, both of the two key slots are damaged.
        let no_key = wrong.kind == ObjectKind::Key && how == Damage::Swap;
        assert!(no_key || wrong.kind == ObjectKind::Config, "{what}: can't be opened");
        return;
    };
    let everything = CheckOptions { read_data: true, ..CheckOptions::default() };
    let report = check(&repo, &everything, &quiet).unwrap();
    // Parity that is gone is missing to its object.
    let is_it = |object: &str| {
        let of = ObjectKind::ALL.into_iter().map(|kind| ObjectName::new(kind, wrong.id));
        let is_gone = how == Damage::Delete && wrong.kind == ObjectKind::Parity;
        object == wrong.path() || is_gone && of.into_iter().any(|of| of.path() == object)
    };
    let named = report.problems.iter().any(|p| is_it(&p.object) || p.object == "index");
    // Who hasn't seen it can't tell that a snapshot, a record or a key slot was deleted, nor that there are two
    // of the same pack: the index names one.
    let unseen = match wrong.kind {
        ObjectKind::Snapshot | ObjectKind::Forgotten | ObjectKind::Key => how == Damage::Delete,
        ObjectKind::Pack => how == Damage::Duplicate && report.unused_packs == 1,
        ObjectKind::Config => true,
        ObjectKind::Index | ObjectKind::Parity => false,
    };
    assert!(named || unseen, "{what}: check says {:#?}", report.problems);

    let lost = all_unreadable(store, kept, &what);
    let files: BTreeSet<_> = report.problems.iter().flat_map(|p| p.files.clone()).collect();
    let gone = names(store, ObjectKind::Snapshot);
    let there = |file: &&String| gone.iter().any(|id| file.starts_with(&id.short()));
    let readable =
        |id: &ObjectId| !report.problems.iter().any(|p| p.object.contains(&id.to_string()));
    for file in lost.iter().filter(there) {
        let of_readable = gone.iter().any(|id| file.starts_with(&id.short()) && readable(id));
        assert!(!of_readable || is_named(file, &files), "{what}: {file} isn't named: {files:?}");
    }
    if !matches!(wrong.kind, ObjectKind::Pack | ObjectKind::Index) || how == Damage::Duplicate {
        assert!(lost.is_empty(), "{what}: {lost:?}");
    }
    then_backup(&copy(store), kept, &lost, (wrong, how), &what);
    then_heal(store, kept, wrong, &what);
    then_prune(&copy(store), kept, &lost, &what);
    then_repair_index(&copy(store), kept, &lost, wrong, &what);
    then_repair_snapshots(&copy(store), kept, &lost, wrong, &what);
}

/// A backup may fail, or rely on bytes of a pack of the right length, which it can't know to
/// be damaged. Otherwise, if it says that it saved a snapshot, it has. It never makes anything
/// worse.
fn then_backup(
    store: &Store,
    kept: &Kept,
    lost: &BTreeSet<String>,
    (wrong, how): (ObjectName, Damage),
    what: &str,
) {
    let (parent, tree) = kept.0.last().unwrap();
    if let Ok(snapshot) = try_backup(&open(store), tree, Some(parent.clone())) {
        let left = unreadable(&open(store), &snapshot, tree, what);
        let may_be_unseen = wrong.kind == ObjectKind::Pack
            && matches!(how, Damage::Flip | Damage::Swap | Damage::Replace);
        assert!(left.is_empty() || may_be_unseen, "{what}: saved without {left:?}");
    }
    assert!(all_unreadable(store, kept, what).is_subset(lost), "{what}: after a backup");
}

/// Once the index is right, the next backup of the same data makes all of it readable again,
/// with and without a parent, and also in the snapshot that was damaged.
fn then_heal(store: &Store, kept: &Kept, wrong: ObjectName, what: &str) {
    if !matches!(wrong.kind, ObjectKind::Pack | ObjectKind::Index) {
        return;
    }
    let (last, tree) = kept.0.last().unwrap();
    for parent in [Some(last.clone()), None] {
        let store = copy(store);
        let options = RepairIndexOptions { read_all: true, dry_run: false };
        repair_index(&open(&store), &options, &Quiet::default()).unwrap();
        let snapshot = try_backup(&open(&store), tree, parent).unwrap();
        for snapshot in [&snapshot, last] {
            let lost = unreadable(&open(&store), snapshot, tree, what);
            assert!(lost.is_empty(), "{what}: not healed: {lost:?}");
        }
        // Nor does a prune, which looks at what was doomed, make any of it worse. It refuses
        // if an older snapshot has lost something.
        let _ = prune_at(&open(&store), &all(), 0);
        let again = try_backup(&open(&store), tree, Some(snapshot)).unwrap();
        let lost = unreadable(&open(&store), &again, tree, what);
        assert!(lost.is_empty(), "{what}: not healed after a prune: {lost:?}");
    }
}

/// A prune refuses, or leaves all that could be read.
fn then_prune(store: &Store, kept: &Kept, lost: &BTreeSet<String>, what: &str) {
    let there = names(store, ObjectKind::Snapshot);
    let mut kept = kept.clone();
    kept.0.retain(|(snapshot, _)| there.contains(&snapshot.id));
    let _ = prune_at(&open(store), &all(), 0);
    assert!(all_unreadable(store, &kept, what).is_subset(lost), "{what}: after a prune");
}

/// Whatever is wrong with the index is mended, and nothing is worse.
fn then_repair_index(
    store: &Store,
    kept: &Kept,
    lost: &BTreeSet<String>,
    wrong: ObjectName,
    what: &str,
) {
    let options = RepairIndexOptions { read_all: true, dry_run: true };
    let before = objects(store);
    repair_index(&open(store), &options, &Quiet::default()).unwrap();
    assert!(objects(store) == before, "{what}: a dry run changes something");
    let options = RepairIndexOptions { dry_run: false, ..options };
    repair_index(&open(store), &options, &Quiet::default()).unwrap();
    let left = all_unreadable(store, kept, what);
    assert!(left.is_subset(lost), "{what}: after repair index");
    if wrong.kind == ObjectKind::Index {
        assert!(left.is_empty(), "{what}: after repair index: {left:?}");
        // Without parity that is refused, and there is nothing left to mend.
        let _ = repair_objects(store, &RepairObjectsOptions::default(), &Quiet::default());
        kept.verify(store, what);
    }
    // Once is enough.
    let again = repair_index(&open(store), &options, &Quiet::default()).unwrap();
    assert_eq!(
        (again.packs_added, again.packs_corrected, again.removed.len()),
        (0, 0, 0),
        "{what}"
    );
}

/// The repaired snapshots can be read wholly; what keeps its name has the right bytes, and
/// what hasn't was told.
fn then_repair_snapshots(
    store: &Store,
    kept: &Kept,
    lost: &BTreeSet<String>,
    wrong: ObjectName,
    what: &str,
) {
    let options = RepairSnapshotsOptions { read_data: true, ..Default::default() };
    let report = match repair_snapshots(&open(store), &options, &Quiet::default()) {
        Ok(report) => report,
        // It would take for lost what the index doesn't know.
        Err(e) => {
            assert!(
                wrong.kind == ObjectKind::Index && e.to_string().contains("repair index"),
                "{what}: {e}"
            );
            assert!(all_unreadable(store, kept, what).is_subset(lost), "{what}: refused");
            return;
        }
    };
    assert!(all_unreadable(store, kept, what).is_subset(lost), "{what}: originals");
    let repo = open(store);
    for repaired in &report.repaired {
        let id = repaired.original.id;
        let Some(new) = repaired.repaired else { continue };
        let (_, tree) = kept.0.iter().find(|(s, _)| s.id == id).unwrap();
        let new = repo.snapshots().unwrap().into_iter().find(|s| s.id == new).unwrap();
        assert!(new.data.tags.iter().any(|tag| tag == "repaired"));
        let told: BTreeSet<_> = repaired
            .losses
            .iter()
            .map(|l| match &l.stream {
                Some(_) => format!("{}:{}", id.short(), stream_of(&l.path)),
                None => format!("{}:{}", id.short(), display_name(&l.path)),
            })
            .collect();
        for file in lost.iter().filter(|f| f.starts_with(&id.short())) {
            // The stream of what is wholly lost goes with it.
            let entry = file.split(" (stream").next().unwrap();
            let is_told = is_named(file, &told) || is_named(entry, &told);
            assert!(is_told, "{what}: {file} isn't told: {told:?}");
        }
        let mut long = Vec::new();
        streams(tree, b"", &mut long);
        let mut expected = Vec::new();
        files(tree, b"", &mut expected);
        tresor_engine::history::walk(&repo, &new.data.tree, &mut |path, node| {
            let mut out = Vec::new();
            if let Some(value) = node.attribute(LONG.as_bytes()) {
                read_attribute(&repo, value, &mut out).unwrap();
                let kept = repaired.losses.iter().find(|l| l.kept_as.as_deref() == Some(path));
                let original = kept.map_or(path, |loss| &loss.path);
                let (_, bytes) = long.iter().find(|(p, _)| p == original).unwrap();
                assert!(out == *bytes, "{what}: the stream of {path:?} has other bytes");
                out.clear();
            }
            if !node.is_file() {
                return Ok(true);
            }
            read_file(&repo, node, &mut out).unwrap();
            if let Some((_, bytes)) = expected.iter().find(|(p, _)| p == path) {
                assert!(out == *bytes, "{what}: {path:?} has other bytes");
                return Ok(true);
            }
            let is_kept = |l: &&Loss| l.kept_as.as_deref() == Some(path) && l.stream.is_none();
            let loss = repaired.losses.iter().find(is_kept).unwrap();
            let (_, bytes) = expected.iter().find(|(p, _)| *p == loss.path).unwrap();
            let mut right = bytes.clone();
            loss.ranges.iter().for_each(|(a, b)| right[*a as usize..*b as usize].fill(0));
            assert!(out == right, "{what}: {path:?} isn't what is left");
            Ok(true)
        })
        .unwrap();
        let count = |lost: &BTreeSet<String>| {
            let files = lost.iter().filter(|f| f.starts_with(&id.short()) && !is_stream(f));
            files.count()
        };
        let whole = unreadable_names(&repo, &new, &expected);
        assert_eq!(whole, count(lost), "{what}: as many files are gone as could not be read");
    }
    // The second time there is nothing new.
    let before = names(store, ObjectKind::Snapshot);
    repair_snapshots(&open(store), &options, &Quiet::default()).unwrap();
    assert_eq!(names(store, ObjectKind::Snapshot), before, "{what}: repaired again");
    let options = RepairSnapshotsOptions { forget_unreadable: true, ..options };
    let report = repair_snapshots(&open(store), &options, &Quiet::default()).unwrap();
    let originals: Vec<_> = report.repaired.iter().map(|r| r.original.id).collect();
    open(store).forget(&originals).unwrap();
    let left = names(store, ObjectKind::Snapshot);
    assert!(report.forgotten.iter().all(|id| !left.contains(id)));
    let _ = repair_objects(store, &RepairObjectsOptions::default(), &Quiet::default());
    let report = check(&open(store), &CheckOptions::default(), &Quiet::default()).unwrap();
    let snapshots = report.problems.iter().filter(|p| p.object.starts_with("snapshots/"));
    assert_eq!(snapshots.count(), 0, "{what}");
    assert!(report.problems.iter().all(|p| p.files.is_empty()), "{what}: {:#?}", report.problems);
}

/// How many of these files aren't in the snapshot.
fn unreadable_names(repo: &Repository, snapshot: &Snapshot, files: &[(Vec<u8>, Vec<u8>)]) -> usize {
    let is_gone = |path: &[u8]| {
        let names: Vec<_> = path.split(|b| *b == b'/').skip(1).collect();
        resolve(repo, &snapshot.data.tree, &names).unwrap().is_none()
    };
    files.iter().filter(|(path, _)| is_gone(path)).count()
}
