//! Layout of a pack and its table.
//!
//! ```text
//! magic 8 | salt 32 | sealed segments … | sealed padding | sealed table | sealed trailer 20
//! ```
//! Every piece is sealed with the pack's own key and its offset as nonce.

use minicbor::{Decode, Encode};

use super::ids::{BlobId, ObjectId};
use super::node::Time;

pub const PACK_MAGIC: &[u8; 8] = b"TRSRPK01";

/// What a sealed piece of a pack is: its additional authenticated data, so
/// that none passes for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    Segment,
    Padding,
    Table,
    Trailer,
}

impl Piece {
    pub fn aad(self) -> &'static [u8] {
        match self {
            Self::Segment => b"segment",
            Self::Padding => b"padding",
            Self::Table => b"table",
            Self::Trailer => b"trailer",
        }
    }
}

/// Offset of the first segment.
pub const PACK_HEADER_LEN: usize = 40;
/// Length of the sealed trailer; its plaintext is the table's sealed length, `u32` little endian.
pub const PACK_TRAILER_LEN: usize = 4 + crate::crypto::TAG_LEN;
/// Longest plaintext of a segment or table that a reader accepts.
pub const MAX_SEGMENT: usize = 16 << 20;
/// Longest pack that a reader accepts.
pub const MAX_PACK: u64 = 64 << 20;
/// Most blobs in a pack; keeps its table and the index objects that name it far
/// below what readers accept.
pub const MAX_PACK_BLOBS: usize = 100_000;

/// What a blob holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
#[cbor(index_only)]
pub enum BlobKind {
    /// A chunk of a file.
    #[n(0)]
    Data,
    /// A page of a tree or of a chunk list.
    #[n(1)]
    Tree,
}

/// A run of blobs that are compressed and sealed together.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct SegmentEntry {
    #[n(0)]
    pub kind: BlobKind,
    /// Length of the sealed piece in the pack.
    #[n(1)]
    pub sealed_len: u32,
    /// The blobs in order: 32 bytes id and `u32` little endian length each.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub blobs: Vec<u8>,
}

/// Of one blob in a segment's entry.
pub const BLOB_ENTRY: usize = 36;

impl SegmentEntry {
    pub fn new(kind: BlobKind) -> Self {
        Self { kind, sealed_len: 0, blobs: Vec::new() }
    }

    pub fn push(&mut self, id: &BlobId, len: u32) {
        self.blobs.extend_from_slice(&id.0);
        self.blobs.extend_from_slice(&len.to_le_bytes());
    }

    /// Each blob with its start and length in the segment's plaintext.
    pub fn blobs(&self) -> impl Iterator<Item = (BlobId, u32, u32)> + '_ {
        let mut start = 0u32;
        self.blobs.chunks_exact(BLOB_ENTRY).map(move |entry| {
            let mut id = [0; 32];
            id.copy_from_slice(&entry[..32]);
            let len = u32::from_le_bytes([entry[32], entry[33], entry[34], entry[35]]);
            let at = start;
            start = start.saturating_add(len);
            (BlobId(id), at, len)
        })
    }

    pub fn blob_count(&self) -> usize {
        self.blobs.len() / BLOB_ENTRY
    }

    /// Length of the segment's plaintext.
    pub fn raw_len(&self) -> u64 {
        self.blobs
            .chunks_exact(BLOB_ENTRY)
            .map(|e| u64::from(u32::from_le_bytes([e[32], e[33], e[34], e[35]])))
            .sum()
    }

    fn is_sane(&self) -> bool {
        !self.blobs.is_empty()
            && self.blobs.len().is_multiple_of(BLOB_ENTRY)
            && self.raw_len() <= MAX_SEGMENT as u64
            && self.sealed_len as usize > crate::crypto::TAG_LEN
            && self.sealed_len as usize <= MAX_SEGMENT + 1024
    }
}

/// The table at the end of a pack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PackTable {
    #[n(0)]
    pub segments: Vec<SegmentEntry>,
}

/// The mark of a pack that is about to be deleted, or that was found lost: so long
/// ago that nothing relies on it, whatever the clocks say.
pub const DOOMED: Time = Time { seconds: 1, nanos: 0 };

/// A pack as the index knows it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PackEntry {
    #[n(0)]
    pub id: ObjectId,
    #[cbor(n(1), with = "minicbor::bytes")]
    pub salt: [u8; 32],
    /// Length of the object.
    #[n(2)]
    pub size: u64,
    #[n(3)]
    pub segments: Vec<SegmentEntry>,
    /// Set by prune: nothing needs this pack since then; it may be read, but
    /// nothing new may rely on it.
    #[n(4)]
    pub marked: Option<Time>,
}

impl PackEntry {
    /// Segments with their offset in the pack. `None` for the rest if the table
    /// doesn't fit the pack.
    pub fn placed(&self) -> impl Iterator<Item = (u32, &SegmentEntry)> {
        let mut offset = PACK_HEADER_LEN as u32;
        self.segments.iter().map(move |segment| {
            let at = offset;
            offset = offset.saturating_add(segment.sealed_len);
            (at, segment)
        })
    }

    pub fn is_doomed(&self) -> bool {
        self.marked.is_some_and(|since| since.seconds <= DOOMED.seconds)
    }

    /// Whether lengths are possible, so that nobody asks for more than there is.
    pub fn is_sane(&self) -> bool {
        let sealed: u64 = self.segments.iter().map(|s| u64::from(s.sealed_len)).sum();
        let around = (PACK_HEADER_LEN + PACK_TRAILER_LEN) as u64;
        self.size <= MAX_PACK
            && sealed + around <= self.size
            && self.segments.iter().all(SegmentEntry::is_sane)
    }
}

/// An index object: packs and what is in them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct IndexData {
    #[n(0)]
    pub packs: Vec<PackEntry>,
    /// Index objects that this one stands in for; they are ignored.
    #[n(1)]
    pub replaces: Vec<ObjectId>,
}
