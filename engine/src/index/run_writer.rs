//! Writing runs: of packs, or of other runs.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use memmap2::MmapMut;

use super::run::{
    BLOCK, CHECKSUM, ENTRY, Entry, HEADER, KEY, MAGIC, PACK, PackInfo, REPLACED, Run, SUM, TREE_BIT,
};
use crate::format::{BlobId, BlobKind, ObjectId, PackEntry};

/// Runs being written are called so.
pub(super) const TEMP_PREFIX: &str = ".tmp-";

/// Collects packs, then writes them as one run.
#[derive(Default)]
pub struct RunBuilder {
    /// Index objects; packs that are added are what the last of them names.
    pub covered: Vec<ObjectId>,
    /// What they replace, each with the number of the one that replaces it.
    pub replaces: Vec<(ObjectId, u32)>,
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
            entries: pack.segments.iter().map(|s| s.blob_count() as u32).sum(),
            object: self.covered.len().saturating_sub(1) as u32,
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

    /// Writes the run into `folder`. Without one, or if that can't be written,
    /// it is an unnamed temporary file, and if need be it is in memory: a full
    /// disk on this side keeps nobody from a backup or a restore.
    pub fn write(mut self, folder: Option<&Path>) -> io::Result<Run> {
        self.entries.sort_unstable_by_key(|e| e.id);
        let content = Content {
            covered: &self.covered,
            replaces: &self.replaces,
            packs: &self.packs,
            count: self.entries.len(),
        };
        let entries = || self.entries.iter().copied();
        content.write(folder, entries).or_else(|_| content.write_memory(entries()))
    }
}

/// One run out of several, without holding their entries in memory, and without what the
/// index objects in `gone` say.
pub fn merge(
    runs: &[Arc<Run>],
    gone: &HashSet<ObjectId>,
    folder: Option<&Path>,
) -> io::Result<Run> {
    let (mut covered, mut replaces, mut packs) = (Vec::new(), Vec::new(), Vec::new());
    let mut parts = Vec::new();
    for run in runs {
        let numbers = numbers(run.covered().iter().map(|id| !gone.contains(id)), covered.len());
        covered.extend(run.covered().iter().filter(|id| !gone.contains(id)));
        // A run that covers nothing is of packs that no index object names yet.
        let of = |object: u32| numbers.get(object as usize).copied();
        let is_kept = |object: u32| of(object) != Some(GONE);
        for (id, by) in run.replaced().iter().filter(|(_, by)| is_kept(*by)) {
            replaces.push((*id, of(*by).unwrap_or(0)));
        }
        let base = packs.len();
        let numbers = self::numbers(run.packs().map(|p| is_kept(p.object)), base);
        let kept = run.packs().filter(|p| is_kept(p.object));
        packs.extend(kept.map(|p| PackInfo { object: of(p.object).unwrap_or(0), ..p }));
        parts.push(Part { run, packs: numbers });
    }
    let count = packs.iter().map(|p| p.entries as usize).sum();
    let content = Content { covered: &covered, replaces: &replaces, packs: &packs, count };
    content.write(folder, || merged(&parts))
}

/// A run to be merged, and which number each of its packs gets.
struct Part<'a> {
    run: &'a Run,
    packs: Vec<u32>,
}

/// The number of what isn't kept.
const GONE: u32 = u32::MAX;

/// Numbers for those that are kept, from `first` on.
fn numbers(kept: impl Iterator<Item = bool>, first: usize) -> Vec<u32> {
    let mut next = first as u32;
    let number = |is_kept: bool| {
        if !is_kept {
            return GONE;
        }
        next += 1;
        next - 1
    };
    kept.map(number).collect()
}

/// The entries of all parts in order; ends early if one is garbled.
fn merged<'a>(parts: &'a [Part<'a>]) -> impl Iterator<Item = Entry> + 'a {
    let mut heads: BinaryHeap<Reverse<(BlobId, usize, usize)>> = BinaryHeap::new();
    let push = |heads: &mut BinaryHeap<_>, part: usize, at: usize| {
        if at < parts[part].run.len()
            && let Some(entry) = parts[part].run.entry(at)
        {
            heads.push(Reverse((entry.id, part, at)));
        }
    };
    (0..parts.len()).for_each(|part| push(&mut heads, part, 0));
    let next = move || {
        let Reverse((_, part, at)) = heads.pop()?;
        push(&mut heads, part, at + 1);
        let mut entry = parts[part].run.entry(at)?;
        entry.pack = *parts[part].packs.get(entry.pack as usize)?;
        Some(entry)
    };
    std::iter::from_fn(next).filter(|entry| entry.pack != GONE)
}

/// What goes into a run, but for its entries.
struct Content<'a> {
    covered: &'a [ObjectId],
    replaces: &'a [(ObjectId, u32)],
    packs: &'a [PackInfo],
    /// Number of entries.
    count: usize,
}

impl Content<'_> {
    fn write<I: Iterator<Item = Entry>>(
        &self,
        folder: Option<&Path>,
        entries: impl Fn() -> I,
    ) -> io::Result<Run> {
        if let Some(run) = folder.and_then(|f| self.write_named(f, entries()).ok()) {
            return Ok(run);
        }
        let file = tempfile::tempfile()?;
        self.write_to(&file, entries())?;
        Run::map(&file)
    }

    fn write_named(&self, folder: &Path, entries: impl Iterator<Item = Entry>) -> io::Result<Run> {
        std::fs::create_dir_all(folder)?;
        let temp = tempfile::Builder::new().prefix(TEMP_PREFIX).tempfile_in(folder)?;
        self.write_to(temp.as_file(), entries)?;
        temp.as_file().sync_all()?;
        // Before it has its name: from then on another process may remove it.
        let mut run = Run::map(temp.as_file())?;
        let name = u64::from_le_bytes(crate::crypto::random().map_err(io::Error::other)?);
        let path = folder.join(format!("index-{name:016x}.run"));
        temp.persist(&path).map_err(|e| e.error)?;
        run.path = Some(path);
        Ok(run)
    }

    fn write_memory(&self, entries: impl Iterator<Item = Entry>) -> io::Result<Run> {
        let ids = self.covered.len() * 32 + self.replaces.len() * REPLACED;
        let sums = self.count.div_ceil(BLOCK) * (SUM + KEY);
        let len = HEADER + ids + self.packs.len() * PACK + self.count * ENTRY + sums + CHECKSUM;
        let mut map = MmapMut::map_anon(len)?;
        self.write_to(&mut map[..], entries)?;
        Run::new(map.make_read_only()?)
    }

    fn write_to(
        &self,
        out: impl Write,
        mut entries: impl Iterator<Item = Entry>,
    ) -> io::Result<()> {
        let mut out = BufWriter::with_capacity(1 << 18, out);
        let head = self.head();
        out.write_all(&head)?;
        let (mut sums, mut block) = (Vec::new(), Vec::with_capacity(BLOCK * ENTRY));
        let mut left = self.count;
        while left > 0 {
            let n = left.min(BLOCK);
            block.clear();
            entries.by_ref().take(n).for_each(|e| encode(&e, &mut block));
            if block.len() != n * ENTRY {
                return Err(garbled());
            }
            sums.extend_from_slice(&blake3::hash(&block).as_bytes()[..SUM]);
            sums.extend_from_slice(&block[..KEY]);
            out.write_all(&block)?;
            left -= n;
        }
        if entries.next().is_some() {
            return Err(garbled());
        }
        out.write_all(&sums)?;
        let checksum = blake3::Hasher::new().update(&head).update(&sums).finalize();
        out.write_all(checksum.as_bytes())?;
        out.flush()
    }

    fn head(&self) -> Vec<u8> {
        let mut head = MAGIC.to_vec();
        for n in [self.covered.len(), self.replaces.len(), self.packs.len(), 0] {
            head.extend_from_slice(&(n as u32).to_le_bytes());
        }
        head.extend_from_slice(&(self.count as u64).to_le_bytes());
        self.covered.iter().for_each(|id| head.extend_from_slice(&id.0));
        for (id, by) in self.replaces {
            head.extend_from_slice(&id.0);
            head.extend_from_slice(&by.to_le_bytes());
        }
        for p in self.packs {
            head.extend_from_slice(&p.id.0);
            head.extend_from_slice(&p.salt);
            head.extend_from_slice(&p.size.to_le_bytes());
            head.extend_from_slice(&p.marked.to_le_bytes());
            head.extend_from_slice(&p.entries.to_le_bytes());
            head.extend_from_slice(&p.object.to_le_bytes());
        }
        head
    }
}

fn garbled() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a run to be merged is garbled")
}

fn encode(e: &Entry, out: &mut Vec<u8>) {
    let kind = if e.kind == BlobKind::Tree { TREE_BIT } else { 0 };
    out.extend_from_slice(&e.id.0);
    for n in [e.pack, e.offset, e.sealed_len, e.raw_len, e.start, e.len | kind] {
        out.extend_from_slice(&n.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::super::run::tests::{blob, pack};
    use super::*;

    #[test]
    fn a_run_that_can_not_be_written_is_held_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "in the way").unwrap();
        let build = || {
            let mut builder = RunBuilder::default();
            builder.add(&pack(1, 0..200));
            builder
        };
        let run = build().write(Some(&file)).unwrap();
        assert!(run.path().is_none() && run.find(&blob(7)).count() == 1);
        let builder = build();
        let content = Content { covered: &[], replaces: &[], packs: &builder.packs, count: 200 };
        let mut entries = builder.entries;
        entries.sort_unstable_by_key(|e| e.id);
        let run = content.write_memory(entries.into_iter()).unwrap();
        assert!(run.verify() && (0..200).all(|n| run.find(&blob(n)).count() == 1));
    }
}
