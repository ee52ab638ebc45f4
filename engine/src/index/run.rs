//! A run: a sorted, memory-mapped local file that says where blobs lie. Runs
//! are a cache of index objects and can be deleted at any time.
//!
//! ```text
//! magic 8 | covered u32 | replaces u32 | packs u32 | 0 u32 | entries u64
//! covered index ids, 32 each
//! replaced index ids: id 32, by which of those covered u32
//! packs: id 32, salt 32, size u64, marked seconds i64 (0: not marked),
//!        number of entries u32, of which of those covered u32
//! entries sorted by id: id 32, pack, offset, sealed, raw, start u32, len u32 (top bit: tree)
//! for each block of 64 entries: 16 bytes, the beginning of its BLAKE3; the first 8 bytes of its first id
//! checksum 32: BLAKE3 of everything but the entries
//! ```
//!
//! A garbled entry could make prune drop a pack that is needed, so nothing is
//! believed unchecked. Hashing a whole run whenever it is opened would take
//! seconds where the repository is large, so opening checks all but the entries,
//! and each block of entries is checked when it is first looked at.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use memmap2::Mmap;

use super::{Found, Location, SegmentAddr};
use crate::format::{BlobId, BlobKind, DOOMED, ObjectId};

pub(super) const MAGIC: &[u8; 8] = b"TRSRUN04";
pub(super) const HEADER: usize = 32;
pub(super) const REPLACED: usize = 36;
pub(super) const PACK: usize = 88;
pub(super) const ENTRY: usize = 56;
pub(super) const TREE_BIT: u32 = 1 << 31;
/// Entries in a block.
pub(super) const BLOCK: usize = 64;
pub(super) const SUM: usize = 16;
pub(super) const KEY: usize = 8;
pub(super) const CHECKSUM: usize = 32;

pub struct Run {
    map: Mmap,
    pub(super) path: Option<PathBuf>,
    covered: Vec<ObjectId>,
    /// Each with the number of the covered one that replaces it.
    replaces: Vec<(ObjectId, u32)>,
    packs_at: usize,
    packs: usize,
    entries_at: usize,
    entries: usize,
    sums_at: usize,
    /// A bit for each block that was found to be what was written.
    checked: Vec<AtomicU64>,
    /// A block was not.
    broken: AtomicBool,
}

/// A pack as a run knows it.
#[derive(Clone, Copy, Debug)]
pub struct PackInfo {
    pub id: ObjectId,
    pub salt: [u8; 32],
    pub size: u64,
    /// Seconds since 1970 at which prune marked it; 0 if it is not marked.
    pub marked: i64,
    /// Entries of the run that lie in it.
    pub entries: u32,
    /// Which of the index objects that the run covers names it.
    pub object: u32,
}

/// A blob and where it lies.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub id: BlobId,
    pub kind: BlobKind,
    /// Index into the run's packs.
    pub pack: u32,
    pub offset: u32,
    pub sealed_len: u32,
    pub raw_len: u32,
    pub start: u32,
    pub len: u32,
}

impl PackInfo {
    /// See [`PackEntry::is_doomed`](crate::format::PackEntry::is_doomed).
    pub fn is_doomed(&self) -> bool {
        self.marked != 0 && self.marked <= DOOMED.seconds
    }
}

impl Run {
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut run = Self::map(&File::open(path)?)?;
        run.path = Some(path.to_owned());
        Ok(run)
    }

    pub(super) fn map(file: &File) -> io::Result<Self> {
        // SAFETY: runs are written under a temporary name and never changed
        // afterwards; the folder belongs to the user.
        Self::new(unsafe { Mmap::map(file)? })
    }

    pub(super) fn new(map: Mmap) -> io::Result<Self> {
        Self::parse(map)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an intact index run"))
    }

    fn parse(map: Mmap) -> Option<Self> {
        if map.get(..8)? != MAGIC {
            return None;
        }
        let number = |at: usize| Some(u32_at(map.get(at..at + 4)?) as usize);
        let (covered, replaces, packs) = (number(8)?, number(12)?, number(16)?);
        let entries = usize::try_from(u64_at(map.get(24..32)?)).ok()?;
        let replaces_at = HEADER + covered * 32;
        let packs_at = replaces_at + replaces * REPLACED;
        let entries_at = packs_at + packs * PACK;
        let sums_at = entries.checked_mul(ENTRY)?.checked_add(entries_at)?;
        let blocks = entries.div_ceil(BLOCK);
        let checksum_at = sums_at.checked_add(blocks * (SUM + KEY))?;
        if checksum_at.checked_add(CHECKSUM)? != map.len() {
            return None;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&map[..entries_at]).update(&map[sums_at..checksum_at]);
        if hasher.finalize().as_bytes()[..] != map[checksum_at..] {
            return None;
        }
        let replaced = |i: usize| {
            let at = &map[replaces_at + i * REPLACED..];
            (ObjectId(id_at(at)), u32_at(&at[32..]))
        };
        Some(Self {
            covered: (0..covered).map(|i| ObjectId(id_at(&map[HEADER + i * 32..]))).collect(),
            replaces: (0..replaces).map(replaced).collect(),
            path: None,
            packs_at,
            packs,
            entries_at,
            entries,
            sums_at,
            checked: (0..blocks.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            broken: AtomicBool::new(false),
            map,
        })
    }

    /// Whether entries were found garbled. Such a run knows nothing any more, and
    /// the next sync does without it.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Relaxed)
    }

    /// Checks all entries that were not looked at so far; false if the run is broken.
    pub fn verify(&self) -> bool {
        (0..self.entries.div_ceil(BLOCK)).all(|block| self.check(block))
    }

    fn check(&self, block: usize) -> bool {
        if self.is_broken() {
            return false;
        }
        let (word, bit) = (&self.checked[block / 64], 1 << (block % 64));
        if word.load(Relaxed) & bit != 0 {
            return true;
        }
        let (first, end) = (block * BLOCK, self.entries.min((block + 1) * BLOCK));
        let bytes = &self.map[self.entries_at + first * ENTRY..self.entries_at + end * ENTRY];
        let sum = &self.map[self.sums_at + block * (SUM + KEY)..][..SUM];
        let intact = blake3::hash(bytes).as_bytes()[..SUM] == *sum;
        if intact {
            word.fetch_or(bit, Relaxed);
        } else {
            self.broken.store(true, Relaxed);
        }
        intact
    }

    pub fn covered(&self) -> &[ObjectId] {
        &self.covered
    }

    /// What covered index objects replace, each with the one that replaces it.
    pub fn replaces(&self) -> impl Iterator<Item = (&ObjectId, &ObjectId)> {
        self.replaces.iter().filter_map(|(id, by)| Some((id, self.covered.get(*by as usize)?)))
    }

    /// The same as numbers of covered ones.
    pub(super) fn replaced(&self) -> &[(ObjectId, u32)] {
        &self.replaces
    }

    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    pub fn len(&self) -> usize {
        self.entries
    }

    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    pub fn packs(&self) -> impl Iterator<Item = PackInfo> + '_ {
        (0..self.packs).filter_map(|i| self.pack(i as u32))
    }

    pub fn pack(&self, number: u32) -> Option<PackInfo> {
        if number as usize >= self.packs {
            return None;
        }
        let p = &self.map[self.packs_at + number as usize * PACK..][..PACK];
        Some(PackInfo {
            id: ObjectId(id_at(p)),
            salt: id_at(&p[32..]),
            size: u64_at(&p[64..]),
            marked: u64_at(&p[72..]) as i64,
            entries: u32_at(&p[80..]),
            object: u32_at(&p[84..]),
        })
    }

    /// The bytes of an entry; `None` if they are not what was written.
    fn bytes(&self, i: usize) -> Option<&[u8]> {
        self.check(i / BLOCK).then(|| &self.map[self.entries_at + i * ENTRY..][..ENTRY])
    }

    fn id(&self, i: usize) -> Option<&[u8]> {
        self.bytes(i).map(|e| &e[..32])
    }

    /// `None` if it is garbled.
    pub fn entry(&self, i: usize) -> Option<Entry> {
        let e = self.bytes(i)?;
        let len = u32_at(&e[52..]);
        Some(Entry {
            id: BlobId(id_at(e)),
            kind: if len & TREE_BIT != 0 { BlobKind::Tree } else { BlobKind::Data },
            pack: u32_at(&e[32..]),
            offset: u32_at(&e[36..]),
            sealed_len: u32_at(&e[40..]),
            raw_len: u32_at(&e[44..]),
            start: u32_at(&e[48..]),
            len: len & !TREE_BIT,
        })
    }

    /// Numbers of the entries of a blob.
    pub fn positions<'r>(&'r self, id: &BlobId) -> impl Iterator<Item = usize> + use<'r> {
        let (id, first) = (*id, self.first_at_least(id).unwrap_or(self.entries));
        (first..self.entries).take_while(move |&i| self.id(i) == Some(&id.0[..]))
    }

    /// Every place of a blob.
    pub fn find<'r>(&'r self, id: &BlobId) -> impl Iterator<Item = Found> + use<'r> {
        self.positions(id).filter_map(|i| self.found(&self.entry(i)?))
    }

    pub fn found(&self, e: &Entry) -> Option<Found> {
        let pack = self.pack(e.pack)?;
        let segment = SegmentAddr {
            pack: pack.id,
            salt: pack.salt,
            offset: e.offset,
            sealed_len: e.sealed_len,
            raw_len: e.raw_len,
        };
        let location = Location { segment, start: e.start, len: e.len };
        Some(Found { location, kind: e.kind, marked: (pack.marked != 0).then_some(pack.marked) })
    }

    /// Number of the first entry that is not before the blob. The keys of blocks tell which
    /// block to look at; each block that is looked at must be read and hashed.
    fn first_at_least(&self, id: &BlobId) -> Option<usize> {
        let (blocks, key) = (self.entries.div_ceil(BLOCK), key_of(&id.0));
        // Ids are evenly spread, so where one should be is known well.
        let near = (u128::from(key) * blocks as u128) >> 64;
        let before = partition(blocks, near as usize, |b| Some(self.key(b) < key))?;
        let after = partition(blocks, before, |b| Some(self.key(b) <= key))?;
        let first = before.saturating_sub(1) * BLOCK;
        let count = (after * BLOCK).min(self.entries).saturating_sub(first);
        let low = if before > 0 { self.key(before - 1) } else { 0 };
        let high = if after < blocks { self.key(after) } else { u64::MAX };
        let share = key.saturating_sub(low) as f64 / high.saturating_sub(low) as f64;
        let at = partition(count, (share * count as f64) as usize, |i| {
            let one = self.id(first + i)?;
            // Nearly always it is enough to compare numbers.
            let order = key_of(one).cmp(&key).then_with(|| one.cmp(&id.0[..]));
            Some(order.is_lt())
        })?;
        Some(first + at)
    }

    /// The beginning of the first id of a block.
    fn key(&self, block: usize) -> u64 {
        key_of(&self.map[self.sums_at + block * (SUM + KEY) + SUM..])
    }
}

/// How many of so many sorted things are before something: searched from `near` on, going
/// out in growing steps. `None` if one can't be looked at.
fn partition(count: usize, near: usize, before: impl Fn(usize) -> Option<bool>) -> Option<usize> {
    let (mut low, mut high, mut step) = (0, count, 1);
    if near < count && before(near)? {
        low = near + 1;
        while low + step < high {
            if !before(low + step)? {
                high = low + step;
                break;
            }
            (low, step) = (low + step + 1, step * 2);
        }
    } else {
        high = near.min(count);
        while high > step {
            if before(high - step)? {
                low = high - step + 1;
                break;
            }
            (high, step) = (high - step, step * 2);
        }
    }
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle)? { low = middle + 1 } else { high = middle }
    }
    Some(low)
}

/// The beginning of an id as a number.
fn key_of(id: &[u8]) -> u64 {
    id.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

fn u32_at(b: &[u8]) -> u32 {
    u32::from_le_bytes([b[0], b[1], b[2], b[3]])
}

fn u64_at(b: &[u8]) -> u64 {
    u64::from(u32_at(b)) | u64::from(u32_at(&b[4..])) << 32
}

fn id_at(b: &[u8]) -> [u8; 32] {
    let mut id = [0; 32];
    id.copy_from_slice(&b[..32]);
    id
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use super::super::run_writer::{RunBuilder, merge};
    use super::*;
    use crate::format::{PackEntry, SegmentEntry};

    pub(crate) fn blob(n: u64) -> BlobId {
        BlobId(*blake3::hash(&n.to_le_bytes()).as_bytes())
    }

    pub(crate) fn pack(n: u8, blobs: std::ops::Range<u64>) -> PackEntry {
        let mut segment = SegmentEntry::new(BlobKind::Data);
        segment.sealed_len = 100;
        blobs.for_each(|b| segment.push(&blob(b), 3));
        let segments = vec![segment];
        PackEntry { id: ObjectId([n; 32]), salt: [n; 32], size: 1000, segments, marked: None }
    }

    #[test]
    fn finds_exactly_what_was_added() {
        for count in [0u64, 1, 2, 10, 1000, 20_000] {
            let mut builder = RunBuilder::default();
            builder.add(&pack(1, 0..count));
            let run = builder.write(None).unwrap();
            assert_eq!(run.len() as u64, count);
            for n in 0..count {
                let found: Vec<_> = run.find(&blob(n)).collect();
                assert_eq!(found.len(), 1);
                assert_eq!(found[0].location.start as u64, 3 * n);
            }
            assert!((count..count + 100).all(|n| run.find(&blob(n)).next().is_none()));
        }
    }

    #[test]
    fn a_blob_is_found_by_looking_at_few_places() {
        let folder = tempfile::tempdir().unwrap();
        let mut builder = RunBuilder::default();
        builder.add(&pack(1, 0..90_000));
        let path = builder.write(Some(folder.path())).unwrap().path().unwrap().to_owned();
        let (mut blocks, count) = (0, 300);
        for n in 0..count {
            let run = Run::open(&path).unwrap();
            assert_eq!(run.find(&blob(n * 299)).count(), 1);
            blocks += run.checked.iter().map(|w| w.load(Relaxed).count_ones()).sum::<u32>();
        }
        // Its own, and at times the one before or after.
        assert!(blocks < count as u32 * 11 / 10, "{blocks}");
    }

    #[test]
    fn ids_that_are_not_spread_evenly_are_found_too() {
        let id = |n: u64, of: u8| {
            let mut id = [of; 32];
            id[24..].copy_from_slice(&n.to_be_bytes());
            BlobId(id)
        };
        for of in [0, 1, 0x80, 0xff] {
            let mut segment = SegmentEntry::new(BlobKind::Data);
            segment.sealed_len = 100;
            (0..2000).for_each(|n| segment.push(&id(2 * n + 1, of), 3));
            let mut builder = RunBuilder::default();
            builder.add(&PackEntry { segments: vec![segment], ..pack(1, 0..0) });
            let run = builder.write(None).unwrap();
            assert!((0..4001).all(|n| run.find(&id(n, of)).count() as u64 == n % 2));
        }
    }

    #[test]
    fn merging_keeps_every_place_and_survives_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let runs: Vec<_> = [pack(1, 0..500), pack(2, 400..900)]
            .iter()
            .map(|p| {
                let mut builder = RunBuilder::default();
                builder.covered.push(p.id);
                builder.add(p);
                Arc::new(builder.write(None).unwrap())
            })
            .collect();
        let merged = merge(&runs, &HashSet::new(), Some(folder.path())).unwrap();
        let run = Run::open(merged.path().unwrap()).unwrap();
        assert_eq!(run.covered().len(), 2);
        let packs =
            |n| -> Vec<u8> { run.find(&blob(n)).map(|f| f.location.segment.pack.0[0]).collect() };
        assert_eq!((packs(3), packs(450), packs(850)), (vec![1], vec![1, 2], vec![2]));
    }

    #[test]
    fn what_some_objects_say_can_be_left_out() {
        let mut builder = RunBuilder::default();
        for n in 1..=3 {
            builder.covered.push(ObjectId([n; 32]));
            builder.replaces.push((ObjectId([10 * n; 32]), u32::from(n) - 1));
            builder.add(&pack(n, u64::from(n) * 100..u64::from(n) * 100 + 200));
            builder.add(&pack(10 * n, u64::from(n) * 1000..u64::from(n) * 1000 + 70));
        }
        let run = Arc::new(builder.write(None).unwrap());
        let gone = HashSet::from([ObjectId([2; 32])]);
        let rest = merge(&[run], &gone, None).unwrap();
        assert_eq!(rest.covered(), [ObjectId([1; 32]), ObjectId([3; 32])]);
        let replaces: Vec<_> = rest.replaces().map(|(id, by)| (id.0[0], by.0[0])).collect();
        assert_eq!(replaces, [(10, 1), (30, 3)]);
        let packs: Vec<_> = rest.packs().map(|p| (p.id.0[0], p.object, p.entries)).collect();
        assert_eq!(packs, [(1, 0, 200), (10, 0, 70), (3, 1, 200), (30, 1, 70)]);
        let packs =
            |n| -> Vec<u8> { rest.find(&blob(n)).map(|f| f.location.segment.pack.0[0]).collect() };
        assert_eq!((packs(250), packs(350), packs(450)), (vec![1], vec![3], vec![3]));
        assert_eq!((packs(1050), packs(2050), packs(3050)), (vec![10], vec![], vec![30]));
        assert!(rest.verify() && rest.len() == 540);
    }

    #[test]
    fn a_garbled_run_is_noticed_and_answers_nothing_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let mut builder = RunBuilder::default();
        builder.covered.push(ObjectId([9; 32]));
        builder.replaces.push((ObjectId([8; 32]), 0));
        builder.add(&pack(1, 0..130));
        let run = builder.write(Some(folder.path())).unwrap();
        assert!(run.verify());
        let path = run.path().unwrap().to_owned();
        let bytes = std::fs::read(&path).unwrap();
        let garbled = |bytes: &[u8]| {
            let mut map = memmap2::MmapMut::map_anon(bytes.len())?;
            map.copy_from_slice(bytes);
            Run::new(map.make_read_only()?)
        };
        assert!(garbled(&bytes).unwrap().verify());
        let inside = run.entries_at..run.sums_at;
        for at in (0..bytes.len()).filter(|at| !inside.contains(at) || at % 5 == 0) {
            let mut copy = bytes.clone();
            copy[at] ^= 0x10;
            // Either it isn't opened, or an entry is wrong and says so.
            let Ok(run) = garbled(&copy) else { continue };
            assert!(inside.contains(&at));
            for n in 0..130 {
                let starts = run.find(&blob(n)).map(|f| u64::from(f.location.start));
                assert!(starts.eq([3 * n]) || run.is_broken(), "{at}: {n}");
            }
            assert!(run.is_broken() && !run.verify());
            assert!(merge(&[Arc::new(run)], &HashSet::new(), None).is_err());
        }
        assert!((0..bytes.len()).all(|len| garbled(&bytes[..len]).is_err()));
    }
}
