//! Every call that a drive makes to the store fails once, in every way: who asks gets an error
//! or what is right, and afterwards the same drive shows everything.

mod kit;

use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use jiff::tz::TimeZone;
use tresor_engine::repo::{OpenOptions, Repository, Snapshot};
use tresor_engine::select::SnapshotFilter;
use tresor_engine::store::{MemoryStore, Store, StoreErrorKind};
use tresor_mountfs::{Attr, DriveOptions, FsError, Ino, Layout, LookUp, SnapshotFs};
use tresor_testkit::{
    Body, Fault, Faulty, Item, backup, init, open, options, password, random_bytes,
};

/// Those that fail what reads.
const FAULTS: [Fault; 9] = [
    Fault::Before,
    Fault::After,
    Fault::Dead,
    Fault::Once(StoreErrorKind::NotFound),
    Fault::From(StoreErrorKind::NotFound),
    Fault::Once(StoreErrorKind::Unreadable),
    Fault::From(StoreErrorKind::Unreadable),
    Fault::Once(StoreErrorKind::PermissionDenied),
    Fault::Once(StoreErrorKind::Truncated),
];

/// Two snapshots, and what is in them.
fn base() -> (Store, Vec<(Snapshot, Item)>) {
    let store: Store = Arc::new(MemoryStore::new());
    init(&store);
    let mut rng = Rng::with_seed(23);
    let mut sub = Item::dir().with("small", Item::file("not much"));
    let mut kept = Vec::new();
    for n in 0..2 {
        sub = sub.with(format!("long{n}"), Item::file(random_bytes(&mut rng, 300_000)));
        let long = Item::file("text").with_attribute("user.long", random_bytes(&mut rng, 70_000));
        let tree = Item::dir().with("sub", sub.clone()).with("noted", long);
        let (snapshot, _) = backup(&open(&store), &tree, &options(None));
        kept.push((snapshot, tree));
    }
    (store, kept)
}

fn try_drive(store: &Store) -> Result<SnapshotFs, String> {
    let repo = Repository::open(store.clone(), &password(), &OpenOptions::default());
    let options = DriveOptions {
        snapshot: None,
        filter: SnapshotFilter::default(),
        time_zone: TimeZone::UTC,
        layout: Layout::Folders,
        cache_size: 4 << 20,
    };
    SnapshotFs::new(repo.map_err(|e| e.to_string())?, options).map_err(|e| e.to_string())
}

/// Somebody who looks at everything on a drive.
struct Look<'a> {
    fs: &'a SnapshotFs,
    what: &'a str,
    /// Whether a snapshot may be left out: its object seems to be damaged.
    may_lack: bool,
    errors: usize,
}

impl Look<'_> {
    /// What was given without an error.
    fn given<T>(&mut self, path: &str, result: Result<T, FsError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(FsError::Io(message)) => {
                assert!(!message.is_empty() && !message.contains("please report"), "{message}");
                self.errors += 1;
                None
            }
            Err(e) => panic!("{}: {path}: {e:?}", self.what),
        }
    }

    fn list(&mut self, path: &str, ino: Ino) -> Option<Vec<(Vec<u8>, Attr)>> {
        let (mut all, mut offset) = (Vec::new(), 0);
        loop {
            let before = all.len();
            let result = self.fs.read_dir(ino, offset, LookUp::Nothing, &mut |entry| {
                all.push((entry.name.to_vec(), entry.attr));
                offset = entry.next;
                true
            });
            self.given(path, result)?;
            if all.len() == before {
                all.drain(..2);
                return Some(all);
            }
        }
    }

    fn everything(&mut self, kept: &[(Snapshot, Item)]) {
        let Some(ids) = self.given("ids", self.fs.lookup(Ino::ROOT, b"ids")) else { return };
        if let Some(listed) = self.list("ids", ids.ino) {
            let is_all = listed.len() == kept.len() + 1;
            assert!(is_all || self.may_lack, "{}: latest, and the snapshots", self.what);
            self.errors += usize::from(!is_all);
        }
        for (snapshot, tree) in kept {
            let name = snapshot.id.short();
            let found = self.fs.lookup(ids.ino, name.as_bytes());
            if self.may_lack && matches!(found, Err(FsError::NotFound)) {
                self.errors += 1;
                continue;
            }
            if let Some(attr) = self.given(&name, found) {
                self.tree(&name, attr.ino, tree);
            }
        }
    }

    fn tree(&mut self, path: &str, ino: Ino, item: &Item) {
        let what = self.what;
        if let Some(listed) = self.list(path, ino) {
            let names: Vec<_> = listed.into_iter().map(|(name, _)| name).collect();
            let expected: Vec<_> = item.entries().keys().cloned().collect();
            assert_eq!(names, expected, "{what}: {path}");
        }
        for (name, item) in item.entries() {
            let path = format!("{path}/{}", name.escape_ascii());
            let found = self.fs.lookup(ino, name);
            let Some(attr) = self.given(&path, found) else { continue };
            for x in item.node.xattrs() {
                let value = self.fs.xattr(attr.ino, &x.name, 4 << 20);
                if let Some(value) = self.given(&path, value) {
                    assert!(value == x.value, "{what}: {path}");
                }
            }
            match &item.body {
                Body::Dir(_) => self.tree(&path, attr.ino, item),
                Body::File(bytes, _) => self.file(&path, attr, bytes),
                Body::Other => {}
            }
        }
    }

    fn file(&mut self, path: &str, attr: Attr, bytes: &[u8]) {
        assert_eq!(attr.size, bytes.len() as u64, "{}: {path}", self.what);
        for at in (0..bytes.len()).step_by(100_000) {
            let read = self.fs.read_at(attr.ino, at as u64, 100_000);
            let end = bytes.len().min(at + 100_000);
            if let Some(read) = self.given(path, read) {
                assert!(read == bytes[at..end], "{}: {path} at {at}", self.what);
            }
        }
    }
}

/// How often something could not be read.
fn errors(fs: &SnapshotFs, kept: &[(Snapshot, Item)], fault: Fault, what: &str) -> usize {
    let damage = [StoreErrorKind::Unreadable, StoreErrorKind::Truncated];
    let may_lack = matches!(fault, Fault::Once(kind) | Fault::From(kind) if damage.contains(&kind));
    let mut look = Look { fs, what, may_lack, errors: 0 };
    look.everything(kept);
    look.errors
}

/// Everything is shown; at the latest when the index is read again, which isn't done at each read.
fn shows_everything(fs: &SnapshotFs, kept: &[(Snapshot, Item)], fault: Fault, what: &str) {
    let start = Instant::now();
    while errors(fs, kept, fault, what) > 0 {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}: it doesn't read again");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn every_call_of_a_drive_fails_once() {
    let (base, kept) = base();
    for fault in FAULTS {
        let mut failed = 0;
        for at in 0.. {
            let what = format!("{fault:?}, call {at}");
            let faulty = Faulty::new(&base, fault, at);
            match try_drive(&faulty.store) {
                Ok(fs) => {
                    failed += usize::from(errors(&fs, &kept, fault, &what) > 0);
                    faulty.heal();
                    shows_everything(&fs, &kept, fault, &what);
                }
                Err(message) => {
                    assert!(!message.contains("please report"), "{what}: {message}");
                    failed += 1;
                    faulty.heal();
                    let fs = try_drive(&faulty.store).unwrap();
                    shows_everything(&fs, &kept, fault, &what);
                }
            }
            if faulty.calls() <= at {
                assert!(at >= 15, "only {at} calls");
                eprintln!("{fault:?}, of which {failed} mattered: each of {at} calls");
                break;
            }
        }
        assert!(failed > 5, "{fault:?}: {failed}");
    }
}
