//! A pack being filled: segments are sealed as they come.

use crate::compress;
use crate::crypto::{Aead, Keys, TAG_LEN};
use crate::error::Result;
use crate::format::{
    BlobId, BlobKind, ObjectId, PACK_HEADER_LEN, PACK_MAGIC, PACK_TRAILER_LEN, PackEntry,
    PackTable, SegmentEntry,
};
use crate::padding::padme;

pub const PACK_PURPOSE: &str = "pack";

/// Blobs that are stored together: their list and their bytes one after the other.
pub struct Segment {
    pub kind: BlobKind,
    pub blobs: Vec<(BlobId, u32)>,
    pub bytes: Vec<u8>,
}

impl Segment {
    pub fn new(kind: BlobKind) -> Self {
        Self { kind, blobs: Vec::new(), bytes: Vec::new() }
    }

    pub fn push(&mut self, id: BlobId, bytes: &[u8]) {
        self.blobs.push((id, bytes.len() as u32));
        self.bytes.extend_from_slice(bytes);
    }
}

/// A segment ready to be sealed into a pack.
pub struct Packed {
    pub kind: BlobKind,
    pub blobs: Vec<(BlobId, u32)>,
    /// Method byte and payload.
    pub payload: Vec<u8>,
}

impl From<Segment> for Packed {
    fn from(segment: Segment) -> Self {
        let mut payload = Vec::with_capacity(segment.bytes.len() / 2 + 64);
        compress::compress_into(&segment.bytes, &mut payload);
        Self { kind: segment.kind, blobs: segment.blobs, payload }
    }
}

pub struct PackBuilder {
    cipher: Aead,
    salt: [u8; 32],
    bytes: Vec<u8>,
    segments: Vec<SegmentEntry>,
}

impl PackBuilder {
    pub fn new(keys: &Keys) -> Result<Self> {
        let salt = crate::crypto::random()?;
        let mut bytes = Vec::new();
        bytes.extend_from_slice(PACK_MAGIC);
        bytes.extend_from_slice(&salt);
        debug_assert_eq!(bytes.len(), PACK_HEADER_LEN);
        let cipher = keys.object_cipher(PACK_PURPOSE, &salt);
        Ok(Self { cipher, salt, bytes, segments: Vec::new() })
    }

    /// Bytes of the pack so far, its header included.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Seals a segment into the pack; returns its length there.
    pub fn add(&mut self, segment: &Packed) -> u32 {
        let sealed_len = self.seal(&segment.payload);
        let mut entry = SegmentEntry::new(segment.kind);
        entry.sealed_len = sealed_len;
        segment.blobs.iter().for_each(|(id, len)| entry.push(id, *len));
        self.segments.push(entry);
        sealed_len
    }

    fn seal(&mut self, plain: &[u8]) -> u32 {
        let offset = self.bytes.len();
        self.bytes.extend_from_slice(plain);
        self.cipher.seal(offset as u64, &[], &mut self.bytes, offset);
        (self.bytes.len() - offset) as u32
    }

    /// Pads, adds table and trailer. Returns the pack as the index will know it, and its bytes.
    pub fn finish(mut self) -> (PackEntry, Vec<u8>) {
        let table = PackTable { segments: std::mem::take(&mut self.segments) };
        let plain = minicbor::to_vec(&table).unwrap_or_default();
        let mut payload = (plain.len() as u32).to_le_bytes().to_vec();
        compress::compress_into(&plain, &mut payload);
        let end = self.bytes.len() + payload.len() + 2 * TAG_LEN + PACK_TRAILER_LEN;
        let padding = padme(end as u64) as usize - end;
        self.seal(&vec![0; padding]);
        let table_len = self.seal(&payload);
        self.seal(&table_len.to_le_bytes());
        let id = ObjectId(*blake3::hash(&self.bytes).as_bytes());
        let size = self.bytes.len() as u64;
        let entry = PackEntry { id, salt: self.salt, size, segments: table.segments, marked: None };
        (entry, self.bytes)
    }
}
