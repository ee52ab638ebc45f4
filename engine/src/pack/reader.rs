//! Reading from packs: segments by address, and whole packs by their own table.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::builder::PACK_PURPOSE;
use crate::compress;
use crate::crypto::Keys;
use crate::error::{Error, Result};
use crate::format::{
    BlobId, BlobKind, MAX_PACK, MAX_SEGMENT, ObjectId, ObjectKind, ObjectName, PACK_HEADER_LEN,
    PACK_MAGIC, PACK_TRAILER_LEN, PackEntry, PackTable, Piece,
};
use crate::index::{Location, SegmentAddr};
use crate::object::ALTERED;
use crate::store::Store;

/// A decrypted, decompressed segment.
pub struct Segment {
    bytes: Vec<u8>,
    pack: ObjectId,
    keys: Arc<Keys>,
    /// Blobs whose id has been checked, by their starts: what, and how long. The index
    /// may say of the same place that another one is there.
    checked: Mutex<HashMap<u32, (BlobKind, BlobId, u32)>>,
}

impl Segment {
    /// Length of the plaintext.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// All of it. Whether a blob is what it must be only `blob` tells.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
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
        let blob = (kind, *id, at.len);
        if checked().get(&at.start) != Some(&blob) {
            if self.keys.blob_id(kind, bytes) != *id {
                return Err(wrong("is not what its id says"));
            }
            checked().insert(at.start, blob);
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
    Ok(Segment { bytes, pack: addr.pack, keys: keys.clone(), checked: Mutex::default() })
}

/// Reads a pack's own table out of its bytes: how an index is rebuilt.
pub fn read_table(keys: &Keys, id: ObjectId, pack: &[u8]) -> Result<PackEntry> {
    let range = |at: u64, len: usize| {
        let at = at as usize;
        pack.get(at..at.saturating_add(len))
            .map(<[u8]>::to_vec)
            .ok_or_else(|| Error::damaged(ObjectName::new(ObjectKind::Pack, id), "it is cut off"))
    };
    table_from(keys, id, pack.len() as u64, range)
}

/// Reads the table of a pack of this length, and no more of it than that needs.
pub fn fetch_table(store: &Store, keys: &Keys, id: ObjectId, size: u64) -> Result<PackEntry> {
    let name = ObjectName::new(ObjectKind::Pack, id);
    let table = table_from(keys, id, size, |at, len| Ok(store.get_range(&name, at, len)?));
    table.or_else(|error| match error.is_damage().then(|| store.mended(&name)).flatten() {
        Some(pack) => read_table(keys, id, &pack),
        None => Err(error),
    })
}

fn table_from(
    keys: &Keys,
    id: ObjectId,
    size: u64,
    range: impl Fn(u64, usize) -> Result<Vec<u8>>,
) -> Result<PackEntry> {
    let wrong =
        |reason: &str| Error::damaged(ObjectName::new(ObjectKind::Pack, id), reason.to_owned());
    if size < (PACK_HEADER_LEN + PACK_TRAILER_LEN) as u64 {
        return Err(wrong("it doesn't begin as a pack must"));
    }
    if size > MAX_PACK {
        return Err(wrong("it is longer than packs are"));
    }
    let header = range(0, PACK_HEADER_LEN)?;
    if &header[..8] != PACK_MAGIC {
        return Err(wrong("it doesn't begin as a pack must"));
    }
    let mut salt = [0; 32];
    salt.copy_from_slice(&header[8..]);
    let cipher = keys.object_cipher(PACK_PURPOSE, &salt);
    let trailer_at = size - PACK_TRAILER_LEN as u64;
    let mut trailer = range(trailer_at, PACK_TRAILER_LEN)?;
    let len = cipher
        .open(trailer_at, Piece::Trailer.aad(), &mut trailer)
        .map_err(|_| wrong("its trailer fails its authentication"))?;
    let len = u32::from_le_bytes([len[0], len[1], len[2], len[3]]);
    let table_at = trailer_at
        .checked_sub(u64::from(len))
        .filter(|at| *at >= PACK_HEADER_LEN as u64)
        .ok_or_else(|| wrong("its table is longer than itself"))?;
    let mut table = range(table_at, len as usize)?;
    let text = cipher
        .open(table_at, Piece::Table.aad(), &mut table)
        .map_err(|_| wrong("its table fails its authentication"))?;
    let table: PackTable = decode_table(text).ok_or_else(|| wrong("its table is malformed"))?;
    let entry = PackEntry { id, salt, size, segments: table.segments, marked: None };
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
    if ObjectId::of(pack) != id {
        return Err(Error::damaged(name, ALTERED));
    }
    let entry = read_table(keys, id, pack)?;
    for (offset, segment) in entry.placed() {
        let addr = SegmentAddr::new(&entry, offset, segment);
        let sealed = &mut pack[offset as usize..addr.end() as usize];
        let opened = open_segment(keys, &addr, sealed)?;
        for (blob, start, len) in segment.blobs() {
            opened.blob(segment.kind, &blob, &Location { segment: addr, start, len })?;
        }
    }
    Ok(entry)
}
