//! Compares what the lister finds with the parent snapshot, and hands out work.

use std::cmp::Ordering;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::ahead::list_ahead;
use super::details::Details;
use super::list::Listed;
use super::read::Reader;
use super::{BackupOptions, Segments, Shared};
use crate::contents::{self, Parts};
use crate::error::{Error, Result};
use crate::format::{BlobId, Content, ContentPage, ExtentPage, Node, extend_path, is_valid_name};
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
    /// An entry of the directory isn't saved; or nobody knows which.
    LeftOut(Option<Vec<u8>>),
    Leave,
}

/// Nodes that a reader has completed, in the order of its work; the name of what can't be read.
pub(super) type Nodes = Vec<Result<Box<Node>, Vec<u8>>>;

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
/// How many bundles the lister may be ahead.
const AHEAD: usize = 4;

/// A directory on the way from the root to where the walk is.
struct Frame<'r> {
    dir: Arc<dyn SourceDir>,
    parent: Option<Before<'r>>,
    /// Length of its path.
    path: usize,
}

/// The entries of a directory in the parent snapshot, and the next of them.
struct Before<'r> {
    entries: Entries<'r>,
    next: Option<NodeAt>,
}

struct Walker<'a> {
    shared: &'a Shared,
    /// Path of the current entry.
    path: Vec<u8>,
    jobs: Jobs,
    events: Events,
    batch: Vec<Work>,
    batch_bytes: u64,
    /// Where the nodes of the batch go.
    reply: Option<Sender<Nodes>>,
    /// For the streams of directories.
    reader: Reader<'a>,
}

pub(super) fn walk(
    shared: &Shared,
    root: Arc<dyn SourceDir>,
    options: &BackupOptions,
    (jobs, events): (Jobs, Events),
    segments: &Segments,
) -> Result<()> {
    let (batch, path, batch_bytes, reply) = Default::default();
    let reader = Reader::new(shared, segments);
    let mut walker = Walker { shared, path, jobs, events, batch, batch_bytes, reply, reader };
    let parent = options.parent.as_ref().map(|p| &p.data.tree);
    let first = walker.frame(root.clone(), parent);
    let (to, listed) = bounded(AHEAD);
    std::thread::scope(|scope| {
        let lister = scope.spawn(move || list_ahead(shared, root, options, to));
        let walked = walker.all(first, listed);
        // A lister that stops makes the walk end too early, and one that the walk has left stops.
        walked.and(super::join(lister))
    })?;
    walker.reader.finish()
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
    // Nothing else of the machine was looked at.
    let mut events = [Event::LeftOut(None), Event::Batch(receiver), Event::Pending].into_iter();
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

    fn frame(&self, dir: Arc<dyn SourceDir>, parent: Option<&BlobId>) -> Frame<'a> {
        let parent = parent
            .map(|tree| Before { entries: tree::entries(&self.shared.repo, tree), next: None });
        Frame { dir, parent, path: self.path.len() }
    }

    /// Goes through all that the lister gives.
    fn all(&mut self, root: Frame<'a>, listed: Receiver<Vec<Listed>>) -> Result<()> {
        let mut stack = vec![root];
        for listed in listed.into_iter().flatten() {
            self.shared.monitor.progress().check()?;
            // There are never more `Leave` than directories gone into.
            let Some(frame) = stack.last_mut() else { return Err(Error::Interrupted) };
            match listed {
                Listed::Entry(node) => self.file(frame, node)?,
                Listed::Directory(node, dir) => {
                    let below = self.directory(frame, node, dir)?;
                    stack.extend(below);
                }
                Listed::LeftOut(name) => self.send(Event::LeftOut(name))?,
                Listed::Leave => {
                    stack.pop();
                    self.send(Event::Leave)?;
                }
            }
        }
        self.flush()
    }

    fn directory(
        &mut self,
        frame: &mut Frame<'a>,
        mut node: Node,
        dir: Option<Arc<dyn SourceDir>>,
    ) -> Result<Option<Frame<'a>>> {
        let shared = self.shared;
        let before = frame.before(&node.name)?;
        extend_path(&mut self.path, frame.path, &node.name);
        let mut same = None;
        match &before {
            Some(before) if node.is_unchanged_since(before) && is_stored(&shared.repo, before) => {
                same = Some(before).filter(|before| is_same(&node, before)).cloned();
                keep_details(&mut node, before);
            }
            _ => {
                let details = self.reader.details(&*frame.dir, None, &mut node, &self.path)?;
                if details != Details::Complete {
                    node.ctime = Node::LOOK_AGAIN;
                }
            }
        }
        shared.monitor.progress().add(1, 0);
        self.flush()?;
        self.send(Event::Enter(Box::new(node), same))?;
        let Some(dir) = dir else {
            self.send(Event::LeftOut(None))?;
            self.send(Event::Leave)?;
            return Ok(None);
        };
        let parent = before.as_ref().and_then(|before| before.tree.as_ref());
        Ok(Some(self.frame(dir, parent)))
    }

    fn file(&mut self, frame: &mut Frame<'a>, mut node: Node) -> Result<()> {
        let shared = self.shared;
        let before = frame.before(&node.name)?;
        extend_path(&mut self.path, frame.path, &node.name);
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
                    // A damaged parent is no parent: everything below is read anew. So is one
                    // whose pages contradict each other.
                    Some(Err(e)) if e.is_damage() || matches!(e, Error::Invalid(_)) => {
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

/// Whether the repository has what the parent says an entry consists of, and
/// won't drop it; if not, the entry is read again.
fn is_stored(repo: &Repository, before: &Node) -> bool {
    let known = |id: &BlobId| repo.index().can_rely_on(id);
    let is_known = |content: &Content| match content {
        Content::Inline(_) => true,
        Content::Extents(extents) => extents.iter().filter_map(|e| e.id).all(|id| known(&id)),
        Content::Pages { .. } => all_known(repo, content).is_ok_and(|all| all),
    };
    before.is_file() == before.content.is_some()
        && before.has_whole_content()
        && before.contents().all(|(_, c)| is_known(c))
}

/// Looks up every page and chunk of a long chunk list.
fn all_known(repo: &Repository, content: &Content) -> Result<bool> {
    let mut known = Known { repo, all: true };
    contents::walk_parts(repo, content, &mut known)?;
    Ok(known.all)
}

struct Known<'a> {
    repo: &'a Repository,
    /// Whether all so far are.
    all: bool,
}

impl Parts for Known<'_> {
    fn page(&mut self, page: &ExtentPage, _: u8) -> Result<bool> {
        self.all = self.all && self.repo.index().can_rely_on(&page.id);
        Ok(self.all)
    }

    fn holds(&mut self, page: &ExtentPage, _: u8, read: &ContentPage) -> Result<()> {
        self.all = self.all && read.size() == Some(page.len);
        Ok(())
    }

    fn chunk(&mut self, id: &BlobId, _: u64) -> Result<()> {
        self.all = self.all && self.repo.index().can_rely_on(id);
        Ok(())
    }
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
    node.streams.clone_from(&before.streams);
    node.target.clone_from(&before.target);
}
