//! Reading directories.

use std::sync::Arc;

use crate::error::Result;
use crate::format::{BlobId, Node, TreePage};
use crate::repo::Repository;

/// The entry of this name in the directory.
pub fn lookup(repo: &Repository, root: &BlobId, name: &[u8]) -> Result<Option<Node>> {
    let mut page = repo.tree_page(root)?;
    loop {
        let next = match &*page {
            TreePage::Leaf(nodes) => {
                let at = nodes.binary_search_by(|n| n.name.as_slice().cmp(name));
                return Ok(at.ok().map(|i| nodes[i].clone()));
            }
            TreePage::Branch(pages) => {
                match pages.partition_point(|p| p.first.as_slice() <= name).checked_sub(1) {
                    Some(i) => repo.tree_page(&pages[i].id)?,
                    None => return Ok(None),
                }
            }
        };
        page = next;
    }
}

/// Number of entries of the directory; reads its root page only.
pub fn entry_count(repo: &Repository, root: &BlobId) -> Result<u64> {
    Ok(match &*repo.tree_page(root)? {
        TreePage::Leaf(nodes) => nodes.len() as u64,
        TreePage::Branch(pages) => pages.iter().map(|p| p.entries).sum(),
    })
}

/// The node at a path below the directory. `None` if there is none; the path
/// is a list of names and not empty.
pub fn resolve(repo: &Repository, root: &BlobId, path: &[&[u8]]) -> Result<Option<Node>> {
    let mut tree = *root;
    for (i, name) in path.iter().enumerate() {
        let Some(node) = lookup(repo, &tree, name)? else { return Ok(None) };
        if i + 1 == path.len() {
            return Ok(Some(node));
        }
        match node.tree {
            Some(next) => tree = next,
            None => return Ok(None),
        }
    }
    Ok(None)
}

/// All entries of the directory in order.
pub fn entries<'r>(repo: &'r Repository, root: &BlobId) -> Entries<'r> {
    entries_from(repo, root, 0)
}

/// Entries from the `index`-th on, without reading the pages before it.
pub fn entries_from<'r>(repo: &'r Repository, root: &BlobId, index: u64) -> Entries<'r> {
    Entries { repo, stack: Vec::new(), start: Some((*root, index)) }
}

/// Iterator over a directory. Ends after the first error.
pub struct Entries<'r> {
    repo: &'r Repository,
    /// Pages on the way to the current entry, with the next position in each.
    stack: Vec<(Arc<TreePage>, usize)>,
    start: Option<(BlobId, u64)>,
}

impl Entries<'_> {
    /// Loads a page, placed so that `skip` entries are passed over.
    fn descend(&mut self, mut id: BlobId, mut skip: u64) -> Result<()> {
        loop {
            let page = self.repo.tree_page(&id)?;
            let next = match &*page {
                TreePage::Leaf(_) => None,
                TreePage::Branch(pages) => {
                    let mut at = 0;
                    while at < pages.len() && pages[at].entries <= skip {
                        skip -= pages[at].entries;
                        at += 1;
                    }
                    Some((at, pages.get(at).map(|p| p.id)))
                }
            };
            match next {
                None => {
                    self.stack.push((page, usize::try_from(skip).unwrap_or(usize::MAX)));
                    return Ok(());
                }
                Some((at, below)) => {
                    self.stack.push((page, at + 1));
                    match below {
                        Some(below) => id = below,
                        None => return Ok(()),
                    }
                }
            }
        }
    }

    fn step(&mut self) -> Result<Option<Node>> {
        if let Some((root, skip)) = self.start.take() {
            self.descend(root, skip)?;
        }
        while let Some((page, at)) = self.stack.last_mut() {
            match &**page {
                TreePage::Leaf(nodes) => {
                    if let Some(node) = nodes.get(*at) {
                        *at += 1;
                        return Ok(Some(node.clone()));
                    }
                    self.stack.pop();
                }
                TreePage::Branch(pages) => match pages.get(*at).map(|p| p.id) {
                    Some(below) => {
                        *at += 1;
                        self.descend(below, 0)?;
                    }
                    None => {
                        self.stack.pop();
                    }
                },
            }
        }
        Ok(None)
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Node>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if step.is_err() {
            self.stack.clear();
        }
        step.transpose()
    }
}
