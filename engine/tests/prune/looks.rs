//! How a repository is, and what is in it.

use std::collections::HashSet;
use std::sync::Arc;

use tresor_engine::format::{ObjectId, ObjectKind, ObjectName};
use tresor_engine::history;
use tresor_engine::maintenance::{CheckOptions, check, scrub};
use tresor_engine::monitor::Quiet;
use tresor_engine::repo::{Repository, Snapshot};
use tresor_engine::restorer::read_file;
use tresor_engine::store::Store;
use tresor_testkit::{Body, Item, attributes};

use super::{Kept, names, objects};

/// Exactly this tree is in the snapshot.
#[track_caller]
pub fn holds(repo: &Repository, snapshot: &Snapshot, tree: &Item, what: &str) {
    let mut count = 0;
    history::walk(repo, &snapshot.data.tree, &mut |path, node| {
        count += 1;
        let mut item = tree;
        for name in path.split(|b| *b == b'/').skip(1) {
            item = &item.entries()[name];
        }
        if let Body::File(bytes, _) = &item.body {
            let mut out = Vec::new();
            read_file(repo, node, &mut out).unwrap();
            assert!(out == **bytes, "{what}: {path:?} differs");
        }
        let same = attributes(repo, node).unwrap() == item.node.xattrs();
        assert!(same, "{what}: attributes of {path:?} differ");
        Ok(true)
    })
    .unwrap();
    assert_eq!(count, tree.count(), "{what}");
}

/// Every file of a snapshot can be read.
#[track_caller]
pub fn reads_whole(repo: &Repository, id: &ObjectId, what: &str) {
    let snapshots = repo.snapshots().unwrap();
    let snapshot = snapshots.iter().find(|s| s.id == *id);
    let snapshot = snapshot.unwrap_or_else(|| panic!("{what}: a saved snapshot is gone"));
    history::walk(repo, &snapshot.data.tree, &mut |_, node| {
        if node.is_file() {
            read_file(repo, node, &mut Vec::new())?;
        }
        attributes(repo, node)?;
        Ok(true)
    })
    .unwrap_or_else(|e| panic!("{what}: {e}"));
}

/// With fresh eyes: check reads everything and finds nothing wrong, and these
/// snapshots hold what they held. There may be others.
#[track_caller]
pub fn assert_whole(repo: &Arc<Repository>, kept: &Kept, what: &str) {
    let options = CheckOptions { read_data: true, ..Default::default() };
    let report = check(repo, &options, &Quiet::default()).unwrap();
    assert!(report.problems.is_empty(), "{what}: {:#?}", report.problems);
    let listed = names(repo.store(), ObjectKind::Snapshot);
    for (snapshot, tree) in &kept.0 {
        assert!(listed.contains(&snapshot.id), "{what}: a saved snapshot is gone");
        holds(repo, snapshot, tree, what);
    }
}

/// Every object has parity and all parity is of an object that is there, and whole.
#[track_caller]
pub fn assert_tidy(store: &Store, what: &str) {
    let all: HashSet<_> = objects(store).into_keys().collect();
    let (parity, others): (HashSet<_>, HashSet<_>) =
        all.into_iter().partition(|name| name.kind == ObjectKind::Parity);
    let wanted: HashSet<_> = others.iter().map(ObjectName::parity).collect();
    let bare: Vec<_> = wanted.difference(&parity).collect();
    let orphans: Vec<_> = parity.difference(&wanted).collect();
    assert!(bare.is_empty() && orphans.is_empty(), "{what}: without {bare:?}, orphans {orphans:?}");
    let report = scrub(store, &Quiet::default()).unwrap();
    assert!(report.problems.is_empty(), "{what}: {:?}", report.problems);
}
