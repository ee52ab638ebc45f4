//! Reading from packs: segments by address, and whole packs by their own table.

use std::sync::Arc;
use std::sync::Mutex;

use super::builder::PACK_PURPOSE;
use crate::compress;
use crate::crypto::Keys;
use crate::error::{Error, Result};
use crate::format::{
    BlobId, BlobKind, MAX_SEGMENT, ObjectId, ObjectKind, ObjectName, PACK_HEADER_LEN, PACK_MAGIC,
    PACK_TRAILER_LEN, PackEntry, PackTable, Piece,
};
use crate::index::{Location, SegmentAddr};

/// A decrypted, decompressed segment.
pub struct Segment {
    bytes: Vec<u8>,
    pack: ObjectId,
    keys: Arc<Keys>,
    /// Starts of blobs whose id has been checked.
    checked: Mutex<Vec<u32>>,
}

impl Segment {
    /// Length of the plaintext.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The blob's bytes. Its id is checked the first time it is asked for.
    pub fn blob(&self, kind: BlobKind, id: &BlobId, at: &Location) -> Result<&[u8]> {
        let (start, len) = (at.start as usize, at.len as usize);
        let bytes = self.bytes.get(start..start.saturating_add(len));
        let wrong = |reason: &str| {
            Error::damaged(
                ObjectName::new(ObjectKind::Pack, self.pack),
                format!("blob {} {reason}", id.short()),
            )
        };
        let bytes = bytes.ok_or_else(|| wrong("lies outside its segment"))?;
        let checked = || self.checked.lock().unwrap_or_else(|e| e.into_inner());
        if !checked().contains(&at.start) {
            if self.keys.blob_id(kind, bytes) != *id {
                return Err(wrong("is not what its id says"));
            }
            checked().push(at.start);
        }
        Ok(bytes)
    }
}

/// Opens one sealed segment.
pub fn open_segment(keys: &Arc<Keys>, addr: &SegmentAddr, sealed: &mut [u8]) -> Result<Segment> {
    let wrong = |reason: &str| {
        let name = ObjectName::new(ObjectKind::Pack, addr.pack);
        Error::damaged(name, format!("the segment at {} {reason}", addr.offset))
    };
    if addr.raw_len as usize > MAX_SEGMENT {
        return Err(wrong("is impossibly long"));
    }
    let cipher = keys.object_cipher(PACK_PURPOSE, &addr.salt);
    let payload = cipher
        .open(u64::from(addr.offset), Piece::Segment.aad(), sealed)
        .map_err(|_| wrong("fails its authentication"))?;
    let bytes = compress::decompress(payload, addr.raw_len as usize)
        .ok_or_else(|| wrong("can't be decompressed"))?;
    Ok(Segment { bytes, pack: addr.pack, keys: keys.clone(), checked: Mutex::new(Vec::new()) })
}

/// Reads a pack's own table out of its bytes: how an index is rebuilt.
pub fn read_table(keys: &Keys, id: ObjectId, pack: &[u8]) -> Result<PackEntry> {
    let wrong =
        |reason: &str| Error::damaged(ObjectName::new(ObjectKind::Pack, id), reason.to_owned());
    if pack.len() < PACK_HEADER_LEN + PACK_TRAILER_LEN || &pack[..8] != PACK_MAGIC {
        return Err(wrong("it doesn't begin as a pack must"));
    }
    let mut salt = [0; 32];
    salt.copy_from_slice(&pack[8..PACK_HEADER_LEN]);
    let cipher = keys.object_cipher(PACK_PURPOSE, &salt);
    let trailer_at = pack.len() - PACK_TRAILER_LEN;
    let mut trailer = pack[trailer_at..].to_vec();
    let len = cipher
        .open(trailer_at as u64, Piece::Trailer.aad(), &mut trailer)
        .map_err(|_| wrong("its trailer fails its authentication"))?;
    let len = u32::from_le_bytes([len[0], len[1], len[2], len[3]]) as usize;
    let table_at = trailer_at
        .checked_sub(len)
        .filter(|at| *at >= PACK_HEADER_LEN)
        .ok_or_else(|| wrong("its table is longer than itself"))?;
    let mut table = pack[table_at..trailer_at].to_vec();
    let text = cipher
        .open(table_at as u64, Piece::Table.aad(), &mut table)
        .map_err(|_| wrong("its table fails its authentication"))?;
    let table: PackTable = decode_table(text).ok_or_else(|| wrong("its table is malformed"))?;
    let entry =
        PackEntry { id, salt, size: pack.len() as u64, segments: table.segments, marked: None };
    if entry.is_sane() { Ok(entry) } else { Err(wrong("its table is impossible")) }
}

fn decode_table(text: &mut [u8]) -> Option<PackTable> {
    let (len, payload) = text.split_first_chunk::<4>()?;
    let len = u32::from_le_bytes(*len) as usize;
    if len > MAX_SEGMENT {
        return None;
    }
    minicbor::decode(&compress::decompress(payload, len)?).ok()
}

/// Checks every byte of a pack against its name, its table, and each blob's id.
/// Returns its table.
pub fn verify_pack(keys: &Arc<Keys>, id: ObjectId, pack: &mut [u8]) -> Result<PackEntry> {
    let name = ObjectName::new(ObjectKind::Pack, id);
    if blake3::hash(pack).as_bytes() != &id.0 {
        return Err(Error::damaged(name, "its bytes are not what its name says"));
    }
    let entry = read_table(keys, id, pack)?;
    for (offset, segment) in entry.placed() {
        let addr = SegmentAddr {
            pack: id,
            salt: entry.salt,
            offset,
            sealed_len: segment.sealed_len,
            raw_len: segment.raw_len() as u32,
        };
        let sealed = &mut pack[offset as usize..addr.end() as usize];
        let opened = open_segment(keys, &addr, sealed)?;
        for (blob, start, len) in segment.blobs() {
            opened.blob(segment.kind, &blob, &Location { segment: addr, start, len })?;
        }
    }
    Ok(entry)
}
