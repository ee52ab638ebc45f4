//! The block cache: decoded segments of packs, bounded by bytes. Each is
//! fetched and decrypted once however many readers wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tresor_engine::format::{BlobId, BlobKind, ObjectKind, ObjectName};
use tresor_engine::index::{Location, SegmentAddr};
use tresor_engine::pack::Segment;
use tresor_engine::repo::{Repository, may_fetch};
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

/// A chunk of a file, in the segment that holds it.
pub struct Block {
    segment: Arc<Segment>,
    id: BlobId,
    at: Location,
}

impl Block {
    pub fn bytes(&self) -> Result<&[u8]> {
        self.segment.blob(BlobKind::Data, &self.id, &self.at)
    }
}

pub struct BlockCache {
    repo: Arc<Repository>,
    segments: Cache<SegmentAddr, Arc<Segment>>,
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
        Self { repo, segments, hits: AtomicU64::new(0), fetched: AtomicU64::new(0) }
    }

    pub fn repo(&self) -> &Arc<Repository> {
        &self.repo
    }

    pub fn counts(&self) -> BlockCounts {
        BlockCounts { hits: self.hits.load(Relaxed), fetched: self.fetched.load(Relaxed) }
    }

    /// The chunk, from the cache or fetched.
    pub fn get(&self, id: &BlobId) -> Result<Block> {
        self.repo.try_places(id, |at| {
            let block = Block { segment: self.segment(at)?, id: *id, at: *at };
            block.bytes()?;
            Ok(block)
        })
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
        self.segments
            .try_get_with(at.segment, || {
                self.fetched.fetch_add(1, Relaxed);
                self.repo.read_segment(&at.segment).map(Arc::new)
            })
            .map_err(|e| own(e, at))
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
