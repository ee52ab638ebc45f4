//! What a prune would do, decided before anything is changed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::reach::{At, Reached, walk_reachable};
use super::used::{Inserted, Packs, UsedBlobs};
use super::workers::{for_each, size_of};
use crate::archiver::FRESH_MARK;
use crate::error::{Error, Result};
use crate::format::{BlobId, BlobKind, ObjectId, ObjectKind, ObjectName, Time};
use crate::index::PackInfo;
use crate::monitor::Monitor;
use crate::object;
use crate::repo::{Repository, Snapshot};

/// How much unused data may stay in packs that are partly used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MaxUnused {
    /// Of the bytes that are used.
    Percent(f64),
    Bytes(u64),
    Unlimited,
}

impl MaxUnused {
    fn bytes(self, used: u64) -> u64 {
        match self {
            Self::Percent(percent) => (used as f64 * percent / 100.0) as u64,
            Self::Bytes(bytes) => bytes,
            Self::Unlimited => u64::MAX,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct PruneOptions {
    pub max_unused: MaxUnused,
    /// Rewrite at most this many bytes.
    pub max_repack_bytes: Option<u64>,
    /// After so many bytes were copied, or some more if the index is large or looking at all
    /// snapshots takes long, what they were copied from is marked or deleted: an interruption costs what was copied since.
    pub batch_bytes: u64,
    /// How long a pack stays after it was marked: two hours or more. Zero deletes
    /// at once, also packs that no index object names, and is only for a repository
    /// that nobody is backing up to: a running backup may lose what it has stored.
    pub grace: Duration,
}

impl Default for PruneOptions {
    fn default() -> Self {
        let grace = Duration::from_secs(24 * 3600);
        let max_unused = MaxUnused::Percent(5.0);
        Self { max_unused, max_repack_bytes: None, batch_bytes: 256 << 20, grace }
    }
}

/// As the clocks of those who mark may differ by as long as marks count as fresh.
const LEAST_GRACE: Duration = Duration::from_secs(2 * FRESH_MARK as u64);

impl PruneOptions {
    /// What came, or was marked, before this second has had its grace.
    pub(super) fn before(&self, now: Time) -> i64 {
        let grace = self.grace.as_secs().min(i64::MAX as u64) as i64;
        now.seconds.saturating_sub(grace)
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.grace.is_zero() || self.grace >= LEAST_GRACE {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "a grace of {} minutes is too short: running backups may rely on what was marked less than an hour ago. Use two hours or more, or zero if nobody else is using the repository",
            self.grace.as_secs().div_ceil(60)
        )))
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
    /// Of those that are needed and not rewritten.
    pub bytes_unused_kept: u64,
    pub packs_repack: u64,
    pub bytes_repack: u64,
    /// Packs that nothing needs: marked now; also anew, if they were marked in the future.
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
    /// The time it was made for.
    pub(super) now: Time,
    /// When it was made, and how long looking at all snapshots took.
    pub(super) made: Option<Instant>,
    pub(super) took: Duration,
    /// Index objects in force.
    pub(super) objects: HashSet<ObjectId>,
    /// Those that this prune has replaced.
    pub(super) replaced: Vec<ObjectId>,
    /// Snapshots looked at.
    pub(super) seen: HashSet<ObjectId>,
    /// Packs to rewrite, and how many blobs of each are needed.
    pub(super) repack: BTreeMap<ObjectId, u64>,
    /// Packs of which that was stored anew.
    pub(super) copied: HashSet<ObjectId>,
    pub(super) mark: HashSet<ObjectId>,
    pub(super) delete: HashSet<ObjectId>,
    pub(super) recover: HashSet<ObjectId>,
    /// Doomed packs that are damaged: what can be read of them can be read, and nothing else.
    pub(super) rotten: HashSet<ObjectId>,
    /// Packs that the store has lost.
    pub(super) lost: HashSet<ObjectId>,
    /// Packs of which the index doesn't say what their own tables do.
    pub(super) wrong: HashSet<ObjectId>,
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
/// How often to look again when others change the repository meanwhile.
const ATTEMPTS: usize = 3;

#[derive(Clone, Copy, Default)]
struct PackUse {
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
    PrunePlan::at(repo, options, repo.clock(), monitor)
}

/// The plan as it would be once these snapshots are forgotten. Changes nothing.
pub fn plan_prune_without(
    repo: &Repository,
    forgotten: &HashSet<ObjectId>,
    options: &PruneOptions,
    monitor: &dyn Monitor,
) -> Result<PrunePlan> {
    PrunePlan::make(repo, forgotten, options, repo.clock(), monitor)
}

/// Refuses if an index object can't be read.
pub(super) fn refuse_damaged_index(repo: &Repository) -> Result<()> {
    match repo.index().damaged().first() {
        Some((id, reason)) => Err(refuse(ObjectName::new(ObjectKind::Index, *id), reason)),
        None => Ok(()),
    }
}

fn refuse(object: ObjectName, reason: &str) -> Error {
    Error::Invalid(format!(
        "{object} is damaged ({reason}), so prune can't know what is needed; no data was removed (see `tresor check`)"
    ))
}

/// All snapshots; refuses if one can't be read.
fn snapshots(repo: &Repository) -> Result<Vec<Snapshot>> {
    let (snapshots, damaged) = repo.snapshots_and_damaged()?;
    match damaged.first() {
        Some((id, reason)) => Err(refuse(ObjectName::new(ObjectKind::Snapshot, *id), reason)),
        None => Ok(snapshots),
    }
}

impl PrunePlan {
    /// The plan as it would be at another time than now. Packs are marked with that time.
    pub fn at(
        repo: &Repository,
        options: &PruneOptions,
        now: Time,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        Self::make(repo, &HashSet::new(), options, now, monitor)
    }

    fn make(
        repo: &Repository,
        forgotten: &HashSet<ObjectId>,
        options: &PruneOptions,
        now: Time,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        options.check()?;
        let mut objects = HashSet::new();
        for _ in 1..ATTEMPTS {
            match Self::look(repo, forgotten, options, now, monitor, &mut objects) {
                // It may be that another prune has just removed it.
                Err(e) if e.is_damage() || matches!(e, Error::Invalid(_)) => {
                    repo.refresh_index()?;
                    if repo.index().objects() == objects {
                        return Err(e);
                    }
                }
                result => return result,
            }
        }
        Self::look(repo, forgotten, options, now, monitor, &mut objects)
    }

    /// `forgotten` snapshots need nothing. `objects` gets what is in force in the index.
    fn look(
        repo: &Repository,
        forgotten: &HashSet<ObjectId>,
        options: &PruneOptions,
        now: Time,
        monitor: &dyn Monitor,
        objects: &mut HashSet<ObjectId>,
    ) -> Result<Self> {
        // Forgotten snapshots must be gone for good before anything follows from it.
        repo.store().settle()?;
        // In this order: what a snapshot needs is in the index when it is saved,
        // and a pack is stored before the index names it.
        let mut snapshots = snapshots(repo)?;
        snapshots.retain(|s| !forgotten.contains(&s.id));
        repo.index().sync_checked(repo.store(), repo.keys())?;
        *objects = repo.index().objects();
        refuse_damaged_index(repo)?;
        let mut listed: HashMap<ObjectId, u64> = HashMap::new();
        listed.extend(repo.store().list(ObjectKind::Pack)?.iter().map(|(n, size)| (n.id, *size)));
        monitor.phase("finding what snapshots need");
        let made = Instant::now();
        let rotten = rotten(repo, &listed, monitor)?;
        // What is gone, cut off or damaged is no reason to drop another copy.
        let is_bad =
            |pack: &PackInfo| listed.get(&pack.id) != Some(&pack.size) || rotten.contains(&pack.id);
        let used = UsedBlobs::new(repo.index(), is_bad);
        let mut needed = Needed { used, listed: &listed, rotten: &rotten, monitor };
        for snapshot in &snapshots {
            walk_reachable(repo, &snapshot.data.tree, &mut needed)?;
        }
        let mut used = needed.used;
        used.prefer_best_used();
        let indexed = |id: &ObjectId| used.packs().get(id).is_some();
        let mut plan = Self {
            snapshots: snapshots.len() as u64,
            now,
            made: Some(made),
            took: made.elapsed(),
            objects: objects.clone(),
            seen: snapshots.iter().map(|s| s.id).collect(),
            rotten,
            unindexed: listed.keys().filter(|id| !indexed(id)).copied().collect(),
            ..Self::default()
        };
        plan.unindexed.sort();
        plan.packs_unindexed = plan.unindexed.len() as u64;
        plan.decide(&used, options);
        plan.used = Some(used);
        Ok(plan)
    }
}

/// Doomed packs that aren't what their names say. A prune was interrupted that has doomed
/// others, or they were put back; those are as good as any.
fn rotten(
    repo: &Repository,
    listed: &HashMap<ObjectId, u64>,
    monitor: &dyn Monitor,
) -> Result<HashSet<ObjectId>> {
    let packs = Packs::new(&repo.index().runs());
    let doomed = packs.iter().filter(|p| p.is_doomed());
    let doomed: Vec<_> =
        doomed.filter(|p| listed.get(&p.id) == Some(&p.size)).map(|p| (p.id, p.size)).collect();
    let rotten = Mutex::new(HashSet::new());
    for_each(&doomed, size_of, |(id, _)| {
        monitor.progress().check()?;
        match object::read(repo.store(), &ObjectName::new(ObjectKind::Pack, *id)) {
            Ok(_) => {}
            Err(e) if e.is_damage() => {
                rotten.lock().unwrap_or_else(|e| e.into_inner()).insert(*id);
            }
            Err(e) => return Err(e),
        }
        Ok(())
    })?;
    Ok(rotten.into_inner().unwrap_or_else(|e| e.into_inner()))
}

struct Needed<'a> {
    used: UsedBlobs,
    listed: &'a HashMap<ObjectId, u64>,
    rotten: &'a HashSet<ObjectId>,
    monitor: &'a dyn Monitor,
}

impl Reached for Needed<'_> {
    fn blob(&mut self, _: BlobKind, id: &BlobId, _: At<'_>) -> Result<bool> {
        self.monitor.progress().check()?;
        match self.used.insert(id) {
            Inserted::New(..) => Ok(true),
            Inserted::Before(_) => Ok(false),
            // The last resort.
            Inserted::Unknown if self.used.insert_in(id, self.rotten) => Ok(true),
            Inserted::Unknown => {
                let Some(pack) = self.used.bad_place(id) else {
                    return Err(Error::BlobMissing(*id));
                };
                let state = match self.listed.get(&pack.id) {
                    None => "missing".to_owned(),
                    Some(size) => format!("{size} bytes long and must be {}", pack.size),
                };
                Err(Error::Invalid(format!(
                    "{} is {state}, and snapshots need it; nothing was changed (`tresor check` lists the files it touches; `tresor repair objects` mends it if the repository has parity and the pack is there; else put it back from another copy, or forget those snapshots)",
                    ObjectName::new(ObjectKind::Pack, pack.id)
                )))
            }
        }
    }
}

/// How much of each pack is used, in the order of `UsedBlobs::packs`.
fn usage(used: &UsedBlobs) -> Vec<PackUse> {
    let mut packs = vec![PackUse::default(); used.packs().iter().count()];
    for (entry, number, is_used) in used.entries() {
        let pack = &mut packs[number];
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

type Candidate = (PackInfo, PackUse);

impl PrunePlan {
    fn decide(&mut self, blobs: &UsedBlobs, options: &PruneOptions) {
        let before = options.before(self.now);
        // A mark from the future is of a wrong clock, and would keep the pack until then.
        let latest = self.now.seconds.saturating_add(FRESH_MARK);
        let mut partly = Vec::new();
        let mut small = Vec::new();
        for (info, pack) in blobs.packs().iter().zip(usage(blobs)) {
            self.blobs_used += pack.used_blobs;
            self.bytes_used += pack.used;
            self.blobs_unused += pack.unused_blobs;
            self.bytes_unused += pack.unused;
            match (pack.used_blobs > 0, info.marked) {
                (true, 0) if pack.unused_blobs > 0 => partly.push((*info, pack)),
                (true, 0) if info.size < SMALL_PACK => small.push((*info, pack)),
                (true, 0) => self.packs_kept += 1,
                (true, _) => {
                    self.bytes_unused_kept += pack.unused;
                    if self.rotten.contains(&info.id) {
                        self.packs_kept += 1;
                    } else {
                        self.recover.insert(info.id);
                    }
                }
                (false, 0) if options.grace.is_zero() => self.drop_pack(info),
                (false, since) if since == 0 || since > latest => {
                    self.mark.insert(info.id);
                    self.bytes_mark += info.size;
                }
                (false, since) if since <= before => self.drop_pack(info),
                (false, _) => self.packs_waiting += 1,
            }
        }
        self.choose_repack(partly, small, options);
        self.packs_mark = self.mark.len() as u64;
        self.packs_delete = self.delete.len() as u64;
        self.packs_recovered = self.recover.len() as u64;
        self.packs_repack = self.repack.len() as u64;
    }

    fn drop_pack(&mut self, pack: &PackInfo) {
        self.delete.insert(pack.id);
        self.bytes_delete += pack.size;
    }

    /// The packs with the most to gain first, until little enough is unused.
    fn choose_repack(
        &mut self,
        mut partly: Vec<Candidate>,
        small: Vec<Candidate>,
        options: &PruneOptions,
    ) {
        let limit = options.max_repack_bytes.unwrap_or(u64::MAX);
        let mut left: u64 = partly.iter().map(|(_, p)| p.unused).sum();
        let allowed = options.max_unused.bytes(self.bytes_used);
        partly.sort_by_key(|(info, p)| {
            (std::cmp::Reverse(p.unused * 1000 / (p.used + p.unused).max(1)), info.id)
        });
        let take = |plan: &mut Self, (info, pack): &Candidate| {
            if plan.bytes_repack + info.size <= limit {
                plan.bytes_repack += info.size;
                plan.repack.insert(info.id, pack.used_blobs);
                return true;
            }
            plan.packs_kept += 1;
            false
        };
        for candidate in &partly {
            if left <= allowed {
                self.packs_kept += 1;
            } else if take(self, candidate) {
                left -= candidate.1.unused;
            }
        }
        self.bytes_unused_kept += left;
        if small.len() >= MANY_SMALL {
            for candidate in &small {
                take(self, candidate);
            }
        } else {
            self.packs_kept += small.len() as u64;
        }
    }
}

/// Looks at snapshots that came after the plan, and takes the packs that they may
/// need out of it; returns those packs. Blobs in packs that the plan doesn't know
/// are none of its business. Refuses if snapshots are missing that were seen before.
pub(super) fn absorb_new_snapshots(
    repo: &Repository,
    plan: &mut PrunePlan,
    monitor: &dyn Monitor,
) -> Result<HashSet<ObjectId>> {
    let Some(used) = plan.used.take() else { return Ok(HashSet::new()) };
    let threatened: HashSet<_> = [&plan.delete, &plan.mark, &plan.copied]
        .into_iter()
        .flatten()
        .chain(plan.repack.keys())
        .copied()
        .collect();
    let packs = HashMap::new();
    let mut late = Late { used, threatened, packs, elsewhere: HashSet::new(), monitor };
    let snapshots = snapshots(repo)?;
    repo.refuse_older_state()?;
    for snapshot in snapshots {
        if !plan.seen.contains(&snapshot.id) {
            walk_reachable(repo, &snapshot.data.tree, &mut late)?;
            plan.seen.insert(snapshot.id);
        }
    }
    let Late { used, packs, .. } = late;
    plan.used = Some(used);
    for (id, marked) in &packs {
        plan.mark.remove(id);
        plan.delete.remove(id);
        plan.copied.remove(id);
        plan.repack.remove(id);
        if *marked {
            plan.recover.insert(*id);
        }
    }
    Ok(packs.into_keys().collect())
}

struct Late<'a> {
    used: UsedBlobs,
    /// Packs that the plan would mark or delete.
    threatened: HashSet<ObjectId>,
    /// Packs that are needed now, and whether they were marked.
    packs: HashMap<ObjectId, bool>,
    elsewhere: HashSet<BlobId>,
    monitor: &'a dyn Monitor,
}

impl Reached for Late<'_> {
    fn blob(&mut self, _: BlobKind, id: &BlobId, _: At<'_>) -> Result<bool> {
        self.monitor.progress().check()?;
        let is_known = match self.used.insert(id) {
            Inserted::Before(_) => return Ok(false),
            Inserted::New(pack, _) => {
                self.packs.insert(pack.id, pack.marked != 0);
                true
            }
            Inserted::Unknown => false,
        };
        // Which of them it relies on isn't known, nor what has become of those that were bad.
        for pack in self.used.packs_with(id).filter(|p| self.threatened.contains(&p.id)) {
            self.packs.insert(pack.id, pack.marked != 0);
        }
        Ok(is_known || self.elsewhere.insert(*id))
    }
}
