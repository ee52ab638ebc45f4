//! A backup, from the source to a saved snapshot:
//!
//! ```text
//! list ──▶ walk ──jobs──▶ readers: read, chunk, hash, known? ──segments──▶ compressors ──▶ PackWriter
//!            └──events, in order──▶ trees: waits for each file, writes pages of directories
//! ```
//! All queues are bounded, so memory doesn't grow with the data.

mod adopt;
mod ahead;
mod confirm;
mod count;
mod details;
mod list;
mod read;
mod trees;
mod walk;

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crossbeam_channel::bounded;

use crate::chunker::Chunker;
use crate::error::{Error, Result};
use crate::exclude::Patterns;
use crate::format::{
    BlobId, LeftOut, Node, NodeKind, ObjectId, ObjectKind, ObjectName, PathBytes, SnapshotData,
    Summary, Time,
};
use crate::maintenance;
use crate::monitor::Monitor;
use crate::pack::{NewSegment, PackWriter, Packed, look_up};
use crate::repo::{Repository, Snapshot, now};
use crate::source::{SourceDir, SourceFile};

pub(crate) use confirm::{FRESH_MARK, disown_lost, save as save_confirmed};
pub use count::{Totals, count};

pub struct BackupOptions {
    /// Absolute, without `.`, `..` or trailing `/`.
    pub paths: Vec<PathBytes>,
    pub exclude: Patterns,
    /// Leave out files longer than this many bytes.
    pub exclude_larger_than: Option<u64>,
    /// Leave out what is in directories with a valid CACHEDIR.TAG.
    pub exclude_caches: bool,
    pub one_file_system: bool,
    /// Snapshot to compare with; files unchanged since then are not read.
    pub parent: Option<Snapshot>,
    pub host: String,
    pub user: String,
    pub tags: Vec<String>,
    /// What the snapshot's time shall be, instead of now.
    pub time: Option<Time>,
    /// Seconds east of UTC.
    pub utc_offset: i32,
    pub program: String,
    /// Tell what would be done, store nothing.
    pub dry_run: bool,
}

/// What a backup has done.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// `None` after a dry run.
    pub snapshot: Option<ObjectId>,
    pub data: SnapshotData,
    pub damage: Damage,
}

/// What is wrong with the repository, as far as a backup notices. What this backup needs of it
/// was stored again; other snapshots may have lost something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Packs that the index names, and that are missing or cut off.
    pub packs_lost: u64,
    /// Index objects that can't be read.
    pub index_damaged: u64,
    /// Packs in which something was found that is not what it must be: not all are read.
    pub packs_damaged: u64,
}

impl Damage {
    pub fn count(self) -> u64 {
        self.packs_lost + self.index_damaged + self.packs_damaged
    }
}

/// Counts kept by all stages.
#[derive(Default)]
struct Counts {
    files: AtomicU64,
    directories: AtomicU64,
    others: AtomicU64,
    bytes: AtomicU64,
    new: AtomicU64,
    changed: AtomicU64,
    unchanged: AtomicU64,
    errors: AtomicU64,
    xattr_entries: AtomicU64,
    /// Paths that were asked for and are left out.
    asked_left_out: AtomicU64,
    xattr_names: Mutex<BTreeSet<Vec<u8>>>,
}

/// What all stages share.
struct Shared {
    repo: Arc<Repository>,
    writer: PackWriter,
    chunker: Chunker,
    monitor: Arc<dyn Monitor>,
    counts: Counts,
}

impl Shared {
    fn problem(&self, path: &[u8], message: &str) {
        self.counts.errors.fetch_add(1, Relaxed);
        self.monitor.problem(&crate::format::display_name(path), message);
    }

    /// Reports what can't be read, and the rest is saved: unless this process is the one that can't.
    fn unreadable(&self, path: &[u8], message: &str, error: io::Error) -> Result<()> {
        if lacks_means(&error) {
            let what = "the backup was given up, since it could save a part only: this process may not open as many files, or use as much memory, as it needs (`ulimit -n` tells and raises the number of files)";
            return Err(Error::io(what, error));
        }
        self.problem(path, &format!("{message}: {error}"));
        Ok(())
    }
}

/// Whether an entry might change once more within the same tick of the clock, unnoticed,
/// after it is `read`. File systems tick in milliseconds, old ones in seconds: those may be
/// shares of a server whose clock runs behind this one, for which a minute is allowed.
fn is_racy(node: &Node, read: Time) -> bool {
    let nanos = |t: Time| i128::from(t.seconds) * 1_000_000_000 + i128::from(t.nanos);
    let tick = if node.ctime.nanos == 0 { 62_000_000_000 } else { 20_000_000 };
    nanos(node.ctime) + tick > nanos(read)
}

/// Whether it says nothing about the file: there are too many open ones, or there is no memory.
fn lacks_means(error: &io::Error) -> bool {
    // EMFILE and ENFILE; ERROR_TOO_MANY_OPEN_FILES.
    let many: &[i32] = if cfg!(windows) { &[4] } else { &[23, 24] };
    error.kind() == io::ErrorKind::OutOfMemory
        || error.raw_os_error().is_some_and(|code| many.contains(&code))
}

/// Of distinct names, more are not listed in the snapshot.
const MOST_XATTR_NAMES: usize = 32;

/// Where new segments go, to be compressed.
type Segments = crossbeam_channel::Sender<NewSegment>;

const SEGMENT_QUEUE: usize = 8;
const JOB_QUEUE: usize = 16;
const EVENT_QUEUE: usize = 8192;

/// Backs up paths of a source.
pub fn backup(
    repo: &Arc<Repository>,
    root: Arc<dyn SourceDir>,
    options: &BackupOptions,
    monitor: Arc<dyn Monitor>,
) -> Result<Outcome> {
    run(repo, options, monitor, |shared, jobs, events, segments| {
        walk::walk(shared, root, options, (jobs, events), segments)
    })
}

/// Backs up one stream as the file `/name`.
pub fn backup_stream(
    repo: &Arc<Repository>,
    name: &[u8],
    stream: Box<dyn SourceFile>,
    options: &BackupOptions,
    monitor: Arc<dyn Monitor>,
) -> Result<Outcome> {
    run(repo, options, monitor, |shared, jobs, events, _| {
        walk::single(shared, name, stream, jobs, events)
    })
}

fn run(
    repo: &Arc<Repository>,
    options: &BackupOptions,
    monitor: Arc<dyn Monitor>,
    walk: impl FnOnce(&Shared, walk::Jobs, walk::Events, &Segments) -> Result<()> + Send,
) -> Result<Outcome> {
    let (start, started) = (Instant::now(), now());
    // Also forgets what an earlier backup of this process stored and never published,
    // and looks which packs are lost.
    let reliance = repo.rely()?;
    let index_damaged = repo.index().damaged().len() as u64;
    let writer =
        if options.dry_run { PackWriter::dry(repo.clone()) } else { PackWriter::new(repo.clone()) };
    let chunker = Chunker::new(repo.keys(), repo.config().chunks);
    let counts = Counts::default();
    let shared = Shared { repo: repo.clone(), writer, chunker, monitor, counts };
    let is_first = options.parent.is_none() && !options.dry_run;
    let adopted = if is_first { adopt::adopt(&shared) } else { Ok(()) };
    let tree = adopted.and_then(|()| pipeline(&shared, walk)).and_then(|tree| {
        shared.monitor.progress().check()?;
        refuse_nothing(&shared, options)?;
        Ok(tree)
    });
    let Shared { mut writer, monitor, counts, .. } = shared;
    let finished = tree.and_then(|tree| {
        monitor.phase("saving");
        Ok((tree, writer.finish()?))
    });
    let ((tree, left_out), finished) = match finished {
        Ok(finished) => finished,
        Err(e) => {
            confirm::disown_lost(repo, &writer.abandon());
            return Err(e);
        }
    };
    let mut summary = counts.summary();
    let written = &finished.counts;
    (summary.blobs_added, summary.bytes_added, summary.bytes_stored) =
        (written.blobs, written.bytes, written.stored);
    let xattr_names = counts.xattr_names();
    summary.seconds = start.elapsed().as_secs_f64();
    let data = SnapshotData {
        time: options.time.unwrap_or(started),
        utc_offset: options.utc_offset,
        host: options.host.clone(),
        user: options.user.clone(),
        paths: options.paths.clone(),
        tags: options.tags.clone(),
        tree,
        summary,
        program: options.program.clone(),
        saved: now(),
        xattr_names,
        left_out,
    };
    let packs_damaged = name_damaged(repo, &*monitor);
    let packs_lost = repo.index().lost_packs().len() as u64;
    let damage = Damage { packs_lost, index_damaged, packs_damaged };
    if options.dry_run {
        return Ok(Outcome { snapshot: None, data, damage });
    }
    let snapshot = Some(confirm::save(repo, &reliance, &data, finished, &*monitor)?);
    let packs_lost = mark_lost(repo, &*monitor);
    Ok(Outcome { snapshot, data, damage: Damage { packs_lost, ..damage } })
}

/// A snapshot of nothing would only push others out.
fn refuse_nothing(shared: &Shared, options: &BackupOptions) -> Result<()> {
    let asked = list::asked(options);
    if asked > 0 && shared.counts.asked_left_out.load(Relaxed) >= asked {
        let why = "all that was asked for is left out (see above), so no snapshot was made";
        return Err(Error::Invalid(why.into()));
    }
    Ok(())
}

/// Names packs in which the backup has found something damaged, and stored it again.
fn name_damaged(repo: &Repository, monitor: &dyn Monitor) -> u64 {
    let damaged = repo.index().damaged_packs();
    for pack in &damaged {
        let name = ObjectName::new(ObjectKind::Pack, *pack).path();
        monitor.problem(
            &name,
            "is damaged; what was found so is stored again, but there may be more (`tresor check --read-data` finds all, and names the files)",
        );
    }
    damaged.len() as u64
}

/// What the backup needs of lost packs is stored again: now the index shall not
/// speak of them any more. The snapshot is saved, whatever becomes of this. Returns how
/// many are lost.
fn mark_lost(repo: &Repository, monitor: &dyn Monitor) -> u64 {
    if repo.index().lost_packs().is_empty() {
        return 0;
    }
    // A prune may have doomed and deleted them since.
    if let Err(e) = repo.refresh_index() {
        monitor.problem("index", &e.to_string());
    }
    let lost = match still_lost(repo) {
        Ok(lost) => lost,
        Err(e) => {
            monitor.problem("packs", &format!("some may be missing or cut off: {e}"));
            return repo.index().lost_packs().len() as u64;
        }
    };
    if lost.is_empty() {
        return 0;
    }
    let count = lost.len();
    monitor.problem(
        "packs",
        &format!("missing or cut off: {count}; what this backup needs of them was stored again (`tresor check` lists the files of other snapshots that are touched)"),
    );
    if let Err(e) = maintenance::mark_lost(repo, lost, monitor) {
        monitor.problem("index", &format!("goes on naming the missing packs: {e}"));
    }
    count as u64
}

/// Of packs that a listing lacks, those that are not there if they are asked for.
fn still_lost(repo: &Repository) -> Result<HashSet<ObjectId>> {
    let lost = repo.index().lost_packs();
    let runs = repo.index().runs();
    let packs = runs.iter().flat_map(|run| run.packs()).filter(|p| lost.contains(&p.id));
    let packs: Vec<_> = packs.map(|p| (p.id, p.size)).collect();
    Ok(look_up(repo.store(), &packs)?.into_iter().collect())
}

/// Runs the stages; returns the root tree.
fn pipeline(
    shared: &Shared,
    walk: impl FnOnce(&Shared, walk::Jobs, walk::Events, &Segments) -> Result<()> + Send,
) -> Result<(BlobId, Option<LeftOut>)> {
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get()).max(2);
    let (jobs, job_queue) = bounded(JOB_QUEUE);
    let (events, event_queue) = bounded(EVENT_QUEUE);
    let (segments, segment_queue) = bounded::<NewSegment>(SEGMENT_QUEUE);
    std::thread::scope(|scope| {
        let of_walker = segments.clone();
        let walker = scope.spawn(move || walk(shared, jobs, events, &of_walker));
        let readers: Vec<_> = (0..workers)
            .map(|_| {
                let (jobs, segments) = (job_queue.clone(), segments.clone());
                scope.spawn(move || read::reader(shared, &jobs, &segments))
            })
            .collect();
        drop((segments, job_queue));
        let compressors: Vec<_> = (0..workers)
            .map(|_| {
                let queue = segment_queue.clone();
                scope.spawn(move || {
                    queue.iter().try_for_each(|s| shared.writer.add(&Packed::from(s)))
                })
            })
            .collect();
        drop(segment_queue);
        let tree = trees::build(shared, event_queue);
        let mut results = vec![join(walker)];
        results.extend(readers.into_iter().map(join));
        results.extend(compressors.into_iter().map(join));
        // A stage that stops makes its neighbours end as "interrupted"; the cause is another error.
        let mut errors: Vec<_> = results.into_iter().filter_map(Result::err).collect();
        let tree = tree.map_err(|e| errors.push(e));
        errors.sort_by_key(|e| matches!(e, Error::Interrupted));
        match (tree, errors.into_iter().next()) {
            (Ok(tree), None) => Ok(tree),
            (_, Some(error)) => Err(error),
            (Err(()), None) => Err(Error::Interrupted),
        }
    })
}

fn join(thread: std::thread::ScopedJoinHandle<'_, Result<()>>) -> Result<()> {
    thread.join().unwrap_or_else(|_| {
        Err(Error::Invalid("a backup thread panicked; please report it".into()))
    })
}

impl Counts {
    /// An entry has been saved.
    fn add(&self, node: &Node) {
        let kind = match node.kind {
            NodeKind::File => &self.files,
            NodeKind::Directory => &self.directories,
            _ => &self.others,
        };
        kind.fetch_add(1, Relaxed);
        if node.is_file() {
            self.bytes.fetch_add(node.size, Relaxed);
        }
        if node.xattrs.is_some() || node.streams.is_some() {
            self.xattr_entries.fetch_add(1, Relaxed);
        }
        let mut attributes = node.attributes().peekable();
        if attributes.peek().is_some() {
            let mut names = self.xattr_names.lock().unwrap_or_else(|e| e.into_inner());
            for (name, _) in attributes {
                if names.len() <= MOST_XATTR_NAMES && !names.contains(name) {
                    names.insert(name.to_vec());
                }
            }
        }
    }

    /// `None` if there are too many to list.
    fn xattr_names(&self) -> Option<Vec<PathBytes>> {
        let names = self.xattr_names.lock().unwrap_or_else(|e| e.into_inner());
        (names.len() <= MOST_XATTR_NAMES).then(|| names.iter().cloned().map(PathBytes).collect())
    }

    fn summary(&self) -> Summary {
        Summary {
            files: self.files.load(Relaxed),
            directories: self.directories.load(Relaxed),
            others: self.others.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            files_new: self.new.load(Relaxed),
            files_changed: self.changed.load(Relaxed),
            files_unchanged: self.unchanged.load(Relaxed),
            errors: self.errors.load(Relaxed),
            xattr_entries: self.xattr_entries.load(Relaxed),
            ..Summary::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_as_long_as_a_tick_of_the_file_system() {
        let changed = |seconds, nanos| {
            let mut node = Node::new(b"name", NodeKind::File);
            node.ctime = Time::new(seconds, nanos);
            node
        };
        let read = Time::new(1_700_000_000, 500_000_000);
        assert!(is_racy(&changed(1_700_000_000, 480_000_001), read));
        assert!(!is_racy(&changed(1_700_000_000, 480_000_000), read));
        // Whole seconds are how FAT and old file systems tick.
        assert!(is_racy(&changed(1_699_999_999, 0), read));
        assert!(!is_racy(&changed(1_699_999_938, 0), read));
        // A clock that runs ahead.
        assert!(is_racy(&changed(1_700_003_600, 1), read));
    }
}
