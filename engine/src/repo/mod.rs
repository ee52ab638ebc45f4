//! An open repository: keys, index, and reading blobs.

mod distance;
mod fetch;
mod forgotten;
mod keys;
mod open;
mod seen;
mod snapshots;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub use fetch::{may_fetch, without_fetching};
pub use keys::SlotDescription;
pub(crate) use open::read_slot;
pub use open::{InitOptions, OpenOptions, now};
pub use seen::{Difference, Notice, OddSnapshots, Setback, StateOptions, Whole};
pub use snapshots::{Damaged, REPAIRED, Snapshot};

use self::distance::Distance;
use crate::cache::Cache;
use crate::crypto::Keys;
use crate::error::{Error, Result};
use crate::format::{
    BlobId, BlobKind, Config, ConfigSecret, ContentPage, Node, ObjectId, ObjectKind, ObjectName,
    Time, TreePage,
};
use crate::index::{Found, Index, Location, Reliance, SegmentAddr};
use crate::object;
use crate::pack::{Segment, open_segment};
use crate::parity::Guarded;
use crate::store::Store;

/// Decoded pages kept, in bytes.
const PAGE_CACHE: usize = 10 << 20;
/// Pages of chunk lists kept, in bytes of their encoded form; decoded they are little larger.
const CONTENT_CACHE: usize = 4 << 20;
/// Segments of tree blobs kept, in bytes.
const TREE_SEGMENT_CACHE: usize = 4 << 20;
/// The same where trees of many snapshots are read side by side: what each of them
/// has added lies in a segment of its own, and its neighbours are wanted next.
const SIDE_BY_SIDE_CACHE: usize = 32 << 20;
/// A restore that plans with an unknown blob makes the index be read again, but
/// not more often than this.
const REFRESH_EVERY: Duration = Duration::from_secs(2);

/// What reading has cost so far.
#[derive(Default, Debug)]
pub struct Counters {
    /// Reads from packs.
    pub store_reads: AtomicU64,
    /// Bytes of those reads.
    pub bytes_read: AtomicU64,
    pub segments_fetched: AtomicU64,
    /// Bytes that were decompressed.
    pub bytes_decoded: AtomicU64,
}

pub struct Repository {
    store: Store,
    /// The same, if its objects have parity.
    guard: Option<Arc<Guarded>>,
    keys: Arc<Keys>,
    /// The key slot it was opened with.
    slot: Mutex<ObjectId>,
    config: Config,
    secret: ConfigSecret,
    index: Index,
    cache_folder: Option<PathBuf>,
    refreshed: Mutex<Instant>,
    tree_pages: Cache<BlobId, TreePage>,
    content_pages: Cache<BlobId, ContentPage>,
    tree_segments: Cache<SegmentAddr, Segment>,
    snapshots: snapshots::Known,
    records: forgotten::Records,
    watch: Option<seen::Watch>,
    counters: Counters,
    distance: Distance,
}

impl Repository {
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The store with what it knows of parity, if this repository has parity.
    pub fn guard(&self) -> Option<&Guarded> {
        self.guard.as_deref()
    }

    /// Objects that were found damaged, and read with the help of their parity.
    pub fn mended(&self) -> Vec<ObjectName> {
        self.guard().map(Guarded::names_mended).unwrap_or_default()
    }

    pub fn keys(&self) -> &Arc<Keys> {
        &self.keys
    }

    /// The time that marks are made and judged by: the store's own where it has a clock, so
    /// that those whose clocks differ are of one mind; else that of this computer.
    pub fn clock(&self) -> Time {
        self.store.clock().unwrap_or_else(now)
    }

    /// The repository's random id.
    pub fn id(&self) -> [u8; 16] {
        self.config.repository
    }

    pub fn config(&self) -> &ConfigSecret {
        &self.secret
    }

    pub fn index(&self) -> &Index {
        &self.index
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether the store answers so late that few large reads, many at once, are better
    /// than many small ones.
    pub fn is_far(&self) -> bool {
        self.distance.is_far()
    }

    /// Folder for local caches of this repository, if there is one.
    pub fn cache_folder(&self) -> Option<&PathBuf> {
        self.cache_folder.as_ref()
    }

    /// Stores an object under the hash of its bytes.
    pub fn put_object(&self, kind: ObjectKind, bytes: &[u8]) -> Result<ObjectId> {
        let id = ObjectId::of(bytes);
        object::write(&self.store, &ObjectName::new(kind, id), bytes)?;
        Ok(id)
    }

    /// Takes up index objects that others have written or removed.
    pub fn refresh_index(&self) -> Result<()> {
        may_fetch()?;
        self.index.sync(&self.store, &self.keys)
    }

    /// For backups: what the index says from now on is relied on.
    pub(crate) fn rely(&self) -> Result<Reliance> {
        // Makes the look find packs that are lost. What was in force before isn't relied on.
        let _looking = self.index.rely();
        self.refresh_index()?;
        Ok(self.index.rely())
    }

    /// Where a blob lies. An unknown one makes the index be read again first.
    pub fn locate(&self, id: &BlobId) -> Result<Location> {
        self.places(id).map(|found| found[0].location)
    }

    /// Every place of a blob, best first; never empty.
    fn places(&self, id: &BlobId) -> Result<Vec<Found>> {
        let found = self.index.find_all(id);
        if !found.is_empty() {
            return Ok(found);
        }
        may_fetch()?;
        {
            let mut last = self.refreshed.lock().unwrap_or_else(|e| e.into_inner());
            if last.elapsed() >= REFRESH_EVERY {
                *last = Instant::now();
                self.refresh_index()?;
            }
        }
        let found = self.index.find_all(id);
        if found.is_empty() { Err(Error::BlobMissing(*id)) } else { Ok(found) }
    }

    /// Reads segments of one pack with a single read of the store; `run` is in
    /// ascending order and should have no large gaps.
    pub fn read_segments(&self, run: &[SegmentAddr]) -> Result<Vec<Segment>> {
        self.fetch_segments(run)?.collect()
    }

    /// The same, each segment opened when it is asked for.
    pub fn fetch_segments<'a>(
        &'a self,
        run: &'a [SegmentAddr],
    ) -> Result<impl Iterator<Item = Result<Segment>> + 'a> {
        let start = run.first().map_or(0, |first| first.offset);
        let mut bytes = self.fetch_run(run)?;
        Ok(run.iter().map(move |addr| {
            let from = addr.offset.checked_sub(start).map(|from| from as usize);
            let sealed = from
                .and_then(|from| bytes.get_mut(from..from + addr.sealed_len as usize))
                .ok_or_else(|| {
                    let name = ObjectName::new(ObjectKind::Pack, addr.pack);
                    Error::damaged(name, "its segments are out of order")
                })?;
            self.counters.bytes_decoded.fetch_add(u64::from(addr.raw_len), Relaxed);
            open_segment(&self.keys, addr, sealed)
                .or_else(|error| self.mended_segment(addr).unwrap_or(Err(error)))
        }))
    }

    /// From the first of these segments to the end of the last, as they lie in their pack.
    fn fetch_run(&self, run: &[SegmentAddr]) -> Result<Vec<u8>> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { return Ok(Vec::new()) };
        may_fetch()?;
        let start = u64::from(first.offset);
        let len = last.end().saturating_sub(start) as usize;
        let name = ObjectName::new(ObjectKind::Pack, first.pack);
        let begun = Instant::now();
        let bytes = self.store.get_range(&name, start, len)?;
        self.distance.answered(begun.elapsed());
        self.counters.store_reads.fetch_add(1, Relaxed);
        self.counters.bytes_read.fetch_add(len as u64, Relaxed);
        self.counters.segments_fetched.fetch_add(run.len() as u64, Relaxed);
        Ok(bytes)
    }

    /// A segment that did not open, from the pack as it must be. `None` if that can't be made.
    fn mended_segment(&self, addr: &SegmentAddr) -> Option<Result<Segment>> {
        let pack = self.store.mended(&ObjectName::new(ObjectKind::Pack, addr.pack))?;
        let mut sealed = pack.get(addr.offset as usize..addr.end() as usize)?.to_vec();
        Some(open_segment(&self.keys, addr, &mut sealed))
    }

    /// Reads one segment.
    pub fn read_segment(&self, addr: &SegmentAddr) -> Result<Segment> {
        let mut segments = self.read_segments(std::slice::from_ref(addr))?;
        segments.pop().ok_or_else(|| Error::Invalid("no segment was read".into()))
    }

    /// A blob's bytes, from whichever of its places is intact.
    pub fn read_blob(&self, kind: BlobKind, id: &BlobId) -> Result<Vec<u8>> {
        self.with_blob(kind, id, |bytes, _| Ok(bytes.to_vec()))
    }

    fn with_blob<T>(
        &self,
        kind: BlobKind,
        id: &BlobId,
        mut work: impl FnMut(&[u8], &Location) -> Result<T>,
    ) -> Result<T> {
        self.try_places(id, |at| {
            let segment = self.tree_segments.get_or(at.segment, || {
                let segment = self.read_segment(&at.segment)?;
                let weight = segment.len();
                Ok::<_, Error>((Arc::new(segment), weight))
            })?;
            work(segment.blob(kind, id, at)?, at)
        })
    }

    /// Gives `read` each place of a blob until one is intact. If a prune has
    /// moved the blob since the index was read, the new places are tried too.
    pub fn try_places<T>(
        &self,
        id: &BlobId,
        mut read: impl FnMut(&Location) -> Result<T>,
    ) -> Result<T> {
        let mut tried = Vec::new();
        let mut first_error = None;
        for round in 0..2 {
            if round == 1 {
                self.refresh_index()?;
            }
            for found in self.index.find_all(id) {
                if tried.contains(&found.location) {
                    continue;
                }
                tried.push(found.location);
                match read(&found.location) {
                    Ok(value) => return Ok(value),
                    Err(e) if e.is_damage() => {
                        if matches!(e, Error::Damaged { .. }) {
                            self.index.add_damaged(found.location.segment.pack);
                        }
                        first_error = first_error.or(Some(e));
                    }
                    Err(e) => return Err(e),
                }
            }
        }
        Err(first_error.unwrap_or(Error::BlobMissing(*id)))
    }

    /// To be called before trees of many snapshots are read side by side.
    pub fn expect_side_by_side(&self) {
        self.tree_segments.grow(SIDE_BY_SIDE_CACHE);
    }

    /// A page of a directory.
    pub fn tree_page(&self, id: &BlobId) -> Result<Arc<TreePage>> {
        self.tree_pages.get_or(*id, || {
            let (page, len) = self.decode_page(id, TreePage::decode)?;
            let nodes = if let TreePage::Leaf(nodes) = &*page { nodes.len() } else { 0 };
            Ok((page, len + nodes * size_of::<Node>()))
        })
    }

    /// A page of a chunk list.
    pub fn content_page(&self, id: &BlobId) -> Result<Arc<ContentPage>> {
        self.content_pages.get_or(*id, || self.decode_page(id, ContentPage::decode))
    }

    fn decode_page<T>(
        &self,
        id: &BlobId,
        decode: impl Fn(&[u8]) -> Result<T, String>,
    ) -> Result<(Arc<T>, usize)> {
        self.with_blob(BlobKind::Tree, id, |bytes, at| match decode(bytes) {
            Ok(page) => Ok((Arc::new(page), bytes.len())),
            Err(reason) => {
                let pack = ObjectName::new(ObjectKind::Pack, at.segment.pack);
                Err(Error::damaged(pack, format!("tree page {}: {reason}", id.short())))
            }
        })
    }
}
