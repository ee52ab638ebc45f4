//! Every kind of object, damaged in every way, and every object that was once removed, put back:
//! what a restore and a drive give is what was backed up or an error, and the same in both.
//! Whatever `check` doesn't name is there, whole.

mod kit;

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tresor_engine::crypto::{KdfCost, Password};
use tresor_engine::format::{ObjectKind, ObjectName, ParityShare};
use tresor_engine::maintenance::{CheckOptions, MaxUnused, PruneOptions, check, plan_prune, prune};
use tresor_engine::monitor::Quiet;
use tresor_engine::repo::{InitOptions, OpenOptions, Repository, Snapshot};
use tresor_engine::restorer::{RestoreOptions, restore};
use tresor_engine::store::{MemoryStore, Store};
use tresor_mountfs::{FsError, Ino, LookUp, SnapshotFs};
use tresor_testkit::{Body, Damage, Item, backup, is_named, options, password, random_bytes};

const COST: KdfCost = KdfCost { memory: 8 * 1024, passes: 1, lanes: 1 };
const CACHE: u64 = 4 << 20;
/// Of so many cases one is also looked at through the kernel.
const MOUNT_EVERY: usize = 5;

type Objects = BTreeMap<ObjectName, Vec<u8>>;

fn objects(store: &Store) -> Objects {
    let names = ObjectKind::ALL.into_iter().flat_map(|kind| store.list(kind).unwrap());
    names.map(|(name, _)| (name, store.get(&name).unwrap())).collect()
}

fn store_of(objects: &Objects) -> Store {
    let store: Store = Arc::new(MemoryStore::new());
    objects.iter().for_each(|(name, bytes)| store.put(name, bytes).unwrap());
    store
}

fn try_open(store: &Store) -> Option<Arc<Repository>> {
    Repository::open(store.clone(), &password(), &OpenOptions::default()).ok()
}

fn some_tree(rng: &mut Rng) -> Item {
    let mut file = |len| Item::file(random_bytes(rng, len));
    let below = Item::dir().with("deep", file(70_000));
    let sub = Item::dir().with("a", file(30_000)).with("b", file(200_000)).with("below", below);
    let tree = Item::dir().with("small", file(900)).with("tiny", file(40));
    let tree = tree.with("large", file(1_500_000)).with("empty", Item::file(""));
    tree.with("sub", sub.with("link", Item::symlink("a")))
}

/// A repository in use, what must be in its snapshots, and all that was once in it and isn't
/// any more.
struct History {
    objects: Objects,
    kept: Vec<(Snapshot, Item)>,
    gone: Objects,
}

fn history(parity: Option<ParityShare>) -> History {
    let mut rng = Rng::with_seed(9);
    let store: Store = Arc::new(MemoryStore::new());
    let init = InitOptions { label: "test".into(), cost: COST, parity, chunks: Default::default() };
    Repository::init(&store, &password(), &init).unwrap();
    let repo = try_open(&store).unwrap();
    repo.add_key(&password(), "another", COST).unwrap();
    let third = repo.add_key(&Password::new(b"once".to_vec()), "third", COST).unwrap();
    let (mut kept, mut ever, mut tree) = (Vec::new(), Objects::new(), some_tree(&mut rng));
    for name in ["one", "two", "three"] {
        let repo = try_open(&store).unwrap();
        let parent = kept.last().map(|(s, _): &(Snapshot, Item)| s.clone());
        kept.push((backup(&repo, &tree, &options(parent)).0, tree.clone()));
        ever.extend(objects(&store));
        let mut file = |len| Item::file(random_bytes(&mut rng, len));
        tree = tree.with(name, file(100_000)).with("small", file(1_000));
        let sub = tree.entries()[b"sub".as_slice()].clone();
        tree = tree.with("sub", sub.with("b", file(150_000)).with(name, file(500)));
    }
    repo.remove_key(&third).unwrap();
    repo.forget(&[kept.remove(0).0.id]).unwrap();
    ever.extend(objects(&store));
    let all = PruneOptions {
        max_unused: MaxUnused::Percent(0.0),
        grace: Duration::ZERO,
        ..PruneOptions::default()
    };
    let repo = try_open(&store).unwrap();
    let plan = plan_prune(&repo, &all, &Quiet::default()).unwrap();
    prune(&repo, &all, plan, &Quiet::default()).unwrap();
    let objects = objects(&store);
    let gone: Objects = ever.into_iter().filter(|(name, _)| !objects.contains_key(name)).collect();
    for kind in [ObjectKind::Snapshot, ObjectKind::Key, ObjectKind::Index, ObjectKind::Pack] {
        assert!(gone.keys().any(|name| name.kind == kind), "no {kind:?} is gone");
    }
    History { objects, kept, gone }
}

#[test]
fn a_restore_and_a_drive_show_what_was_backed_up_or_an_error() {
    every_case(None, 2, 5);
}

#[test]
fn so_they_do_with_parity() {
    every_case(ParityShare::new(50), 1, 1);
}

/// Damages so many objects of each kind, in all ways; so many of the cases at least lose something.
fn every_case(parity: Option<ParityShare>, victims: usize, least_lossy: usize) {
    let history = history(parity);
    let mut rng = Rng::with_seed(fastrand::u64(..));
    eprintln!("seed {}", rng.get_seed());
    let (mut cases, mut lossy) = (0, 0);
    for kind in ObjectKind::ALL {
        let of_kind = history.objects.keys().filter(|name| name.kind == kind).copied();
        for victim in rng.choose_multiple(of_kind, victims) {
            for how in Damage::ALL {
                let store = store_of(&history.objects);
                let Some(wrong) = how.inflict(&store, victim, &mut rng) else { continue };
                let what = format!("{how:?} {wrong}");
                let Some(lost) = one_case(&store, &history, &what, cases) else {
                    // Swapped, both of the two key slots are damaged.
                    let no_key = wrong.kind == ObjectKind::Key && how == Damage::Swap;
                    assert!(no_key || wrong.kind == ObjectKind::Config, "{what}: can't be opened");
                    continue;
                };
                let may_lose = matches!(wrong.kind, ObjectKind::Pack | ObjectKind::Index);
                assert!(lost.is_empty() || may_lose, "{what}: {lost:?}");
                cases += 1;
                lossy += usize::from(!lost.is_empty());
            }
        }
    }
    for (name, bytes) in &history.gone {
        let store = store_of(&history.objects);
        store.put(name, bytes).unwrap();
        let what = format!("{name} is put back");
        let lost = one_case(&store, &history, &what, cases).expect("it opens");
        assert!(lost.is_empty(), "{what}: {lost:?}");
        cases += 1;
    }
    eprintln!("{cases} cases, {lossy} of them with losses");
    assert!(cases > 40 && lossy >= least_lossy, "{cases} cases, {lossy} with losses");
}

/// Looks at all snapshots in each way; what can't be read, or `None` if nobody can open it.
fn one_case(
    store: &Store,
    history: &History,
    what: &str,
    number: usize,
) -> Option<BTreeSet<String>> {
    let repo = try_open(store)?;
    let everything = CheckOptions { read_data: true, ..CheckOptions::default() };
    let report = check(&repo, &everything, &Quiet::default()).unwrap();
    let named: BTreeSet<_> = report.problems.iter().flat_map(|p| p.files.clone()).collect();
    let (listed, _) = repo.snapshots_and_damaged().unwrap();
    assert_drive_lists(&try_open(store)?, &listed, what);
    let mut all_lost = BTreeSet::new();
    for (snapshot, tree) in &history.kept {
        if !listed.iter().any(|s| s.id == snapshot.id) {
            assert!(what.contains("snapshots/"), "{what}: a snapshot is gone");
            continue;
        }
        let what = format!("{what}, {}", snapshot.id.short());
        let lost = restored(&try_open(store)?, snapshot, tree, &what);
        let fs = kit::drive(&try_open(store)?, Some(snapshot.clone()), CACHE);
        let mut on_drive = BTreeSet::new();
        shown(&fs, Ino::ROOT, tree, "", &mut on_drive, &what);
        assert_eq!(on_drive, lost, "{what}: on the drive, and restored");
        if number.is_multiple_of(MOUNT_EVERY) {
            let mount =
                kit::Mount::new(kit::drive(&try_open(store)?, Some(snapshot.clone()), CACHE));
            let mut mounted = BTreeSet::new();
            compare(mount.path(), tree, "", &mut mounted, &what);
            assert_eq!(mounted, lost, "{what}: mounted, and restored");
        }
        for path in lost {
            let file = format!("{}:{path}", snapshot.id.short());
            assert!(is_named(&file, &named), "{what}: {file} isn't named: {named:?}");
            all_lost.insert(file);
        }
    }
    Some(all_lost)
}

/// A drive of all snapshots has those that can be read.
fn assert_drive_lists(repo: &Arc<Repository>, listed: &[Snapshot], what: &str) {
    let fs = kit::drive(repo, None, CACHE);
    let ids = fs.lookup(Ino::ROOT, b"ids").unwrap().ino;
    let mut names = BTreeSet::new();
    fs.read_dir(ids, 0, LookUp::Nothing, &mut |entry| {
        names.insert(String::from_utf8(entry.name.to_vec()).unwrap());
        true
    })
    .unwrap();
    names.retain(|name| !name.starts_with('.') && name != "latest");
    let wanted: BTreeSet<_> = listed.iter().map(|s| s.id.short()).collect();
    assert_eq!(names, wanted, "{what}");
}

/// Restores a snapshot into a new folder; the files that are not there then.
fn restored(
    repo: &Arc<Repository>,
    snapshot: &Snapshot,
    tree: &Item,
    what: &str,
) -> BTreeSet<String> {
    let folder = tempfile::tempdir().unwrap();
    let monitor = Arc::new(Quiet::default());
    let sink = tresor_platform::open_sink(folder.path()).unwrap();
    let options = RestoreOptions::default();
    let result = restore(repo, &snapshot.data.tree, &[], sink, &options, monitor.clone());
    let mut lost = BTreeSet::new();
    compare(folder.path(), tree, "", &mut lost, what);
    let told: BTreeSet<_> = monitor.problems.lock().unwrap().iter().map(|p| p.0.clone()).collect();
    match result {
        Err(e) => assert!(!lost.is_empty(), "{what}: {e}, and nothing is missing"),
        Ok(restored) => {
            assert_eq!(restored.errors > 0, !lost.is_empty(), "{what}: {lost:?}, told {told:?}");
            for path in &lost {
                assert!(told.contains("/") || is_named(path, &told), "{what}: {path}: {told:?}");
            }
        }
    }
    lost
}

/// Compares a folder with a tree; `lost` gets the files that aren't there, or can't be read.
/// There is nothing else, and no other bytes.
fn compare(folder: &Path, tree: &Item, path: &str, lost: &mut BTreeSet<String>, what: &str) {
    if let Ok(entries) = std::fs::read_dir(folder) {
        for entry in entries.map_while(Result::ok) {
            let name = entry.file_name().into_encoded_bytes();
            assert!(tree.entries().contains_key(&name), "{what}: {path}/{}", name.escape_ascii());
        }
    }
    for (name, item) in tree.entries() {
        let name = std::str::from_utf8(name).unwrap();
        let (at, path) = (folder.join(name), format!("{path}/{name}"));
        let right = match &item.body {
            Body::Dir(_) => {
                compare(&at, item, &path, lost, what);
                continue;
            }
            Body::File(bytes, _) => std::fs::read(&at).map(|read| read == **bytes),
            Body::Other => std::fs::read_link(&at)
                .map(|to| Some(to.into_os_string().into_encoded_bytes()) == item.node.target),
        };
        match right {
            Ok(right) => assert!(right, "{what}: {path} has other bytes"),
            Err(e) => {
                let is_io = e.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
                assert!(is_io || e.kind() == ErrorKind::NotFound, "{what}: {path}: {e}");
                lost.insert(path);
            }
        }
    }
}

/// The same for a folder of a drive without a kernel. What is in a listing can be looked up.
fn shown(
    fs: &SnapshotFs,
    dir: Ino,
    tree: &Item,
    path: &str,
    lost: &mut BTreeSet<String>,
    what: &str,
) {
    let mut names = BTreeSet::new();
    let listed = fs.read_dir(dir, 0, LookUp::Nothing, &mut |entry| {
        names.insert(entry.name.to_vec());
        true
    });
    assert!(matches!(listed, Ok(()) | Err(FsError::Io(_))), "{what}: {path}: {listed:?}");
    for name in names.iter().filter(|name| !name.starts_with(b".")) {
        assert!(tree.entries().contains_key(name), "{what}: {path}/{}", name.escape_ascii());
    }
    for (name, item) in tree.entries() {
        let path = format!("{path}/{}", std::str::from_utf8(name).unwrap());
        let attr = match fs.lookup(dir, name) {
            Ok(attr) => attr,
            Err(FsError::Io(_)) => {
                assert!(!names.contains(name), "{what}: {path} is listed");
                all_files(item, &path, lost);
                continue;
            }
            Err(e) => panic!("{what}: {path}: {e:?}"),
        };
        match &item.body {
            Body::Dir(_) => shown(fs, attr.ino, item, &path, lost, what),
            Body::File(bytes, _) => {
                if !pieces(fs, attr.ino, bytes, &format!("{what}: {path}")) {
                    lost.insert(path);
                }
            }
            Body::Other => assert_eq!(Some(fs.readlink(attr.ino).unwrap()), item.node.target),
        }
    }
}

fn all_files(item: &Item, path: &str, out: &mut BTreeSet<String>) {
    match &item.body {
        Body::Dir(entries) => entries.iter().for_each(|(name, item)| {
            all_files(item, &format!("{path}/{}", std::str::from_utf8(name).unwrap()), out);
        }),
        _ => drop(out.insert(path.to_owned())),
    }
}

/// Reads a file piece by piece: each one is right, or an error. Whether all could be read.
fn pieces(fs: &SnapshotFs, ino: Ino, bytes: &[u8], what: &str) -> bool {
    const PIECE: usize = 64 << 10;
    let mut is_whole = true;
    for offset in (0..bytes.len().max(1)).step_by(PIECE) {
        let right = &bytes[offset..bytes.len().min(offset + PIECE)];
        match fs.read_at(ino, offset as u64, PIECE) {
            Ok(read) => assert!(read == right, "{what}: other bytes at {offset}"),
            Err(FsError::Io(_)) => is_whole = false,
            Err(e) => panic!("{what}: {e:?}"),
        }
    }
    is_whole
}
