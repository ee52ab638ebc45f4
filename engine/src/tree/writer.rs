//! Writing directories.

use super::reader::NodeAt;
use crate::error::{Error, Result};
use crate::format::{BlobId, Branch, Node, TreePage, display_name, is_valid_name};

/// Takes the plaintext of tree blobs and gives their ids.
pub trait BlobSink {
    fn put(&mut self, bytes: &[u8]) -> Result<BlobId>;

    /// Whether this blob is stored for good, so that it need not be put.
    fn has(&self, _: &BlobId) -> bool {
        false
    }
}

/// What a directory gets: a node, or one as it stands in an earlier tree. A page
/// that would hold just what an earlier one holds is that page.
pub enum Entry {
    New(Box<Node>),
    Kept(NodeAt),
}

impl std::ops::Deref for Entry {
    type Target = Node;

    fn deref(&self) -> &Node {
        match self {
            Self::New(node) => node,
            Self::Kept(node) => node,
        }
    }
}

impl From<Entry> for Node {
    fn from(entry: Entry) -> Self {
        match entry {
            Entry::New(node) => *node,
            Entry::Kept(node) => Node::clone(&node),
        }
    }
}

/// A leaf page is cut after an entry whose name says so, once it has this many
/// bytes; so an inserted entry changes one page and not all that follow.
const LEAF_MIN: usize = 16 << 10;
const LEAF_MAX: usize = 64 << 10;
const BRANCH_MIN: usize = 64;
const BRANCH_MAX: usize = 512;

/// Writes one directory, whose nodes come sorted by name.
#[derive(Default)]
pub struct DirWriter {
    entries: Vec<Entry>,
    /// The last name of the last page.
    last: Option<Vec<u8>>,
    bytes: usize,
    pages: Vec<Branch>,
}

impl DirWriter {
    /// Adds the next node. Readers refuse pages whose names are out of order, so
    /// that must not be written.
    pub fn push(&mut self, node: Node, sink: &mut dyn BlobSink) -> Result<()> {
        self.push_entry(Entry::New(Box::new(node)), sink)
    }

    pub fn push_entry(&mut self, entry: Entry, sink: &mut dyn BlobSink) -> Result<()> {
        let last = self.entries.last().map(|entry| &entry.name).or(self.last.as_ref());
        if !is_valid_name(&entry.name) || last.is_some_and(|last| *last >= entry.name) {
            let name = display_name(&entry.name);
            return Err(Error::Invalid(format!("the name {name:?} can't stand in its directory")));
        }
        self.bytes += weight(&entry);
        let cut = self.bytes >= LEAF_MIN && (is_cut(&entry.name, 64) || self.bytes >= LEAF_MAX);
        self.entries.push(entry);
        if cut { self.flush(sink) } else { Ok(()) }
    }

    fn flush(&mut self, sink: &mut dyn BlobSink) -> Result<()> {
        let entries = std::mem::take(&mut self.entries);
        self.bytes = 0;
        self.last = entries.last().map(|entry| entry.name.clone());
        let first = entries.first().map(|entry| entry.name.clone()).unwrap_or_default();
        let count = entries.len() as u64;
        let id = match kept_page(&entries).filter(|id| sink.has(id)) {
            Some(id) => id,
            None => {
                let nodes = entries.into_iter().map(Node::from).collect();
                sink.put(&TreePage::Leaf(nodes).encode())?
            }
        };
        self.pages.push(Branch { first, entries: count, id });
        Ok(())
    }

    /// Writes what is left; returns the root page.
    pub fn finish(mut self, sink: &mut dyn BlobSink) -> Result<BlobId> {
        if !self.entries.is_empty() || self.pages.is_empty() {
            self.flush(sink)?;
        }
        let mut level = self.pages;
        while level.len() > 1 {
            let mut above = Vec::new();
            let mut page = Vec::new();
            for branch in level {
                let cut = page.len() + 1 >= BRANCH_MIN
                    && (is_cut(&branch.first, 128) || page.len() + 1 >= BRANCH_MAX);
                page.push(branch);
                if cut {
                    above.push(write_branch(std::mem::take(&mut page), sink)?);
                }
            }
            if !page.is_empty() {
                above.push(write_branch(page, sink)?);
            }
            level = above;
        }
        Ok(level[0].id)
    }
}

/// The page that holds these entries and no others. Names are in order in both, so
/// as many of one page as it has are all of it.
fn kept_page(entries: &[Entry]) -> Option<BlobId> {
    let Some(Entry::Kept(first)) = entries.first() else { return None };
    let same = |entry: &Entry| matches!(entry, Entry::Kept(at) if at.page_id == first.page_id);
    (first.page_len() == entries.len() && entries.iter().all(same)).then_some(first.page_id)
}

fn write_branch(pages: Vec<Branch>, sink: &mut dyn BlobSink) -> Result<Branch> {
    let first = pages[0].first.clone();
    let entries = pages.iter().map(|p| p.entries).sum();
    Ok(Branch { first, entries, id: sink.put(&TreePage::Branch(pages).encode())? })
}

/// About one name in `every` (FNV-1a; readers don't depend on it).
fn is_cut(name: &[u8], every: u32) -> bool {
    let hash =
        name.iter().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193));
    (hash >> 8).is_multiple_of(every)
}

/// About how many bytes the encoded node has.
fn weight(node: &Node) -> usize {
    let contents: usize =
        node.contents().map(|(name, c)| name.map_or(0, |name| name.len() + 6) + c.weight()).sum();
    let xattrs: usize = node.xattrs().iter().map(|x| x.name.len() + x.value.len() + 4).sum();
    80 + node.name.len() + contents + xattrs + node.target.as_ref().map_or(0, Vec::len)
}
