//! Check: is everything that a snapshot needs there and intact?
//!
//! Backups and prunes may run meanwhile. So it begins with the snapshots, which
//! are saved last, and if something seems to be lost while others have changed the
//! repository, it looks again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::reach::{Reached, walk_reachable};
use super::used::{Inserted, Packs, UsedBlobs};
use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::format::{BlobId, BlobKind, ObjectId, ObjectKind, ObjectName, PackEntry, display_name};
use crate::monitor::Monitor;
use crate::pack::{Segment, verify_pack};
use crate::repo::{Repository, Snapshot};
use crate::store::StoreErrorKind;

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
/// Segments of damaged packs kept, in bytes.
const SEGMENT_CACHE: usize = 8 << 20;
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
    monitor.phase("checking packs");
    // What was read before tells nothing about what is in the store now.
    repo.index().reload(repo.store(), repo.keys())?;
    let mut view = View::new(repo)?;
    let mut read = PacksRead::default();
    if options.read_data || options.subset_percent.is_some() {
        monitor.phase("reading packs");
        read = read_packs(repo, options, &view, monitor)?;
        // That may have taken hours.
        view = View::new(repo)?;
    }
    let mut report = examine(repo, &view, &read, monitor)?;
    for _ in 1..ATTEMPTS {
        if report.problems.is_empty() || view.is_current(repo)? {
            break;
        }
        view = View::new(repo)?;
        report = examine(repo, &view, &read, monitor)?;
    }
    Ok(report)
}

/// The repository at one time.
struct View {
    snapshots: Vec<Snapshot>,
    damaged_snapshots: Vec<(ObjectId, String)>,
    damaged_index: Vec<(ObjectId, String)>,
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

/// What was found out by reading packs.
#[derive(Default)]
struct PacksRead {
    damaged: HashMap<ObjectId, String>,
    bytes: u64,
}

/// Everything but reading packs.
fn examine(
    repo: &Arc<Repository>,
    view: &View,
    read: &PacksRead,
    monitor: &dyn Monitor,
) -> Result<CheckReport> {
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
    let bad = check_packs(view, read, &mut report);
    monitor.phase("checking snapshots");
    let lost = walk_all(repo, view, &bad, &mut report, monitor)?;
    if !lost.is_empty() {
        monitor.phase("looking for the files that are touched");
        name_files(repo, &view.snapshots, &lost, &mut report, monitor)?;
    }
    Ok(report)
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

/// Compares the index with the packs in the store; returns the ones that are wrong.
fn check_packs(view: &View, read: &PacksRead, report: &mut CheckReport) -> HashSet<ObjectId> {
    let mut bad = HashSet::new();
    for pack in view.packs.iter() {
        report.packs += 1;
        let problem = match view.listed.get(&pack.id) {
            Some(size) if *size != pack.size => {
                Some(format!("it is {size} bytes long and must be {}", pack.size))
            }
            Some(_) => read.damaged.get(&pack.id).cloned(),
            None => Some("it is missing".to_owned()),
        };
        let Some(message) = problem else { continue };
        bad.insert(pack.id);
        // Prune deletes marked packs before it can say so.
        if pack.marked == 0 || view.listed.contains_key(&pack.id) {
            let name = ObjectName::new(ObjectKind::Pack, pack.id);
            report.problems.push(CheckProblem::new(name, message));
        }
    }
    report.problems.sort_by(|a, b| a.object.cmp(&b.object));
    let unused = view.listed.keys().filter(|id| view.packs.get(id).is_none());
    report.unused_packs = unused.count() as u64;
    bad
}

/// Reads packs and checks every blob in them.
fn read_packs(
    repo: &Arc<Repository>,
    options: &CheckOptions,
    view: &View,
    monitor: &dyn Monitor,
) -> Result<PacksRead> {
    let there = view.packs.iter().filter(|p| view.listed.get(&p.id) == Some(&p.size));
    let packs: BTreeMap<ObjectId, u64> = there.map(|p| (p.id, p.size)).collect();
    let mut packs: Vec<_> = packs.into_iter().collect();
    if let Some(percent) = options.subset_percent.filter(|_| !options.read_data) {
        // Names of packs are random: those after a random one are a random choice.
        let start = usize::from_le_bytes(crate::crypto::random()?) % packs.len().max(1);
        packs.rotate_left(start);
        packs.truncate((packs.len() as f64 * percent / 100.0).ceil() as usize);
    }
    monitor.progress().expect(packs.len() as u64, packs.iter().map(|p| p.1).sum());
    let (next, found) = (AtomicUsize::new(0), Mutex::new(PacksRead::default()));
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get()).clamp(2, 8);
    std::thread::scope(|scope| {
        let work = || -> Result<()> {
            while let Some((id, size)) = packs.get(next.fetch_add(1, Relaxed)) {
                monitor.progress().check()?;
                let problem = read_pack(repo, id);
                let mut found = found.lock().unwrap_or_else(|e| e.into_inner());
                match problem {
                    Ok(()) => found.bytes += size,
                    Err(e) if stops(&e) => return Err(e),
                    // Deleted meanwhile, or it will be missed.
                    Err(Error::Store(e)) if e.is_not_found() => {}
                    Err(e) => {
                        found.bytes += size;
                        found.damaged.insert(*id, reason(e));
                    }
                }
                monitor.progress().add(1, *size);
            }
            Ok(())
        };
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let panicked =
            |_| Err(Error::Invalid("a thread that reads packs panicked; please report it".into()));
        // All are joined: the scope would panic for one that isn't.
        let results: Vec<_> =
            threads.into_iter().map(|t| t.join().unwrap_or_else(panicked)).collect();
        results.into_iter().collect::<Result<()>>()
    })?;
    Ok(found.into_inner().unwrap_or_else(|e| e.into_inner()))
}

/// Checks a pack, and that the index says of it what its own table says.
fn read_pack(repo: &Arc<Repository>, id: &ObjectId) -> Result<()> {
    let name = ObjectName::new(ObjectKind::Pack, *id);
    let mut bytes = repo.store().get(&name)?;
    let table = verify_pack(repo.keys(), *id, &mut bytes)?;
    match unlike_index(repo, &table) {
        0 => Ok(()),
        n => Err(Error::damaged(name, format!("the index is wrong about {n} blobs in it"))),
    }
}

/// How many blobs of a pack the index doesn't know, or where they are not.
fn unlike_index(repo: &Repository, table: &PackEntry) -> usize {
    let placed = table.placed().flat_map(|(offset, segment)| {
        segment.blobs().map(move |(id, start, len)| (id, (offset, segment.sealed_len, start, len)))
    });
    placed
        .filter(|(id, place)| {
            let found = repo.index().find_all(id);
            let here = found.iter().map(|f| f.location).filter(|l| l.segment.pack == table.id);
            let as_place = |l: crate::index::Location| {
                (l.segment.offset, l.segment.sealed_len, l.start, l.len)
            };
            // The index may be a newer one, without this pack.
            !here.clone().any(|l| as_place(l) == *place) && here.count() > 0
        })
        .count()
}

/// Errors that say nothing about one object, but that nothing more can be learnt.
fn stops(error: &Error) -> bool {
    use StoreErrorKind::{NoSpace, Other, ReadOnly};
    match error {
        Error::Interrupted | Error::Io { .. } => true,
        Error::Store(e) => matches!(e.kind, Other | NoSpace | ReadOnly),
        _ => false,
    }
}

fn reason(error: Error) -> String {
    match error {
        Error::Damaged { reason, .. } => reason,
        error => error.to_string(),
    }
}

/// Blobs that can't be read; with the problem that they belong to.
type Lost = HashMap<BlobId, usize>;

/// Visits all that snapshots need, each blob once.
fn walk_all(
    repo: &Repository,
    view: &View,
    bad: &HashSet<ObjectId>,
    report: &mut CheckReport,
    monitor: &dyn Monitor,
) -> Result<Lost> {
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
        lost: Lost::new(),
        of_objects,
        unknown: None,
    };
    for snapshot in &view.snapshots {
        walk_reachable(repo, &snapshot.data.tree, &mut walk)?;
    }
    if let Some((problem, blobs)) = walk.unknown {
        walk.report.problems[problem].message =
            format!("no index object says where {blobs} blobs are that snapshots need");
    }
    Ok(walk.lost)
}

struct Walk<'a> {
    repo: &'a Repository,
    view: &'a View,
    used: UsedBlobs,
    report: &'a mut CheckReport,
    monitor: &'a dyn Monitor,
    /// Of damaged packs: what the repository keeps may be from before the damage.
    segments: Cache<(ObjectId, u32), Segment>,
    lost: Lost,
    /// Problems by the objects they are about.
    of_objects: HashMap<String, usize>,
    /// The problem of blobs that are nowhere, and how many there are.
    unknown: Option<(usize, u64)>,
}

impl Walk<'_> {
    /// A blob can't be had. The problem it belongs to is that of its pack.
    fn lose(&mut self, id: &BlobId, reason: impl FnOnce() -> String) {
        if self.lost.contains_key(id) {
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
        self.lost.insert(*id, problem);
    }

    /// Whether a damaged pack has the blob intact: mostly the damage is elsewhere in it.
    fn is_readable(&self, kind: BlobKind, id: &BlobId) -> Result<bool> {
        for found in self.repo.index().find_all(id) {
            let at = found.location;
            if !self.view.listed.contains_key(&at.segment.pack) {
                continue;
            }
            let segment = self.segments.get_or((at.segment.pack, at.segment.offset), || {
                let segment = self.repo.read_segment(&at.segment)?;
                let weight = segment.len();
                Ok::<_, Error>((Arc::new(segment), weight))
            });
            match segment.and_then(|segment| segment.blob(kind, id, &at).map(drop)) {
                Ok(()) => return Ok(true),
                Err(e) if stops(&e) => return Err(e),
                Err(_) => {}
            }
        }
        Ok(false)
    }

    fn add_problem(&mut self, object: String, message: String) -> usize {
        let number = self.report.problems.len();
        self.of_objects.insert(object.clone(), number);
        let problem = CheckProblem { object, message, files: Vec::new(), more_files: 0 };
        self.report.problems.push(problem);
        number
    }
}

impl Reached for Walk<'_> {
    fn blob(&mut self, kind: BlobKind, id: &BlobId, _: &[u8]) -> Result<bool> {
        self.monitor.progress().check()?;
        match self.used.insert(id) {
            Inserted::New(_) => self.report.blobs += 1,
            Inserted::Before => return Ok(false),
            Inserted::Unknown if self.lost.contains_key(id) => return Ok(false),
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

    fn unreadable(&mut self, id: &BlobId, _: &[u8], error: Error) -> Result<()> {
        if stops(&error) {
            return Err(error);
        }
        self.lose(id, || reason(error));
        Ok(())
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
        let prefix = snapshot.id.short();
        let mut naming = Naming { lost, report, monitor, prefix, last: (Vec::new(), usize::MAX) };
        walk_reachable(repo, &snapshot.data.tree, &mut naming)?;
    }
    Ok(())
}

struct Naming<'a> {
    lost: &'a Lost,
    report: &'a mut CheckReport,
    monitor: &'a dyn Monitor,
    prefix: String,
    /// The file named last: a file of many lost chunks is named once.
    last: (Vec<u8>, usize),
}

impl Reached for Naming<'_> {
    fn wants_paths(&self) -> bool {
        true
    }

    fn blob(&mut self, _: BlobKind, id: &BlobId, path: &[u8]) -> Result<bool> {
        self.monitor.progress().check()?;
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

    fn unreadable(&mut self, _: &BlobId, _: &[u8], error: Error) -> Result<()> {
        if stops(&error) { Err(error) } else { Ok(()) }
    }
}
