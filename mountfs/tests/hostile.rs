//! Trees that nobody saved, as somebody with the key can write them: what a restore
//! refuses, the drive refuses, and nothing keeps it busy.

use std::sync::Arc;

use jiff::tz::TimeZone;
use tresor_engine::format::{
    BlobId, BlobKind, Content, ContentPage, Extent, ExtentPage, LinkId, Node, NodeKind,
    SnapshotData, TreePage,
};
use tresor_engine::pack::{NewSegment, PackWriter, Packed};
use tresor_engine::repo::{Repository, Snapshot};
use tresor_mountfs::{Attr, DriveOptions, FsError, Ino, Layout, SnapshotFs};
use tresor_testkit::{Item, backup, options, repository};

fn put(repo: &Arc<Repository>, kind: BlobKind, bytes: &[u8]) -> BlobId {
    let id = repo.keys().blob_id(kind, bytes);
    let mut segment = NewSegment::new(kind);
    segment.push(id, bytes);
    let mut writer = PackWriter::new(repo.clone());
    writer.add(&Packed::from(segment)).unwrap();
    writer.finish().unwrap();
    id
}

/// A drive that shows a snapshot whose root holds these files.
fn drive(repo: &Arc<Repository>, files: Vec<Node>) -> SnapshotFs {
    let tree = put(repo, BlobKind::Tree, &TreePage::Leaf(files).encode());
    let (honest, _) = backup(repo, &Item::dir(), &options(None));
    let data = SnapshotData { tree, ..(*honest.data).clone() };
    let id = repo.save_snapshot(&data).unwrap();
    let options = DriveOptions {
        snapshot: Some(Snapshot { id, data: Arc::new(data) }),
        filter: Default::default(),
        time_zone: TimeZone::UTC,
        layout: Layout::Folders,
        cache_size: 1 << 20,
    };
    SnapshotFs::new(repo.clone(), options).unwrap()
}

fn file(name: &str, size: u64, content: Content) -> Node {
    let mut node = Node::new(name, NodeKind::File);
    (node.size, node.content) = (size, Some(content));
    node
}

fn is_refused(fs: &SnapshotFs, attr: &Attr) -> bool {
    let refused = |answer: Result<(), FsError>| matches!(answer, Err(FsError::Io(_)));
    refused(fs.read_at(attr.ino, 0, 4).map(drop))
        && refused(fs.seek(attr.ino, 0, false).map(drop))
        && refused(fs.seek(attr.ino, 0, true).map(drop))
}

#[test]
fn files_that_dont_add_up_are_errors() {
    let repo = repository();
    let chunk = Extent { len: 8, id: Some(put(&repo, BlobKind::Data, b"8 bytes!")) };
    let page =
        |extents: Vec<Extent>| put(&repo, BlobKind::Tree, &ContentPage::Extents(extents).encode());
    let pages = |len, id| Content::Pages { level: 1, pages: vec![ExtentPage { len, id }] };
    let (short, empty) = (Extent { len: 4, ..chunk }, Extent { len: 0, id: None });
    let one = page(vec![chunk]);
    let wrong = [
        ("longer", file("", 9, Content::Extents(vec![chunk]))),
        ("shorter", file("", 7, Content::Extents(vec![chunk]))),
        ("inline", file("", 4, Content::Inline(b"8 bytes!".to_vec()))),
        ("empty part", file("", 8, Content::Extents(vec![empty, chunk]))),
        (
            "overflow",
            file("", 7, Content::Extents(vec![Extent { len: u64::MAX, id: None }, chunk])),
        ),
        ("long page", file("", 16, pages(16, one))),
        ("short page", file("", 4, pages(4, one))),
        ("endless page", file("", u64::MAX, pages(u64::MAX, one))),
        ("level 0", file("", 0, Content::Pages { level: 0, pages: Vec::new() })),
        (
            "level 2",
            file("", 8, Content::Pages { level: 2, pages: vec![ExtentPage { len: 8, id: one }] }),
        ),
    ];
    let mut nodes: Vec<_> =
        wrong.into_iter().map(|(name, n)| Node { name: name.into(), ..n }).collect();
    // The blob is longer than the extent: only reading its bytes tells.
    nodes.push(file("short blob", 4, Content::Extents(vec![short])));
    nodes.push(file("right", 8, pages(8, one)));
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    let fs = drive(&repo, nodes.clone());
    for node in &nodes {
        let attr = fs.lookup(Ino::ROOT, &node.name).unwrap();
        let name = node.name.escape_ascii();
        match &*node.name {
            b"right" => assert_eq!(fs.read_at(attr.ino, 0, 100).unwrap(), b"8 bytes!"),
            b"short blob" => assert!(fs.read_at(attr.ino, 0, 4).is_err(), "{name}"),
            _ => assert!(is_refused(&fs, &attr), "{name}"),
        }
    }
}

/// An inode may be used again while a backup runs: then two names of it are two files.
#[test]
fn names_of_one_inode_that_differ_are_two_files() {
    let repo = repository();
    let named = |name: &str, bytes: &[u8]| {
        let mut node = file(name, bytes.len() as u64, Content::Inline(bytes.to_vec()));
        node.link = Some(LinkId { device: 1, inode: 7, names: 3 });
        node
    };
    let fs =
        drive(&repo, vec![named("a", b"before"), named("b", b"later on"), named("c", b"before")]);
    let [a, b, c] = [b"a", b"b", b"c"].map(|name| fs.lookup(Ino::ROOT, name).unwrap());
    assert!(a.ino == c.ino && a.ino != b.ino);
    for (attr, bytes) in [(&a, &b"before"[..]), (&b, b"later on"), (&c, b"before")] {
        assert_eq!(fs.read_at(attr.ino, 0, 100).unwrap(), bytes);
        assert_eq!(fs.attr(attr.ino).unwrap().size, bytes.len() as u64);
    }
}

/// Numbers at their borders, in debug builds too.
#[test]
fn sums_that_no_number_holds() {
    let repo = repository();
    let id = Some(BlobId([1; 32]));
    let huge = Extent { len: u64::MAX, id };
    let fs = drive(&repo, vec![file("huge", 5, Content::Extents(vec![huge, huge]))]);
    assert_eq!(fs.lookup(Ino::ROOT, b"huge").unwrap().allocated, u64::MAX);
    let (snapshot, _) = backup(&repo, &Item::dir(), &options(None));
    let mut data = (*snapshot.data).clone();
    (data.summary.files, data.summary.directories) = (u64::MAX, 1);
    data.time.seconds += 1_000;
    let id = repo.save_snapshot(&data).unwrap();
    let forged = Snapshot { id, data: Arc::new(data) };
    let stats = tresor_engine::maintenance::stats(&repo, &[forged.clone(), forged]).unwrap();
    assert_eq!((stats.files, stats.entries), (u64::MAX, u64::MAX));
    let options = DriveOptions {
        snapshot: None,
        filter: Default::default(),
        time_zone: TimeZone::UTC,
        layout: Layout::Folders,
        cache_size: 1 << 20,
    };
    assert_eq!(SnapshotFs::new(repo, options).unwrap().volume().entries, u64::MAX);
}
