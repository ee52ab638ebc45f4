//! For tests of the engine and the drive: trees in memory that can be backed up
//! and compared with, random ones, stores that count calls or fail, and damage.

mod alloc;
mod damage;
mod faults;
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
use tresor_engine::format::{Config, Node, ObjectName, PathBytes, Purpose, Xattr, sealed};
use tresor_engine::monitor::Quiet;
use tresor_engine::repo::{InitOptions, OpenOptions, Repository, Snapshot};
use tresor_engine::restorer::read_attribute;
use tresor_engine::store::{MemoryStore, Store};

pub use alloc::{Allocated, Counting, measure};
pub use damage::{Damage, is_named};
pub use faults::{Fault, Faulty};
pub use forest::Forest;
pub use hooked::{Call, HookedStore};
pub use random::{add_streams, random_bytes, random_tree};
pub use slow::{Line, SlowStore, Traffic};
pub use tree::{Body, Item};

pub fn password() -> Password {
    Password::new(b"correct horse".to_vec())
}

/// All extended attributes of an entry, wherever they are stored, by name.
pub fn attributes(repo: &Repository, node: &Node) -> tresor_engine::Result<Vec<Xattr>> {
    let mut all = Vec::new();
    for (name, value) in node.attributes() {
        let mut bytes = Vec::new();
        read_attribute(repo, value, &mut bytes)?;
        all.push(Xattr { name: name.to_vec(), value: bytes });
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// Makes a new repository one that an older version has made, which stores no streams.
pub fn without_streams(store: &Store) {
    let keys = open(store).keys().clone();
    let mut config = Config::parse(&store.get(&ObjectName::CONFIG).unwrap()).unwrap();
    let mut secret = config.open_secret(&keys).unwrap();
    config.write_features.retain(|feature| feature != "streams");
    secret.write_features.clone_from(&config.write_features);
    config.secret = sealed::seal(&keys, Purpose::Config, &secret).unwrap();
    store.replace(&ObjectName::CONFIG, &minicbor::to_vec(&config).unwrap()).unwrap();
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
