//! Prune: drops what no snapshot needs.
//!
//! Two phases, so that backups may run meanwhile: a pack that nothing needs is
//! *marked* in the index; only a later prune, after a time of grace, and after
//! looking at all snapshots again, deletes it. Nothing new relies on a marked pack.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::plan::{PruneOptions, PrunePlan, absorb_new_snapshots};
use super::used::UsedBlobs;
use crate::error::{Error, Result};
use crate::format::{
    IndexData, ObjectId, ObjectKind, ObjectName, PackEntry, Purpose, Time, sealed,
};
use crate::index::{Location, SegmentAddr, read_object};
use crate::monitor::Monitor;
use crate::pack::{NewSegment, PackWriter, Packed, open_segment, read_table};
use crate::repo::{Repository, now};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PruneOutcome {
    pub packs_deleted: u64,
    pub bytes_deleted: u64,
    pub bytes_repacked: u64,
    pub bytes_marked: u64,
}

/// Blobs in one rewritten index object.
const INDEX_BLOBS: usize = 200_000;
/// Index objects with fewer blobs are joined when there are many.
const SMALL_INDEX: usize = 20_000;
const MANY_SMALL: usize = 32;
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
    let mut outcome = PruneOutcome::default();
    if !plan.repack.is_empty() {
        monitor.phase("repacking");
        repack(repo, &plan, &mut outcome, monitor)?;
    }
    absorb_new_snapshots(repo, &mut plan)?;
    let repacked = std::mem::take(&mut plan.repack);
    if options.grace.is_zero() { &mut plan.delete } else { &mut plan.mark }.extend(repacked);
    monitor.phase("writing the index");
    let sizes = publish(repo, options, &plan, &mut outcome, monitor)?;
    monitor.phase("deleting packs");
    for (id, size) in sizes {
        repo.store().delete(&ObjectName::new(ObjectKind::Pack, id))?;
        outcome.packs_deleted += 1;
        outcome.bytes_deleted += size;
    }
    repo.store().settle()?;
    repo.store().sweep(SWEEP_AGE)?;
    repo.refresh_index()?;
    Ok(outcome)
}

/// Stores what is needed of packs that are mostly not, once more.
fn repack(
    repo: &Arc<Repository>,
    plan: &PrunePlan,
    outcome: &mut PruneOutcome,
    monitor: &dyn Monitor,
) -> Result<()> {
    let Some(used) = &plan.used else { return Ok(()) };
    monitor.progress().expect(plan.packs_repack, plan.bytes_repack);
    let writer = PackWriter::new(repo.clone());
    for id in &plan.repack {
        monitor.progress().check()?;
        let size = repack_one(repo, &writer, used, id)?;
        outcome.bytes_repacked += size;
        monitor.progress().add(1, size);
    }
    writer.finish()?;
    Ok(())
}

fn repack_one(
    repo: &Repository,
    writer: &PackWriter,
    used: &UsedBlobs,
    id: &ObjectId,
) -> Result<u64> {
    let name = ObjectName::new(ObjectKind::Pack, *id);
    let mut bytes = repo.store().get(&name)?;
    let entry = read_table(repo.keys(), *id, &bytes)?;
    for (offset, segment) in entry.placed() {
        let wanted: Vec<_> = segment.blobs().filter(|(blob, ..)| used.uses(blob, id)).collect();
        if wanted.is_empty() {
            continue;
        }
        let raw_len = segment.raw_len() as u32;
        let addr = SegmentAddr {
            pack: *id,
            salt: entry.salt,
            offset,
            sealed_len: segment.sealed_len,
            raw_len,
        };
        let sealed = bytes
            .get_mut(offset as usize..addr.end() as usize)
            .ok_or_else(|| Error::damaged(name, "its table is impossible"))?;
        let opened = open_segment(repo.keys(), &addr, sealed)?;
        let mut kept = NewSegment::new(segment.kind);
        for (blob, start, len) in wanted {
            let location = Location { segment: addr, start, len };
            kept.push(blob, opened.blob(segment.kind, &blob, &location)?);
        }
        writer.add(&Packed::from(kept))?;
    }
    Ok(entry.size)
}

/// Rewrites the index objects that the plan changes; returns the packs that no
/// index object names any more, with their lengths.
fn publish(
    repo: &Repository,
    options: &PruneOptions,
    plan: &PrunePlan,
    outcome: &mut PruneOutcome,
    monitor: &dyn Monitor,
) -> Result<Vec<(ObjectId, u64)>> {
    let mut dropped = Vec::new();
    let mut out =
        IndexWriter { repo, data: IndexData::default(), blobs: 0, written: HashSet::new() };
    let join_small = count_small(repo)? >= MANY_SMALL;
    for id in repo.index().objects() {
        monitor.progress().check()?;
        let data = read_object(repo.store(), repo.keys(), &id)?;
        let small = join_small && blob_count(&data) < SMALL_INDEX;
        if !small && !data.packs.iter().any(|p| plan.changes(&p.id)) {
            continue;
        }
        for mut pack in data.packs {
            if plan.delete.contains(&pack.id) {
                dropped.push((pack.id, pack.size));
                continue;
            }
            if plan.mark.contains(&pack.id) {
                outcome.bytes_marked += pack.size;
                pack.marked = Some(now());
            } else if plan.recover.contains(&pack.id) {
                pack.marked = None;
            }
            out.add(pack)?;
        }
        out.data.replaces.push(id);
    }
    for id in &plan.unindexed {
        let name = ObjectName::new(ObjectKind::Pack, *id);
        // Unreadable ones are left to `check`, which names them.
        let Ok(bytes) = repo.store().get(&name) else { continue };
        let Ok(mut pack) = read_table(repo.keys(), *id, &bytes) else { continue };
        if options.grace.is_zero() {
            dropped.push((pack.id, pack.size));
        } else {
            outcome.bytes_marked += pack.size;
            pack.marked = Some(Time { nanos: 0, ..now() });
            out.add(pack)?;
        }
    }
    let replaced = out.finish()?;
    for id in replaced {
        repo.store().delete(&ObjectName::new(ObjectKind::Index, id))?;
    }
    repo.store().settle()?;
    dropped.sort();
    dropped.dedup();
    Ok(dropped)
}

fn blob_count(data: &IndexData) -> usize {
    data.packs.iter().flat_map(|p| &p.segments).map(|s| s.blob_count()).sum()
}

fn count_small(repo: &Repository) -> Result<usize> {
    // About 40 bytes a blob.
    let listed = repo.store().list(ObjectKind::Index)?;
    Ok(listed.iter().filter(|(_, size)| *size < SMALL_INDEX as u64 * 40).count())
}

impl PrunePlan {
    fn changes(&self, id: &ObjectId) -> bool {
        [&self.mark, &self.delete, &self.recover].iter().any(|set| set.contains(id))
    }
}

/// Writes index objects of bounded length. What they replace is deleted only
/// when all are in the store for good.
struct IndexWriter<'a> {
    repo: &'a Repository,
    data: IndexData,
    blobs: usize,
    written: HashSet<ObjectId>,
}

impl IndexWriter<'_> {
    fn add(&mut self, pack: PackEntry) -> Result<()> {
        if !self.written.insert(pack.id) {
            return Ok(());
        }
        self.blobs += pack.segments.iter().map(|s| s.blob_count()).sum::<usize>();
        self.data.packs.push(pack);
        if self.blobs >= INDEX_BLOBS { self.flush_packs() } else { Ok(()) }
    }

    fn flush_packs(&mut self) -> Result<()> {
        let packs = std::mem::take(&mut self.data.packs);
        self.blobs = 0;
        self.put(&IndexData { packs, replaces: Vec::new() })
    }

    fn put(&self, data: &IndexData) -> Result<()> {
        let object = sealed::seal(self.repo.keys(), Purpose::Index, data)?;
        self.repo.put_object(ObjectKind::Index, &object)?;
        Ok(())
    }

    /// The last object says what all of them replace: it takes effect when it is there.
    fn finish(mut self) -> Result<Vec<ObjectId>> {
        if self.data.replaces.is_empty() && self.data.packs.is_empty() {
            return Ok(Vec::new());
        }
        self.repo.store().settle()?;
        let data = std::mem::take(&mut self.data);
        self.put(&data)?;
        self.repo.store().settle()?;
        Ok(data.replaces)
    }
}
