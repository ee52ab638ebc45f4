//! Saves the snapshot, even if a prune ran meanwhile.
//!
//! A prune that removes anything also removes index objects. So if those that
//! the backup relied on are still there after the snapshot is saved, nothing it
//! needs was touched: a later prune sees the snapshot. Otherwise everything the
//! snapshot needs is looked up again, and what prune has marked is stored anew.
//!
//! What the backup has stored itself, prune may have taken for garbage before the
//! index named it, if the backup was suspended for long. Prune looks at the index
//! for the last time when those packs are doomed in it, and they stay doomed until
//! they are gone. So the backup, having named them, looks whether they are doomed,
//! then whether they are there: if all is well, prune's last look is still to come
//! and will find them named. If not, what they held is stored anew as long as it can be
//! read, and they are disowned: a prune that gives way dooms copies that it has stored,
//! and a first backup may have taken those up.

use std::collections::HashSet;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::{BlobId, BlobKind, ObjectId, ObjectKind, SnapshotData};
use crate::index::{Found, Reliance, read_object};
use crate::maintenance::{At, Reached, disown, walk_reachable};
use crate::monitor::Monitor;
use crate::pack::{Finished, NewSegment, PackWriter, Packed, missing_packs};
use crate::repo::Repository;

/// Packs marked more recently than this (seconds) may be relied on: prune looks
/// at all snapshots again before it deletes, and leaves at least twice as long. If clocks
/// are so wrong that this isn't so, prune dooms them before it deletes, and that is noticed.
pub(crate) const FRESH_MARK: i64 = 3600;
/// How often to look again when prunes run one after the other.
const ATTEMPTS: usize = 3;

/// `stored`: by the backup, and named in the index.
pub(crate) fn save(
    repo: &Arc<Repository>,
    reliance: &Reliance,
    data: &SnapshotData,
    stored: Finished,
    monitor: &dyn Monitor,
) -> Result<ObjectId> {
    let mut relied_on = reliance.objects();
    relied_on.extend(&stored.index);
    let mut saving = Saving { repo, data, monitor, relied_on, stored };
    let saved = saving.save();
    if saved.is_err() {
        disown_lost(repo, &saving.stored);
    }
    saved
}

struct Saving<'a> {
    repo: &'a Arc<Repository>,
    data: &'a SnapshotData,
    monitor: &'a dyn Monitor,
    /// Index objects that the backup has used or written.
    relied_on: HashSet<ObjectId>,
    stored: Finished,
}

impl Saving<'_> {
    fn save(&mut self) -> Result<ObjectId> {
        self.monitor.progress().check()?;
        if !self.still_there()? {
            self.rescue(&HashSet::new())?;
        }
        self.make_up()?;
        let id = self.repo.save_snapshot(self.data)?;
        // A snapshot that may lack something must not stay.
        self.confirm().or_else(|e| self.repo.take_back(ObjectKind::Snapshot, id).and(Err(e)))?;
        Ok(id)
    }

    /// If nothing was touched since the last look, neither were the backup's own packs.
    fn confirm(&mut self) -> Result<()> {
        for _ in 0..ATTEMPTS {
            if self.still_there()? {
                return Ok(());
            }
            self.rescue(&HashSet::new())?;
            self.make_up()?;
        }
        if self.still_there()? { Ok(()) } else { Err(one_after_the_other()) }
    }

    fn still_there(&self) -> Result<bool> {
        let listed = self.repo.store().list(ObjectKind::Index)?;
        let listed: HashSet<_> = listed.into_iter().map(|(name, _)| name.id).collect();
        Ok(self.relied_on.is_subset(&listed))
    }

    /// Stores anew what was in the backup's own packs, if some of them are gone or about to
    /// go, and relies on those no more.
    fn make_up(&mut self) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let lost = lost(self.repo, &self.stored)?;
            if lost.is_empty() {
                return Ok(());
            }
            self.rescue(&lost)?;
            self.stored.packs.retain(|(id, _)| !lost.contains(id));
            self.relied_on.retain(|id| !self.stored.index.contains(id));
            self.stored.index = disown(self.repo, &self.stored.index, |id| lost.contains(id))?;
            self.relied_on.extend(&self.stored.index);
        }
        let lost = lost(self.repo, &self.stored)?;
        if lost.is_empty() { Ok(()) } else { Err(one_after_the_other()) }
    }

    /// Stores anew what is about to be deleted, or in packs that were found `lost` whatever
    /// another look says of them, and relies on the index as it is from now on.
    fn rescue(&mut self, lost: &HashSet<ObjectId>) -> Result<()> {
        let repo = self.repo;
        self.monitor.phase("a prune ran meanwhile: checking what it left");
        // Reading pages may read the index again, and then what was decided before rests on
        // objects that are no longer in force.
        let reliance = repo.rely()?;
        let fresh = repo.clock().seconds.saturating_sub(FRESH_MARK);
        let mut doomed = Doomed { repo, lost, fresh, seen: HashSet::new(), blobs: Vec::new() };
        walk_reachable(repo, &self.data.tree, &mut doomed)?;
        let mut writer = PackWriter::new(repo.clone());
        let mut store = || {
            for (kind, id) in &doomed.blobs {
                let mut segment = NewSegment::new(*kind);
                segment.push(*id, &repo.read_blob(*kind, id).map_err(removed)?);
                writer.add(&Packed::from(segment))?;
            }
            writer.finish()
        };
        let (result, written) = match store() {
            Ok(written) => (Ok(()), written),
            Err(e) => (Err(e), writer.abandon()),
        };
        self.relied_on = reliance.objects();
        self.relied_on.extend(&written.index);
        self.stored.index.extend(written.index);
        self.stored.packs.extend(written.packs);
        result
    }
}

/// Of the packs that this backup has stored, those that are gone or about to go.
fn lost(repo: &Repository, finished: &Finished) -> Result<HashSet<ObjectId>> {
    let own: HashSet<_> = finished.packs.iter().map(|(id, _)| *id).collect();
    if own.is_empty() {
        return Ok(own);
    }
    let mut lost = doomed(repo, &own, &finished.index)?;
    // Only now: a doomed entry stays until the pack is gone.
    lost.extend(missing_packs(repo.store(), &finished.packs)?);
    Ok(lost)
}

/// Of the backup's `own` packs, those that an index object in the store dooms.
fn doomed(
    repo: &Repository,
    own: &HashSet<ObjectId>,
    written: &[ObjectId],
) -> Result<HashSet<ObjectId>> {
    let index = repo.index();
    let mut known = index.objects();
    known.extend(index.replaced().into_keys().chain(written.iter().copied()));
    let mut doomed: HashSet<_> = own.iter().filter(|id| index.is_unreliable(id)).copied().collect();
    for (name, _) in repo.store().list(ObjectKind::Index)? {
        if known.contains(&name.id) {
            continue;
        }
        match read_object(repo.store(), repo.keys(), &name.id) {
            Ok(data) => {
                let packs = data.packs.into_iter().filter(|p| p.is_doomed()).map(|p| p.id);
                doomed.extend(packs.filter(|id| own.contains(id)));
            }
            // It has vanished, and then so have the packs.
            Err(e) if e.is_not_found() => {}
            // Nobody can read it; that it can't be read now says nothing.
            Err(e) if e.is_damage() && !e.is_unreadable_now() => {}
            Err(e) => return Err(e),
        }
    }
    Ok(doomed)
}

/// After a backup failed: what it has lost must not look as if it were there.
/// Errors don't matter: another one is the cause.
pub(crate) fn disown_lost(repo: &Repository, finished: &Finished) {
    if let Ok(lost) = lost(repo, finished)
        && !lost.is_empty()
    {
        let _ = disown(repo, &finished.index, |id| lost.contains(id));
    }
}

fn one_after_the_other() -> Error {
    Error::Invalid(
        "one prune after the other ran during this backup, so no snapshot was saved; run it again"
            .into(),
    )
}

/// What it means that a pack can't be found.
fn removed(error: Error) -> Error {
    if error.is_not_found() || matches!(error, Error::BlobMissing(_)) {
        return Error::Invalid(
            "a prune removed data that this backup relied on, so no snapshot was saved; run the backup again"
                .into(),
        );
    }
    error
}

struct Doomed<'a> {
    repo: &'a Repository,
    lost: &'a HashSet<ObjectId>,
    /// Packs marked at this time or later may be relied on.
    fresh: i64,
    seen: HashSet<BlobId>,
    blobs: Vec<(BlobKind, BlobId)>,
}

impl Reached for Doomed<'_> {
    fn blob(&mut self, kind: BlobKind, id: &BlobId, _: At<'_>) -> Result<bool> {
        if !self.seen.insert(*id) {
            return Ok(false);
        }
        let index = self.repo.index();
        let places = index.find_all(id);
        if places.is_empty() {
            return Err(removed(Error::BlobMissing(*id)));
        }
        let stays = |found: &Found| {
            found.marked.is_none_or(|since| since >= self.fresh)
                && !self.lost.contains(&found.location.segment.pack)
                && !index.is_unreliable(&found.location.segment.pack)
        };
        if !places.iter().any(stays) {
            self.blobs.push((kind, *id));
        }
        Ok(true)
    }

    fn unreadable(&mut self, _: &BlobId, _: At<'_>, error: Error) -> Result<()> {
        Err(removed(error))
    }
}
