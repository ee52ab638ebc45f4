//! A whole repository that somebody has meddled with: bytes of objects, without a
//! key, or what is in them, with it. What was backed up is shown as it was, or not.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arbitrary::Unstructured;
use tresor_engine::crypto::{KdfCost, Keys, MasterKey};
use tresor_engine::format::{
    IndexData, ObjectId, ObjectKind, ObjectName, Purpose, SnapshotData, Time, sealed,
};
use tresor_engine::maintenance::{
    MaxUnused, PruneOptions, RepairIndexOptions, RepairSnapshotsOptions, plan_prune, prune,
    repair_index, repair_snapshots, scrub,
};
use tresor_engine::monitor::Quiet;
use tresor_engine::repo::{InitOptions, OpenOptions, Repository};
use tresor_engine::store::{MemoryStore, Store};
use tresor_testkit::{Item, backup, options, password, random_bytes};

use crate::kit::*;
use crate::visit::{self, Shown};

/// Cheap, so that opening is not all that is done.
pub const COST: KdfCost = KdfCost { memory: 8 * 1024, passes: 1, lanes: 1 };

type Objects = Vec<(ObjectName, Vec<u8>)>;

/// A small repository, and what a restore of each of its snapshots makes.
struct World {
    objects: Objects,
    keys: Keys,
    shown: HashMap<ObjectId, Shown>,
}

pub fn init(store: &Store) -> Arc<Repository> {
    let options =
        InitOptions { label: "test".into(), cost: COST, parity: None, chunks: Default::default() };
    Repository::init(store, &password(), &options).unwrap();
    open(store).unwrap()
}

pub fn open(store: &Store) -> tresor_engine::Result<Arc<Repository>> {
    Repository::open(store.clone(), &password(), &OpenOptions::default())
}

pub fn tree(second: bool) -> Item {
    let mut rng = fastrand::Rng::with_seed(3);
    let mut noise = |len| random_bytes(&mut rng, len);
    let many = (0..40).fold(Item::dir(), |dir, n| {
        dir.with(format!("entry {n:02}"), Item::file(format!("file number {n}").repeat(9)))
    });
    // Long enough to have a segment of its own. Files of several chunks have holes, as all is
    // read many times.
    let large = noise(70_000);
    let (more, holes) = (noise(9_000), [2_000..3_000, 4_000..8_000]);
    let docs = Item::dir()
        .with("large", Item::file(large.clone()))
        .with("small", Item::file("inline"))
        .with("empty", Item::file(""))
        .with("link", Item::symlink("small"))
        .with("sparse", Item::sparse(more.clone(), &holes));
    let hole = large.len() as u64..large.len() as u64 + 5_000;
    let new = Item::sparse([&large[..], &more].concat(), std::slice::from_ref(&hole));
    let docs = if second { docs.with("new", new) } else { docs };
    Item::dir().with("docs", docs).with("many", many)
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let store: Store = Arc::new(MemoryStore::new());
    let repo = init(&store);
    repo.add_key(&password(), "second", COST).unwrap();
    let (first, _) = backup(&repo, &tree(false), &options(None));
    let (second, _) = backup(&repo, &tree(true), &options(Some(first)));
    assert_eq!(second.data.summary.files, 45);
    let look = |s| visit::look_at(&repo, s);
    let shown: HashMap<_, _> = repo.snapshots().unwrap().iter().map(|s| (s.id, look(s))).collect();
    assert!(shown.len() == 2 && shown.values().all(|s| s.whole));
    let list = |kind| store.list(kind).unwrap();
    let mut names: Vec<_> = ObjectKind::ALL.into_iter().flat_map(list).map(|(n, _)| n).collect();
    // Names are random: by kind and length the same input means about the same.
    names.sort_by_key(|n| (n.kind, store.size(n).unwrap(), n.id));
    let objects = names.iter().map(|n| (*n, store.get(n).unwrap())).collect();
    let keys = Keys::new(MasterKey(repo.keys().master().0));
    World { objects, keys, shown }
});

/// The input is a list of changes to the repository.
pub fn repository(input: &[u8]) {
    let world = &*WORLD;
    let mut input = Unstructured::new(input);
    let then = byte(&mut input);
    let mut objects: BTreeMap<ObjectName, Vec<u8>> = world.objects.iter().cloned().collect();
    let mut with_key = false;
    for _ in 0..8 {
        if input.is_empty() {
            break;
        }
        let how = byte(&mut input);
        if how & 0x80 == 0 {
            meddle(how, &mut objects, &mut input);
        } else {
            with_key = true;
            forge(how, &mut objects, &mut input, &world.keys);
        }
    }
    let store: Store = Arc::new(MemoryStore::new());
    objects.iter().for_each(|(name, bytes)| store.put(name, bytes).unwrap());
    let Ok(repo) = open(&store) else { return };
    let before = look(&repo, world);
    if then & 1 != 0 {
        maintain(&repo, then >> 1);
        let Ok(repo) = open(&store) else { panic!("it doesn't open any more") };
        let after = look(&repo, world);
        // Who has the key can say of a pack that it holds what it doesn't.
        for id in before.iter().filter(|_| !with_key) {
            assert!(after.contains(id), "a snapshot that was whole is lost by {}", then >> 1);
        }
    }
}

/// Looks at all of it, and gives the snapshots that were found whole.
fn look(repo: &Arc<Repository>, world: &World) -> Vec<ObjectId> {
    let Ok((snapshots, _)) = repo.snapshots_and_damaged() else { return Vec::new() };
    let mut whole = Vec::new();
    for snapshot in &snapshots {
        let shown = visit::look_at(repo, snapshot);
        let Some(expected) = world.shown.get(&snapshot.id) else { continue };
        for (path, digest) in &shown.entries {
            let right = expected.entries.get(path) == Some(digest);
            assert!(right, "{} was not backed up so", path.escape_ascii());
        }
        if shown.whole {
            assert_eq!(
                shown.entries.len(),
                expected.entries.len(),
                "something is left out silently"
            );
            whole.push(snapshot.id);
        }
    }
    visit::folders(repo);
    let report = visit::commands(repo, &snapshots);
    if report.is_some_and(|r| r.problems.is_empty()) {
        let known = snapshots.iter().filter(|s| world.shown.contains_key(&s.id));
        assert_eq!(known.count(), whole.len(), "check finds nothing wrong");
    }
    whole
}

/// What removes or rewrites objects.
fn maintain(repo: &Arc<Repository>, how: u8) {
    let monitor = Quiet::default();
    match how % 5 {
        0 => {
            let grace = if how & 0x40 == 0 { Duration::ZERO } else { Duration::from_secs(7200) };
            let options =
                PruneOptions { grace, max_unused: MaxUnused::Percent(0.0), ..Default::default() };
            if let Ok(plan) = plan_prune(repo, &options, &monitor) {
                let _ = prune(repo, &options, plan, &monitor);
            }
        }
        1 => {
            let options = RepairIndexOptions { read_all: how & 0x40 != 0, dry_run: false };
            let _ = repair_index(repo, &options, &monitor);
        }
        2 => {
            let options = RepairSnapshotsOptions { read_data: true, ..Default::default() };
            let _ = repair_snapshots(repo, &options, &monitor);
        }
        3 => drop(scrub(repo.store(), &monitor)),
        _ => {
            let parent = repo.snapshots().ok().and_then(|s| s.last().cloned());
            let source = tree(true).source();
            let _ =
                tresor_engine::archiver::backup(repo, source, &options(parent), Arc::new(monitor));
        }
    }
}

/// One of the objects.
fn choose(objects: &BTreeMap<ObjectName, Vec<u8>>, input: &mut Unstructured<'_>) -> ObjectName {
    let at = byte(input) as usize % objects.len();
    *objects.keys().nth(at).unwrap()
}

/// A change to bytes as they lie in the store.
fn meddle(how: u8, objects: &mut BTreeMap<ObjectName, Vec<u8>>, input: &mut Unstructured<'_>) {
    let name = choose(objects, input);
    let mut bytes = objects[&name].clone();
    let at = |input: &mut Unstructured<'_>, len: usize| {
        input.arbitrary::<u32>().unwrap_or_default() as usize % len.max(1)
    };
    match how % 8 {
        0 => {
            let at = at(input, bytes.len());
            if let Some(b) = bytes.get_mut(at) {
                *b ^= byte(input).max(1);
            }
        }
        1 => bytes.truncate(at(input, bytes.len())),
        2 => bytes.extend(crate::kit::bytes(input, 300)),
        3 => {
            let other = &objects[&choose(objects, input)];
            let from = at(input, other.len());
            let piece = &other[from..other.len().min(from + 4096)];
            let to = at(input, bytes.len());
            bytes.splice(to..bytes.len().min(to + piece.len()), piece.iter().copied());
        }
        4 => bytes = objects[&choose(objects, input)].clone(),
        5 => bytes = input.bytes(input.len().min(200)).unwrap_or_default().to_vec(),
        6 => bytes.rotate_left(at(input, objects[&name].len())),
        _ => {
            objects.remove(&name);
            return;
        }
    }
    let kind = match how >> 3 & 7 {
        // Under the name that it had, or that is right for it.
        0..=3 => {
            objects.insert(name, bytes);
            return;
        }
        4 => ObjectKind::Pack,
        5 => ObjectKind::Index,
        6 => ObjectKind::Key,
        _ => name.kind,
    };
    // A key slot that takes minutes is another matter: see the threat model.
    let is_expensive = kind == ObjectKind::Key && name.kind == ObjectKind::Key;
    if kind != ObjectKind::Config && !is_expensive {
        if how & 0x40 != 0 {
            objects.remove(&name);
        }
        objects.insert(ObjectName::new(kind, ObjectId::of(&bytes)), bytes);
    }
}

/// A change to what is in an object, which is then sealed anew and stored beside the
/// old one or in its place.
fn forge(
    how: u8,
    objects: &mut BTreeMap<ObjectName, Vec<u8>>,
    input: &mut Unstructured<'_>,
    keys: &Keys,
) {
    let kind = if how & 1 == 0 { ObjectKind::Index } else { ObjectKind::Snapshot };
    let of_kind: Vec<_> = objects.keys().filter(|n| n.kind == kind).copied().collect();
    let Some(&old) = of_kind.get(byte(input) as usize % of_kind.len().max(1)) else { return };
    let bytes = objects[&old].clone();
    let new = match kind {
        ObjectKind::Index => {
            let Ok(mut data) = sealed::open::<IndexData>(keys, Purpose::Index, bytes) else {
                return;
            };
            forge_index(&mut data, &of_kind, input);
            sealed::seal(keys, Purpose::Index, &data).unwrap()
        }
        _ => {
            let opened = sealed::open::<SnapshotData>(keys, Purpose::Snapshot, bytes);
            let Ok(mut data) = opened else { return };
            forge_snapshot(&mut data, input);
            sealed::seal(keys, Purpose::Snapshot, &data).unwrap()
        }
    };
    if how & 2 == 0 {
        objects.remove(&old);
    }
    objects.insert(ObjectName::new(kind, ObjectId::of(&new)), new);
}

fn number(input: &mut Unstructured<'_>) -> u32 {
    match byte(input) {
        0 => u32::MAX,
        1 => 0,
        n if n & 1 == 0 => u32::from(n),
        _ => input.arbitrary().unwrap_or_default(),
    }
}

fn forge_index(data: &mut IndexData, others: &[ObjectName], input: &mut Unstructured<'_>) {
    let packs = data.packs.len().max(1);
    let other = data.packs.get(byte(input) as usize % packs).cloned();
    let (Some(other), Some(pack)) = (other, data.packs.get_mut(byte(input) as usize % packs))
    else {
        return;
    };
    match byte(input) % 10 {
        0 => pack.id = other.id,
        1 => pack.salt = other.salt,
        2 => pack.size = u64::from(number(input)),
        3 => pack.segments = other.segments,
        4 => pack.marked = Some(Time::new(i64::from(number(input)), 0)),
        5 => data.packs.push(other),
        6 => data.replaces.extend(others.iter().map(|n| n.id)),
        what => {
            let len = pack.segments.len().max(1);
            let Some(segment) = pack.segments.get_mut(byte(input) as usize % len) else { return };
            let at =
                input.arbitrary::<u16>().unwrap_or_default() as usize % segment.blobs.len().max(1);
            match what {
                7 => segment.sealed_len = number(input),
                8 => segment.blobs[at] ^= byte(input),
                _ => {
                    let at = at / 36 * 36;
                    let blob: Vec<u8> = segment.blobs.drain(at..at + 36).collect();
                    segment.blobs.extend(blob);
                }
            }
        }
    }
}

fn forge_snapshot(data: &mut SnapshotData, input: &mut Unstructured<'_>) {
    let text =
        |input: &mut Unstructured<'_>| String::from_utf8_lossy(bytes(input, 20)).into_owned();
    let time = |input: &mut Unstructured<'_>| {
        Time::new(input.arbitrary().unwrap_or_default(), number(input) % 1_000_000_000)
    };
    match byte(input) % 7 {
        0 => data.time = time(input),
        1 => data.saved = time(input),
        2 => data.host = text(input),
        3 => data.tags.push(text(input)),
        4 => data.tree.0[0] ^= 1,
        5 => data.summary.files = u64::MAX - u64::from(byte(input)),
        _ => data.utc_offset = number(input) as i32,
    }
}
