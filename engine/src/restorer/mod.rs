//! A restore: the walk makes directories and hands files to workers; a second
//! walk, when all files are there, makes further names of files, removes what
//! shall not be there, and gives directories their metadata.
//!
//! What can't be restored is reported, leaves what is in the target as it is,
//! and doesn't keep the rest from being restored.
//!
//! At the end all is forced to the disk. A note in the target says until then that it isn't:
//! after a power loss, files may be of the right size and time and hold something else.

mod clash;
mod extents;
mod fetch;
mod files;
mod finish;
mod place;
mod segments;
mod streams;
mod walk;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use crossbeam_channel::bounded;

pub use fetch::{read_attribute, read_file, runs_of};
use segments::{Segments, Turns};

use crate::error::{Error, Result};
use crate::exclude::Patterns;
use crate::format::{BlobId, LeftOut, Node, ObjectName, display_name};
use crate::monitor::Monitor;
use crate::repo::Repository;
use crate::sink::SinkDir;
use crate::tree;

#[derive(Default)]
pub struct RestoreOptions {
    /// If not empty: only what matches, or is below a directory that does.
    pub include: Patterns,
    pub exclude: Patterns,
    /// Tell what would be done, change nothing.
    pub dry_run: bool,
    /// Read every restored file again and compare it with the snapshot; also
    /// don't trust times of files that are there already.
    pub verify: bool,
    /// Remove what is in the target's directories and not in the snapshot, save
    /// what `exclude` matches. Without it, no directory makes room for a file.
    pub delete: bool,
    /// What `/` of the snapshot held that isn't in it.
    pub left_out: Option<LeftOut>,
    pub target: TargetIs,
}

/// What the target is to the directory whose contents go into it: whether it also gets what
/// belongs to that, as its owner and mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetIs {
    /// One that was there before, and stays as it was.
    #[default]
    Another,
    /// The place that it was saved from. Not if only something in it is asked for.
    ItsPlace,
    /// Made to hold it.
    New,
}

/// What a restore has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    pub files: u64,
    pub directories: u64,
    pub others: u64,
    /// Length of all files, without their streams.
    pub bytes: u64,
    /// Files that were written, or of which a stream was, and those that the target held already.
    pub files_restored: u64,
    pub files_unchanged: u64,
    /// Bytes fetched from the repository and written, also into streams.
    pub bytes_written: u64,
    /// Entries removed because of `delete`.
    pub deleted: u64,
    /// Files read again and found right.
    pub verified: u64,
    pub errors: u64,
}

#[derive(Default)]
struct Counts {
    files: AtomicU64,
    directories: AtomicU64,
    others: AtomicU64,
    bytes: AtomicU64,
    restored: AtomicU64,
    unchanged: AtomicU64,
    written: AtomicU64,
    deleted: AtomicU64,
    verified: AtomicU64,
    errors: AtomicU64,
}

const JOB_QUEUE: usize = 4;
/// Workers: a store that is far away answers late, and then most of them wait for it.
const WORKERS: usize = 8;
/// Large files fetched at once.
const LARGE: usize = 2;

struct Shared<'a> {
    repo: &'a Arc<Repository>,
    options: &'a RestoreOptions,
    monitor: Arc<dyn Monitor>,
    counts: Counts,
    segments: Segments,
    large: Turns,
    /// Whether files of the target are what their sizes and times say.
    trusts: bool,
    /// Paths of files with several names that could not be restored.
    failed: Mutex<HashSet<Vec<u8>>>,
}

impl Shared<'_> {
    fn problem(&self, path: &[u8], message: &str) {
        self.counts.errors.fetch_add(1, Relaxed);
        let path = if path.is_empty() { b"/" } else { path };
        self.monitor.problem(&display_name(path), message);
    }

    /// Gives back an error that is about one entry. One that ends the restore is
    /// passed on: an interruption, and a store that is gone altogether.
    fn survive(&self, error: Error) -> Result<Error> {
        let gone = || self.repo.store().size(&ObjectName::CONFIG).is_err();
        match error {
            Error::Interrupted => Err(error),
            Error::Store(_) if gone() => Err(error),
            _ => Ok(error),
        }
    }

    fn leave_alone(&self, path: &[u8], what: &str) {
        self.monitor.left_alone(&display_name(path), what);
    }

    fn failed(&self) -> MutexGuard<'_, HashSet<Vec<u8>>> {
        self.failed.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Notes that no further name can be linked to this one.
    fn fail(&self, node: &Node, path: &[u8]) {
        if node.link.is_some() {
            self.failed().insert(path.to_vec());
        }
    }

    /// Whether everything in this directory was asked for.
    fn includes(&self, path: &[u8]) -> bool {
        let include = &self.options.include;
        let ends = path.iter().enumerate().skip(1).filter(|(_, b)| **b == b'/').map(|(at, _)| at);
        let is_asked = |end: usize| end > 0 && include.matches(&path[..end], true);
        include.is_empty() || ends.chain([path.len()]).any(is_asked)
    }

    /// What could not be set on an entry that is otherwise restored.
    fn metadata_problems(&self, path: &[u8], problems: &[crate::sink::MetadataProblem]) {
        for p in problems {
            self.problem(path, &format!("can't set its {}: {}", p.what, p.error));
        }
    }
}

/// Restores a directory's contents, or one entry, into `target`. `root` is a
/// snapshot's root page, `path` the names below it; none for everything.
pub fn restore(
    repo: &Arc<Repository>,
    root: &BlobId,
    path: &[Vec<u8>],
    target: Arc<dyn SinkDir>,
    options: &RestoreOptions,
    monitor: Arc<dyn Monitor>,
) -> Result<Restored> {
    let what = find(repo, root, path, options)?;
    let (segments, large) = (Segments::new(), Turns::new(LARGE));
    let (counts, failed) = Default::default();
    let job = job(root, path, options);
    // Where nothing can be noted, it can't be known either.
    let in_doubt = !options.dry_run && target.begin(job).unwrap_or(true);
    if in_doubt {
        monitor.phase("comparing all with what is there, since an earlier restore did not end");
    }
    let trusts = !in_doubt && !options.verify;
    let shared = Shared { repo, options, monitor, counts, segments, large, trusts, failed };
    let walked = first_walk(&shared, &what, target.clone())?;
    shared.monitor.progress().check()?;
    if !options.dry_run || options.delete {
        shared.monitor.phase("setting times and owners of directories");
        finish::finish(&shared, &what, target.clone(), walked)?;
    }
    if !options.dry_run {
        shared.monitor.phase("forcing everything to the disk");
        let failed = "can't force to the disk what was restored (run this again with --overwrite)";
        target.force().map_err(|e| Error::io(failed, e))?;
        // What is in doubt and could not be restored stays so.
        if !in_doubt || shared.counts.sum().errors == 0 {
            let _ = target.end(job);
        }
        // That was the last change in it, which may be closed to us from now on.
        finish::target(&shared, &what, &*target)?;
    }
    Ok(shared.counts.sum())
}

/// A number that the same restore has again.
fn job(root: &BlobId, path: &[Vec<u8>], options: &RestoreOptions) -> u32 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&root.0);
    hasher.update(&options.include.digest()).update(&options.exclude.digest());
    for name in path {
        hasher.update(name).update(b"/");
    }
    let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn first_walk(shared: &Shared<'_>, what: &What, target: Arc<dyn SinkDir>) -> Result<walk::Walked> {
    let (jobs, queue) = bounded::<files::Batch>(JOB_QUEUE);
    let workers = std::thread::available_parallelism().map_or(WORKERS, |n| n.get()).max(WORKERS);
    std::thread::scope(|scope| {
        let work = |batch: files::Batch| {
            shared.segments.fetch_ahead(shared.repo, &batch);
            batch.iter().try_for_each(|job| files::restore(shared, job).map(drop))
        };
        let workers: Vec<_> = (0..workers)
            .map(|_| {
                let queue = queue.clone();
                scope.spawn(move || queue.iter().try_for_each(work))
            })
            .collect();
        drop(queue);
        let (walked, mut errors) = match walk::walk(shared, what, target, jobs) {
            Ok(walked) => (Some(walked), Vec::new()),
            Err(e) => (None, vec![e]),
        };
        for worker in workers {
            let panicked =
                || Err(Error::Invalid("a restore thread panicked; please report it".into()));
            errors.extend(worker.join().unwrap_or_else(|_| panicked()).err());
        }
        // A walk without workers ends as "interrupted"; the cause is another error.
        errors.sort_by_key(|e| matches!(e, Error::Interrupted));
        match (walked, errors.into_iter().next()) {
            (Some(walked), None) => Ok(walked),
            (_, error) => Err(error.unwrap_or(Error::Interrupted)),
        }
    })
}

/// The directory whose contents are restored.
struct Root {
    tree: BlobId,
    left_out: Option<LeftOut>,
    /// None for `/`, of which a snapshot says nothing.
    node: Option<Node>,
}

/// What to restore.
enum What {
    /// The entries of this directory, and its path for messages and patterns.
    Contents(Box<Root>, Vec<u8>),
    /// This entry, and the path of its directory.
    One(Box<Node>, Vec<u8>),
}

impl What {
    /// Path in the snapshot of what the target stands for.
    fn base(&self) -> &[u8] {
        match self {
            Self::Contents(_, path) | Self::One(_, path) => path,
        }
    }
}

fn find(
    repo: &Repository,
    root: &BlobId,
    path: &[Vec<u8>],
    options: &RestoreOptions,
) -> Result<What> {
    if path.is_empty() {
        let root = Root { tree: *root, left_out: options.left_out.clone(), node: None };
        return Ok(What::Contents(Box::new(root), Vec::new()));
    }
    let names: Vec<&[u8]> = path.iter().map(Vec::as_slice).collect();
    let full =
        |names: &[&[u8]]| names.iter().flat_map(|n| [b"/", *n].concat()).collect::<Vec<u8>>();
    let node = tree::resolve(repo, root, &names)?.ok_or_else(|| {
        let shown = display_name(&full(&names));
        Error::Snapshot(format!("the snapshot holds no {shown}; `tresor ls` shows what it holds"))
    })?;
    match (node.is_dir(), node.tree) {
        (true, Some(tree)) => {
            let root = Root { tree, left_out: node.left_out.clone(), node: Some(node) };
            Ok(What::Contents(Box::new(root), full(&names)))
        }
        (true, None) => {
            let shown = display_name(&full(&names));
            Err(Error::Invalid(format!("the snapshot doesn't tell what is in {shown}")))
        }
        (false, _) => Ok(What::One(Box::new(node), full(&names[..names.len() - 1]))),
    }
}

impl Counts {
    fn sum(&self) -> Restored {
        let get = |n: &AtomicU64| n.load(Relaxed);
        Restored {
            files: get(&self.files),
            directories: get(&self.directories),
            others: get(&self.others),
            bytes: get(&self.bytes),
            files_restored: get(&self.restored),
            files_unchanged: get(&self.unchanged),
            bytes_written: get(&self.written),
            deleted: get(&self.deleted),
            verified: get(&self.verified),
            errors: get(&self.errors),
        }
    }
}
