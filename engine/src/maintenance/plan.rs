//! What a prune would do, decided before anything is changed.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::reach::{Reached, walk_reachable};
use super::used::{Inserted, UsedBlobs};
use crate::error::{Error, Result};
use crate::format::{BlobId, BlobKind, ObjectId, ObjectKind, ObjectName};
use crate::monitor::Monitor;
use crate::repo::{Repository, now};

#[derive(Clone, Copy, Debug)]
pub struct PruneOptions {
    /// Unused bytes that may stay in packs that are partly used, in percent of the used bytes.
    pub max_unused_percent: f64,
    /// Rewrite at most this many bytes.
    pub max_repack_bytes: Option<u64>,
    /// How long a pack stays after it was marked. Zero deletes at once: only
    /// for a repository that nobody is backing up to.
    pub grace: Duration,
}

impl Default for PruneOptions {
    fn default() -> Self {
        let grace = Duration::from_secs(24 * 3600);
        Self { max_unused_percent: 5.0, max_repack_bytes: None, grace }
    }
}

/// What a prune would do. Bytes are bytes in the store, roughly for parts of packs.
#[derive(Debug, Default)]
pub struct PrunePlan {
    pub snapshots: u64,
    pub blobs_used: u64,
    pub blobs_unused: u64,
    pub bytes_used: u64,
    pub bytes_unused: u64,
    pub packs_kept: u64,
    pub packs_repack: u64,
    pub bytes_repack: u64,
    /// Packs that nothing needs: marked now.
    pub packs_mark: u64,
    pub bytes_mark: u64,
    /// Packs that were marked long enough ago: deleted now.
    pub packs_delete: u64,
    pub bytes_delete: u64,
    /// Packs that were marked more recently.
    pub packs_waiting: u64,
    /// Marked packs that a snapshot needs after all.
    pub packs_recovered: u64,
    /// Packs that no index object names.
    pub packs_unindexed: u64,
    pub(super) seen: HashSet<ObjectId>,
    pub(super) repack: HashSet<ObjectId>,
    pub(super) mark: HashSet<ObjectId>,
    pub(super) delete: HashSet<ObjectId>,
    pub(super) recover: HashSet<ObjectId>,
    pub(super) unindexed: Vec<ObjectId>,
    pub(super) used: Option<UsedBlobs>,
}

impl std::fmt::Debug for UsedBlobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UsedBlobs")
    }
}

/// Packs shorter than this are joined when there are many.
const SMALL_PACK: u64 = 2 << 20;
const MANY_SMALL: usize = 16;

#[derive(Default)]
struct PackUse {
    size: u64,
    marked: i64,
    used: u64,
    unused: u64,
    used_blobs: u64,
    unused_blobs: u64,
}

pub fn plan_prune(
    repo: &Repository,
    options: &PruneOptions,
    monitor: &dyn Monitor,
) -> Result<PrunePlan> {
    // Forgotten snapshots must be gone for good before anything follows from it.
    repo.store().settle()?;
    repo.refresh_index()?;
    let refuse = |object: ObjectName, reason: &str| {
        Error::Invalid(format!(
            "{object} is damaged ({reason}), so prune can't know what is needed; nothing was changed (see `tresor check`)"
        ))
    };
    if let Some((id, reason)) = repo.index().damaged().first() {
        return Err(refuse(ObjectName::new(ObjectKind::Index, *id), reason));
    }
    let (snapshots, damaged) = repo.snapshots_and_damaged()?;
    if let Some((id, reason)) = damaged.first() {
        return Err(refuse(ObjectName::new(ObjectKind::Snapshot, *id), reason));
    }
    monitor.phase("finding what snapshots need");
    let mut needed = Needed { used: UsedBlobs::new(repo.index(), HashSet::new()) };
    for snapshot in &snapshots {
        monitor.progress().check()?;
        walk_reachable(repo, &snapshot.data.tree, &mut needed)?;
    }
    let mut plan = PrunePlan {
        snapshots: snapshots.len() as u64,
        seen: snapshots.iter().map(|s| s.id).collect(),
        ..PrunePlan::default()
    };
    let packs = usage(&needed.used);
    for (name, _) in repo.store().list(ObjectKind::Pack)? {
        if !packs.contains_key(&name.id) {
            plan.unindexed.push(name.id);
        }
    }
    plan.packs_unindexed = plan.unindexed.len() as u64;
    plan.decide(&packs, options);
    plan.used = Some(needed.used);
    Ok(plan)
}

struct Needed {
    used: UsedBlobs,
}

impl Reached for Needed {
    fn blob(&mut self, _: BlobKind, id: &BlobId, _: &[u8]) -> Result<bool> {
        match self.used.insert(id) {
            Inserted::New(_) => Ok(true),
            Inserted::Before => Ok(false),
            Inserted::Unknown => Err(Error::BlobMissing(*id)),
        }
    }
}

fn usage(used: &UsedBlobs) -> HashMap<ObjectId, PackUse> {
    let mut packs: HashMap<ObjectId, PackUse> = HashMap::new();
    for info in used.packs() {
        let new = !packs.contains_key(&info.id);
        let pack = packs.entry(info.id).or_default();
        pack.size = info.size;
        // Unmarked wins: a backup may have published a pack that prune saw unindexed.
        pack.marked = if new { info.marked } else { pack.marked.min(info.marked) };
    }
    for (entry, info, is_used) in used.entries() {
        let Some(pack) = packs.get_mut(&info.id) else { continue };
        // A blob's share of its segment.
        let share =
            u64::from(entry.sealed_len) * u64::from(entry.len) / u64::from(entry.raw_len.max(1));
        if is_used {
            pack.used += share;
            pack.used_blobs += 1;
        } else {
            pack.unused += share;
            pack.unused_blobs += 1;
        }
    }
    packs
}

impl PrunePlan {
    fn decide(&mut self, packs: &HashMap<ObjectId, PackUse>, options: &PruneOptions) {
        let before =
            now().seconds.saturating_sub(options.grace.as_secs().min(i64::MAX as u64) as i64);
        let mut partly = Vec::new();
        let mut small = Vec::new();
        for (id, pack) in packs {
            self.blobs_used += pack.used_blobs;
            self.bytes_used += pack.used;
            self.blobs_unused += pack.unused_blobs;
            self.bytes_unused += pack.unused;
            match (pack.used_blobs > 0, pack.marked) {
                (true, 0) if pack.unused_blobs > 0 => partly.push((*id, pack)),
                (true, 0) if pack.size < SMALL_PACK => small.push((*id, pack)),
                (true, 0) => self.packs_kept += 1,
                (true, _) => drop(self.recover.insert(*id)),
                (false, 0) if options.grace.is_zero() => self.drop_pack(*id, pack.size),
                (false, 0) => {
                    self.mark.insert(*id);
                    self.bytes_mark += pack.size;
                }
                (false, since) if since <= before => self.drop_pack(*id, pack.size),
                (false, _) => self.packs_waiting += 1,
            }
        }
        self.choose_repack(partly, small, options);
        self.packs_mark = self.mark.len() as u64;
        self.packs_delete = self.delete.len() as u64;
        self.packs_recovered = self.recover.len() as u64;
        self.packs_repack = self.repack.len() as u64;
    }

    fn drop_pack(&mut self, id: ObjectId, size: u64) {
        self.delete.insert(id);
        self.bytes_delete += size;
    }

    /// The packs with the most to gain first, until little enough is unused.
    fn choose_repack(
        &mut self,
        mut partly: Vec<(ObjectId, &PackUse)>,
        small: Vec<(ObjectId, &PackUse)>,
        options: &PruneOptions,
    ) {
        let limit = options.max_repack_bytes.unwrap_or(u64::MAX);
        let mut left: u64 = partly.iter().map(|(_, p)| p.unused).sum();
        let allowed = (self.bytes_used as f64 * options.max_unused_percent / 100.0) as u64;
        partly.sort_by_key(|(id, p)| {
            (std::cmp::Reverse(p.unused * 1000 / (p.used + p.unused).max(1)), *id)
        });
        let take = |plan: &mut Self, id: ObjectId, pack: &PackUse| {
            if plan.bytes_repack + pack.size <= limit {
                plan.bytes_repack += pack.size;
                plan.repack.insert(id);
                return true;
            }
            plan.packs_kept += 1;
            false
        };
        for (id, pack) in partly {
            if left <= allowed {
                self.packs_kept += 1;
            } else if take(self, id, pack) {
                left -= pack.unused;
            }
        }
        if small.len() >= MANY_SMALL {
            for (id, pack) in small {
                take(self, id, pack);
            }
        } else {
            self.packs_kept += small.len() as u64;
        }
    }
}

/// Takes packs that snapshots newer than the plan need out of it. Blobs in
/// packs that the plan doesn't know are none of its business.
pub(super) fn absorb_new_snapshots(repo: &Repository, plan: &mut PrunePlan) -> Result<()> {
    let Some(used) = plan.used.take() else { return Ok(()) };
    let mut late = Late { used, packs: HashSet::new(), elsewhere: HashSet::new() };
    for snapshot in repo.snapshots()? {
        if plan.seen.insert(snapshot.id) {
            walk_reachable(repo, &snapshot.data.tree, &mut late)?;
        }
    }
    for pack in &late.packs {
        plan.mark.remove(pack);
        plan.delete.remove(pack);
        plan.repack.remove(pack);
    }
    plan.used = Some(late.used);
    Ok(())
}

struct Late {
    used: UsedBlobs,
    packs: HashSet<ObjectId>,
    elsewhere: HashSet<BlobId>,
}

impl Reached for Late {
    fn blob(&mut self, _: BlobKind, id: &BlobId, _: &[u8]) -> Result<bool> {
        Ok(match self.used.insert(id) {
            Inserted::New(pack) => {
                self.packs.insert(pack);
                true
            }
            Inserted::Before => false,
            Inserted::Unknown => self.elsewhere.insert(*id),
        })
    }
}
