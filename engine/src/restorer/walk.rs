//! The first walk: directories, special files, and work for the workers.

use std::collections::HashSet;
use std::collections::hash_map::{Entry, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crossbeam_channel::Sender;

use super::clash::{Clashes, Folded};
use super::files::{Batch, FileJob};
use super::place::{self, Place, Way};
use super::{Shared, What};
use crate::contents;
use crate::error::{Error, Result};
use crate::format::{BlobId, FileIdentity, LinkId, Node, display_name, extend_path};
use crate::sink::SinkDir;
use crate::tree::{self, Entries};

/// Files handed out together.
const BATCH: usize = 64;
const BATCH_BYTES: u64 = 1 << 20;
/// Directories that files handed out together may be in; each is an open file.
const BATCH_DIRS: usize = 8;
/// From a store that is far more is fetched at once.
const FAR: usize = 2;

/// What the second walk needs to know of the first. Paths are as in the snapshot.
#[derive(Default)]
pub(super) struct Walked {
    /// Files with several names, and where the first of them is.
    pub links: HashMap<FileIdentity, Vec<u8>>,
    /// Directories that only something in them was asked for, and whether they are new.
    pub passed: HashMap<Vec<u8>, bool>,
    /// Directories that could not be made, and those that were left alone.
    pub not_made: HashSet<Vec<u8>>,
    /// Directories reported as not whole.
    pub not_whole: HashSet<Vec<u8>>,
    pub clashes: Clashes,
}

/// A directory on the way to where the walk is.
struct Frame<'r> {
    entries: Entries<'r>,
    /// Length of its path.
    path: usize,
    dir: Place,
    /// Whether everything in it was asked for.
    included: bool,
    way: Way,
    /// The names in it so far.
    folded: Folded,
}

struct Walker<'a> {
    shared: &'a Shared<'a>,
    /// Path of the current entry.
    path: Vec<u8>,
    jobs: Sender<Batch>,
    batch: Batch,
    batch_bytes: u64,
    batch_dirs: usize,
    /// Files that have several names, on the source and in the target.
    linked: Vec<Linked>,
    /// How many names of the first that file of the target has.
    shared_names: HashMap<(FileIdentity, LinkId), u32>,
    walked: Walked,
}

/// Waits until all names of it are known.
struct Linked {
    path: Vec<u8>,
    node: Node,
    identity: FileIdentity,
    there: LinkId,
}

pub(super) fn walk(
    shared: &Shared<'_>,
    what: &What,
    target: Arc<dyn SinkDir>,
    jobs: Sender<Batch>,
) -> Result<Walked> {
    let mut walker = Walker {
        shared,
        path: what.base().to_vec(),
        jobs,
        batch: Vec::new(),
        batch_bytes: 0,
        batch_dirs: 0,
        linked: Vec::new(),
        shared_names: HashMap::new(),
        walked: Walked::default(),
    };
    walker.tidy(&*target, what.base());
    match what {
        What::One(node, base) => {
            extend_path(&mut walker.path, base.len(), &node.name);
            walker.leaf(Place::There(target.clone()), Node::clone(node), false)?;
        }
        What::Contents(root, base) => {
            walker.tree(Frame {
                entries: tree::entries(shared.repo, &root.tree),
                path: base.len(),
                dir: Place::There(target.clone()),
                included: shared.includes(base),
                way: Way::Asked,
                folded: Folded::default(),
            })?;
        }
    }
    walker.linked(&target, what.base().len())?;
    walker.flush()?;
    Ok(walker.walked)
}

impl<'a> Walker<'a> {
    fn tree(&mut self, first: Frame<'a>) -> Result<()> {
        let mut stack = vec![first];
        while let Some(frame) = stack.last_mut() {
            self.shared.monitor.progress().check()?;
            match frame.entries.next() {
                Some(Ok(node)) => self.entry(&mut stack, node)?,
                Some(Err(e)) => {
                    let message = self.shared.survive(e)?;
                    self.path.truncate(frame.path);
                    self.shared.problem(&self.path, &format!("not whole: {message}"));
                    self.walked.not_whole.insert(self.path.clone());
                }
                None => drop(stack.pop()),
            }
        }
        Ok(())
    }

    fn entry(&mut self, stack: &mut Vec<Frame<'a>>, node: Node) -> Result<()> {
        let shared = self.shared;
        let Some(frame) = stack.last_mut() else { return Ok(()) };
        extend_path(&mut self.path, frame.path, &node.name);
        if shared.options.exclude.matches(&self.path, node.is_dir()) {
            return Ok(());
        }
        let included = frame.included || shared.options.include.matches(&self.path, node.is_dir());
        let is_alike = (included || node.is_dir()) && frame.folded.add(&node.name);
        if is_alike {
            self.walked.clashes.add(&self.path[..frame.path], &node.name);
        }
        match (node.is_dir(), node.tree) {
            (true, Some(tree)) => self.directory(stack, node.name, &tree, included),
            (true, None) if included => {
                if let Err(e) = contents::check(&node) {
                    shared.problem(&self.path, &format!("not restored: {e}"));
                }
            }
            (false, _) if included => {
                if let Some(place) = self.make(stack) {
                    return self.leaf(place, node, is_alike);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn directory(
        &mut self,
        stack: &mut Vec<Frame<'a>>,
        name: Vec<u8>,
        tree: &BlobId,
        included: bool,
    ) {
        let shared = self.shared;
        shared.monitor.progress().add(1, 0);
        let way = match included {
            true if shared.repo.tree_page(tree).is_ok() => Way::Asked,
            true => Way::Unreadable,
            false => Way::Passing,
        };
        stack.push(Frame {
            entries: tree::entries(shared.repo, tree),
            path: self.path.len(),
            dir: Place::Later(name),
            included,
            way,
            folded: Folded::default(),
        });
        if included && self.make(stack).is_none() {
            stack.pop();
        }
    }

    /// Makes the directories that the innermost frame stands for; `None` if one
    /// can't be made, which is reported once for all that would go into it.
    fn make(&mut self, stack: &mut [Frame<'a>]) -> Option<Place> {
        let later = stack.iter().position(|f| matches!(f.dir, Place::Later(_)));
        for at in later.unwrap_or(stack.len())..stack.len() {
            let (above, below) = stack.split_at_mut(at);
            let (Some(above), Some(frame)) = (above.last(), below.first_mut()) else { break };
            frame.dir = match (&above.dir, &frame.dir) {
                (Place::There(above) | Place::New(above), Place::Later(name)) => {
                    self.make_one(&**above, name, frame)
                }
                (Place::Missing, _) => {
                    self.shared.counts.directories.fetch_add(1, Relaxed);
                    Place::Missing
                }
                _ => Place::Failed,
            };
        }
        let dir = stack.last().map(|f| f.dir.clone());
        dir.filter(|dir| !matches!(dir, Place::Kept(_) | Place::Failed))
    }

    fn make_one(&mut self, above: &dyn SinkDir, name: &[u8], frame: &Frame<'_>) -> Place {
        let (shared, path) = (self.shared, &self.path[..frame.path]);
        match place::directory(shared, above, name, frame.way) {
            Ok((Place::Kept(what), _)) => {
                shared.leave_alone(path, what);
                self.walked.not_made.insert(path.to_vec());
                Place::Kept(what)
            }
            Ok((place, new)) => {
                shared.counts.directories.fetch_add(1, Relaxed);
                if frame.way == Way::Passing {
                    self.walked.passed.insert(path.to_vec(), new);
                }
                if let (Place::There(dir), false) = (&place, new) {
                    self.tidy(&**dir, path);
                }
                place
            }
            Err(e) => {
                let message = format!("can't be made, so nothing in it is restored: {e}");
                shared.problem(path, &message);
                self.walked.not_made.insert(path.to_vec());
                Place::Failed
            }
        }
    }

    /// Before anything is written into a directory: what a killed restore has left there goes.
    fn tidy(&self, dir: &dyn SinkDir, path: &[u8]) {
        if self.shared.options.dry_run {
            return;
        }
        if let Err(e) = dir.remove_leftovers() {
            let message = format!("what an interrupted restore has left in it stays: {e}");
            self.shared.monitor.problem(&display_name(path), &message);
        }
    }

    /// A file or special file; `is_alike` if its name may be another one's in the target.
    fn leaf(&mut self, place: Place, node: Node, is_alike: bool) -> Result<()> {
        let shared = self.shared;
        let (dir, new) = match place {
            Place::There(dir) => (Some(dir), false),
            Place::New(dir) => (Some(dir), true),
            _ => (None, false),
        };
        // A dry run looks at each name by itself.
        if let Some(identity) = node.identity().filter(|_| !shared.options.dry_run) {
            let there = dir.as_deref().filter(|_| !new).and_then(|dir| link(dir, &node));
            // What may be the same name again doesn't count.
            if let Some(there) = there.filter(|_| !is_alike) {
                *self.shared_names.entry((identity, there)).or_default() += 1;
            }
            match self.walked.links.entry(identity) {
                // A further name: the second walk links it to the first.
                Entry::Occupied(_) => return Ok(()),
                Entry::Vacant(first) => drop(first.insert(self.path.clone())),
            }
            if let Some(there) = there.filter(|_| node.is_file()) {
                let path = self.path.clone();
                self.linked.push(Linked { path, node, identity, there });
                return Ok(());
            }
        }
        if !node.is_file() {
            return place::special(shared, dir.as_deref(), &node, &self.path);
        }
        self.add(FileJob { dir, new, node, path: self.path.clone(), ours: None })
    }

    /// When all names are known: who has put a name of somebody else's file here has at least
    /// one that isn't among them.
    fn linked(&mut self, target: &Arc<dyn SinkDir>, base: usize) -> Result<()> {
        for Linked { path, node, identity, there } in std::mem::take(&mut self.linked) {
            let names = self.shared_names.get(&(identity, there));
            let ours = (names == Some(&there.names)).then_some(there);
            match place::open_above(target, base, &path) {
                Ok((dir, _)) => {
                    self.add(FileJob { dir: Some(dir), new: false, node, path, ours })?
                }
                Err(e) => {
                    self.shared.problem(&path, &format!("can't be written: {e}"));
                    self.shared.fail(&node, &path);
                }
            }
        }
        Ok(())
    }

    /// Hands a file out, with others.
    fn add(&mut self, job: FileJob) -> Result<()> {
        let is_same = |other: &FileJob| match (&other.dir, &job.dir) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        self.batch_dirs += usize::from(!self.batch.last().is_some_and(is_same));
        self.batch_bytes = self.batch_bytes.saturating_add(job.node.size);
        self.batch.push(job);
        let more = if self.shared.repo.is_far() { FAR } else { 1 };
        if self.batch.len() >= BATCH * more * more
            || self.batch_bytes >= BATCH_BYTES * more as u64
            || self.batch_dirs >= BATCH_DIRS * more
        {
            return self.flush();
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        (self.batch_bytes, self.batch_dirs) = (0, 0);
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            Ok(())
        } else {
            self.jobs.send(batch).map_err(|_| Error::Interrupted)
        }
    }
}

/// What lies under the name of an entry, if that has further names.
fn link(dir: &dyn SinkDir, node: &Node) -> Option<LinkId> {
    dir.stat(&node.name).ok().flatten().and_then(|there| there.link)
}
