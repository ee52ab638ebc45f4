//! Walks the source, compares with the parent snapshot, and hands out work.

use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::{BackupOptions, Details, Shared};
use crate::contents;
use crate::error::{Error, Result};
use crate::exclude::Reason;
use crate::format::{BlobId, Content, Node, NodeKind, extend_path, is_valid_name};
use crate::repo::Repository;
use crate::source::{SourceDir, SourceFile};
use crate::tree::{self, Entries, NodeAt};

/// What the tree builder gets, in the order of the tree.
pub(super) enum Event {
    /// With the node in the parent snapshot if all but its tree is the same.
    Enter(Box<Node>, Option<NodeAt>),
    /// A node that is complete.
    Node(Box<Node>),
    /// A node that is as it was in the parent snapshot.
    Kept(NodeAt),
    /// Where the nodes of the next entries that are `Pending` will come from.
    Batch(Receiver<Nodes>),
    /// The next node of the batch.
    Pending,
    Leave,
}

/// Nodes that a reader has completed, in the order of its work; nothing for what can't be read.
pub(super) type Nodes = Vec<Option<Box<Node>>>;

/// A node to be completed by a reader.
pub(super) struct Work {
    pub dir: Arc<dyn SourceDir>,
    pub node: Box<Node>,
    pub path: Vec<u8>,
    /// The node in the parent snapshot.
    pub before: bool,
}

pub(super) enum Job {
    Entries { works: Vec<Work>, reply: Sender<Nodes> },
    Stream { node: Box<Node>, stream: Box<dyn SourceFile>, reply: Sender<Nodes> },
}

pub(super) type Jobs = Sender<Job>;
pub(super) type Events = Sender<Event>;

/// Small files are handed out together, up to this many and this many bytes.
const BATCH: usize = 64;
const BATCH_BYTES: u64 = 512 << 10;

/// The part of the tree that was asked for; a leaf stands for all below it.
#[derive(Default)]
struct Selection(BTreeMap<Vec<u8>, Selection>);

impl Selection {
    fn new(options: &BackupOptions) -> Self {
        let mut paths: Vec<_> = options.paths.iter().map(|p| p.0.as_slice()).collect();
        // What is inside another one follows it, and adds nothing.
        paths.sort_by(|one, other| parts(one).cmp(parts(other)));
        paths.dedup_by(|path, outer| is_inside(path, outer));
        let mut root = Self::default();
        for path in paths {
            parts(path).fold(&mut root, |at, part| at.0.entry(part.to_vec()).or_default());
        }
        root
    }
}

fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|part| !part.is_empty())
}

/// Whether it is the other one or below it.
fn is_inside(path: &[u8], outer: &[u8]) -> bool {
    let mut path = parts(path);
    parts(outer).all(|part| path.next() == Some(part))
}

/// A directory on the way from the root to where the walk is.
struct Frame<'r> {
    dir: Arc<dyn SourceDir>,
    names: std::vec::IntoIter<Vec<u8>>,
    parent: Option<Before<'r>>,
    /// Length of its path.
    path: usize,
    selection: Selection,
    /// File system that the walk may not leave.
    device: Option<u64>,
}

/// The entries of a directory in the parent snapshot, and the next of them.
struct Before<'r> {
    entries: Entries<'r>,
    next: Option<NodeAt>,
}

struct Walker<'a> {
    shared: &'a Shared,
    options: &'a BackupOptions,
    /// Path of the current entry.
    path: Vec<u8>,
    jobs: Jobs,
    events: Events,
    batch: Vec<Work>,
    batch_bytes: u64,
    /// Where the nodes of the batch go.
    reply: Option<Sender<Nodes>>,
}

pub(super) fn walk(
    shared: &Shared,
    root: Arc<dyn SourceDir>,
    options: &BackupOptions,
    jobs: Jobs,
    events: Events,
) -> Result<()> {
    let (batch, path, batch_bytes, reply) = Default::default();
    let mut walker = Walker { shared, options, path, jobs, events, batch, batch_bytes, reply };
    let selection = Selection::new(options);
    let parent = options.parent.as_ref().map(|p| &p.data.tree);
    let first = walker.frame(root, selection, parent, None)?;
    let mut stack = vec![first];
    while let Some(frame) = stack.last_mut() {
        shared.monitor.progress().check()?;
        match frame.names.next() {
            Some(name) => {
                let below = walker.entry(frame, name)?;
                stack.extend(below);
            }
            None => {
                stack.pop();
                if !stack.is_empty() {
                    walker.send(Event::Leave)?;
                }
            }
        }
    }
    walker.flush()
}

/// The walk of a backup of one stream.
pub(super) fn single(
    shared: &Shared,
    name: &[u8],
    mut stream: Box<dyn SourceFile>,
    jobs: Jobs,
    queue: Events,
) -> Result<()> {
    if !is_valid_name(name) {
        let name = crate::format::display_name(name);
        return Err(Error::Invalid(format!(
            "{name:?} is no file name; it can't be empty, `.`, `..` or have a `/`"
        )));
    }
    let mut node = stream.stat().map_err(|e| Error::io("standard input", e))?;
    node.name = name.to_vec();
    shared.counts.new.fetch_add(1, Relaxed);
    let (reply, receiver) = bounded(1);
    jobs.send(Job::Stream { node: Box::new(node), stream, reply })
        .map_err(|_| Error::Interrupted)?;
    let mut events = [Event::Batch(receiver), Event::Pending].into_iter();
    events.try_for_each(|event| queue.send(event)).map_err(|_| Error::Interrupted)
}

impl<'a> Walker<'a> {
    /// The tree builder may be waiting for an entry that is still in our batch,
    /// so that is handed out before we wait for the tree builder.
    fn send(&mut self, event: Event) -> Result<()> {
        match self.events.try_send(event) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(event)) => {
                self.flush()?;
                self.events.send(event).map_err(|_| Error::Interrupted)
            }
            Err(TrySendError::Disconnected(_)) => Err(Error::Interrupted),
        }
    }

    /// Opens up a directory: names to visit in order. An unreadable one is empty.
    fn frame(
        &self,
        dir: Arc<dyn SourceDir>,
        selection: Selection,
        parent: Option<&BlobId>,
        device: Option<u64>,
    ) -> Result<Frame<'a>> {
        let mut names = if selection.0.is_empty() {
            match dir.names() {
                Ok(names) => names,
                Err(e) => {
                    let shown = if self.path.is_empty() { b"/" } else { self.path.as_slice() };
                    self.shared.unreadable(shown, "can't list this directory", e)?;
                    Vec::new()
                }
            }
        } else {
            selection.0.keys().cloned().collect()
        };
        names.sort_unstable();
        // A directory that changes while it is read may give a name twice.
        names.dedup();
        if selection.0.is_empty() && self.options.exclude_caches && is_cache(&*dir, &names) {
            names.retain(|name| name == CACHE_TAG);
        }
        let parent = parent
            .map(|tree| Before { entries: tree::entries(&self.shared.repo, tree), next: None });
        let (names, path) = (names.into_iter(), self.path.len());
        Ok(Frame { dir, names, parent, path, selection, device })
    }

    /// Deals with one entry; a directory gives the frame to go into.
    fn entry(&mut self, frame: &mut Frame<'a>, name: Vec<u8>) -> Result<Option<Frame<'a>>> {
        let before = frame.before(&name)?;
        let selection = frame.selection.0.remove(&name).unwrap_or_default();
        extend_path(&mut self.path, frame.path, &name);
        let (node, device) = match frame.dir.stat(&name) {
            Ok(stat) => stat,
            Err(e) => {
                self.shared.unreadable(&self.path, "can't be read", e)?;
                return Ok(None);
            }
        };
        let on_the_way = !selection.0.is_empty();
        if !on_the_way && self.is_excluded(&node) {
            return Ok(None);
        }
        if node.is_dir() {
            return self.directory(frame, node, device, selection, before);
        }
        if on_the_way {
            let message = "is not a directory, so nothing below it can be backed up";
            self.shared.problem(&self.path, message);
            return Ok(None);
        }
        self.file(frame, node, before)?;
        Ok(None)
    }

    fn is_excluded(&self, node: &Node) -> bool {
        let reason = self.options.exclude.reason(&self.path, node.is_dir());
        if let Some(Reason::System(why)) = reason {
            let path = || crate::format::display_name(&self.path);
            self.shared.monitor.left_out(&path, why);
        }
        reason.is_some()
            || node.is_file()
                && self.options.exclude_larger_than.is_some_and(|limit| node.size > limit)
    }

    fn directory(
        &mut self,
        frame: &Frame<'a>,
        mut node: Node,
        device: u64,
        selection: Selection,
        before: Option<NodeAt>,
    ) -> Result<Option<Frame<'a>>> {
        let shared = self.shared;
        // The limit counts from the paths that were asked for.
        let limit = frame
            .device
            .or_else(|| (self.options.one_file_system && selection.0.is_empty()).then_some(device));
        let leaves = limit.is_some_and(|limit| limit != device);
        // Another file system isn't even opened: it may be dead, or be mounted by that.
        let opened = if leaves { None } else { Some(frame.dir.open_dir(&node.name)) };
        let opened = match opened.transpose() {
            Ok(dir) => dir,
            Err(e) => {
                shared.unreadable(&self.path, "can't open this directory", e)?;
                return Ok(None);
            }
        };
        let mut same = None;
        match &before {
            Some(before) if node.is_unchanged_since(before) => {
                same = Some(before).filter(|before| is_same(&node, before)).cloned();
                keep_details(&mut node, before);
            }
            _ => {
                if shared.details(&*frame.dir, &mut node, &self.path)? != Details::Complete {
                    node.ctime = Node::LOOK_AGAIN;
                }
            }
        }
        shared.monitor.progress().add(1, 0);
        self.flush()?;
        self.send(Event::Enter(Box::new(node), same))?;
        let Some(opened) = opened else {
            self.send(Event::Leave)?;
            return Ok(None);
        };
        let parent = before.as_ref().and_then(|before| before.tree.as_ref());
        self.frame(opened, selection, parent, limit).map(Some)
    }

    fn file(&mut self, frame: &Frame<'a>, mut node: Node, before: Option<NodeAt>) -> Result<()> {
        let shared = self.shared;
        let is_file = node.is_file();
        let unchanged = |before: &&NodeAt| {
            node.is_unchanged_since(before)
                && node.link == before.link
                && is_stored(&shared.repo, before)
        };
        if let Some(before) = before.as_ref().filter(unchanged) {
            if is_file {
                shared.counts.unchanged.fetch_add(1, Relaxed);
                shared.monitor.entry("unchanged", &|| crate::format::display_name(&self.path));
            }
            shared.monitor.progress().add(1, node.size);
            if is_same(&node, before) {
                return self.send(Event::Kept(before.clone()));
            }
            keep_details(&mut node, before);
            node.content = before.content.clone();
            return self.send(Event::Node(Box::new(node)));
        }
        if self.reply.is_none() {
            let (reply, receiver) = bounded(1);
            // Only now: sending may hand out the batch.
            self.send(Event::Batch(receiver))?;
            self.reply = Some(reply);
        }
        let size = if is_file { node.size } else { 0 };
        let (dir, path, before) = (frame.dir.clone(), self.path.clone(), before.is_some());
        self.batch.push(Work { dir, node: Box::new(node), path, before });
        self.batch_bytes += size;
        if self.batch.len() >= BATCH || self.batch_bytes >= BATCH_BYTES {
            self.flush()?;
        }
        self.send(Event::Pending)
    }

    fn flush(&mut self) -> Result<()> {
        let Some(reply) = self.reply.take() else { return Ok(()) };
        self.batch_bytes = 0;
        let works = std::mem::take(&mut self.batch);
        self.jobs.send(Job::Entries { works, reply }).map_err(|_| Error::Interrupted)
    }
}

impl Frame<'_> {
    /// The entry of this name in the parent snapshot. Names come in ascending order.
    fn before(&mut self, name: &[u8]) -> Result<Option<NodeAt>> {
        let Some(before) = &mut self.parent else { return Ok(None) };
        loop {
            let next = match before.next.take() {
                Some(next) => next,
                None => match before.entries.next_at() {
                    Some(Ok(next)) => next,
                    None => return Ok(None),
                    // A damaged parent is no parent: everything below is read anew.
                    Some(Err(e)) if e.is_damage() => {
                        self.parent = None;
                        return Ok(None);
                    }
                    Some(Err(e)) => return Err(e),
                },
            };
            match next.name.as_slice().cmp(name) {
                Ordering::Less => {}
                Ordering::Equal => return Ok(Some(next)),
                Ordering::Greater => {
                    before.next = Some(next);
                    return Ok(None);
                }
            }
        }
    }
}

/// Whether the repository has what the parent says a file consists of, and
/// won't drop it; if not, the file is read again.
fn is_stored(repo: &Repository, before: &Node) -> bool {
    let known = |id: &BlobId| repo.index().can_rely_on(id);
    match &before.content {
        None => !before.is_file(),
        Some(Content::Inline(_)) => true,
        Some(Content::Extents(extents)) => extents.iter().filter_map(|e| e.id).all(|id| known(&id)),
        Some(content @ Content::Pages { .. }) => all_known(repo, content).is_ok_and(|all| all),
    }
}

/// Looks up every page and chunk of a long chunk list.
fn all_known(repo: &Repository, content: &Content) -> Result<bool> {
    let all = Cell::new(true);
    let look = |id: &BlobId| {
        all.set(all.get() && repo.index().can_rely_on(id));
        Ok(all.get())
    };
    contents::for_each_blob(
        repo,
        content,
        &mut |id| look(id),
        &mut |id| look(id).map(drop),
        &mut |_, e| Err(e),
    )?;
    Ok(all.get())
}

/// Whether an entry whose stamp is the same differs in nothing else that is looked at here.
fn is_same(node: &Node, before: &Node) -> bool {
    (node.mode, node.uid, node.gid) == (before.mode, before.uid, before.gid)
        && (node.device, node.link) == (before.device, before.link)
}

/// Takes over what an unchanged change time vouches for. The access time stays
/// as it was recorded, so that reading files doesn't make every snapshot differ.
fn keep_details(node: &mut Node, before: &Node) {
    node.atime = before.atime;
    node.user.clone_from(&before.user);
    node.group.clone_from(&before.group);
    node.xattrs.clone_from(&before.xattrs);
    node.target.clone_from(&before.target);
}

const CACHE_TAG: &[u8] = b"CACHEDIR.TAG";
const CACHE_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

fn is_cache(dir: &dyn SourceDir, names: &[Vec<u8>]) -> bool {
    if names.binary_search_by(|n| n.as_slice().cmp(CACHE_TAG)).is_err() {
        return false;
    }
    let is_file = dir.stat(CACHE_TAG).is_ok_and(|(node, _)| node.kind == NodeKind::File);
    let mut start = [0; CACHE_SIGNATURE.len()];
    is_file
        && dir.open_file(CACHE_TAG).and_then(|mut f| f.read_at(&mut start, 0)).is_ok()
        && start == CACHE_SIGNATURE
}
