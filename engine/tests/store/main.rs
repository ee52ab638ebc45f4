//! What every object store must do. The same suite runs against each of them,
//! then come the faults that only a disk has.

mod conformance;
mod faults;
mod folder;
mod settling;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, Weak, mpsc};
use std::time::{Duration, Instant, SystemTime};

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

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
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

fn local_store() -> (Arc<LocalStore>, TempDir) {
    let folder = TempDir::new().unwrap();
    let store = LocalStore::new(folder.path().join("repo"));
    store.create().unwrap();
    (Arc::new(store), folder)
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
