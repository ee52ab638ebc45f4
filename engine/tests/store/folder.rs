//! What only a folder has.

use super::*;

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
    assert!(!files(store.root()).iter().any(|file| file.to_string_lossy().contains(".tmp-")));
    assert!(LocalStore::new(store.root().join("nowhere")).clock().is_none());
    // Nobody who uses a repository needs to write into its uppermost folder.
    std::fs::rename(store.root().join("index"), store.root().join("moved")).unwrap();
    assert!(store.clock().is_none());
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
    // Or the mount point itself is the repository, and then there is an empty folder.
    std::fs::create_dir(store.root()).unwrap();
    for kind in HASHED {
        assert_eq!(self::kind(store.put(&name(kind, 2), b"y")), StoreErrorKind::NotFound);
    }
    assert_eq!(std::fs::read_dir(store.root()).unwrap().count(), 0);
    std::fs::remove_dir(store.root()).unwrap();
    std::fs::rename(folder.path().join("away"), store.root()).unwrap();
    store.put(&pack(2), b"y").unwrap();
    assert_eq!(listed(&*store, ObjectKind::Pack), [(pack(1), 1), (pack(2), 1)]);
}

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

/// The way out that messages about damage show: put the object back from a copy.
/// A drive that is mounted meanwhile has the damaged file open.
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

/// So is one whose bytes are wrong, though no call has failed: soon. And what was deleted
/// can be read while it is kept open.
#[test]
fn a_pack_that_rotted_can_be_put_back() {
    let (store, _folder) = local_store();
    store.put(&pack(1), b"rotten").unwrap();
    assert_eq!(store.get_range(&pack(1), 1, 2).unwrap(), b"ot");
    // What another process does.
    let path = store.root().join(pack(1).path());
    let copy = store.root().join("copy");
    std::fs::write(&copy, "sounds").unwrap();
    // As `cp -p` and rsync do.
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    std::fs::File::options()
        .write(true)
        .open(&copy)
        .and_then(|file| file.set_modified(modified))
        .unwrap();
    std::fs::rename(copy, &path).unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while store.get_range(&pack(1), 1, 2).unwrap() != b"ou" {
        assert!(Instant::now() < until, "the old file is still read");
        std::thread::sleep(Duration::from_millis(100));
    }
    std::fs::remove_file(path).unwrap();
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(store.get_range(&pack(1), 1, 2).unwrap(), b"ou");
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

/// Root may do everything, so in a thread of its own root becomes somebody else.
#[cfg(target_os = "linux")]
fn as_owner_who_is_not_root(folders: &[&std::path::Path], work: impl FnOnce() + Send) {
    use rustix::process::{Uid, geteuid};
    const NOBODY: u32 = 65534;
    if geteuid().is_root() {
        for folder in folders {
            std::os::unix::fs::chown(folder, Some(NOBODY), None).unwrap();
        }
    }
    let become_nobody = || {
        if geteuid().is_root() {
            rustix::thread::set_thread_uid(Uid::from_raw(NOBODY)).unwrap();
        }
        work();
    };
    std::thread::scope(|scope| scope.spawn(become_nobody).join()).unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_without_permission_says_so() {
    use std::os::unix::fs::PermissionsExt;
    let (store, folder) = local_store();
    let keys = store.root().join("keys");
    let [key, other] = [1, 2].map(|n| name(ObjectKind::Key, n));
    store.put(&key, b"x").unwrap();
    let mode = |mode| std::fs::set_permissions(&keys, PermissionsExt::from_mode(mode)).unwrap();
    mode(0);
    as_owner_who_is_not_root(&[folder.path(), store.root(), &keys], || {
        use StoreErrorKind::PermissionDenied;
        assert_eq!(kind(store.put(&other, b"x")), PermissionDenied);
        assert_eq!(kind(store.get(&key)), PermissionDenied);
        assert_eq!(kind(store.delete(&key)), PermissionDenied);
        assert_eq!(kind(store.list(ObjectKind::Key)), PermissionDenied);
    });
    mode(0o700);
    assert_eq!(store.get(&key).unwrap(), b"x");
}
