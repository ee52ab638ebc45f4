//! The source is looked through ahead of what is compared and read.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tresor_engine::archiver::backup;
use tresor_engine::error::Error;
use tresor_engine::format::{Node, ObjectKind};
use tresor_engine::monitor::{Monitor, Quiet};
use tresor_engine::repo::Snapshot;
use tresor_engine::source::{Room, SourceDir, SourceFile};
use tresor_engine::store::{MemoryStore, Store};
use tresor_testkit::{Call, Forest, HookedStore, init, open, options, repository};

/// Directories that are held open, and the most that ever were; how many were opened in all.
#[derive(Default)]
struct Held {
    now: AtomicUsize,
    most: AtomicUsize,
    all: AtomicUsize,
}

/// A directory of the forest that is counted.
struct Folder {
    inner: Arc<dyn SourceDir>,
    held: Arc<Held>,
}

impl Folder {
    fn new(inner: Arc<dyn SourceDir>, held: &Arc<Held>) -> Arc<Self> {
        held.most.fetch_max(held.now.fetch_add(1, SeqCst) + 1, SeqCst);
        held.all.fetch_add(1, SeqCst);
        Arc::new(Self { inner, held: held.clone() })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.held.now.fetch_sub(1, SeqCst);
    }
}

impl SourceDir for Folder {
    fn names(&self) -> io::Result<Vec<Vec<u8>>> {
        self.inner.names()
    }

    fn stat(&self, name: &[u8]) -> io::Result<(Node, u64)> {
        self.inner.stat(name)
    }

    fn details(&self, node: &mut Node, room: &mut Room) -> io::Result<()> {
        self.inner.details(node, room)
    }

    fn open_dir(&self, name: &[u8]) -> io::Result<Arc<dyn SourceDir>> {
        Ok(Self::new(self.inner.open_dir(name)?, &self.held))
    }

    fn open_file(&self, name: &[u8]) -> io::Result<Box<dyn SourceFile>> {
        self.inner.open_file(name)
    }
}

fn forest(directories: u64) -> (Arc<dyn SourceDir>, Arc<Held>) {
    let held = Arc::default();
    (Folder::new(Forest { directories, files: 2, len: 200 }.source(), &held), held)
}

/// A process may have a thousand files open, mostly.
#[test]
fn few_directories_are_held_open() {
    let repo = repository();
    let mut parent = None;
    for unchanged in [0, 6_000] {
        let (root, held) = forest(3_000);
        let done = backup(&repo, root, &options(parent), Arc::new(Quiet::default())).unwrap();
        assert_eq!(done.data.summary.files_unchanged, unchanged);
        assert_eq!((held.all.load(SeqCst), held.now.load(SeqCst)), (3_001, 0));
        let most = held.most.load(SeqCst);
        assert!(most <= 150, "{most} directories");
        parent = Some(Snapshot { id: done.snapshot.unwrap(), data: Arc::new(done.data) });
    }
}

/// Nobody waits for the end of a large source.
#[test]
fn a_backup_that_fails_or_is_stopped_looks_no_further() {
    const MANY: u64 = 100_000;
    let store: Store = Arc::new(MemoryStore::new());
    init(&store);
    let done = backup(&open(&store), forest(10).0, &options(None), Arc::new(Quiet::default()));
    let done = done.unwrap();
    let parent = Some(Snapshot { id: done.snapshot.unwrap(), data: Arc::new(done.data) });
    // The parent's tree can't be read.
    let broken = HookedStore::new(store.clone(), |call| match call {
        Call::GetRange(name, ..) if name.kind == ObjectKind::Pack => Err(HookedStore::broken()),
        _ => Ok(()),
    });
    let (root, held) = forest(MANY);
    let repo = open(&(Arc::new(broken) as Store));
    let failed = backup(&repo, root, &options(parent), Arc::new(Quiet::default()));
    assert!(matches!(failed, Err(Error::Store(_))), "{failed:?}");
    assert!(held.all.load(SeqCst) < 300, "{} directories", held.all.load(SeqCst));

    let (root, held) = forest(MANY);
    let monitor = Arc::new(Quiet::default());
    monitor.progress().stop.store(true, SeqCst);
    let stopped = backup(&open(&store), root, &options(None), monitor);
    assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
    assert!(held.all.load(SeqCst) < 10, "{} directories", held.all.load(SeqCst));
}
