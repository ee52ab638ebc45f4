//! What every object store must do. The same suite runs against each of them,
//! then come the faults that only a disk has.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, Weak, mpsc};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use tresor_engine::format::{ObjectId, ObjectKind, ObjectName, Time};
use tresor_engine::store::{Disk, LocalStore, MemoryStore, ObjectStore, OsDisk, StoreErrorKind};

const HASHED: [ObjectKind; 5] = [
    ObjectKind::Key,
    ObjectKind::Pack,
    ObjectKind::Index,
    ObjectKind::Snapshot,
    ObjectKind::Parity,
];

fn name(kind: ObjectKind, n: u8) -> ObjectName {
    ObjectName::new(kind, ObjectId([n; 32]))
}

fn pack(n: u8) -> ObjectName {
    name(ObjectKind::Pack, n)
}

/// What a call failed with.
fn kind<T: std::fmt::Debug>(result: Result<T, tresor_engine::store::StoreError>) -> StoreErrorKind {
    result.expect_err("it should have failed").kind
}

fn listed(store: &dyn ObjectStore, kind: ObjectKind) -> Vec<(ObjectName, u64)> {
    let mut list = store.list(kind).unwrap();
    list.sort();
    list
}

/// The suite. Each test gets an empty store that was created.
mod conformance {
    use super::*;

    pub fn what_is_put_can_be_got(store: Arc<dyn ObjectStore>) {
        for kind in HASHED {
            store.put(&name(kind, 7), format!("{kind:?}").as_bytes()).unwrap();
        }
        store.put(&ObjectName::CONFIG, b"config").unwrap();
        store.put(&pack(8), b"").unwrap();
        store.settle().unwrap();
        for kind in HASHED {
            let text = format!("{kind:?}");
            assert_eq!(store.get(&name(kind, 7)).unwrap(), text.as_bytes());
            assert_eq!(store.get_range(&name(kind, 7), 0, 2).unwrap(), &text.as_bytes()[..2]);
            assert_eq!(store.size(&name(kind, 7)).unwrap(), text.len() as u64);
        }
        assert_eq!(store.get(&ObjectName::CONFIG).unwrap(), b"config");
        assert_eq!(store.get(&pack(8)).unwrap(), b"");
        assert_eq!(store.size(&pack(8)).unwrap(), 0);
    }

    pub fn what_is_replaced_is_gone(store: Arc<dyn ObjectStore>) {
        for name in HASHED.map(|kind| name(kind, 7)).into_iter().chain([ObjectName::CONFIG]) {
            store.put(&name, b"damaged, and longer").unwrap();
            assert_eq!(store.get_range(&name, 0, 7).unwrap(), b"damaged");
            store.replace(&name, b"as it must be").unwrap();
            store.settle().unwrap();
            assert_eq!(store.get(&name).unwrap(), b"as it must be");
            assert_eq!(store.get_range(&name, 0, 2).unwrap(), b"as");
            assert_eq!(listed(&*store, name.kind), [(name, 13)]);
            // Also what isn't there.
            store.delete(&name).unwrap();
            store.replace(&name, b"new").unwrap();
            assert_eq!(store.get(&name).unwrap(), b"new");
        }
    }

    pub fn ranges_are_whole_or_an_error(store: Arc<dyn ObjectStore>) {
        store.put(&pack(1), b"0123456789").unwrap();
        for (offset, len, expected) in [
            (0, 10, "0123456789"),
            (3, 4, "3456"),
            (9, 1, "9"),
            (0, 0, ""),
            (5, 0, ""),
            (10, 0, ""),
        ] {
            assert_eq!(store.get_range(&pack(1), offset, len).unwrap(), expected.as_bytes());
        }
        let past_the_end = [
            (0, 11),
            (9, 2),
            (10, 1),
            (11, 1),
            (1 << 40, 1),
            (i64::MAX as u64 - 1, 2),
            (i64::MAX as u64, 1),
            (i64::MAX as u64 + 1, 1),
            (u64::MAX, 1),
            (u64::MAX, usize::MAX),
            (0, 1 << 46),
            (5, isize::MAX as usize),
            (0, usize::MAX),
        ];
        for (offset, len) in past_the_end {
            let result = store.get_range(&pack(1), offset, len);
            assert_eq!(kind(result), StoreErrorKind::Truncated, "{offset}, {len}");
        }
        // Nothing is wanted, so nothing is missing.
        assert_eq!(store.get_range(&pack(1), u64::MAX, 0).unwrap(), b"");
        assert_eq!(store.get_range(&pack(1), 0, 10).unwrap(), b"0123456789");
    }

    pub fn what_is_too_long_is_not_read(store: Arc<dyn ObjectStore>) {
        for kind in [ObjectKind::Config, ObjectKind::Key] {
            let most = vec![1; kind.max_len() as usize];
            let name =
                |n| if kind == ObjectKind::Config { ObjectName::CONFIG } else { name(kind, n) };
            store.put(&name(1), &most).unwrap();
            assert!(store.get(&name(1)).unwrap() == most);
            store.delete(&name(1)).unwrap();
            store.put(&name(2), &[&most[..], &[1]].concat()).unwrap();
            let error = store.get(&name(2)).unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::TooLong);
            assert!(tresor_engine::Error::from(error).is_damage());
            store.delete(&name(2)).unwrap();
        }
    }

    pub fn what_isnt_there_is_not_found(store: Arc<dyn ObjectStore>) {
        for name in HASHED.map(|kind| name(kind, 1)).into_iter().chain([ObjectName::CONFIG]) {
            let error = store.get(&name).unwrap_err();
            assert!(error.is_not_found(), "{error}");
            assert!(error.to_string().contains(&name.path()), "{error} names the object");
            assert_eq!(kind(store.get_range(&name, 0, 1)), StoreErrorKind::NotFound);
            assert_eq!(kind(store.get_range(&name, 0, 0)), StoreErrorKind::NotFound);
            assert_eq!(kind(store.size(&name)), StoreErrorKind::NotFound);
            assert_eq!(listed(&*store, name.kind), []);
        }
    }

    pub fn lists_are_by_kind(store: Arc<dyn ObjectStore>) {
        for kind in HASHED {
            store.put(&name(kind, 200), b"one").unwrap();
            store.put(&name(kind, 100), b"three").unwrap();
        }
        store.put(&ObjectName::CONFIG, b"c").unwrap();
        for kind in HASHED {
            assert_eq!(listed(&*store, kind), [(name(kind, 100), 5), (name(kind, 200), 3)]);
        }
        assert_eq!(listed(&*store, ObjectKind::Config), [(ObjectName::CONFIG, 1)]);
    }

    pub fn delete_is_idempotent(store: Arc<dyn ObjectStore>) {
        for kind in HASHED {
            let (name, other) = (name(kind, 1), name(kind, 2));
            store.delete(&name).unwrap();
            store.put(&name, b"x").unwrap();
            store.put(&other, b"y").unwrap();
            store.get_range(&name, 0, 1).unwrap();
            store.delete(&name).unwrap();
            store.delete(&name).unwrap();
            store.settle().unwrap();
            assert!(store.get(&name).unwrap_err().is_not_found());
            assert!(store.get_range(&name, 0, 1).unwrap_err().is_not_found());
            assert_eq!(listed(&*store, kind), [(other, 1)]);
            store.put(&name, b"again").unwrap();
            assert_eq!(store.get_range(&name, 0, 5).unwrap(), b"again");
        }
    }

    pub fn putting_again_changes_nothing(store: Arc<dyn ObjectStore>) {
        for kind in HASHED {
            store.put(&name(kind, 1), b"first").unwrap();
            store.put(&name(kind, 1), b"other").unwrap();
            assert_eq!(store.get(&name(kind, 1)).unwrap(), b"first");
        }
        store.put(&ObjectName::CONFIG, b"first").unwrap();
        let again = store.put(&ObjectName::CONFIG, b"other");
        assert_eq!(kind(again), StoreErrorKind::AlreadyExists);
        assert_eq!(store.get(&ObjectName::CONFIG).unwrap(), b"first");
    }

    pub fn only_one_config_wins(store: Arc<dyn ObjectStore>) {
        let won: Vec<_> = std::thread::scope(|scope| {
            let put = |n: u8| {
                let store = &store;
                scope.spawn(move || store.put(&ObjectName::CONFIG, &[n; 1000]).ok().map(|()| n))
            };
            let threads: Vec<_> = (0..8).map(put).collect();
            threads.into_iter().filter_map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(won.len(), 1);
        assert_eq!(store.get(&ObjectName::CONFIG).unwrap(), [won[0]; 1000]);
    }

    pub fn an_empty_store_can_be_created_again(store: Arc<dyn ObjectStore>) {
        store.create().unwrap();
        // What an interrupted init leaves: a slot that opens nothing.
        store.put(&name(ObjectKind::Key, 1), b"slot").unwrap();
        store.create().unwrap();
        assert_eq!(listed(&*store, ObjectKind::Key), []);
    }

    pub fn a_repository_is_not_created_over(store: Arc<dyn ObjectStore>) {
        store.put(&name(ObjectKind::Key, 1), b"slot").unwrap();
        store.put(&ObjectName::CONFIG, b"config").unwrap();
        assert_eq!(kind(store.create()), StoreErrorKind::AlreadyExists);
        assert_eq!(store.get(&name(ObjectKind::Key, 1)).unwrap(), b"slot");
    }

    /// Somebody who has lost the config, and tries `init`, must not lose the keys.
    pub fn a_repository_without_config_is_not_created_over(store: Arc<dyn ObjectStore>) {
        store.put(&name(ObjectKind::Key, 1), b"slot").unwrap();
        for kind_of in [ObjectKind::Pack, ObjectKind::Index, ObjectKind::Snapshot] {
            store.put(&name(kind_of, 1), b"x").unwrap();
            assert_eq!(kind(store.create()), StoreErrorKind::AlreadyExists, "{kind_of:?}");
            assert_eq!(store.get(&name(ObjectKind::Key, 1)).unwrap(), b"slot");
            store.delete(&name(kind_of, 1)).unwrap();
        }
    }

    pub fn sweep_takes_no_object(store: Arc<dyn ObjectStore>) {
        HASHED.iter().for_each(|kind| store.put(&name(*kind, 1), b"x").unwrap());
        store.put(&ObjectName::CONFIG, b"c").unwrap();
        assert_eq!(store.sweep(Duration::ZERO).unwrap(), (0, 0));
        assert!(HASHED.iter().all(|kind| store.get(&name(*kind, 1)).is_ok()));
        assert!(store.get(&ObjectName::CONFIG).is_ok());
    }

    /// Writers, some of the same object, while others list, read and delete.
    pub fn many_threads_at_once(store: Arc<dyn ObjectStore>) {
        const LEN: usize = 100_000;
        let writers = AtomicUsize::new(4);
        let write = |thread: u8| {
            for n in 0..20 {
                for object in [n, 100 + 20 * thread + n] {
                    store.put(&pack(object), &[object; LEN]).unwrap();
                }
                store.settle().unwrap();
                store.delete(&pack(100 + 20 * thread + n.saturating_sub(1))).unwrap();
            }
            writers.fetch_sub(1, SeqCst);
        };
        let look = || {
            while writers.load(SeqCst) > 0 {
                for (name, len) in store.list(ObjectKind::Pack).unwrap() {
                    assert_eq!(len, LEN as u64, "half an object is listed");
                    match store.get_range(&name, LEN as u64 - 1, 1) {
                        Ok(byte) => assert_eq!(byte, [name.id.0[0]]),
                        Err(e) => assert!(e.is_not_found() && name.id.0[0] >= 100, "{e}"),
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            (0..4).for_each(|thread| drop(scope.spawn(move || write(thread))));
            (0..2).for_each(|_| drop(scope.spawn(look)));
        });
        let left = listed(&*store, ObjectKind::Pack);
        let shared = (0..20).map(|n| (pack(n), LEN as u64));
        let last = (0..4).map(|thread| (pack(100 + 20 * thread + 19), LEN as u64));
        assert_eq!(left, shared.chain(last).collect::<Vec<_>>());
    }
}

macro_rules! conformance {
    ($($test:ident)*) => {
        mod memory {
            $(#[test] fn $test() {
                let store = Arc::new(super::MemoryStore::new());
                super::ObjectStore::create(&*store).unwrap();
                super::conformance::$test(store);
            })*
            use std::sync::Arc;
        }
        mod local {
            $(#[test] fn $test() {
                let (store, _folder) = super::local_store();
                super::conformance::$test(store);
            })*
        }
    };
}

conformance! {
    what_is_put_can_be_got
    what_is_replaced_is_gone
    ranges_are_whole_or_an_error
    what_is_too_long_is_not_read
    what_isnt_there_is_not_found
    lists_are_by_kind
    delete_is_idempotent
    putting_again_changes_nothing
    only_one_config_wins
    an_empty_store_can_be_created_again
    a_repository_is_not_created_over
    a_repository_without_config_is_not_created_over
    sweep_takes_no_object
    many_threads_at_once
}

fn local_store() -> (Arc<LocalStore>, TempDir) {
    let folder = TempDir::new().unwrap();
    let store = LocalStore::new(folder.path().join("repo"));
    store.create().unwrap();
    (Arc::new(store), folder)
}

// What only a folder has.

#[test]
fn only_an_empty_folder_becomes_a_repository() {
    let folder = TempDir::new().unwrap();
    let store = LocalStore::new(folder.path());
    std::fs::write(folder.path().join("letter.txt"), "dear").unwrap();
    let error = store.create().unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::AlreadyExists);
    assert!(error.to_string().contains("not empty"), "{error}");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing was made next to it");

    let file = folder.path().join("letter.txt");
    assert!(LocalStore::new(&file).create().is_err(), "a file is no folder");
    assert_eq!(std::fs::read(&file).unwrap(), b"dear");

    let deep = LocalStore::new(folder.path().join("a/b/c"));
    deep.create().unwrap();
    deep.put(&pack(1), b"x").unwrap();
}

#[test]
fn foreign_files_are_passed_over() {
    let (store, _folder) = local_store();
    HASHED.iter().for_each(|kind| store.put(&name(*kind, 0xab), b"whole").unwrap());
    let id = "ab".repeat(32);
    let in_packs = ["packs", "packs/ab", "packs/cd"].map(|f| (f, ObjectKind::Pack));
    let folders = [
        ("", ObjectKind::Config),
        ("keys", ObjectKind::Key),
        ("index", ObjectKind::Index),
        ("snapshots", ObjectKind::Snapshot),
    ];
    for (folder, _) in folders.into_iter().chain(in_packs) {
        let folder = store.root().join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        let leftover = format!(".tmp-{}", &id[..16]);
        let foreign = ["Thumbs.db", ".DS_Store", &leftover, &id[1..], &id.to_uppercase()];
        let longer = [format!("{id}0"), format!("{id}.tmp"), format!(".{id}"), "é".repeat(32)];
        for name in foreign.into_iter().chain(longer.iter().map(String::as_str)) {
            std::fs::write(folder.join(name), "half").unwrap();
        }
        std::fs::create_dir(folder.join("cd".repeat(32))).unwrap();
    }
    // In the folder of other packs, and above it.
    std::fs::write(store.root().join("packs/cd").join(&id), "astray").unwrap();
    std::fs::write(store.root().join("packs").join(&id), "astray").unwrap();
    for kind in HASHED {
        assert_eq!(listed(&*store, kind), [(name(kind, 0xab), 5)]);
    }
    assert_eq!(listed(&*store, ObjectKind::Config), []);
}

#[cfg(unix)]
#[test]
fn names_that_are_no_text_are_passed_over() {
    use std::os::unix::ffi::OsStrExt;
    let (store, _folder) = local_store();
    let name = std::ffi::OsStr::from_bytes(&[0xff; 64]);
    std::fs::write(store.root().join("keys").join(name), "x").unwrap();
    assert_eq!(listed(&*store, ObjectKind::Key), []);
    assert_eq!(store.sweep(Duration::ZERO).unwrap(), (0, 0));
}

#[test]
fn sweep_removes_old_leftovers_only() {
    let (store, _folder) = local_store();
    store.put(&pack(0xab), b"x").unwrap();
    let hour = Duration::from_secs(3600);
    let make = |path: &str, age: Duration| {
        let file = std::fs::File::create(store.root().join(path)).unwrap();
        io::Write::write_all(&mut &file, b"half").unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    };
    let old = ["", "keys/", "packs/ab/", "index/", "snapshots/"];
    old.iter().for_each(|f| make(&format!("{f}.tmp-00112233445566ff"), 3 * hour));
    make("keys/.tmp-0000000000000001", hour);
    make("keys/.tmp-notes", 3 * hour);
    make("keys/tmp-0000000000000001", 3 * hour);
    make(&format!("keys/{}", "ab".repeat(32)), 3 * hour);
    std::fs::create_dir(store.root().join("keys/.tmp-0000000000000002")).unwrap();
    assert_eq!(store.sweep(2 * hour).unwrap(), (5, 20));
    assert!(store.root().join("keys/.tmp-notes").exists(), "somebody else's");
    assert!(store.root().join("keys/.tmp-0000000000000001").exists(), "still being written");
    assert_eq!(listed(&*store, ObjectKind::Key), [(name(ObjectKind::Key, 0xab), 4)]);
    assert_eq!(store.sweep(Duration::ZERO).unwrap(), (1, 4));
}

/// The clock is that of the disk, and reading it leaves nothing behind.
#[test]
fn a_folder_has_a_clock() {
    let (store, _folder) = local_store();
    let before = SystemTime::now() - Duration::from_secs(1);
    let time = store.clock().unwrap();
    assert!(time >= Time::from_system(before).unwrap());
    assert!(time <= Time::from_system(SystemTime::now()).unwrap());
    let names = std::fs::read_dir(store.root()).unwrap().map(|e| e.unwrap().file_name());
    assert_eq!(names.filter(|n| n.to_string_lossy().starts_with(".tmp-")).count(), 0);
    assert!(LocalStore::new(store.root().join("nowhere")).clock().is_none());
}

#[test]
fn a_folder_that_is_gone_is_not_made_again() {
    // As when a NAS isn't mounted: nothing must be written to the mount point.
    let (store, folder) = local_store();
    store.put(&pack(1), b"x").unwrap();
    std::fs::rename(store.root(), folder.path().join("away")).unwrap();
    assert_eq!(kind(store.put(&pack(2), b"y")), StoreErrorKind::NotFound);
    assert_eq!(kind(store.list(ObjectKind::Pack)), StoreErrorKind::NotFound);
    assert_eq!(kind(store.list(ObjectKind::Config)), StoreErrorKind::NotFound);
    assert!(!store.root().exists());
    std::fs::rename(folder.path().join("away"), store.root()).unwrap();
    store.put(&pack(2), b"y").unwrap();
    assert_eq!(listed(&*store, ObjectKind::Pack), [(pack(1), 1), (pack(2), 1)]);
}

/// The way out that messages about damage show: put the object back from a copy.
/// A drive that is mounted meanwhile has the damaged file open.
/// Whoever can write there can put one in the place of an object.
#[cfg(unix)]
#[test]
fn a_fifo_is_nothing_to_wait_for() {
    let (store, _folder) = local_store();
    for name in [ObjectName::CONFIG, name(ObjectKind::Snapshot, 1)] {
        let path = store.root().join(name.path());
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let (done, answer) = mpsc::channel();
        let store = store.clone();
        std::thread::spawn(move || {
            done.send((store.get(&name).is_err(), store.get_range(&name, 0, 1).is_err()))
        });
        assert_eq!(answer.recv_timeout(Duration::from_secs(60)).unwrap(), (true, true));
    }
}

#[test]
fn a_pack_that_was_cut_short_can_be_put_back() {
    let (store, _folder) = local_store();
    store.put(&pack(1), b"0123456789").unwrap();
    let path = store.root().join(pack(1).path());
    std::fs::write(&path, "0123").unwrap();
    assert_eq!(kind(store.get_range(&pack(1), 5, 2)), StoreErrorKind::Truncated);
    let copy = store.root().join("copy");
    std::fs::write(&copy, "0123456789").unwrap();
    std::fs::rename(copy, path).unwrap();
    assert_eq!(store.get_range(&pack(1), 5, 2).unwrap(), b"56");
}

#[cfg(unix)]
#[test]
fn nobody_else_can_read_the_files() {
    use std::os::unix::fs::PermissionsExt;
    let (store, _folder) = local_store();
    store.put(&pack(1), b"x").unwrap();
    let mode = |path: &str| store.root().join(path).metadata().unwrap().permissions().mode();
    assert_eq!(mode(&pack(1).path()) & 0o7777, 0o600);
    assert!(["", "packs", "packs/01", "keys"].iter().all(|f| mode(f) & 0o7777 == 0o700));
}

#[cfg(unix)]
#[test]
fn a_folder_without_permission_says_so() {
    use std::os::unix::fs::PermissionsExt;
    let (store, _folder) = local_store();
    let keys = store.root().join("keys");
    let mode = |mode| std::fs::set_permissions(&keys, PermissionsExt::from_mode(mode)).unwrap();
    mode(0);
    // Root may do everything.
    if std::fs::read_dir(&keys).is_err() {
        let key = name(ObjectKind::Key, 1);
        assert_eq!(kind(store.put(&key, b"x")), StoreErrorKind::PermissionDenied);
        assert_eq!(kind(store.get(&key)), StoreErrorKind::PermissionDenied);
        assert_eq!(kind(store.list(ObjectKind::Key)), StoreErrorKind::PermissionDenied);
    }
    mode(0o700);
}

// Faults.

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// The call does nothing.
    Before,
    /// The call does its work, or half of it if it writes, and reports an error.
    After,
    /// So do all later calls, until the disk is mended: nothing can be tidied up.
    Forever,
}

/// A disk whose `at`th call fails, counted from 0.
struct Faulty {
    at: usize,
    fault: Fault,
    error: io::ErrorKind,
    calls: AtomicUsize,
}

impl Faulty {
    fn new(at: usize, fault: Fault, error: io::ErrorKind) -> Arc<Self> {
        Arc::new(Self { at, fault, error, calls: AtomicUsize::new(0) })
    }

    fn has_failed(&self) -> bool {
        self.calls.load(SeqCst) > self.at
    }

    fn mend(&self) {
        self.calls.store(usize::MAX / 2, SeqCst);
    }

    fn run(
        &self,
        broken: impl FnOnce() -> io::Result<()>,
        whole: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let n = self.calls.fetch_add(1, SeqCst);
        let mended = n >= usize::MAX / 2;
        match self.fault {
            _ if n < self.at || mended => return whole(),
            Fault::Before if n == self.at => {}
            // An error of its own makes no difference.
            Fault::After if n == self.at => drop(broken()),
            Fault::Forever => drop(broken()),
            _ => return whole(),
        }
        Err(self.error.into())
    }
}

impl Disk for Faulty {
    fn write_new(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        let half = || OsDisk.write_new(path, &data[..data.len() / 2]);
        self.run(half, || OsDisk.write_new(path, data))
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        let rename = || OsDisk.rename_new(from, to);
        self.run(rename, rename)
    }

    fn rename_over(&self, from: &Path, to: &Path) -> io::Result<()> {
        let rename = || OsDisk.rename_over(from, to);
        self.run(rename, rename)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        // Files stay on a disk that is broken for good.
        let remove = || OsDisk.remove(path);
        self.run(|| if self.fault == Fault::Forever { Ok(()) } else { remove() }, remove)
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        let make = || OsDisk.make_dir(path);
        self.run(make, make)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let sync = || OsDisk.sync_dir(path);
        self.run(sync, sync)
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        let sync = || OsDisk.sync_file(path);
        self.run(sync, sync)
    }
}

/// Lets every call of `work` fail in turn and in every way; `check` gets what is left.
fn with_faults(
    work: impl Fn(&LocalStore) -> Result<(), tresor_engine::store::StoreError>,
    check: impl Fn(&Path, &LocalStore, &str),
) {
    for fault in [Fault::Before, Fault::After, Fault::Forever] {
        for at in 0.. {
            assert!(at < 100, "it never ends");
            let (plain, _folder) = local_store();
            let disk = Faulty::new(at, fault, io::ErrorKind::StorageFull);
            let store = LocalStore::with_disk(plain.root(), disk.clone());
            let result = work(&store);
            if !disk.has_failed() {
                result.unwrap();
                assert!(at > 0, "nothing was called");
                break;
            }
            let context = format!("{fault:?} of call {at}");
            let error = result.expect_err(&context);
            assert_eq!(error.kind, StoreErrorKind::NoSpace, "{context}: {error}");
            assert!(error.to_string().contains("free some space"), "{error}");
            disk.mend();
            check(plain.root(), &store, &context);
        }
    }
}

#[test]
fn objects_land_whole_or_not_at_all() {
    const BYTES: &[u8] = b"an object of some length";
    let put = |store: &LocalStore, name: &ObjectName| {
        store.put(name, BYTES)?;
        store.settle()
    };
    for name in HASHED.map(|kind| name(kind, 3)) {
        with_faults(
            |store| put(store, &name),
            |root, store, context| {
                let other = LocalStore::new(root);
                let list = listed(&other, name.kind);
                assert!(list.is_empty() || list == [(name, BYTES.len() as u64)], "{context}");
                put(store, &name).expect(context);
                assert_eq!(other.get(&name).expect(context), BYTES, "{context}");
                assert_eq!(listed(&other, name.kind).len(), 1, "{context}");
                other.sweep(Duration::ZERO).unwrap();
                assert_eq!(files(root), [root.join(name.path())], "{context}");
            },
        );
    }
}

#[test]
fn the_config_lands_whole_or_not_at_all() {
    with_faults(
        |store| {
            store.put(&ObjectName::CONFIG, b"config")?;
            store.settle()
        },
        |root, store, context| {
            let there = !listed(&LocalStore::new(root), ObjectKind::Config).is_empty();
            match store.put(&ObjectName::CONFIG, b"config") {
                Ok(()) => assert!(!there, "{context}"),
                Err(e) => assert!(there && e.kind == StoreErrorKind::AlreadyExists, "{context}"),
            }
            assert_eq!(store.get(&ObjectName::CONFIG).unwrap(), b"config", "{context}");
        },
    );
}

#[test]
fn what_is_replaced_is_the_old_or_the_new() {
    let replace = |store: &LocalStore| {
        store.replace(&pack(1), b"as it must be")?;
        store.settle()
    };
    with_faults(
        |store| {
            LocalStore::new(store.root()).put(&pack(1), b"damaged").unwrap();
            replace(store)
        },
        |root, store, context| {
            let bytes = LocalStore::new(root).get(&pack(1)).expect(context);
            assert!(bytes == b"damaged" || bytes == b"as it must be", "{context}");
            replace(store).expect(context);
            assert_eq!(store.get(&pack(1)).expect(context), b"as it must be", "{context}");
            store.sweep(Duration::ZERO).unwrap();
            assert_eq!(files(root), [root.join(pack(1).path())], "{context}");
        },
    );
}

#[test]
fn deletes_and_creates_can_be_tried_again() {
    let bytes = b"here before";
    with_faults(
        |store| {
            // Put there without faults.
            LocalStore::new(store.root()).put(&pack(1), bytes).unwrap();
            store.delete(&pack(1))?;
            store.settle()
        },
        |root, store, context| {
            let list = listed(&LocalStore::new(root), ObjectKind::Pack);
            assert!(list.is_empty() || list == [(pack(1), bytes.len() as u64)], "{context}");
            store.delete(&pack(1)).expect(context);
            store.settle().expect(context);
            assert!(listed(store, ObjectKind::Pack).is_empty(), "{context}");
        },
    );
    with_faults(
        |store| {
            std::fs::remove_dir_all(store.root()).unwrap();
            store.create()?;
            store.put(&name(ObjectKind::Key, 1), b"slot")?;
            store.settle()
        },
        |_, store, context| {
            store.create().expect(context);
            store.put(&ObjectName::CONFIG, b"config").expect(context);
            assert!(listed(store, ObjectKind::Key).is_empty(), "{context}");
        },
    );
}

#[test]
fn a_settle_that_failed_is_made_up_for() {
    // Writing the first object of a folder: try, make the folder, write, rename.
    let disk = Faulty::new(4, Fault::Before, io::ErrorKind::Other);
    let (plain, _folder) = local_store();
    let store = LocalStore::with_disk(plain.root(), disk.clone());
    store.put(&pack(1), b"x").unwrap();
    assert_eq!(kind(store.settle()), StoreErrorKind::Other);
    let before = disk.calls.load(SeqCst);
    store.settle().unwrap();
    assert!(disk.calls.load(SeqCst) > before, "nothing was synced again");
    let after = disk.calls.load(SeqCst);
    store.settle().unwrap();
    // Those of the index and the snapshots: others may have written there.
    assert_eq!(disk.calls.load(SeqCst), after + 2, "nothing else is left to sync");
}

#[test]
fn errors_are_told_apart() {
    use io::ErrorKind as K;
    for (error, expected) in [
        (K::StorageFull, StoreErrorKind::NoSpace),
        (K::QuotaExceeded, StoreErrorKind::NoSpace),
        (K::PermissionDenied, StoreErrorKind::PermissionDenied),
        (K::ReadOnlyFilesystem, StoreErrorKind::ReadOnly),
        (K::TimedOut, StoreErrorKind::Other),
    ] {
        let (plain, _folder) = local_store();
        plain.put(&pack(1), b"x").unwrap();
        let store = || LocalStore::with_disk(plain.root(), Faulty::new(0, Fault::Before, error));
        let results = [
            ("write", store().put(&pack(2), b"y")),
            ("write", store().put(&pack(3), b"")),
            ("delete", store().delete(&pack(1))),
        ];
        for (op, result) in results {
            let failed = result.unwrap_err();
            assert_eq!((failed.kind, failed.op), (expected, op));
            assert!(failed.what.starts_with(plain.root().to_str().unwrap()), "{failed}");
        }
    }
}

#[cfg(unix)]
#[test]
fn the_systems_errors_are_told_apart() {
    let told = |code| {
        tresor_engine::store::StoreError::io("write", "x", &io::Error::from_raw_os_error(code)).kind
    };
    use rustix::io::Errno;
    assert_eq!(told(Errno::NOSPC.raw_os_error()), StoreErrorKind::NoSpace);
    assert_eq!(told(Errno::DQUOT.raw_os_error()), StoreErrorKind::NoSpace);
    assert_eq!(told(Errno::ACCESS.raw_os_error()), StoreErrorKind::PermissionDenied);
    assert_eq!(told(Errno::PERM.raw_os_error()), StoreErrorKind::PermissionDenied);
    assert_eq!(told(Errno::ROFS.raw_os_error()), StoreErrorKind::ReadOnly);
    assert_eq!(told(Errno::NOENT.raw_os_error()), StoreErrorKind::NotFound);
    assert_eq!(told(Errno::IO.raw_os_error()), StoreErrorKind::Unreadable);
    assert_eq!(told(Errno::TIMEDOUT.raw_os_error()), StoreErrorKind::Other);
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

// Settling among threads.

#[derive(Clone, Debug, PartialEq)]
enum Call {
    Rename(PathBuf),
    MakeDir(PathBuf),
    SyncDir(PathBuf),
}

/// A disk that does something of the test's choice before it works.
#[derive(Default)]
struct Watched {
    calls: Mutex<Vec<Call>>,
    before: OnceLock<Before>,
}

type Before = Box<dyn Fn(&Call) + Send + Sync>;

impl Watched {
    fn note(&self, call: Call, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if let Some(before) = self.before.get() {
            before(&call);
        }
        work()?;
        self.calls.lock().unwrap().push(call);
        Ok(())
    }

    fn place(&self, call: &Call) -> Option<usize> {
        self.calls.lock().unwrap().iter().rposition(|c| c == call)
    }
}

impl Disk for Watched {
    fn write_new(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        OsDisk.write_new(path, data)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.note(Call::Rename(to.into()), || OsDisk.rename_new(from, to))
    }

    fn rename_over(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.note(Call::Rename(to.into()), || OsDisk.rename_over(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove(path)
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.note(Call::MakeDir(path.into()), || OsDisk.make_dir(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.note(Call::SyncDir(path.into()), || OsDisk.sync_dir(path))
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        OsDisk.sync_file(path)
    }
}

fn watched_store() -> (Arc<LocalStore>, Arc<Watched>, TempDir) {
    let (plain, folder) = local_store();
    let disk = Arc::new(Watched::default());
    let store = Arc::new(LocalStore::with_disk(plain.root(), disk.clone()));
    (store, disk, folder)
}

#[test]
fn settling_syncs_the_folder_of_every_new_name() {
    let (store, disk, _folder) = watched_store();
    store.put(&pack(1), b"x").unwrap();
    store.settle().unwrap();
    let object = disk.place(&Call::Rename(store.root().join(pack(1).path()))).unwrap();
    let folder = store.root().join("packs/01");
    assert!(disk.place(&Call::SyncDir(folder.clone())).unwrap() > object);
    let made = disk.place(&Call::MakeDir(folder)).unwrap();
    assert!(disk.place(&Call::SyncDir(store.root().join("packs"))).unwrap() > made);
}

/// The folder may have been made by another process, which hasn't settled yet.
#[test]
fn settling_syncs_folders_that_others_made() {
    let (store, disk, _folder) = watched_store();
    let other = LocalStore::new(store.root());
    other.put(&pack(1), b"x").unwrap();
    let second = ObjectName::new(
        ObjectKind::Pack,
        ObjectId([[1; 16], [2; 16]].concat().try_into().unwrap()),
    );
    store.put(&second, b"y").unwrap();
    store.settle().unwrap();
    for folder in ["packs/01", "packs"] {
        assert!(disk.place(&Call::SyncDir(store.root().join(folder))).is_some(), "{folder}");
    }
}

/// What others wrote is relied on as soon as it is listed, and they may have
/// crashed before they settled.
#[test]
fn settling_syncs_what_others_listed_and_never_settled() {
    let (store, disk, _folder) = watched_store();
    LocalStore::new(store.root()).put(&name(ObjectKind::Index, 1), b"x").unwrap();
    store.settle().unwrap();
    for folder in ["index", "snapshots"] {
        assert!(disk.place(&Call::SyncDir(store.root().join(folder))).is_some(), "{folder}");
    }
}

/// Another thread settles when a file is written but doesn't have its name yet.
#[test]
fn settling_during_a_put_doesnt_make_it_forgotten() {
    let (store, disk, _folder) = watched_store();
    let weak: Weak<LocalStore> = Arc::downgrade(&store);
    let settle = move |call: &Call| {
        if matches!(call, Call::Rename(_)) {
            weak.upgrade().unwrap().settle().unwrap();
        }
    };
    disk.before.set(Box::new(settle)).unwrap_or_else(|_| panic!());
    store.put(&pack(1), b"x").unwrap();
    store.settle().unwrap();
    let named = disk.place(&Call::Rename(store.root().join(pack(1).path()))).unwrap();
    let synced = disk.place(&Call::SyncDir(store.root().join("packs/01"))).unwrap();
    assert!(synced > named, "the object's name isn't on the disk");
}

/// Who settles while another does must not return before it is done.
#[test]
fn settling_waits_for_one_under_way() {
    let (store, disk, _folder) = watched_store();
    let (started, has_started) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let may_go_on = Mutex::new(may_go_on);
    let hold = move |call: &Call| {
        if matches!(call, Call::SyncDir(dir) if dir.ends_with("packs/01")) {
            let _ = started.send(());
            let _ = may_go_on.lock().unwrap().recv();
        }
    };
    disk.before.set(Box::new(hold)).unwrap_or_else(|_| panic!());
    store.put(&pack(1), b"x").unwrap();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| store.settle().unwrap());
        has_started.recv().unwrap();
        let (done, is_done) = mpsc::channel();
        let store = &store;
        scope.spawn(move || {
            store.settle().unwrap();
            let _ = done.send(());
        });
        let early = is_done.recv_timeout(Duration::from_millis(200));
        drop(go_on);
        first.join().unwrap();
        assert!(early.is_err(), "the second returned while the first was still syncing");
        is_done.recv().unwrap();
    });
}
