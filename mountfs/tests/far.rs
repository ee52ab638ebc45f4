//! A store that is far away: neighbours come with one read, and several reads are under way
//! at once. Counted, not timed.

mod kit;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use fastrand::Rng;
use kit::{drive, in_time, status};
use tresor_engine::format::ObjectKind;
use tresor_engine::store::{MemoryStore, Store};
use tresor_mountfs::{FsError, Ino, SnapshotFs};
use tresor_testkit::{
    HookedStore, Item, Line, SlowStore, Traffic, backup, init, open, options, random_bytes,
};

const LINE: Line = Line { latency: Duration::from_millis(30), bytes_per_second: 200e6 };
const CACHE: u64 = 128 << 20;

/// A drive of the tree behind such a line, and what goes over it from now on.
fn far(tree: &Item) -> (Arc<SnapshotFs>, Arc<Traffic>) {
    far_after(tree, |store| store)
}

/// The same, after something was done to the store.
fn far_after(tree: &Item, change: impl FnOnce(Store) -> Store) -> (Arc<SnapshotFs>, Arc<Traffic>) {
    let store: Store = Arc::new(MemoryStore::new());
    init(&store);
    let (snapshot, _) = backup(&open(&store), tree, &options(None));
    let (slow, traffic) = SlowStore::new(change(store), LINE);
    let fs = drive(&open(&(Arc::new(slow) as Store)), Some(snapshot), CACHE);
    traffic.reset();
    (fs, traffic)
}

fn read(fs: &SnapshotFs, file: Ino, at: usize, len: usize) -> Vec<u8> {
    fs.read_ahead(file, at as u64, len);
    fs.read_at(file, at as u64, len).unwrap()
}

#[test]
fn a_large_file_comes_with_few_reads_and_many_at_once() {
    const STEP: usize = 128 << 10;
    let bytes = random_bytes(&mut Rng::with_seed(3), 48 << 20);
    let (fs, traffic) = far(&Item::dir().with("f", Item::file(bytes.clone())));
    let file = fs.lookup(Ino::ROOT, b"f").unwrap().ino;
    for at in (0..bytes.len()).step_by(STEP) {
        assert!(read(&fs, file, at, STEP) == bytes[at..at + STEP]);
    }
    let [requests, sent] = [&traffic.requests, &traffic.bytes].map(|n| n.load(SeqCst));
    let most = traffic.most.load(SeqCst);
    // There are about 370 chunks, in two packs at a time.
    assert!(requests < 90, "{requests} requests");
    assert!(most >= 6, "{most} at once");
    assert!(sent < (bytes.len() as u64) * 103 / 100, "{sent} bytes");
    let decoded = status(&fs, "bytes_decoded");
    assert!(decoded < bytes.len() as u64 * 103 / 100, "{decoded} decoded");
}

#[test]
fn small_files_of_many_directories_come_together() {
    const LEN: usize = 8 << 10;
    let (folders, files) = (24, 48);
    let mut rng = Rng::with_seed(4);
    let mut tree = Item::dir();
    for folder in 0..folders {
        let below = (0..files).fold(Item::dir(), |dir, n| {
            dir.with(format!("{n:03}"), Item::file(random_bytes(&mut rng, LEN)))
        });
        tree = tree.with(format!("{folder:02}"), below);
    }
    let (fs, traffic) = far(&Item::dir().with("all", tree.clone()));
    let all = fs.lookup(Ino::ROOT, b"all").unwrap().ino;
    for (name, below) in tree.entries() {
        let dir = fs.lookup(all, name).unwrap().ino;
        for (name, file) in below.entries() {
            let ino = fs.lookup(dir, name).unwrap().ino;
            assert!(read(&fs, ino, 0, 128 << 10) == file.bytes());
        }
    }
    let total = (folders * files * LEN) as u64;
    let [requests, sent] = [&traffic.requests, &traffic.bytes].map(|n| n.load(SeqCst));
    // A segment holds 256 KiB; several of them come with each read, and nothing twice.
    assert!(requests < total / (256 << 10), "{requests} requests");
    assert!(sent < total * 6 / 5, "{sent} bytes of {total}");
}

#[test]
fn a_few_bytes_here_and_there_bring_nothing_else() {
    let bytes = random_bytes(&mut Rng::with_seed(5), 32 << 20);
    let (fs, traffic) = far(&Item::dir().with("f", Item::file(bytes.clone())));
    let file = fs.lookup(Ino::ROOT, b"f").unwrap().ino;
    let mut rng = Rng::with_seed(6);
    for _ in 0..40 {
        let at = rng.usize(..bytes.len() - 4096);
        assert!(read(&fs, file, at, 4096) == bytes[at..at + 4096]);
    }
    let sent = traffic.bytes.load(SeqCst);
    assert!(sent < 40 * (220 << 10), "{sent} bytes");
}

#[test]
fn a_store_that_goes_away_keeps_nobody_waiting() {
    const STEP: usize = 128 << 10;
    let bytes = random_bytes(&mut Rng::with_seed(7), 48 << 20);
    let broken = Arc::new(AtomicBool::new(false));
    let is_broken = broken.clone();
    let hook = move |_: &_| match is_broken.load(SeqCst) {
        true => Err(HookedStore::broken()),
        false => Ok(()),
    };
    let (fs, _) = far_after(&Item::dir().with("f", Item::file(bytes.clone())), |store| {
        Arc::new(HookedStore::new(store, hook))
    });
    let file = fs.lookup(Ino::ROOT, b"f").unwrap().ino;
    for at in (0..2 << 20).step_by(STEP) {
        read(&fs, file, at, STEP);
    }
    broken.store(true, SeqCst);
    let (other, end) = (fs.clone(), (48 << 20) - STEP as u64);
    let result = in_time("an error", move || {
        let mut at = 2 << 20;
        while at < end {
            other.read_ahead(file, at, STEP);
            other.read_at(file, at, STEP)?;
            at += STEP as u64;
        }
        Ok::<_, FsError>(())
    });
    assert!(matches!(result, Err(FsError::Io(_))));
    broken.store(false, SeqCst);
    let end = end as usize;
    assert!(in_time("the end", move || read(&fs, file, end, STEP)) == bytes[end..]);
}

#[test]
fn a_damaged_block_spoils_no_neighbour() {
    const STEP: usize = 64 << 10;
    let bytes = random_bytes(&mut Rng::with_seed(8), 8 << 20);
    let (fs, _) = far_after(&Item::dir().with("f", Item::file(bytes.clone())), |store| {
        let packs = store.list(ObjectKind::Pack).unwrap();
        let (name, size) = packs.into_iter().max_by_key(|p| p.1).unwrap();
        let mut pack = store.get(&name).unwrap();
        pack[size as usize / 2] ^= 1;
        store.replace(&name, &pack).unwrap();
        store
    });
    let file = fs.lookup(Ino::ROOT, b"f").unwrap().ino;
    let mut bad = 0;
    for at in (0..bytes.len()).step_by(STEP) {
        fs.read_ahead(file, at as u64, STEP);
        match fs.read_at(file, at as u64, STEP) {
            Ok(read) => assert!(read == bytes[at..at + STEP]),
            Err(FsError::Io(_)) => bad += 1,
            Err(e) => panic!("{e}"),
        }
    }
    assert!((1..=10).contains(&bad), "{bad}");
}
