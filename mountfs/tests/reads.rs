//! What reading costs, counted; and what a damaged or absent block does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use fastrand::Rng;
use jiff::tz::TimeZone;
use tresor_engine::format::ObjectKind;
use tresor_engine::repo::{Repository, Snapshot};
use tresor_engine::select::SnapshotFilter;
use tresor_engine::store::{MemoryStore, Store};
use tresor_mountfs::{DriveOptions, FsError, Ino, Layout, SnapshotFs};
use tresor_testkit::{Call, HookedStore, Item, backup, init, open, options, random_bytes};

fn drive(repo: &Arc<Repository>, snapshot: Snapshot, cache_size: u64) -> Arc<SnapshotFs> {
    let filter = SnapshotFilter::default();
    let options = DriveOptions {
        snapshot: Some(snapshot),
        filter,
        time_zone: TimeZone::UTC,
        layout: Layout::Folders,
        cache_size,
    };
    Arc::new(SnapshotFs::new(repo.clone(), options).unwrap())
}

fn fetched(fs: &SnapshotFs) -> u64 {
    let text = String::from_utf8(fs.status()).unwrap();
    let field = text.split("\"blocks_fetched\": ").nth(1).unwrap();
    field.split([',', '\n']).next().unwrap().parse().unwrap()
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
fn scattered_reads_fetch_little_and_sequential_ones_each_block_once() {
    let f = fixture(64 << 20);
    let fs = drive(&f.repo, f.snapshot.clone(), 16 << 20);
    let file = fs.lookup(Ino::ROOT, b"f").unwrap().ino;
    let mut rng = Rng::with_seed(1);
    for _ in 0..100 {
        let at = rng.usize(..f.bytes.len() - 4096);
        fs.read_ahead(file, at as u64, 4096);
        assert!(fs.read_at(file, at as u64, 4096).unwrap() == f.bytes[at..at + 4096]);
    }
    assert!(fetched(&fs) <= 130, "{}", fetched(&fs));

    let fs = drive(&f.repo, f.snapshot, 16 << 20);
    let file = fs.lookup(Ino::ROOT, b"f").unwrap().ino;
    f.reads.store(0, Relaxed);
    const STEP: usize = 128 << 10;
    for at in (0..f.bytes.len()).step_by(STEP) {
        fs.read_ahead(file, at as u64, STEP);
        assert!(fs.read_at(file, at as u64, STEP).unwrap() == f.bytes[at..at + STEP]);
    }
    // No block is fetched twice: chunks are 128 KiB on average.
    let blocks = (f.bytes.len() >> 17) as u64;
    assert!(fetched(&fs) < blocks * 3 / 2, "{}", fetched(&fs));
    assert!(f.reads.load(Relaxed) <= fetched(&fs) + 10);
}

#[test]
fn eight_readers_of_one_file_fetch_each_block_once() {
    let f = fixture(16 << 20);
    let fs = drive(&f.repo, f.snapshot, 64 << 20);
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
    assert!(fetched(&fs) <= 16 << 20 >> 16, "{}", fetched(&fs));
}

#[test]
fn a_store_that_goes_away_and_comes_back() {
    let f = fixture(8 << 20);
    let fs = drive(&f.repo, f.snapshot, 1 << 20);
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
    let fs = drive(&open(&store), snapshot, 1 << 20);
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
