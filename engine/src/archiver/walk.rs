//! Walks the source, compares with the parent snapshot, and hands out work.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::iter::Peekable;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::{BackupOptions, Details, LOOK_AGAIN, Shared};
use crate::contents;
use crate::error::{Error, Result};
use crate::format::{BlobId, Content, Node, NodeKind, is_valid_name};
use crate::repo::Repository;
use crate::source::{SourceDir, SourceFile};
use crate::tree::{self, Entries};

/// What the tree builder gets, in the order of the tree.
pub(super) enum Event {
    Enter(Box<Node>),
    /// A node that is complete.
    Node(Box<Node>),
    /// A node that a reader completes; nothing if it can't be read.
    Pending(Receiver<Option<Box<Node>>>),
    Leave,
}

/// A node to be completed by a reader.
pub(super) struct Work {
    pub dir: Arc<dyn SourceDir>,
    pub node: Box<Node>,
    pub path: Vec<u8>,
    /// The node in the parent snapshot.
    pub before: bool,
    pub reply: Sender<Option<Box<Node>>>,
}

pub(super) enum Job {
    Entries(Vec<Work>),
    Stream { node: Box<Node>, stream: Box<dyn SourceFile>, reply: Sender<Option<Box<Node>>> },
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
        let mut root = Self::default();
        let mut paths: Vec<_> = options.paths.iter().map(|p| p.0.as_slice()).collect();
        // Shorter first, so that a path inside another one adds nothing.
        paths.sort_by_key(|p| p.len());
        let mut whole: Vec<&[u8]> = Vec::new();
        for path in paths {
            let inside = |outer: &&[u8]| {
                path.starts_with(outer)
                    && (outer.ends_with(b"/") || path.get(outer.len()).is_none_or(|b| *b == b'/'))
            };
            if whole.iter().any(inside) {
                continue;
            }
            whole.push(path);
            let parts = path.split(|b| *b == b'/').filter(|p| !p.is_empty());
            parts.fold(&mut root, |at, part| at.0.entry(part.to_vec()).or_default());
        }
        root
    }
}

/// A directory on the way from the root to where the walk is.
struct Frame<'r> {
    dir: Arc<dyn SourceDir>,
    names: std::vec::IntoIter<Vec<u8>>,
    parent: Option<Peekable<Entries<'r>>>,
    path: Vec<u8>,
    selection: Selection,
    /// File system that the walk may not leave.
    device: Option<u64>,
}

struct Walker<'a> {
    shared: &'a Shared,
    options: &'a BackupOptions,
    jobs: Jobs,
    events: Events,
    batch: Vec<Work>,
    batch_bytes: u64,
}

pub(super) fn walk(
    shared: &Shared,
    root: Arc<dyn SourceDir>,
    options: &BackupOptions,
    jobs: Jobs,
    events: Events,
) -> Result<()> {
    let mut walker = Walker { shared, options, jobs, events, batch: Vec::new(), batch_bytes: 0 };
    let selection = Selection::new(options);
    let parent =
        options.parent.as_ref().map(|p| tree::entries(&shared.repo, &p.data.tree).peekable());
    let first = walker.frame(root, Vec::new(), selection, parent, None)?;
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
    events: Events,
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
    events.send(Event::Pending(receiver)).map_err(|_| Error::Interrupted)
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
        path: Vec<u8>,
        selection: Selection,
        parent: Option<Peekable<Entries<'a>>>,
        device: Option<u64>,
    ) -> Result<Frame<'a>> {
        let mut names = if selection.0.is_empty() {
            match dir.names() {
                Ok(names) => names,
                Err(e) => {
                    let shown = if path.is_empty() { b"/".as_slice() } else { &path };
                    self.shared.problem(shown, &format!("can't list this directory: {e}"));
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
        Ok(Frame { dir, names: names.into_iter(), parent, path, selection, device })
    }

    /// Deals with one entry; a directory gives the frame to go into.
    fn entry(&mut self, frame: &mut Frame<'a>, name: Vec<u8>) -> Result<Option<Frame<'a>>> {
        let before = frame.before(&name)?;
        let selection = frame.selection.0.remove(&name).unwrap_or_default();
        let mut path = Vec::with_capacity(frame.path.len() + 1 + name.len());
        path.extend_from_slice(&frame.path);
        path.push(b'/');
        path.extend_from_slice(&name);
        let (node, device) = match frame.dir.stat(&name) {
            Ok(stat) => stat,
            Err(e) => {
                self.shared.problem(&path, &format!("can't be read: {e}"));
                return Ok(None);
            }
        };
        let on_the_way = !selection.0.is_empty();
        if !on_the_way && self.is_excluded(&path, &node) {
            return Ok(None);
        }
        if node.is_dir() {
            return self.directory(frame, node, device, path, selection, before);
        }
        if on_the_way {
            self.shared.problem(&path, "is not a directory, so nothing below it can be backed up");
            return Ok(None);
        }
        self.file(frame, node, path, before)?;
        Ok(None)
    }

    fn is_excluded(&self, path: &[u8], node: &Node) -> bool {
        self.options.exclude.matches(path, node.is_dir())
            || node.is_file()
                && self.options.exclude_larger_than.is_some_and(|limit| node.size > limit)
    }

    fn directory(
        &mut self,
        frame: &Frame<'a>,
        mut node: Node,
        device: u64,
        path: Vec<u8>,
        selection: Selection,
        before: Option<Node>,
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
                shared.problem(&path, &format!("can't open this directory: {e}"));
                return Ok(None);
            }
        };
        match &before {
            Some(before) if node.same_stamp(before) => keep_details(&mut node, before),
            _ => {
                if shared.details(&*frame.dir, &mut node, &path) != Details::Complete {
                    node.ctime = LOOK_AGAIN;
                }
            }
        }
        shared.monitor.progress().add(1, 0);
        self.flush()?;
        self.send(Event::Enter(Box::new(node)))?;
        let Some(opened) = opened else {
            self.send(Event::Leave)?;
            return Ok(None);
        };
        let parent =
            before.and_then(|b| b.tree).map(|tree| tree::entries(&shared.repo, &tree).peekable());
        self.frame(opened, path, selection, parent, limit).map(Some)
    }

    fn file(
        &mut self,
        frame: &Frame<'a>,
        mut node: Node,
        path: Vec<u8>,
        before: Option<Node>,
    ) -> Result<()> {
        let shared = self.shared;
        let is_file = node.is_file();
        let unchanged =
            |b: &&Node| node.same_stamp(b) && node.link == b.link && is_stored(&shared.repo, b);
        if let Some(before) = before.as_ref().filter(unchanged) {
            keep_details(&mut node, before);
            node.content = before.content.clone();
            if is_file {
                shared.counts.unchanged.fetch_add(1, Relaxed);
                shared.monitor.entry("unchanged", &|| crate::format::display_name(&path));
            }
            shared.monitor.progress().add(1, node.size);
            return self.send(Event::Node(Box::new(node)));
        }
        let (reply, receiver) = bounded(1);
        let size = if is_file { node.size } else { 0 };
        let (dir, before) = (frame.dir.clone(), before.is_some());
        self.batch.push(Work { dir, node: Box::new(node), path, before, reply });
        self.batch_bytes += size;
        if self.batch.len() >= BATCH || self.batch_bytes >= BATCH_BYTES {
            self.flush()?;
        }
        self.send(Event::Pending(receiver))
    }

    fn flush(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.batch_bytes = 0;
        let job = Job::Entries(std::mem::take(&mut self.batch));
        self.jobs.send(job).map_err(|_| Error::Interrupted)
    }
}

impl Frame<'_> {
    /// The entry of this name in the parent snapshot. Names come in ascending order.
    fn before(&mut self, name: &[u8]) -> Result<Option<Node>> {
        let Some(entries) = &mut self.parent else { return Ok(None) };
        loop {
            match entries.peek() {
                Some(Ok(node)) if node.name.as_slice() < name => drop(entries.next()),
                Some(Ok(node)) if node.name == name => {
                    return Ok(entries.next().and_then(Result::ok));
                }
                Some(Ok(_)) | None => return Ok(None),
                // A damaged parent is no parent: everything below is read anew.
                Some(Err(e)) if e.is_damage() => {
                    self.parent = None;
                    return Ok(None);
                }
                Some(Err(_)) => {
                    return entries.next().transpose().map(|_| None);
                }
            }
        }
    }
}

/// Whether the repository has what the parent says a file consists of, and
/// won't drop it; if not, the file is read again. Of long chunk lists, only the
/// first pages are looked up, but all when packs are lost or doomed.
fn is_stored(repo: &Repository, before: &Node) -> bool {
    let index = repo.index();
    let known = |id: &BlobId| index.can_rely_on(id);
    match &before.content {
        Some(content @ Content::Pages { .. }) if index.has_unreliable() => {
            all_known(repo, content).is_ok_and(|all| all)
        }
        None => !before.is_file(),
        Some(Content::Inline(_)) => true,
        Some(Content::Extents(extents)) => extents.iter().filter_map(|e| e.id).all(|id| known(&id)),
        Some(Content::Pages { pages, .. }) => pages.iter().all(|p| known(&p.id)),
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
