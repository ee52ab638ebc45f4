//! Settling among threads.

use super::*;

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

    fn make_dir_above(&self, path: &Path) -> io::Result<()> {
        self.note(Call::MakeDir(path.into()), || OsDisk.make_dir_above(path))
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
