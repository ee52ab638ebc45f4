//! A tree without what is lost.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::Loss;
use crate::contents::{ContentBuilder, Parts, check, walk_parts};
use crate::error::{Error, Result};
use crate::format::{
    BlobId, BlobKind, Content, ContentPage, Extent, ExtentPage, LeftOut, Node, TreePage,
};
use crate::maintenance::check::Lost;
use crate::maintenance::workers::stops;
use crate::monitor::Monitor;
use crate::pack::PackWriter;
use crate::repo::Repository;
use crate::tree::{BlobSink, Bounds, DirWriter, Told, TreeSink};

/// Ends the name of what isn't whole.
const DAMAGED: &str = ".damaged";
/// Longest name that file systems take.
const MOST_NAME: usize = 255;

pub(super) struct Salvage<'a> {
    repo: &'a Repository,
    lost: &'a Lost,
    /// Entries that have lost something, and the directories above them.
    touched: HashSet<Vec<u8>>,
    monitor: &'a dyn Monitor,
    sink: Sink<'a>,
    pub losses: Vec<Loss>,
}

/// A new root.
pub(super) struct Root {
    pub tree: BlobId,
    /// Something in it is lost.
    pub left_out: Option<LeftOut>,
}

/// A directory that is being written anew.
struct Open {
    path: Vec<u8>,
    /// `None` for the root.
    node: Option<Node>,
    /// Last one first.
    todo: Vec<Node>,
    done: BTreeMap<Vec<u8>, Node>,
    names: BTreeSet<Vec<u8>>,
    /// Something in it is lost: nobody shall take that for what was never there.
    left_out: Option<LeftOut>,
}

impl<'a> Salvage<'a> {
    pub fn new(
        repo: &'a Repository,
        writer: &'a PackWriter,
        lost: &'a Lost,
        touched: HashSet<Vec<u8>>,
        monitor: &'a dyn Monitor,
    ) -> Self {
        let trees = TreeSink::new(repo, writer);
        let sink = Sink { repo, lost, again: HashSet::new(), trees };
        Self { repo, lost, touched, monitor, sink, losses: Vec::new() }
    }

    /// `None` if the old one is lost.
    pub fn tree(&mut self, root: &BlobId) -> Result<Option<Root>> {
        let Some(first) = self.open(None, Vec::new(), root)? else {
            self.lose(b"/".to_vec(), true, None);
            return Ok(None);
        };
        // Not by recursion: a tree may be deeper than the stack.
        let mut open = vec![first];
        while let Some(dir) = open.last_mut() {
            self.monitor.progress().check()?;
            if let Some(node) = dir.todo.pop() {
                let losses = self.losses.len();
                let below = self.entry(dir, node)?;
                // What is lost below counts there.
                if below.is_none() && self.losses.len() > losses {
                    dir.left_out = Some(LeftOut::Unknown);
                }
                open.extend(below);
                continue;
            }
            let Some(dir) = open.pop() else { break };
            let mut writer = DirWriter::default();
            for node in dir.done.into_values() {
                writer.push(node, &mut self.sink)?;
            }
            let tree = writer.finish(&mut self.sink)?;
            match (dir.node, open.last_mut()) {
                (Some(mut node), Some(above)) => {
                    node.tree = Some(tree);
                    node.left_out = dir.left_out.or(node.left_out);
                    above.done.insert(node.name.clone(), node);
                }
                _ => {
                    self.sink.trees.flush()?;
                    return Ok(Some(Root { tree, left_out: dir.left_out }));
                }
            }
        }
        Ok(None)
    }

    /// Reads a directory; `None` if its first page is lost.
    fn open(&mut self, node: Option<Node>, path: Vec<u8>, root: &BlobId) -> Result<Option<Open>> {
        let mut entries = Vec::new();
        let (mut missing, mut is_true) = (0u64, true);
        let mut pending = vec![(*root, None::<Told>)];
        while let Some((id, told)) = pending.pop() {
            let page = if self.lost.has(&id) { None } else { self.page(&id)? };
            if let (Some(page), Some(told)) = (&page, &told) {
                is_true = is_true && told.is_true(&Bounds::of(page));
            }
            match (page.as_deref(), told) {
                (Some(TreePage::Branch(pages)), told) => {
                    let from = pending.len();
                    pending.extend(Told::of_all(pages, told).map(|(id, told)| (id, Some(told))));
                    pending[from..].reverse();
                }
                (Some(TreePage::Leaf(nodes)), _) => entries.extend(nodes.iter().cloned()),
                (None, Some(told)) => missing = missing.saturating_add(told.entries),
                (None, None) => return Ok(None),
            }
        }
        let mut left_out = None;
        if missing > 0 || !is_true {
            left_out = Some(LeftOut::Unknown);
            let shown = if path.is_empty() { b"/".to_vec() } else { path.clone() };
            let kept_as = Some(shown.clone());
            let entries = Some(missing);
            self.losses.push(Loss {
                path: shown,
                is_dir: true,
                kept_as,
                entries,
                ..Loss::default()
            });
        }
        let names = entries.iter().map(|n| n.name.clone()).collect();
        entries.reverse();
        Ok(Some(Open { path, node, todo: entries, done: BTreeMap::new(), names, left_out }))
    }

    fn page(&self, id: &BlobId) -> Result<Option<std::sync::Arc<TreePage>>> {
        match self.repo.tree_page(id) {
            Ok(page) => Ok(Some(page)),
            Err(e) if stops(&e) => Err(e),
            Err(_) => Ok(None),
        }
    }

    fn lose(&mut self, path: Vec<u8>, is_dir: bool, kept_as: Option<Vec<u8>>) {
        self.losses.push(Loss { path, is_dir, kept_as, ..Loss::default() });
    }

    /// Takes the streams out of a node that have lost something; their names.
    fn take_lost_streams(&self, node: &mut Node) -> Result<Vec<Vec<u8>>> {
        let mut lost = Vec::new();
        for stream in node.streams.take().unwrap_or_default() {
            if stream.content.size().is_none() || self.has_lost(&stream.content)? {
                lost.push(stream.name);
            } else {
                node.streams.get_or_insert_default().push(stream);
            }
        }
        Ok(lost)
    }

    fn has_lost(&self, content: &Content) -> Result<bool> {
        let mut look = Look { lost: self.lost, found: false };
        walk_parts(self.repo, content, &mut look)?;
        Ok(look.found)
    }

    /// Puts an entry, or what is left of it, into its directory; or gives a directory to
    /// be dealt with first.
    fn entry(&mut self, dir: &mut Open, mut node: Node) -> Result<Option<Open>> {
        let path = [&dir.path, &b"/"[..], &node.name].concat();
        if !self.touched.contains(&path) {
            dir.done.insert(node.name.clone(), node);
            return Ok(None);
        }
        let (lost, is_dir) = (self.take_lost_streams(&mut node)?, node.is_dir());
        if !lost.is_empty() {
            // A backup shall not take it for unchanged.
            node.ctime = Node::LOOK_AGAIN;
        }
        let (kept_as, below) = match node.tree {
            tree if is_dir => self.directory(dir, node, &path, tree.as_ref())?,
            _ => (self.file(dir, node, &path)?, None),
        };
        // What is wholly lost was told.
        for stream in lost.into_iter().filter(|_| kept_as.is_some()) {
            let (path, kept_as, stream) = (path.clone(), kept_as.clone(), Some(stream));
            self.losses.push(Loss { path, is_dir, kept_as, stream, ..Loss::default() });
        }
        Ok(below)
    }

    /// The path that the directory has now; and itself, to be dealt with first, if it can be read.
    fn directory(
        &mut self,
        dir: &mut Open,
        mut node: Node,
        path: &[u8],
        tree: Option<&BlobId>,
    ) -> Result<(Option<Vec<u8>>, Option<Open>)> {
        let open = |tree| self.open(Some(node.clone()), path.to_vec(), tree);
        if let Some(below) = tree.map(open).transpose()?.flatten() {
            return Ok((Some(path.to_vec()), Some(below)));
        }
        node.tree = Some(DirWriter::default().finish(&mut self.sink)?);
        node.left_out = Some(LeftOut::Unknown);
        let kept_as = dir.add_damaged(node);
        self.lose(path.to_vec(), true, Some(kept_as.clone()));
        Ok((Some(kept_as), None))
    }

    /// The path that what is left has now, if anything is.
    fn file(&mut self, dir: &mut Open, mut node: Node, path: &[u8]) -> Result<Option<Vec<u8>>> {
        let has_lost = match &node.content {
            Some(content) => check(&node).is_err() || self.has_lost(content)?,
            // Of a file, a newer program knows what it is.
            None => !node.is_file() && check(&node).is_err(),
        };
        if !has_lost {
            dir.done.insert(node.name.clone(), node);
            return Ok(Some(path.to_vec()));
        }
        let mut parts = Salvaged { at: 0, kept: 0, lost: Vec::new() };
        if let Some(content) = node.content.take() {
            node.content = Some(self.content(&content, &mut parts)?);
            node.size = parts.at;
        }
        // If nothing but holes is left, it says nothing.
        let says = parts.kept > 0 && check(&node).is_ok();
        let kept_as = says.then(|| dir.add_damaged(node));
        let (path, ranges) = (path.to_vec(), parts.lost);
        self.losses.push(Loss { path, kept_as: kept_as.clone(), ranges, ..Loss::default() });
        Ok(kept_as)
    }

    /// The content with holes where parts are lost.
    fn content(&mut self, content: &Content, parts: &mut Salvaged) -> Result<Content> {
        let mut builder = ContentBuilder::default();
        match content {
            Content::Inline(bytes) => {
                parts.keep(bytes.len() as u64, true);
                return Ok(content.clone());
            }
            Content::Extents(extents) => self.extents(extents, parts, &mut builder)?,
            Content::Pages { level, pages } => self.pages(*level, pages, parts, &mut builder)?,
        }
        builder.finish(&mut self.sink)
    }

    fn extents(
        &mut self,
        extents: &[Extent],
        parts: &mut Salvaged,
        builder: &mut ContentBuilder,
    ) -> Result<()> {
        for extent in extents {
            let is_lost = extent.id.is_some_and(|id| self.lost.has_chunk(&id, extent.len));
            if is_lost {
                parts.lose(extent.len);
            } else {
                parts.keep(extent.len, extent.id.is_some());
            }
            let id = extent.id.filter(|_| !is_lost);
            builder.push(Extent { len: extent.len, id }, &mut self.sink)?;
        }
        Ok(())
    }

    fn pages(
        &mut self,
        level: u8,
        pages: &[ExtentPage],
        parts: &mut Salvaged,
        builder: &mut ContentBuilder,
    ) -> Result<()> {
        for page in pages {
            let mut read = None;
            if !self.lost.has(&page.id) {
                match self.repo.content_page(&page.id) {
                    Ok(page) => read = Some(page),
                    Err(e) if stops(&e) => return Err(e),
                    Err(_) => {}
                }
            }
            match read.as_deref() {
                Some(ContentPage::Extents(extents)) if level == 1 => {
                    self.extents(extents, parts, builder)?;
                }
                Some(ContentPage::Pages(below)) if level > 1 => {
                    self.pages(level - 1, below, parts, builder)?;
                }
                _ => {
                    parts.lose(page.len);
                    builder.push(Extent { len: page.len, id: None }, &mut self.sink)?;
                }
            }
        }
        Ok(())
    }
}

impl Open {
    /// Adds what is left of an entry under a name that says so; returns its path.
    fn add_damaged(&mut self, mut node: Node) -> Vec<u8> {
        let mut number = 1;
        loop {
            let suffix = match number {
                1 => DAMAGED.to_owned(),
                n => format!("{DAMAGED}-{n}"),
            };
            let mut stem = node.name.as_slice();
            let room = MOST_NAME.saturating_sub(suffix.len()).min(stem.len());
            // Not in the middle of a character, which has four bytes at most.
            let inside = |at: usize| stem.get(at).is_some_and(|b| b & 0xc0 == 0x80);
            let back = (0..4).find(|back| room >= *back && !inside(room - back)).unwrap_or(0);
            stem = &stem[..room - back];
            let name = [stem, suffix.as_bytes()].concat();
            if self.names.insert(name.clone()) {
                node.name = name;
                break;
            }
            number += 1;
        }
        // Of no file: no backup may take one that was restored and renamed so for unchanged.
        node.ctime = Node::LOOK_AGAIN;
        let path = [&self.path, &b"/"[..], &node.name].concat();
        self.done.insert(node.name.clone(), node);
        path
    }
}

/// Whether a list has lost something, or doesn't add up.
struct Look<'a> {
    lost: &'a Lost,
    found: bool,
}

impl Parts for Look<'_> {
    fn page(&mut self, page: &ExtentPage, _: u8) -> Result<bool> {
        self.found = self.found || self.lost.has(&page.id);
        Ok(!self.found)
    }

    fn holds(&mut self, page: &ExtentPage, _: u8, read: &ContentPage) -> Result<()> {
        self.found = self.found || read.size() != Some(page.len);
        Ok(())
    }

    fn chunk(&mut self, id: &BlobId, len: u64) -> Result<()> {
        self.found = self.found || self.lost.has_chunk(id, len);
        Ok(())
    }

    fn unreadable(&mut self, _: &BlobId, error: Error) -> Result<()> {
        self.found = true;
        if stops(&error) { Err(error) } else { Ok(()) }
    }
}

/// What became of a file's content so far.
struct Salvaged {
    at: u64,
    /// Bytes that are data.
    kept: u64,
    lost: Vec<(u64, u64)>,
}

impl Salvaged {
    fn keep(&mut self, len: u64, is_data: bool) {
        self.at = self.at.saturating_add(len);
        if is_data {
            self.kept = self.kept.saturating_add(len);
        }
    }

    fn lose(&mut self, len: u64) {
        let end = self.at.saturating_add(len);
        match self.lost.last_mut() {
            Some(last) if last.1 == self.at => last.1 = end,
            _ => self.lost.push((self.at, end)),
        }
        self.at = end;
    }
}

/// Stores tree blobs that the repository doesn't have, and those that it has lost.
struct Sink<'a> {
    repo: &'a Repository,
    lost: &'a Lost,
    /// Lost pages that were stored again.
    again: HashSet<BlobId>,
    trees: TreeSink<'a>,
}

impl BlobSink for Sink<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<BlobId> {
        let id = self.repo.keys().blob_id(BlobKind::Tree, bytes);
        // The index still says that a lost one is there.
        if !self.lost.has(&id) {
            return self.trees.put(bytes);
        }
        if self.again.insert(id) {
            self.trees.store(id, bytes)?;
        }
        Ok(id)
    }
}
