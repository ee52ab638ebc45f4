//! Entries that are no directories, in few bytes: who holds these need not have them
//! remembered. An NFS client never says which of the entries it has seen it still knows.

use tresor_engine::format::{BlobId, NodeKind};

use super::{Attr, FsError, FsResult, Ino, Inode, Place, SnapshotFs};

/// An entry of a snapshot that is no directory. It can be taken up again as long as the
/// directory that it was found in is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    pub ino: Ino,
    pub parent: Ino,
    pub page: BlobId,
    pub number: u32,
}

impl SnapshotFs {
    /// What has been looked up as a leaf; nothing if it is none.
    pub fn leaf(&self, attr: &Attr) -> FsResult<Option<Leaf>> {
        let inode = self.inode(attr.ino)?;
        Ok(match inode.place {
            Place::Node { page, number } if attr.kind != NodeKind::Directory => {
                Some(Leaf { ino: attr.ino, parent: inode.parent, page, number })
            }
            _ => None,
        })
    }

    /// Takes up a leaf that may be forgotten. Counts one lookup.
    pub fn enter_leaf(&self, leaf: &Leaf) -> FsResult<Ino> {
        let parent = self.inodes.get(leaf.parent).ok_or(FsError::Stale)?;
        let place = Place::Node { page: leaf.page, number: leaf.number };
        let inode = Inode { parent: leaf.parent, root: parent.root, place };
        // It is the same entry, whatever other names it has.
        Ok(self.inodes.remember(leaf.ino, inode, true))
    }
}
