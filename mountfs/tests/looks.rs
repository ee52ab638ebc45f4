//! What a drive waits for, and what it doesn't, while the store is slow: looks for new
//! snapshots, and mounting.

mod kit;

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use kit::{Mount, drive, in_time, mount_options, wait_until};
use tresor_engine::format::ObjectKind;
use tresor_engine::store::{MemoryStore, Store};
use tresor_mountfs::fuse::{is_drive, mount};
use tresor_testkit::{Call, HookedStore, Item, backup, init, open, options};

const CACHE: u64 = 8 << 20;

/// How long a list of snapshots takes.
#[derive(Default)]
struct Lists {
    millis: AtomicU64,
    stall: Mutex<bool>,
    changed: Condvar,
}

impl Lists {
    fn store(self: &Arc<Self>, inner: Store) -> Store {
        let lists = self.clone();
        Arc::new(HookedStore::new(inner, move |call| {
            if let Call::List(ObjectKind::Snapshot) = call {
                std::thread::sleep(Duration::from_millis(lists.millis.load(SeqCst)));
                let stall = lists.stall.lock().unwrap();
                drop(lists.changed.wait_while(stall, |stall| *stall).unwrap());
            }
            Ok(())
        }))
    }

    fn stall(&self, stall: bool) {
        *self.stall.lock().unwrap() = stall;
        self.changed.notify_all();
    }
}

fn one_file() -> (Arc<Lists>, Store) {
    let inner: Store = Arc::new(MemoryStore::new());
    init(&inner);
    backup(&open(&inner), &Item::dir().with("f", Item::file("text")), &options(None));
    let lists = Arc::<Lists>::default();
    let store = lists.store(inner);
    (lists, store)
}

#[test]
fn a_slow_list_of_snapshots_takes_little_of_everybodys_time() {
    let (lists, store) = one_file();
    let mount = Mount::new(drive(&open(&store), None, CACHE));
    let file = mount.at("snapshots/latest/f");
    assert_eq!(std::fs::read(&file).unwrap(), b"text");
    lists.millis.store(1000, SeqCst);
    let (start, mut waited, mut longest) = (Instant::now(), Duration::ZERO, Duration::ZERO);
    while start.elapsed() < Duration::from_secs(5) {
        let asked = Instant::now();
        File::open(&file).unwrap();
        waited += asked.elapsed();
        longest = longest.max(asked.elapsed());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(longest < Duration::from_millis(700), "{longest:?}");
    assert!(waited < Duration::from_millis(1500), "{waited:?} of 5 s");
    lists.millis.store(0, SeqCst);
    // What comes is seen all the same.
    backup(&open(&store), &Item::dir().with("g", Item::file("new")), &options(None));
    wait_until("the new one", || std::fs::read(mount.at("snapshots/latest/g")).is_ok());
}

#[test]
fn a_drive_can_be_unmounted_though_the_store_stalls_while_it_is_mounted() {
    let (lists, store) = one_file();
    let fs = drive(&open(&store), None, CACHE);
    // What is known of the snapshots is old by the time it is mounted.
    std::thread::sleep(Duration::from_millis(600));
    lists.stall(true);
    let folder = tempfile::tempdir().unwrap();
    let point = folder.path().canonicalize().unwrap();
    let options = mount_options(Arc::new(|_| {}));
    let (own, at) = (options.own.clone(), point.clone());
    let mounting = std::thread::spawn(move || mount(fs, &at, &options).unwrap());
    wait_until("it is mounted", || is_drive(&point));
    let unmounted = in_time("unmounting", move || own.unmount(true).unwrap());
    assert!(unmounted && !is_drive(&point));
    lists.stall(false);
    let mounted = in_time("mounting", move || mounting.join().unwrap());
    in_time("the session", move || mounted.wait().unwrap());
}
