//! Names that a target may not tell apart, as `README` and `readme` on a file
//! system that ignores case. What such names have in common is a guess; that
//! they are one in the target shows by the inode.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::format::{BlobId, Node};
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

/// Names that may clash, each as the path of its directory and the folded name.
#[derive(Default)]
pub(super) struct Clashes(HashSet<(Vec<u8>, String)>);

impl Clashes {
    pub fn add(&mut self, dir: &[u8], name: &[u8]) {
        self.0.insert((dir.to_vec(), fold(name)));
    }

    /// The entry of the directory that is the same as this one in the target
    /// and shouldn't be.
    pub fn find(
        &self,
        repo: &Repository,
        tree: &BlobId,
        path: &[u8],
        dir: &dyn SinkDir,
        node: &Node,
    ) -> Option<Vec<u8>> {
        if self.0.is_empty() || !self.0.contains(&(path.to_vec(), fold(&node.name))) {
            return None;
        }
        let folded = fold(&node.name);
        let inode = |name: &[u8]| dir.stat(name).ok().flatten().map(|there| there.inode);
        let here = inode(&node.name)?;
        let is_other_name = |other: &Node| {
            let identity_of = other.identity();
            identity_of.is_some() && identity_of == node.identity()
        };
        let others = tree::entries(repo, tree).filter_map(Result::ok);
        others
            .filter(|other| other.name != node.name && fold(&other.name) == folded)
            .find(|other| !is_other_name(other) && inode(&other.name) == Some(here))
            .map(|other| other.name)
    }
}
