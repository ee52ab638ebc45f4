//! The second walk: further names of files, then the metadata of directories
//! from the inside out, since making entries changes their times.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::walk::{Links, clear_the_way};
use super::{Shared, What};
use crate::error::Result;
use crate::format::{Node, display_name};
use crate::sink::SinkDir;
use crate::tree::{self, Entries};

struct Frame<'r> {
    entries: Entries<'r>,
    path: Vec<u8>,
    dir: Arc<dyn SinkDir>,
    included: bool,
    /// The directory itself; none for the target.
    node: Option<Node>,
}

pub(super) fn finish(
    shared: &Shared<'_>,
    what: &What,
    target: Arc<dyn SinkDir>,
    links: &Links,
) -> Result<()> {
    let What::Contents(tree, base) = what else { return Ok(()) };
    let mut stack = vec![Frame {
        entries: tree::entries(shared.repo, tree),
        path: base.clone(),
        dir: target,
        included: shared.options.include.is_empty(),
        node: None,
    }];
    while let Some(frame) = stack.last_mut() {
        shared.monitor.progress().check()?;
        match frame.entries.next() {
            Some(Ok(node)) => {
                if let Some(below) = entry(shared, &stack, base, node, links)? {
                    stack.push(below);
                }
            }
            // Reported by the first walk.
            Some(Err(e)) if e.is_damage() => leave(shared, &mut stack),
            Some(Err(e)) => return Err(e),
            None => leave(shared, &mut stack),
        }
    }
    Ok(())
}

fn entry<'r>(
    shared: &Shared<'r>,
    stack: &[Frame<'r>],
    base: &[u8],
    mut node: Node,
    links: &Links,
) -> Result<Option<Frame<'r>>> {
    let Some(frame) = stack.last() else { return Ok(None) };
    let path = [frame.path.as_slice(), b"/", &node.name].concat();
    if shared.options.exclude.matches(&path, node.is_dir()) {
        return Ok(None);
    }
    let included = frame.included || shared.options.include.matches(&path, node.is_dir());
    if let Some(tree) = node.tree.take() {
        // Not there: nothing in it was included, or it was reported.
        let Ok(dir) = frame.dir.open_dir(&node.name) else { return Ok(None) };
        let entries = tree::entries(shared.repo, &tree);
        return Ok(Some(Frame { entries, path, dir, included, node: Some(node) }));
    }
    let first =
        node.link.and_then(|link| links.get(&link)).filter(|first| included && **first != path);
    if let Some(first) = first {
        if node.is_file() {
            shared.counts.files.fetch_add(1, Relaxed);
        } else {
            shared.counts.others.fetch_add(1, Relaxed);
        }
        match link(shared, stack, base, &node, first) {
            Ok(()) => shared.monitor.entry("restored", &|| display_name(&path)),
            Err(e) => {
                let first = display_name(first);
                shared.problem(&path, &format!("can't be made another name of {first}: {e}"));
            }
        }
    }
    Ok(None)
}

/// Makes `node` another name of the file that was restored as `first`.
fn link(
    shared: &Shared<'_>,
    stack: &[Frame<'_>],
    base: &[u8],
    node: &Node,
    first: &[u8],
) -> io::Result<()> {
    let (Some(root), Some(here)) = (stack.first(), stack.last()) else { return Ok(()) };
    let below = first.get(base.len() + 1..).unwrap_or_default();
    let mut names: Vec<&[u8]> = below.split(|b| *b == b'/').collect();
    let Some(name) = names.pop() else { return Ok(()) };
    let mut dir = root.dir.clone();
    for part in names {
        dir = dir.open_dir(part)?;
    }
    clear_the_way(shared, &*here.dir, node)?;
    here.dir.link(&node.name, &*dir, name)
}

fn leave(shared: &Shared<'_>, stack: &mut Vec<Frame<'_>>) {
    let Some(done) = stack.pop() else { return };
    if let (Some(node), Some(above)) = (done.node, stack.last()) {
        match above.dir.set_metadata(&node) {
            Ok(problems) => shared.metadata_problems(&done.path, &problems),
            Err(e) => shared.problem(&done.path, &format!("can't set its metadata: {e}")),
        }
    }
}
