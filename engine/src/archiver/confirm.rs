//! Saves the snapshot, even if a prune ran meanwhile.
//!
//! A prune that removes anything also removes index objects. So if those that
//! the backup relied on are still there after the snapshot is saved, nothing it
//! needs was touched: a later prune sees the snapshot. Otherwise everything the
//! snapshot needs is looked up again, and what prune has marked is stored anew.

use std::collections::HashSet;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::{BlobId, BlobKind, ObjectId, ObjectKind, SnapshotData};
use crate::maintenance::{Reached, walk_reachable};
use crate::monitor::Monitor;
use crate::pack::{Finished, NewSegment, PackWriter, Packed, is_long_ago, lost_pack};
use crate::repo::{Repository, now};

/// Packs marked more recently than this (seconds) may be relied on: prune looks
/// at all snapshots again before it deletes, and leaves at least twice as long.
pub(crate) const FRESH_MARK: i64 = 3600;

/// `relied_on`: index objects that the backup has used or written; `finished`: what it stored.
pub(super) fn save(
    repo: &Arc<Repository>,
    data: &SnapshotData,
    mut relied_on: HashSet<ObjectId>,
    finished: &Finished,
    monitor: &dyn Monitor,
) -> Result<ObjectId> {
    if !still_there(repo, &relied_on)? {
        relied_on = rescue(repo, &data.tree, monitor)?;
    }
    let id = repo.save_snapshot(data)?;
    let confirmed =
        confirm(repo, data, relied_on, monitor).and_then(|()| packs_there(repo, finished));
    // A snapshot that may lack something must not stay.
    confirmed.or_else(|e| repo.forget(&[id]).and(Err(e)))?;
    Ok(id)
}

fn confirm(
    repo: &Arc<Repository>,
    data: &SnapshotData,
    mut relied_on: HashSet<ObjectId>,
    monitor: &dyn Monitor,
) -> Result<()> {
    for _ in 0..3 {
        if still_there(repo, &relied_on)? {
            return Ok(());
        }
        relied_on = rescue(repo, &data.tree, monitor)?;
    }
    if still_there(repo, &relied_on)? {
        return Ok(());
    }
    Err(Error::Invalid(
        "one prune after the other ran during this backup, so no snapshot was saved; run it again"
            .into(),
    ))
}

/// A backup that slept for long may have lost packs to a prune before the index named them.
fn packs_there(repo: &Repository, finished: &Finished) -> Result<()> {
    if !is_long_ago(finished.started) {
        return Ok(());
    }
    let listed = repo.store().list(ObjectKind::Pack)?;
    let listed: HashSet<_> = listed.into_iter().map(|(name, _)| name.id).collect();
    if finished.packs.iter().all(|id| listed.contains(id)) { Ok(()) } else { Err(lost_pack()) }
}

fn still_there(repo: &Repository, relied_on: &HashSet<ObjectId>) -> Result<bool> {
    let listed = repo.store().list(ObjectKind::Index)?;
    let listed: HashSet<_> = listed.into_iter().map(|(name, _)| name.id).collect();
    Ok(relied_on.is_subset(&listed))
}

/// Stores anew what is about to be deleted; returns the index objects relied on now.
fn rescue(
    repo: &Arc<Repository>,
    tree: &BlobId,
    monitor: &dyn Monitor,
) -> Result<HashSet<ObjectId>> {
    monitor.phase("a prune ran meanwhile: checking what it left");
    repo.refresh_index()?;
    let mut doomed = Doomed { repo, seen: HashSet::new(), blobs: Vec::new() };
    walk_reachable(repo, tree, &mut doomed)?;
    let writer = PackWriter::new(repo.clone());
    for (kind, id) in doomed.blobs {
        let mut segment = NewSegment::new(kind);
        segment.push(id, &repo.read_blob(kind, &id)?);
        writer.add(&Packed::from(segment))?;
    }
    let written = writer.finish()?.index;
    Ok(repo.index().objects().into_iter().chain(written).collect())
}

struct Doomed<'a> {
    repo: &'a Repository,
    seen: HashSet<BlobId>,
    blobs: Vec<(BlobKind, BlobId)>,
}

impl Reached for Doomed<'_> {
    fn blob(&mut self, kind: BlobKind, id: &BlobId, _: &[u8]) -> Result<bool> {
        if !self.seen.insert(*id) {
            return Ok(false);
        }
        let found = self.repo.index().find(id).ok_or_else(|| {
            Error::Invalid(
                "a prune removed data that this backup relied on, so no snapshot was saved; run the backup again"
                    .into(),
            )
        })?;
        if found.marked.is_some_and(|since| since < now().seconds - FRESH_MARK) {
            self.blobs.push((kind, *id));
        }
        Ok(true)
    }
}
