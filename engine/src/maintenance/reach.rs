//! Everything a tree needs.

use std::collections::HashMap;
use std::sync::Arc;

use crate::contents::{self, Parts};
use crate::error::{Error, Result};
use crate::format::{
    BlobId, BlobKind, ContentPage, ExtentPage, Node, TreePage, display_name, stream_name,
};
use crate::repo::Repository;
use crate::tree::{Bounds, Told};

/// What needs a blob: an entry, or a stream of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At<'a> {
    pub path: &'a [u8],
    pub stream: Option<&'a [u8]>,
    /// How long it says that the blob is, of a chunk.
    pub len: Option<u64>,
}

impl<'a> At<'a> {
    fn new(path: &'a [u8]) -> Self {
        Self { path, stream: None, len: None }
    }

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
    fn unreadable(&mut self, id: &BlobId, at: At<'_>, error: Error) -> Result<()> {
        let _ = (id, at);
        Err(error)
    }

    /// An entry, or a list of what it consists of, isn't as a restore needs it. Only a fault of
    /// the program that made it, or somebody with the key, brings that about.
    fn malformed(&mut self, at: At<'_>, how: &str) -> Result<()> {
        let _ = (at, how);
        Ok(())
    }

    /// Where it is kept what pages hold, for who looks into each once only: the next list may
    /// say something else of them.
    fn pages(&mut self) -> Option<&mut Pages> {
        None
    }

    /// Whether paths are wanted; without, they are empty.
    fn wants_paths(&self) -> bool {
        false
    }
}

/// What pages hold.
#[derive(Default)]
pub struct Pages {
    of_trees: HashMap<BlobId, Bounds>,
    /// Length and level.
    of_contents: HashMap<BlobId, (Option<u64>, u8)>,
}

/// Visits every blob below a root page.
pub fn walk_reachable(repo: &Repository, root: &BlobId, reached: &mut dyn Reached) -> Result<()> {
    let mut pending = vec![Page { id: *root, told: None, path: Vec::new() }];
    while let Some(next) = pending.pop() {
        let Some(page) = look_into(repo, &next, reached)? else { continue };
        match &*page {
            TreePage::Branch(pages) => {
                let below = Told::of_all(pages, next.told);
                let below = below.map(|(id, told)| (id, Some(told), next.path.clone()));
                let from = pending.len();
                pending.extend(below.map(|(id, told, path)| Page { id, told, path }));
                pending[from..].reverse();
            }
            TreePage::Leaf(nodes) => {
                for node in nodes {
                    visit(repo, node, &next.path, reached, &mut pending)?;
                }
            }
        }
    }
    Ok(())
}

/// A page of the directory `path`, and what the pages above say of it.
struct Page {
    id: BlobId,
    told: Option<Told>,
    path: Vec<u8>,
}

/// The page, if it shall be looked into; whether it is what it was told to be is looked at in
/// any case.
fn look_into(
    repo: &Repository,
    page: &Page,
    reached: &mut dyn Reached,
) -> Result<Option<Arc<TreePage>>> {
    let Page { id, told, path } = page;
    let at = At::new(path);
    let wanted = reached.blob(BlobKind::Tree, id, at)?;
    if !wanted {
        let Some(told) = told else { return Ok(None) };
        let Some(pages) = reached.pages() else { return Ok(None) };
        if let Some(bounds) = pages.of_trees.get(id) {
            let is_true = told.is_true(bounds);
            return if is_true { Ok(None) } else { not_as_told(id, at, reached).map(|()| None) };
        }
    }
    let read = match repo.tree_page(id) {
        Ok(read) => read,
        Err(e) if wanted => {
            reached.unreadable(id, at, e)?;
            return Ok(None);
        }
        // That was told.
        Err(_) => return Ok(None),
    };
    if let Some(told) = told {
        let bounds = Bounds::of(&read);
        if !told.is_true(&bounds) {
            not_as_told(id, at, reached)?;
        }
        if let Some(pages) = reached.pages() {
            pages.of_trees.insert(*id, bounds);
        }
    }
    Ok(wanted.then_some(read))
}

fn not_as_told(id: &BlobId, at: At<'_>, reached: &mut dyn Reached) -> Result<()> {
    reached.malformed(at, &format!("tree page {} doesn't hold what it must", id.short()))
}

fn visit(
    repo: &Repository,
    node: &Node,
    dir: &[u8],
    reached: &mut dyn Reached,
    pending: &mut Vec<Page>,
) -> Result<()> {
    let mut path = Vec::new();
    if reached.wants_paths() {
        path = [dir, b"/", node.name.as_slice()].concat();
    }
    let at = At::new(&path);
    if let Err(e) = contents::check(node) {
        reached.malformed(at, &e.to_string())?;
    }
    for (stream, content) in node.contents() {
        let at = At { stream, ..at };
        if stream.is_some() && content.size().is_none() {
            reached.malformed(at, "what it consists of doesn't add up")?;
        }
        contents::walk_parts(repo, content, &mut Visit { reached: &mut *reached, at })?;
    }
    if let Some(tree) = node.tree {
        pending.push(Page { id: tree, told: None, path });
    }
    Ok(())
}

/// What an entry, or a stream of it, consists of.
struct Visit<'a> {
    reached: &'a mut dyn Reached,
    at: At<'a>,
}

impl Visit<'_> {
    fn compare(&mut self, page: &ExtentPage, level: u8, held: (Option<u64>, u8)) -> Result<()> {
        if held == (Some(page.len), level) {
            return Ok(());
        }
        let how = format!("chunk list page {} doesn't add up", page.id.short());
        self.reached.malformed(self.at, &how)
    }
}

impl Parts for Visit<'_> {
    fn page(&mut self, page: &ExtentPage, level: u8) -> Result<bool> {
        let wanted = self.reached.blob(BlobKind::Tree, &page.id, self.at)?;
        let held = self.reached.pages().and_then(|pages| pages.of_contents.get(&page.id).copied());
        if let Some(held) = held.filter(|_| !wanted) {
            self.compare(page, level, held)?;
        }
        Ok(wanted)
    }

    fn holds(&mut self, page: &ExtentPage, level: u8, read: &ContentPage) -> Result<()> {
        let held = (read.size(), level);
        if let Some(pages) = self.reached.pages() {
            pages.of_contents.insert(page.id, held);
        }
        self.compare(page, level, held)
    }

    fn chunk(&mut self, id: &BlobId, len: u64) -> Result<()> {
        let at = At { len: Some(len), ..self.at };
        self.reached.blob(BlobKind::Data, id, at).map(drop)
    }

    fn unreadable(&mut self, id: &BlobId, error: Error) -> Result<()> {
        self.reached.unreadable(id, self.at, error)
    }
}
