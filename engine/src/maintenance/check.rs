//! Check: is everything that a snapshot needs there and intact?
//!
//! Backups and prunes may run meanwhile. So it begins with the snapshots, which
//! are saved last, and if something seems to be lost while others have changed the
//! repository, it looks again.

mod packs;
mod parity;
mod walk;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

pub use packs::Subset;
use packs::{PacksRead, check_packs, read_packs};
pub(super) use parity::problem_of_parity;
pub(super) use walk::Lost;
use walk::{name_files, walk_all};

use super::used::Packs;
use super::workers::{self, stops};
use crate::error::Result;
use crate::format::{BlobId, ObjectId, ObjectKind, ObjectName, Time};
use crate::index::read_object;
use crate::monitor::Monitor;
use crate::object;
use crate::repo::{Repository, Snapshot};
use crate::workers::{Room, map, sizes};

/// Snapshots or index objects read at once: a store that is far away answers late.
const READS: usize = 4;

#[derive(Clone, Copy, Debug, Default)]
pub struct CheckOptions {
    /// Read every byte of every pack and check every blob; and read all parity.
    pub read_data: bool,
    /// Read only these packs and their parity.
    pub subset: Option<Subset>,
    /// Look only at what came into the repository at this time or later, by the store's
    /// clock: walk only those snapshots, read only those packs. That all packs are there
    /// and as long as they must be is looked at all the same: a listing says it.
    pub since: Option<Time>,
}

#[derive(Clone, Debug, Default)]
pub struct CheckReport {
    pub snapshots: u64,
    pub packs: u64,
    /// Snapshots that were passed over because they came before `since`.
    pub older_snapshots: u64,
    /// Blobs that snapshots need.
    pub blobs: u64,
    pub bytes_read: u64,
    pub problems: Vec<CheckProblem>,
    /// Packs in the store that no index object names: left by an interrupted
    /// backup, or of one that is running.
    pub unused_packs: u64,
}

#[derive(Clone, Debug)]
pub struct CheckProblem {
    /// Path of the object, relative to the repository.
    pub object: String,
    pub message: String,
    /// The snapshots that it touches, newest first.
    pub snapshots: Vec<ObjectId>,
    /// What it touches in them: `snapshot:/path`, at most [`MOST_FILES`].
    pub files: Vec<String>,
    pub more_files: u64,
}

/// Files listed with one problem.
pub const MOST_FILES: usize = 100;
/// How often to look again when others change the repository meanwhile.
const ATTEMPTS: usize = 4;

impl CheckProblem {
    fn new(object: ObjectName, message: impl Into<String>) -> Self {
        Self::at(object.path(), message.into())
    }

    fn at(object: String, message: String) -> Self {
        Self { object, message, snapshots: Vec::new(), files: Vec::new(), more_files: 0 }
    }
}

pub fn check(
    repo: &Arc<Repository>,
    options: &CheckOptions,
    monitor: &dyn Monitor,
) -> Result<CheckReport> {
    look(repo, options, true, monitor).map(|found| found.report)
}

/// What a look at the repository has found.
pub(super) struct Findings {
    pub report: CheckReport,
    pub lost: Lost,
    /// Of these, what the medium can't read now.
    pub not_now: HashSet<BlobId>,
    pub view: View,
}

/// Like `check`, for those who want to know more; `names` says whether the report shall
/// name files.
pub(super) fn look(
    repo: &Arc<Repository>,
    options: &CheckOptions,
    names: bool,
    monitor: &dyn Monitor,
) -> Result<Findings> {
    monitor.phase("checking packs");
    if options.since.is_none() {
        // What was read before tells nothing about what is in the store now.
        repo.index().reload(repo.store(), repo.keys())?;
    }
    let mut view = View::new(repo, options.since)?;
    let mut read = PacksRead::default();
    if options.read_data || options.subset.is_some() {
        monitor.phase("reading packs");
        read = read_packs(repo, options, &view, monitor)?;
        // That may have taken hours.
        view = View::new(repo, options.since)?;
    }
    let (mut report, (mut lost, mut not_now)) = examine(repo, &view, &read, monitor)?;
    for _ in 1..ATTEMPTS {
        if report.problems.is_empty() || view.is_current(repo)? {
            break;
        }
        view = View::new(repo, options.since)?;
        (report, (lost, not_now)) = examine(repo, &view, &read, monitor)?;
    }
    if names && !lost.is_empty() {
        monitor.phase("looking for the files that are touched");
        let newest_first: Vec<_> = view.wanted_snapshots().collect();
        name_files(repo, newest_first.into_iter().rev(), &lost, &mut report, monitor)?;
    }
    Ok(Findings { report, lost, not_now, view })
}

/// The repository at one time.
pub(super) struct View {
    pub snapshots: Vec<Snapshot>,
    pub damaged_snapshots: Vec<(ObjectId, String)>,
    pub damaged_index: Vec<(ObjectId, String)>,
    /// Index objects in force.
    objects: HashSet<ObjectId>,
    pub packs: Packs,
    /// Packs in the store and their lengths.
    pub listed: HashMap<ObjectId, u64>,
    /// What came late enough, if only that shall be looked at.
    added: Option<Added>,
}

/// Objects that the store has had since some time only.
struct Added(HashSet<ObjectName>);

impl Added {
    fn new(repo: &Repository, since: Time) -> Result<Self> {
        let mut added = HashSet::new();
        for kind in [ObjectKind::Snapshot, ObjectKind::Index, ObjectKind::Pack] {
            added.extend(repo.store().added_since(kind, since)?);
        }
        Ok(Self(added))
    }
}

impl View {
    fn new(repo: &Repository, since: Option<Time>) -> Result<Self> {
        // In this order: what a snapshot needs is in the index when it is saved,
        // and a pack is stored before the index names it.
        let (snapshots, damaged_snapshots) = repo.snapshots_and_damaged()?;
        repo.index().sync_checked(repo.store(), repo.keys())?;
        let listed = repo.store().list(ObjectKind::Pack)?;
        // Last: what comes while we look is late enough.
        let added = since.map(|time| Added::new(repo, time)).transpose()?;
        Ok(Self {
            added,
            snapshots,
            damaged_snapshots,
            damaged_index: repo.index().damaged(),
            objects: repo.index().objects(),
            packs: Packs::new(&repo.index().runs()),
            listed: listed.into_iter().map(|(name, size)| (name.id, size)).collect(),
        })
    }

    /// Whether an object shall be looked at.
    fn wants(&self, kind: ObjectKind, id: ObjectId) -> bool {
        self.added.as_ref().is_none_or(|added| added.0.contains(&ObjectName::new(kind, id)))
    }

    /// Snapshots that shall be walked.
    fn wanted_snapshots(&self) -> impl Iterator<Item = &Snapshot> {
        self.snapshots.iter().filter(|s| self.wants(ObjectKind::Snapshot, s.id))
    }

    /// Whether nobody has saved or removed anything since.
    fn is_current(&self, repo: &Repository) -> Result<bool> {
        let ids: HashSet<_> = repo.snapshot_ids()?.into_iter().collect();
        let known = self.snapshots.iter().map(|s| s.id);
        let known: HashSet<_> = known.chain(self.damaged_snapshots.iter().map(|d| d.0)).collect();
        repo.refresh_index()?;
        Ok(ids == known && repo.index().objects() == self.objects)
    }
}

/// Everything but reading packs.
fn examine(
    repo: &Arc<Repository>,
    view: &View,
    read: &PacksRead,
    monitor: &dyn Monitor,
) -> Result<(CheckReport, (Lost, HashSet<BlobId>))> {
    let wanted = view.wanted_snapshots().count();
    let mut report = CheckReport {
        snapshots: wanted as u64,
        older_snapshots: (view.snapshots.len() - wanted) as u64,
        bytes_read: read.bytes,
        ..CheckReport::default()
    };
    for (id, reason) in &view.damaged_index {
        let name = ObjectName::new(ObjectKind::Index, *id);
        report.problems.push(CheckProblem::new(name, reason));
    }
    if view.added.is_some() {
        check_new_index(repo, view, &mut report)?;
    }
    for slot in repo.key_slots()? {
        if let Err(reason) = slot.info {
            let name = ObjectName::new(ObjectKind::Key, slot.id);
            report.problems.push(CheckProblem::new(name, reason));
        }
    }
    for (id, reason) in repo.damaged_records()? {
        let name = ObjectName::new(ObjectKind::Forgotten, id);
        report.problems.push(CheckProblem::new(name, reason));
    }
    check_expected(repo, &mut report);
    check_snapshots(repo, view, &mut report)?;
    let bad = check_packs(repo, view, read, &mut report)?;
    monitor.phase("checking snapshots");
    let lost = walk_all(repo, view, &bad, &mut report, monitor)?;
    parity::check_parity(repo, view, read, &mut report)?;
    Ok((report, lost))
}

/// Reads index objects that came since once more: the local copy says nothing about what
/// is in the store now.
fn check_new_index(repo: &Repository, view: &View, report: &mut CheckReport) -> Result<()> {
    let new = view.objects.iter().copied().filter(|id| view.wants(ObjectKind::Index, *id));
    let damaged = damaged_of(repo, ObjectKind::Index, new, |id| {
        read_object(repo.store(), repo.keys(), id).map(drop)
    })?;
    for (id, reason) in damaged {
        report.problems.push(CheckProblem::new(ObjectName::new(ObjectKind::Index, id), reason));
    }
    Ok(())
}

/// Which of these objects `read` finds damaged, and why. Those that are gone were replaced or
/// forgotten meanwhile.
fn damaged_of(
    repo: &Repository,
    kind: ObjectKind,
    ids: impl Iterator<Item = ObjectId>,
    read: impl Fn(&ObjectId) -> Result<()> + Send + Sync,
) -> Result<Vec<(ObjectId, String)>> {
    let ids: Vec<_> = ids.collect();
    let look = |id: &ObjectId| match read(id) {
        Ok(()) => Ok(None),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) if stops(&e) => Err(e),
        Err(e) => Ok(Some((*id, workers::reason(e)))),
    };
    let size = sizes(repo.store(), kind)?;
    let all = map(&ids, READS, Room { bytes: workers::BYTES, of: &size }, look)?;
    let mut damaged: Vec<_> = all.into_iter().flatten().collect();
    damaged.sort();
    Ok(damaged)
}

/// What is otherwise than this client has seen it.
fn check_expected(repo: &Repository, report: &mut CheckReport) {
    let setback = repo.setback();
    let mut add = |kind, id, message: &str| {
        report.problems.push(CheckProblem::new(ObjectName::new(kind, id), message));
    };
    for (id, _) in setback.snapshots.lost {
        add(ObjectKind::Snapshot, id, "it was there and is gone, though nobody has forgotten it");
    }
    for id in setback.snapshots.put_back {
        add(ObjectKind::Snapshot, id, "it was forgotten and is there again");
    }
    for (id, _) in setback.key_slots.lost {
        add(ObjectKind::Key, id, "it was there and is gone, though nobody has removed it");
    }
    for id in setback.key_slots.put_back {
        add(
            ObjectKind::Key,
            id,
            "it was removed and is there again, so its password opens the repository",
        );
    }
}

/// Whether snapshots are still what was read, perhaps long ago.
fn check_snapshots(repo: &Repository, view: &View, report: &mut CheckReport) -> Result<()> {
    let mut damaged = view.damaged_snapshots.clone();
    let wanted = view.wanted_snapshots().map(|s| s.id);
    damaged.extend(damaged_of(repo, ObjectKind::Snapshot, wanted, |id| {
        object::read(repo.store(), &ObjectName::new(ObjectKind::Snapshot, *id)).map(drop)
    })?);
    for (id, reason) in damaged {
        report.problems.push(CheckProblem::new(ObjectName::new(ObjectKind::Snapshot, id), reason));
    }
    Ok(())
}
