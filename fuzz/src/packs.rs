//! Packs: table, trailer, segments.

use arbitrary::Unstructured;
use tresor_engine::compress::{compress_into, decompress};
use tresor_engine::crypto::TAG_LEN;
use tresor_engine::format::{MAX_SEGMENT, ObjectId, PACK_MAGIC, Piece};
use tresor_engine::index::SegmentAddr;
use tresor_engine::pack::{fetch_table, open_segment, read_table, verify_pack};

use crate::kit::*;
use crate::objects::check_pack;

/// As it lies in the store; or pieces that somebody with the key has sealed: only the
/// table's structure is made up, or also its payload, or also lengths and trailer.
pub fn pack(input: &[u8]) {
    let mut input = Unstructured::new(input);
    let how = byte(&mut input);
    let pack = match how % 4 {
        0 => input.take_rest().to_vec(),
        1 => {
            let segments = bytes(&mut input, 64);
            sealed_pack(segments, &with_length(input.take_rest()), None)
        }
        2 => sealed_pack(&[], input.take_rest(), None),
        _ => {
            let trailer = input.arbitrary().unwrap_or_default();
            let segments = bytes(&mut input, 1024);
            sealed_pack(segments, &with_length(input.take_rest()), Some(trailer))
        }
    };
    let id = ObjectId::of(&pack);
    let read = read_table(keys(), id, &pack);
    let (store, _) = store_of(tresor_engine::format::ObjectKind::Pack, &pack);
    let fetched = fetch_table(&store, keys(), id, pack.len() as u64);
    assert_eq!(read.as_ref().ok(), fetched.as_ref().ok());
    let verified = verify_pack(keys(), id, &mut pack.clone());
    let Ok(entry) = read else {
        assert!(verified.is_err());
        return;
    };
    assert_eq!((entry.id, entry.size, entry.marked), (id, pack.len() as u64, None));
    check_pack(&entry);
    if let Ok(verified) = verified {
        assert_eq!(verified, entry);
    }
    // Under another name it is no pack.
    assert!(verify_pack(keys(), ObjectId([0; 32]), &mut pack.clone()).is_err());
}

/// A pack of one segment, without padding but for its tag.
fn sealed_pack(segment: &[u8], table: &[u8], trailer: Option<u32>) -> Vec<u8> {
    let salt = [5; 32];
    let cipher = keys().object_cipher("pack", &salt);
    let mut pack = [&PACK_MAGIC[..], &salt].concat();
    let seal = |pack: &mut Vec<u8>, piece: Piece, plain: &[u8]| {
        let at = pack.len();
        pack.extend_from_slice(plain);
        cipher.seal(at as u64, piece.aad(), pack, at);
    };
    if !segment.is_empty() {
        seal(&mut pack, Piece::Segment, segment);
    }
    seal(&mut pack, Piece::Padding, &[]);
    seal(&mut pack, Piece::Table, table);
    let len = trailer.unwrap_or((table.len() + TAG_LEN) as u32);
    seal(&mut pack, Piece::Trailer, &len.to_le_bytes());
    pack
}

/// A compressed payload, and the length that somebody says it has.
pub fn segment(input: &[u8]) {
    let mut input = Unstructured::new(input);
    let [how, low, middle, high] = input.arbitrary().unwrap_or_default();
    // Lengths of all sizes, up to a little more than there may be.
    let raw_len = u32::from_le_bytes([low, middle, high, 0]) >> (how % 25);
    let raw_len = raw_len + if how & 0x80 == 0 { 0 } else { 1 << 20 };
    let payload = input.take_rest();
    let opened = decompress(payload, raw_len as usize);
    if let Some(plain) = &opened {
        assert_eq!(plain.len(), raw_len as usize);
        let mut again = Vec::new();
        compress_into(plain, &mut again);
        assert!(decompress(&again, plain.len()).as_ref() == Some(plain));
        assert!(decompress(&again, plain.len() + 1).is_none());
    }
    let addr = SegmentAddr {
        pack: ObjectId([1; 32]),
        salt: [2; 32],
        offset: 40,
        sealed_len: (payload.len() + TAG_LEN) as u32,
        raw_len,
    };
    let mut sealed = payload.to_vec();
    keys().object_cipher("pack", &addr.salt).seal(40, Piece::Segment.aad(), &mut sealed, 0);
    let segment = open_segment(keys(), &addr, &mut sealed);
    let acceptable = raw_len as usize <= MAX_SEGMENT;
    assert_eq!(segment.is_ok(), opened.is_some() && acceptable);
    // Unsealed bytes are no segment.
    assert!(open_segment(keys(), &addr, &mut payload.to_vec()).is_err());
}
