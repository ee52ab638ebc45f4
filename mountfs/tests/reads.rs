//! What reading costs, counted; and what a damaged or absent block does.

mod kit;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use fastrand::Rng;
use kit::{drive, status};
use tresor_engine::format::{NodeKind, ObjectKind};
use tresor_engine::repo::{Repository, Snapshot};
use tresor_engine::store::{MemoryStore, Store};
use tresor_mountfs::{FsError, Ino, LookUp, SnapshotFs};
use tresor_testkit::{
    Call, HookedStore, Item, backup, init, open, options, random_bytes, repository,
};

fn fetched(fs: &SnapshotFs) -> u64 {
    status(fs, "blocks_fetched")
}

struct Fixture {
    repo: Arc<Repository>,
    snapshot: Snapshot,
    bytes: Vec<u8>,
    /// Reads from packs.
    reads: Arc<AtomicU64>,
    broken: Arc<AtomicBool>,
}

fn fixture(len: usize) -> Fixture {
    let store: Store = Arc::new(MemoryStore::new());
    init(&store);
    let bytes = random_bytes(&mut Rng::with_seed(9), len);
    let tree = Item::dir().with("f", Item::file(bytes.clone())).with("g", Item::file("other"));
    let (snapshot, _) = backup(&open(&store), &tree, &options(None));
    let (reads, broken) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let hook = {
        let (reads, broken) = (reads.clone(), broken.clone());
        move |call: &Call| {
            if broken.load(Relaxed) {
                return Err(HookedStore::broken());
            }
            if let Call::GetRange(..) = call {
                reads.fetch_add(1, Relaxed);
            }
            Ok(())
        }
    };
    let hooked: Store = Arc::new(HookedStore::new(store, hook));
    Fixture { repo: open(&hooked), snapshot, bytes, reads, broken }
}

#[test]
fn scattered_reads_decode_one_chunk_each() {
    const READS: u64 = 2000;
    let f = fixture(128 << 20);
    let fs = drive(&f.repo, Some(f.snapshot), 16 << 20);
    let file = fs.lookup(Ino::ROOT, b"f").unwrap().ino;
    let mut rng = Rng::with_seed(1);
    for _ in 0..READS {
        let at = rng.usize(..f.bytes.len() - 4096);
        fs.read_ahead(file, at as u64, 4096);
        assert!(fs.read_at(file, at as u64, 4096).unwrap() == f.bytes[at..at + 4096]);
    }
    // A read may touch two chunks. They are 128 KiB on average, and longer where
    // one is hit: a place in the file falls into a long one more easily.
    assert!(fetched(&fs) <= READS * 105 / 100, "{}", fetched(&fs));
    let decoded = status(&fs, "bytes_decoded") / READS;
    assert!(decoded <= 200 << 10, "{decoded} a read");
    assert!(f.reads.load(Relaxed) <= fetched(&fs) + 40);
}

#[test]
fn a_sequential_read_fetches_each_block_once() {
    let f = fixture(64 << 20);
    let fs = drive(&f.repo, Some(f.snapshot), 16 << 20);
    let file = fs.lookup(Ino::ROOT, b"f").unwrap().ino;
    const STEP: usize = 128 << 10;
    for at in (0..f.bytes.len()).step_by(STEP) {
        fs.read_ahead(file, at as u64, STEP);
        assert!(fs.read_at(file, at as u64, STEP).unwrap() == f.bytes[at..at + STEP]);
    }
    let decoded = status(&fs, "bytes_decoded");
    assert!(decoded <= f.bytes.len() as u64 * 101 / 100, "{decoded}");
    assert!(f.reads.load(Relaxed) <= fetched(&fs) + 10);
}

#[test]
fn a_walk_decodes_the_tree_once_and_no_files() {
    let repo = repository();
    let mut rng = Rng::with_seed(2);
    let mut dir = |files| {
        (0..files).fold(Item::dir(), |dir, n| {
            dir.with(format!("{n:04}"), Item::file(random_bytes(&mut rng, 1500)))
        })
    };
    let tree = (0..40).fold(Item::dir(), |root, d| root.with(format!("{d}"), dir(100)));
    let tree = tree.with("large", dir(3000));
    let (snapshot, outcome) = backup(&repo, &tree, &options(None));
    let fs = drive(&repo, Some(snapshot), 16 << 20);
    let entries = walk(&fs, Ino::ROOT);
    assert_eq!(entries, tree.count());
    assert_eq!(fetched(&fs), 0);
    // What the backup added are the tree and the files, which are incompressible.
    let files = outcome.data.summary.files * 1500;
    let pages = outcome.data.summary.bytes_added - files;
    let (decoded, reads) = (status(&fs, "bytes_decoded"), status(&fs, "store_reads"));
    assert!(decoded <= pages * 11 / 10, "{decoded} of {pages}");
    assert!(reads <= pages / (200 << 10) + 2, "{reads} reads of {pages}");
}

/// As `ls -lR` does; returns how many entries there are.
fn walk(fs: &SnapshotFs, dir: Ino) -> u64 {
    let (mut offset, mut entries, mut below) = (0, 0, Vec::new());
    loop {
        let before = offset;
        // A kernel asks for as many as fit into its buffer.
        let mut room = 100;
        fs.read_dir(dir, offset, LookUp::Everything, &mut |entry| {
            room -= 1;
            if room > 0 {
                offset = entry.next;
                if entry.name != b"." && entry.name != b".." {
                    entries += 1;
                    below.push(entry.attr);
                }
            }
            room > 0
        })
        .unwrap();
        if offset == before {
            break;
        }
    }
    for attr in below {
        assert_eq!(fs.attr(attr.ino).unwrap(), attr);
        if attr.kind == NodeKind::Directory {
            entries += walk(fs, attr.ino);
        }
    }
    entries
}

#[test]
fn eight_readers_of_one_file_fetch_each_block_once() {
    let f = fixture(16 << 20);
    let fs = drive(&f.repo, Some(f.snapshot), 64 << 20);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let file = fs.lookup(Ino::ROOT, b"f").unwrap().ino;
                for at in (0..f.bytes.len()).step_by(64 << 10) {
                    fs.read_ahead(file, at as u64, 64 << 10);
                    let read = fs.read_at(file, at as u64, 64 << 10).unwrap();
                    assert!(read == f.bytes[at..at + (64 << 10)]);
                }
            });
        }
    });
    let decoded = status(&fs, "bytes_decoded");
    assert!(decoded <= f.bytes.len() as u64 * 102 / 100, "{decoded}");
}

/// What is fetched ahead for all of them together must fit into the cache until it is read.
#[test]
fn many_files_read_side_by_side_are_fetched_once() {
    const FILES: usize = 8;
    const STEP: usize = 128 << 10;
    const LEN: usize = 32 << 20;
    let repo = repository();
    let mut rng = Rng::with_seed(10);
    let files: Vec<_> = (0..FILES).map(|_| random_bytes(&mut rng, LEN)).collect();
    let tree = files
        .iter()
        .enumerate()
        .fold(Item::dir(), |dir, (n, bytes)| dir.with(format!("{n}"), Item::file(bytes.clone())));
    let (snapshot, _) = backup(&repo, &tree, &options(None));
    let fs = drive(&repo, Some(snapshot), 32 << 20);
    let ino = |n| fs.lookup(Ino::ROOT, format!("{n}").as_bytes()).unwrap().ino;
    let numbers: Vec<_> = (0..FILES).map(ino).collect();
    for at in (0..LEN).step_by(STEP) {
        for (ino, bytes) in numbers.iter().zip(&files) {
            fs.read_ahead(*ino, at as u64, STEP);
            assert!(fs.read_at(*ino, at as u64, STEP).unwrap() == bytes[at..at + STEP]);
        }
    }
    let (decoded, total) = (status(&fs, "bytes_decoded"), (FILES * LEN) as u64);
    assert!(decoded <= total * 105 / 100, "{decoded} of {total}");
}

#[test]
fn a_store_that_goes_away_and_comes_back() {
    let f = fixture(8 << 20);
    let fs = drive(&f.repo, Some(f.snapshot), 1 << 20);
    let file = fs.lookup(Ino::ROOT, b"f").unwrap().ino;
    assert!(fs.read_at(file, 0, 4096).is_ok());
    f.broken.store(true, Relaxed);
    let Err(FsError::Io(reason)) = fs.read_at(file, 7 << 20, 4096) else { panic!("no error") };
    assert!(reason.contains("told to fail"), "{reason}");
    f.broken.store(false, Relaxed);
    assert!(fs.read_at(file, 7 << 20, 4096).unwrap() == f.bytes[7 << 20..(7 << 20) + 4096]);
}

#[test]
fn a_damaged_block_is_an_error_of_its_own_reads_only() {
    let store: Store = Arc::new(MemoryStore::new());
    init(&store);
    let bytes = random_bytes(&mut Rng::with_seed(9), 8 << 20);
    let tree = Item::dir().with("f", Item::file(bytes.clone()));
    let (snapshot, _) = backup(&open(&store), &tree, &options(None));
    // One byte in the middle of the largest pack.
    let packs = store.list(ObjectKind::Pack).unwrap();
    let (name, size) = packs.into_iter().max_by_key(|p| p.1).unwrap();
    let mut pack = store.get(&name).unwrap();
    pack[size as usize / 2] ^= 1;
    store.delete(&name).unwrap();
    store.put(&name, &pack).unwrap();
    let fs = drive(&open(&store), Some(snapshot), 1 << 20);
    let file = fs.lookup(Ino::ROOT, b"f").unwrap().ino;
    let mut bad = 0;
    for at in (0..bytes.len()).step_by(4096) {
        match fs.read_at(file, at as u64, 4096) {
            Ok(read) => assert!(read == bytes[at..(at + 4096).min(bytes.len())]),
            Err(FsError::Io(reason)) => {
                assert!(reason.contains("packs/"), "{reason}");
                bad += 4096;
            }
            Err(e) => panic!("{e}"),
        }
    }
    assert!((64 << 10..=600 << 10).contains(&bad), "{bad}");
}
