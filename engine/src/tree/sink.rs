//! Tree blobs on their way into packs.

use super::BlobSink;
use crate::error::Result;
use crate::format::{BlobId, BlobKind};
use crate::pack::{NewSegment, PackWriter, Packed};
use crate::repo::Repository;

/// Tree blobs are compressed together up to this many bytes.
const SEGMENT: usize = 256 << 10;

/// Stores tree blobs that the repository doesn't have. What was put last is stored by
/// [`flush`](Self::flush).
pub struct TreeSink<'a> {
    repo: &'a Repository,
    writer: &'a PackWriter,
    segment: NewSegment,
}

impl<'a> TreeSink<'a> {
    pub fn new(repo: &'a Repository, writer: &'a PackWriter) -> Self {
        Self { repo, writer, segment: NewSegment::new(BlobKind::Tree) }
    }

    /// Stores a blob, whatever the repository has.
    pub fn store(&mut self, id: BlobId, bytes: &[u8]) -> Result<()> {
        self.segment.push(id, bytes);
        if self.segment.bytes.len() >= SEGMENT { self.flush() } else { Ok(()) }
    }

    pub fn flush(&mut self) -> Result<()> {
        if self.segment.blobs.is_empty() {
            return Ok(());
        }
        let segment = std::mem::replace(&mut self.segment, NewSegment::new(BlobKind::Tree));
        self.writer.add(&Packed::from(segment))
    }
}

impl BlobSink for TreeSink<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<BlobId> {
        let id = self.repo.keys().blob_id(BlobKind::Tree, bytes);
        if self.writer.claim(&id) {
            self.store(id, bytes)?;
        }
        Ok(id)
    }

    fn has(&self, id: &BlobId) -> bool {
        self.repo.index().can_rely_on(id)
    }
}
