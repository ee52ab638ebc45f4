//! Listing directories.

use std::sync::Arc;

use tresor_engine::format::BlobId;
use tresor_engine::format::NodeKind;
use tresor_engine::tree;

use super::namespace::VirtualEntry;
use super::{Attr, FsError, FsResult, Handle, Ino, Inode, Place, SnapshotFs, ino_of};

/// One entry of a listing.
pub struct Entry<'a> {
    pub name: &'a [u8],
    pub attr: Attr,
    /// Where a listing goes on after this entry.
    pub next: u64,
}

/// An open directory.
pub(super) struct OpenDir {
    ino: Ino,
    inode: Inode,
    listing: Listing,
}

enum Listing {
    /// As it was when the folder was opened, so that offsets keep their meaning.
    Virtual(Vec<VirtualEntry>),
    Tree(BlobId),
}

/// `.` and `..` come first.
const DOTS: u64 = 2;

impl SnapshotFs {
    /// Opens a directory; also says whether its listing may change.
    pub fn open_dir(&self, ino: Ino) -> FsResult<(Handle, bool)> {
        let inode = self.inode(ino)?;
        let listing = match &inode.place {
            Place::Folder(folder) => {
                self.refresh();
                Listing::Virtual(self.namespace.entries(folder))
            }
            Place::Versions(of) => Listing::Virtual(self.version_entries(of)?),
            _ => Listing::Tree(self.tree(&inode)?.ok_or(FsError::NotADirectory)?),
        };
        let changes = matches!(listing, Listing::Virtual(_));
        let handle = self.new_handle();
        self.dirs.insert(handle, Arc::new(OpenDir { ino, inode, listing }));
        Ok((handle, changes))
    }

    pub fn release_dir(&self, handle: Handle) {
        self.dirs.remove(&handle);
    }

    /// Lists a directory from `offset` (0: the beginning) until `each` says that
    /// it has no room for the entry. With `count`, each entry taken, except `.`
    /// and `..`, counts as looked up.
    pub fn read_dir(
        &self,
        handle: Handle,
        offset: u64,
        count: bool,
        each: &mut dyn FnMut(Entry<'_>) -> bool,
    ) -> FsResult<()> {
        let dir = self.dirs.get(&handle).map(|d| d.clone()).ok_or(FsError::Stale)?;
        for (i, (name, ino)) in
            [(b".".as_slice(), dir.ino), (b"..", dir.inode.parent)].into_iter().enumerate()
        {
            if (i as u64) < offset {
                continue;
            }
            let attr = Attr::of_virtual(ino, NodeKind::Directory, 0, Default::default());
            if !each(Entry { name, attr, next: i as u64 + 1 }) {
                return Ok(());
            }
        }
        let first = offset.saturating_sub(DOTS);
        match &dir.listing {
            Listing::Virtual(entries) => self.list_virtual(&dir, entries, first, count, each),
            Listing::Tree(root) => self.list_tree(&dir, root, first, count, each),
        }
    }

    fn list_virtual(
        &self,
        dir: &OpenDir,
        entries: &[VirtualEntry],
        first: u64,
        count: bool,
        each: &mut dyn FnMut(Entry<'_>) -> bool,
    ) -> FsResult<()> {
        for (entry, next) in entries.iter().zip(DOTS + 1..).skip(first as usize) {
            // A snapshot forgotten meanwhile is passed over.
            let Ok(attr) = self.enter(dir.ino, &entry.name, &dir.inode, entry.place.clone()) else {
                continue;
            };
            let ino = attr.ino;
            let taken = each(Entry { name: &entry.name, attr, next });
            if !(taken && count) {
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
        dir: &OpenDir,
        root: &BlobId,
        first: u64,
        count: bool,
        each: &mut dyn FnMut(Entry<'_>) -> bool,
    ) -> FsResult<()> {
        let mut entries = tree::entries_from(&self.repo, root, first);
        let mut next = DOTS + first;
        while let Some(node) = entries.next_at() {
            let node = match node {
                Ok(node) => node,
                // What was listed before the damage is given first.
                Err(_) if next > DOTS + first => break,
                Err(e) => return Err(e.into()),
            };
            next += 1;
            let attr = if count {
                self.enter_node(dir.ino, &dir.inode, &node)
            } else {
                Attr::of_node(ino_of(dir.ino, &dir.inode, &node), &node)
            };
            let ino = attr.ino;
            if !each(Entry { name: &node.name, attr, next }) {
                if count {
                    self.forget(ino, 1);
                }
                break;
            }
        }
        Ok(())
    }
}
