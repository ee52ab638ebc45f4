//! What snapshots need, and the files that lost blobs touch.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{CheckProblem, CheckReport, MOST_FILES, View};
use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::format::{BlobId, BlobKind, ObjectId, ObjectKind, ObjectName};
use crate::index::SegmentAddr;
use crate::maintenance::reach::{At, Pages, Reached, walk_reachable};
use crate::maintenance::used::{Inserted, UsedBlobs};
use crate::maintenance::workers::{reason, stops};
use crate::monitor::Monitor;
use crate::pack::Segment;
use crate::repo::{Repository, Snapshot};

/// Segments of damaged packs kept, in bytes.
const SEGMENT_CACHE: usize = 8 << 20;

/// What can't be had of what snapshots need, and the problems that it belongs to.
#[derive(Default)]
pub struct Lost {
    /// Blobs that can't be read.
    blobs: HashMap<BlobId, usize>,
    /// Chunks, and lengths that files say of them which they don't have.
    misfits: HashSet<(BlobId, u64)>,
    /// The problem of entries that aren't as a restore needs them.
    malformed: Option<usize>,
}

impl Lost {
    pub fn is_empty(&self) -> bool {
        self.blobs.is_empty() && self.malformed.is_none()
    }

    pub fn has(&self, id: &BlobId) -> bool {
        self.blobs.contains_key(id)
    }

    /// Whether a file can't have this chunk, which it says is so long.
    pub fn has_chunk(&self, id: &BlobId, len: u64) -> bool {
        self.has(id) || self.misfits.contains(&(*id, len))
    }

    /// The problem, of a blob or of a chunk that a file says is so long.
    pub fn problem(&self, id: &BlobId, len: Option<u64>) -> Option<usize> {
        let is_misfit = || len.is_some_and(|len| self.misfits.contains(&(*id, len)));
        self.blobs.get(id).copied().or_else(|| self.malformed.filter(|_| is_misfit()))
    }
}

/// Visits all that snapshots need, each blob once.
///
/// What the medium can't read now is lost to check, but not to those who would act on it:
/// it is in the second of the two.
pub(super) fn walk_all(
    repo: &Repository,
    view: &View,
    bad: &HashSet<ObjectId>,
    report: &mut CheckReport,
    monitor: &dyn Monitor,
) -> Result<(Lost, HashSet<BlobId>)> {
    let used = UsedBlobs::new(repo.index(), |pack| bad.contains(&pack.id));
    let of_objects: HashMap<_, _> =
        report.problems.iter().enumerate().map(|(i, p)| (p.object.clone(), i)).collect();
    let mut walk = Walk {
        repo,
        view,
        used,
        report,
        monitor,
        segments: Cache::new(SEGMENT_CACHE),
        lost: Lost::default(),
        not_now: HashSet::new(),
        of_objects,
        unknown: None,
        pages: Pages::default(),
        malformed: (0, String::new()),
    };
    for snapshot in view.wanted_snapshots() {
        walk_reachable(repo, &snapshot.data.tree, &mut walk)?;
    }
    if let Some((problem, blobs)) = walk.unknown {
        walk.report.problems[problem].message =
            format!("no index object says where {blobs} blobs are that snapshots need");
    }
    if let Some(problem) = walk.lost.malformed {
        let (count, first) = walk.malformed;
        walk.report.problems[problem].message =
            format!("{count} entries, or parts of them, are not as a restore needs them: {first}");
    }
    Ok((walk.lost, walk.not_now))
}

struct Walk<'a> {
    repo: &'a Repository,
    view: &'a View,
    used: UsedBlobs,
    report: &'a mut CheckReport,
    monitor: &'a dyn Monitor,
    /// Of damaged packs: what the repository keeps may be from before the damage.
    segments: Cache<SegmentAddr, Segment>,
    lost: Lost,
    /// Of these, what the medium can't read now.
    not_now: HashSet<BlobId>,
    /// Problems by the objects they are about.
    of_objects: HashMap<String, usize>,
    /// The problem of blobs that are nowhere, and how many there are.
    unknown: Option<(usize, u64)>,
    pages: Pages,
    /// How much is malformed, and how the first of it is.
    malformed: (u64, String),
}

impl Walk<'_> {
    /// A blob can't be had. The problem it belongs to is that of its pack.
    fn lose(&mut self, id: &BlobId, reason: impl FnOnce() -> String) {
        if self.lost.has(id) {
            return;
        }
        let problem = match self.used.bad_place(id) {
            Some(pack) => {
                let path = ObjectName::new(ObjectKind::Pack, pack.id).path();
                match self.of_objects.get(&path) {
                    Some(problem) => *problem,
                    None => self.add_problem(path, reason()),
                }
            }
            None => {
                let (problem, blobs) = match self.unknown {
                    Some((problem, blobs)) => (problem, blobs + 1),
                    None => (self.add_problem("index".to_owned(), String::new()), 1),
                };
                self.unknown = Some((problem, blobs));
                problem
            }
        };
        self.lost.blobs.insert(*id, problem);
    }

    /// Whether a damaged pack has the blob intact: mostly the damage is elsewhere in it.
    fn is_readable(&mut self, kind: BlobKind, id: &BlobId) -> Result<bool> {
        for found in self.repo.index().find_all(id) {
            let at = found.location;
            if !self.view.listed.contains_key(&at.segment.pack) {
                continue;
            }
            let segment = self.segments.get_or(at.segment, || {
                let segment = self.repo.read_segment(&at.segment)?;
                let weight = segment.len();
                Ok::<_, Error>((Arc::new(segment), weight))
            });
            match segment.and_then(|segment| segment.blob(kind, id, &at).map(drop)) {
                Ok(()) => {
                    self.not_now.remove(id);
                    return Ok(true);
                }
                Err(e) if stops(&e) => return Err(e),
                Err(e) if e.is_unreadable_now() => drop(self.not_now.insert(*id)),
                Err(_) => {}
            }
        }
        Ok(false)
    }

    /// Whether a chunk is as long as a file says.
    fn compare(&mut self, id: &BlobId, len: u32, at: At<'_>) -> Result<()> {
        let Some(said) = at.len.filter(|said| *said != u64::from(len)) else { return Ok(()) };
        if self.lost.misfits.insert((*id, said)) {
            let how = format!("chunk {} has {len} bytes and must have {said}", id.short());
            self.malformed(at, &how)?;
        }
        Ok(())
    }

    fn add_problem(&mut self, object: String, message: String) -> usize {
        let number = self.report.problems.len();
        self.of_objects.insert(object.clone(), number);
        self.report.problems.push(CheckProblem::at(object, message));
        number
    }
}

impl Reached for Walk<'_> {
    fn blob(&mut self, kind: BlobKind, id: &BlobId, at: At<'_>) -> Result<bool> {
        self.monitor.progress().check()?;
        match self.used.insert(id) {
            Inserted::New(_, len) => {
                self.report.blobs += 1;
                self.compare(id, len, at)?;
            }
            Inserted::Before(len) => {
                self.compare(id, len, at)?;
                return Ok(false);
            }
            Inserted::Unknown if self.lost.has(id) => return Ok(false),
            Inserted::Unknown if self.is_readable(kind, id)? => {
                self.used.insert_bad(id);
                self.report.blobs += 1;
            }
            Inserted::Unknown => {
                // Only of marked packs this isn't known yet.
                self.lose(id, || "it is missing, and snapshots need it".to_owned());
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn unreadable(&mut self, id: &BlobId, _: At<'_>, error: Error) -> Result<()> {
        if stops(&error) {
            return Err(error);
        }
        if error.is_unreadable_now() {
            self.not_now.insert(*id);
        }
        self.lose(id, || reason(error));
        Ok(())
    }

    fn malformed(&mut self, _: At<'_>, how: &str) -> Result<()> {
        if self.lost.malformed.is_none() {
            self.lost.malformed = Some(self.add_problem("trees".to_owned(), String::new()));
            self.malformed.1 = how.to_owned();
        }
        self.malformed.0 += 1;
        Ok(())
    }

    fn pages(&mut self) -> Option<&mut Pages> {
        Some(&mut self.pages)
    }
}

/// Says which files of which snapshots the lost blobs touch.
pub(super) fn name_files<'s>(
    repo: &Repository,
    snapshots: impl Iterator<Item = &'s Snapshot>,
    lost: &Lost,
    report: &mut CheckReport,
    monitor: &dyn Monitor,
) -> Result<()> {
    for snapshot in snapshots {
        let last = (String::new(), usize::MAX);
        let mut naming = Naming { lost, report, monitor, snapshot: snapshot.id, last };
        walk_reachable(repo, &snapshot.data.tree, &mut naming)?;
    }
    Ok(())
}

struct Naming<'a> {
    lost: &'a Lost,
    report: &'a mut CheckReport,
    monitor: &'a dyn Monitor,
    snapshot: ObjectId,
    /// What was named last: a file of many lost chunks is named once.
    last: (String, usize),
}

impl Naming<'_> {
    fn name(&mut self, number: usize, at: At<'_>) {
        let name = at.shown();
        if self.last == (name.clone(), number) {
            return;
        }
        self.last = (name.clone(), number);
        let problem = &mut self.report.problems[number];
        if problem.snapshots.last() != Some(&self.snapshot) {
            problem.snapshots.push(self.snapshot);
        }
        if problem.files.len() < MOST_FILES {
            problem.files.push(format!("{}:{name}", self.snapshot.short()));
        } else {
            problem.more_files += 1;
        }
    }
}

impl Reached for Naming<'_> {
    fn wants_paths(&self) -> bool {
        true
    }

    fn blob(&mut self, _: BlobKind, id: &BlobId, at: At<'_>) -> Result<bool> {
        self.monitor.progress().check()?;
        let Some(number) = self.lost.problem(id, at.len) else { return Ok(true) };
        self.name(number, at);
        Ok(false)
    }

    fn malformed(&mut self, at: At<'_>, _: &str) -> Result<()> {
        if let Some(number) = self.lost.malformed {
            self.name(number, at);
        }
        Ok(())
    }

    fn unreadable(&mut self, _: &BlobId, _: At<'_>, error: Error) -> Result<()> {
        if stops(&error) { Err(error) } else { Ok(()) }
    }
}
