//! Objects with damaged sectors are mended with their parity: any pattern of damage up to
//! the share, in the object, in its parity, or both; when they are read, and for good.

#[allow(dead_code, reason = "each test binary uses a part")]
#[path = "prune/world.rs"]
mod world;

#[path = "parity/damage.rs"]
mod damage;
#[path = "parity/histories.rs"]
mod histories;
#[path = "parity/reading.rs"]
mod reading;

use std::collections::HashSet;
use std::sync::Arc;

use fastrand::Rng;
use tresor_engine::Result;
use tresor_engine::format::{ObjectKind, ObjectName, ParityShare};
use tresor_engine::maintenance::{
    RepairObjectsOptions, RepairObjectsReport, repair_objects, scrub,
};
use tresor_engine::monitor::Quiet;
use tresor_engine::store::Store;
use tresor_testkit::Item;

use world::*;

const SECTOR: usize = 4096;

fn share(percent: u32) -> Option<ParityShare> {
    ParityShare::new(percent * 10)
}

/// A repository with parity, and one snapshot with these files.
fn repository(percent: u32, tree: &Item) -> (Store, Kept) {
    let store = new_store_with(share(percent));
    let mut kept = Kept::default();
    kept.add(&open(&store), tree);
    (store, kept)
}

/// So many bytes that don't compress in one file.
fn one_file(bytes: usize) -> Item {
    let mut rng = Rng::with_seed(5);
    let mut data = vec![0; bytes];
    rng.fill(&mut data);
    Item::dir().with("file", Item::file(data))
}

fn try_repair(store: &Store, dry_run: bool) -> Result<RepairObjectsReport> {
    repair_objects(store, &RepairObjectsOptions { dry_run }, &Quiet::default())
}

fn repair(store: &Store) -> RepairObjectsReport {
    try_repair(store, false).unwrap()
}

fn largest(store: &Store, kind: ObjectKind) -> ObjectName {
    store.list(kind).unwrap().into_iter().max_by_key(|(_, size)| *size).unwrap().0
}

fn change_object(store: &Store, name: &ObjectName, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = store.get(name).unwrap();
    change(&mut bytes);
    store.replace(name, &bytes).unwrap();
}
