//! A file that is read: from a range of bytes to the chunks that hold them.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use tresor_engine::contents::{self, extents_in};
use tresor_engine::format::{BlobId, Content, Extent, Node, Value};
use tresor_engine::repo::Repository;
use tresor_engine::{Error, Result};

use super::blocks::{Block, BlockCache};
use super::prefetch::{Prefetcher, Streams};

/// What a hole is read from.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
/// Longest hole or data run looked for at once.
const SEEK_WINDOW: u64 = 1 << 30;

pub struct FileReader {
    content: Content,
    size: u64,
    streams: Mutex<Streams>,
}

/// A part of what was read.
pub enum Piece {
    Bytes(Vec<u8>),
    /// Of a chunk that is in the block cache, or was.
    Block(Block, Range<usize>),
    Zeros(usize),
}

impl Piece {
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let (bytes, zeros) = match self {
            Self::Bytes(bytes) => (&bytes[..], 0),
            Self::Block(block, range) => (&block.bytes()[range.clone()], 0),
            Self::Zeros(len) => (&[][..], *len),
        };
        let zeros =
            (0..zeros).step_by(ZEROS.len()).map(move |at| &ZEROS[..ZEROS.len().min(zeros - at)]);
        std::iter::once(bytes).chain(zeros)
    }
}

impl FileReader {
    /// Refuses a file that isn't what it says: a restore would, too.
    pub fn of_node(node: &Node) -> Result<Self> {
        contents::check(node)?;
        let content = node.content.clone().unwrap_or_else(Content::empty);
        Ok(Self { content, size: node.size, streams: Mutex::default() })
    }

    /// The same for an extended attribute.
    pub fn of_attribute(value: Value<'_>) -> Result<Self> {
        let content = match value {
            Value::Here(bytes) => Content::Inline(bytes.to_vec()),
            Value::Stored(content) => content.clone(),
        };
        let size = contents::size_of(&content)?;
        Ok(Self { content, size, streams: Mutex::default() })
    }

    pub fn size(&self) -> u64 {
        self.size
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
        let pieces = self.pieces(blocks, offset, len)?;
        Ok(pieces.iter().flat_map(Piece::slices).collect::<Vec<_>>().concat())
    }

    /// The same where it lies, not copied.
    pub fn pieces(&self, blocks: &BlockCache, offset: u64, len: usize) -> Result<Vec<Piece>> {
        let range = self.clip(offset, len);
        if let Content::Inline(bytes) = &self.content {
            return Ok(vec![Piece::Bytes(inline(bytes, &range)?)]);
        }
        let extents = extents_in(blocks.repo(), &self.content, range.clone())?;
        pieces(&extents, &range, |id| blocks.get(id))
    }

    /// Tells the prefetcher of a read; it fetches what will follow.
    pub fn read_ahead(this: &Arc<Self>, prefetcher: &Prefetcher, offset: u64, len: usize) {
        if matches!(this.content, Content::Inline(_)) {
            return;
        }
        let mut streams = this.streams.lock().unwrap_or_else(|e| e.into_inner());
        let reach = |share: &mut _| prefetcher.reach_of(share);
        let Some(ahead) = streams.advance(offset, len as u64, reach) else { return };
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

/// The pieces of a range out of the extents that overlap it.
fn pieces(
    extents: &[(u64, Extent)],
    range: &Range<u64>,
    get: impl Fn(&BlobId) -> Result<Block>,
) -> Result<Vec<Piece>> {
    let mut out = Vec::with_capacity(extents.len());
    let mut at = range.start;
    for (start, extent) in extents {
        let from = at.checked_sub(*start).ok_or_else(gap)?;
        let to = extent.len.min(range.end - start);
        match &extent.id {
            None => out.push(Piece::Zeros(to.saturating_sub(from) as usize)),
            Some(id) => {
                let block = get(id)?;
                let bytes = block.bytes();
                let part = bytes.get(from as usize..to as usize);
                if part.is_none() || bytes.len() as u64 != extent.len {
                    return Err(wrong_length(id));
                }
                out.push(Piece::Block(block, from as usize..to as usize));
            }
        }
        at = at.max(start.saturating_add(to));
    }
    if at == range.end { Ok(out) } else { Err(gap()) }
}

fn gap() -> Error {
    Error::Invalid("the file's chunk list is shorter than the file".into())
}

fn wrong_length(id: &BlobId) -> Error {
    Error::Invalid(format!("blob {} is not as long as the chunk list says", id.short()))
}
