//! Reading directories.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::{BlobId, Branch, Node, TreePage};
use crate::repo::Repository;

/// A node where it stands: enough to find it again without its path.
#[derive(Clone)]
pub struct NodeAt {
    /// Id of the leaf page, and the node's number in it.
    pub page_id: BlobId,
    pub number: u32,
    page: Arc<TreePage>,
}

impl NodeAt {
    /// The node with this number in a leaf page.
    pub fn load(repo: &Repository, page_id: &BlobId, number: u32) -> Result<Self> {
        let page = repo.tree_page(page_id)?;
        match &*page {
            TreePage::Leaf(nodes) if (number as usize) < nodes.len() => {
                Ok(Self { page_id: *page_id, number, page })
            }
            _ => Err(Error::Invalid(format!("tree page {} has no such node", page_id.short()))),
        }
    }

    /// Number of nodes in its page.
    pub fn page_len(&self) -> usize {
        match &*self.page {
            TreePage::Leaf(nodes) => nodes.len(),
            TreePage::Branch(_) => 0,
        }
    }
}

impl std::ops::Deref for NodeAt {
    type Target = Node;

    fn deref(&self) -> &Node {
        match &*self.page {
            TreePage::Leaf(nodes) => &nodes[self.number as usize],
            TreePage::Branch(_) => unreachable!("a NodeAt is only made of leaf pages"),
        }
    }
}

/// The entry of this name in the directory.
pub fn lookup(repo: &Repository, root: &BlobId, name: &[u8]) -> Result<Option<NodeAt>> {
    Ok(position(repo, root, name)?.map(|(_, node)| node))
}

/// The entry of this name in the directory, and how many come before it.
pub fn position(repo: &Repository, root: &BlobId, name: &[u8]) -> Result<Option<(u64, NodeAt)>> {
    let (mut page_id, mut before, mut told) = (*root, 0u64, None);
    loop {
        let page = page_of(repo, &page_id, told.as_ref())?;
        page_id = match &*page {
            TreePage::Leaf(nodes) => {
                let Ok(at) = nodes.binary_search_by(|n| n.name.as_slice().cmp(name)) else {
                    return Ok(None);
                };
                let node = NodeAt { page_id, number: at as u32, page };
                return Ok(Some((before.saturating_add(at as u64), node)));
            }
            TreePage::Branch(pages) => {
                match pages.partition_point(|p| p.first.as_slice() <= name).checked_sub(1) {
                    Some(i) => {
                        before = pages[..i].iter().fold(before, |n, p| n.saturating_add(p.entries));
                        told = Some(Told::of(pages, i, told.and_then(|told| told.end)));
                        pages[i].id
                    }
                    None => return Ok(None),
                }
            }
        };
    }
}

/// Number of entries of the directory; reads its root page only.
pub fn entry_count(repo: &Repository, root: &BlobId) -> Result<u64> {
    Ok(count(&*repo.tree_page(root)?))
}

/// Entries of the page, or below it.
fn count(page: &TreePage) -> u64 {
    match page {
        TreePage::Leaf(nodes) => nodes.len() as u64,
        TreePage::Branch(pages) => pages.iter().fold(0, |n, p| n.saturating_add(p.entries)),
    }
}

/// What the pages above say of a page.
pub(crate) struct Told {
    pub entries: u64,
    /// The first name.
    first: Vec<u8>,
    /// All names are before this one.
    end: Option<Vec<u8>>,
}

impl Told {
    /// Of one of these pages, which are all before `end`.
    fn of(pages: &[Branch], at: usize, end: Option<Vec<u8>>) -> Self {
        let end = pages.get(at + 1).map(|next| next.first.clone()).or(end);
        Self { entries: pages[at].entries, first: pages[at].first.clone(), end }
    }

    /// The pages of a branch with what is said of each, by it and by those above.
    pub fn of_all(pages: &[Branch], above: Option<Self>) -> impl Iterator<Item = (BlobId, Self)> {
        let end = above.and_then(|above| above.end);
        pages.iter().enumerate().map(move |(at, page)| (page.id, Self::of(pages, at, end.clone())))
    }

    pub fn is_true(&self, page: &Bounds) -> bool {
        let before_end = |last| self.end.as_ref().is_none_or(|end| last < end);
        self.entries == page.entries
            && page.first.as_ref() == Some(&self.first)
            && page.last.as_ref().is_some_and(before_end)
    }
}

/// What a page holds, as far as those above tell it.
pub(crate) struct Bounds {
    entries: u64,
    first: Option<Vec<u8>>,
    /// Of a branch, the first name of its last page.
    last: Option<Vec<u8>>,
}

impl Bounds {
    pub fn of(page: &TreePage) -> Self {
        let (first, last) = match page {
            TreePage::Leaf(nodes) => {
                (nodes.first().map(|n| &n.name), nodes.last().map(|n| &n.name))
            }
            TreePage::Branch(pages) => {
                (pages.first().map(|p| &p.first), pages.last().map(|p| &p.first))
            }
        };
        Self { entries: count(page), first: first.cloned(), last: last.cloned() }
    }
}

/// A page that holds what the one above says. Listings go by the numbers, and would not
/// end with wrong ones; lookups go by the names, and would find what isn't listed.
fn page_of(repo: &Repository, id: &BlobId, told: Option<&Told>) -> Result<Arc<TreePage>> {
    let page = repo.tree_page(id)?;
    if told.is_some_and(|told| !told.is_true(&Bounds::of(&page))) {
        let id = id.short();
        return Err(Error::Invalid(format!("tree page {id} doesn't hold what it must")));
    }
    Ok(page)
}

/// The node at a path below the directory. `None` if there is none; the path
/// is a list of names and not empty.
pub fn resolve(repo: &Repository, root: &BlobId, path: &[&[u8]]) -> Result<Option<Node>> {
    let mut tree = *root;
    for (i, name) in path.iter().enumerate() {
        let Some(node) = lookup(repo, &tree, name)? else { return Ok(None) };
        if i + 1 == path.len() {
            return Ok(Some(Node::clone(&node)));
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
    /// Pages on the way to the current entry.
    stack: Vec<Open>,
    start: Option<(BlobId, u64)>,
}

struct Open {
    id: BlobId,
    page: Arc<TreePage>,
    /// The next position in it.
    next: usize,
    /// All names in it are before this one.
    end: Option<Vec<u8>>,
}

impl Entries<'_> {
    /// Loads a page, placed so that `skip` entries are passed over.
    fn descend(&mut self, mut id: BlobId, mut skip: u64, mut told: Option<Told>) -> Result<()> {
        loop {
            let page = page_of(self.repo, &id, told.as_ref())?;
            let end = told.and_then(|told| told.end);
            let next = match &*page {
                TreePage::Leaf(_) => None,
                TreePage::Branch(pages) => {
                    let mut at = 0;
                    while at < pages.len() && pages[at].entries <= skip {
                        skip -= pages[at].entries;
                        at += 1;
                    }
                    let below = pages.get(at).map(|p| (p.id, Told::of(pages, at, end.clone())));
                    Some((at, below))
                }
            };
            match next {
                None => {
                    let next = usize::try_from(skip).unwrap_or(usize::MAX);
                    self.stack.push(Open { id, page, next, end });
                    return Ok(());
                }
                Some((at, below)) => {
                    self.stack.push(Open { id, page, next: at + 1, end });
                    match below {
                        Some((below, of_it)) => (id, told) = (below, Some(of_it)),
                        None => return Ok(()),
                    }
                }
            }
        }
    }

    fn step(&mut self) -> Result<Option<NodeAt>> {
        if let Some((root, skip)) = self.start.take() {
            self.descend(root, skip, None)?;
        }
        while let Some(Open { id, page, next, end }) = self.stack.last_mut() {
            match &**page {
                TreePage::Leaf(nodes) if *next < nodes.len() => {
                    let number = *next as u32;
                    *next += 1;
                    return Ok(Some(NodeAt { page_id: *id, number, page: page.clone() }));
                }
                TreePage::Branch(pages) if *next < pages.len() => {
                    let (below, told) = (pages[*next].id, Told::of(pages, *next, end.clone()));
                    *next += 1;
                    self.descend(below, 0, Some(told))?;
                }
                _ => drop(self.stack.pop()),
            }
        }
        Ok(None)
    }

    /// Like `next`, without copying the node.
    pub fn next_at(&mut self) -> Option<Result<NodeAt>> {
        let step = self.step();
        if step.is_err() {
            self.stack.clear();
        }
        step.transpose()
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Node>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_at().map(|step| step.map(|at| Node::clone(&at)))
    }
}
