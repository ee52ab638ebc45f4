//! Finding entries in many snapshots. A page of a directory that several of them
//! share is looked at once, so that it costs what differs between them.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::{Missed, change, or_missed};
use crate::error::Result;
use crate::format::{BlobId, Node, TreePage};
use crate::repo::{Repository, Snapshot};

/// Gets the path, the node, and the numbers of the snapshots that hold this version.
pub type OnFound<'a> = &'a mut dyn FnMut(&[u8], &Node, &[usize]) -> Result<()>;

/// Finds entries in many snapshots, in the order of their paths. Returns what is damaged.
pub fn find(
    repo: &Repository,
    snapshots: &[Snapshot],
    matches: &dyn Fn(&[u8], &Node) -> bool,
    each: OnFound<'_>,
) -> Result<Vec<Missed>> {
    repo.expect_side_by_side();
    let mut roots = BTreeMap::<BlobId, Holders>::new();
    for (number, snapshot) in snapshots.iter().enumerate() {
        roots.entry(snapshot.data.tree).or_default().push(number, number + 1);
    }
    let mut missed = Vec::new();
    let mut stack = vec![Directory::new(Vec::new(), roots)];
    while let Some(directory) = stack.last_mut() {
        let Some((name, entry)) = directory.next(repo, matches, &mut missed)? else {
            stack.pop();
            continue;
        };
        let path = [directory.path.as_slice(), b"/", &name].concat();
        for (node, numbers) in entry.versions() {
            each(&path, node, &numbers)?;
        }
        if !entry.trees.is_empty() {
            stack.push(Directory::new(path, entry.trees));
        }
    }
    Ok(missed)
}

/// The directory at one path in all snapshots, read side by side: pages in the order
/// of their first names.
struct Directory {
    path: Vec<u8>,
    /// Pages that are still to be read. Of root pages the first name is not known, and not needed.
    pages: BTreeMap<(Vec<u8>, BlobId), Holders>,
    /// Entries of pages that were read; a page to come may have more versions of them.
    entries: BTreeMap<Vec<u8>, Entry>,
}

impl Directory {
    fn new(path: Vec<u8>, trees: BTreeMap<BlobId, Holders>) -> Self {
        let pages = trees.into_iter().map(|(tree, holders)| ((Vec::new(), tree), holders));
        Self { path, pages: pages.collect(), entries: BTreeMap::new() }
    }

    /// The next name that matches, or below which there is more to look at.
    fn next(
        &mut self,
        repo: &Repository,
        matches: &dyn Fn(&[u8], &Node) -> bool,
        missed: &mut Vec<Missed>,
    ) -> Result<Option<(Vec<u8>, Entry)>> {
        while let Some(((first, id), holders)) = self.pages.pop_first() {
            if self.entries.first_key_value().is_some_and(|(name, _)| *name < first) {
                self.pages.insert((first, id), holders);
                break;
            }
            let page = or_missed(repo.tree_page(&id), missed, || {
                let path = if self.path.is_empty() { b"/".to_vec() } else { self.path.clone() };
                (path, holders.numbers())
            })?;
            let Some(page) = page else { continue };
            match &*page {
                TreePage::Branch(pages) => {
                    for page in pages {
                        let key = (page.first.clone(), page.id);
                        self.pages.entry(key).or_default().extend(&holders);
                    }
                }
                TreePage::Leaf(nodes) => self.look_at(nodes, &holders, matches),
            }
        }
        Ok(self.entries.pop_first())
    }

    fn look_at(
        &mut self,
        nodes: &[Node],
        holders: &Holders,
        matches: &dyn Fn(&[u8], &Node) -> bool,
    ) {
        let mut path = [self.path.as_slice(), b"/"].concat();
        let dir = path.len();
        for node in nodes {
            path.truncate(dir);
            path.extend_from_slice(&node.name);
            let is_match = matches(&path, node);
            if !is_match && node.tree.is_none() {
                continue;
            }
            if !self.entries.contains_key(&node.name) {
                self.entries.insert(node.name.clone(), Entry::default());
            }
            let Some(entry) = self.entries.get_mut(&node.name) else { continue };
            if is_match {
                entry.add(node, holders);
            }
            if let Some(tree) = node.tree {
                entry.trees.entry(tree).or_default().extend(holders);
            }
        }
    }
}

/// What has one path.
#[derive(Default)]
struct Entry {
    /// Those that match, by a hash of what mostly differs. Directories are by
    /// themselves, whatever is in them.
    found: HashMap<u64, Vec<(Node, Holders)>>,
    /// Root pages of directories.
    trees: BTreeMap<BlobId, Holders>,
}

impl Entry {
    fn add(&mut self, node: &Node, holders: &Holders) {
        let mut hasher = DefaultHasher::new();
        let stamp = (node.kind, node.size, node.mode, node.uid, node.gid, node.mtime);
        stamp.hash(&mut hasher);
        let alike = self.found.entry(hasher.finish()).or_default();
        match alike.iter_mut().find(|(known, _)| change(Some(known), Some(node)).is_none()) {
            Some((known, all)) => {
                // Of the oldest snapshot, whichever page came first.
                if holders.first() < all.first() {
                    *known = node.clone();
                }
                all.extend(holders);
            }
            None => alike.push((node.clone(), holders.clone())),
        }
    }

    /// Each version with the numbers of the snapshots that hold it, oldest first.
    fn versions(&self) -> Vec<(&Node, Vec<usize>)> {
        let all = self.found.values().flatten();
        let mut versions: Vec<_> = all.map(|(node, holders)| (node, holders.numbers())).collect();
        versions.sort_by_key(|(_, numbers)| numbers.first().copied());
        versions
    }
}

/// Numbers of snapshots, as ranges: mostly neighbours hold the same.
#[derive(Clone, Default)]
struct Holders {
    /// Starts and ends; in order, and none touching another, up to `tidy`.
    ranges: Vec<(usize, usize)>,
    tidy: usize,
}

impl Holders {
    fn push(&mut self, start: usize, end: usize) {
        match self.ranges.last_mut() {
            Some(last) if last.0 <= start && start <= last.1 => last.1 = last.1.max(end),
            _ => self.ranges.push((start, end)),
        }
        // Not each time, which would be quadratic.
        if self.ranges.len() > 2 * self.tidy + 16 {
            self.ranges = self.in_order();
            self.tidy = self.ranges.len();
        }
    }

    fn extend(&mut self, other: &Self) {
        other.ranges.iter().for_each(|&(start, end)| self.push(start, end));
    }

    fn first(&self) -> Option<usize> {
        let rest = self.ranges.iter().skip(self.tidy.max(1));
        self.ranges.first().into_iter().chain(rest).map(|r| r.0).min()
    }

    fn in_order(&self) -> Vec<(usize, usize)> {
        let mut ranges = self.ranges.clone();
        ranges.sort_unstable();
        ranges.dedup_by(|next, last| {
            let touches = next.0 <= last.1;
            if touches {
                last.1 = last.1.max(next.1);
            }
            touches
        });
        ranges
    }

    fn numbers(&self) -> Vec<usize> {
        self.in_order().into_iter().flat_map(|(start, end)| start..end).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_are_a_set() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..50 {
            let (mut holders, mut set) = (Holders::default(), std::collections::BTreeSet::new());
            for _ in 0..rng.usize(0..300) {
                let start = rng.usize(0..500);
                let end = start + rng.usize(1..4);
                holders.push(start, end);
                set.extend(start..end);
                assert_eq!(holders.first(), set.first().copied());
            }
            assert!(holders.numbers().into_iter().eq(set));
        }
    }
}
