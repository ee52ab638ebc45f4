//! Check: finds every damage, names the files, and is not misled by others who are at work.

#[path = "prune/world.rs"]
#[allow(dead_code, reason = "each test binary uses a part")]
mod world;

use std::collections::HashSet;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};

use fastrand::Rng;
use tresor_engine::crypto::KdfCost;
use tresor_engine::format::{IndexData, ObjectKind, ObjectName, PackEntry, Time};
use tresor_engine::index::read_object;
use tresor_engine::maintenance::{
    CheckOptions, CheckProblem, CheckReport, RepairIndexOptions, Subset, check, repair_index,
};
use tresor_engine::monitor::{Monitor, Quiet};
use tresor_engine::repo::{InitOptions, Repository};
use tresor_engine::store::{LocalStore, Store, StoreError, StoreErrorKind};
use tresor_testkit::{Call, HookedStore, Item, attributes};

use world::*;

const ALL: CheckOptions = CheckOptions { read_data: true, subset: None, since: None };
const QUICK: CheckOptions = CheckOptions { read_data: false, subset: None, since: None };

fn look(repo: &Arc<Repository>, options: &CheckOptions) -> CheckReport {
    check(repo, options, &Quiet::default()).unwrap()
}

/// Two snapshots: `/f0`, `/f1`, `/sub/empty`; then the same and `/sub/new`, with `/f1` changed.
fn two_snapshots() -> (Store, Kept) {
    let mut rng = Rng::with_seed(1);
    let store = new_store();
    let repo = open(&store);
    let mut kept = Kept::default();
    let mut tree = some_tree(&mut rng, 2);
    kept.add(&repo, &tree);
    let file = |rng: &mut Rng| Item::file(tresor_testkit::random_bytes(rng, 150_000));
    *tree.entries_mut().get_mut(&b"f1"[..]).unwrap() = file(&mut rng);
    let sub = tree.entries_mut().get_mut(&b"sub"[..]).unwrap();
    sub.entries_mut().insert(b"new".to_vec(), file(&mut rng));
    kept.add(&repo, &tree);
    (store, kept)
}

/// Files and streams of these snapshots that can't be read: their content, their directory or
/// the way there is lost.
fn unreadable(repo: &Repository, kept: &Kept) -> Vec<String> {
    let mut lost = Vec::new();
    for (snapshot, _) in &kept.0 {
        for path in ["/f0", "/f1", "/sub/empty", "/sub/new"] {
            let names: Vec<&[u8]> = path.split('/').skip(1).map(str::as_bytes).collect();
            let node = tresor_engine::tree::resolve(repo, &snapshot.data.tree, &names);
            let read = node.and_then(|node| match node {
                Some(node) => {
                    tresor_engine::restorer::read_file(repo, &node, &mut Vec::new()).map(drop)
                }
                None => Ok(()),
            });
            if read.is_err() {
                lost.push(format!("{}:{path}", snapshot.id.short()));
            }
        }
        for path in ["/sub", "/sub/empty"] {
            let names: Vec<&[u8]> = path.split('/').skip(1).map(str::as_bytes).collect();
            let node = tresor_engine::tree::resolve(repo, &snapshot.data.tree, &names);
            if node.and_then(|node| attributes(repo, &node.unwrap())).is_err() {
                lost.push(format!("{}:{path} (stream {LONG})", snapshot.id.short()));
            }
        }
    }
    lost
}

/// Whether exactly the files that can't be read are named, or directories above them.
#[track_caller]
fn names_what_is_lost(store: &Store, kept: &Kept, report: &CheckReport) {
    let lost = unreadable(&open(store), kept);
    let named: Vec<_> = report.problems.iter().flat_map(|p| &p.files).collect();
    let above = |name: &str, file: &str| {
        let dir = name.strip_suffix('/').unwrap_or(name);
        file == name || file.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
    };
    for file in &lost {
        assert!(named.iter().any(|n| above(n, file)), "{file} in {:#?}", report.problems);
    }
    for name in named {
        assert!(lost.iter().any(|f| above(name, f)), "{name}, lost: {lost:?}");
    }
}

fn replace(store: &Store, name: &ObjectName, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = store.get(name).unwrap();
    store.delete(name).unwrap();
    change(&mut bytes);
    store.put(name, &bytes).unwrap();
}

fn about<'a>(report: &'a CheckReport, object: &str) -> &'a CheckProblem {
    let found: Vec<_> = report.problems.iter().filter(|p| p.object == object).collect();
    assert_eq!(found.len(), 1, "{:#?}", report.problems);
    found[0]
}

#[test]
fn nothing_wrong() {
    let (store, _) = two_snapshots();
    let repo = open(&store);
    for options in [QUICK, ALL, CheckOptions { subset: Some(Subset::Percent(30.0)), ..QUICK }] {
        let report = look(&repo, &options);
        assert!(report.problems.is_empty(), "{:#?}", report.problems);
        assert_eq!((report.snapshots, report.unused_packs), (2, 0));
        assert_eq!(report.packs as usize, names(&store, ObjectKind::Pack).len());
        assert!(report.blobs > 5);
        let bytes: u64 = store.list(ObjectKind::Pack).unwrap().iter().map(|p| p.1).sum();
        match options.subset {
            None if options.read_data => assert_eq!(report.bytes_read, bytes),
            None => assert_eq!(report.bytes_read, 0),
            Some(_) => assert!(report.bytes_read > 0 && report.bytes_read < bytes),
        }
    }
}

#[test]
fn missing_and_truncated_packs() {
    let (base, kept) = two_snapshots();
    for (name, size) in base.list(ObjectKind::Pack).unwrap() {
        for len in [None, Some(0), Some(size - 1), Some(size + 1)] {
            let store = copy(&base);
            let before = open(&store);
            match len {
                None => store.delete(&name).unwrap(),
                Some(len) => replace(&store, &name, |bytes| bytes.resize(len as usize, 0)),
            }
            // Also for those who had it open before.
            for repo in [open(&store), before] {
                for options in [QUICK, ALL] {
                    let report = look(&repo, &options);
                    assert_eq!(report.problems.len(), 1, "{:#?}", report.problems);
                    let problem = about(&report, &name.path());
                    let message =
                        len.map_or("missing".to_owned(), |l| format!("is {l} bytes long"));
                    assert!(problem.message.contains(&message), "{problem:?}");
                    names_what_is_lost(&store, &kept, &report);
                }
            }
        }
    }
}

#[test]
fn a_flipped_byte_anywhere_in_a_pack() {
    let (base, kept) = two_snapshots();
    let mut rng = Rng::with_seed(1);
    for (name, size) in base.list(ObjectKind::Pack).unwrap() {
        let inside = [0, 20, 40, 200, size as usize - 1, size as usize - 30];
        let random: Vec<_> = (0..6).map(|_| rng.usize(..size as usize)).collect();
        for at in inside.into_iter().chain(random) {
            let store = copy(&base);
            let before = open(&store);
            replace(&store, &name, |bytes| bytes[at] ^= 1 << rng.u8(..8));
            for repo in [open(&store), before] {
                let report = look(&repo, &ALL);
                let problem = about(&report, &name.path());
                assert!(problem.message.contains("not what its name says"), "{problem:?}");
                names_what_is_lost(&store, &kept, &report);
            }
        }
    }
}

#[test]
fn missing_and_flipped_index_objects() {
    let (base, kept) = two_snapshots();
    let mut rng = Rng::with_seed(2);
    for (name, size) in base.list(ObjectKind::Index).unwrap() {
        for at in
            [None, Some(0), Some(9), Some(size as usize - 1), Some(rng.usize(..size as usize))]
        {
            let store = copy(&base);
            let before = open(&store);
            match at {
                None => store.delete(&name).unwrap(),
                Some(at) => replace(&store, &name, |bytes| bytes[at] ^= 4),
            }
            for repo in [open(&store), before] {
                let report = look(&repo, &QUICK);
                if at.is_some() {
                    about(&report, &name.path());
                }
                let problem = about(&report, "index");
                assert!(problem.message.starts_with("no index object says where"), "{problem:?}");
                assert_eq!(report.problems.len(), 1 + usize::from(at.is_some()));
                names_what_is_lost(&store, &kept, &report);
            }
        }
    }
}

#[test]
fn a_flipped_snapshot_or_key_slot() {
    let (base, _) = two_snapshots();
    for kind in [ObjectKind::Snapshot, ObjectKind::Key] {
        for (name, size) in base.list(kind).unwrap() {
            for at in [0, size as usize / 2, size as usize - 1] {
                let store = copy(&base);
                // One that has read it before, one that hasn't.
                let (knowing, other) = (open(&store), open(&store));
                knowing.snapshots().unwrap();
                replace(&store, &name, |bytes| bytes[at] ^= 1);
                for repo in [knowing, other] {
                    let report = look(&repo, &QUICK);
                    assert_eq!(report.problems.len(), 1);
                    about(&report, &name.path());
                }
            }
        }
    }
}

/// A process that has seen it damaged looks again.
#[test]
fn a_damaged_snapshot_that_is_put_back() {
    let (store, kept) = two_snapshots();
    let repo = open(&store);
    let name = ObjectName::new(ObjectKind::Snapshot, kept.0[0].0.id);
    let bytes = store.get(&name).unwrap();
    replace(&store, &name, |bytes| bytes[50] ^= 1);
    for _ in 0..2 {
        let (good, damaged) = repo.snapshots_and_damaged().unwrap();
        assert_eq!((good.len(), damaged[0].0), (1, name.id));
    }
    replace(&store, &name, |b| *b = bytes);
    let (good, damaged) = repo.snapshots_and_damaged().unwrap();
    assert_eq!((good.len(), damaged), (2, Vec::new()));
}

/// A blob that lies in another pack as well isn't lost.
#[test]
fn a_second_copy_is_good_enough() {
    let (store, kept) = two_snapshots();
    let elsewhere = copy(&new_copy_without_data(&store));
    try_backup(&open(&elsewhere), &kept.0[1].1, None).unwrap();
    for (name, bytes) in objects(&elsewhere) {
        if matches!(name.kind, ObjectKind::Pack | ObjectKind::Index) {
            store.put(&name, &bytes).unwrap();
        }
    }
    let name = store
        .list(ObjectKind::Pack)
        .unwrap()
        .into_iter()
        .map(|(name, _)| name)
        .find(|name| elsewhere.size(name).is_ok())
        .unwrap();
    store.delete(&name).unwrap();
    let report = look(&open(&store), &ALL);
    let problem = about(&report, &name.path());
    assert!(report.problems.len() == 1 && problem.files.is_empty(), "{:#?}", report.problems);
}

fn new_copy_without_data(store: &Store) -> Store {
    let mut objects = objects(store);
    objects.retain(|name, _| matches!(name.kind, ObjectKind::Config | ObjectKind::Key));
    store_of(&objects)
}

/// A marked pack may be gone, but not if a snapshot needs it.
#[test]
fn a_marked_pack_that_is_gone() {
    let (store, mut kept) = two_snapshots();
    let repo = open(&store);
    let index = names(&store, ObjectKind::Index);
    for id in &index {
        let mut data = read_object(&store, repo.keys(), id).unwrap();
        data.packs.iter_mut().for_each(|p| p.marked = Some(Time::new(1000, 0)));
        put_index(&repo, &IndexData { replaces: vec![*id], ..data });
    }
    assert!(look(&open(&store), &ALL).problems.is_empty());
    for id in names(&store, ObjectKind::Pack) {
        let store = copy(&store);
        let name = ObjectName::new(ObjectKind::Pack, id);
        store.delete(&name).unwrap();
        let report = look(&open(&store), &ALL);
        let problem = about(&report, &name.path());
        assert!(problem.message.contains("missing") && !problem.files.is_empty());
        names_what_is_lost(&store, &kept, &report);
    }
    // Without a snapshot it is none.
    kept.forget(&repo, 1);
    kept.forget(&repo, 0);
    for (name, _) in store.list(ObjectKind::Pack).unwrap() {
        store.delete(&name).unwrap();
    }
    assert!(look(&open(&store), &ALL).problems.is_empty());
}

type Lie = (&'static str, fn(&mut PackEntry));

/// What an index object may say of a pack that isn't so.
const LIES: [Lie; 5] = [
    ("two blobs have changed places", |pack| {
        let segments = pack.segments.iter_mut();
        let segment = segments.max_by_key(|s| s.blob_count()).unwrap();
        let (first, second) = segment.blobs[..72].split_at_mut(36);
        first.swap_with_slice(second);
    }),
    ("the salt is another", |pack| pack.salt[0] ^= 1),
    ("a blob is there that isn't", |pack| {
        // In front: what is behind it seems to begin later than it does.
        let len = pack.segments[0].blobs[32..36].to_vec();
        let blob = [&[7; 32][..], &len].concat();
        pack.segments[0].blobs.splice(..0, blob);
    }),
    ("the last blob is missing", |pack| {
        let segments = pack.segments.iter_mut();
        let segment = segments.max_by_key(|s| s.blob_count()).unwrap();
        segment.blobs.truncate(segment.blobs.len() - 36);
    }),
    ("a segment is as long as another one", |pack| {
        pack.segments[0].sealed_len -= 1;
    }),
];

/// The index says of a pack what isn't so, instead of what is so or beside it.
#[test]
fn an_index_that_lies() {
    let (store, kept) = two_snapshots();
    let id = *names(&store, ObjectKind::Index).iter().next().unwrap();
    for ((what, lie), beside) in LIES.into_iter().flat_map(|lie| [(lie, false), (lie, true)]) {
        let store = copy(&store);
        let repo = open(&store);
        let mut data = read_object(&store, repo.keys(), &id).unwrap();
        let most = |pack: &PackEntry| pack.segments.iter().map(|s| s.blob_count()).max();
        let pack = data.packs.iter_mut().max_by_key(|p| most(p)).unwrap();
        let name = ObjectName::new(ObjectKind::Pack, pack.id);
        lie(pack);
        let false_one = IndexData { packs: vec![pack.clone()], replaces: Vec::new() };
        let instead = IndexData { replaces: vec![id], ..data };
        put_index(&repo, if beside { &false_one } else { &instead });

        let report = look(&open(&store), &ALL);
        let problem = about(&report, &name.path());
        assert!(problem.message.contains("the index is wrong about it"), "{what}: {problem:?}");
        let unreadable = unreadable(&open(&store), &kept);
        assert_eq!(unreadable.is_empty(), beside, "{what}: what is right must be found");
        names_what_is_lost(&store, &kept, &report);

        let options = RepairIndexOptions { read_all: true, dry_run: false };
        repair_index(&open(&store), &options, &Quiet::default()).unwrap();
        let report = look(&open(&store), &ALL);
        assert!(report.problems.is_empty(), "{what}, beside {beside}: {:#?}", report.problems);
        kept.verify(&store, what);
    }
}

fn calls_of_a_check(store: &Store, options: &CheckOptions) -> usize {
    let mut calls = None;
    let repo = open_over(&copy(store), |store| {
        let (store, counter) = hooked(store, usize::MAX, |_| Ok(()));
        calls = Some(counter);
        store
    });
    look(&repo, options);
    calls.unwrap().load(SeqCst)
}

/// Others finish backups, forget and prune before any call of a check.
#[test]
fn others_at_work_are_no_damage() {
    let (base, _) = two_snapshots();
    // What a prune is to delete is marked.
    let mut rng = Rng::with_seed(5);
    let gone = try_backup(&open(&base), &some_tree(&mut rng, 4), None).unwrap();
    open(&base).forget(&[gone.id]).unwrap();
    prune_at(&open(&base), &gentle(), -3 * DAY).unwrap();
    let tree = some_tree(&mut rng, 4);
    for options in [QUICK, ALL] {
        let total = calls_of_a_check(&base, &options);
        for n in 0..total {
            for work in 0..3 {
                let store = copy(&base);
                let (other, tree) = (open(&store), tree.clone());
                let repo = open_over(&store, |inner| {
                    at_call(inner, n, move || match work {
                        0 => drop(try_backup(&other, &tree, None).unwrap()),
                        1 => assert!(prune_at(&other, &gentle(), 0).is_ok()),
                        _ => {
                            let oldest = other.snapshots().unwrap()[0].id;
                            other.forget(&[oldest]).unwrap();
                            assert!(prune_at(&other, &all(), 0).is_ok());
                        }
                    })
                });
                let report = look(&repo, &options);
                assert!(
                    report.problems.is_empty(),
                    "call {n} of {total}, {work}: {:#?}",
                    report.problems
                );
            }
        }
    }
}

/// A store that can't be reached is no damage either.
#[test]
fn a_broken_connection_is_an_error() {
    let (base, _) = two_snapshots();
    for options in [QUICK, ALL] {
        let total = calls_of_a_check(&base, &options);
        for n in 0..total {
            let repo = open_over(&base, |s| hooked(s, n, |_| Err(HookedStore::broken())).0);
            // Key slots that can't be read are described, and pages may be known.
            if let Ok(report) = check(&repo, &options, &Quiet::default()) {
                let other = |p: &&CheckProblem| !p.object.starts_with("keys/");
                assert_eq!(report.problems.iter().find(other).map(|p| &p.object), None);
            }
        }
    }
}

#[test]
fn a_bad_sector_under_a_pack_is_a_problem_of_that_pack() {
    let (store, kept) = two_snapshots();
    let bad = store.list(ObjectKind::Pack).unwrap()[0].0;
    let repo = open_over(&store, |store| {
        hooked(store, 0, move |call| match call {
            Call::Get(name) | Call::GetRange(name, ..) if *name == bad => {
                let kind = StoreErrorKind::Unreadable;
                Err(StoreError::new(kind, "read", name.path(), "Input/output error"))
            }
            _ => Ok(()),
        })
        .0
    });
    let report = look(&repo, &ALL);
    let problem = about(&report, &bad.path());
    assert!(problem.message.contains("Input/output error") && !problem.files.is_empty());
    assert_eq!(report.problems.len(), 1);
    assert!(!kept.0.is_empty());
}

#[test]
fn check_can_be_stopped() {
    let (store, _) = two_snapshots();
    let monitor = Quiet::default();
    monitor.progress().stop.store(true, SeqCst);
    assert!(check(&open(&store), &ALL, &monitor).is_err());
}

/// Only what came since is read and walked, whatever time a file claims to be of; what is
/// missing is noticed all the same.
#[test]
fn only_what_came_since() {
    let dir = tempfile::tempdir().unwrap();
    let store: Store = Arc::new(LocalStore::new(dir.path().join("repo")));
    let cost = KdfCost { memory: 8 * 1024, passes: 1, lanes: 1 };
    let options =
        InitOptions { label: "test".into(), cost, parity: None, chunks: Default::default() };
    Repository::init(&store, &tresor_testkit::password(), &options).unwrap();
    let mut rng = Rng::with_seed(1);
    let mut kept = Kept::default();
    let rot = |name: &ObjectName| {
        let path = dir.path().join("repo").join(name.path());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[60] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    let there = |kind| names(&store, kind);
    kept.add(&open(&store), &some_tree(&mut rng, 3));
    let old_packs: Vec<_> = there(ObjectKind::Pack).into_iter().collect();
    let old = ObjectName::new(ObjectKind::Pack, old_packs[0]);
    rot(&old);
    let pause = || std::thread::sleep(std::time::Duration::from_millis(50));
    pause();
    let since = store.clock();
    assert!(since.is_some());
    pause();
    let since = CheckOptions { since, ..QUICK };
    let all_since = CheckOptions { read_data: true, ..since };
    assert_eq!(look(&open(&store), &all_since).bytes_read, 0);
    kept.add(&open(&store), &some_tree(&mut rng, 3));
    let new_bytes: u64 = store
        .list(ObjectKind::Pack)
        .unwrap()
        .into_iter()
        .filter(|(name, _)| !old_packs.contains(&name.id))
        .map(|(_, size)| size)
        .sum();

    let report = look(&open(&store), &all_since);
    assert!(report.problems.is_empty(), "{:#?}", report.problems);
    assert_eq!((report.snapshots, report.older_snapshots), (1, 1));
    assert_eq!(
        (report.bytes_read, report.packs as usize),
        (new_bytes, there(ObjectKind::Pack).len())
    );
    assert_eq!(look(&open(&store), &since).bytes_read, 0);
    // Of a subset's packs only the new ones, and each in one of the parts.
    let part = |part| CheckOptions { subset: Some(Subset::Part { part, of: 2 }), ..since };
    let parts: u64 = [1, 2].map(|n| look(&open(&store), &part(n)).bytes_read).iter().sum();
    assert_eq!(parts, new_bytes);
    let half = CheckOptions { subset: Some(Subset::Percent(50.0)), ..since };
    assert!((1..new_bytes).contains(&look(&open(&store), &half).bytes_read));
    // A copy that claims to be old has come now.
    let path = dir.path().join("repo").join(old.path());
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let report = look(&open(&store), &since);
    assert!(about(&report, &old.path()).message.contains("missing"), "whatever its age");
    std::fs::write(&path, bytes).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    about(&look(&open(&store), &all_since), &old.path());
    // What is new is looked at: packs, index objects, snapshots.
    for kind in [ObjectKind::Pack, ObjectKind::Index, ObjectKind::Snapshot] {
        let id = there(kind).into_iter().find(|id| match kind {
            ObjectKind::Pack => !old_packs.contains(id),
            ObjectKind::Snapshot => *id == kept.0[1].0.id,
            _ => true,
        });
        let name = ObjectName::new(kind, id.unwrap());
        let repo = open(&store);
        rot(&name);
        about(&look(&repo, &all_since), &name.path());
        rot(&name);
    }
}

/// A store that knows no times: everything counts as new.
#[test]
fn who_does_not_know_since_when_reads_all() {
    let (store, _) = two_snapshots();
    let since = Some(Time::new(i64::MAX, 0));
    let report = look(&open(&store), &CheckOptions { since, ..ALL });
    let bytes: u64 = store.list(ObjectKind::Pack).unwrap().iter().map(|p| p.1).sum();
    assert_eq!((report.bytes_read, report.snapshots, report.older_snapshots), (bytes, 2, 0));
}

/// A share of the packs is read whole: no more and no fewer, each run others, and damage in them
/// is found.
#[test]
fn a_share_of_the_packs_is_read() {
    let (store, mut rng) = (new_store(), Rng::with_seed(13));
    let repo = open(&store);
    for _ in 0..50 {
        let file = Item::file(tresor_testkit::random_bytes(&mut rng, 3_000));
        try_backup(&repo, &Item::dir().with("f", file), None).unwrap();
    }
    let packs = names(&store, ObjectKind::Pack);
    assert_eq!(packs.len(), 100);
    // A byte of a chunk.
    let (pack, entry) = chunks(&store)[0];
    let damaged = ObjectName::new(ObjectKind::Pack, pack);
    let mut bytes = store.get(&damaged).unwrap();
    bytes[entry.offset as usize] ^= 1;
    store.replace(&damaged, &bytes).unwrap();

    let read: Arc<Mutex<HashSet<_>>> = Arc::default();
    let seen = read.clone();
    let repo = open_over(&store, |store| {
        hooked(store, 0, move |call| {
            if let Call::Get(name) = call
                && name.kind == ObjectKind::Pack
            {
                seen.lock().unwrap().insert(name.id);
            }
            Ok(())
        })
        .0
    });
    let options = CheckOptions { subset: Some(Subset::Percent(5.0)), ..QUICK };
    let mut reached = HashSet::new();
    for round in 0..2_000 {
        let report = look(&repo, &options);
        let read = std::mem::take(&mut *read.lock().unwrap());
        assert_eq!(read.len(), 5, "round {round}");
        let found = report.problems.iter().any(|p| p.object == damaged.path());
        assert_eq!(found, read.contains(&damaged.id), "round {round}");
        reached.extend(read);
        if reached == packs {
            return;
        }
    }
    panic!("of {} packs only {} were ever read", packs.len(), reached.len());
}
