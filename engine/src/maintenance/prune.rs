//! Prune: drops what no snapshot needs.
//!
//! Two phases, so that backups may run meanwhile: a pack that nothing needs is
//! *marked* in the index; only a later prune, after a time of grace, and after
//! looking at all snapshots again, deletes it. Nothing new relies on a marked pack.
//!
//! Deleting has an order of its own:
//! 1. The entries of the packs to delete move to index objects that name nothing
//!    else. There they are *doomed*: marked with a time so long ago that nobody
//!    relies on them, whatever the clocks say. The objects that named them before
//!    are deleted for good.
//! 2. Snapshots are looked at once more. A backup that relied on those objects has
//!    either saved its snapshot by now, and what that needs is put back; or it finds,
//!    looking after it saved, that they are gone.
//! 3. The packs are deleted, then the index objects of step 1.
//!
//! So at no time a pack that is needed lacks its index entry, and when one prune
//! is interrupted, the next one goes on.
//!
//! What is needed of packs that are mostly not is copied in batches. Each is a small prune of
//! its own: the copies are stored and named, snapshots are looked at, then the packs
//! that they were made from are marked, or deleted as above.

mod damaged;
mod rewrite;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::damaged::still_damaged;
use self::rewrite::{Doomed, is_outdated, publish};
use super::index_writer::{IndexWriter, delete_index, disown};
use super::plan::{PruneOptions, PrunePlan, absorb_new_snapshots, refuse_damaged_index};
use super::repair_objects::tidy_parity;
use super::used::{Packs, UsedBlobs};
use crate::archiver::disown_lost;
use crate::error::{Error, Result};
use crate::format::{ObjectId, ObjectKind, ObjectName, PackEntry};
use crate::index::{Location, SegmentAddr, read_object};
use crate::monitor::Monitor;
use crate::object;
use crate::pack::{NewSegment, PackWriter, Packed, open_segment, read_table};
use crate::repo::Repository;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PruneOutcome {
    pub packs_deleted: u64,
    pub bytes_deleted: u64,
    pub bytes_repacked: u64,
    pub bytes_marked: u64,
}

/// What interrupted writes left behind is removed after this long.
const SWEEP_AGE: Duration = Duration::from_secs(24 * 3600);

/// Carries out a plan. Interrupted at any point it leaves a whole repository,
/// and the next prune goes on.
pub fn prune(
    repo: &Arc<Repository>,
    options: &PruneOptions,
    mut plan: PrunePlan,
    monitor: &dyn Monitor,
) -> Result<PruneOutcome> {
    options.check()?;
    repo.refuse_older_state()?;
    let mut outcome = PruneOutcome::default();
    clear_replaced(repo)?;
    if is_outdated(repo, &plan)? {
        return Err(other_prune());
    }
    // What needs no copies goes first: there may be no room for copies before.
    let mut copies = Vec::new();
    if plan.delete.is_empty() {
        copies = repack(repo, options, &mut plan, &mut outcome, monitor)?;
    }
    loop {
        drop_packs(repo, options, &mut plan, &copies, &mut outcome, monitor)?;
        if plan.repack.is_empty() {
            break;
        }
        copies = repack(repo, options, &mut plan, &mut outcome, monitor)?;
    }
    tidy_parity(repo, monitor)?;
    repo.store().sweep(SWEEP_AGE)?;
    repo.refresh_index()?;
    Ok(outcome)
}

/// Marks or deletes what the plan says, and what `copies` were made from; the plan is left with
/// what is still to be copied.
fn drop_packs(
    repo: &Repository,
    options: &PruneOptions,
    plan: &mut PrunePlan,
    copies: &[ObjectId],
    outcome: &mut PruneOutcome,
    monitor: &dyn Monitor,
) -> Result<()> {
    absorb_new_snapshots(repo, plan, monitor)?;
    let copied = std::mem::take(&mut plan.copied);
    if options.grace.is_zero() { &mut plan.delete } else { &mut plan.mark }.extend(copied);
    monitor.phase("writing the index");
    let Some(doomed) = publish(repo, options, plan, outcome, monitor)? else {
        // That one may take the copies for garbage.
        disown(repo, copies, |_| true)?;
        return Err(other_prune());
    };
    monitor.phase("deleting packs");
    delete(repo, plan, doomed, outcome, monitor)?;
    plan.unindexed.clear();
    for done in [&mut plan.mark, &mut plan.delete, &mut plan.recover] {
        done.clear();
    }
    Ok(())
}

/// Dooms packs that the store has lost, so that nothing looks for them. For backups:
/// like a prune it gives way to another one at work; the next backup tries again.
pub(crate) fn mark_lost(
    repo: &Repository,
    lost: HashSet<ObjectId>,
    monitor: &dyn Monitor,
) -> Result<()> {
    match mend(repo, lost, HashSet::new(), monitor) {
        Err(Error::GaveWay(_)) => Ok(()),
        other => other,
    }
}

/// Dooms packs that the store has `lost`, and enters those that entries are `wrong` about
/// as their own tables say. Like a prune it gives way to another one at work.
pub(super) fn mend(
    repo: &Repository,
    lost: HashSet<ObjectId>,
    wrong: HashSet<ObjectId>,
    monitor: &dyn Monitor,
) -> Result<()> {
    repo.refresh_index()?;
    let objects = repo.index().objects();
    let mut plan = PrunePlan { objects, lost, wrong, ..PrunePlan::default() };
    let mut outcome = PruneOutcome::default();
    match publish(repo, &PruneOptions::default(), &mut plan, &mut outcome, monitor)? {
        Some(_) => Ok(()),
        None => Err(Error::GaveWay(
            "a prune has changed the index meanwhile; no entry was removed, run this again",
        )),
    }
}

fn other_prune() -> Error {
    Error::GaveWay(
        "another prune has changed the index meanwhile, and this one goes no further; run it again",
    )
}

/// Removes index objects that an interrupted prune has replaced and not deleted:
/// if what replaces them were replaced in its turn, they would be in force again.
fn clear_replaced(repo: &Repository) -> Result<()> {
    repo.refresh_index()?;
    refuse_damaged_index(repo)?;
    let mut left = repo.index().replaced();
    if left.is_empty() {
        return Ok(());
    }
    // What stands in for them must be in the store, whole and for good, not just in
    // the local copy.
    let mut replaced: HashSet<ObjectId> = left.values().flatten().copied().collect();
    for id in repo.index().objects() {
        let data = read_object(repo.store(), repo.keys(), &id)?;
        if !data.replaces.is_empty() {
            let name = ObjectName::new(ObjectKind::Index, id);
            repo.store().put(&name, &repo.store().get(&name)?)?;
        }
        replaced.extend(data.replaces);
    }
    repo.store().settle()?;
    left.retain(|id, _| replaced.contains(id));
    // First those that replace none of the others: they keep those out of force.
    while !left.is_empty() {
        let free = |replaces: &Vec<ObjectId>| !replaces.iter().any(|r| left.contains_key(r));
        let now: Vec<_> = left.iter().filter(|(_, r)| free(r)).map(|(id, _)| *id).collect();
        if now.is_empty() {
            return Err(Error::Invalid("index objects replace each other in a circle".into()));
        }
        delete_index(repo, now.iter().copied())?;
        left.retain(|id, _| !now.contains(id));
    }
    repo.refresh_index()
}

/// Rewriting the index takes reading all of it: at least this much is copied for each of its bytes.
const BATCH_PER_INDEX: u64 = 8;

/// Stores what is needed of packs that are mostly not, once more: of as many as make a batch, which
/// are `copied` then. Returns the index objects that name the copies.
fn repack(
    repo: &Arc<Repository>,
    options: &PruneOptions,
    plan: &mut PrunePlan,
    outcome: &mut PruneOutcome,
    monitor: &dyn Monitor,
) -> Result<Vec<ObjectId>> {
    if plan.repack.is_empty() {
        return Ok(Vec::new());
    }
    monitor.phase("repacking");
    monitor.progress().expect(plan.packs_repack, plan.bytes_repack);
    let index: u64 = repo.store().list(ObjectKind::Index)?.iter().map(|(_, size)| size).sum();
    let batch = options.batch_bytes.max(index.saturating_mul(BATCH_PER_INDEX));
    let enough = Batch { bytes: batch, until: Instant::now() + time_between_batches(plan) };
    let mut writer = PackWriter::new(repo.clone());
    let stored = copy_batch(repo, &writer, plan, &enough, outcome, monitor)
        .and_then(|copied| Ok((copied, writer.finish()?)));
    let (copied, finished) = match stored {
        Ok(stored) => stored,
        Err(Error::LostPack(_)) => {
            disown(repo, &writer.abandon().index, |_| true)?;
            return Err(other_prune());
        }
        Err(e) => {
            // What is stored need not be stored again.
            disown_lost(repo, &writer.abandon());
            return Err(e);
        }
    };
    let listed = repo.store().list(ObjectKind::Pack)?;
    let listed: HashSet<_> = listed.into_iter().map(|(name, size)| (name.id, size)).collect();
    if !finished.packs.iter().all(|pack| listed.contains(pack)) {
        disown(repo, &finished.index, |_| true)?;
        return Err(other_prune());
    }
    plan.copied = copied;
    Ok(finished.index)
}

/// What is copied before the index is written: at least so many bytes, and until then.
struct Batch {
    bytes: u64,
    until: Instant,
}

/// A backup that ends looks at all that it relies on again whenever a batch has changed the index,
/// and must get to the end of that in between.
fn time_between_batches(plan: &PrunePlan) -> Duration {
    const SHORT: Duration = Duration::from_secs(1);
    const LOOKS: u32 = 8;
    if plan.took < SHORT { Duration::ZERO } else { plan.took.saturating_mul(LOOKS) }
}

/// Takes packs out of the plan until a batch of blobs is copied; returns those of which
/// all was.
fn copy_batch(
    repo: &Repository,
    writer: &PackWriter,
    plan: &mut PrunePlan,
    batch: &Batch,
    outcome: &mut PruneOutcome,
    monitor: &dyn Monitor,
) -> Result<HashSet<ObjectId>> {
    let (mut copied, mut bytes) = (HashSet::new(), 0);
    let Some(used) = &plan.used else { return Ok(copied) };
    while (bytes < batch.bytes || Instant::now() < batch.until)
        && let Some((id, blobs)) = plan.repack.pop_first()
    {
        monitor.progress().check()?;
        match repack_one(repo, writer, used, &id, blobs) {
            Ok(repacked) => {
                copied.insert(id);
                bytes += repacked.copied;
                outcome.bytes_repacked += repacked.size;
                monitor.progress().add(1, repacked.size);
            }
            Err(e) if e.is_damage() && !e.is_not_found() => {
                let name = ObjectName::new(ObjectKind::Pack, id);
                monitor.problem(&name.path(), &format!("left as it is: {e}"));
            }
            Err(e) => return Err(e),
        }
    }
    Ok(copied)
}

/// Reads a whole pack and checks it against its name.
fn read_pack(repo: &Repository, id: &ObjectId) -> Result<(PackEntry, Vec<u8>)> {
    let name = ObjectName::new(ObjectKind::Pack, *id);
    let bytes = object::read(repo.store(), &name)?;
    Ok((read_table(repo.keys(), *id, &bytes)?, bytes))
}

/// A pack that was copied: its length, and how many bytes of blobs that was.
struct Repacked {
    size: u64,
    copied: u64,
}

/// `blobs` is how many blobs of the pack are in use: all of them must be copied.
fn repack_one(
    repo: &Repository,
    writer: &PackWriter,
    used: &UsedBlobs,
    id: &ObjectId,
    blobs: u64,
) -> Result<Repacked> {
    let name = ObjectName::new(ObjectKind::Pack, *id);
    let (entry, mut bytes) = read_pack(repo, id)?;
    let mut copied = HashSet::new();
    let mut stored = 0;
    for (offset, segment) in entry.placed() {
        let wanted: Vec<_> = segment
            .blobs()
            .filter(|(blob, ..)| used.uses(blob, id) && copied.insert(*blob))
            .collect();
        if wanted.is_empty() {
            continue;
        }
        let addr = SegmentAddr::new(&entry, offset, segment);
        let sealed = bytes
            .get_mut(offset as usize..addr.end() as usize)
            .ok_or_else(|| Error::damaged(name, "its table is impossible"))?;
        let opened = open_segment(repo.keys(), &addr, sealed)?;
        let mut kept = NewSegment::new(segment.kind);
        for (blob, start, len) in wanted {
            let location = Location { segment: addr, start, len };
            kept.push(blob, opened.blob(segment.kind, &blob, &location)?);
        }
        let kept = Packed::from(kept);
        stored += kept.payload.len() as u64;
        writer.add(&kept)?;
    }
    if copied.len() as u64 != blobs {
        return Err(Error::damaged(name, "its table lacks blobs that the index says it has"));
    }
    Ok(Repacked { size: entry.size, copied: stored })
}

/// Deletes doomed packs, but for those that turn out to be needed, and damaged ones.
fn delete(
    repo: &Repository,
    plan: &mut PrunePlan,
    doomed: Doomed,
    outcome: &mut PruneOutcome,
    monitor: &dyn Monitor,
) -> Result<()> {
    let Doomed { mut packs, objects, damaged } = doomed;
    if packs.is_empty() && damaged.is_empty() {
        return Ok(());
    }
    repo.refresh_index()?;
    refuse_damaged_index(repo)?;
    let needed = absorb_new_snapshots(repo, plan, monitor)?;
    // After the snapshots: what they need is indexed when they are saved.
    repo.refresh_index()?;
    refuse_damaged_index(repo)?;
    let index = Packs::new(&repo.index().runs());
    // Also what another prune has unmarked: it may give way, and take that back.
    let back: HashSet<_> = packs.keys().filter(|id| needed.contains(id)).copied().collect();
    if !back.is_empty() {
        put_back(repo, &objects, &back)?;
    }
    // A backup has published what was taken for garbage.
    packs.retain(|id, _| !back.contains(id) && index.get(id).is_none_or(|p| p.marked != 0));
    for id in damaged.into_iter().filter(|id| index.get(id).is_none()) {
        // What is read may be wrong once.
        if let Some(size) = still_damaged(repo, &id, monitor)? {
            packs.insert(id, size);
        }
    }
    for (id, size) in packs {
        monitor.progress().check()?;
        repo.store().delete(&ObjectName::new(ObjectKind::Pack, id))?;
        outcome.packs_deleted += 1;
        outcome.bytes_deleted += size;
    }
    repo.store().settle()?;
    plan.objects.retain(|id| !objects.contains(id));
    delete_index(repo, objects)
}

/// Enters doomed packs in the index as any others.
fn put_back(repo: &Repository, objects: &[ObjectId], wanted: &HashSet<ObjectId>) -> Result<()> {
    let mut writer = IndexWriter::new(repo);
    for id in objects {
        let data = read_object(repo.store(), repo.keys(), id)?;
        for pack in data.packs.into_iter().filter(|p| wanted.contains(&p.id)) {
            writer.add(PackEntry { marked: None, ..pack })?;
        }
    }
    writer.flush(Vec::new())?;
    Ok(repo.store().settle()?)
}
