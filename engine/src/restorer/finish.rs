//! The second walk, when no worker writes any more: further names of files,
//! what shall not be there, and then the metadata of directories, from the
//! inside out, since making entries changes their times.

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::clash::Alike;
use super::files::{self, Done, FileJob};
use super::place;
use super::streams::with_streams;
use super::walk::Walked;
use super::{Shared, TargetIs, What};
use crate::error::Result;
use crate::format::{BlobId, LeftOut, Node, display_name, extend_path};
use crate::sink::{Kept, MetadataProblem, SinkDir};
use crate::tree::{self, Entries};

/// A directory on the way to where the walk is.
struct Frame<'r> {
    entries: Entries<'r>,
    /// Length of its path.
    path: usize,
    dir: Arc<dyn SinkDir>,
    /// Whether everything in it was asked for.
    included: bool,
    /// The directory itself if its metadata is to be set.
    node: Option<Node>,
    /// The names in it, to tell what is superfluous.
    names: HashSet<Vec<u8>>,
    /// What it held besides when it was backed up.
    left_out: Option<LeftOut>,
    whole: bool,
    /// Whether it is, or is in, one that the target can't tell from another one.
    mixed: bool,
    alike: Option<Alike>,
}

struct Finisher<'a> {
    shared: &'a Shared<'a>,
    walked: Walked,
    target: Arc<dyn SinkDir>,
    /// Length of the target's path in the snapshot.
    base: usize,
    /// Path of the current entry.
    path: Vec<u8>,
}

pub(super) fn finish(
    shared: &Shared<'_>,
    what: &What,
    target: Arc<dyn SinkDir>,
    mut walked: Walked,
) -> Result<()> {
    let What::Contents(root, base) = what else { return Ok(()) };
    let alike = walked.clashes.look(shared.repo, &root.tree, base, &*target);
    let mut stack = vec![Frame {
        entries: tree::entries(shared.repo, &root.tree),
        path: base.len(),
        dir: target.clone(),
        included: shared.includes(base),
        node: None,
        names: HashSet::new(),
        left_out: root.left_out.clone(),
        whole: true,
        mixed: false,
        alike,
    }];
    let mut finisher = Finisher { shared, walked, target, base: base.len(), path: base.clone() };
    while let Some(frame) = stack.last_mut() {
        shared.monitor.progress().check()?;
        match frame.entries.next() {
            Some(Ok(node)) => {
                let below = finisher.entry(frame, node)?;
                stack.extend(below);
            }
            Some(Err(e)) => {
                let message = shared.survive(e)?;
                frame.whole = false;
                finisher.path.truncate(frame.path);
                if !finisher.walked.not_whole.contains(&finisher.path) {
                    shared.problem(&finisher.path, &format!("not whole: {message}"));
                }
            }
            None => {
                if let Some(done) = stack.pop() {
                    finisher.leave(&done, stack.last())?;
                }
            }
        }
    }
    Ok(())
}

/// Gives the target what belongs to the directory that it stands for.
pub(super) fn target(shared: &Shared<'_>, what: &What, target: &dyn SinkDir) -> Result<()> {
    let What::Contents(root, base) = what else { return Ok(()) };
    let is_meant = match shared.options.target {
        TargetIs::Another => false,
        TargetIs::ItsPlace => shared.includes(base),
        TargetIs::New => true,
    };
    let Some(node) = root.node.as_ref().filter(|_| is_meant) else { return Ok(()) };
    let set = with_streams(shared, node, |s| target.set_own_metadata(node, s))?;
    set_metadata(shared, base, set);
    Ok(())
}

fn set_metadata(shared: &Shared<'_>, path: &[u8], set: io::Result<Vec<MetadataProblem>>) {
    match set {
        Ok(problems) => shared.metadata_problems(path, &problems),
        Err(e) => shared.problem(path, &format!("can't set its metadata: {e}")),
    }
}

impl<'a> Finisher<'a> {
    /// Deals with one entry; a directory gives the frame to go into.
    fn entry(&mut self, frame: &mut Frame<'a>, mut node: Node) -> Result<Option<Frame<'a>>> {
        let options = self.shared.options;
        extend_path(&mut self.path, frame.path, &node.name);
        if options.delete && frame.included {
            frame.names.insert(node.name.clone());
        }
        if options.exclude.matches(&self.path, node.is_dir()) {
            return Ok(None);
        }
        let included = frame.included || options.include.matches(&self.path, node.is_dir());
        let mixed = (included || node.is_dir()) && self.is_mixed(frame, &node, included);
        if node.is_dir() {
            let Some(tree) = node.tree.take() else { return Ok(None) };
            let below = self.directory(frame, node, tree, included);
            return Ok(below.map(|below| Frame { mixed: mixed || frame.mixed, ..below }));
        }
        if included && !options.dry_run {
            self.further_name(frame, &node)?;
            if let Some(alike) = frame.alike.as_mut().filter(|_| node.link.is_some()) {
                alike.note(&*frame.dir, &node);
            }
        }
        Ok(None)
    }

    /// Whether an entry is one with another in the target, which is reported once
    /// if it was asked for.
    fn is_mixed(&self, frame: &Frame<'a>, node: &Node, included: bool) -> bool {
        let shared = self.shared;
        let other = frame.alike.as_ref().and_then(|alike| alike.find(&*frame.dir, node));
        if let Some(other) = other.as_ref().filter(|other| included && **other < node.name) {
            let other = display_name(other);
            let message = format!(
                "the target can't tell its name from {other}: one of them has taken the other's place, so restore one of them elsewhere"
            );
            shared.problem(&self.path, &message);
        }
        other.is_some()
    }

    /// Goes only where the first walk has been.
    fn directory(
        &mut self,
        above: &Frame<'a>,
        mut node: Node,
        tree: BlobId,
        included: bool,
    ) -> Option<Frame<'a>> {
        let is_ours = match included {
            true if self.walked.not_made.contains(&self.path) => return None,
            true => true,
            // One that was there before stays as it was.
            false => *self.walked.passed.get(&self.path)?,
        };
        match above.dir.open_dir(&node.name) {
            Ok(dir) => Some(Frame {
                alike: self.walked.clashes.look(self.shared.repo, &tree, &self.path, &*dir),
                entries: tree::entries(self.shared.repo, &tree),
                path: self.path.len(),
                dir,
                included,
                left_out: node.left_out.take(),
                node: Some(node).filter(|_| is_ours && !self.shared.options.dry_run),
                names: HashSet::new(),
                whole: true,
                mixed: false,
            }),
            // A dry run hasn't made it.
            Err(_) if self.shared.options.dry_run => None,
            Err(e) => {
                let message = format!("can't be opened to finish what is in it: {e}");
                self.shared.problem(&self.path, &message);
                None
            }
        }
    }

    /// Makes an entry another name of the file that it was on the source, or else
    /// a file of its own.
    fn further_name(&mut self, frame: &Frame<'_>, node: &Node) -> Result<()> {
        let (shared, path) = (self.shared, &self.path);
        let Some(identity) = node.identity() else { return Ok(()) };
        let Some(first) = self.walked.links.get(&identity).filter(|first| *first != path) else {
            return Ok(());
        };
        // What lies under the first name may be an older file.
        if !shared.failed().contains(first) {
            match self.link(frame, node, first) {
                Ok(done) => {
                    count(shared, node, done, path);
                    return Ok(());
                }
                Err(e) => {
                    let first = display_name(first);
                    let message =
                        format!("can't be made another name of {first}, only a file like it: {e}");
                    shared.problem(path, &message);
                }
            }
        }
        let dir = Some(frame.dir.clone());
        let (node, path) = (node.clone(), path.clone());
        let job = FileJob { dir, new: false, node, path, ours: None };
        if job.node.is_file() {
            files::restore(shared, &job)?;
        } else {
            place::special(shared, job.dir.as_deref(), &job.node, &job.path)?;
        }
        // If that went well, the names to come are linked to this one.
        self.walked.links.insert(identity, job.path);
        Ok(())
    }

    fn link(&self, here: &Frame<'_>, node: &Node, first: &[u8]) -> io::Result<Done> {
        let (dir, name) = place::open_above(&self.target, self.base, first)?;
        let inode = |there: Option<Node>| there.and_then(|n| n.link).map(|link| link.key());
        let there = inode(here.dir.stat(&node.name)?);
        if there.is_some() && there == inode(dir.stat(name)?) {
            return Ok(Done::Unchanged);
        }
        let link = || here.dir.link(&node.name, &*dir, name);
        place::replace(self.shared, &*here.dir, &node.name, link)?;
        Ok(Done::Restored)
    }

    fn leave(&mut self, done: &Frame<'_>, above: Option<&Frame<'_>>) -> Result<()> {
        let shared = self.shared;
        self.path.truncate(done.path);
        // What isn't known, or belongs to another directory, can't be told from
        // what is superfluous.
        if shared.options.delete && done.included && done.whole && !done.mixed {
            self.delete_others(&*done.dir, &done.names, done.left_out.as_ref());
            self.path.truncate(done.path);
        }
        if let (Some(node), Some(above)) = (&done.node, above) {
            let set = with_streams(shared, node, |s| above.dir.set_metadata(node, s))?;
            set_metadata(shared, &self.path, set);
        }
        Ok(())
    }

    /// Removes all of the directory at the current path but these names, and what may have been left
    /// out; the path ends up anywhere.
    fn delete_others(
        &mut self,
        dir: &dyn SinkDir,
        names: &HashSet<Vec<u8>>,
        left_out: Option<&LeftOut>,
    ) {
        if left_out == Some(&LeftOut::Unknown) {
            return self.keep_others(dir, names);
        }
        let (shared, here) = (self.shared, self.path.len());
        let superfluous = match superfluous(dir, names) {
            Ok(superfluous) => superfluous,
            Err(e) => {
                let message = format!("can't tell what in it is to be removed, so all stays: {e}");
                return shared.problem(&self.path, &message);
            }
        };
        for (name, is_dir) in superfluous {
            extend_path(&mut self.path, here, &name);
            if shared.options.exclude.matches(&self.path, is_dir) {
                continue;
            }
            // Perhaps it was there, and this is the only copy.
            let stays = left_out.is_some_and(|out| out.may_have(&name));
            match self.delete(dir, &name, is_dir, stays) {
                Ok(true) => {
                    shared.counts.deleted.fetch_add(1, Relaxed);
                    shared.monitor.entry("deleted", &|| display_name(&self.path));
                }
                Ok(false) => {}
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => shared.problem(&self.path, &format!("can't be removed: {e}")),
            }
        }
    }

    /// Nobody knows what of it was there when it was backed up.
    fn keep_others(&self, dir: &dyn SinkDir, names: &HashSet<Vec<u8>>) {
        let there = dir.names().unwrap_or_default();
        let others = there.iter().filter(|name| !names.contains(*name)).count();
        if others > 0 {
            let shown = display_name(if self.path.is_empty() { b"/" } else { &self.path });
            self.shared.monitor.note(&format!(
                "{shown}: nothing in it was removed ({others} not in the snapshot), since the backup didn't look at all that was there"
            ));
        }
    }

    /// Removes the entry at the current path; false if it stays, since it, or something in it,
    /// is left alone. In a dry run, whether it would be removed.
    fn delete(
        &mut self,
        dir: &dyn SinkDir,
        name: &[u8],
        is_dir: bool,
        stays: bool,
    ) -> io::Result<bool> {
        let dry_run = self.shared.options.dry_run;
        match if is_dir { dir.kept(name)? } else { Kept::No } {
            Kept::Itself(what) => {
                self.shared.leave_alone(&self.path, what);
                return Ok(false);
            }
            _ if stays => {
                self.shared.monitor.entry("kept", &|| display_name(&self.path));
                return Ok(false);
            }
            Kept::Around(_) => {
                self.delete_others(&*dir.open_dir(name)?, &HashSet::new(), None);
                return Ok(false);
            }
            Kept::No if dry_run => {}
            Kept::No if is_dir => dir.remove_dir_all(name)?,
            Kept::No => dir.remove(name)?,
        }
        Ok(true)
    }
}

/// Entries of a directory that are none of `kept`, and whether they are directories.
///
/// A target that folds case or normalises names lists a kept entry under
/// another spelling. Such a one is found by its own name all the same, so that
/// what has its inode stays. No worker may be writing.
fn superfluous(dir: &dyn SinkDir, kept: &HashSet<Vec<u8>>) -> io::Result<Vec<(Vec<u8>, bool)>> {
    let listed: HashSet<Vec<u8>> = dir.names()?.into_iter().collect();
    let mut respelled = HashSet::new();
    if listed.iter().any(|name| !kept.contains(name)) {
        for name in kept.difference(&listed) {
            match dir.stat(name) {
                Ok(there) => respelled.extend(there.map(|node| node.inode)),
                // It can't be there under a name that the target refuses.
                Err(e)
                    if matches!(e.kind(), ErrorKind::InvalidFilename | ErrorKind::InvalidInput) => {
                }
                Err(e) => return Err(e),
            }
        }
    }
    let mut superfluous = Vec::new();
    for name in listed.into_iter().filter(|name| !kept.contains(name)) {
        match dir.stat(&name)? {
            Some(node) if !respelled.contains(&node.inode) => {
                superfluous.push((name, node.is_dir()));
            }
            _ => {}
        }
    }
    superfluous.sort_unstable();
    Ok(superfluous)
}

/// Counts a further name as the first one was.
fn count(shared: &Shared<'_>, node: &Node, done: Done, path: &[u8]) {
    let counts = &shared.counts;
    let action = if node.is_file() {
        counts.files.fetch_add(1, Relaxed);
        counts.bytes.fetch_add(node.size, Relaxed);
        done.count(counts)
    } else {
        counts.others.fetch_add(1, Relaxed);
        "restored"
    };
    shared.monitor.progress().add(1, if node.is_file() { node.size } else { 0 });
    shared.monitor.entry(action, &|| display_name(path));
}
