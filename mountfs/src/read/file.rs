//! A file that is read: from a range of bytes to the chunks that hold them.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use tresor_engine::contents::{self, extents_in};
use tresor_engine::format::{BlobId, Content, Extent, Node};
use tresor_engine::repo::Repository;
use tresor_engine::{Error, Result};

use super::blocks::{Block, BlockCache};
use super::prefetch::{Prefetcher, Streams};

/// Longest hole or data run looked for at once.
const SEEK_WINDOW: u64 = 1 << 30;

pub struct FileReader {
    content: Content,
    size: u64,
    streams: Mutex<Streams>,
}

impl FileReader {
    /// Refuses a file that isn't what it says: a restore would, too.
    pub fn of_node(node: &Node) -> Result<Self> {
        contents::check(node)?;
        let content = node.content.clone().unwrap_or_else(Content::empty);
        Ok(Self { content, size: node.size, streams: Mutex::default() })
    }

    /// Bytes it takes in memory.
    pub fn weight(&self) -> u32 {
        let content = match &self.content {
            Content::Inline(bytes) => bytes.len(),
            Content::Extents(extents) => size_of_val(&extents[..]),
            Content::Pages { pages, .. } => size_of_val(&pages[..]),
        };
        u32::try_from(content + size_of::<Self>()).unwrap_or(u32::MAX)
    }

    fn clip(&self, offset: u64, len: usize) -> Range<u64> {
        let end = offset.saturating_add(len as u64).min(self.size);
        offset.min(end)..end
    }

    /// Up to `len` bytes from `offset`; fewer only at the end of the file.
    pub fn read_at(&self, blocks: &BlockCache, offset: u64, len: usize) -> Result<Vec<u8>> {
        let range = self.clip(offset, len);
        if let Content::Inline(bytes) = &self.content {
            return inline(bytes, &range);
        }
        let extents = extents_in(blocks.repo(), &self.content, range.clone())?;
        assemble(&extents, &range, |id| blocks.get(id))
    }

    /// Tells the prefetcher of a read; it fetches what will follow.
    pub fn read_ahead(this: &Arc<Self>, prefetcher: &Prefetcher, offset: u64, len: usize) {
        if matches!(this.content, Content::Inline(_)) {
            return;
        }
        let mut streams = this.streams.lock().unwrap_or_else(|e| e.into_inner());
        let Some(ahead) = streams.advance(offset, len as u64, prefetcher.reach()) else { return };
        drop(streams);
        let ahead = ahead.start..ahead.end.min(this.size);
        if !ahead.is_empty() {
            prefetcher.want(this.clone(), ahead);
        }
    }

    /// The chunks of a range.
    pub fn chunks(&self, repo: &Repository, range: Range<u64>) -> Result<Vec<BlobId>> {
        let extents = extents_in(repo, &self.content, range)?;
        Ok(extents.iter().filter_map(|(_, e)| e.id).collect())
    }

    /// The first offset at or after `offset` that is data (or a hole); `None` if
    /// there is none before the end of the file. The end counts as a hole.
    pub fn seek(&self, blocks: &BlockCache, offset: u64, hole: bool) -> Result<Option<u64>> {
        if offset >= self.size {
            return Ok(None);
        }
        if let Content::Inline(_) = self.content {
            return Ok(Some(if hole { self.size } else { offset }));
        }
        let mut at = offset;
        while at < self.size {
            let end = at.saturating_add(SEEK_WINDOW).min(self.size);
            for (start, extent) in extents_in(blocks.repo(), &self.content, at..end)? {
                if extent.id.is_none() == hole {
                    return Ok(Some(start.max(offset)));
                }
                at = start.saturating_add(extent.len);
            }
            at = at.max(end);
        }
        Ok(hole.then_some(self.size))
    }
}

fn inline(bytes: &[u8], range: &Range<u64>) -> Result<Vec<u8>> {
    let part = bytes.get(range.start as usize..range.end as usize);
    part.map(<[u8]>::to_vec).ok_or_else(|| Error::Invalid("a file is longer than its bytes".into()))
}

/// The bytes of a range out of the extents that overlap it.
fn assemble(
    extents: &[(u64, Extent)],
    range: &Range<u64>,
    get: impl Fn(&BlobId) -> Result<Block>,
) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity((range.end - range.start) as usize);
    for (start, extent) in extents {
        let at = range.start + out.len() as u64;
        let from = at.checked_sub(*start).ok_or_else(gap)?;
        let to = extent.len.min(range.end - start);
        match &extent.id {
            None => out.resize(out.len() + to.saturating_sub(from) as usize, 0),
            Some(id) => {
                let block = get(id)?;
                let bytes = block.bytes()?;
                let part = bytes.get(from as usize..to as usize);
                let part = part.filter(|_| bytes.len() as u64 == extent.len);
                out.extend_from_slice(part.ok_or_else(|| wrong_length(id))?);
            }
        }
    }
    if out.len() as u64 == range.end - range.start { Ok(out) } else { Err(gap()) }
}

fn gap() -> Error {
    Error::Invalid("the file's chunk list is shorter than the file".into())
}

fn wrong_length(id: &BlobId) -> Error {
    Error::Invalid(format!("blob {} is not as long as the chunk list says", id.short()))
}
