//! The test values of docs/format.md, section 16.

use tresor_engine::crypto::{Aead, KdfCost, Keys, MasterKey, Password, derive_slot_key};
use tresor_engine::format::{
    BlobId, BlobKind, Content, ContentPage, Extent, IndexData, Node, NodeKind, Piece, Time,
    TreePage,
};
use tresor_engine::padding::padme;

fn run(from: u8) -> [u8; 32] {
    std::array::from_fn(|i| from + i as u8)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn keys() -> Keys {
    Keys::new(MasterKey(run(0)))
}

#[test]
fn ids_and_keys() {
    assert_eq!(
        keys().blob_id(BlobKind::Data, b"abc").to_string(),
        "af3f831be6f5166c0334e985dec1cf73d3f27f69437d32e2463a45671791653f"
    );
    assert_eq!(
        keys().blob_id(BlobKind::Tree, &TreePage::Leaf(Vec::new()).encode()).to_string(),
        "0c329e6269565a763e290d358d631a50bc94903a69a9322e3115d8a8d0d037de"
    );
    let table = keys().chunker_table();
    assert_eq!((table[0], table[255]), (0x9dd8_f215_581d_32e6, 0x3746_8bb2_49b5_aba4));
    let cost = KdfCost { memory: 8192, passes: 1, lanes: 1 };
    let slot_key = derive_slot_key(&Password::new(b"password".to_vec()), &run(0x20), cost).unwrap();
    assert_eq!(hex(&*slot_key), "0a897799a84ae4bf68c5e9ff6f6269b5b52446f342f3a91d01caa6789623c4e4");
    let mut wrapped = run(0).to_vec();
    Aead::new(&slot_key).seal(0, &run(0)[..16], &mut wrapped, 0);
    assert_eq!(
        hex(&wrapped),
        "1738689993313299b17d8bab9b30f181e18e3e1fcc2b2ce39cace8605e28e6f635f1aef2cc844af013ba26caad3b1594"
    );
}

#[test]
fn sealed_pieces() {
    let mut segment = [vec![0; 40], b"\0abc".to_vec()].concat();
    keys().object_cipher("pack", &run(0x20)).seal(40, Piece::Segment.aad(), &mut segment, 40);
    assert_eq!(hex(&segment[40..]), "043c05c32f8f50233fb8c067f2390475cb29a85f");
    let index = minicbor::to_vec(IndexData::default()).unwrap();
    assert_eq!(hex(&index), "a200800180");
    let mut text = [&[6, 0, 0, 0, 5, 0, 0, 0, 0], &index[..], &[0; 2]].concat();
    keys().object_cipher("index", &run(0x20)).seal(0, b"TRSRIX01", &mut text, 0);
    assert_eq!(hex(&text), "a728e09e598b133b783ad97966b5925ef8edf33ea156e053596d7a1fa3a2d322");
}

#[test]
fn encodings_and_padding() {
    let lens = [9, 100, 1025, 65537, 5_000_000];
    assert_eq!(lens.map(padme), [10, 104, 1088, 67584, 5_111_808]);
    let extents =
        vec![Extent { len: 5, id: Some(BlobId([0xaa; 32])) }, Extent { len: 7, id: None }];
    let expected = format!("82018182820558 20{}8107", "aa".repeat(32)).replace(' ', "");
    assert_eq!(hex(&minicbor::to_vec(Content::Extents(extents.clone())).unwrap()), expected);
    let page = ContentPage::Extents(extents).encode();
    assert_eq!(hex(&page[..6]), "820081828205");
    let mut node = Node::new("a", NodeKind::File);
    (node.mode, node.inode, node.size) = (0o644, 9, 2);
    (node.mtime, node.atime, node.ctime) = (Time::new(1, 0), Time::new(1, 0), Time::new(1, 0));
    node.content = Some(Content::Inline(b"hi".to_vec()));
    assert_eq!(
        hex(&minicbor::to_vec(&node).unwrap()),
        "ab00416101000219 01a40300040007820100088201000982 01000a090b020c820081426869"
            .replace(' ', "")
    );
}
