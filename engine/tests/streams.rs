//! Extended attributes that are too long for a node: stored as contents are, and looked at
//! wherever contents are.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use fastrand::Rng;
use tresor_engine::archiver::{Outcome, backup as run_backup};
use tresor_engine::error::Error;
use tresor_engine::format::{
    BlobId, BlobKind, Config, Content, Extent, MOST_STREAM_NAME, MOST_STREAMS, Node, NodeKind,
    ObjectKind, ObjectName, Stream, TreePage, Value, Xattr,
};
use tresor_engine::history::{self, ChangeKind};
use tresor_engine::maintenance::{
    CheckOptions, MaxUnused, PruneOptions, RepairSnapshotsOptions, check, plan_prune, prune,
    repair_snapshots, stats,
};
use tresor_engine::monitor::Quiet;
use tresor_engine::repo::{Repository, Snapshot};
use tresor_engine::source::{Bytes, Room, SourceDir, SourceFile};
use tresor_engine::store::{MemoryStore, Store};
use tresor_engine::tree;
use tresor_testkit::{
    Call, HookedStore, Item, attributes, backup, init, open, options, random_bytes, repository,
    without_streams,
};

const LONG: &str = "user.win.stream.long";

fn some_tree() -> Item {
    let mut rng = Rng::with_seed(5);
    let mut long = |len| random_bytes(&mut rng, len);
    let file =
        Item::file("text").with_attribute("user.a", "short").with_attribute(LONG, long(5_000_000));
    let dir = Item::dir().with_attribute(LONG, long(100_000)).with("empty", Item::file(""));
    let link = Item::symlink("file").with_attribute(LONG, long(70_000));
    Item::dir().with("dir", dir).with("file", file).with("link", link)
}

fn node(repo: &Repository, snapshot: &Snapshot, path: &[&str]) -> Node {
    let path: Vec<_> = path.iter().map(|name| name.as_bytes()).collect();
    Node::clone(&tree::resolve(repo, &snapshot.data.tree, &path).unwrap().unwrap())
}

/// Every entry has the attributes of the tree, no others, and none of them is too long for
/// its node.
#[track_caller]
fn assert_holds(repo: &Repository, snapshot: &Snapshot, tree: &Item) {
    history::walk(repo, &snapshot.data.tree, &mut |path, node| {
        let names = path.split(|b| *b == b'/').skip(1);
        let item = names.fold(tree, |item, name| &item.entries()[name]);
        assert!(attributes(repo, node).unwrap() == item.node.xattrs(), "{path:?}");
        assert!(node.xattrs().iter().map(|x| x.value.len()).sum::<usize>() <= 1 << 20);
        Ok(true)
    })
    .unwrap();
}

fn problems_of(repo: &Arc<Repository>, root: Arc<dyn SourceDir>) -> (Snapshot, Vec<String>) {
    let monitor = Arc::new(Quiet::default());
    let Outcome { snapshot, data, .. } =
        run_backup(repo, root, &options(None), monitor.clone()).unwrap();
    let problems = monitor.problems.lock().unwrap();
    let problems = problems.iter().map(|(path, message)| format!("{path}: {message}")).collect();
    assert_eq!(data.summary.errors as usize, Vec::len(&problems));
    (Snapshot { id: snapshot.unwrap(), data: Arc::new(data) }, problems)
}

#[test]
fn streams_of_files_directories_and_links_come_back() {
    let repo = repository();
    let tree = some_tree();
    let (snapshot, outcome) = backup(&repo, &tree, &options(None));
    let fresh = open(repo.store());
    assert_holds(&fresh, &snapshot, &tree);
    assert_eq!(outcome.data.summary.xattr_entries, 3);
    let file = node(&fresh, &snapshot, &["file"]);
    assert_eq!(file.xattrs().len(), 1);
    let size = file.attribute(LONG.as_bytes()).and_then(|value| value.size());
    assert_eq!(size, Some(5_000_000));
    // What it needs is counted, and what is the same is stored once.
    let counted = stats(&fresh, std::slice::from_ref(&snapshot)).unwrap();
    assert!(counted.blob_bytes > 5_170_000 && counted.stored_bytes < 5_400_000, "{counted:?}");
    let twin = tree.clone().with("twin", tree.entries()[&b"file"[..]].clone());
    let (_, outcome) = backup(&repo, &twin, &options(None));
    assert!(outcome.data.summary.bytes_added < 10_000);
}

#[test]
fn many_short_ones_that_are_too_many_together_are_streams_too() {
    let repo = repository();
    let mut item = Item::file("text");
    for i in 0..400 {
        item = item.with_attribute(&format!("user.{i:03}"), vec![i as u8; 60_000]);
    }
    let tree = Item::dir().with("f", item);
    let (snapshot, _) = backup(&repo, &tree, &options(None));
    assert_holds(&open(repo.store()), &snapshot, &tree);
}

#[test]
fn what_is_unchanged_is_not_read_and_a_changed_stream_is_found() {
    let repo = repository();
    let mut tree = some_tree();
    let (first, _) = backup(&repo, &tree, &options(None));
    let (second, outcome) = backup(&repo, &tree, &options(Some(first.clone())));
    assert_eq!(second.data.tree, first.data.tree);
    assert_eq!(outcome.data.summary.blobs_added, 0);
    for path in [&["dir"][..], &["file"], &["link"]] {
        let item = tree.entries_mut().get_mut(path[0].as_bytes()).unwrap();
        item.set_attribute(LONG, vec![path[0].len() as u8; 200_000]);
        let (third, _) = backup(&repo, &tree, &options(Some(second.clone())));
        assert_holds(&open(repo.store()), &third, &tree);
    }
    let third = backup(&repo, &tree, &options(Some(second.clone()))).0;
    let mut changes = Vec::new();
    history::diff(&repo, &first.data.tree, &third.data.tree, &mut |kind, path, _, _| {
        changes.push((kind, String::from_utf8_lossy(path).into_owned()));
        Ok(())
    })
    .unwrap();
    let metadata = |path: &str| (ChangeKind::Metadata, path.to_owned());
    assert_eq!(changes, [metadata("/dir"), metadata("/file"), metadata("/link")]);
    let snapshots = [first, second, third];
    let versions = history::versions(&repo, &snapshots, &[b"file"], &|_, _| true).unwrap().found;
    assert_eq!(versions.iter().map(|v| v.snapshots.len()).collect::<Vec<_>>(), [2, 1]);
}

#[test]
fn a_repository_of_an_older_version_keeps_what_fits_and_the_rest_is_reported() {
    let store: Store = Arc::new(MemoryStore::new());
    init(&store);
    let config = Config::parse(&store.get(&ObjectName::CONFIG).unwrap()).unwrap();
    assert_eq!(config.write_features, ["streams"]);
    without_streams(&store);
    let repo = open(&store);
    let (snapshot, problems) = problems_of(&repo, some_tree().source());
    let [problem] = problems.as_slice() else { panic!("{problems:?}") };
    assert!(
        problem.starts_with("/file: saved without its stream long: 5000000 bytes"),
        "{problem}"
    );
    let file = node(&repo, &snapshot, &["file"]);
    assert_eq!((file.xattrs().len(), file.streams().len()), (1, 0));
    // The next backup looks again.
    assert_eq!(file.ctime.seconds, 0);
    let many = |item, i| Item::with_attribute(item, &format!("user.{i:03}"), vec![7; 60_000]);
    let tree = Item::dir().with("f", (0..60).fold(Item::file("text"), many));
    let (kept, problems) = problems_of(&repo, tree.source());
    assert_eq!((problems.len(), node(&repo, &kept, &["f"]).xattrs().len()), (8, 52));
    let dir = node(&repo, &snapshot, &["dir"]);
    assert!(matches!(dir.attribute(LONG.as_bytes()), Some(Value::Here(_))));
}

/// A source that reads all attributes, however much that is, or names one that no system has.
struct Careless(Arc<dyn SourceDir>, Vec<u8>);

impl SourceDir for Careless {
    fn names(&self) -> io::Result<Vec<Vec<u8>>> {
        self.0.names()
    }
    fn stat(&self, name: &[u8]) -> io::Result<(Node, u64)> {
        self.0.stat(name)
    }
    fn details(&self, node: &mut Node, room: &mut Room) -> io::Result<()> {
        if !self.1.is_empty() {
            room.keeps(&self.1, 1 << 30);
        }
        self.0.details(node, &mut Room::new(u64::MAX, u64::MAX))
    }
    fn open_stream(&self, _: &Node, _: &[u8]) -> io::Result<Box<dyn SourceFile>> {
        Ok(Box::new(Bytes(b"gone but for this".to_vec())))
    }
    fn open_dir(&self, name: &[u8]) -> io::Result<Arc<dyn SourceDir>> {
        self.0.open_dir(name)
    }
    fn open_file(&self, name: &[u8]) -> io::Result<Box<dyn SourceFile>> {
        self.0.open_file(name)
    }
}

#[test]
fn what_no_page_could_hold_is_reported_and_the_file_is_saved() {
    let repo = repository();
    let much = Item::file("text").with_attribute("user.much", vec![7; 5 << 20]);
    let root = Item::dir().with("f", much).source();
    let (snapshot, problems) = problems_of(&repo, Arc::new(Careless(root, Vec::new())));
    assert!(problems[0].contains("extended attributes"), "{problems:?}");
    let file = node(&open(repo.store()), &snapshot, &["f"]);
    assert_eq!((file.size, file.xattrs().len(), file.streams().len()), (4, 0, 0));
    for name in [vec![b'x'; MOST_STREAM_NAME + 1], b"a\0b".to_vec()] {
        let root = Item::dir().with("f", Item::file("text")).source();
        let (snapshot, problems) = problems_of(&repo, Arc::new(Careless(root, name)));
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(node(&open(repo.store()), &snapshot, &["f"]).streams(), []);
    }
    // One that got shorter meanwhile is what was read of it.
    let root = Item::dir().with("f", Item::file("text")).source();
    let (snapshot, problems) = problems_of(&repo, Arc::new(Careless(root, b"user.x".to_vec())));
    assert_eq!(problems, [""; 0]);
    let file = node(&open(repo.store()), &snapshot, &["f"]);
    assert_eq!(attributes(&repo, &file).unwrap()[0].value, b"gone but for this");
}

#[test]
fn who_does_not_know_streams_refuses_to_open() {
    let store: Store = Arc::new(MemoryStore::new());
    init(&store);
    let mut config = Config::parse(&store.get(&ObjectName::CONFIG).unwrap()).unwrap();
    config.write_features.push("of the future".into());
    let refused = Config::parse(&minicbor::to_vec(&config).unwrap());
    assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
    // Nor can somebody take the feature away.
    config.write_features.clear();
    store.replace(&ObjectName::CONFIG, &minicbor::to_vec(&config).unwrap()).unwrap();
    let opened = Repository::open(store, &tresor_testkit::password(), &Default::default());
    assert!(opened.is_err());
}

#[test]
fn prune_keeps_streams_and_drops_those_that_nothing_needs() {
    let repo = repository();
    let mut tree = some_tree();
    let (first, _) = backup(&repo, &tree, &options(None));
    tree.entries_mut().get_mut(&b"file"[..]).unwrap().set_attribute(LONG, vec![3; 300_000]);
    let (second, _) = backup(&repo, &tree, &options(Some(first.clone())));
    let at_once = PruneOptions {
        grace: std::time::Duration::ZERO,
        max_unused: MaxUnused::Percent(0.0),
        max_repack_bytes: None,
        ..Default::default()
    };
    let stored = |repo: &Repository| -> u64 {
        repo.store().list(ObjectKind::Pack).unwrap().iter().map(|(_, size)| size).sum()
    };
    let run = |repo: &Arc<Repository>| {
        let plan = plan_prune(repo, &at_once, &Quiet::default()).unwrap();
        prune(repo, &at_once, plan, &Quiet::default()).unwrap();
    };
    run(&repo);
    let before = stored(&repo);
    repo.forget(&[first.id]).unwrap();
    run(&repo);
    assert!(stored(&repo) < before / 4, "{} of {before}", stored(&repo));
    let fresh = open(repo.store());
    assert_holds(&fresh, &second, &tree);
    let read_data = CheckOptions { read_data: true, ..Default::default() };
    assert!(check(&fresh, &read_data, &Quiet::default()).unwrap().problems.is_empty());
}

fn chunk_of(node: &Node) -> BlobId {
    match node.attribute(LONG.as_bytes()) {
        Some(Value::Stored(Content::Extents(extents))) => extents[0].id.unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Damages the pack that a chunk is in, where it is.
fn damage(repo: &Repository, id: &BlobId) {
    let segment = repo.locate(id).unwrap().segment;
    let name = ObjectName::new(ObjectKind::Pack, segment.pack);
    let mut pack = repo.store().get(&name).unwrap();
    pack[segment.offset as usize + segment.sealed_len as usize / 2] ^= 1;
    repo.store().replace(&name, &pack).unwrap();
}

#[test]
fn damage_of_a_stream_is_named_and_the_file_is_kept_without_it() {
    let repo = repository();
    let tree = some_tree();
    let (snapshot, _) = backup(&repo, &tree, &options(None));
    damage(&repo, &chunk_of(&node(&repo, &snapshot, &["file"])));
    damage(&repo, &chunk_of(&node(&repo, &snapshot, &["dir"])));
    let read_data = CheckOptions { read_data: true, ..Default::default() };
    let report = check(&open(repo.store()), &read_data, &Quiet::default()).unwrap();
    let mut named: Vec<_> = report.problems.iter().flat_map(|p| &p.files).cloned().collect();
    named.sort();
    let id = snapshot.id.short();
    assert_eq!(named, [format!("{id}:/dir (stream long)"), format!("{id}:/file (stream long)")]);

    let options = RepairSnapshotsOptions { read_data: true, ..Default::default() };
    let report = repair_snapshots(&open(repo.store()), &options, &Quiet::default()).unwrap();
    let losses: Vec<_> = report.repaired[0]
        .losses
        .iter()
        .map(|l| (l.path.as_slice(), l.is_dir, l.kept_as.as_deref(), l.stream.as_deref()))
        .collect();
    let (dir, file, long) = (&b"/dir"[..], &b"/file"[..], Some(LONG.as_bytes()));
    assert_eq!(losses, [(dir, true, Some(dir), long), (file, false, Some(file), long)]);
    let fresh = open(repo.store());
    let repaired = report.repaired[0].repaired.unwrap();
    let repaired = fresh.snapshots().unwrap().into_iter().find(|s| s.id == repaired).unwrap();
    let file = node(&fresh, &repaired, &["file"]);
    assert_eq!((file.streams(), file.xattrs().len(), file.size), (&[][..], 1, 4));
    assert_eq!(node(&fresh, &repaired, &["dir"]).streams(), []);
    assert!(node(&fresh, &repaired, &["dir", "empty"]).is_file());
    assert_eq!(node(&fresh, &repaired, &["link"]).streams().len(), 1);
    // A backup that compares with it has the streams again.
    let (again, _) = backup(&fresh, &tree, &tresor_testkit::options(Some(repaired)));
    let names = [["file"], ["dir"]];
    assert!(names.iter().all(|name| node(&fresh, &again, name).streams().len() == 1));
}

#[test]
fn a_stream_that_is_gone_is_stored_again_though_its_entry_is_unchanged() {
    for name in ["dir", "file", "link"] {
        let repo = repository();
        let tree = some_tree();
        let (snapshot, _) = backup(&repo, &tree, &options(None));
        let id = chunk_of(&node(&repo, &snapshot, &[name]));
        let pack = repo.locate(&id).unwrap().segment.pack;
        repo.store().delete(&ObjectName::new(ObjectKind::Pack, pack)).unwrap();
        let repo = open(repo.store());
        let monitor = Arc::new(Quiet::default());
        run_backup(&repo, tree.source(), &options(Some(snapshot.clone())), monitor).unwrap();
        // Also of the snapshot that has lost it.
        assert_holds(&open(repo.store()), &snapshot, &tree);
    }
}

/// Listing a directory reads its page, however long the streams are.
#[test]
fn listing_reads_nothing_of_streams() {
    let store: Store = Arc::new(MemoryStore::new());
    init(&store);
    let (snapshot, _) = backup(&open(&store), &some_tree(), &options(None));
    let read = Arc::new(AtomicU64::new(0));
    let counted = read.clone();
    let counting = HookedStore::new(store, move |call| {
        if let Call::GetRange(_, _, len) = call {
            counted.fetch_add(*len as u64, Relaxed);
        }
        Ok(())
    });
    let repo = open(&(Arc::new(counting) as Store));
    history::walk(&repo, &snapshot.data.tree, &mut |_, _| Ok(true)).unwrap();
    assert!(read.load(Relaxed) < 20_000, "{read:?}");
}

fn stream(name: impl Into<Vec<u8>>) -> Stream {
    let content = Content::Extents(vec![Extent { len: 5, id: Some(BlobId([7; 32])) }]);
    Stream { name: name.into(), content }
}

fn decodes(xattrs: &[&str], streams: Vec<Stream>) -> bool {
    let mut node = Node::new("f", NodeKind::File);
    let xattr = |name: &&str| Xattr { name: name.as_bytes().to_vec(), value: Vec::new() };
    node.xattrs = Some(xattrs.iter().map(xattr).collect());
    node.streams = Some(streams);
    let page = TreePage::Leaf(vec![node]);
    match TreePage::decode(&page.encode()) {
        Ok(read) => {
            assert_eq!(read, page);
            true
        }
        Err(_) => false,
    }
}

#[test]
fn names_of_streams_are_possible_in_order_and_there_once() {
    assert!(decodes(&["a", "d"], vec![stream("b"), stream("c")]));
    assert!(decodes(&["a"], Vec::new()));
    assert!(decodes(&[], vec![stream(vec![b'x'; MOST_STREAM_NAME])]));
    let many = |n: usize| (0..n).map(|i| stream(format!("{i:05}"))).collect::<Vec<_>>();
    assert!(decodes(&[], many(MOST_STREAMS)));

    assert!(!decodes(&[], vec![stream("c"), stream("b")]));
    assert!(!decodes(&[], vec![stream("b"), stream("b")]));
    assert!(!decodes(&["a", "b"], vec![stream("b")]));
    assert!(!decodes(&[], vec![stream("")]));
    assert!(!decodes(&[], vec![stream("a\0")]));
    assert!(!decodes(&[], vec![stream(vec![b'x'; MOST_STREAM_NAME + 1])]));
    assert!(!decodes(&[], many(MOST_STREAMS + 1)));
}

/// What a node with a stream is byte for byte, as docs/format.md has it.
#[test]
fn a_stream_as_it_is_written_down() {
    let mut node = Node::new("a", NodeKind::Fifo);
    node.streams =
        Some(vec![Stream { name: b"u".to_vec(), content: Content::Inline(b"hi".to_vec()) }]);
    let bytes = minicbor::to_vec(&node).unwrap();
    let end = [0x12, 0x81, 0x82, 0x41, b'u', 0x82, 0x00, 0x81, 0x42, b'h', b'i'];
    assert!(bytes.ends_with(&end), "{bytes:02x?}");
}

#[test]
fn a_stream_that_does_not_add_up_is_refused_and_nothing_else() {
    let repo = repository();
    let mut writer = tresor_engine::pack::PackWriter::new(repo.clone());
    let id = repo.keys().blob_id(BlobKind::Data, b"12345");
    let mut segment = tresor_engine::pack::NewSegment::new(BlobKind::Data);
    segment.push(id, b"12345");
    writer.add(&segment.into()).unwrap();
    writer.finish().unwrap();
    let read = |lengths: &[u64]| {
        let extents = lengths.iter().map(|len| Extent { len: *len, id: Some(id) }).collect();
        let mut node = Node::new("f", NodeKind::Fifo);
        node.streams =
            Some(vec![Stream { name: b"s".to_vec(), content: Content::Extents(extents) }]);
        attributes(&repo, &node).map(|all| all[0].value.clone()).ok()
    };
    assert_eq!(read(&[5, 5]).as_deref(), Some(&b"1234512345"[..]));
    for lengths in [&[0][..], &[5, 0], &[4], &[6], &[u64::MAX, 5]] {
        assert_eq!(read(lengths), None, "{lengths:?}");
    }
}
