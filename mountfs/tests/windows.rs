//! The drive as Windows sees it, against a model: every entry is listed once under a name
//! that Windows can have, and found by it.

mod kit;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use fastrand::Rng;
use tresor_engine::format::windows::{ATTRIBUTES, CREATED, REPARSE};
use tresor_engine::format::{Content, NodeKind, ObjectKind, ObjectName, Time, Xattr};
use tresor_engine::naming::{is_windows_name, windows_name};
use tresor_engine::store::{MemoryStore, Store};
use tresor_engine::tree;
use tresor_mountfs::{FsError, Ino, SnapshotFs, WindowsEntry};
use tresor_testkit::{
    Body, Item, backup, init, open, options, random_bytes, random_tree, repository,
};

/// All entries but `.` and `..`, listed a few at a time from after the last one.
fn list(fs: &SnapshotFs, ino: Ino, rng: &mut Rng) -> Vec<WindowsEntry> {
    let mut all: Vec<WindowsEntry> = Vec::new();
    loop {
        let (before, room) = (all.len(), rng.usize(1..40));
        let marker = all.last().map(|entry| entry.name.clone());
        fs.windows_list(ino, marker.as_deref(), &mut |entry| {
            if all.len() - before == room {
                return false;
            }
            all.push(entry);
            true
        })
        .unwrap();
        if all.len() == before {
            break;
        }
    }
    assert_eq!((all[0].name.as_slice(), all[1].name.as_slice()), (&b"."[..], &b".."[..]));
    all.split_off(2)
}

fn folded(name: &[u8]) -> String {
    String::from_utf8_lossy(name).to_uppercase()
}

/// What the private characters of a name stand for.
fn meant(name: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for c in std::str::from_utf8(name).unwrap().chars() {
        match u32::from(c) {
            code @ 0xf001..=0xf0ff => bytes.push(code as u8),
            _ => bytes.extend(c.to_string().bytes()),
        }
    }
    bytes
}

fn check(fs: &SnapshotFs, ino: Ino, item: &Item, rng: &mut Rng) {
    let listed = list(fs, ino, rng);
    assert_eq!(listed.len(), item.entries().len());
    let different: HashSet<_> = listed.iter().map(|entry| folded(&entry.name)).collect();
    assert_eq!(different.len(), listed.len(), "{listed:?}");
    for (entry, (real, below)) in listed.iter().zip(item.entries()) {
        assert!(is_windows_name(&entry.name), "{entry:?}");
        assert!(entry.name == windows_name(real) || meant(&entry.name) == *real, "{entry:?}");
        let found = fs.windows_lookup(ino, &entry.name).unwrap();
        assert_eq!(found, *entry);
        // A name in other letters means it too, if no other entry is written so.
        let other = folded(&entry.name).into_bytes();
        let again = fs.windows_lookup(ino, &other);
        if other.len() == entry.name.len() && !item.entries().contains_key(&other) {
            let again = again.unwrap();
            assert_eq!(folded(&again.name), folded(&entry.name));
            fs.forget(again.attr.ino, 1);
        } else if let Ok(again) = again {
            fs.forget(again.attr.ino, 1);
        }
        if let Body::File(bytes, _) = &below.body {
            assert_eq!(fs.read_at(found.attr.ino, 0, 100).unwrap(), bytes[..bytes.len().min(100)]);
        }
        if below.node.is_dir() {
            check(fs, found.attr.ino, below, rng);
        }
        fs.forget(found.attr.ino, 1);
    }
}

/// Puts names in that Windows has trouble with, each next to some of its own kind.
fn spoil(tree: &mut Item, rng: &mut Rng) {
    let hard: [&[u8]; 15] = [
        b"con",
        b"CON",
        b"Con.txt",
        b"x.",
        b"x ",
        b"X.",
        b"a:b",
        b"A:B",
        b"a\\b",
        b"readme",
        b"README",
        b"ReadMe",
        "ä".as_bytes(),
        "Ä".as_bytes(),
        "a\u{f03a}b".as_bytes(),
    ];
    let Body::Dir(entries) = &mut tree.body else { return };
    for name in hard {
        if rng.bool() {
            entries.insert(name.to_vec(), Item::file(name.to_vec()));
        }
    }
    entries.values_mut().for_each(|below| spoil(below, rng));
}

#[test]
fn random_trees_can_be_reached_whatever_their_names() {
    let repo = repository();
    for seed in 0..12 {
        let mut rng = Rng::with_seed(seed);
        let mut tree = random_tree(&mut rng, 120);
        spoil(&mut tree, &mut rng);
        let (snapshot, _) = backup(&repo, &tree, &options(None));
        let fs = kit::drive(&repo, Some(snapshot), 4 << 20);
        check(&fs, Ino::ROOT, &tree, &mut rng);
        assert_eq!(kit::status(&fs, "inodes"), 1);
    }
}

#[test]
fn of_names_that_differ_in_case_each_is_found() {
    let names = ["README", "ReadMe", "readme", "ä", "Ä", "\u{f072}eadme"];
    let with = |tree: Item, name: &&str| tree.with(*name, Item::file(*name));
    let tree = names.iter().fold(Item::dir(), with);
    let repo = repository();
    let (snapshot, _) = backup(&repo, &tree, &options(None));
    let fs = kit::drive(&repo, Some(snapshot), 4 << 20);
    let content = |name: &str| {
        let found = fs.windows_lookup(Ino::ROOT, name.as_bytes()).unwrap();
        String::from_utf8(fs.read_at(found.attr.ino, 0, 100).unwrap()).unwrap()
    };
    for name in names {
        assert_eq!(content(name), name, "as it is written");
    }
    assert_eq!(content("REadme"), "README", "the first of them");
    let listed = list(&fs, Ino::ROOT, &mut Rng::with_seed(1));
    let read = |entry: &WindowsEntry| content(std::str::from_utf8(&entry.name).unwrap());
    let all: BTreeSet<String> = listed.iter().map(read).collect();
    assert_eq!(all, names.iter().map(|name| name.to_string()).collect());
    assert!(listed.iter().any(|entry| entry.name == b"README"));
    let missing = fs.windows_lookup(Ino::ROOT, b"readme.txt");
    assert_eq!(missing, Err(FsError::NotFound));
}

#[test]
fn a_listing_goes_on_after_a_name_that_is_not_there() {
    let tree = Item::dir().with("a", Item::file("1")).with("c", Item::file("2"));
    let repo = repository();
    let (snapshot, _) = backup(&repo, &tree, &options(None));
    let fs = kit::drive(&repo, Some(snapshot), 4 << 20);
    let after = |marker: &[u8]| {
        let mut names = Vec::new();
        fs.windows_list(Ino::ROOT, Some(marker), &mut |entry| {
            names.push(String::from_utf8(entry.name).unwrap());
            true
        })
        .unwrap();
        names.join(" ")
    };
    assert_eq!(after(b"."), ".. a c");
    assert_eq!(after(b".."), "a c");
    assert_eq!(after(b"b"), "c");
    assert_eq!(after(b"A"), "c");
    assert_eq!(after(b"C"), "");
    assert_eq!(after(b"z"), "");
}

#[test]
fn snapshots_in_folders_are_reached_too() {
    let repo = repository();
    backup(&repo, &Item::dir().with("Letter", Item::file("x")), &options(None));
    let fs = kit::drive(&repo, None, 4 << 20);
    let mut at = Ino::ROOT;
    for name in ["Hosts", "HOST"] {
        at = fs.windows_lookup(at, name.as_bytes()).unwrap().attr.ino;
    }
    let inside = list(&fs, at, &mut Rng::with_seed(2));
    assert_eq!((inside.len(), inside[1].name.as_slice()), (2, &b"latest"[..]));
    // The link leads to a folder, and says so.
    let meta = fs.windows_lookup(at, b"latest").and_then(|e| fs.windows_meta(&e.attr)).unwrap();
    assert_eq!(meta.attributes, 0x410);
    let snapshot = fs.windows_lookup(at, &inside[0].name).unwrap();
    assert!(fs.windows_lookup(snapshot.attr.ino, b"LETTER").is_ok());
    assert!(fs.windows_lookup(Ino::ROOT, b"@latest").is_ok());
    assert!(fs.windows_lookup(snapshot.attr.ino, b".versions").is_ok());
}

#[test]
fn attributes_of_windows_and_of_others() {
    let with = |mut item: Item, xattrs: &[(&[u8], &[u8])]| {
        let xattr =
            |(name, value): &(&[u8], &[u8])| Xattr { name: name.to_vec(), value: value.to_vec() };
        item.node.xattrs = Some(xattrs.iter().map(xattr).collect());
        item
    };
    // Hidden, compressed, and a directory, which it isn't.
    let bits = 0x812_u32.to_le_bytes();
    let ticks = 116_444_736_010_000_000_i64.to_le_bytes();
    let stream = b"user.win.stream.Zone.Identifier";
    let all: [(&[u8], &[u8]); 3] = [(ATTRIBUTES, &bits), (CREATED, &ticks), (stream, b"zone 3")];
    let mut closed = Item::file("c");
    closed.node.mode = 0o400;
    let link: (&[u8], &[u8]) = (REPARSE, b"data");
    let to_dir: (&[u8], &[u8]) = (ATTRIBUTES, &0x410_u32.to_le_bytes());
    let tree = Item::dir()
        .with("windows", with(Item::file("w"), &all))
        .with("short", with(Item::file("s"), &[(ATTRIBUTES, b"x"), (CREATED, b"")]))
        .with("closed", closed)
        .with("open", Item::file("o"))
        .with("dir", Item::dir())
        .with("to dir", Item::symlink("dir"))
        .with("to file", Item::symlink("open"))
        .with("to nothing", Item::symlink("none"))
        .with("down to dir", Item::symlink("/dir"))
        .with("down to file", Item::symlink("/open"))
        .with("down to nothing", Item::symlink("/none"))
        .with("loop", Item::symlink("loop"))
        .with("recorded", with(Item::symlink("x"), &[link, to_dir]))
        .with("fifo", Item::special(NodeKind::Fifo, None));
    let repo = repository();
    let (snapshot, _) = backup(&repo, &tree, &options(None));
    let fs = kit::drive(&repo, Some(snapshot), 4 << 20);
    let meta = |name: &str| {
        let attr = fs.windows_lookup(Ino::ROOT, name.as_bytes()).unwrap().attr;
        (fs.windows_meta(&attr).unwrap(), attr)
    };
    let expected = BTreeMap::from([
        ("windows", 0x2),
        ("short", 0x80),
        ("closed", 0x1),
        ("open", 0x80),
        ("dir", 0x10),
        ("to dir", 0x410),
        ("to file", 0x400),
        ("to nothing", 0x400),
        ("down to dir", 0x410),
        ("down to file", 0x400),
        ("down to nothing", 0x400),
        ("loop", 0x400),
        ("recorded", 0x410),
        ("fifo", 0x80),
    ]);
    for (name, attributes) in expected {
        assert_eq!(meta(name).0.attributes, attributes, "{name}");
    }
    let (windows, attr) = meta("windows");
    assert_eq!(windows.created, Time::new(1, 0));
    let streams = fs.windows_streams(attr.ino).unwrap();
    assert_eq!(streams, [(b"Zone.Identifier".to_vec(), 6)]);
    let stream = fs.windows_stream(&attr, b"ZONE.identifier").unwrap().unwrap();
    assert_eq!((stream.name.as_slice(), stream.attr.size), (&b"Zone.Identifier"[..], 6));
    assert_eq!(fs.read_stream(&stream.content, 2, 100).unwrap(), b"ne 3");
    assert!(fs.windows_stream(&attr, b"zone").unwrap().is_none());
    let (open, attr) = meta("open");
    assert_eq!((open.created, open.link), (attr.mtime, None));
    assert!(fs.windows_streams(attr.ino).unwrap().is_empty());
    assert_eq!(meta("recorded").0.link.unwrap(), b"data");
    // Tag, then where the target is.
    let link = meta("to dir").0.link.unwrap();
    assert_eq!(link[..4], 0xa000_000c_u32.to_le_bytes());
    assert_eq!(link[20..26], [b'd', 0, b'i', 0, b'r', 0]);
}

/// A long stream is listed without being read, and read in parts.
#[test]
fn long_streams_are_read_in_parts() {
    let repo = repository();
    let bytes = random_bytes(&mut fastrand::Rng::with_seed(1), 3_000_000);
    let long = Item::file("text").with_attribute("user.win.stream.Long", bytes.clone());
    let dir = Item::dir().with_attribute("user.win.stream.of a folder", vec![7; 70_000]);
    let link = Item::symlink("d").with_attribute("user.win.stream.of a link", vec![7]);
    let tree = Item::dir().with("f", long).with("d", dir).with("l", link);
    let (snapshot, _) = backup(&repo, &tree, &options(None));
    let fs = kit::drive(&repo, Some(snapshot), 4 << 20);
    let ino = |name: &str| fs.windows_lookup(Ino::ROOT, name.as_bytes()).unwrap().attr.ino;
    assert_eq!(fs.windows_streams(ino("f")).unwrap(), [(b"Long".to_vec(), 3_000_000)]);
    assert_eq!(fs.windows_streams(ino("d")).unwrap(), [(b"of a folder".to_vec(), 70_000)]);
    let stream = |name: &str, of: &[u8]| {
        let attr = fs.windows_lookup(Ino::ROOT, name.as_bytes()).unwrap().attr;
        fs.windows_stream(&attr, of).unwrap().unwrap()
    };
    let long = stream("f", b"LONG").content;
    for (offset, len) in [(0, 10), (1_234_567, 400_000), (2_999_990, 100), (3_000_000, 10)] {
        let wanted = &bytes[offset..bytes.len().min(offset + len)];
        assert!(fs.read_stream(&long, offset as u64, len).unwrap() == wanted, "{offset}");
    }
    // Whatever it is of, it is a file; only what else is recorded stays.
    for (name, of, size) in [("d", &b"of a folder"[..], 70_000), ("l", b"of a link", 1)] {
        let stream = stream(name, of);
        let kind = (stream.attr.kind, stream.attr.size, stream.attr.allocated);
        assert_eq!(kind, (NodeKind::File, size, size), "{name}");
        assert_eq!((stream.meta.attributes, stream.meta.link), (0x80, None), "{name}");
    }
    // As an extended attribute it can be had only as a whole.
    let name = b"user.win.stream.Long";
    assert_eq!(fs.xattr(ino("f"), name, 64 << 10), Err(FsError::AttributeTooLong));
    assert!(fs.xattr(ino("f"), name, 3_000_000).unwrap() == bytes);
    assert!(fs.xattr_names(ino("f"), 64 << 10).unwrap().is_empty());
    assert_eq!(fs.xattr_names(ino("f"), 3_000_000).unwrap(), [name]);
}

#[test]
fn a_damaged_stream_is_an_error_of_that_read_alone() {
    let store: Store = Arc::new(MemoryStore::new());
    init(&store);
    let bytes = random_bytes(&mut fastrand::Rng::with_seed(1), 2_000_000);
    let long = Item::file("text").with_attribute("user.win.stream.s", bytes.clone());
    let (snapshot, _) = backup(&open(&store), &Item::dir().with("f", long), &options(None));
    let repo = open(&store);
    let node = tree::lookup(&repo, &snapshot.data.tree, b"f").unwrap().unwrap();
    let Content::Extents(extents) = &node.streams()[0].content else { panic!("{:?}", node.name) };
    let lost = repo.locate(&extents[3].id.unwrap()).unwrap().segment;
    let name = ObjectName::new(ObjectKind::Pack, lost.pack);
    let mut pack = store.get(&name).unwrap();
    pack[lost.offset as usize + 20] ^= 1;
    store.replace(&name, &pack).unwrap();

    let fs = kit::drive(&open(&store), Some(snapshot), 4 << 20);
    let attr = fs.windows_lookup(Ino::ROOT, b"f").unwrap().attr;
    let stream = fs.windows_stream(&attr, b"s").unwrap().unwrap().content;
    let ends: Vec<u64> = extents
        .iter()
        .scan(0, |at, e| {
            *at += e.len;
            Some(*at)
        })
        .collect();
    let (from, to) = (ends[2], ends[3]);
    assert!(fs.read_stream(&stream, 0, from as usize).unwrap() == bytes[..from as usize]);
    assert!(matches!(fs.read_stream(&stream, from - 1, 2), Err(FsError::Io(_))));
    assert!(fs.read_stream(&stream, to, 1000).unwrap() == bytes[to as usize..to as usize + 1000]);
    assert_eq!(fs.read_at(attr.ino, 0, 10).unwrap(), b"text");
}
