//! Repair of snapshots that need what is lost: new ones with all that can be saved.
//!
//! What isn't whole never keeps its name: a file that has lost a part is saved as
//! `NAME.damaged`, with a hole where each lost part was, so that the rest stays at its
//! place. A file of which nothing is left is left out. A directory that can't be read is
//! saved empty as `NAME.damaged`; one that has lost some of its entries keeps its name,
//! as all that is below is whole. So does what has lost only a stream, which is left out.

mod salvage;

use std::collections::HashSet;
use std::sync::Arc;

use self::salvage::{Root, Salvage};
use super::check::{CheckOptions, Findings, Lost, View, look};
use super::reach::{At, Reached, walk_reachable};
use super::workers::{must_stay, stops};
use crate::archiver::{disown_lost, save_confirmed};
use crate::error::{Error, Result};
use crate::format::{BlobId, BlobKind, ObjectId, SnapshotData};
use crate::monitor::Monitor;
use crate::pack::{Finished, PackWriter, fetch_table};
use crate::repo::{REPAIRED, Repository, Snapshot};

#[derive(Clone, Copy, Debug, Default)]
pub struct RepairSnapshotsOptions {
    /// Read every byte of every pack first, to know all that is damaged.
    pub read_data: bool,
    /// Remove snapshot objects that can't be read at all. The originals of repaired
    /// snapshots are never removed: what can't be read today may be put back tomorrow.
    pub forget_unreadable: bool,
    /// Tell what would be done, change nothing.
    pub dry_run: bool,
}

#[derive(Clone, Debug, Default)]
pub struct RepairSnapshotsReport {
    /// Snapshots that were looked at.
    pub snapshots: u64,
    /// Those that have lost something.
    pub repaired: Vec<RepairedSnapshot>,
    /// Those of which the medium can't read a part now: left as they are.
    pub not_now: Vec<Snapshot>,
    /// Snapshot objects that can't be read, and why.
    pub unreadable: Vec<(ObjectId, String)>,
    /// What was removed.
    pub forgotten: Vec<ObjectId>,
}

#[derive(Clone, Debug)]
pub struct RepairedSnapshot {
    pub original: Snapshot,
    /// `None` if nothing of it can be saved, and in a dry run.
    pub repaired: Option<ObjectId>,
    /// Whether it was there already: of an earlier repair.
    pub already: bool,
    pub losses: Vec<Loss>,
}

/// Something that is not, or not wholly, in the repaired snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    pub path: Vec<u8>,
    pub is_dir: bool,
    /// Where what is left of it can be found.
    pub kept_as: Option<Vec<u8>>,
    /// Of a file: start and end of each part that is lost.
    pub ranges: Vec<(u64, u64)>,
    /// Of a directory: how many entries are lost, if that is known.
    pub entries: Option<u64>,
    /// The stream that is lost, and nothing else of the entry.
    pub stream: Option<Vec<u8>>,
}

pub fn repair_snapshots(
    repo: &Arc<Repository>,
    options: &RepairSnapshotsOptions,
    monitor: &dyn Monitor,
) -> Result<RepairSnapshotsReport> {
    let check = CheckOptions { read_data: options.read_data, ..CheckOptions::default() };
    let found = look(repo, &check, false, monitor)?;
    refuse_incomplete_index(repo, &found)?;
    let mut report = RepairSnapshotsReport {
        snapshots: found.view.snapshots.len() as u64,
        unreadable: found.view.damaged_snapshots.clone(),
        ..RepairSnapshotsReport::default()
    };
    if !found.lost.is_empty() {
        monitor.phase("repairing snapshots");
        repair(repo, options, &found, &mut report, monitor)?;
    }
    if options.forget_unreadable {
        // That may have been long ago, and they may have been put back.
        let (_, damaged) = repo.snapshots_and_damaged()?;
        report.forgotten = damaged.into_iter().map(|d| d.0).collect();
        report.forgotten.retain(|id| report.unreadable.iter().any(|u| u.0 == *id));
        let mut removed = Vec::new();
        for id in std::mem::take(&mut report.forgotten) {
            if !must_stay(repo.read_snapshot(&id))? {
                removed.push(id);
            }
        }
        report.forgotten = removed;
        if !options.dry_run && !report.forgotten.is_empty() {
            repo.refuse_older_state()?;
            repo.forget(&report.forgotten)?;
        }
    }
    Ok(report)
}

/// With an index that lacks something, what is whole would look lost. Packs that no index
/// object names are always there while a backup runs: only what is in them counts.
fn refuse_incomplete_index(repo: &Repository, found: &Findings) -> Result<()> {
    let nowhere = found.report.problems.iter().position(|p| p.object == "index");
    let mut incomplete = !found.view.damaged_index.is_empty();
    if let Some(nowhere) = nowhere.filter(|_| !incomplete) {
        let lost = |id: &BlobId| found.lost.problem(id, None) == Some(nowhere);
        incomplete = unindexed_packs_have(repo, &found.view, lost)?;
    }
    if !incomplete {
        return Ok(());
    }
    Err(Error::Invalid(
        "the index is damaged or lacks packs that are there, so what is whole would look lost; run `tresor repair index` first"
            .into(),
    ))
}

/// Whether a pack that no index object names has one of these blobs, by its own table.
fn unindexed_packs_have(
    repo: &Repository,
    view: &View,
    wanted: impl Fn(&BlobId) -> bool,
) -> Result<bool> {
    for (id, size) in view.listed.iter().filter(|(id, _)| view.packs.get(id).is_none()) {
        match fetch_table(repo.store(), repo.keys(), *id, *size) {
            Ok(table) => {
                let mut blobs = table.segments.iter().flat_map(|s| s.blobs());
                if blobs.any(|(blob, ..)| wanted(&blob)) {
                    return Ok(true);
                }
            }
            Err(e) if stops(&e) => return Err(e),
            // Repair of the index couldn't read it either.
            Err(_) => {}
        }
    }
    Ok(false)
}

fn repair(
    repo: &Arc<Repository>,
    options: &RepairSnapshotsOptions,
    found: &Findings,
    report: &mut RepairSnapshotsReport,
    monitor: &dyn Monitor,
) -> Result<()> {
    // As a backup: what a prune wants to delete is stored again.
    let reliance = repo.rely()?;
    let Repaired { new, not_now, stored, listed } = rebuild_all(repo, options, found, monitor)?;
    report.not_now = not_now;
    let touched: HashSet<_> = new.iter().map(|(snapshot, ..)| snapshot.id).collect();
    for (snapshot, tree, losses) in new {
        let mut repaired = None;
        let mut already = false;
        if let Some(tree) = tree {
            let data = repaired_data(snapshot, tree, &losses);
            // One that has itself lost something is no answer.
            let same = |other: &&Snapshot| {
                let is_there = listed.contains(&other.id) && !touched.contains(&other.id);
                is_there && is_same(&other.data, &data)
            };
            let earlier = found.view.snapshots.iter().find(same).map(|s| s.id);
            already = earlier.is_some();
            repaired = match earlier {
                None if !options.dry_run => {
                    let (index, packs) = (stored.index.clone(), stored.packs.clone());
                    let stored = Finished { counts: stored.counts, index, packs };
                    match save_confirmed(repo, &reliance, &data, stored, monitor) {
                        Ok(id) => Some(id),
                        Err(e) if is_forgotten(repo, &snapshot.id, &e) => continue,
                        Err(e) => return Err(e),
                    }
                }
                earlier => earlier,
            };
        }
        let original = snapshot.clone();
        report.repaired.push(RepairedSnapshot { original, repaired, already, losses });
    }
    Ok(())
}

/// Snapshots that are to be saved, and what is stored of them.
struct Repaired<'a> {
    /// Each with its new root (`None` if nothing is left) and what that lacks.
    new: Vec<(&'a Snapshot, Option<Root>, Vec<Loss>)>,
    not_now: Vec<Snapshot>,
    stored: Finished,
    /// The snapshots that were there when all was stored.
    listed: HashSet<ObjectId>,
}

fn rebuild_all<'a>(
    repo: &Arc<Repository>,
    options: &RepairSnapshotsOptions,
    found: &'a Findings,
    monitor: &dyn Monitor,
) -> Result<Repaired<'a>> {
    let new_writer = if options.dry_run { PackWriter::dry } else { PackWriter::new };
    let mut writer = new_writer(repo.clone());
    let (mut new, mut not_now) = (Vec::new(), Vec::new());
    let mut work = || -> Result<(Finished, HashSet<ObjectId>)> {
        for snapshot in &found.view.snapshots {
            monitor.progress().check()?;
            match rebuild(repo, &writer, (&found.lost, &found.not_now), snapshot, monitor)? {
                Rebuilt::Whole => {}
                Rebuilt::NotNow => not_now.push(snapshot.clone()),
                Rebuilt::Anew(tree, losses) => new.push((snapshot, tree, losses)),
            }
        }
        let stored = writer.finish()?;
        Ok((stored, repo.snapshot_ids()?.into_iter().collect()))
    };
    let (stored, listed) = match work() {
        Ok(done) => done,
        Err(e) => {
            disown_lost(repo, &writer.abandon());
            return Err(e);
        }
    };
    // Of what others have forgotten a prune may have removed something while it was looked at:
    // that isn't damaged. Of what is still there nothing was.
    new.retain(|(snapshot, ..)| listed.contains(&snapshot.id));
    not_now.retain(|snapshot| listed.contains(&snapshot.id));
    Ok(Repaired { new, not_now, stored, listed })
}

/// Whether the snapshot is gone that nothing could be saved of: then a prune has removed what
/// was left of it.
fn is_forgotten(repo: &Repository, id: &ObjectId, error: &Error) -> bool {
    !stops(error) && repo.snapshot_ids().is_ok_and(|ids| !ids.contains(id))
}

fn repaired_data(original: &Snapshot, root: Root, losses: &[Loss]) -> SnapshotData {
    let mut data = SnapshotData::clone(&original.data);
    data.tree = root.tree;
    data.left_out = root.left_out.or(data.left_out);
    data.summary.errors += losses.len() as u64;
    if !original.is_repaired() {
        data.tags.push(REPAIRED.to_owned());
        data.tags.sort();
    }
    data
}

/// Whether it is what an earlier repair has saved.
fn is_same(a: &SnapshotData, b: &SnapshotData) -> bool {
    (a.tree, a.time, &a.host, &a.paths, &a.tags) == (b.tree, b.time, &b.host, &b.paths, &b.tags)
}

enum Rebuilt {
    /// Nothing is lost.
    Whole,
    /// The medium can't read some of it now: that isn't lost, so nothing is rebuilt.
    NotNow,
    /// A new root (`None` if nothing is left) and what it lacks.
    Anew(Option<Root>, Vec<Loss>),
}

fn rebuild(
    repo: &Repository,
    writer: &PackWriter,
    (lost, not_now): (&Lost, &HashSet<BlobId>),
    snapshot: &Snapshot,
    monitor: &dyn Monitor,
) -> Result<Rebuilt> {
    let paths = HashSet::new();
    let mut touched = Touched { lost, not_now, needs_not_now: false, monitor, paths };
    walk_reachable(repo, &snapshot.data.tree, &mut touched)?;
    if touched.needs_not_now {
        return Ok(Rebuilt::NotNow);
    }
    if touched.paths.is_empty() {
        return Ok(Rebuilt::Whole);
    }
    let mut salvage = Salvage::new(repo, writer, lost, touched.paths, monitor);
    let tree = salvage.tree(&snapshot.data.tree)?;
    // Then a newer program knows what it is.
    let is_whole = salvage.losses.is_empty();
    Ok(if is_whole { Rebuilt::Whole } else { Rebuilt::Anew(tree, salvage.losses) })
}

/// Finds entries that have lost something, and the directories above them.
struct Touched<'a> {
    lost: &'a Lost,
    not_now: &'a HashSet<BlobId>,
    /// Whether one of those is needed.
    needs_not_now: bool,
    monitor: &'a dyn Monitor,
    paths: HashSet<Vec<u8>>,
}

impl Touched<'_> {
    fn add(&mut self, path: &[u8]) {
        let mut path = path;
        while self.paths.insert(path.to_vec()) {
            let Some(slash) = path.iter().rposition(|b| *b == b'/') else { break };
            path = &path[..slash];
        }
    }
}

impl Reached for Touched<'_> {
    fn wants_paths(&self) -> bool {
        true
    }

    fn blob(&mut self, _: BlobKind, id: &BlobId, at: At<'_>) -> Result<bool> {
        self.monitor.progress().check()?;
        self.needs_not_now |= self.not_now.contains(id);
        let is_lost = self.lost.problem(id, at.len).is_some();
        if is_lost {
            self.add(at.path);
        }
        Ok(!is_lost)
    }

    fn unreadable(&mut self, _: &BlobId, at: At<'_>, error: Error) -> Result<()> {
        if stops(&error) {
            return Err(error);
        }
        self.needs_not_now |= error.is_unreadable_now();
        self.add(at.path);
        Ok(())
    }

    fn malformed(&mut self, at: At<'_>, _: &str) -> Result<()> {
        self.add(at.path);
        Ok(())
    }
}
