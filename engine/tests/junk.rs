//! Junk of the largest size that an object may have: whoever can write to the store can put
//! it there, and it must not fill the memory of those who look at it.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};

use tresor_engine::format::{ObjectId, ObjectKind, ObjectName, ParityShare};
use tresor_engine::maintenance::{
    PruneOptions, RepairIndexOptions, plan_prune, prune, repair_index, scrub,
};
use tresor_engine::monitor::Quiet;
use tresor_engine::repo::{InitOptions, OpenOptions, Repository};
use tresor_engine::store::{LocalStore, Store};
use tresor_testkit::{Call, Counting, HookedStore, Item, backup, measure, open, options, password};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MIB: usize = 1 << 20;
const LARGEST: usize = 66 * MIB;
const LARGEST_PACK: usize = 64 * MIB;
/// Objects of junk, of which most could be read at once.
const MANY: u8 = 12;

/// One test at a time: what is counted is counted for the whole program.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(|e| e.into_inner())
}

/// A repository with a snapshot of a few files.
fn repository(folder: &Path, parity: Option<ParityShare>) -> Store {
    let store: Store = Arc::new(LocalStore::new(folder));
    let cost = tresor_engine::crypto::KdfCost { memory: 8 * 1024, passes: 1, lanes: 1 };
    let options_of = InitOptions { label: "test".into(), cost, parity, chunks: Default::default() };
    Repository::init(&store, &password(), &options_of).unwrap();
    backup(&open(&store), &Item::dir().with("file", Item::file("content")), &options(None));
    store
}

/// A file of zeros that takes no room on the disk.
fn put_junk(folder: &Path, name: ObjectName, len: usize) {
    let path = folder.join(name.path());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = fs::File::create(path).unwrap();
    file.set_len(len as u64).unwrap();
}

fn put_much_junk(folder: &Path, kind: ObjectKind) {
    let len = if kind == ObjectKind::Pack { LARGEST_PACK } else { LARGEST };
    (0..MANY).for_each(|n| put_junk(folder, ObjectName::new(kind, ObjectId([n; 32])), len));
}

#[test]
fn junk_that_every_command_reads() {
    let _alone = alone();
    for kind in [ObjectKind::Snapshot, ObjectKind::Index, ObjectKind::Forgotten] {
        let folder = tempfile::tempdir().unwrap();
        let store = repository(folder.path(), None);
        put_much_junk(folder.path(), kind);
        let look = || {
            let repo = open(&store);
            let (good, damaged) = repo.snapshots_and_damaged().unwrap();
            assert_eq!(good.len(), 1);
            damaged.len() + repo.index().damaged().len() + repo.damaged_records().unwrap().len()
        };
        let (damaged, took) = measure(look);
        assert_eq!(damaged, usize::from(MANY), "{kind:?}");
        // One of them, and what opening takes.
        assert!(took.peak < LARGEST + 16 * MIB, "{kind:?}: {took:?}");
    }
}

#[test]
fn junk_that_a_first_backup_looks_at() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let store = repository(folder.path(), None);
    put_much_junk(folder.path(), ObjectKind::Pack);
    let repo = open(&store);
    let (_, usual) = measure(|| backup(&repo, &Item::dir(), &options(None)));
    assert!(usual.peak < LARGEST_PACK + 48 * MIB, "{usual:?}");
}

/// It takes no room on the disk, and there may be any number of it: it is not read to its end.
#[test]
fn junk_is_not_read_whole_to_see_what_it_is() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let store = repository(folder.path(), None);
    put_much_junk(folder.path(), ObjectKind::Pack);
    let read = Arc::new(AtomicUsize::new(0));
    let counted = read.clone();
    let is_junk =
        |name: &ObjectName| name.kind == ObjectKind::Pack && name.id.0[1..] == [name.id.0[0]; 31];
    let counting: Store = Arc::new(HookedStore::new(store, move |call| {
        let bytes = match call {
            Call::Get(name) if is_junk(name) => LARGEST_PACK,
            Call::GetRange(name, _, len) if is_junk(name) => *len,
            _ => 0,
        };
        counted.fetch_add(bytes, SeqCst);
        Ok(())
    }));
    backup(&open(&counting), &Item::dir(), &options(None));
    let by_backup = read.swap(0, SeqCst);
    assert!(by_backup < usize::from(MANY) * 4096, "a backup read {by_backup} bytes");
    let gentle = PruneOptions::default();
    let repo = open(&counting);
    let plan = plan_prune(&repo, &gentle, &Quiet::default()).unwrap();
    assert_eq!(plan.packs_unindexed, u64::from(MANY));
    prune(&repo, &gentle, plan, &Quiet::default()).unwrap();
    let by_prune = read.swap(0, SeqCst);
    assert!(by_prune < usize::from(MANY) * 4096, "a prune read {by_prune} bytes");
}

#[test]
fn junk_that_maintenance_reads() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let share = ParityShare::new(50);
    let store = repository(folder.path(), share);
    put_much_junk(folder.path(), ObjectKind::Pack);
    put_much_junk(folder.path(), ObjectKind::Snapshot);
    for n in 0..MANY {
        let of = ObjectName::new(ObjectKind::Snapshot, ObjectId([n; 32]));
        put_junk(folder.path(), of.parity(), LARGEST);
    }
    let (report, took) = measure(|| scrub(&store, &Quiet::default()).unwrap());
    assert!(report.problems.len() >= 2 * usize::from(MANY), "{:?}", report.problems);
    assert!(took.peak < 3 * LARGEST, "{took:?}");
    let repo = Repository::open(store, &password(), &OpenOptions::default()).unwrap();
    let reads_all = RepairIndexOptions { dry_run: true, read_all: true };
    let (report, took) = measure(|| repair_index(&repo, &reads_all, &Quiet::default()).unwrap());
    assert_eq!(report.unreadable.len(), usize::from(MANY));
    assert!(took.peak < 3 * LARGEST, "{took:?}");
}
