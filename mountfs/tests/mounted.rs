//! The whole drive, with the kernel, against a model in memory: random trees, and
//! snapshots that come and go while files on the drive are open.
//! TRESOR_TEST_SEEDS=100 does more of it.

mod kit;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use fastrand::Rng;
use kit::{Mount, drive, wait_until};
use rustix::fs::{SeekFrom, lgetxattr, llistxattr, seek};
use tresor_engine::format::{Node, NodeKind, ObjectId, Time};
use tresor_engine::repo::Repository;
use tresor_testkit::{Body, Item, backup, options, random_tree, repository};

fn seeds() -> std::ops::Range<u64> {
    let number = std::env::var("TRESOR_TEST_SEEDS").ok();
    0..number.map_or(4, |n| n.parse().expect("TRESOR_TEST_SEEDS is a number"))
}

fn compare(path: &Path, item: &Item, rng: &mut Rng) {
    compare_attributes(path, &item.node);
    match (&item.body, item.node.kind) {
        (Body::Dir(entries), _) => {
            let names = names(path);
            assert!(names.iter().eq(entries.keys()), "{}: {names:?}", path.display());
            for (name, item) in entries {
                compare(&path.join(OsStr::from_bytes(name)), item, rng);
            }
        }
        (Body::File(bytes, holes), _) => {
            let file = File::open(path).unwrap();
            for _ in 0..4 {
                compare_part(&file, bytes, rng);
            }
            assert!(std::fs::read(path).unwrap() == **bytes, "{}", path.display());
            compare_holes(&file, bytes.len() as u64, holes, rng);
        }
        (Body::Other, NodeKind::Symlink) => {
            let target = std::fs::read_link(path).unwrap();
            assert_eq!(Some(target.as_os_str().as_bytes()), item.node.target.as_deref());
        }
        (Body::Other, _) => {}
    }
}

/// Sorted.
fn names(dir: &Path) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().as_bytes().to_vec()).collect();
    names.sort();
    names
}

fn compare_attributes(path: &Path, node: &Node) {
    let meta = std::fs::symlink_metadata(path).unwrap();
    let shown = path.display();
    let kind = match node.kind {
        NodeKind::File => libc::S_IFREG,
        NodeKind::Directory => libc::S_IFDIR,
        NodeKind::Symlink => libc::S_IFLNK,
        NodeKind::Fifo => libc::S_IFIFO,
        NodeKind::Socket => libc::S_IFSOCK,
        NodeKind::CharDevice => libc::S_IFCHR,
        NodeKind::BlockDevice => libc::S_IFBLK,
    };
    assert_eq!(meta.mode(), kind | node.mode & 0o7777, "{shown}");
    assert_eq!((meta.uid(), meta.gid()), (node.uid, node.gid), "{shown}");
    assert_eq!(meta.nlink(), node.link.map_or(1, |l| u64::from(l.names)), "{shown}");
    assert_eq!(meta.rdev(), node.device.unwrap_or(0), "{shown}");
    if node.kind != NodeKind::Directory {
        assert_eq!(meta.size(), node.size, "{shown}");
    }
    let time = |seconds, nanos| Time::new(seconds, nanos as u32);
    assert_eq!(time(meta.mtime(), meta.mtime_nsec()), node.mtime, "{shown}");
    assert_eq!(time(meta.atime(), meta.atime_nsec()), node.atime, "{shown}");
    // Kernels let nobody look at those of other kinds.
    if matches!(node.kind, NodeKind::File | NodeKind::Directory) {
        let mut list = [0; 4096];
        let len = llistxattr(path, &mut list).unwrap();
        let names: Vec<_> = list[..len].split(|b| *b == 0).filter(|n| !n.is_empty()).collect();
        assert!(names.into_iter().eq(node.xattrs().iter().map(|x| x.name.as_slice())), "{shown}");
        for xattr in node.xattrs() {
            let mut value = [0; 4096];
            let len = lgetxattr(path, xattr.name.as_slice(), &mut value).unwrap();
            assert_eq!(value[..len], xattr.value, "{shown}");
        }
    }
}

fn compare_part(file: &File, bytes: &[u8], rng: &mut Rng) {
    let (offset, len) = (rng.usize(0..bytes.len() + 10), rng.usize(0..200_000));
    let wanted = bytes.get(offset..).unwrap_or_default();
    let wanted = &wanted[..wanted.len().min(len)];
    let (mut read, mut got) = (vec![0; len], 0);
    while got < wanted.len() {
        let n = file.read_at(&mut read[got..], (offset + got) as u64).unwrap();
        assert!(n > 0, "short by {}", wanted.len() - got);
        got += n;
    }
    assert!(read[..got] == *wanted);
}

fn compare_holes(file: &File, len: u64, holes: &[std::ops::Range<u64>], rng: &mut Rng) {
    // Holes of small files are not kept.
    let holes = if len < 65536 { &[] } else { holes };
    for _ in 0..4 {
        let at = rng.u64(0..len.max(1));
        if at >= len {
            continue;
        }
        let inside = holes.iter().find(|h| h.contains(&at));
        let data = inside.map_or(Some(at), |h| Some(h.end).filter(|end| *end < len));
        assert_eq!(seek(file, SeekFrom::Data(at)).ok(), data);
        let next = holes.iter().map(|h| h.start).filter(|start| *start > at).min().unwrap_or(len);
        let hole = if inside.is_some() { at } else { next };
        assert_eq!(seek(file, SeekFrom::Hole(at)).unwrap(), hole);
    }
}

#[test]
fn random_trees_are_the_same_through_the_kernel() {
    let repo = repository();
    for seed in seeds() {
        let mut rng = Rng::with_seed(seed);
        let tree = random_tree(&mut rng, 100);
        let (snapshot, _) = backup(&repo, &tree, &options(None));
        let mount = Mount::new(drive(&repo, Some(snapshot), 4 << 20));
        // The root's own attributes are not recorded.
        for round in 0..2 {
            assert!(names(mount.path()).iter().eq(tree.entries().keys()), "{round}");
            for (name, item) in tree.entries() {
                compare(&mount.at(OsStr::from_bytes(name)), item, &mut rng);
            }
        }
    }
}

/// Attributes that a node had no room for are there as others are; Linux can't show one of
/// more than 64 KiB, and who copies a file doesn't stumble over it.
#[test]
fn long_attributes_are_there_as_far_as_linux_has_them() {
    let repo = repository();
    let value = |i: u8| vec![i; 60_000];
    let many = |item: Item, i| item.with_attribute(&format!("user.{i:02}"), value(i));
    let file = (0..30).fold(Item::file("text"), many).with_attribute("user.long", vec![1; 65_537]);
    let (snapshot, _) = backup(&repo, &Item::dir().with("f", file), &options(None));
    let mount = Mount::new(drive(&repo, Some(snapshot), 4 << 20));
    let path = mount.at(OsStr::new("f"));
    let mut list = [0; 4096];
    let len = llistxattr(&path, &mut list).unwrap();
    let mut names: Vec<_> = list[..len].split(|b| *b == 0).filter(|n| !n.is_empty()).collect();
    names.sort_unstable();
    assert_eq!(names.len(), 30);
    for (i, name) in names.into_iter().enumerate() {
        let mut read = vec![0; 65_536];
        let len = lgetxattr(&path, name, &mut read).unwrap();
        assert!(read[..len] == value(i as u8), "{i}");
    }
    let mut read = vec![0; 65_536];
    let long = lgetxattr(&path, "user.long", &mut read);
    assert_eq!(long, Err(rustix::io::Errno::TOOBIG));
}

/// What is on the drive, and files that were opened when it was there.
struct Model {
    repo: Arc<Repository>,
    mount: Mount,
    live: BTreeMap<(Time, ObjectId), Item>,
    open: Vec<(File, Arc<Vec<u8>>)>,
    made: i64,
}

impl Model {
    fn add(&mut self, rng: &mut Rng) {
        self.made += 1;
        let tree = random_tree(rng, 30);
        let time = Time::new(1_750_000_000 + self.made * 3600, 0);
        let options = tresor_engine::archiver::BackupOptions { time: Some(time), ..options(None) };
        let (snapshot, _) = backup(&self.repo, &tree, &options);
        self.live.insert((time, snapshot.id), tree);
    }

    fn any(&self, rng: &mut Rng) -> Option<(ObjectId, &Item)> {
        let n = rng.usize(..self.live.len().max(1));
        self.live.iter().nth(n).map(|((_, id), tree)| (*id, tree))
    }

    fn folder(&self, id: &ObjectId) -> std::path::PathBuf {
        self.mount.at("ids").join(id.short())
    }

    fn open_one(&mut self, rng: &mut Rng) {
        let Some((id, tree)) = self.any(rng) else { return };
        let file = tree.entries().iter().find_map(|(name, item)| match &item.body {
            Body::File(bytes, _) => Some((name.clone(), bytes.clone())),
            _ => None,
        });
        let Some((name, bytes)) = file else { return };
        let path = self.folder(&id).join(OsStr::from_bytes(&name));
        wait_until("the snapshot is shown", || path.symlink_metadata().is_ok());
        self.open.push((File::open(path).unwrap(), bytes));
    }

    fn forget(&mut self, rng: &mut Rng) {
        let Some((id, _)) = self.any(rng) else { return };
        self.repo.forget(&[id]).unwrap();
        self.live.retain(|(_, known), _| *known != id);
    }

    fn compare_one(&self, rng: &mut Rng) {
        let Some((id, tree)) = self.any(rng) else { return };
        let folder = self.folder(&id);
        wait_until("the snapshot is shown", || folder.is_dir());
        assert!(names(&folder).iter().eq(tree.entries().keys()));
        for (name, item) in tree.entries() {
            compare(&folder.join(OsStr::from_bytes(name)), item, rng);
        }
    }

    fn compare_list(&self) {
        let mut ids: Vec<_> = self.live.keys().map(|(_, id)| id.short().into_bytes()).collect();
        if !ids.is_empty() {
            ids.push(b"latest".to_vec());
        }
        ids.sort();
        let shown = || names(&self.mount.at("ids"));
        wait_until(&format!("the list is {ids:?}, not {:?}", shown()), || shown() == ids);
        let latest = self.mount.at("snapshots/latest");
        match self.live.last_key_value() {
            Some((_, tree)) => wait_until("latest leads to the newest", || {
                latest.is_dir() && names(&latest).iter().eq(tree.entries().keys())
            }),
            None => wait_until("there is no latest", || latest.symlink_metadata().is_err()),
        }
    }
}

#[test]
fn snapshots_come_and_go_and_open_files_stay() {
    for seed in seeds() {
        let mut rng = Rng::with_seed(seed);
        let repo = repository();
        let mount = Mount::new(drive(&repo, None, 4 << 20));
        let mut model = Model { repo, mount, live: BTreeMap::new(), open: Vec::new(), made: 0 };
        for _ in 0..16 {
            match rng.u8(..8) {
                0..3 => model.add(&mut rng),
                3 => model.forget(&mut rng),
                4 => model.compare_list(),
                5 => model.open_one(&mut rng),
                _ => model.compare_one(&mut rng),
            }
            for (file, bytes) in &model.open {
                compare_part(file, bytes, &mut rng);
            }
        }
        model.compare_list();
    }
}

#[test]
fn versions_go_with_the_snapshots_that_name_them() {
    let repo = repository();
    let at = |n: i64, text: &str| {
        let time = Some(Time::new(1_700_000_000 + n, 0));
        let tree = Item::dir().with("f", Item::file(text));
        let options = tresor_engine::archiver::BackupOptions { time, ..options(None) };
        backup(&repo, &tree, &options).0
    };
    // Two of one second: the name of the first becomes that of the second.
    let snapshots = [at(0, "first"), at(0, "second"), at(60, "third")];
    let mount = Mount::new(drive(&repo, None, 4 << 20));
    let versions = mount.at("@latest/.versions/f");
    let listed = names(&versions);
    let path = |n: usize| versions.join(OsStr::from_bytes(&listed[n]));
    let texts = [0, 1, 2].map(|n| std::fs::read_to_string(path(n)).unwrap());
    assert_eq!((listed.len(), texts[2].as_str()), (3, "third"));
    let inode = std::fs::metadata(path(0)).unwrap().ino();
    let held = File::open(path(0)).unwrap();
    let first = snapshots.iter().position(|s| s.id == repo.snapshots().unwrap()[0].id).unwrap();
    repo.forget(&[snapshots[first].id]).unwrap();
    let gone = |path: &Path| {
        let looked = std::fs::metadata(path);
        looked.is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
    };
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert!(gone(&path(1)), "its name is the shorter one now");
    assert_eq!(std::fs::read_to_string(path(0)).unwrap(), texts[1]);
    assert_ne!(std::fs::metadata(path(0)).unwrap().ino(), inode, "it is another file");
    // What is open stays readable.
    let mut text = vec![0; texts[0].len()];
    held.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(text, texts[0].as_bytes());
    repo.forget(&[snapshots[1 - first].id]).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert!(gone(&path(0)));
}
