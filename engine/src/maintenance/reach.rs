//! Everything a tree needs.

use crate::contents;
use crate::error::Result;
use crate::format::{BlobId, BlobKind, Node, TreePage, display_name, stream_name};
use crate::repo::Repository;

/// What needs a blob: an entry, or a stream of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At<'a> {
    pub path: &'a [u8],
    pub stream: Option<&'a [u8]>,
}

impl At<'_> {
    /// How it is called in messages.
    pub fn shown(&self) -> String {
        let path = display_name(if self.path.is_empty() { b"/" } else { self.path });
        match self.stream {
            Some(stream) => format!("{path} (stream {})", stream_name(stream)),
            None => path,
        }
    }
}

/// What a walk over trees comes across.
pub trait Reached {
    /// A blob is needed. For tree blobs the answer says whether to look inside (no, if
    /// that was done before).
    fn blob(&mut self, kind: BlobKind, id: &BlobId, at: At<'_>) -> Result<bool>;

    /// A tree blob can't be read. An error ends the walk.
    fn unreadable(&mut self, id: &BlobId, at: At<'_>, error: crate::Error) -> Result<()> {
        let _ = (id, at);
        Err(error)
    }

    /// Whether paths are wanted; without, they are empty.
    fn wants_paths(&self) -> bool {
        false
    }

    fn node(&mut self, _node: &Node) {}
}

/// Visits every blob below a root page.
pub fn walk_reachable(repo: &Repository, root: &BlobId, reached: &mut dyn Reached) -> Result<()> {
    let mut pending = vec![(*root, Vec::new())];
    while let Some((id, path)) = pending.pop() {
        let at = At { path: &path, stream: None };
        if !reached.blob(BlobKind::Tree, &id, at)? {
            continue;
        }
        let page = match repo.tree_page(&id) {
            Ok(page) => page,
            Err(e) => {
                reached.unreadable(&id, at, e)?;
                continue;
            }
        };
        match &*page {
            TreePage::Branch(pages) => {
                pending.extend(pages.iter().rev().map(|p| (p.id, path.clone())));
            }
            TreePage::Leaf(nodes) => {
                for node in nodes {
                    visit(repo, node, &path, reached, &mut pending)?;
                }
            }
        }
    }
    Ok(())
}

fn visit(
    repo: &Repository,
    node: &Node,
    dir: &[u8],
    reached: &mut dyn Reached,
    pending: &mut Vec<(BlobId, Vec<u8>)>,
) -> Result<()> {
    reached.node(node);
    let mut path = Vec::new();
    if reached.wants_paths() {
        path = [dir, b"/", node.name.as_slice()].concat();
    }
    for (stream, content) in node.contents() {
        let at = At { path: &path, stream };
        // Both callbacks need `reached`; a cell lends it to one at a time.
        let reached = std::cell::RefCell::new(&mut *reached);
        contents::for_each_blob(
            repo,
            content,
            &mut |id| reached.borrow_mut().blob(BlobKind::Tree, id, at),
            &mut |id| reached.borrow_mut().blob(BlobKind::Data, id, at).map(|_| ()),
            &mut |id, error| reached.borrow_mut().unreadable(id, at, error),
        )?;
    }
    if let Some(tree) = node.tree {
        pending.push((tree, path));
    }
    Ok(())
}
