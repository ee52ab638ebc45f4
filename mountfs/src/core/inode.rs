//! Inodes: what the numbers that a kernel holds on to stand for.
//!
//! A number follows from the parent's number and the place in the directory, so
//! that it is the same at every mount; the table remembers only the numbers in
//! use. All names of a hard-linked file in one snapshot share a number.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use dashmap::{DashMap, Entry};
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tresor_engine::format::{BlobId, FileIdentity, ObjectId};
use tresor_engine::repo::Snapshot;

/// Number of an inode; the root's is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

impl Ino {
    pub const ROOT: Ino = Ino(1);

    /// The entry at this place of a directory of a snapshot. Neighbours have
    /// neighbouring numbers: programs that read files in the order of their
    /// numbers, like `cp -r`, read them in the order they are stored in.
    pub fn of_entry(dir: Ino, index: u64) -> Self {
        Self::of_bits(spread(dir.0).wrapping_add(index))
    }

    /// Stands for the root where numbers below it are made, if it shows this snapshot.
    pub fn of_snapshot(id: &ObjectId) -> Self {
        Self::hash(b"snap", Self::ROOT, &id.0)
    }

    /// The entry `name` of a virtual folder.
    fn of_name(parent: Ino, name: &[u8]) -> Self {
        Self::hash(b"name", parent, name)
    }

    /// The entry `name` of a virtual folder, which stands for `place`.
    pub fn of_place(parent: Ino, name: &[u8], place: &Place) -> Self {
        match place {
            Place::Link(target) => Self::hash(b"link", Self::of_name(parent, name), target),
            // Another snapshot of that name is another place: numbers below follow from this one.
            Place::Snapshot(s) => Self::hash(b"snap", Self::of_name(parent, name), &s.id.0),
            // So is another version, though nothing is below it but what is below its place.
            Place::Node { page, number } => {
                let key = [&page.0[..], &number.to_le_bytes()].concat();
                Self::hash(b"node", Self::of_name(parent, name), &key)
            }
            _ => Self::of_name(parent, name),
        }
    }

    /// A hard-linked file of the snapshot whose root is `root`.
    pub fn of_link(root: Ino, file: &FileIdentity) -> Self {
        Self::hash(b"file", root, file)
    }

    fn hash(what: &[u8; 4], parent: Ino, key: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(what).update(&parent.0.to_le_bytes()).update(key);
        let bytes = hasher.finalize();
        Self::of_bits(u64::from_le_bytes(bytes.as_bytes()[..8].try_into().unwrap_or_default()))
    }

    /// Small numbers are for the root; some programs take them as signed.
    fn of_bits(bits: u64) -> Self {
        Self((bits & (u64::MAX >> 1)).max(16))
    }

    fn next(self) -> Self {
        Self::of_bits(self.0 + 1)
    }
}

/// Numbers far apart for any two numbers: the finalizer of SplitMix64 (Steele,
/// Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
fn spread(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A folder above the snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Folder {
    Root,
    Snapshots,
    Ids,
    Hosts,
    Tags,
    Host(String),
    Tag(String),
}

/// A folder `.versions`, or one below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionsOf {
    /// Snapshots of this host count.
    pub host: String,
    /// Nodes from the root of a snapshot to the directory that it is about: where their
    /// leaf pages are, and their numbers there.
    pub dir: Vec<(BlobId, u32)>,
    /// The entry of that directory whose versions are shown; none for the
    /// folder that holds one for each entry.
    pub name: Option<Vec<u8>>,
}

/// What an inode stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Folder(Box<Folder>),
    /// A link, by its target. Kernels keep targets, so a link that points
    /// elsewhere is another inode.
    Link(Box<[u8]>),
    /// The hidden file that tells what reading has cost.
    Status,
    /// The hidden empty file that keeps Spotlight from reading the whole drive.
    NeverIndex,
    /// The root of a snapshot. One that is forgotten stays readable where it is open.
    Snapshot(Box<Snapshot>),
    /// Where all versions of entries are gathered.
    Versions(Box<VersionsOf>),
    /// A node of a snapshot: where its leaf page is, and its number there.
    Node {
        page: BlobId,
        number: u32,
    },
}

#[derive(Clone, Debug)]
pub struct Inode {
    pub parent: Ino,
    /// The snapshot root it is below of (its own number, for a snapshot root).
    pub root: Ino,
    pub place: Place,
}

struct Counted {
    inode: Inode,
    lookups: AtomicU64,
}

/// Inodes that were forgotten last and are still known if they are asked for again.
const FORGOTTEN: u64 = 1 << 15;

pub struct Inodes {
    used: DashMap<Ino, Counted>,
    /// An NFS server's clients hold on to numbers that the kernel has forgotten.
    forgotten: Cache<Ino, Inode>,
}

impl Inodes {
    /// The table, with the root in it for good.
    pub fn new(root: Place) -> Self {
        let table = DashMap::new();
        let inode = Inode { parent: Ino::ROOT, root: Ino::ROOT, place: root };
        table.insert(Ino::ROOT, Counted { inode, lookups: AtomicU64::new(1) });
        // Plain LRU: a policy that looks at frequency refuses the newest ones.
        let lru = EvictionPolicy::lru();
        let forgotten = Cache::builder().max_capacity(FORGOTTEN).eviction_policy(lru).build();
        Self { used: table, forgotten }
    }

    pub fn get(&self, ino: Ino) -> Option<Inode> {
        self.used.get(&ino).map(|counted| counted.inode.clone())
    }

    /// Like `get`, but knows those too that were forgotten lately.
    pub fn recall(&self, ino: Ino) -> Option<Inode> {
        self.get(ino).or_else(|| self.forgotten.get(&ino))
    }

    /// Takes up an entry and counts one lookup. Its number is `ino` unless
    /// another entry has that (one in 2^63): then the next free one.
    pub fn remember(&self, mut ino: Ino, inode: Inode, hard_linked: bool) -> Ino {
        loop {
            match self.used.entry(ino) {
                Entry::Vacant(free) => {
                    free.insert(Counted { inode, lookups: AtomicU64::new(1) });
                    return ino;
                }
                Entry::Occupied(known) => {
                    let same = &known.get().inode;
                    let is_same = hard_linked && same.root == inode.root
                        || same.parent == inode.parent && same.place == inode.place;
                    if is_same {
                        known.get().lookups.fetch_add(1, Relaxed);
                        return ino;
                    }
                }
            }
            ino = ino.next();
        }
    }

    /// The kernel drops `count` lookups.
    pub fn forget(&self, ino: Ino, count: u64) {
        if ino == Ino::ROOT {
            return;
        }
        self.used.remove_if(&ino, |_, counted| {
            let before = counted
                .lookups
                .fetch_update(Relaxed, Relaxed, |n| Some(n.saturating_sub(count)))
                .unwrap_or(0);
            let gone = before <= count;
            if gone {
                // First, so that it is always known to one of the two.
                self.forgotten.insert(ino, counted.inode.clone());
            }
            gone
        });
    }

    /// How many are in use.
    pub fn count(&self) -> usize {
        self.used.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u32) -> Inode {
        let place = Place::Node { page: BlobId([1; 32]), number };
        Inode { parent: Ino::ROOT, root: Ino::ROOT, place }
    }

    #[test]
    fn numbers_are_counted_and_never_shared_by_mistake() {
        let inodes = Inodes::new(Place::Status);
        let a = inodes.remember(Ino(100), node(1), false);
        assert_eq!(inodes.remember(Ino(100), node(1), false), a);
        let b = inodes.remember(Ino(100), node(2), false);
        assert_ne!(a, b);
        inodes.forget(a, 1);
        assert!(inodes.get(a).is_some());
        inodes.forget(a, 1);
        assert!(inodes.get(a).is_none());
        assert!(inodes.get(b).is_some());
        inodes.forget(Ino::ROOT, 99);
        assert!(inodes.get(Ino::ROOT).is_some());
    }
}
