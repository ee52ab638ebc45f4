//! Streams, into a target that has such of any length, and into one that hasn't.

use std::collections::BTreeMap;
use std::sync::Arc;

use fastrand::Rng;
use tresor_engine::format::{Content, Extent, Node, NodeKind, Stream};
use tresor_engine::restorer::RestoreOptions;
use tresor_testkit::{Item, backup, options, random_bytes, repository};

use crate::kit::*;

fn stream(name: &str, content: Content) -> Stream {
    Stream { name: name.into(), content }
}

fn with_streams(mut node: Node, streams: Vec<Stream>) -> Node {
    node.streams = Some(streams);
    node
}

/// A target that has streams, and what they hold.
fn sink(target: &Target) -> Quirks {
    Quirks { streams: Some(Arc::default()), ..Quirks::new(target.sink()) }
}

fn held(quirks: &Quirks) -> BTreeMap<String, Vec<u8>> {
    let all = quirks.streams.as_ref().unwrap().lock().unwrap();
    let name = |(entry, stream): &(Vec<u8>, Vec<u8>)| {
        String::from_utf8([entry.as_slice(), b":", stream].concat()).unwrap()
    };
    all.iter().map(|(key, bytes)| (name(key), bytes.clone())).collect()
}

fn told(quirks: &Quirks, what: &str) -> usize {
    let mut told = quirks.told.lock().unwrap();
    let count = told.iter().filter(|t| **t == what).count();
    told.clear();
    count
}

#[test]
fn streams_of_files_directories_and_links_are_restored_and_then_left_alone() {
    let mut rng = Rng::with_seed(1);
    let (short, long) = (random_bytes(&mut rng, 70_000), random_bytes(&mut rng, 6_000_000));
    let mut tree = Item::dir()
        .with("d", Item::dir().with("x", Item::file("x")))
        .with("f", Item::file("text"))
        .with("l", Item::symlink("f"));
    fit(&mut tree);
    for (name, value) in [("d", &short), ("f", &long), ("l", &short)] {
        tree.entries_mut().get_mut(name.as_bytes()).unwrap().set_attribute("user.s", value.clone());
    }
    let repo = repository();
    let (snapshot, _) = backup(&repo, &tree, &options(None));
    let mut target = Target::new();
    let quirks = sink(&target);
    let verify = RestoreOptions { verify: true, ..Default::default() };
    let mut restore = |options: &RestoreOptions| {
        let sink = Arc::new(quirks.clone());
        let (restored, problems) = target.run(&repo, &snapshot.data.tree, &[], sink, options);
        assert_eq!(problems, [""; 0]);
        restored.unwrap()
    };
    let first = restore(&verify);
    assert_eq!((first.files_restored, first.verified), (2, 2));
    let expected = BTreeMap::from([
        ("d:user.s".to_owned(), short.clone()),
        ("f:user.s".to_owned(), long.clone()),
        ("l:user.s".to_owned(), short.clone()),
    ]);
    assert!(held(&quirks) == expected);
    assert_eq!(told(&quirks, "stream"), 3);
    // Of what is unchanged nothing is written; links are made anew.
    let again = restore(&RestoreOptions::default());
    assert_eq!((again.files_unchanged, again.bytes_written), (2, 0));
    assert_eq!(told(&quirks, "stream"), 0);
    // One that isn't right, or isn't there, is; and that it will be is said before.
    let key = (b"f".to_vec(), b"user.s".to_vec());
    let streams = quirks.streams.as_ref().unwrap();
    let damage: [&dyn Fn(&mut Given); 2] =
        [&|all| all.get_mut(&key).unwrap()[5_000_000] ^= 1, &|all| drop(all.remove(&key))];
    for damage in damage {
        damage(&mut streams.lock().unwrap());
        let dry_run = restore(&RestoreOptions { dry_run: true, ..Default::default() });
        assert_eq!((dry_run.files_restored, dry_run.files_unchanged), (1, 1));
        assert_eq!(told(&quirks, "stream"), 0);
        let done = restore(&RestoreOptions::default());
        assert_eq!((done.files_restored, done.files_unchanged), (1, 1));
        assert_eq!(told(&quirks, "stream"), 1);
        assert!(held(&quirks) == expected);
    }
    let dry_run = restore(&RestoreOptions { dry_run: true, ..Default::default() });
    assert_eq!((dry_run.files_restored, dry_run.files_unchanged), (0, 2));
}

#[test]
fn a_stream_that_is_gone_when_it_is_read_again_is_reported() {
    let maker = Maker::new();
    let streams = vec![stream("user.s", Content::Extents(vec![maker.chunk(b"a stream")]))];
    let root = maker.dir(vec![with_streams(maker.file("f", b"data of f"), streams)]);
    let mut target = Target::new();
    let mut quirks = sink(&target);
    let streams = quirks.streams.clone().unwrap();
    quirks.after_file = Arc::new(move |_| streams.lock().unwrap().clear());
    let verify = RestoreOptions { verify: true, ..Default::default() };
    let (restored, problems) = target.run(&maker.open(), &root, &[], Arc::new(quirks), &verify);
    let restored = restored.unwrap();
    assert_eq!((restored.files_restored, restored.verified, restored.errors), (1, 0, 1));
    let message = "/f: was restored, but its stream user.s can't be read again: ";
    assert!(problems[0].starts_with(message), "{problems:?}");
}

#[test]
fn a_stream_that_is_lost_is_reported_and_is_not_there_and_the_file_is() {
    let maker = Maker::new();
    let (good, bad) = (maker.chunk(b"good"), maker.chunk(b"bad bytes"));
    let streams = vec![
        stream("user.bad", Content::Extents(vec![good, bad])),
        stream("user.good", Content::Extents(vec![good, hole(3)])),
        stream("user.odd", Content::Extents(vec![Extent { len: 7, ..good }])),
    ];
    let root = maker.dir(vec![
        with_streams(maker.file("f", b"data of f"), streams.clone()),
        with_streams(dir("d", maker.dir(Vec::new())), streams),
    ]);
    maker.damage(&bad.id.unwrap());
    let mut target = Target::new();
    let quirks = sink(&target);
    let (restored, problems) = target.run(
        &maker.open(),
        &root,
        &[],
        Arc::new(quirks.clone()),
        &RestoreOptions { verify: true, ..Default::default() },
    );
    let restored = restored.unwrap();
    // It isn't whole, which is told once.
    assert_eq!((restored.errors, restored.verified), (4, 0));
    assert_eq!(problems.iter().filter(|p| p.starts_with("/f: can't set its stream")).count(), 2);
    assert_eq!(problems.iter().filter(|p| p.starts_with("/d: can't set its stream")).count(), 2);
    assert_eq!(target.read("f"), b"data of f");
    let names: Vec<_> = held(&quirks).into_keys().collect();
    assert_eq!(names, ["d:user.good", "f:user.good"]);
    assert_eq!(held(&quirks)["f:user.good"], b"good\0\0\0");
}

/// Linux has attributes of 64 KiB at most, and some of its file systems of less.
#[test]
fn what_linux_can_not_have_is_reported_and_the_rest_is_restored() {
    let maker = Maker::new();
    let long = Content::Extents(vec![hole(65_537)]);
    let short = Content::Extents(vec![maker.chunk(b"a value")]);
    let file = with_streams(
        maker.file("f", b"data of f"),
        vec![stream("user.long", long), stream("user.short", short)],
    );
    assert_eq!(file.kind, NodeKind::File);
    let root = maker.dir(vec![file]);
    let mut target = Target::new();
    let (restored, problems) = target.try_restore(&maker.open(), &root, &RestoreOptions::default());
    assert_eq!(restored.files_restored, 1);
    assert_eq!(target.read("f"), b"data of f");
    if has_xattrs() {
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains("user.long: has 65537 bytes, and this system has 65536"));
        let mut value = [0; 100];
        let len = rustix::fs::getxattr(target.path("f"), "user.short", &mut value).unwrap();
        assert_eq!(&value[..len], b"a value");
    }
}
