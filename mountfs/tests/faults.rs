//! A store with faults under a real mount: who reads what is hit gets EIO or
//! waits, everybody else goes on, and what was hit reads again afterwards.

mod kit;

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use fastrand::Rng;
use kit::faults::{Fault, Faults, Range};
use kit::{Mount, drive, in_time, status, wait_until};
use rustix::fs::{Advice, fadvise, statvfs};
use rustix::mount::UnmountFlags;
use tresor_engine::repo::Snapshot;
use tresor_engine::store::{MemoryStore, Store};
use tresor_mountfs::fuse::{is_drive, unmount};
use tresor_testkit::{Body, Call, HookedStore, Item, backup, init, open, options, random_bytes};

const CACHE: u64 = 8 << 20;
const EIO: i32 = 5;

/// A repository whose store has faults.
struct World {
    store: Store,
    faults: Arc<Faults>,
    tree: Item,
    snapshot: Snapshot,
}

impl World {
    fn new(tree: Item) -> Self {
        let inner: Store = Arc::new(MemoryStore::new());
        init(&inner);
        let (snapshot, _) = backup(&open(&inner), &tree, &options(None));
        let faults = Arc::new(Faults::default());
        let store = faults.store(inner);
        Self { store, faults, tree, snapshot }
    }

    /// A drive with nothing in its caches.
    fn mount(&self) -> Mount {
        Mount::new(drive(&open(&self.store), Some(self.snapshot.clone()), CACHE))
    }

    /// Where the content of a file lies.
    fn ranges(&self, name: &str) -> HashSet<Range> {
        let mount = self.mount();
        std::fs::metadata(mount.at(name)).unwrap();
        self.faults.seen.lock().unwrap().clear();
        std::fs::read(mount.at(name)).unwrap();
        self.faults.seen.lock().unwrap().drain(..).collect()
    }
}

/// Never cut, wherever the repository's own table would, and not put together with others.
const ONE_BLOCK: usize = 64 << 10;

/// A file, a warm one, and a folder of many, each of a block of its own.
fn world() -> World {
    let mut rng = Rng::with_seed(5);
    let mut file = |len| Item::file(random_bytes(&mut rng, len));
    let many = (0..40).fold(Item::dir(), |dir, n| dir.with(format!("{n:02}"), file(ONE_BLOCK)));
    let tree =
        Item::dir().with("slow", file(ONE_BLOCK)).with("warm", file(ONE_BLOCK)).with("many", many);
    World::new(tree)
}

/// Reads a file without the kernel's own pages of it.
fn read_anew(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    let mut bytes = vec![0; file.metadata()?.len() as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Compares everything; returns how much could not be read.
fn compare(path: &Path, item: &Item) -> usize {
    let io = |e: io::Error| assert_eq!(e.raw_os_error(), Some(EIO), "{}: {e}", path.display());
    match &item.body {
        Body::Dir(entries) => {
            let Ok(listed) = std::fs::read_dir(path).map_err(io) else { return 1 };
            let names: Result<Vec<_>, _> = listed.map(|e| e.map(|e| e.file_name())).collect();
            let Ok(names) = names.map_err(io) else { return 1 };
            assert_eq!(names.len(), entries.len());
            let below = |(name, item): (&Vec<u8>, &Item)| {
                compare(&path.join(std::str::from_utf8(name).unwrap()), item)
            };
            entries.iter().map(below).sum()
        }
        Body::File(bytes, _) => match std::fs::read(path).map_err(io) {
            Ok(read) => {
                assert!(read == **bytes, "{}", path.display());
                0
            }
            Err(()) => 1,
        },
        Body::Other => 0,
    }
}

fn each_read_hit(fault: impl Fn(u64) -> Fault) {
    let mut rng = Rng::with_seed(3);
    let dir = |rng: &mut Rng| {
        (0..8).fold(Item::dir(), |dir, n| {
            let len = rng.usize(1..20_000);
            dir.with(format!("{n}"), Item::file(random_bytes(rng, len)))
        })
    };
    let mut tree = Item::dir();
    for name in ["a", "b"] {
        tree = tree.with(name, dir(&mut rng));
    }
    for name in ["c", "d", "e", "f", "g", "h"] {
        tree = tree.with(name, Item::file(random_bytes(&mut rng, 150_000)));
    }
    let world = World::new(tree.with("long", Item::file(random_bytes(&mut rng, 900_000))));
    let mut hit = 0;
    for nth in 1.. {
        let mount = world.mount();
        world.faults.set(fault(nth));
        hit += compare(mount.path(), &world.tree).min(1);
        let reads = world.faults.reads.load(SeqCst);
        world.faults.set(Fault::None);
        assert_eq!(compare(mount.path(), &world.tree), 0, "once the fault {nth} is gone");
        if reads < nth {
            assert!(nth > 5, "the drive was read with {reads} reads");
            break;
        }
    }
    // Those that hit what was read ahead only are noticed by nobody.
    assert!(hit > 5, "{hit}");
}

#[test]
fn every_read_that_fails_is_an_error_while_it_does() {
    each_read_hit(Fault::Fail);
}

#[test]
fn every_read_that_is_damaged_gives_an_error_and_never_wrong_bytes() {
    each_read_hit(Fault::Damage);
}

/// What goes on while something stalls: all that needs nothing from the store.
fn cached_things_answer(root: &Path, world: &World) {
    let (root, warm) = (root.to_owned(), root.join("warm"));
    let expected = world.tree.entries()[b"warm".as_slice()].bytes().to_vec();
    in_time("listing, attributes, size and a cached block", move || {
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 3);
        assert_eq!(std::fs::read_dir(root.join("many")).unwrap().count(), 40);
        assert!(std::fs::metadata(root.join("slow")).unwrap().is_file());
        assert!(std::fs::metadata(root.join("none")).is_err());
        assert!(statvfs(&root).unwrap().f_blocks > 0);
        assert!(read_anew(&warm).unwrap() == expected);
    });
}

fn warm_up(root: &Path) {
    std::fs::read(root.join("warm")).unwrap();
    assert_eq!(std::fs::read_dir(root.join("many")).unwrap().count(), 40);
}

type Reader = std::thread::JoinHandle<io::Result<Vec<u8>>>;

fn start_reading(path: PathBuf) -> Reader {
    std::thread::spawn(move || read_anew(&path))
}

#[test]
fn a_stall_holds_up_only_who_reads_the_block() {
    let world = world();
    let slow = world.ranges("slow");
    let mount = world.mount();
    warm_up(mount.path());
    world.faults.set(Fault::Stall(slow));
    let reader = start_reading(mount.at("slow"));
    wait_until("the store stalls", || world.faults.waiting.load(SeqCst) == 1);
    cached_things_answer(mount.path(), &world);
    // Blocks that must be fetched, too, by several at once.
    let readers: Vec<_> =
        (0..40).map(|n| (n, start_reading(mount.at(format!("many/{n:02}"))))).collect();
    in_time("other blocks", move || {
        readers.into_iter().for_each(|(n, reader)| assert!(reader.join().unwrap().is_ok(), "{n}"));
    });
    assert!(!reader.is_finished());
    world.faults.set(Fault::None);
    let read = in_time("the slow block", move || reader.join().unwrap().unwrap());
    assert!(read == world.tree.entries()[b"slow".as_slice()].bytes());
}

/// Longer than any of the drive's own waits.
#[test]
fn a_stall_of_several_seconds_is_waited_for() {
    let world = world();
    let slow = world.ranges("slow");
    let mount = world.mount();
    warm_up(mount.path());
    world.faults.set(Fault::Stall(slow));
    let readers: Vec<_> = (0..4).map(|_| start_reading(mount.at("slow"))).collect();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(5) {
        let asked = Instant::now();
        cached_things_answer(mount.path(), &world);
        assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
        std::thread::sleep(Duration::from_millis(300));
    }
    // All of them wait for one fetch.
    assert_eq!(world.faults.waiting.load(SeqCst), 1);
    assert!(readers.iter().all(|reader| !reader.is_finished()));
    world.faults.set(Fault::None);
    for reader in readers {
        let read = in_time("the slow block", move || reader.join().unwrap().unwrap());
        assert!(read == world.tree.entries()[b"slow".as_slice()].bytes());
    }
    assert_eq!(status(&mount.fs, "errors"), 0);
}

/// Not even the one for whom it is made, for long.
#[test]
fn a_stalled_look_for_snapshots_holds_up_nobody() {
    let inner: Store = Arc::new(MemoryStore::new());
    init(&inner);
    backup(&open(&inner), &Item::dir().with("f", Item::file("text")), &options(None));
    let stalls = Arc::new((Mutex::new(false), Condvar::new(), AtomicUsize::new(0)));
    let gate = stalls.clone();
    let store: Store = Arc::new(HookedStore::new(inner, move |call| {
        if let Call::List(_) = call {
            gate.2.fetch_add(1, SeqCst);
            drop(gate.1.wait_while(gate.0.lock().unwrap(), |stalls| *stalls).unwrap());
            gate.2.fetch_sub(1, SeqCst);
        }
        Ok(())
    }));
    let mount = Mount::new(drive(&open(&store), None, CACHE));
    let file = mount.at("snapshots/latest/f");
    assert_eq!(std::fs::read(&file).unwrap(), b"text");
    *stalls.0.lock().unwrap() = true;
    // What is known is old after half a second.
    std::thread::sleep(Duration::from_millis(700));
    let path = mount.at("snapshots");
    let looker = std::thread::spawn(move || std::fs::read_dir(path).unwrap().count());
    wait_until("the look stalls", || stalls.2.load(SeqCst) == 1);
    for _ in 0..3 {
        let (root, file) = (mount.path().to_owned(), file.clone());
        in_time("everybody else", move || {
            assert_eq!(std::fs::read_dir(&root).unwrap().count(), 4);
            assert_eq!(std::fs::read_dir(root.join("snapshots")).unwrap().count(), 2);
            assert_eq!(std::fs::read(&file).unwrap(), b"text");
            assert!(statvfs(&root).unwrap().f_blocks > 0);
        });
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(in_time("who looked", move || looker.join().unwrap()), 2);
    assert_eq!(stalls.2.load(SeqCst), 1, "one look is under way");
    *stalls.0.lock().unwrap() = false;
    stalls.1.notify_all();
}

fn many_reads_stall(world: &World, mount: &Mount, root: &Path) {
    warm_up(root);
    world.faults.set(Fault::StallAll);
    let readers: Vec<_> =
        (0..40).map(|n| start_reading(root.join(format!("many/{n:02}")))).collect();
    // Sixteen on the pool and one on the thread it came to; the others queue up.
    wait_until("the pool stalls", || world.faults.waiting.load(SeqCst) >= 17);
    // What is known of the snapshots is old by then, and so is what the kernel has kept of it.
    std::thread::sleep(Duration::from_millis(1200));
    cached_things_answer(root, world);
    assert!(statvfs(mount.path()).is_ok());
    world.faults.set(Fault::None);
    let many = world.tree.entries()[b"many".as_slice()].entries();
    for (reader, item) in readers.into_iter().zip(many.values()) {
        let read = in_time("a block", move || reader.join().unwrap().unwrap());
        assert!(read == item.bytes());
    }
}

#[test]
fn what_is_cached_answers_however_many_reads_stall() {
    let world = world();
    let mount = world.mount();
    many_reads_stall(&world, &mount, mount.path());
}

#[test]
fn the_same_below_the_folders_of_all_snapshots() {
    let world = world();
    let mount = Mount::new(drive(&open(&world.store), None, CACHE));
    many_reads_stall(&world, &mount, &mount.at("snapshots/latest"));
}

#[test]
fn a_stalled_drive_can_be_unmounted_and_leaves_no_threads() {
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let world = world();
    let before = threads();
    let mut mount = world.mount();
    world.faults.set(Fault::StallAll);
    let reader = start_reading(mount.at("slow"));
    wait_until("the store stalls", || world.faults.waiting.load(SeqCst) > 0);
    let point = mount.path().canonicalize().unwrap();
    assert!(unmount(&point, false).is_err(), "a file on it is open");
    assert!(is_drive(&point));
    let lazily = point.clone();
    in_time("a lazy unmount", move || unmount(&lazily, true).unwrap());
    assert!(!is_drive(&point));
    assert_eq!(std::fs::read_dir(&point).unwrap().count(), 0);
    world.faults.set(Fault::None);
    // The file that was open can still be read to its end.
    assert!(in_time("the reader", move || reader.join().unwrap()).is_ok());
    let mounted = mount.mounted.take().unwrap();
    in_time("the session", move || mounted.wait().unwrap());
    drop(mount);
    wait_until("no threads are left", || threads() <= before);
}

#[test]
fn who_waits_for_a_stalled_store_is_let_go_when_the_drive_is_cut_off() {
    let world = world();
    let mut mount = world.mount();
    world.faults.set(Fault::StallAll);
    let many = mount.at("many");
    let looker = std::thread::spawn(move || {
        std::fs::read_dir(many).and_then(|all| all.collect::<Result<Vec<_>, _>>())
    });
    wait_until("the store stalls", || world.faults.waiting.load(SeqCst) > 0);
    let point = mount.path().canonicalize().unwrap();
    let forced = rustix::mount::unmount(&point, UnmountFlags::FORCE);
    assert!(forced.is_err(), "somebody looks there");
    assert!(in_time("who looks", move || looker.join().unwrap()).is_err());
    let mounted = mount.mounted.take().unwrap();
    let ended = in_time("the session", move || mounted.wait()).unwrap_err();
    assert!(ended.to_string().contains("umount -f"), "{ended}");
    assert!(!is_drive(&point));
    world.faults.set(Fault::None);
}

#[test]
fn failing_reads_take_no_memory_and_are_counted() {
    let memory = || {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    let world = world();
    let mount = world.mount();
    warm_up(mount.path());
    world.faults.set(Fault::FailAll);
    let read = |n: usize| read_anew(&mount.at(format!("many/{:02}", n % 40)));
    let fail = |n| assert_eq!(read(n).unwrap_err().raw_os_error(), Some(EIO));
    (0..200).for_each(fail);
    let before = memory();
    (0..3000).for_each(fail);
    let grown = memory().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more after 3000 errors");
    assert!(status(&mount.fs, "errors") >= 3200);
    world.faults.set(Fault::None);
    assert!((0..40).all(|n| read(n).is_ok()));
}

/// Whoever reads what it says may have stopped.
#[test]
fn who_is_told_of_errors_and_does_not_return_holds_up_nobody() {
    let world = world();
    let (hold, held) = crossbeam_channel::bounded::<()>(0);
    let told = Arc::new(Mutex::new(Vec::new()));
    let to = told.clone();
    let on_error = move |line: &str| {
        let _ = held.recv();
        to.lock().unwrap().push(line.to_owned());
    };
    let fs = drive(&open(&world.store), Some(world.snapshot.clone()), CACHE);
    let mount = Mount::telling(fs, Arc::new(on_error));
    warm_up(mount.path());
    world.faults.set(Fault::FailAll);
    let readers: Vec<_> =
        (0..20).map(|n| start_reading(mount.at(format!("many/{n:02}")))).collect();
    in_time("errors", move || {
        for reader in readers {
            assert_eq!(reader.join().unwrap().unwrap_err().raw_os_error(), Some(EIO));
        }
    });
    assert!(status(&mount.fs, "errors") >= 20);
    world.faults.set(Fault::None);
    let slow = mount.at("slow");
    let read = in_time("what is not damaged", move || read_anew(&slow).unwrap());
    assert!(read == world.tree.entries()[b"slow".as_slice()].bytes());
    assert!(told.lock().unwrap().is_empty());
    drop(hold);
    wait_until("all is told", || told.lock().unwrap().len() >= 20);
    assert!(told.lock().unwrap().iter().all(|line| line.starts_with("/many/")));
}
