//! Names that a target may not tell apart, as `README` and `readme` on a file
//! system that ignores case. What such names have in common is a guess; that
//! they are one in the target shows by the inode.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::format::{BlobId, FileIdentity, Node};
use crate::repo::Repository;
use crate::sink::SinkDir;
use crate::tree;

fn fold(name: &[u8]) -> String {
    String::from_utf8_lossy(name).to_lowercase()
}

/// Hashes of the folded names of one directory, few bytes each.
#[derive(Default)]
pub(super) struct Folded(HashSet<u64>);

impl Folded {
    /// Whether there was such a name before.
    pub fn add(&mut self, name: &[u8]) -> bool {
        let mut hasher = DefaultHasher::new();
        fold(name).hash(&mut hasher);
        !self.0.insert(hasher.finish())
    }
}

/// Names that may clash, folded, by the paths of their directories.
#[derive(Default)]
pub(super) struct Clashes(HashMap<Vec<u8>, HashSet<String>>);

impl Clashes {
    pub fn add(&mut self, dir: &[u8], name: &[u8]) {
        self.0.entry(dir.to_vec()).or_default().insert(fold(name));
    }

    /// Looks at all entries of a directory whose names may clash; `None` if there are none.
    pub fn look(
        &mut self,
        repo: &Repository,
        tree: &BlobId,
        path: &[u8],
        dir: &dyn SinkDir,
    ) -> Option<Alike> {
        let mut alike = Alike { folded: self.0.remove(path)?, there: HashMap::new() };
        for node in tree::entries(repo, tree).filter_map(Result::ok) {
            alike.note(dir, &node);
        }
        Some(alike)
    }
}

/// A name, and which file it was on the source.
type Named = (Vec<u8>, Option<FileIdentity>);

/// The entries of one directory whose names may clash.
pub(super) struct Alike {
    folded: HashSet<String>,
    /// By folded name, and by inode in the target.
    there: HashMap<(String, u64), Vec<Named>>,
}

impl Alike {
    /// Looks at an entry, which has come or has become another.
    pub fn note(&mut self, dir: &dyn SinkDir, node: &Node) {
        let folded = fold(&node.name);
        if !self.folded.contains(&folded) {
            return;
        }
        let Some(inode) = inode(dir, &node.name) else { return };
        let (same, identity) = (self.there.entry((folded, inode)).or_default(), node.identity());
        // Names of one file don't clash, so one stands for all that follow each other: who
        // looks for a clash needn't look at many.
        if identity.is_none() || same.last().is_none_or(|(_, last)| *last != identity) {
            same.push((node.name.clone(), identity));
        }
    }

    /// The entry that is the same as this one in the target and shouldn't be.
    pub fn find(&self, dir: &dyn SinkDir, node: &Node) -> Option<Vec<u8>> {
        let folded = fold(&node.name);
        if !self.folded.contains(&folded) {
            return None;
        }
        let here = inode(dir, &node.name)?;
        let (same, identity) = (self.there.get(&(folded, here))?, node.identity());
        let is_other_file =
            |(name, other): &&Named| *name != node.name && (other.is_none() || *other != identity);
        // It may have become another since.
        let found =
            same.iter().filter(is_other_file).find(|(name, _)| inode(dir, name) == Some(here));
        found.map(|(name, _)| name.clone())
    }
}

fn inode(dir: &dyn SinkDir, name: &[u8]) -> Option<u64> {
    dir.stat(name).ok().flatten().map(|there| there.inode)
}
