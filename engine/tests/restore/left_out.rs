//! What a backup left out is not what was never there: `--delete` doesn't remove it.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use tresor_engine::archiver::{BackupOptions, backup};
use tresor_engine::format::{LeftOut, Node, PathBytes, SnapshotData};
use tresor_engine::maintenance::{RepairSnapshotsOptions, repair_snapshots};
use tresor_engine::monitor::Quiet;
use tresor_engine::repo::Repository;
use tresor_engine::restorer::{RestoreOptions, Restored};
use tresor_engine::source::{Room, SourceDir, SourceFile};
use tresor_engine::store::{MemoryStore, Store};
use tresor_testkit::{Item, init, open, options};

use crate::kit::*;

/// A source some of whose entries don't do what their names say.
struct Odd(Arc<dyn SourceDir>);

impl SourceDir for Odd {
    fn names(&self) -> io::Result<Vec<Vec<u8>>> {
        let names = self.0.names()?;
        let listed = !names.iter().any(|name| name == b"unlisted");
        if listed { Ok(names) } else { Err(ErrorKind::PermissionDenied.into()) }
    }

    fn stat(&self, name: &[u8]) -> io::Result<(Node, u64)> {
        let (node, device) = self.0.stat(name)?;
        match name {
            b"no-stat" => Err(io::Error::other("broken")),
            b"elsewhere" => Ok((node, device + 1)),
            _ => Ok((node, device)),
        }
    }

    fn device(&self) -> io::Result<Option<u64>> {
        self.0.device()
    }

    fn details(&self, node: &mut Node, room: &mut Room) -> io::Result<()> {
        self.0.details(node, room)
    }

    fn open_dir(&self, name: &[u8]) -> io::Result<Arc<dyn SourceDir>> {
        match name {
            b"not-opened" => Err(ErrorKind::PermissionDenied.into()),
            _ => Ok(Arc::new(Odd(self.0.open_dir(name)?))),
        }
    }

    fn open_file(&self, name: &[u8]) -> io::Result<Box<dyn SourceFile>> {
        match name {
            b"unread" => Err(ErrorKind::PermissionDenied.into()),
            _ => self.0.open_file(name),
        }
    }
}

const TAG: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

fn source() -> Item {
    let file = || Item::file("content");
    let dir = |name: &str| Item::dir().with(name, file());
    let cache = Item::dir().with("CACHEDIR.TAG", Item::file(TAG)).with("cached", file());
    let whole = dir("saved").with("below", dir("saved"));
    let odd = dir("saved")
        .with("a.log", file())
        .with("large", Item::file(vec![7; 5000]))
        .with("no-stat", file())
        .with("not-opened", dir("inside"))
        .with("unread", file());
    let way = Item::dir().with("asked", whole.clone()).with("beside", dir("inside"));
    Item::dir()
        .with("b.log", file())
        .with("cache", cache)
        .with("elsewhere", dir("inside"))
        .with("odd", odd)
        .with("unlistable", dir("unlisted"))
        .with("way", way)
        .with("whole", whole)
}

/// A backup of that source, and a target that holds it all.
fn saved(paths: &[&str]) -> (Arc<Repository>, SnapshotData, Target, Vec<(String, String)>) {
    let store: Store = Arc::new(MemoryStore::new());
    init(&store);
    let repo = open(&store);
    let options = BackupOptions {
        paths: paths.iter().map(|path| PathBytes(path.as_bytes().to_vec())).collect(),
        exclude: patterns(&["*.log"]),
        exclude_larger_than: Some(4000),
        exclude_caches: true,
        one_file_system: true,
        ..options(None)
    };
    let source = Arc::new(Odd(source().source()));
    let monitor = Arc::new(Quiet::default());
    let outcome = backup(&repo, source, &options, monitor.clone()).unwrap();
    let target = Target::new();
    write_out(&target, "", &self::source());
    let problems = monitor.problems.lock().unwrap().clone();
    (repo, outcome.data.clone(), target, problems)
}

fn write_out(target: &Target, at: &str, item: &Item) {
    for (name, item) in item.entries() {
        let path = format!("{at}{}", std::str::from_utf8(name).unwrap());
        if item.node.is_dir() {
            write_out(target, &format!("{path}/"), item);
        } else {
            target.write(&path, item.bytes());
        }
    }
}

fn restore(repo: &Arc<Repository>, data: &SnapshotData, target: &mut Target) -> Restored {
    let left_out = data.left_out.clone();
    let options = RestoreOptions { delete: true, left_out, ..Default::default() };
    let (restored, problems) = target.run(repo, &data.tree, &[], target.sink(), &options);
    let notes = problems.iter().filter(|p| !p.contains("nothing in it was removed"));
    assert_eq!(notes.count(), 0, "{problems:?}");
    restored.unwrap()
}

#[test]
fn what_was_not_saved_stays() {
    let (repo, data, mut target, problems) = saved(&["/"]);
    assert_eq!(problems.len(), 4, "{problems:?}");
    let before = target.listing();
    let extra = ["whole/extra", "whole/below/extra", "odd/extra", "extra"];
    let may_be = ["cache/extra", "unlistable/extra", "elsewhere/extra"];
    extra.iter().chain(&may_be).for_each(|path| target.write(path, b"extra"));
    let restored = restore(&repo, &data, &mut target);
    let after = target.listing();
    assert_eq!(restored.deleted, extra.len() as u64, "{after:#?}");
    for path in extra {
        assert!(!target.path(path).exists(), "{path}");
    }
    for path in may_be {
        assert_eq!(target.read(path), b"extra", "{path}");
        std::fs::remove_file(target.path(path)).unwrap();
    }
    let paths = |listing: Vec<String>| listing.len();
    assert_eq!(paths(target.listing()), paths(before), "all that was there stays");
    assert_eq!(target.read("odd/unread"), b"content");
    assert_eq!(target.read("elsewhere/inside"), b"content");
}

/// What stands on the way to what was asked for was not looked at.
#[test]
fn what_is_on_the_way_stays() {
    let (repo, data, mut target, _) = saved(&["/way/asked"]);
    assert_eq!(data.left_out, Some(LeftOut::Unknown));
    target.write("way/asked/extra", b"extra");
    assert_eq!(restore(&repo, &data, &mut target).deleted, 1);
    for path in ["whole/saved", "way/beside/inside", "b.log", "odd/unread"] {
        assert_eq!(target.read(path), b"content", "{path}");
    }
    // Asked for by its path, a directory says itself what it left out.
    let (repo, data, mut target, _) = saved(&["/"]);
    target.write("extra", b"extra");
    let options = RestoreOptions { delete: true, ..Default::default() };
    let path = ["odd"];
    let sink = tresor_platform::open_sink(&target.path("odd")).unwrap();
    let (restored, _) = target.run(&repo, &data.tree, &path, sink, &options);
    assert_eq!(restored.unwrap().deleted, 0);
    assert_eq!(target.read("odd/a.log"), b"content");
}

/// A second backup takes over what is unchanged, and says all the same what it left out.
#[test]
fn a_directory_that_is_unchanged_says_it_again() {
    let store: Store = Arc::new(MemoryStore::new());
    init(&store);
    let repo = open(&store);
    let mut before = None;
    for exclude in [&["*.log"][..], &[], &["*.log", "large"]] {
        let source: Arc<dyn SourceDir> = Arc::new(Odd(source().source()));
        let options = BackupOptions { exclude: patterns(exclude), ..options(before.take()) };
        let outcome = backup(&repo, source, &options, Arc::new(Quiet::default())).unwrap();
        let id = outcome.snapshot.unwrap();
        let node = tresor_engine::tree::lookup(&repo, &outcome.data.tree, b"odd").unwrap().unwrap();
        let left_out = node.left_out.clone().unwrap();
        let has = |name: &str| left_out.may_have(name.as_bytes());
        assert_eq!(has("a.log"), exclude.contains(&"*.log"), "{left_out:?}");
        assert_eq!(has("large"), exclude.contains(&"large"), "{left_out:?}");
        assert!(has("unread") && has("no-stat") && !has("saved"), "{left_out:?}");
        let data = Arc::new(outcome.data.clone());
        before = Some(tresor_engine::repo::Snapshot { id, data });
    }
}

/// A repaired snapshot lacks what was lost; the only whole copy may be in the target.
#[test]
fn what_a_repair_could_not_save_stays() {
    let maker = Maker::new();
    let lost = maker.file("lost", b"lost");
    let sub = maker.dir(vec![maker.file("kept", b"kept"), lost.clone()]);
    let root = maker.dir(vec![dir("sub", sub), maker.file("kept", b"kept")]);
    let data = SnapshotData::new(tresor_engine::format::Time::new(1_700_000_000, 0), root);
    maker.open().save_snapshot(&data).unwrap();
    maker.damage(&chunk_of(&lost));
    let repo = maker.open();
    let options = RepairSnapshotsOptions { read_data: true, ..Default::default() };
    let report = repair_snapshots(&repo, &options, &Quiet::default()).unwrap();
    let id = report.repaired[0].repaired.unwrap();
    let snapshots = maker.open().snapshots().unwrap();
    let repaired = snapshots.iter().find(|s| s.id == id).unwrap();
    let mut target = Target::new();
    for path in ["sub/lost", "sub/kept", "kept", "extra"] {
        target.write(path, b"here");
    }
    assert_eq!(restore(&repo, &repaired.data, &mut target).deleted, 1);
    assert_eq!(target.read("sub/lost"), b"here");
    assert!(!target.path("extra").exists());
}
