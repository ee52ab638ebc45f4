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
pub(super) use walk::Lost;
use walk::{name_files, walk_all};

use super::used::Packs;
use super::workers::stops;
use crate::error::{Error, Result};
use crate::format::{ObjectId, ObjectKind, ObjectName};
use crate::monitor::Monitor;
use crate::repo::{Repository, Snapshot};

#[derive(Clone, Copy, Debug, Default)]
pub struct CheckOptions {
    /// Read every byte of every pack and check every blob.
    pub read_data: bool,
    /// Read only these packs.
    pub subset: Option<Subset>,
}

#[derive(Clone, Debug, Default)]
pub struct CheckReport {
    pub snapshots: u64,
    pub packs: u64,
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
    /// What it touches: `snapshot:/path`, at most [`MOST_FILES`].
    pub files: Vec<String>,
    pub more_files: u64,
}

/// Files listed with one problem.
pub const MOST_FILES: usize = 100;
/// How often to look again when others change the repository meanwhile.
const ATTEMPTS: usize = 4;

impl CheckProblem {
    fn new(object: ObjectName, message: impl Into<String>) -> Self {
        Self { object: object.path(), message: message.into(), files: Vec::new(), more_files: 0 }
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
    // What was read before tells nothing about what is in the store now.
    repo.index().reload(repo.store(), repo.keys())?;
    let mut view = View::new(repo)?;
    let mut read = PacksRead::default();
    if options.read_data || options.subset.is_some() {
        monitor.phase("reading packs");
        read = read_packs(repo, options, &view, monitor)?;
        // That may have taken hours.
        view = View::new(repo)?;
    }
    let (mut report, mut lost) = examine(repo, &view, &read, monitor)?;
    for _ in 1..ATTEMPTS {
        if report.problems.is_empty() || view.is_current(repo)? {
            break;
        }
        view = View::new(repo)?;
        (report, lost) = examine(repo, &view, &read, monitor)?;
    }
    if names && !lost.is_empty() {
        monitor.phase("looking for the files that are touched");
        name_files(repo, &view.snapshots, &lost, &mut report, monitor)?;
    }
    Ok(Findings { report, lost, view })
}

/// The repository at one time.
pub(super) struct View {
    pub snapshots: Vec<Snapshot>,
    pub damaged_snapshots: Vec<(ObjectId, String)>,
    pub damaged_index: Vec<(ObjectId, String)>,
    /// Index objects in force.
    objects: HashSet<ObjectId>,
    packs: Packs,
    /// Packs in the store and their lengths.
    listed: HashMap<ObjectId, u64>,
}

impl View {
    fn new(repo: &Repository) -> Result<Self> {
        // In this order: what a snapshot needs is in the index when it is saved,
        // and a pack is stored before the index names it.
        let (snapshots, damaged_snapshots) = repo.snapshots_and_damaged()?;
        repo.index().sync_checked(repo.store(), repo.keys())?;
        let listed = repo.store().list(ObjectKind::Pack)?;
        Ok(Self {
            snapshots,
            damaged_snapshots,
            damaged_index: repo.index().damaged(),
            objects: repo.index().objects(),
            packs: Packs::new(&repo.index().runs()),
            listed: listed.into_iter().map(|(name, size)| (name.id, size)).collect(),
        })
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
) -> Result<(CheckReport, Lost)> {
    let mut report = CheckReport {
        snapshots: view.snapshots.len() as u64,
        bytes_read: read.bytes,
        ..CheckReport::default()
    };
    for (id, reason) in &view.damaged_index {
        let name = ObjectName::new(ObjectKind::Index, *id);
        report.problems.push(CheckProblem::new(name, reason));
    }
    for slot in repo.key_slots()? {
        if let Err(reason) = slot.info {
            let name = ObjectName::new(ObjectKind::Key, slot.id);
            report.problems.push(CheckProblem::new(name, reason));
        }
    }
    check_snapshots(repo, view, &mut report)?;
    let bad = check_packs(repo, view, read, &mut report);
    monitor.phase("checking snapshots");
    let lost = walk_all(repo, view, &bad, &mut report, monitor)?;
    parity::check_parity(repo, view, &mut report)?;
    Ok((report, lost))
}

/// Whether snapshots are still what was read, perhaps long ago.
fn check_snapshots(repo: &Repository, view: &View, report: &mut CheckReport) -> Result<()> {
    let mut damaged = view.damaged_snapshots.clone();
    for snapshot in &view.snapshots {
        match repo.store().get(&ObjectName::new(ObjectKind::Snapshot, snapshot.id)) {
            Ok(bytes) if blake3::hash(&bytes).as_bytes() == &snapshot.id.0 => {}
            Ok(_) => {
                damaged.push((snapshot.id, "its bytes are not what its name says".to_owned()));
            }
            // Forgotten meanwhile.
            Err(e) if e.is_not_found() => {}
            Err(e) => {
                let e = Error::from(e);
                if stops(&e) {
                    return Err(e);
                }
                damaged.push((snapshot.id, e.to_string()));
            }
        }
    }
    for (id, reason) in damaged {
        report.problems.push(CheckProblem::new(ObjectName::new(ObjectKind::Snapshot, id), reason));
    }
    Ok(())
}
