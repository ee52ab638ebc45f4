//! What fuzzers have found interesting, and what is known to be unkind, again:
//! nothing breaks a promise, or takes more memory than its size allows.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use tresor_engine::compress::compress_into;
use tresor_engine::crypto::KdfCost;
use tresor_engine::format::{
    ContentPage, IndexData, KeySlot, ObjectId, ObjectKind, ObjectName, Purpose, SnapshotData,
    TreePage, sealed,
};
use tresor_engine::repo::{InitOptions, OpenOptions, Repository};
use tresor_engine::store::{MemoryStore, Store};
use tresor_fuzz::{Counting, TARGETS, keys, measure, sealed_text, seeds, target};
use tresor_testkit::password;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MIB: usize = 1 << 20;

/// One test at a time: what is counted is counted for the whole program.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(|e| e.into_inner())
}

/// The inputs for a target in a folder of this crate.
fn inputs(folder: &str, target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(target);
    let files = fs::read_dir(&folder).into_iter().flatten();
    files.map(|f| fs::read(f.unwrap().path()).unwrap()).collect()
}

fn replay(names: &[&str]) {
    let _alone = alone();
    for name in names {
        let target = target(name).unwrap();
        let corpus = inputs("corpus", name);
        assert!(!corpus.is_empty(), "{name} has no corpus");
        target.check(&[]);
        let found = inputs("found-before", name);
        corpus.iter().chain(&found).chain(&seeds(name)).for_each(|input| target.check(input));
    }
}

/// Those that take milliseconds each.
const WHOLE: [&str; 4] = ["index_run", "state_file", "repository", "hostile"];

#[test]
fn parsers() {
    let names: Vec<_> = TARGETS.iter().map(|t| t.name).filter(|n| !WHOLE.contains(n)).collect();
    replay(&names);
}

#[test]
fn local_copies_of_the_index() {
    replay(&["index_run"]);
}

#[test]
fn what_a_client_has_seen() {
    replay(&["state_file"]);
}

#[test]
fn repositories_that_somebody_has_meddled_with() {
    replay(&["repository"]);
}

#[test]
fn trees_that_nobody_saved() {
    replay(&["hostile"]);
}

/// CBOR of a structure whose list, under this key, has so many times the same element.
fn list_of(key: u8, element: &[u8], len: usize) -> Vec<u8> {
    let count = (len / element.len()) as u32;
    let head = [&[0xa1, key, 0x9a][..], &count.to_be_bytes()].concat();
    [head, element.repeat(count as usize)].concat()
}

/// Decoded, nothing takes more than this for a byte of its plaintext.
const DECODED: usize = 100;

/// Small objects that become as much as the format allows, of what takes most memory.
#[test]
fn bombs_are_bounded_by_the_limits_of_the_format() {
    let _alone = alone();
    let seal = |plain: &[u8], len: usize, purpose| {
        let mut payload = Vec::new();
        compress_into(plain, &mut payload);
        let lengths = [payload.len() as u32, len as u32].map(u32::to_le_bytes).concat();
        sealed_text(keys(), purpose, &[&lengths[..], &payload].concat())
    };
    let plain = list_of(5, &[0x60], 8 * MIB);
    let bomb = seal(&plain, plain.len(), Purpose::Snapshot);
    assert!(bomb.len() < 100_000);
    let (opened, took) = measure(|| sealed::open::<SnapshotData>(keys(), Purpose::Snapshot, bomb));
    assert!(opened.is_err() && took.peak < DECODED * plain.len(), "{took:?}");
    let plain = list_of(0, &[0xa0], 8 * MIB);
    let bomb = seal(&plain, plain.len(), Purpose::Index);
    let (opened, took) = measure(|| sealed::open::<IndexData>(keys(), Purpose::Index, bomb));
    assert!(opened.is_err() && took.peak < 4 * plain.len(), "{took:?}");
    // More than the limit is not even unpacked, nor is what can't be so much.
    for len in [(64 << 20) + 1, u32::MAX as usize, 64 << 20] {
        let bomb = seal(b"short, and as short compressed", len, Purpose::Index);
        let (opened, took) = measure(|| sealed::open::<IndexData>(keys(), Purpose::Index, bomb));
        assert!(opened.is_err() && took.peak < MIB, "{len}: {took:?}");
    }
}

/// The same for pages: they are decoded from what a segment holds.
#[test]
fn pages_take_a_multiple_of_their_length() {
    let _alone = alone();
    let nodes = {
        let mut node = tresor_engine::format::Node::new("", tresor_engine::format::NodeKind::File);
        let page = |node: &tresor_engine::format::Node| TreePage::Leaf(vec![node.clone(); 100_000]);
        node.name = b"a".to_vec();
        page(&node).encode()
    };
    let page = |variant: u8, element: &[u8]| {
        let count = (2 * MIB / element.len()) as u32;
        let head = [&[0x82, variant, 0x81, 0x9a][..], &count.to_be_bytes()].concat();
        [head, element.repeat(count as usize)].concat()
    };
    let extents = page(0, &[0x81, 1]);
    for bytes in [&nodes, &extents, &page(1, &[0x82, 1, 0x58])] {
        let (_, took) =
            measure(|| (TreePage::decode(bytes).is_ok(), ContentPage::decode(bytes).is_ok()));
        assert!(took.peak < DECODED * bytes.len(), "{took:?} for {}", bytes.len());
    }
}

/// Who has no key can put slots there that cost much. Whoever knows a password doesn't
/// wait for those that cost more than the right one.
#[test]
fn expensive_key_slots_delay_nobody_who_knows_a_password() {
    let _alone = alone();
    let store: Store = Arc::new(MemoryStore::new());
    let cost = KdfCost { memory: 8 * 1024, passes: 1, lanes: 1 };
    Repository::init(
        &store,
        &password(),
        &InitOptions { label: "x".into(), cost, parity: None, chunks: Default::default() },
    )
    .unwrap();
    let (good, _) = store.list(ObjectKind::Key).unwrap()[0];
    let good: KeySlot = minicbor::decode(&store.get(&good).unwrap()).unwrap();
    // So many that some come first by name.
    for n in 0..16 {
        let costs = [(512 << 10, 16), (1 << 20, 8), (1 << 20, 64)];
        let (memory, passes) = costs[n % costs.len()];
        let junk = KeySlot { memory, passes, salt: [n as u8; 32], ..good.clone() };
        let bytes = minicbor::to_vec(&junk).unwrap();
        let id = ObjectId(*blake3::hash(&bytes).as_bytes());
        store.put(&ObjectName::new(ObjectKind::Key, id), &bytes).unwrap();
    }
    let open = || Repository::open(store.clone(), &password(), &OpenOptions::default());
    let (opened, took) = measure(open);
    opened.unwrap();
    assert!(took.peak < 64 * MIB, "an expensive slot was tried first: {took:?}");
}
