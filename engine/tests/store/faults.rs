//! A disk that fails.

use super::*;

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

    fn make_dir_above(&self, path: &Path) -> io::Result<()> {
        let make = || OsDisk.make_dir_above(path);
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
            assert!(error.to_string().contains("make a few megabytes of room"), "{error}");
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
            let slot = [(name(ObjectKind::Key, 1), 4)];
            let slots = listed(store, ObjectKind::Key);
            assert!(slots.is_empty() || slots == slot, "{context}");
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
