//! Looks through the source ahead of the walk, on a thread of its own: names and what `stat` says.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam_channel::Sender;

use super::{BackupOptions, Shared};
use crate::error::{Error, Result};
use crate::exclude::Reason;
use crate::format::{Node, NodeKind, extend_path};
use crate::source::SourceDir;

/// What is to be saved, in the order of the tree.
pub(super) enum Listed {
    Entry(Node),
    /// With the directory, if it is to be gone into; then `Leave` follows.
    Directory(Node, Option<Arc<dyn SourceDir>>),
    /// An entry of the directory gone into that isn't saved; or nobody knows which.
    LeftOut(Option<Vec<u8>>),
    Leave,
}

/// Handed over together: up to so many, and so many directories, each of which is held open.
const TOGETHER: usize = 128;
const DIRECTORIES: usize = 16;

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

/// A directory on the way from the root to what is looked at.
struct Frame {
    dir: Arc<dyn SourceDir>,
    names: std::vec::IntoIter<Vec<u8>>,
    /// Length of its path.
    path: usize,
    selection: Selection,
    /// File system that may not be left.
    device: Option<u64>,
}

struct Lister<'a> {
    shared: &'a Shared,
    options: &'a BackupOptions,
    /// Path of the current entry.
    path: Vec<u8>,
    to: Sender<Vec<Listed>>,
    together: Vec<Listed>,
    /// How many of these are directories.
    directories: usize,
}

pub(super) fn list(
    shared: &Shared,
    root: Arc<dyn SourceDir>,
    options: &BackupOptions,
    to: Sender<Vec<Listed>>,
) -> Result<()> {
    let (path, together) = (Vec::new(), Vec::with_capacity(TOGETHER));
    let mut lister = Lister { shared, options, path, to, together, directories: 0 };
    let selection = Selection::new(options);
    let mut device = None;
    if options.one_file_system && selection.0.is_empty() {
        device = root.device().map_err(|e| Error::io("what file system `/` is on", e))?;
    }
    let first = lister.frame(root, selection, device)?;
    let mut stack = vec![first];
    while let Some(frame) = stack.last_mut() {
        shared.monitor.progress().check()?;
        match frame.names.next() {
            Some(name) => {
                let below = lister.entry(frame, &name)?;
                stack.extend(below);
            }
            None => {
                stack.pop();
                if !stack.is_empty() {
                    lister.give(Listed::Leave)?;
                }
            }
        }
    }
    lister.send()
}

impl Lister<'_> {
    fn give(&mut self, listed: Listed) -> Result<()> {
        self.directories += usize::from(matches!(listed, Listed::Directory(..)));
        self.together.push(listed);
        if self.together.len() >= TOGETHER || self.directories >= DIRECTORIES {
            self.send()?;
        }
        Ok(())
    }

    fn send(&mut self) -> Result<()> {
        self.directories = 0;
        let together = std::mem::replace(&mut self.together, Vec::with_capacity(TOGETHER));
        self.to.send(together).map_err(|_| Error::Interrupted)
    }

    /// Opens up a directory: names to visit in order. An unreadable one is empty.
    fn frame(
        &mut self,
        dir: Arc<dyn SourceDir>,
        selection: Selection,
        device: Option<u64>,
    ) -> Result<Frame> {
        let mut names = if selection.0.is_empty() {
            match dir.names() {
                Ok(names) => names,
                Err(e) => {
                    let shown = if self.path.is_empty() { b"/" } else { self.path.as_slice() };
                    self.shared.unreadable(shown, "can't list this directory", e)?;
                    self.give(Listed::LeftOut(None))?;
                    Vec::new()
                }
            }
        } else {
            self.give(Listed::LeftOut(None))?;
            selection.0.keys().cloned().collect()
        };
        names.sort_unstable();
        // A directory that changes while it is read may give a name twice.
        names.dedup();
        if selection.0.is_empty() && self.options.exclude_caches && is_cache(&*dir, &names) {
            names.retain(|name| name == CACHE_TAG);
            self.give(Listed::LeftOut(None))?;
        }
        Ok(Frame { dir, names: names.into_iter(), path: self.path.len(), selection, device })
    }

    /// Deals with one entry; a directory gives the frame to go into.
    fn entry(&mut self, frame: &mut Frame, name: &[u8]) -> Result<Option<Frame>> {
        let selection = frame.selection.0.remove(name).unwrap_or_default();
        extend_path(&mut self.path, frame.path, name);
        let (node, device) = match frame.dir.stat(name) {
            Ok(stat) => stat,
            Err(e) => {
                self.shared.unreadable(&self.path, "can't be read", e)?;
                return self.leave_out(name);
            }
        };
        let on_the_way = !selection.0.is_empty();
        if !on_the_way && self.is_excluded(&node) {
            return self.leave_out(name);
        }
        if node.is_dir() {
            return self.directory(frame, node, device, selection);
        }
        if on_the_way {
            let message = "is not a directory, so nothing below it can be backed up";
            self.shared.problem(&self.path, message);
            return Ok(None);
        }
        self.give(Listed::Entry(node))?;
        Ok(None)
    }

    fn leave_out(&mut self, name: &[u8]) -> Result<Option<Frame>> {
        self.give(Listed::LeftOut(Some(name.to_vec())))?;
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
        frame: &Frame,
        node: Node,
        device: u64,
        selection: Selection,
    ) -> Result<Option<Frame>> {
        // The limit counts from the paths that were asked for.
        let limit = frame
            .device
            .or_else(|| (self.options.one_file_system && selection.0.is_empty()).then_some(device));
        // Another file system isn't even opened: it may be dead, or be mounted by that.
        if limit.is_some_and(|limit| limit != device) {
            self.give(Listed::Directory(node, None))?;
            return Ok(None);
        }
        match frame.dir.open_dir(&node.name) {
            Ok(dir) => {
                self.give(Listed::Directory(node, Some(dir.clone())))?;
                self.frame(dir, selection, limit).map(Some)
            }
            Err(e) => {
                self.shared.unreadable(&self.path, "can't open this directory", e)?;
                self.leave_out(&node.name)
            }
        }
    }
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
