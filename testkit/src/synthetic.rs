//! Repositories of any size without payload: real index objects, trees and
//! snapshots, whose chunks lie in packs that hold nothing.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use fastrand::Rng;
use tresor_engine::Result;
use tresor_engine::format::{
    BlobId, BlobKind, Content, Extent, IndexData, Node, NodeKind, ObjectId, ObjectKind, ObjectName,
    PACK_HEADER_LEN, PACK_TRAILER_LEN, PackEntry, PathBytes, Purpose, SegmentEntry, SnapshotData,
    Summary, Time, sealed,
};
use tresor_engine::pack::PackWriter;
use tresor_engine::repo::Repository;
use tresor_engine::tree::{DirWriter, TreeSink};

/// What to make: `snapshots` trees of `directories` × `files` files of `chunks` chunks each.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub snapshots: u64,
    pub directories: u64,
    /// In each directory.
    pub files: u64,
    /// In each file.
    pub chunks: u64,
    /// Files that change from one snapshot to the next, each in a directory chosen at random.
    pub changed: u64,
    /// Length in its pack that each chunk is said to have.
    pub stored: u32,
    /// Further chunks that the index names, of no snapshot.
    pub others: u64,
}

/// Puts something of that length where a pack of chunks should be, if anything.
pub type PlacePack<'a> = &'a dyn Fn(&ObjectName, u64) -> Result<()>;

/// Length of every chunk.
const CHUNK: u32 = 128 << 10;
/// Chunks in one pack.
const PACK_CHUNKS: usize = 128;
/// Packs in one index object.
const INDEX_PACKS: usize = 512;
/// The first snapshot is of 2025-01-01, and one follows each hour.
const FIRST: i64 = 1_735_689_600;
const HOUR: i64 = 3600;

/// Makes the snapshots, oldest first. Returns how many chunks there are.
pub fn fill(repo: &Arc<Repository>, size: &Size, place: PlacePack<'_>) -> Result<u64> {
    let mut writer = PackWriter::new(repo.clone());
    let mut maker = Maker {
        chunks: Chunks::new(repo, size.stored, place),
        trees: TreeSink::new(repo, &writer),
        changes: HashMap::new(),
        roots: vec![BlobId([0; 32]); size.directories as usize],
        size: *size,
    };
    let mut rng = Rng::with_seed(20_261_123);
    let mut trees = Vec::new();
    for number in 0..size.snapshots {
        let mut changed = BTreeSet::new();
        if number == 0 {
            changed.extend(0..size.directories);
        } else {
            for _ in 0..size.changed {
                let (directory, file) = (rng.u64(..size.directories), rng.u64(..size.files));
                maker.changes.entry(directory).or_default().insert(file, number);
                changed.insert(directory);
            }
        }
        for directory in changed {
            maker.roots[directory as usize] = maker.directory(directory, number)?;
        }
        trees.push(maker.root()?);
    }
    let Maker { mut chunks, trees: mut written, .. } = maker;
    (0..size.others).try_for_each(|n| chunks.add(chunk_id([u64::MAX, 0, n, 1])))?;
    written.flush()?;
    writer.finish()?;
    let count = chunks.finish()?;
    for (number, tree) in trees.into_iter().enumerate() {
        let data = snapshot(number as i64, tree, size);
        let object = sealed::seal(repo.keys(), Purpose::Snapshot, &data)?;
        repo.put_object(ObjectKind::Snapshot, &object)?;
    }
    repo.store().settle()?;
    Ok(count)
}

fn snapshot(number: i64, tree: BlobId, size: &Size) -> SnapshotData {
    let files = size.directories * size.files;
    let time = Time::new(FIRST + number * HOUR, 0);
    SnapshotData {
        host: "host".into(),
        user: "user".into(),
        paths: vec![PathBytes(b"/data".to_vec())],
        summary: Summary {
            files,
            directories: size.directories + 1,
            bytes: files * size.chunks * u64::from(CHUNK),
            ..Summary::default()
        },
        program: "synthetic".into(),
        xattr_names: Some(Vec::new()),
        ..SnapshotData::new(time, tree)
    }
}

struct Maker<'r, 'w> {
    chunks: Chunks<'r>,
    trees: TreeSink<'w>,
    /// For each directory, which files have changed and in which snapshot last.
    changes: HashMap<u64, HashMap<u64, u64>>,
    /// Root pages of the directories as they are now.
    roots: Vec<BlobId>,
    size: Size,
}

impl Maker<'_, '_> {
    /// Writes a directory; the chunks of files that this snapshot is the first to hold are added.
    fn directory(&mut self, directory: u64, number: u64) -> Result<BlobId> {
        let mut writer = DirWriter::default();
        let changes = self.changes.get(&directory);
        for file in 0..self.size.files {
            let version = changes.and_then(|c| c.get(&file)).copied().unwrap_or(0);
            let mut node = Node::new(format!("file-{file:08}.dat"), NodeKind::File);
            let time = Time::new(FIRST + version as i64 * HOUR, 0);
            (node.mode, node.mtime, node.ctime) = (0o644, time, time);
            node.inode = directory * self.size.files + file;
            let mut extents = Vec::new();
            for chunk in 0..self.size.chunks {
                let id = chunk_id([directory, file, version, chunk]);
                if version == number {
                    self.chunks.add(id)?;
                }
                extents.push(Extent { len: u64::from(CHUNK), id: Some(id) });
            }
            node.size = self.size.chunks * u64::from(CHUNK);
            node.content = Some(Content::Extents(extents));
            writer.push(node, &mut self.trees)?;
        }
        writer.finish(&mut self.trees)
    }

    fn root(&mut self) -> Result<BlobId> {
        let mut data = DirWriter::default();
        for (number, tree) in self.roots.iter().enumerate() {
            let mut node = Node::new(format!("directory-{number:06}"), NodeKind::Directory);
            (node.mode, node.tree) = (0o755, Some(*tree));
            data.push(node, &mut self.trees)?;
        }
        let mut node = Node::new("data", NodeKind::Directory);
        (node.mode, node.tree) = (0o755, Some(data.finish(&mut self.trees)?));
        let mut root = DirWriter::default();
        root.push(node, &mut self.trees)?;
        root.finish(&mut self.trees)
    }
}

/// Looks like a hash, and is made faster than one.
fn chunk_id(of: [u64; 4]) -> BlobId {
    let mut rng = Rng::with_seed(of.iter().fold(1, |h, n| spread(h ^ n)));
    let mut id = [0; 32];
    rng.fill(&mut id);
    BlobId(id)
}

fn spread(number: u64) -> u64 {
    let x = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) ^ number.rotate_left(17)
}

/// Writes index objects about packs that nobody has filled.
struct Chunks<'r> {
    repo: &'r Repository,
    stored: u32,
    place: PlacePack<'r>,
    segments: Vec<SegmentEntry>,
    data: IndexData,
    packs: u64,
    count: u64,
}

impl<'r> Chunks<'r> {
    fn new(repo: &'r Repository, stored: u32, place: PlacePack<'r>) -> Self {
        let (segments, data) = (Vec::new(), IndexData::default());
        Self { repo, stored, place, segments, data, packs: 0, count: 0 }
    }

    fn add(&mut self, id: BlobId) -> Result<()> {
        self.count += 1;
        let mut segment = SegmentEntry::new(BlobKind::Data);
        segment.push(&id, CHUNK);
        segment.sealed_len = self.stored;
        self.segments.push(segment);
        if self.segments.len() == PACK_CHUNKS { self.close_pack() } else { Ok(()) }
    }

    fn close_pack(&mut self) -> Result<()> {
        let segments = std::mem::take(&mut self.segments);
        let sealed: u64 = segments.iter().map(|s| u64::from(s.sealed_len)).sum();
        self.packs += 1;
        let id = ObjectId(chunk_id([u64::MAX, self.packs, 0, 0]).0);
        let size = sealed + (PACK_HEADER_LEN + PACK_TRAILER_LEN + 8192) as u64;
        (self.place)(&ObjectName::new(ObjectKind::Pack, id), size)?;
        self.data.packs.push(PackEntry { id, salt: id.0, size, segments, marked: None });
        if self.data.packs.len() == INDEX_PACKS { self.write_index() } else { Ok(()) }
    }

    fn write_index(&mut self) -> Result<()> {
        let data = std::mem::take(&mut self.data);
        let object = sealed::seal(self.repo.keys(), Purpose::Index, &data)?;
        self.repo.put_object(ObjectKind::Index, &object).map(drop)
    }

    fn finish(mut self) -> Result<u64> {
        if !self.segments.is_empty() {
            self.close_pack()?;
        }
        if !self.data.packs.is_empty() {
            self.write_index()?;
        }
        Ok(self.count)
    }
}
