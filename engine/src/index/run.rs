//! A run: a sorted, memory-mapped local file that says where blobs lie. Runs
//! are a cache of index objects and can be deleted at any time.
//!
//! ```text
//! magic 8 | covered u32 | replaces u32 | packs u32 | 0 u32 | entries u64
//! covered index ids, 32 each | replaced index ids, 32 each
//! packs: id 32, salt 32, size u64, marked seconds i64 (0: not marked)
//! entries sorted by id: id 32, pack, offset, sealed, raw, start u32, len u32 (top bit: tree)
//! ```

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::{Found, Location, SegmentAddr};
use crate::format::{BlobId, BlobKind, ObjectId, PackEntry};

const MAGIC: &[u8; 8] = b"TRSRUN02";
const HEADER: usize = 32;
const PACK: usize = 80;
const ENTRY: usize = 56;
const TREE_BIT: u32 = 1 << 31;

pub struct Run {
    map: Mmap,
    path: Option<PathBuf>,
    covered: Vec<ObjectId>,
    replaces: Vec<ObjectId>,
    packs_at: usize,
    packs: usize,
    entries_at: usize,
    entries: usize,
}

/// A pack as a run knows it.
#[derive(Clone, Copy, Debug)]
pub struct PackInfo {
    pub id: ObjectId,
    pub salt: [u8; 32],
    pub size: u64,
    /// Seconds since 1970 at which prune marked it; 0 if it is not marked.
    pub marked: i64,
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

impl Run {
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut run = Self::map(&File::open(path)?)?;
        run.path = Some(path.to_owned());
        Ok(run)
    }

    fn map(file: &File) -> io::Result<Self> {
        // SAFETY: runs are written under a temporary name and never changed
        // afterwards; the folder belongs to the user.
        let map = unsafe { Mmap::map(file)? };
        Self::parse(map)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an index run"))
    }

    fn parse(map: Mmap) -> Option<Self> {
        if map.get(..8)? != MAGIC {
            return None;
        }
        let number = |at: usize| Some(u32_at(map.get(at..at + 4)?) as usize);
        let (covered, replaces, packs) = (number(8)?, number(12)?, number(16)?);
        let entries = usize::try_from(u64_at(map.get(24..32)?)).ok()?;
        let replaces_at = HEADER + covered * 32;
        let packs_at = replaces_at + replaces * 32;
        let entries_at = packs_at + packs * PACK;
        if entries.checked_mul(ENTRY)?.checked_add(entries_at)? != map.len() {
            return None;
        }
        let ids = |at: usize, n: usize| {
            (0..n).map(|i| id_at(&map[at + i * 32..])).map(ObjectId).collect()
        };
        Some(Self {
            covered: ids(HEADER, covered),
            replaces: ids(replaces_at, replaces),
            path: None,
            packs_at,
            packs,
            entries_at,
            entries,
            map,
        })
    }

    pub fn covered(&self) -> &[ObjectId] {
        &self.covered
    }

    pub fn replaces(&self) -> &[ObjectId] {
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
        })
    }

    fn id(&self, i: usize) -> &[u8] {
        &self.map[self.entries_at + i * ENTRY..][..32]
    }

    pub fn entry(&self, i: usize) -> Entry {
        let e = &self.map[self.entries_at + i * ENTRY..][..ENTRY];
        let len = u32_at(&e[52..]);
        Entry {
            id: BlobId(id_at(e)),
            kind: if len & TREE_BIT != 0 { BlobKind::Tree } else { BlobKind::Data },
            pack: u32_at(&e[32..]),
            offset: u32_at(&e[36..]),
            sealed_len: u32_at(&e[40..]),
            raw_len: u32_at(&e[44..]),
            start: u32_at(&e[48..]),
            len: len & !TREE_BIT,
        }
    }

    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        (0..self.entries).map(|i| self.entry(i))
    }

    /// Numbers of the entries of a blob.
    pub fn positions(&self, id: &BlobId) -> impl Iterator<Item = usize> + '_ {
        let (id, first) = (*id, self.first_at_least(id));
        (first..self.entries).take_while(move |&i| self.id(i) == id.0)
    }

    /// Every place of a blob.
    pub fn find(&self, id: &BlobId) -> impl Iterator<Item = Found> + '_ {
        self.positions(id).filter_map(|i| self.found(&self.entry(i)))
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

    /// Ids are evenly spread, so a guess by value is near; then bisect.
    fn first_at_least(&self, id: &BlobId) -> usize {
        let (mut low, mut high) = (0, self.entries);
        let key = u64::from_be_bytes(id.0[..8].try_into().unwrap_or_default());
        let guess = ((u128::from(key) * self.entries as u128) >> 64) as usize;
        let mut step = 8 + self.entries.isqrt() / 4;
        let mut at = guess.min(self.entries.saturating_sub(1));
        while low < high {
            if self.id(at) < &id.0[..] {
                low = at + 1;
                at = (at + step).min(high - 1).max(low.min(high - 1));
            } else {
                high = at;
                at = at.saturating_sub(step).max(low);
            }
            step *= 2;
            if high - low <= step {
                break;
            }
        }
        while low < high {
            let middle = low + (high - low) / 2;
            if self.id(middle) < &id.0[..] { low = middle + 1 } else { high = middle }
        }
        low
    }
}

/// Collects packs, then writes them as one run.
#[derive(Default)]
pub struct RunBuilder {
    pub covered: Vec<ObjectId>,
    pub replaces: Vec<ObjectId>,
    packs: Vec<PackInfo>,
    entries: Vec<Entry>,
}

impl RunBuilder {
    pub fn add(&mut self, pack: &PackEntry) {
        let number = self.packs.len() as u32;
        self.packs.push(PackInfo {
            id: pack.id,
            salt: pack.salt,
            size: pack.size,
            marked: pack.marked.map_or(0, |t| t.seconds.max(1)),
        });
        for (offset, segment) in pack.placed() {
            let raw_len = segment.raw_len() as u32;
            self.entries.extend(segment.blobs().map(|(id, start, len)| Entry {
                id,
                kind: segment.kind,
                pack: number,
                offset,
                sealed_len: segment.sealed_len,
                raw_len,
                start,
                len,
            }));
        }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Writes the run into `folder`, or into an unnamed temporary file without one.
    pub fn write(mut self, folder: Option<&Path>) -> io::Result<Run> {
        self.entries.sort_unstable_by_key(|e| e.id);
        let head = Head { covered: &self.covered, replaces: &self.replaces, packs: &self.packs };
        let count = self.entries.len();
        write(folder, head, count, self.entries.into_iter())
    }
}

/// One run out of several, without holding their entries in memory.
pub fn merge(runs: &[std::sync::Arc<Run>], folder: Option<&Path>) -> io::Result<Run> {
    let mut bases = Vec::new();
    let mut packs = Vec::new();
    for run in runs {
        bases.push(packs.len() as u32);
        packs.extend(run.packs());
    }
    let covered: Vec<_> = runs.iter().flat_map(|r| r.covered.iter().copied()).collect();
    let replaces: Vec<_> = runs.iter().flat_map(|r| r.replaces.iter().copied()).collect();
    let mut heads: BinaryHeap<Reverse<(BlobId, usize, usize)>> = BinaryHeap::new();
    let push = |heads: &mut BinaryHeap<_>, run: usize, at: usize| {
        if at < runs[run].entries {
            heads.push(Reverse((runs[run].entry(at).id, run, at)));
        }
    };
    (0..runs.len()).for_each(|run| push(&mut heads, run, 0));
    let entries = std::iter::from_fn(|| {
        let Reverse((_, run, at)) = heads.pop()?;
        push(&mut heads, run, at + 1);
        let mut entry = runs[run].entry(at);
        entry.pack += bases[run];
        Some(entry)
    });
    let count = runs.iter().map(|r| r.entries).sum();
    write(folder, Head { covered: &covered, replaces: &replaces, packs: &packs }, count, entries)
}

struct Head<'a> {
    covered: &'a [ObjectId],
    replaces: &'a [ObjectId],
    packs: &'a [PackInfo],
}

fn write(
    folder: Option<&Path>,
    head: Head<'_>,
    count: usize,
    entries: impl Iterator<Item = Entry>,
) -> io::Result<Run> {
    if let Some(folder) = folder {
        std::fs::create_dir_all(folder)?;
        let temp = tempfile::Builder::new().prefix(".tmp-").tempfile_in(folder)?;
        write_to(temp.as_file(), head, count, entries)?;
        let mut name = [0; 8];
        getrandom::fill(&mut name).map_err(io::Error::other)?;
        let path = folder.join(format!("index-{:016x}.run", u64::from_le_bytes(name)));
        temp.persist(&path).map_err(|e| e.error)?;
        Run::open(&path)
    } else {
        let file = tempfile::tempfile()?;
        write_to(&file, head, count, entries)?;
        Run::map(&file)
    }
}

fn write_to(
    file: &File,
    head: Head<'_>,
    count: usize,
    entries: impl Iterator<Item = Entry>,
) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 18, file);
    out.write_all(MAGIC)?;
    for n in [head.covered.len(), head.replaces.len(), head.packs.len(), 0] {
        out.write_all(&(n as u32).to_le_bytes())?;
    }
    out.write_all(&(count as u64).to_le_bytes())?;
    for id in head.covered.iter().chain(head.replaces) {
        out.write_all(&id.0)?;
    }
    for p in head.packs {
        out.write_all(&p.id.0)?;
        out.write_all(&p.salt)?;
        out.write_all(&p.size.to_le_bytes())?;
        out.write_all(&p.marked.to_le_bytes())?;
    }
    for e in entries {
        let kind = if e.kind == BlobKind::Tree { TREE_BIT } else { 0 };
        out.write_all(&e.id.0)?;
        for n in [e.pack, e.offset, e.sealed_len, e.raw_len, e.start, e.len | kind] {
            out.write_all(&n.to_le_bytes())?;
        }
    }
    out.flush()
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
mod tests {
    use super::*;
    use crate::format::SegmentEntry;
    use std::sync::Arc;

    fn blob(n: u64) -> BlobId {
        BlobId(*blake3::hash(&n.to_le_bytes()).as_bytes())
    }

    fn pack(n: u8, blobs: std::ops::Range<u64>) -> PackEntry {
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
        let merged = merge(&runs, Some(folder.path())).unwrap();
        let run = Run::open(merged.path().unwrap()).unwrap();
        assert_eq!(run.covered().len(), 2);
        let packs =
            |n| -> Vec<u8> { run.find(&blob(n)).map(|f| f.location.segment.pack.0[0]).collect() };
        assert_eq!((packs(3), packs(450), packs(850)), (vec![1], vec![1, 2], vec![2]));
    }
}
