//! For tests of the engine and the drive: trees in memory that can be backed up
//! and compared with, random ones, stores that count calls or fail, and damage.

mod alloc;
mod damage;
mod forest;
mod hooked;
mod random;
mod slow;
pub mod synthetic;
mod tree;

use std::sync::Arc;

use tresor_engine::archiver::{BackupOptions, Outcome, backup as run_backup};
use tresor_engine::crypto::{KdfCost, Password};
use tresor_engine::exclude::Patterns;
use tresor_engine::format::PathBytes;
use tresor_engine::monitor::Quiet;
use tresor_engine::repo::{InitOptions, OpenOptions, Repository, Snapshot};
use tresor_engine::store::{MemoryStore, Store};

pub use alloc::{Allocated, Counting, measure};
pub use damage::{Damage, is_named};
pub use forest::Forest;
pub use hooked::{Call, HookedStore};
pub use random::{random_bytes, random_tree};
pub use slow::{Line, SlowStore, Traffic};
pub use tree::{Body, Item};

pub fn password() -> Password {
    Password::new(b"correct horse".to_vec())
}

/// A new repository in memory.
pub fn repository() -> Arc<Repository> {
    let store: Store = Arc::new(MemoryStore::new());
    init(&store);
    open(&store)
}

pub fn init(store: &Store) {
    let options = InitOptions {
        label: "test".into(),
        cost: KdfCost::FLOOR,
        parity: None,
        chunks: Default::default(),
    };
    Repository::init(store, &password(), &options).unwrap();
}

pub fn open(store: &Store) -> Arc<Repository> {
    Repository::open(store.clone(), &password(), &OpenOptions::default()).unwrap()
}

/// Options for a backup of everything.
pub fn options(parent: Option<Snapshot>) -> BackupOptions {
    BackupOptions {
        paths: vec![PathBytes(b"/".to_vec())],
        exclude: Patterns::default(),
        exclude_larger_than: None,
        exclude_caches: false,
        one_file_system: false,
        parent,
        host: "host".into(),
        user: "user".into(),
        tags: Vec::new(),
        time: None,
        utc_offset: 0,
        program: "test".into(),
        dry_run: false,
    }
}

/// Backs a tree up and returns the snapshot and what was counted. Panics if
/// anything could not be read.
pub fn backup(repo: &Arc<Repository>, tree: &Item, options: &BackupOptions) -> (Snapshot, Outcome) {
    let monitor = Arc::new(Quiet::default());
    let outcome = run_backup(repo, tree.source(), options, monitor.clone()).unwrap();
    assert!(monitor.problems.lock().unwrap().is_empty(), "{:?}", monitor.problems);
    let id = outcome.snapshot.unwrap();
    (Snapshot { id, data: Arc::new(outcome.data.clone()) }, outcome)
}
