//! The core against a model in memory: random trees, random operations.

mod kit;

use std::sync::Arc;

use fastrand::Rng;
use tresor_engine::archiver::BackupOptions;
use tresor_engine::format::{LinkId, NodeKind, Time, Xattr};
use tresor_engine::repo::{REPAIRED, Repository, Snapshot, without_fetching};
use tresor_mountfs::{Attr, FsError, Ino, LookUp, SnapshotFs};
use tresor_testkit::{Body, Item, add_streams, backup, options, random_tree, repository};

fn drive(repo: &Arc<Repository>, snapshot: Option<Snapshot>) -> Arc<SnapshotFs> {
    kit::drive(repo, snapshot, 4 << 20)
}

/// All entries of a directory, listed a few at a time.
fn list(fs: &SnapshotFs, ino: Ino, rng: &mut Rng, look_up: LookUp) -> Vec<(Vec<u8>, Attr)> {
    let mut all = Vec::new();
    let mut offset = 0;
    loop {
        let (before, room) = (all.len(), rng.usize(1..40));
        fs.read_dir(ino, offset, look_up, &mut |entry| {
            if all.len() - before == room {
                return false;
            }
            all.push((entry.name.to_vec(), entry.attr));
            offset = entry.next;
            true
        })
        .unwrap();
        if all.len() == before {
            break;
        }
    }
    all
}

fn check_attr(attr: &Attr, item: &Item) {
    let node = &item.node;
    assert_eq!(attr.kind, node.kind);
    assert_eq!((attr.mode, attr.uid, attr.gid), (node.mode, node.uid, node.gid));
    assert_eq!((attr.size, attr.mtime, attr.atime), (node.size, node.mtime, node.atime));
    assert_eq!(attr.links, node.link.map_or(1, |l| l.names));
    assert_eq!(attr.device, node.device.unwrap_or(0));
}

fn check_file(fs: &SnapshotFs, ino: Ino, item: &Item, rng: &mut Rng) {
    let Body::File(bytes, holes) = &item.body else { return };
    for _ in 0..12 {
        let (offset, len) = (rng.u64(0..bytes.len() as u64 + 10), rng.usize(0..300_000));
        fs.read_ahead(ino, offset, len);
        let want = bytes.get(offset as usize..).unwrap_or_default();
        let want = &want[..want.len().min(len)];
        match without_fetching(|| fs.read_at(ino, offset, len)) {
            Err(FsError::WouldFetch) => {}
            cached => assert!(cached.unwrap() == want),
        }
        assert!(fs.read_at(ino, offset, len).unwrap() == want);
        check_seek(fs, ino, offset, bytes.len() as u64, holes);
    }
}

fn check_seek(fs: &SnapshotFs, ino: Ino, offset: u64, len: u64, holes: &[std::ops::Range<u64>]) {
    let (data, hole) = (fs.seek(ino, offset, false).unwrap(), fs.seek(ino, offset, true).unwrap());
    if offset >= len {
        assert_eq!((data, hole), (None, None));
        return;
    }
    // Holes of small files are not kept.
    match holes.iter().find(|h| h.contains(&offset) && len >= 65536) {
        Some(inside) => {
            assert_eq!(hole, Some(offset));
            assert_eq!(data, Some(inside.end).filter(|end| *end < len));
        }
        None => {
            assert_eq!(data, Some(offset));
            assert!(hole.is_some_and(|at| at > offset && at <= len));
        }
    }
}

fn check_tree(fs: &SnapshotFs, ino: Ino, item: &Item, rng: &mut Rng) {
    let look_up = [LookUp::Nothing, LookUp::Directories, LookUp::Everything][rng.usize(..3)];
    let listed = list(fs, ino, rng, look_up);
    assert_eq!((listed[0].0.as_slice(), listed[0].1.ino), (b".".as_slice(), ino));
    assert_eq!(listed[1].0, b"..");
    let names: Vec<_> = listed[2..].iter().map(|(name, _)| name.as_slice()).collect();
    let expected: Vec<_> = item.entries().keys().map(Vec::as_slice).collect();
    assert_eq!(names, expected);
    for (name, attr) in &listed[2..] {
        check_entry(fs, ino, name, attr, &item.entries()[name], rng);
        let looked_up = match look_up {
            LookUp::Nothing => false,
            LookUp::Directories => attr.kind == NodeKind::Directory,
            LookUp::Everything => true,
        };
        fs.forget(attr.ino, 1 + u64::from(looked_up));
    }
    let mut missing = names.first().map_or(b"none".to_vec(), |n| n.to_vec());
    missing.push(b'!');
    assert_eq!(fs.lookup(ino, &missing), Err(FsError::NotFound));
}

/// No attribute of these trees is longer.
const MOST: u64 = 4 << 20;

fn check_entry(fs: &SnapshotFs, dir: Ino, name: &[u8], attr: &Attr, item: &Item, rng: &mut Rng) {
    check_attr(attr, item);
    assert_eq!(fs.lookup(dir, name).unwrap(), *attr);
    assert_eq!(fs.attr(attr.ino).unwrap(), *attr);
    let xattrs = item.node.xattrs();
    let names: Vec<_> = xattrs.iter().map(|x| x.name.clone()).collect();
    assert_eq!(fs.xattr_names(attr.ino, MOST).unwrap(), names);
    for x in xattrs {
        assert_eq!(fs.xattr(attr.ino, &x.name, MOST).unwrap(), x.value);
    }
    assert_eq!(fs.xattr(attr.ino, b"user.none", MOST), Err(FsError::NoAttribute));
    match item.node.kind {
        NodeKind::Directory => {
            check_tree(fs, attr.ino, item, rng);
            assert_eq!(fs.read_at(attr.ino, 0, 1), Err(FsError::IsADirectory));
            return;
        }
        NodeKind::Symlink => {
            assert_eq!(Some(fs.readlink(attr.ino).unwrap()), item.node.target);
        }
        NodeKind::File => check_file(fs, attr.ino, item, rng),
        _ => assert_eq!(fs.read_at(attr.ino, 0, 1), Err(FsError::Invalid)),
    }
    let listed = fs.read_dir(attr.ino, 0, LookUp::Nothing, &mut |_| panic!("no directory"));
    assert_eq!(listed, Err(FsError::NotADirectory));
    assert_eq!(fs.lookup(attr.ino, b"x"), Err(FsError::NotADirectory));
}

#[test]
fn random_trees_look_the_same_on_the_drive() {
    let repo = repository();
    for seed in 0..12 {
        let mut rng = Rng::with_seed(seed);
        let mut tree = random_tree(&mut rng, 120);
        add_streams(&mut rng, &mut tree);
        let (snapshot, _) = backup(&repo, &tree, &options(None));
        let fs = drive(&repo, Some(snapshot));
        check_tree(&fs, Ino::ROOT, &tree, &mut rng);
        // All that was looked up has been forgotten, except the root.
        assert_eq!(kit::status(&fs, "inodes"), 1);
    }
}

#[test]
fn names_of_one_file_share_a_number_within_a_snapshot_only() {
    let repo = repository();
    let mut file = Item::file("text");
    file.node.link = Some(LinkId { device: 1, inode: file.node.inode, names: 2 });
    let tree = Item::dir().with("a", file.clone()).with("d", Item::dir().with("b", file));
    backup(&repo, &tree, &options(None));
    backup(&repo, &tree, &options(None));
    let fs = drive(&repo, None);
    let snapshots = fs.lookup(Ino::ROOT, b"snapshots").unwrap().ino;
    let mut numbers = Vec::new();
    for (name, attr) in &list(&fs, snapshots, &mut Rng::with_seed(0), LookUp::Everything)[2..] {
        if name != b"latest" {
            let a = fs.lookup(attr.ino, b"a").unwrap();
            let d = fs.lookup(attr.ino, b"d").unwrap();
            let b = fs.lookup(d.ino, b"b").unwrap();
            assert_eq!((a.ino, a.links), (b.ino, 2));
            numbers.push(a.ino);
        }
    }
    assert_eq!(numbers.len(), 2);
    assert_ne!(numbers[0], numbers[1]);
}

#[test]
fn folders_show_every_snapshot_and_follow_new_and_forgotten_ones() {
    let repo = repository();
    let mut with = options(None);
    with.tags = vec!["daily".into(), "a/b".into()];
    let (first, _) = backup(&repo, &Item::dir().with("f", Item::file("one")), &with);
    let fs = drive(&repo, None);
    let mut rng = Rng::with_seed(0);
    let root = list(&fs, Ino::ROOT, &mut rng, LookUp::Nothing);
    let names: Vec<_> = root.iter().map(|(n, _)| String::from_utf8_lossy(n)).collect();
    assert_eq!(names, [".", "..", "hosts", "ids", "snapshots", "tags"]);
    let folder = |names: &[&str]| {
        names.iter().fold(Ino::ROOT, |at, name| fs.lookup(at, name.as_bytes()).unwrap().ino)
    };
    let paths: [&[&str]; 5] =
        [&["snapshots"], &["hosts", "host"], &["tags", "daily"], &["tags", "a%2Fb"], &["ids"]];
    for path in paths {
        let inside = list(&fs, folder(path), &mut rng, LookUp::Nothing);
        assert_eq!(inside.len(), 4, "{path:?}");
        let latest = fs.lookup(folder(path), b"latest").unwrap();
        assert_eq!(fs.readlink(latest.ino).unwrap(), inside[2].0);
    }
    for name in ["@latest", "@today", &format!("@{}", first.id.short()), "@9999-12-31T23.59"] {
        assert_eq!(list(&fs, folder(&[name]), &mut rng, LookUp::Nothing)[2].0, b"f", "{name}");
    }
    for name in ["@latest~1", "@1999-12-31", "@nonsense", "@", "@\u{fffd}"] {
        assert_eq!(fs.lookup(Ino::ROOT, name.as_bytes()), Err(FsError::NotFound), "{name}");
    }
    let ids = folder(&["ids"]);
    let latest = fs.lookup(ids, b"latest").unwrap().ino;
    let shown = fs.lookup(ids, first.id.short().as_bytes()).unwrap();
    let open = fs.lookup(shown.ino, b"f").unwrap().ino;
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let (second, _) = backup(&repo, &Item::dir().with("f", Item::file("two")), &options(None));
    repo.forget(&[first.id]).unwrap();
    let names: Vec<_> =
        list(&fs, ids, &mut rng, LookUp::Nothing).into_iter().map(|(n, _)| n).collect();
    assert!(names.contains(&second.id.short().into_bytes()));
    assert_eq!(fs.lookup(ids, first.id.short().as_bytes()), Err(FsError::NotFound));
    // The target of the old link may be kept by a kernel; the new one has another number.
    let moved = fs.lookup(ids, b"latest").unwrap().ino;
    assert_ne!(moved, latest);
    assert_eq!(fs.readlink(moved).unwrap(), second.id.short().into_bytes());
    // What was open stays readable.
    assert_eq!(fs.read_at(open, 0, 10).unwrap(), b"one");
    assert_eq!(list(&fs, shown.ino, &mut rng, LookUp::Nothing).len(), 3);
}

#[test]
fn what_was_backed_up_keeps_its_name_and_is_the_latest() {
    let repo = repository();
    let (original, _) = backup(&repo, &Item::dir().with("f", Item::file("one")), &options(None));
    let fs = drive(&repo, None);
    let snapshots = fs.lookup(Ino::ROOT, b"snapshots").unwrap().ino;
    let mut rng = Rng::with_seed(0);
    let mut names = || -> Vec<_> {
        list(&fs, snapshots, &mut rng, LookUp::Nothing)
            .into_iter()
            .skip(2)
            .map(|(name, _)| name)
            .collect()
    };
    let [name, _] = names().try_into().unwrap();
    // Several, so that some ids are smaller and some larger.
    for n in 0..8 {
        let mut repaired = original.data.as_ref().clone();
        repaired.tags.push(REPAIRED.into());
        repaired.summary.errors = n;
        repo.save_snapshot(&repaired).unwrap();
    }
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(names().len(), 10);
    let latest = fs.lookup(snapshots, b"latest").unwrap().ino;
    assert_eq!(fs.readlink(latest).unwrap(), name);
    let all = repo.snapshots().unwrap();
    assert_eq!(all.last().unwrap().id, original.id);
}

#[test]
fn the_latest_is_not_one_from_the_future() {
    let repo = repository();
    let file = |text: &str| Item::dir().with("f", Item::file(text));
    let with = |year: i64| {
        let time = Time::new((year - 1970) * 31_557_600, 0);
        BackupOptions { time: Some(time), tags: vec!["daily".into()], ..options(None) }
    };
    let folders: [&[&str]; 4] = [&["snapshots"], &["hosts", "host"], &["tags", "daily"], &["ids"]];
    let find = |fs: &SnapshotFs, path: &[&str]| {
        let root = fs.attr(Ino::ROOT).unwrap();
        path.iter().fold(root, |at, name| fs.lookup(at.ino, name.as_bytes()).unwrap())
    };
    let read = |fs: &SnapshotFs, path: &[&str]| fs.read_at(find(fs, path).ino, 0, 10).unwrap();
    backup(&repo, &file("ahead"), &with(2222));
    let fs = drive(&repo, None);
    assert_eq!(read(&fs, &["@latest", "f"]), b"ahead", "there is no other");
    backup(&repo, &file("old"), &with(2020));
    backup(&repo, &file("new"), &with(2021));
    let fs = drive(&repo, None);
    for path in folders {
        let at = find(&fs, path);
        assert!(at.mtime.seconds < 60 * 31_557_600, "{path:?}");
        let link = fs.lookup(at.ino, b"latest").unwrap().ino;
        let name = fs.readlink(link).unwrap();
        let shown = [path, &[std::str::from_utf8(&name).unwrap(), "f"]].concat();
        assert_eq!(read(&fs, &shown), b"new", "{path:?}");
    }
    assert_eq!(read(&fs, &["@latest", "f"]), b"new");
    assert_eq!(read(&fs, &["@latest~1", "f"]), b"old");
    assert_eq!(read(&fs, &["@2222-12-31", "f"]), b"ahead");
}

#[test]
fn programs_are_told_when_nothing_has_a_label_or_acl() {
    let repo = repository();
    let with = |name: &str| {
        let mut file = Item::file("text");
        let value = b"value".to_vec();
        file.node.xattrs = Some(vec![Xattr { name: name.into(), value }]);
        Item::dir().with("f", Item::file("plain")).with("g", file)
    };
    let (first, _) = backup(&repo, &with("user.note"), &options(None));
    assert_eq!(first.data.xattr_names.as_ref().unwrap().len(), 1);
    let fs = drive(&repo, None);
    let at = |path: &[&str]| {
        path.iter().fold(Ino::ROOT, |at, name| fs.lookup(at, name.as_bytes()).unwrap().ino)
    };
    let plain = at(&["@latest", "f"]);
    let (acl, label) = (b"system.posix_acl_access", b"security.selinux");
    assert_eq!(fs.xattr(plain, acl, MOST), Err(FsError::NoSuchAttributes));
    assert_eq!(fs.xattr(plain, label, MOST), Err(FsError::NoSuchAttributes));
    assert_eq!(fs.xattr(plain, b"user.note", MOST), Err(FsError::NoAttribute));
    assert_eq!(fs.xattr(plain, b"user.none", MOST), Err(FsError::NoAttribute));
    // A snapshot with labels makes it an honest question again, on the whole drive.
    backup(&repo, &with("security.selinux"), &options(None));
    std::thread::sleep(std::time::Duration::from_millis(600));
    let labelled = at(&["@latest", "g"]);
    assert_eq!(fs.xattr(labelled, label, MOST).unwrap(), b"value");
    assert_eq!(fs.xattr(plain, label, MOST), Err(FsError::NoAttribute));
    assert_eq!(fs.xattr(plain, acl, MOST), Err(FsError::NoSuchAttributes));
}
