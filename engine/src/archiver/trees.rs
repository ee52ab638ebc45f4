//! Builds the tree of a snapshot out of the walk's events.

use crossbeam_channel::Receiver;

use super::Shared;
use super::walk::{Event, Nodes};
use crate::error::{Error, Result};
use crate::format::{BlobId, LeftOut, Node};
use crate::tree::{DirWriter, Entry, NodeAt, TreeSink};

/// A directory being written: its node, the same in the parent snapshot if only its
/// tree may have changed since, and its entries. The root has no node.
#[derive(Default)]
struct Open {
    node: Option<(Box<Node>, Option<NodeAt>)>,
    entries: DirWriter,
    left_out: Option<LeftOut>,
}

impl Open {
    fn leave_out(&mut self, name: Option<Vec<u8>>) {
        match name {
            Some(name) => LeftOut::add(&mut self.left_out, &name),
            None => self.left_out = Some(LeftOut::Unknown),
        }
    }
}

/// Consumes the events; returns the root page, and what `/` has left out.
pub(super) fn build(shared: &Shared, events: Receiver<Event>) -> Result<(BlobId, Option<LeftOut>)> {
    let mut sink = TreeSink::new(&shared.repo, &shared.writer);
    // Of the batch that came last.
    let mut nodes = Nodes::new().into_iter();
    let mut dirs = vec![Open::default()];
    for event in events {
        let Some(open) = dirs.last_mut() else { return Err(Error::Interrupted) };
        let entry = match event {
            Event::Enter(node, before) => {
                dirs.push(Open { node: Some((node, before)), ..Open::default() });
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
                Some(Ok(node)) => Entry::New(node),
                Some(Err(name)) => {
                    open.leave_out(Some(name));
                    continue;
                }
                None => return Err(Error::Interrupted),
            },
            Event::LeftOut(name) => {
                open.leave_out(name);
                continue;
            }
            Event::Leave => {
                let Some(Open { node: Some((mut node, before)), entries, left_out }) = dirs.pop()
                else {
                    return Err(Error::Interrupted);
                };
                node.tree = Some(entries.finish(&mut sink)?);
                node.left_out = left_out;
                let is_same = |before: &NodeAt| {
                    (before.tree, &before.left_out) == (node.tree, &node.left_out)
                };
                match before.filter(is_same) {
                    Some(before) => Entry::Kept(before),
                    None => Entry::New(node),
                }
            }
        };
        shared.counts.add(&entry);
        match dirs.last_mut() {
            Some(open) => open.entries.push_entry(entry, &mut sink)?,
            None => return Err(Error::Interrupted),
        }
    }
    all_taken(&mut nodes)?;
    // The walk ended early if directories are still open.
    let Some(Open { node: None, entries, left_out }) = dirs.pop().filter(|_| dirs.is_empty())
    else {
        return Err(Error::Interrupted);
    };
    let root = entries.finish(&mut sink)?;
    sink.flush()?;
    Ok((root, left_out))
}

/// Each node of a batch has its place among the events.
fn all_taken<T>(nodes: &mut impl Iterator<Item = T>) -> Result<()> {
    if nodes.next().is_none() { Ok(()) } else { Err(Error::Interrupted) }
}
