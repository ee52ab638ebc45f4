//! A pack being filled: segments are sealed as they come.

use crate::compress;
use crate::crypto::{Aead, Keys, TAG_LEN};
use crate::error::{Error, Result};
use crate::format::{
    BLOB_ENTRY, BlobId, BlobKind, MAX_PACK, MAX_PACK_BLOBS, MAX_SEGMENT, ObjectId, PACK_HEADER_LEN,
    PACK_MAGIC, PACK_TRAILER_LEN, PackEntry, PackTable, Piece, SegmentEntry,
};
use crate::large_pages::LargePages;
use crate::padding::padme;

pub const PACK_PURPOSE: &str = "pack";
/// The most that a pack of several segments has, table and all. It is a Padmé length, so packs
/// that are nearly as long need little padding.
const PACK_TARGET: usize = 16 << 20;
/// Of a segment's entry in the table, without its blobs: kind and lengths.
const TABLE_ENTRY: usize = 12;
/// Of everything in a pack but its segments and their entries.
const PACK_FRAME: usize = PACK_HEADER_LEN + 2 * TAG_LEN + PACK_TRAILER_LEN + 32;

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

    /// For blobs of so many bytes together.
    pub fn with_room(kind: BlobKind, bytes: usize) -> Self {
        Self { kind, blobs: Vec::new(), bytes: Vec::with_capacity(bytes) }
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
        let mut payload = Vec::new();
        compress::compress_into(&segment.bytes, &mut payload);
        Self { kind: segment.kind, blobs: segment.blobs, payload }
    }
}

pub struct PackBuilder {
    cipher: Aead,
    salt: [u8; 32],
    bytes: LargePages,
    segments: Vec<SegmentEntry>,
    blobs: usize,
}

impl PackBuilder {
    pub fn new(keys: &Keys) -> Result<Self> {
        let salt = crate::crypto::random()?;
        // All at once: growing would copy it several times.
        let mut bytes = LargePages::new(PACK_TARGET)?;
        bytes.extend(PACK_MAGIC)?;
        bytes.extend(&salt)?;
        debug_assert_eq!(bytes.len(), PACK_HEADER_LEN);
        let cipher = keys.object_cipher(PACK_PURPOSE, &salt);
        Ok(Self { cipher, salt, bytes, segments: Vec::new(), blobs: 0 })
    }

    /// Whether the pack would not be too long with this segment, and not have too many blobs.
    pub fn has_room_for(&self, segment: &Packed) -> bool {
        let blobs = self.blobs + segment.blobs.len();
        let table = blobs * BLOB_ENTRY + (self.segments.len() + 1) * TABLE_ENTRY;
        let segments = self.bytes.len() + segment.payload.len() + TAG_LEN;
        segments + table + PACK_FRAME <= PACK_TARGET && blobs <= MAX_PACK_BLOBS
    }

    /// Seals a segment into the pack. Refuses what no reader would accept.
    pub fn add(&mut self, segment: &Packed) -> Result<()> {
        let raw: u64 = segment.blobs.iter().map(|b| u64::from(b.1)).sum();
        if raw > MAX_SEGMENT as u64 {
            return Err(Error::Invalid(format!(
                "a segment of {raw} bytes is longer than the format allows"
            )));
        }
        let mut entry = SegmentEntry::new(segment.kind);
        // It is kept until the index names it.
        entry.blobs.reserve_exact(segment.blobs.len() * BLOB_ENTRY);
        entry.sealed_len = self.seal(Piece::Segment, &segment.payload)?;
        segment.blobs.iter().for_each(|(id, len)| entry.push(id, *len));
        self.blobs += segment.blobs.len();
        self.segments.push(entry);
        Ok(())
    }

    fn seal(&mut self, piece: Piece, plain: &[u8]) -> Result<u32> {
        let offset = self.bytes.len();
        self.bytes.extend(plain)?;
        let tag = self.cipher.seal_in_place(offset as u64, piece.aad(), &mut self.bytes[offset..]);
        self.bytes.extend(&tag)?;
        Ok((self.bytes.len() - offset) as u32)
    }

    /// Pads, adds table and trailer. Returns the pack as the index will know it, and its bytes.
    pub fn finish(mut self) -> Result<(PackEntry, LargePages)> {
        let table = PackTable { segments: std::mem::take(&mut self.segments) };
        let plain = minicbor::to_vec(&table)
            .map_err(|e| Error::Invalid(format!("can't encode a pack's table: {e}")))?;
        let mut payload = (plain.len() as u32).to_le_bytes().to_vec();
        compress::compress_into(&plain, &mut payload);
        let end = self.bytes.len() + payload.len() + 2 * TAG_LEN + PACK_TRAILER_LEN;
        let padding = padme(end as u64) as usize - end;
        self.seal(Piece::Padding, &vec![0; padding])?;
        let table_len = self.seal(Piece::Table, &payload)?;
        self.seal(Piece::Trailer, &table_len.to_le_bytes())?;
        let id = ObjectId::of(&self.bytes);
        let size = self.bytes.len() as u64;
        let entry = PackEntry { id, salt: self.salt, size, segments: table.segments, marked: None };
        if plain.len() > MAX_SEGMENT || size > MAX_PACK {
            return Err(Error::Invalid(format!(
                "a pack of {size} bytes is longer than the format allows"
            )));
        }
        Ok((entry, self.bytes))
    }
}
