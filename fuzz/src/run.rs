//! The local copy of the index: a damaged one must not panic, nor answer wrong.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use arbitrary::Unstructured;
use tresor_engine::format::{
    BlobId, BlobKind, IndexData, ObjectId, ObjectKind, PackEntry, Purpose, SegmentEntry, sealed,
};
use tresor_engine::index::{Index, Run, RunBuilder};
use tresor_engine::store::{MemoryStore, Store};

use crate::kit::*;

const HEADER: usize = 32;
const REPLACED: usize = 36;
const PACK: usize = 88;
const ENTRY: usize = 56;
const BLOCK: usize = 64;
const SUM: usize = 16;
const KEY: usize = 8;
const PACKS: u8 = 3;
const BLOBS: u64 = 70;

/// A run, and the index objects that it stands for.
struct Original {
    run: Vec<u8>,
    objects: Vec<Vec<u8>>,
}

fn blob(pack: u8, n: u64) -> BlobId {
    BlobId(*blake3::hash(&[&[pack], &n.to_le_bytes()[..]].concat()).as_bytes())
}

fn pack(number: u8) -> PackEntry {
    let mut segment = SegmentEntry::new(BlobKind::Data);
    segment.sealed_len = 1000;
    (0..BLOBS).for_each(|n| segment.push(&blob(number, n), 3));
    let segments = vec![segment];
    PackEntry { id: ObjectId([number; 32]), salt: [number; 32], size: 2000, segments, marked: None }
}

static ORIGINAL: LazyLock<Original> = LazyLock::new(|| {
    let mut builder = RunBuilder::default();
    let mut objects = Vec::new();
    for number in 0..PACKS {
        let data = IndexData { packs: vec![pack(number)], replaces: Vec::new() };
        let object = sealed::seal(keys(), Purpose::Index, &data).unwrap();
        builder.covered.push(ObjectId::of(&object));
        builder.add(&data.packs[0]);
        objects.push(object);
    }
    let folder = tempfile::tempdir().unwrap();
    let run = builder.write(Some(folder.path())).unwrap();
    let run = fs::read(run.path().unwrap()).unwrap();
    Original { run, objects }
});

pub fn index_run(input: &[u8]) {
    let original = &*ORIGINAL;
    let mut input = Unstructured::new(input);
    let forged = byte(&mut input) & 1 != 0;
    let bytes = if forged { forge(input.take_rest()) } else { damage(&original.run, &mut input) };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index-0000000000000000.run");
    fs::write(&path, &bytes).unwrap();
    if let Ok(run) = Run::open(&path) {
        look_at(&run, forged);
    }
    // A lookup takes what is there; the next time the index is read it is put right.
    let store: Store = std::sync::Arc::new(MemoryStore::new());
    for object in &original.objects {
        put(&*store, ObjectKind::Index, object);
    }
    with_index(folder.path(), &store, forged);
}

/// Some bytes changed, and perhaps cut off or made longer.
fn damage(run: &[u8], input: &mut Unstructured<'_>) -> Vec<u8> {
    let mut bytes = run.to_vec();
    let len = bytes.len();
    match byte(input) % 4 {
        0 => bytes.truncate(input.arbitrary::<u16>().unwrap_or_default() as usize % (len + 1)),
        1 => bytes.extend(crate::kit::bytes(input, 64)),
        _ => {}
    }
    for _ in 0..8 {
        let Ok((at, with)) = input.arbitrary::<(u16, u8)>() else { break };
        let len = bytes.len().max(1);
        if let Some(byte) = bytes.get_mut(at as usize % len) {
            *byte ^= with;
        }
    }
    bytes
}

/// A run of any contents with the right checksums: nobody promises that it answers
/// right, but it must not bring the program down.
fn forge(input: &[u8]) -> Vec<u8> {
    let mut input = Unstructured::new(input);
    let [covered, replaces, packs, entries] = input.arbitrary::<[u8; 4]>().unwrap_or_default();
    let numbers = [covered % 4, replaces % 4, packs % 4, 0].map(u32::from);
    let mut head = ORIGINAL.run[..8].to_vec();
    numbers.iter().for_each(|n| head.extend(n.to_le_bytes()));
    head.extend(u64::from(entries).to_le_bytes());
    let ids = numbers[0] as usize * 32 + numbers[1] as usize * REPLACED;
    let mut body = input.take_rest().to_vec();
    let head_len = ids + numbers[2] as usize * PACK;
    let entries = entries as usize * ENTRY;
    body.resize(head_len + entries, 0);
    let (fixed, entries) = body.split_at(head_len);
    head.extend(fixed);
    assert_eq!(head.len(), HEADER + head_len);
    let sum = |block: &[u8]| [&blake3::hash(block).as_bytes()[..SUM], &block[..KEY]].concat();
    let sums: Vec<u8> = entries.chunks(BLOCK * ENTRY).flat_map(sum).collect();
    let checksum = blake3::Hasher::new().update(&head).update(&sums).finalize();
    [&head, entries, &sums, checksum.as_bytes()].concat()
}

fn look_at(run: &Run, forged: bool) {
    for number in 0..PACKS {
        for n in 0..BLOBS {
            let found: Vec<_> = run.find(&blob(number, n)).map(|f| f.location).collect();
            let right = found.len() == 1
                && (found[0].segment.pack.0[0], u64::from(found[0].start)) == (number, 3 * n);
            assert!(right || forged || run.is_broken(), "blob {n} of pack {number}: {found:?}");
        }
    }
    assert!(run.find(&BlobId([0; 32])).next().is_none() || forged);
    let entries = (0..run.len()).filter_map(|i| run.entry(i)).filter_map(|e| run.found(&e));
    let intact = entries.count() == run.len();
    assert!(intact || forged || run.is_broken());
    assert!(run.verify() != run.is_broken());
    assert!(run.packs().count() < 1 << 10);
}

fn with_index(folder: &Path, store: &Store, forged: bool) {
    let index = Index::new(Some(folder.to_owned()));
    let synced = index.sync_checked(store, keys());
    if forged {
        return;
    }
    synced.unwrap();
    assert!(index.damaged().is_empty());
    for number in 0..PACKS {
        for n in 0..BLOBS {
            let found = index.find_all(&blob(number, n));
            assert_eq!(found.len(), 1, "blob {n} of pack {number}");
            assert_eq!(found[0].location.segment.pack.0[0], number);
            assert_eq!(u64::from(found[0].location.start), 3 * n);
        }
    }
}
