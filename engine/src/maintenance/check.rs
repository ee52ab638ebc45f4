//! Check: is everything that a snapshot needs there and intact?

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::reach::{Reached, walk_reachable};
use super::used::{Inserted, UsedBlobs};
use crate::error::{Error, Result};
use crate::format::{BlobId, BlobKind, ObjectId, ObjectKind, ObjectName, display_name};
use crate::monitor::Monitor;
use crate::pack::verify_pack;
use crate::repo::{Repository, Snapshot};

#[derive(Clone, Copy, Debug, Default)]
pub struct CheckOptions {
    /// Read every byte of every pack and check every blob.
    pub read_data: bool,
    /// Read only this share of the packs, chosen at random.
    pub subset_percent: Option<f64>,
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
    let mut report = CheckReport::default();
    repo.refresh_index()?;
    for (id, reason) in repo.index().damaged() {
        report.problems.push(CheckProblem::new(ObjectName::new(ObjectKind::Index, id), reason));
    }
    for slot in repo.key_slots()? {
        if let Err(reason) = slot.info {
            report
                .problems
                .push(CheckProblem::new(ObjectName::new(ObjectKind::Key, slot.id), reason));
        }
    }
    let (snapshots, damaged) = repo.snapshots_and_damaged()?;
    for (id, reason) in damaged {
        report.problems.push(CheckProblem::new(ObjectName::new(ObjectKind::Snapshot, id), reason));
    }
    report.snapshots = snapshots.len() as u64;
    monitor.phase("checking packs");
    let mut bad = packs_there(repo, &mut report)?;
    if options.read_data || options.subset_percent.is_some() {
        monitor.phase("reading packs");
        bad.extend(read_packs(repo, options, &bad, &mut report, monitor)?);
    }
    monitor.phase("checking snapshots");
    let lost = walk_all(repo, &snapshots, &bad, &mut report, monitor)?;
    if !lost.is_empty() {
        monitor.phase("looking for the files that are touched");
        name_files(repo, &snapshots, &lost, &mut report, monitor)?;
    }
    Ok(report)
}

/// Compares the index with the packs in the store; returns the ones that are wrong.
fn packs_there(repo: &Repository, report: &mut CheckReport) -> Result<HashSet<ObjectId>> {
    let mut listed: HashMap<ObjectId, u64> = repo
        .store()
        .list(ObjectKind::Pack)?
        .into_iter()
        .map(|(name, size)| (name.id, size))
        .collect();
    let mut bad = HashSet::new();
    let mut seen = HashSet::new();
    for pack in repo.index().runs().iter().flat_map(|r| r.packs().collect::<Vec<_>>()) {
        if !seen.insert(pack.id) {
            continue;
        }
        report.packs += 1;
        let problem = match listed.remove(&pack.id) {
            // Prune deletes marked packs before it can say so.
            None if pack.marked != 0 => None,
            None => Some("it is missing".to_owned()),
            Some(size) if size != pack.size => {
                Some(format!("it is {size} bytes long and must be {}", pack.size))
            }
            Some(_) => None,
        };
        if let Some(message) = problem {
            bad.insert(pack.id);
            report
                .problems
                .push(CheckProblem::new(ObjectName::new(ObjectKind::Pack, pack.id), message));
        }
    }
    report.unused_packs = listed.len() as u64;
    Ok(bad)
}

/// Reads packs and checks every blob in them; returns the ones that are wrong.
fn read_packs(
    repo: &Arc<Repository>,
    options: &CheckOptions,
    bad: &HashSet<ObjectId>,
    report: &mut CheckReport,
    monitor: &dyn Monitor,
) -> Result<HashSet<ObjectId>> {
    let runs = repo.index().runs();
    let mut packs: BTreeMap<ObjectId, u64> = BTreeMap::new();
    for pack in runs.iter().flat_map(|r| r.packs()).filter(|p| !bad.contains(&p.id)) {
        packs.insert(pack.id, pack.size);
    }
    let mut packs: Vec<_> = packs.into_iter().collect();
    if let Some(percent) = options.subset_percent.filter(|_| !options.read_data) {
        // Names of packs are random: those after a random one are a random choice.
        let start = usize::from_le_bytes(crate::crypto::random()?) % packs.len().max(1);
        packs.rotate_left(start);
        packs.truncate((packs.len() as f64 * percent / 100.0).ceil() as usize);
    }
    monitor.progress().expect(packs.len() as u64, packs.iter().map(|p| p.1).sum());
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get()).clamp(2, 8);
    let results: Vec<Result<()>> = std::thread::scope(|scope| {
        let work = || -> Result<()> {
            while let Some((id, size)) = packs.get(next.fetch_add(1, Relaxed)) {
                monitor.progress().check()?;
                let name = ObjectName::new(ObjectKind::Pack, *id);
                let read = repo.store().get(&name).map_err(Error::from);
                let result = read.and_then(|mut bytes| verify_pack(repo.keys(), *id, &mut bytes));
                match result {
                    Ok(_) => {}
                    Err(Error::Damaged { reason, .. }) => lock(&found).push((name, reason)),
                    Err(e) => lock(&found).push((name, e.to_string())),
                }
                monitor.progress().add(1, *size);
            }
            Ok(())
        };
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|t| t.join().unwrap_or(Err(Error::Interrupted))).collect()
    });
    results.into_iter().collect::<Result<()>>()?;
    report.bytes_read = packs.iter().map(|p| p.1).sum();
    let found = found.into_inner().unwrap_or_else(|e| e.into_inner());
    report.problems.extend(found.iter().map(|(name, reason)| CheckProblem::new(*name, reason)));
    Ok(found.into_iter().map(|(name, _)| name.id).collect())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Blobs that no good pack has; with the problem that they belong to.
type Lost = HashMap<BlobId, usize>;

/// Visits all that snapshots need, each blob once.
fn walk_all(
    repo: &Repository,
    snapshots: &[Snapshot],
    bad: &HashSet<ObjectId>,
    report: &mut CheckReport,
    monitor: &dyn Monitor,
) -> Result<Lost> {
    let used = UsedBlobs::new(repo.index(), bad.clone());
    let mut walk = Walk { repo, used, report, lost: Lost::new(), bad };
    for snapshot in snapshots {
        monitor.progress().check()?;
        walk_reachable(repo, &snapshot.data.tree, &mut walk)?;
    }
    Ok(walk.lost)
}

struct Walk<'a> {
    repo: &'a Repository,
    used: UsedBlobs,
    report: &'a mut CheckReport,
    lost: Lost,
    bad: &'a HashSet<ObjectId>,
}

impl Walk<'_> {
    /// The problem that a lost blob belongs to: its pack's, or one of its own.
    fn lose(&mut self, id: &BlobId, reason: impl FnOnce() -> String) {
        if self.lost.contains_key(id) {
            return;
        }
        let pack = self.repo.index().find_all(id).first().map(|f| f.location.segment.pack);
        let of_pack = pack.filter(|p| self.bad.contains(p)).and_then(|pack| {
            let path = ObjectName::new(ObjectKind::Pack, pack).path();
            self.report.problems.iter().position(|p| p.object == path)
        });
        let number = of_pack.unwrap_or_else(|| {
            let object = pack.map_or_else(
                || format!("blob {}", id.short()),
                |p| ObjectName::new(ObjectKind::Pack, p).path(),
            );
            let (message, files) = (reason(), Vec::new());
            self.report.problems.push(CheckProblem { object, message, files, more_files: 0 });
            self.report.problems.len() - 1
        });
        self.lost.insert(*id, number);
    }
}

impl Reached for Walk<'_> {
    fn blob(&mut self, kind: BlobKind, id: &BlobId, _: &[u8]) -> Result<bool> {
        match self.used.insert(id) {
            Inserted::New(_) => self.report.blobs += 1,
            Inserted::Before => return Ok(false),
            Inserted::Unknown => {
                let what = if kind == BlobKind::Tree { "directory page" } else { "chunk" };
                self.lose(id, || format!("no pack holds this {what}"));
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn unreadable(&mut self, id: &BlobId, _: &[u8], error: Error) -> Result<()> {
        match error {
            Error::Interrupted => Err(error),
            error => {
                self.lose(id, || error.to_string());
                Ok(())
            }
        }
    }
}

/// Says which files of which snapshots the lost blobs touch.
fn name_files(
    repo: &Repository,
    snapshots: &[Snapshot],
    lost: &Lost,
    report: &mut CheckReport,
    monitor: &dyn Monitor,
) -> Result<()> {
    for snapshot in snapshots {
        monitor.progress().check()?;
        let prefix = snapshot.id.short();
        let mut naming = Naming { lost, report, prefix, last: (Vec::new(), usize::MAX) };
        walk_reachable(repo, &snapshot.data.tree, &mut naming)?;
    }
    Ok(())
}

struct Naming<'a> {
    lost: &'a Lost,
    report: &'a mut CheckReport,
    prefix: String,
    /// The file named last: a file of many lost chunks is named once.
    last: (Vec<u8>, usize),
}

impl Reached for Naming<'_> {
    fn wants_paths(&self) -> bool {
        true
    }

    fn blob(&mut self, _: BlobKind, id: &BlobId, path: &[u8]) -> Result<bool> {
        let Some(&number) = self.lost.get(id) else { return Ok(true) };
        if self.last.1 != number || self.last.0 != path {
            self.last = (path.to_vec(), number);
            let problem = &mut self.report.problems[number];
            if problem.files.len() < MOST_FILES {
                let path = if path.is_empty() { b"/" } else { path };
                problem.files.push(format!("{}:{}", self.prefix, display_name(path)));
            } else {
                problem.more_files += 1;
            }
        }
        Ok(false)
    }

    fn unreadable(&mut self, _: &BlobId, _: &[u8], _: Error) -> Result<()> {
        Ok(())
    }
}
