//! Builds the tree of a snapshot out of the walk's events.

use crossbeam_channel::Receiver;

use super::Shared;
use super::walk::{Event, Nodes};
use crate::error::{Error, Result};
use crate::format::{BlobId, Node};
use crate::tree::{DirWriter, Entry, NodeAt, TreeSink};

/// A directory being written: its node, the same in the parent snapshot if only its
/// tree may have changed since, and its entries. The root has no node.
type Open = (Option<(Box<Node>, Option<NodeAt>)>, DirWriter);

/// Consumes the events; returns the root page.
pub(super) fn build(shared: &Shared, events: Receiver<Event>) -> Result<BlobId> {
    let mut sink = TreeSink::new(&shared.repo, &shared.writer);
    // Of the batch that came last.
    let mut nodes = Nodes::new().into_iter();
    let mut dirs: Vec<Open> = vec![(None, DirWriter::default())];
    for event in events {
        let entry = match event {
            Event::Enter(node, before) => {
                dirs.push((Some((node, before)), DirWriter::default()));
                continue;
            }
            Event::Node(node) => Entry::New(node),
            Event::Kept(node) => Entry::Kept(node),
            Event::Batch(reply) => {
                all_taken(&mut nodes)?;
                let done = reply.recv().map_err(|_| Error::Interrupted)?;
                nodes = done.into_iter();
                continue;
            }
            Event::Pending => match nodes.next() {
                Some(Some(node)) => Entry::New(node),
                Some(None) => continue,
                None => return Err(Error::Interrupted),
            },
            Event::Leave => {
                let Some((Some((mut node, before)), dir)) = dirs.pop() else {
                    return Err(Error::Interrupted);
                };
                node.tree = Some(dir.finish(&mut sink)?);
                match before.filter(|before| before.tree == node.tree) {
                    Some(before) => Entry::Kept(before),
                    None => Entry::New(node),
                }
            }
        };
        shared.counts.add(&entry);
        match dirs.last_mut() {
            Some((_, dir)) => dir.push_entry(entry, &mut sink)?,
            None => return Err(Error::Interrupted),
        }
    }
    all_taken(&mut nodes)?;
    // The walk ended early if directories are still open.
    let Some((None, root)) = dirs.pop().filter(|_| dirs.is_empty()) else {
        return Err(Error::Interrupted);
    };
    let root = root.finish(&mut sink)?;
    sink.flush()?;
    Ok(root)
}

/// Each node of a batch has its place among the events.
fn all_taken(nodes: &mut impl Iterator<Item = Option<Box<Node>>>) -> Result<()> {
    if nodes.next().is_none() { Ok(()) } else { Err(Error::Interrupted) }
}
