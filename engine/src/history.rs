//! Looking across snapshots: listing, comparing, finding.

mod find;

use std::collections::{BTreeMap, BTreeSet};

pub use find::{OnFound, find};

use crate::error::{Error, Result};
use crate::format::{BlobId, Node};
use crate::repo::{Repository, Snapshot};
use crate::tree::{self, Entries, NodeAt};

/// Visits every node below a root page, depth first and in order. `each` says
/// whether to go into a directory.
pub fn walk(
    repo: &Repository,
    root: &BlobId,
    each: &mut dyn FnMut(&[u8], &Node) -> Result<bool>,
) -> Result<()> {
    let mut stack = vec![(tree::entries(repo, root), Vec::new())];
    while let Some((entries, path)) = stack.last_mut() {
        let Some(node) = entries.next().transpose()? else {
            stack.pop();
            continue;
        };
        let path = [path.as_slice(), b"/", &node.name].concat();
        let descend = each(&path, &node)?;
        if let Some(below) = node.tree.filter(|_| descend) {
            stack.push((tree::entries(repo, &below), path));
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    Added,
    Removed,
    /// The content of a file or the target of a symlink.
    Modified,
    /// Owner, mode, modification time or extended attributes only.
    Metadata,
    /// It was another kind of entry.
    Type,
}

/// Gets the kind, the path, and the old and new node.
pub type OnChange<'a> =
    &'a mut dyn FnMut(ChangeKind, &[u8], Option<&Node>, Option<&Node>) -> Result<()>;

/// What differs from one root page to another. Trees that are the same are not read.
pub fn diff(repo: &Repository, a: &BlobId, b: &BlobId, each: OnChange<'_>) -> Result<()> {
    if a == b {
        return Ok(());
    }
    let side =
        |id: Option<&BlobId>| Side { entries: id.map(|id| tree::entries(repo, id)), next: None };
    let mut stack = vec![(side(Some(a)), side(Some(b)), Vec::new())];
    while let Some((old, new, dir)) = stack.last_mut() {
        old.fill()?;
        new.fill()?;
        let order = match (&old.next, &new.next) {
            (None, None) => {
                stack.pop();
                continue;
            }
            (Some(a), Some(b)) => a.name.cmp(&b.name),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
        };
        let old = if order.is_le() { old.next.take() } else { None };
        let new = if order.is_ge() { new.next.take() } else { None };
        let Some(name) = old.as_ref().or(new.as_ref()).map(|n| n.name.as_slice()) else { continue };
        let path = [dir.as_slice(), b"/", name].concat();
        if let Some(kind) = change(old.as_ref(), new.as_ref()) {
            each(kind, &path, old.as_ref(), new.as_ref())?;
        }
        let below = (old.and_then(|n| n.tree), new.and_then(|n| n.tree));
        if below.0 != below.1 {
            stack.push((side(below.0.as_ref()), side(below.1.as_ref()), path));
        }
    }
    Ok(())
}

struct Side<'r> {
    entries: Option<Entries<'r>>,
    next: Option<Node>,
}

impl Side<'_> {
    fn fill(&mut self) -> Result<()> {
        if self.next.is_none() {
            self.next = self.entries.as_mut().and_then(Iterator::next).transpose()?;
        }
        Ok(())
    }
}

fn change(old: Option<&Node>, new: Option<&Node>) -> Option<ChangeKind> {
    match (old, new) {
        (None, None) => None,
        (None, Some(_)) => Some(ChangeKind::Added),
        (Some(_), None) => Some(ChangeKind::Removed),
        (Some(a), Some(b)) if a.kind != b.kind => Some(ChangeKind::Type),
        (Some(a), Some(b)) => {
            let same_content = a.size == b.size
                && a.content == b.content
                && a.target == b.target
                && a.device == b.device;
            let metadata = |n: &Node| (n.mode, n.uid, n.gid, n.mtime);
            if !same_content {
                Some(ChangeKind::Modified)
            } else if metadata(a) != metadata(b) || a.xattrs != b.xattrs || a.streams != b.streams {
                Some(ChangeKind::Metadata)
            } else {
                None
            }
        }
    }
}

/// Whether two nodes are the same version of an entry. Access and change times don't count.
pub fn same_version(a: &Node, b: &Node) -> bool {
    change(Some(a), Some(b)).is_none() && a.tree == b.tree
}

/// One version of an entry.
pub struct VersionAt {
    pub node: NodeAt,
    /// Numbers of the snapshots that hold it, ascending.
    pub snapshots: Vec<usize>,
}

/// A directory, or a part of it, that is damaged: what is there in these snapshots isn't known.
#[derive(Debug)]
pub struct Missed {
    pub path: Vec<u8>,
    /// Numbers of the snapshots, ascending.
    pub snapshots: Vec<usize>,
    pub error: Error,
}

/// What was found, and where there may be more.
pub struct Gathered<T> {
    pub found: T,
    pub missed: Vec<Missed>,
}

/// Says of a directory on the way, and of how many are above it, whether what is below counts.
pub type Enters<'a> = &'a dyn Fn(usize, &Node) -> bool;

/// Every distinct version of the entry at a path (a list of names), in the order
/// of the first snapshot that holds it. What snapshots share is looked at once.
pub fn versions(
    repo: &Repository,
    snapshots: &[Snapshot],
    path: &[&[u8]],
    enters: Enters<'_>,
) -> Result<Gathered<Vec<VersionAt>>> {
    let mut missed = Vec::new();
    let mut found: Vec<VersionAt> = Vec::new();
    if let Some((name, dirs)) = path.split_last() {
        for (tree, numbers) in directories(repo, snapshots, dirs, enters, &mut missed)? {
            let looked_up = tree::lookup(repo, &tree, name);
            let looked_up = or_missed(looked_up, &mut missed, || (path_of(dirs), numbers.clone()))?;
            let Some(node) = looked_up.flatten() else { continue };
            match found.iter_mut().find(|v| same_version(&v.node, &node)) {
                Some(version) => version.snapshots.extend(numbers),
                None => found.push(VersionAt { node, snapshots: numbers }),
            }
        }
    }
    found.iter_mut().for_each(|v| v.snapshots.sort_unstable());
    found.sort_by_key(|v| v.snapshots.first().copied());
    Ok(Gathered { found, missed })
}

/// Names that the directory at a path has in any of the snapshots.
pub fn names(
    repo: &Repository,
    snapshots: &[Snapshot],
    path: &[&[u8]],
    enters: Enters<'_>,
) -> Result<Gathered<BTreeSet<Vec<u8>>>> {
    let (mut found, mut missed) = (BTreeSet::new(), Vec::new());
    for (tree, numbers) in directories(repo, snapshots, path, enters, &mut missed)? {
        let mut entries = tree::entries(repo, &tree);
        while let Some(node) = entries.next_at() {
            let node = or_missed(node, &mut missed, || (path_of(path), numbers.clone()))?;
            if let Some(node) = node
                && !found.contains(&node.name)
            {
                found.insert(node.name.clone());
            }
        }
    }
    Ok(Gathered { found, missed })
}

/// Root pages that the directory at a path has, with the numbers of the snapshots.
fn directories(
    repo: &Repository,
    snapshots: &[Snapshot],
    path: &[&[u8]],
    enters: Enters<'_>,
    missed: &mut Vec<Missed>,
) -> Result<BTreeMap<BlobId, Vec<usize>>> {
    let mut level: BTreeMap<BlobId, Vec<usize>> = BTreeMap::new();
    for (number, snapshot) in snapshots.iter().enumerate() {
        level.entry(snapshot.data.tree).or_default().push(number);
    }
    for (above, name) in path.iter().enumerate() {
        let mut below: BTreeMap<BlobId, Vec<usize>> = BTreeMap::new();
        for (tree, numbers) in level {
            let looked_up = tree::lookup(repo, &tree, name);
            let at = || (path_of(&path[..above]), numbers.clone());
            let node = or_missed(looked_up, missed, at)?.flatten();
            if let Some(tree) = node.filter(|node| enters(above, node)).and_then(|node| node.tree) {
                below.entry(tree).or_default().extend(numbers);
            }
        }
        level = below;
    }
    Ok(level)
}

/// Passes over what is damaged: it is of some snapshots, and others are whole. What couldn't
/// be reached is an error.
fn or_missed<T>(
    result: Result<T>,
    missed: &mut Vec<Missed>,
    at: impl FnOnce() -> (Vec<u8>, Vec<usize>),
) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_damage() || matches!(error, Error::Invalid(_)) => {
            let (path, mut snapshots) = at();
            snapshots.sort_unstable();
            missed.push(Missed { path, snapshots, error });
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn path_of(names: &[&[u8]]) -> Vec<u8> {
    let path: Vec<u8> = names.iter().flat_map(|name| [b"/", *name].concat()).collect();
    if path.is_empty() { b"/".to_vec() } else { path }
}
