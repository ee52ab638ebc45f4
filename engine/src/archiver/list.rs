//! Looks through the source: names and what `stat` says. A backup does it ahead of the walk, on a
//! thread of its own (`ahead.rs`), and once more on another to know how much there is (`count.rs`).

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::BackupOptions;
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

/// Is told what is found. An error ends the look.
pub(super) trait Listener {
    fn found(&mut self, listed: Listed) -> Result<()>;

    /// An error once a stop was asked for.
    fn check(&self) -> Result<()>;

    fn problem(&self, path: &[u8], message: &str) {
        let _ = (path, message);
    }

    /// What can't be read is a problem, too, unless it is this process that can't read anything.
    fn unreadable(&self, path: &[u8], message: &str, error: io::Error) -> Result<()> {
        let _ = (path, message, error);
        Ok(())
    }

    /// An entry is left out; `asked` if it is one of the paths that were asked for.
    fn left_out(&self, path: &[u8], reason: Reason<'_>, asked: bool) {
        let _ = (path, reason, asked);
    }
}

/// The part of the tree that was asked for.
#[derive(Default)]
struct Selection {
    /// This entry was, with all that is in it.
    asked: bool,
    /// Something in it was.
    below: BTreeMap<Vec<u8>, Selection>,
}

impl Selection {
    fn new(options: &BackupOptions) -> Self {
        let mut root = Self::default();
        for path in &options.paths {
            let parts = path.0.split(|b| *b == b'/').filter(|part| !part.is_empty());
            let mut at = &mut root;
            for part in parts {
                at = at.below.entry(part.to_vec()).or_default();
            }
            at.asked = true;
        }
        root
    }
}

/// How many places were asked for.
pub(super) fn asked(options: &BackupOptions) -> u64 {
    fn count(selection: &Selection) -> u64 {
        u64::from(selection.asked) + selection.below.values().map(count).sum::<u64>()
    }
    count(&Selection::new(options))
}

/// A directory on the way from the root to what is looked at.
struct Frame {
    dir: Arc<dyn SourceDir>,
    names: std::vec::IntoIter<Vec<u8>>,
    /// Length of its path.
    path: usize,
    /// What of it was asked for beside the rest.
    below: BTreeMap<Vec<u8>, Selection>,
    extent: Extent,
}

/// How much of a directory is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// All that is in it, on this file system if it may not be left.
    Whole(Option<u64>),
    /// It is on the way to something that was asked for, and nothing else.
    OnTheWay,
}

struct Lister<'a, L> {
    options: &'a BackupOptions,
    /// Path of the current entry.
    path: Vec<u8>,
    to: &'a mut L,
}

pub(super) fn list(
    root: Arc<dyn SourceDir>,
    options: &BackupOptions,
    to: &mut impl Listener,
) -> Result<()> {
    let mut lister = Lister { options, path: Vec::new(), to };
    let Selection { asked, below } = Selection::new(options);
    let mut extent = Extent::OnTheWay;
    if asked {
        let device = if options.one_file_system { root.device() } else { Ok(None) };
        extent = Extent::Whole(device.map_err(|e| Error::io("what file system `/` is on", e))?);
    }
    let mut stack = vec![lister.frame(root, below, extent)?];
    while let Some(frame) = stack.last_mut() {
        lister.to.check()?;
        match frame.names.next() {
            Some(name) => {
                let below = lister.entry(frame, &name)?;
                stack.extend(below);
            }
            None => {
                stack.pop();
                if !stack.is_empty() {
                    lister.to.found(Listed::Leave)?;
                }
            }
        }
    }
    Ok(())
}

impl<L: Listener> Lister<'_, L> {
    /// Opens up a directory: names to visit in order. An unreadable one is empty.
    fn frame(
        &mut self,
        dir: Arc<dyn SourceDir>,
        below: BTreeMap<Vec<u8>, Selection>,
        extent: Extent,
    ) -> Result<Frame> {
        let mut names = Vec::new();
        if extent == Extent::OnTheWay {
            self.to.found(Listed::LeftOut(None))?;
        } else {
            match dir.names() {
                Ok(all) => names = all,
                Err(e) => {
                    let shown = if self.path.is_empty() { b"/" } else { self.path.as_slice() };
                    self.to.unreadable(shown, "can't list this directory", e)?;
                    self.to.found(Listed::LeftOut(None))?;
                }
            }
            names.sort_unstable();
            if self.options.exclude_caches && is_cache(&*dir, &names) {
                names.retain(|name| name == CACHE_TAG);
                self.to.found(Listed::LeftOut(None))?;
            }
        }
        // What was asked for and isn't there is missed when it is looked at.
        names.extend(below.keys().cloned());
        names.sort_unstable();
        // A directory that changes while it is read may give a name twice.
        names.dedup();
        Ok(Frame { dir, names: names.into_iter(), path: self.path.len(), below, extent })
    }

    /// Deals with one entry; a directory gives the frame to go into.
    fn entry(&mut self, frame: &mut Frame, name: &[u8]) -> Result<Option<Frame>> {
        let selection = frame.below.remove(name).unwrap_or_default();
        extend_path(&mut self.path, frame.path, name);
        let (node, device) = match frame.dir.stat(name) {
            Ok(stat) => stat,
            Err(e) => {
                self.to.unreadable(&self.path, "can't be read", e)?;
                return self.leave_out(name);
            }
        };
        let leads_on = !selection.below.is_empty();
        if leads_on && !node.is_dir() {
            let message = "is not a directory, so nothing below it can be backed up";
            self.to.problem(&self.path, message);
        }
        let mut extent = match frame.extent {
            _ if selection.asked => Extent::Whole(self.options.one_file_system.then_some(device)),
            extent => extent,
        };
        if extent != Extent::OnTheWay && self.is_excluded(&node, selection.asked) {
            extent = Extent::OnTheWay;
        }
        match (node.is_dir(), extent) {
            (true, _) => self.directory(frame, node, device, selection.below, extent),
            (false, Extent::OnTheWay) => self.leave_out(name),
            (false, Extent::Whole(_)) => self.to.found(Listed::Entry(node)).map(|()| None),
        }
    }

    fn leave_out(&mut self, name: &[u8]) -> Result<Option<Frame>> {
        self.to.found(Listed::LeftOut(Some(name.to_vec())))?;
        Ok(None)
    }

    fn is_excluded(&self, node: &Node, asked: bool) -> bool {
        let limit = self.options.exclude_larger_than;
        let is_large = || node.is_file() && limit.is_some_and(|limit| node.size > limit);
        let reason = self.options.exclude.reason(&self.path, node.is_dir());
        let reason = reason.or_else(|| is_large().then_some(Reason::Asked));
        if let Some(reason) = reason {
            self.to.left_out(&self.path, reason, asked);
        }
        reason.is_some()
    }

    fn directory(
        &mut self,
        frame: &Frame,
        node: Node,
        device: u64,
        below: BTreeMap<Vec<u8>, Selection>,
        mut extent: Extent,
    ) -> Result<Option<Frame>> {
        if extent == Extent::OnTheWay && below.is_empty() {
            return self.leave_out(&node.name);
        }
        // Another file system isn't even opened: it may be dead, or be mounted by that.
        if matches!(extent, Extent::Whole(Some(limit)) if limit != device) {
            if below.is_empty() {
                self.to.found(Listed::Directory(node, None))?;
                return Ok(None);
            }
            extent = Extent::OnTheWay;
        }
        match frame.dir.open_dir(&node.name) {
            Ok(dir) => {
                self.to.found(Listed::Directory(node, Some(dir.clone())))?;
                self.frame(dir, below, extent).map(Some)
            }
            Err(e) => {
                self.to.unreadable(&self.path, "can't open this directory", e)?;
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
