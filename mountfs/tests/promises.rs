//! Sentences of docs/drive.md that no other test is about.

mod kit;

use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use fastrand::Rng;
use kit::{Mount, drive, status, wait_until};
use tresor_engine::archiver::BackupOptions;
use tresor_engine::format::Time;
use tresor_engine::repo::{Repository, Snapshot};
use tresor_engine::store::{MemoryStore, Store};
use tresor_mountfs::{FsError, Ino, LookUp, SnapshotFs};
use tresor_testkit::{
    Call, HookedStore, Item, backup, init, open, options, random_bytes, repository,
};

const CACHE: u64 = 4 << 20;

fn at(seconds: i64) -> BackupOptions {
    BackupOptions { time: Some(Time::new(seconds, 0)), ..options(None) }
}

#[test]
fn numbers_are_the_same_at_every_mount_and_neighbours_for_neighbours() {
    let repo = repository();
    let dir = (0..300).fold(Item::dir(), |d, n| d.with(format!("{n:03}"), Item::file("x")));
    backup(&repo, &Item::dir().with("d", dir), &options(None));
    let numbers = || {
        let mount = Mount::new(drive(&repo, None, CACHE));
        let number = |path: &str| std::fs::metadata(mount.at(path)).unwrap().ino();
        let folders = ["", "hosts", "hosts/host", "snapshots/latest", "snapshots/latest/d"];
        let entries = (0..300).map(|n| format!("snapshots/latest/d/{n:03}"));
        let above: Vec<_> = folders.map(number).into();
        (above, entries.map(|path| number(&path)).collect::<Vec<_>>())
    };
    let (above, entries) = numbers();
    assert!(entries.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{entries:?}");
    assert_eq!(numbers(), (above, entries));
}

#[test]
fn a_hole_costs_nothing_and_takes_no_blocks() {
    let repo = repository();
    let mut rng = Rng::with_seed(1);
    let (len, hole) = (6 << 20, 1 << 20..5 << 20);
    let sparse = Item::sparse(random_bytes(&mut rng, len), std::slice::from_ref(&hole));
    let full = Item::file(random_bytes(&mut rng, 10_000));
    let tree = Item::dir().with("sparse", sparse).with("full", full);
    let (snapshot, _) = backup(&repo, &tree, &options(None));
    let mount = Mount::new(drive(&repo, Some(snapshot), CACHE));
    let file = std::fs::File::open(mount.at("sparse")).unwrap();
    assert_eq!(file.metadata().unwrap().blocks(), 2 << 20 >> 9);
    assert_eq!(std::fs::metadata(mount.at("full")).unwrap().blocks(), 10_000_u64.div_ceil(512));
    let ino = mount.fs.lookup(Ino::ROOT, b"sparse").unwrap().ino;
    for offset in (hole.start..hole.end).step_by(128 << 10) {
        mount.fs.read_ahead(ino, offset, 128 << 10);
        assert!(mount.fs.read_at(ino, offset, 128 << 10).unwrap().iter().all(|b| *b == 0));
    }
    // Reading a hole in sequence may fetch what follows it, and nothing else.
    assert!(status(&mount.fs, "bytes_decoded") <= 3 << 20);
    let mut part = [1; 4096];
    file.read_exact_at(&mut part, 3 << 20).unwrap();
    assert_eq!(part, [0; 4096]);
}

#[test]
fn files_in_very_many_parts_count_as_full() {
    let repo = repository();
    let (len, step) = (40 << 20, 128 << 10);
    let holes: Vec<_> =
        (0..len as u64).step_by(step).map(|at| at + (64 << 10)..at + (128 << 10)).collect();
    let sparse = Item::sparse(vec![7; len], &holes);
    let (snapshot, _) = backup(&repo, &Item::dir().with("f", sparse), &options(None));
    let fs = drive(&repo, Some(snapshot), CACHE);
    let attr = fs.lookup(Ino::ROOT, b"f").unwrap();
    assert_eq!((attr.size, attr.allocated), (len as u64, len as u64));
}

#[test]
fn the_size_of_the_drive_is_that_of_the_newest_snapshot() {
    let repo = repository();
    let tree = |len| Item::dir().with("f", Item::file(vec![1; len]));
    let (old, _) = backup(&repo, &tree(3 << 20), &at(1_700_000_000));
    let mount = Mount::new(drive(&repo, None, CACHE));
    let size = |mount: &Mount| {
        let space = rustix::fs::statvfs(mount.path()).unwrap();
        assert_eq!((space.f_bfree, space.f_bavail, space.f_ffree), (0, 0, 0));
        space.f_blocks * space.f_frsize
    };
    assert_eq!(size(&mount), 3 << 20);
    backup(&repo, &tree(8 << 20), &at(1_700_000_100));
    wait_until("the new size", || {
        let _ = std::fs::read_dir(mount.at("ids"));
        size(&mount) == 8 << 20
    });
    assert_eq!(size(&Mount::new(drive(&repo, Some(old), CACHE))), 3 << 20);
}

#[test]
fn a_virtual_folder_has_the_time_of_its_latest_snapshot() {
    let repo = repository();
    let tree = Item::dir().with("f", Item::file("x"));
    backup(&repo, &tree, &at(1_600_000_000));
    let fs = drive(&repo, None, CACHE);
    let ids = fs.lookup(Ino::ROOT, b"ids").unwrap().ino;
    let first = fs.attr(ids).unwrap().mtime;
    assert_eq!(first.seconds, 1_600_000_000);
    // An older one that comes later doesn't change the time, but the listing.
    backup(&repo, &tree, &at(1_500_000_000));
    wait_until("nanoseconds differ", || fs.attr(ids).unwrap().mtime != first);
    assert_eq!(fs.attr(ids).unwrap().mtime.seconds, 1_600_000_000);
    backup(&repo, &tree, &at(1_700_000_000));
    wait_until("the time is new", || fs.attr(ids).unwrap().mtime.seconds == 1_700_000_000);
}

#[test]
fn a_directory_damaged_in_the_middle_gives_what_comes_before_and_an_error() {
    const FILES: usize = 20_000;
    let inner: Store = Arc::new(MemoryStore::new());
    init(&inner);
    let tree = (0..FILES).fold(Item::dir(), |d, n| d.with(format!("{n:05}"), Item::file("")));
    let (snapshot, _) = backup(&open(&inner), &tree, &options(None));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let bad = Arc::new(Mutex::new(None));
    let hook = {
        let (seen, bad) = (seen.clone(), bad.clone());
        move |call: &Call| {
            let Call::GetRange(name, offset, _) = call else { return Ok(()) };
            seen.lock().unwrap().push((*name, *offset));
            let is_bad = *bad.lock().unwrap() == Some((*name, *offset));
            if is_bad { Err(HookedStore::broken()) } else { Ok(()) }
        }
    };
    let store: Store = Arc::new(HookedStore::new(inner, hook));
    let new_drive = || drive(&open(&store), Some(snapshot.clone()), CACHE);
    let list = |mount: &Mount| {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(mount.path()).map_err(|e| (0, e))? {
            let entry = entry.map_err(|e| (names.len(), e))?;
            names.push(entry.file_name());
        }
        assert!(names.is_sorted());
        Ok::<_, (usize, std::io::Error)>(names.len())
    };
    let mount = Mount::new(new_drive());
    seen.lock().unwrap().clear();
    assert_eq!(list(&mount).unwrap(), FILES);
    let middle = {
        let seen = seen.lock().unwrap();
        assert!(seen.len() > 2, "{seen:?}");
        seen[seen.len() - 1]
    };
    drop(mount);
    let mount = Mount::new(new_drive());
    *bad.lock().unwrap() = Some(middle);
    let (before, error) = list(&mount).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()), "{error}");
    assert!((1..FILES).contains(&before), "{before}");
    // It stays so, and ends once the damage is gone.
    assert_eq!(list(&mount).unwrap_err().0, before);
    *bad.lock().unwrap() = None;
    assert_eq!(list(&mount).unwrap(), FILES);
}

#[test]
fn names_that_the_kernel_refuses_hide_nothing_else() {
    let repo = repository();
    let file = || Item::file("");
    let tree = Item::dir().with("a".repeat(1025), file()).with("m".repeat(1024), file());
    let tree = tree.with("n".repeat(5000), Item::dir()).with("z", file());
    let (snapshot, _) = backup(&repo, &tree, &options(None));
    let mount = Mount::new(drive(&repo, Some(snapshot), CACHE));
    let names = std::fs::read_dir(mount.path()).unwrap().map(|e| e.unwrap().file_name().len());
    assert_eq!(names.collect::<Vec<_>>(), [1024, 1]);
}

#[test]
fn the_status_is_as_long_as_it_says_and_is_not_listed() {
    let inner: Store = Arc::new(MemoryStore::new());
    init(&inner);
    // In JSON each of these is six bytes.
    let name = vec![1; 255];
    let deep =
        (0..8).fold(Item::file(vec![1; 300_000]), |item, _| Item::dir().with(name.clone(), item));
    let (snapshot, _) = backup(&open(&inner), &deep, &options(None));
    let broken = Arc::new(AtomicBool::new(false));
    let hook = {
        let broken = broken.clone();
        move |call: &Call| match call {
            Call::GetRange(..) if broken.load(SeqCst) => Err(HookedStore::broken()),
            _ => Ok(()),
        }
    };
    let store: Store = Arc::new(HookedStore::new(inner, hook));
    let mount = Mount::new(drive(&open(&store), Some(snapshot), CACHE));
    let read = || std::fs::read(mount.at(".tresor-status")).unwrap();
    let parsed = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
    assert_eq!(read().len(), 4096);
    assert!(parsed(&read())["last_error"].is_null());
    let fs = &mount.fs;
    let file = (0..8).fold(Ino::ROOT, |dir, _| fs.lookup(dir, &name).unwrap().ino);
    broken.store(true, SeqCst);
    let error = fs.read_at(file, 0, 10).unwrap_err();
    assert!(fs.failed(file, &error).is_some());
    let told = read();
    assert_eq!(told.len(), 4096);
    assert!(parsed(&told)["last_error"].is_string());
    let names = std::fs::read_dir(mount.path()).unwrap().map(|e| e.unwrap().file_name());
    assert_eq!(names.count(), 1);
}

/// It is told while others wait; what isn't in memory has no name then.
#[test]
fn the_path_of_an_error_is_told_without_reading_anything() {
    const MANY: usize = 60_000;
    let repo = repository();
    let name = |n: usize| format!("{n:06} {}", "x".repeat(190));
    let many = (0..MANY).fold(Item::dir(), |dir, n| dir.with(name(n), Item::file("")));
    let tree = Item::dir().with("a", Item::dir().with("f", Item::file("text"))).with("many", many);
    let (snapshot, _) = backup(&repo, &tree, &options(None));
    let fs = drive(&repo, Some(snapshot), CACHE);
    let dir = fs.lookup(Ino::ROOT, b"a").unwrap().ino;
    let file = fs.lookup(dir, b"f").unwrap().ino;
    let error = FsError::Io("broken".into());
    assert_eq!(fs.failed(file, &error).unwrap(), "/a/f: broken");
    // These push the pages of the others out of memory.
    let many = fs.lookup(Ino::ROOT, b"many").unwrap().ino;
    fs.read_dir(many, 0, LookUp::Nothing, &mut |_| true).unwrap();
    let before = status(&fs, "store_reads");
    let told = fs.failed(file, &error).unwrap();
    assert!(told.ends_with("/?: broken"), "{told}");
    assert_eq!(status(&fs, "store_reads"), before, "{told}");
    assert_eq!(fs.lookup(dir, b"f").unwrap().ino, file);
    assert!(status(&fs, "store_reads") > before, "it was in memory after all");
}

#[test]
fn the_kernel_is_told_to_change_nothing_and_trust_nothing() {
    let repo = repository();
    let (snapshot, _) = backup(&repo, &Item::dir(), &options(None));
    let mount = Mount::new(drive(&repo, Some(snapshot), CACHE));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let point = mount.path().canonicalize().unwrap();
    let line = mounts.lines().find(|l| l.split(' ').nth(4) == point.to_str()).unwrap();
    let options: Vec<_> = line.split(' ').nth(5).unwrap().split(',').collect();
    for option in ["ro", "nosuid", "nodev"] {
        assert!(options.contains(&option), "{line}");
    }
}

#[test]
fn a_number_that_nobody_was_given_is_stale() {
    let repo = repository();
    let (snapshot, _) = backup(&repo, &Item::dir(), &options(None));
    let fs = drive(&repo, Some(snapshot), CACHE);
    let unknown = Ino(12_345);
    assert_eq!(fs.attr(unknown), Err(FsError::Stale));
    assert_eq!(fs.read_at(unknown, 0, 1), Err(FsError::Stale));
    assert_eq!(fs.lookup(unknown, b"x"), Err(FsError::Stale));
    assert_eq!(fs.lookup(unknown, b"."), Err(FsError::Stale));
    assert_eq!(fs.lookup(unknown, b".."), Err(FsError::Stale));
}

/// Six snapshots of a second each, and a hundred folders of the first one where versions are.
struct Listed {
    repo: Arc<Repository>,
    fs: Arc<SnapshotFs>,
    snapshots: Vec<Snapshot>,
    versions: Vec<Ino>,
}

impl Listed {
    fn new() -> Self {
        let repo = repository();
        let tree = (0..100).fold(Item::dir(), |root, n| {
            root.with(format!("{n}"), Item::dir().with("f", Item::file("x")))
        });
        let snapshots: Vec<_> =
            (0..6).map(|n| backup(&repo, &tree, &at(1_700_000_000 + n)).0).collect();
        let fs = drive(&repo, None, CACHE);
        let go = |dir: Ino, name: &str| fs.lookup(dir, name.as_bytes()).unwrap().ino;
        let shown = go(go(Ino::ROOT, "ids"), &snapshots[0].id.short());
        let versions = (0..100).map(|n| go(go(shown, &n.to_string()), ".versions")).collect();
        Self { repo, fs, snapshots, versions }
    }

    fn folder(&self, name: &str) -> Ino {
        self.fs.lookup(Ino::ROOT, name.as_bytes()).unwrap().ino
    }

    /// So many names from there on, and where it goes on.
    fn list(&self, dir: Ino, offset: u64, room: usize) -> Result<(Vec<String>, u64), FsError> {
        let (mut names, mut next) = (Vec::new(), offset);
        self.fs.read_dir(dir, offset, LookUp::Nothing, &mut |entry| {
            let fits = names.len() < room;
            if fits {
                names.push(String::from_utf8_lossy(entry.name).into_owned());
                next = entry.next;
            }
            fits
        })?;
        Ok((names, next))
    }

    fn list_versions(&self) {
        self.versions.iter().for_each(|dir| assert_eq!(self.list(*dir, 0, 9).unwrap().0.len(), 3));
    }

    /// Forgets the first two.
    fn forget(&self) {
        self.repo.forget(&[self.snapshots[0].id, self.snapshots[1].id]).unwrap();
        let ids = self.folder("ids");
        wait_until("they are gone", || self.list(ids, 0, 99).unwrap().0.len() == 2 + 4 + 1);
    }
}

/// Also if many other folders are looked at more often.
#[test]
fn a_listing_that_has_begun_goes_on_with_what_it_began_with() {
    let drive = Listed::new();
    (0..20).for_each(|_| drive.list_versions());
    let folder = drive.folder("snapshots");
    let (mut names, next) = drive.list(folder, 0, 4).unwrap();
    // Some programs take it as signed.
    assert!(next < 1 << 63);
    // The two that were given already.
    drive.forget();
    // Somebody looks for a name there, and others begin to list it anew.
    drive.fs.lookup(folder, b"latest").unwrap();
    assert_eq!(drive.list(folder, 0, 99).unwrap().0.len(), 2 + 4 + 1);
    names.extend(drive.list(folder, next, 99).unwrap().0);
    let seconds: Vec<_> = names[2..6].iter().map(|n| &n[n.len() - 2..]).collect();
    assert_eq!(seconds, ["20", "21", "22", "23"], "{names:?}");
    assert_eq!(names.len(), 2 + 6 + 1, "{names:?}");
}

#[test]
fn a_listing_that_cannot_go_on_ends_with_an_error() {
    let drive = Listed::new();
    let folder = drive.folder("snapshots");
    let (_, next) = drive.list(folder, 0, 4).unwrap();
    // What it began with is made anew as long as it is the same.
    drive.list_versions();
    let rest = drive.list(folder, next, 99).unwrap().0;
    assert_eq!(rest.len(), 4 + 1);
    drive.forget();
    assert_eq!(drive.list(folder, next, 99).unwrap().0, rest);
    wait_until("others have taken its place", || {
        drive.list_versions();
        drive.list(folder, next, 99).inspect(|(names, _)| assert_eq!(*names, rest)).is_err()
    });
    assert_eq!(drive.list(folder, next, 99), Err(FsError::Stale));
}

/// In a drive that stays mounted for years, there are many.
#[test]
fn forgotten_snapshots_take_no_memory() {
    let repo = repository();
    let tree = Item::dir().with("f", Item::file("x"));
    let [listed, opened, _] = [0, 1, 2].map(|n| backup(&repo, &tree, &at(1_700_000_000 + n)).0);
    let fs = drive(&repo, None, CACHE);
    let ids = fs.lookup(Ino::ROOT, b"ids").unwrap().ino;
    let (first, generation) = (opened.id, fs.attr(ids).unwrap().mtime);
    // What the drive has is what the repository has read.
    let known = repo.snapshots().unwrap();
    let weak = |n: usize| Arc::downgrade(&known[n].data);
    let (weak_listed, weak_opened) = (weak(0), weak(1));
    let at = format!("@{first}");
    let open = fs.lookup(Ino::ROOT, at.as_bytes()).unwrap().ino;
    repo.forget(&[listed.id, opened.id]).unwrap();
    drop((known, listed, opened));
    assert!(weak_listed.upgrade().is_some() && weak_opened.upgrade().is_some());
    wait_until("they are gone", || {
        repo.snapshots().unwrap();
        fs.attr(ids).unwrap().mtime != generation
    });
    assert!(weak_listed.upgrade().is_none());
    // What is open stays readable.
    assert!(weak_opened.upgrade().is_some());
    assert_eq!(fs.lookup(open, b"f").unwrap().size, 1);
}
