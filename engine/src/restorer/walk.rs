//! The first walk: directories, special files, and work for the workers.

use std::collections::HashMap;
use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crossbeam_channel::Sender;

use super::files::{Batch, FileJob};
use super::{Shared, What};
use crate::error::{Error, Result};
use crate::format::{LinkId, Node, display_name};
use crate::sink::SinkDir;
use crate::tree::{self, Entries};

/// Files with several names: where the first of them was restored.
pub(super) type Links = HashMap<LinkId, Vec<u8>>;

/// Files handed out together.
const BATCH: usize = 64;
const BATCH_BYTES: u64 = 1 << 20;

struct Frame<'r> {
    entries: Entries<'r>,
    path: Vec<u8>,
    dir: Place,
    /// Whether an `include` pattern covers everything here.
    included: bool,
    names: HashSet<Vec<u8>>,
}

/// A directory of the target that is made when something goes into it.
#[derive(Clone)]
enum Place {
    There(Arc<dyn SinkDir>),
    /// Not there, and a dry run won't make it.
    Missing,
    /// To be made under this name in the frame before.
    Later(Vec<u8>),
}

struct Walker<'a> {
    shared: &'a Shared<'a>,
    jobs: Sender<Batch>,
    batch: Batch,
    bytes: u64,
    links: Links,
}

pub(super) fn walk(
    shared: &Shared<'_>,
    what: &What,
    target: Arc<dyn SinkDir>,
    jobs: Sender<Batch>,
) -> Result<Links> {
    let mut walker = Walker { shared, jobs, batch: Vec::new(), bytes: 0, links: Links::new() };
    let included = shared.options.include.is_empty();
    match what {
        What::One(node, dir) => {
            let path = [dir.as_slice(), b"/", &node.name].concat();
            walker.leaf(&Place::There(target), (**node).clone(), path)?;
        }
        What::Contents(tree, path) => {
            let first = Frame {
                entries: tree::entries(shared.repo, tree),
                path: path.clone(),
                dir: Place::There(target),
                included,
                names: HashSet::new(),
            };
            walker.tree(first)?;
        }
    }
    walker.flush()?;
    Ok(walker.links)
}

impl<'a> Walker<'a> {
    fn tree(&mut self, first: Frame<'a>) -> Result<()> {
        let mut stack = vec![first];
        while let Some(frame) = stack.last_mut() {
            self.shared.monitor.progress().check()?;
            match frame.entries.next() {
                Some(Ok(node)) => self.entry(&mut stack, node)?,
                Some(Err(e)) if e.is_damage() => {
                    let path = frame.path.clone();
                    self.shared.problem(&path, &format!("this directory is not whole: {e}"));
                    // What isn't known can't be told from what is superfluous.
                    stack.pop();
                }
                Some(Err(e)) => return Err(e),
                None => {
                    self.delete_others(frame)?;
                    stack.pop();
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, stack: &mut Vec<Frame<'a>>, node: Node) -> Result<()> {
        let shared = self.shared;
        let Some(frame) = stack.last_mut() else { return Ok(()) };
        let path = [frame.path.as_slice(), b"/", &node.name].concat();
        if shared.options.delete {
            frame.names.insert(node.name.clone());
        }
        if shared.options.exclude.matches(&path, node.is_dir()) {
            return Ok(());
        }
        let included = frame.included || shared.options.include.matches(&path, node.is_dir());
        let Some(tree) = node.tree else {
            if included {
                match make(shared, stack) {
                    Some(place) => self.leaf(&place, node, path)?,
                    None => shared.problem(&path, "its directory can't be made"),
                }
            }
            return Ok(());
        };
        shared.monitor.progress().add(1, 0);
        stack.push(Frame {
            entries: tree::entries(shared.repo, &tree),
            path: path.clone(),
            dir: Place::Later(node.name),
            included,
            names: HashSet::new(),
        });
        if included && make(shared, stack).is_none() {
            shared.problem(&path, "nothing below it is restored");
            stack.pop();
        }
        Ok(())
    }

    /// A file or special file.
    fn leaf(&mut self, place: &Place, node: Node, path: Vec<u8>) -> Result<()> {
        let shared = self.shared;
        let dir = match place {
            Place::There(dir) => Some(dir.clone()),
            _ => None,
        };
        if let Some(link) = node.link {
            // A further name: linked when the first one is there.
            if self.links.contains_key(&link) {
                return Ok(());
            }
            self.links.insert(link, path.clone());
        }
        if node.is_file() {
            self.bytes += node.size;
            self.batch.push(FileJob { dir, node, path });
            if self.batch.len() >= BATCH || self.bytes >= BATCH_BYTES {
                self.flush()
            } else {
                Ok(())
            }
        } else {
            shared.counts.others.fetch_add(1, Relaxed);
            shared.monitor.progress().add(1, 0);
            if let Some(dir) = dir.filter(|_| !shared.options.dry_run) {
                match make_special(shared, &*dir, &node) {
                    Ok(problems) => shared.metadata_problems(&path, &problems),
                    Err(e) => shared.problem(&path, &format!("can't be made: {e}")),
                }
            }
            shared.monitor.entry("restored", &|| display_name(&path));
            Ok(())
        }
    }

    fn flush(&mut self) -> Result<()> {
        self.bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            Ok(())
        } else {
            self.jobs.send(batch).map_err(|_| Error::Interrupted)
        }
    }

    fn delete_others(&self, frame: &Frame<'_>) -> Result<()> {
        let shared = self.shared;
        let Place::There(dir) = &frame.dir else { return Ok(()) };
        // The contents of directories that are only on the way to an included entry stay.
        if !shared.options.delete || !frame.included {
            return Ok(());
        }
        for name in dir.names().map_err(|e| Error::io(display_name(&frame.path), e))? {
            let path = [frame.path.as_slice(), b"/", &name].concat();
            // Another worker's unfinished file is not there for good.
            if frame.names.contains(&name) || name.starts_with(b".tresor-") {
                continue;
            }
            shared.counts.deleted.fetch_add(1, Relaxed);
            shared.monitor.entry("deleted", &|| display_name(&path));
            if !shared.options.dry_run
                && let Err(e) = remove(&**dir, &name)
            {
                shared.problem(&path, &format!("can't be removed: {e}"));
            }
        }
        Ok(())
    }
}

fn make_special(
    shared: &Shared<'_>,
    dir: &dyn SinkDir,
    node: &Node,
) -> io::Result<Vec<crate::sink::MetadataProblem>> {
    clear_the_way(shared, dir, node)?;
    dir.make_special(node)
}

/// Removes a directory where something else shall be, if deleting was asked for.
pub(super) fn clear_the_way(shared: &Shared<'_>, dir: &dyn SinkDir, node: &Node) -> io::Result<()> {
    match dir.stat(&node.name)? {
        Some(there) if there.is_dir() && !node.is_dir() => {
            if shared.options.delete {
                return dir.remove_dir_all(&node.name);
            }
            let message =
                "there is a directory of that name in the target (--delete would remove it)";
            Err(io::Error::new(io::ErrorKind::AlreadyExists, message))
        }
        Some(there) if !there.is_dir() && node.is_dir() => dir.remove(&node.name),
        _ => Ok(()),
    }
}

fn remove(dir: &dyn SinkDir, name: &[u8]) -> io::Result<()> {
    match dir.stat(name)? {
        Some(node) if node.is_dir() => dir.remove_dir_all(name),
        Some(_) => dir.remove(name),
        None => Ok(()),
    }
}

/// Makes the directories that the innermost frame stands for; `None`, reported, if one can't be made.
fn make(shared: &Shared<'_>, stack: &mut [Frame<'_>]) -> Option<Place> {
    let mut above: Option<Place> = None;
    for frame in stack.iter_mut() {
        if let Place::Later(name) = &frame.dir {
            let made = match above.as_ref()? {
                Place::There(parent) => make_in(shared, &**parent, name),
                _ => Ok(Place::Missing),
            };
            match made {
                Ok(place) => frame.dir = place,
                Err(e) => {
                    shared.problem(&frame.path, &format!("can't make this directory: {e}"));
                    return None;
                }
            }
            shared.counts.directories.fetch_add(1, Relaxed);
        }
        above = Some(frame.dir.clone());
    }
    above
}

fn make_in(shared: &Shared<'_>, parent: &dyn SinkDir, name: &[u8]) -> io::Result<Place> {
    if shared.options.dry_run {
        let there = parent.stat(name)?.is_some_and(|n| n.is_dir());
        return Ok(if there { Place::There(parent.open_dir(name)?) } else { Place::Missing });
    }
    let node = Node::new(name, crate::format::NodeKind::Directory);
    clear_the_way(shared, parent, &node)?;
    parent.make_dir(name).map(Place::There)
}
