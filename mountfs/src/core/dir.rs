//! Listing directories.

use std::sync::Arc;

use tresor_engine::format::{BlobId, NodeKind};
use tresor_engine::tree;

use super::namespace::VirtualEntry;
use super::{Attr, FsError, FsResult, Ino, Inode, Place, SnapshotFs};

/// One entry of a listing.
pub struct Entry<'a> {
    pub name: &'a [u8],
    pub attr: Attr,
    /// Counts as looked up if it is taken.
    pub looked_up: bool,
    /// Where a listing goes on after this entry.
    pub next: u64,
}

/// Which entries that a listing gives count as looked up, beside it: `.` and `..` never do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookUp {
    Nothing,
    Directories,
    Everything,
}

impl LookUp {
    fn has(self, kind: NodeKind) -> bool {
        match self {
            Self::Nothing => false,
            Self::Directories => kind == NodeKind::Directory,
            Self::Everything => true,
        }
    }
}

/// The entries of a virtual folder, by name.
pub(super) struct Listing {
    /// Of the namespace when it was made.
    generation: u32,
    entries: Vec<VirtualEntry>,
}

impl Listing {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn find(&self, name: &[u8]) -> Option<&Place> {
        let at = self.entries.binary_search_by(|e| e.name.as_slice().cmp(name)).ok()?;
        Some(&self.entries[at].place)
    }
}

/// `.` and `..` come first.
const DOTS: u64 = 2;

/// Whether entries of the folder itself have been listed.
fn has_begun(offset: u64) -> bool {
    offset > DOTS
}

impl SnapshotFs {
    /// Lists a directory from `offset` (0: the beginning) until `each` says that
    /// it has no room for the entry.
    pub fn read_dir(
        &self,
        ino: Ino,
        offset: u64,
        look_up: LookUp,
        each: &mut dyn FnMut(Entry<'_>) -> bool,
    ) -> FsResult<()> {
        let mut given = false;
        let listed = self.list(ino, offset, look_up, &mut |entry| {
            let taken = each(entry);
            given |= taken;
            taken
        });
        match listed {
            // What comes before the damage is given first; the next call fails.
            Err(_) if given => Ok(()),
            other => other,
        }
    }

    fn list(
        &self,
        ino: Ino,
        offset: u64,
        look_up: LookUp,
        each: &mut dyn FnMut(Entry<'_>) -> bool,
    ) -> FsResult<()> {
        let dir = self.inode(ino)?;
        // Before anything is given: it tells whether this is a directory at all.
        let tree = match dir.place {
            Place::Folder(_) | Place::Versions(_) => None,
            _ => Some(self.tree(&dir)?.ok_or(FsError::NotADirectory)?),
        };
        for (i, (name, ino)) in
            [(b".".as_slice(), ino), (b"..", dir.parent)].into_iter().enumerate()
        {
            if (i as u64) < offset {
                continue;
            }
            let attr = Attr::of_virtual(ino, NodeKind::Directory, 0, Default::default());
            if !each(Entry { name, attr, looked_up: false, next: i as u64 + 1 }) {
                return Ok(());
            }
        }
        let first = offset.saturating_sub(DOTS);
        match tree {
            Some(root) => self.list_tree(ino, &dir, &root, first, look_up, each),
            None => {
                let listing = self.listing(ino, &dir.place, has_begun(offset))?;
                self.list_virtual(ino, &dir, &listing.entries, first, look_up, each)
            }
        }
    }

    /// Which state of the folder a listing shows that goes on at `offset`. It only ever
    /// changes in virtual folders.
    pub fn listing_version(&self, ino: Ino, offset: u64) -> FsResult<u32> {
        let place = self.inode(ino)?.place;
        match place {
            Place::Folder(_) | Place::Versions(_) => {
                Ok(self.listing(ino, &place, has_begun(offset))?.generation)
            }
            _ => Ok(0),
        }
    }

    /// The entries of a virtual folder. A listing that has begun goes on with
    /// what it began with, so that offsets keep their meaning.
    pub(super) fn listing(
        &self,
        ino: Ino,
        place: &Place,
        has_begun: bool,
    ) -> FsResult<Arc<Listing>> {
        self.refresh()?;
        let generation = self.namespace.generation();
        if let Some(known) = self.listings.get(&ino)
            && (has_begun || known.generation == generation)
        {
            return Ok(known);
        }
        let mut entries = match place {
            Place::Folder(folder) => self.namespace.entries(folder),
            Place::Versions(of) => self.version_entries(of)?,
            _ => return Err(FsError::NotADirectory),
        };
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let listing = Arc::new(Listing { generation, entries });
        self.listings.insert(ino, listing.clone());
        Ok(listing)
    }

    fn list_virtual(
        &self,
        ino: Ino,
        dir: &Inode,
        entries: &[VirtualEntry],
        first: u64,
        look_up: LookUp,
        each: &mut dyn FnMut(Entry<'_>) -> bool,
    ) -> FsResult<()> {
        let skip = usize::try_from(first).unwrap_or(usize::MAX);
        for (entry, next) in entries.iter().zip(DOTS + 1..).skip(skip) {
            let attr = match self.enter(ino, &entry.name, dir, entry.place.clone()) {
                Ok(attr) => attr,
                // A snapshot forgotten meanwhile is passed over.
                Err(FsError::NotFound | FsError::Stale) => continue,
                Err(e) => return Err(e),
            };
            let (ino, looked_up) = (attr.ino, look_up.has(attr.kind));
            let taken = each(Entry { name: &entry.name, attr, looked_up, next });
            if !(taken && looked_up) {
                self.forget(ino, 1);
            }
            if !taken {
                break;
            }
        }
        Ok(())
    }

    fn list_tree(
        &self,
        ino: Ino,
        dir: &Inode,
        root: &BlobId,
        first: u64,
        look_up: LookUp,
        each: &mut dyn FnMut(Entry<'_>) -> bool,
    ) -> FsResult<()> {
        let mut entries = tree::entries_from(&self.repo, root, first);
        let mut index = first;
        while let Some(node) = entries.next_at() {
            let node = node?;
            let looked_up = look_up.has(node.kind);
            let attr = if looked_up {
                self.enter_node(ino, dir, index, &node)
            } else {
                Attr::of_node(self.number(ino, dir, index, &node), &node)
            };
            index += 1;
            let ino = attr.ino;
            if !each(Entry { name: &node.name, attr, looked_up, next: DOTS + index }) {
                if looked_up {
                    self.forget(ino, 1);
                }
                break;
            }
        }
        Ok(())
    }
}
