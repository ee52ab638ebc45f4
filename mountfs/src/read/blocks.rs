//! The block cache: decoded segments of packs, bounded by bytes. Each is
//! fetched and decrypted once however many readers wait for it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tresor_engine::coming::Coming;
use tresor_engine::format::{BlobId, BlobKind, ObjectKind, ObjectName};
use tresor_engine::index::{Location, SegmentAddr};
use tresor_engine::pack::Segment;
use tresor_engine::repo::{Repository, may_fetch};
use tresor_engine::restorer::runs_of;
use tresor_engine::{Error, Result};

/// What a cached segment takes beside its bytes.
const OVERHEAD: u32 = 512;
/// An eighth of its bytes: allocators have four sizes from one power of two to the next.
const ROUNDING: usize = 8;

/// How often the cache had what was asked for, and how often not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockCounts {
    pub hits: u64,
    /// Segments fetched and decrypted.
    pub fetched: u64,
}

/// A chunk of a file, checked, in the segment that holds it.
pub struct Block {
    segment: Arc<Segment>,
    place: Range<usize>,
}

impl Block {
    fn of(segment: Arc<Segment>, id: &BlobId, at: &Location) -> Result<Self> {
        let len = segment.blob(BlobKind::Data, id, at)?.len();
        let start = at.start as usize;
        Ok(Self { segment, place: start..start + len })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.segment.bytes()[self.place.clone()]
    }
}

pub struct BlockCache {
    repo: Arc<Repository>,
    segments: Cache<SegmentAddr, Arc<Segment>>,
    /// Those that come with others in one read.
    coming: Coming,
    hits: AtomicU64,
    fetched: AtomicU64,
}

impl BlockCache {
    /// `limit` in bytes.
    pub fn new(repo: Arc<Repository>, limit: u64) -> Self {
        let weight = |_: &_, segment: &Arc<Segment>| {
            let len = segment.len() + segment.len() / ROUNDING;
            u32::try_from(len).unwrap_or(u32::MAX).saturating_add(OVERHEAD)
        };
        // Plain LRU: a policy that looks at frequency throws out what was read
        // ahead before it is used.
        let segments = Cache::builder()
            .max_capacity(limit)
            .weigher(weight)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        let (coming, hits, fetched) = Default::default();
        Self { repo, segments, coming, hits, fetched }
    }

    pub fn repo(&self) -> &Arc<Repository> {
        &self.repo
    }

    pub fn counts(&self) -> BlockCounts {
        BlockCounts { hits: self.hits.load(Relaxed), fetched: self.fetched.load(Relaxed) }
    }

    /// The chunk, from the cache or fetched.
    pub fn get(&self, id: &BlobId) -> Result<Block> {
        self.repo.try_places(id, |at| Block::of(self.segment(at)?, id, at))
    }

    pub fn holds(&self, id: &BlobId) -> bool {
        self.repo
            .index()
            .find(id)
            .is_some_and(|found| self.segments.contains_key(&found.location.segment))
    }

    fn segment(&self, at: &Location) -> Result<Arc<Segment>> {
        if let Some(segment) = self.segments.get(&at.segment) {
            self.hits.fetch_add(1, Relaxed);
            return Ok(segment);
        }
        may_fetch()?;
        self.coming.wait_for(&at.segment);
        self.fetch(&at.segment).map_err(|e| own(e, at))
    }

    /// One by itself; whoever wants it meanwhile waits for that.
    fn fetch(&self, addr: &SegmentAddr) -> Result<Arc<Segment>, Arc<Error>> {
        self.segments.try_get_with(*addr, || {
            self.fetched.fetch_add(1, Relaxed);
            self.repo.read_segment(addr).map(Arc::new)
        })
    }

    /// Brings the chunk into the cache, unless somebody else does.
    pub fn bring(&self, id: &BlobId) {
        let Some(found) = self.repo.index().find(id) else { return };
        let addr = found.location.segment;
        if !self.segments.contains_key(&addr) && !self.coming.contains(&addr) {
            // Whoever reads the chunk gets the error.
            let _ = self.fetch(&addr);
        }
    }

    /// The segments of these chunks that the cache lacks, in parts that one read each gives.
    pub fn lacking(&self, ids: &[BlobId]) -> Vec<Vec<SegmentAddr>> {
        let places = ids.iter().filter_map(|id| self.repo.index().find(id));
        let mut wanted: Vec<_> = places.map(|found| found.location.segment).collect();
        wanted.sort_unstable();
        wanted.dedup();
        wanted.retain(|addr| !self.segments.contains_key(addr) && !self.coming.contains(addr));
        runs_of(&wanted)
    }

    /// Brings neighbours into the cache with one read, but for those that are there by now or come with another
    /// one. Until it ends others wait for them; so who brings them must not wait himself.
    pub fn bring_together(&self, addrs: Vec<SegmentAddr>) {
        let claim = self.coming.claim(addrs, |addr| !self.segments.contains_key(addr));
        for run in runs_of(&claim.addrs) {
            // Whoever reads a chunk gets the error.
            let Ok(segments) = self.repo.read_segments(&run) else { continue };
            self.fetched.fetch_add(segments.len() as u64, Relaxed);
            for (addr, segment) in run.iter().zip(segments) {
                self.segments.insert(*addr, Arc::new(segment));
            }
        }
    }
}

/// An error that several readers of one block may share.
fn own(error: Arc<Error>, at: &Location) -> Error {
    Arc::try_unwrap(error).unwrap_or_else(|shared| {
        let name = ObjectName::new(ObjectKind::Pack, at.segment.pack);
        match &*shared {
            Error::Damaged { reason, .. } => Error::damaged(name, reason.clone()),
            e if e.is_damage() => Error::damaged(name, e.to_string()),
            e => Error::Invalid(e.to_string()),
        }
    })
}
