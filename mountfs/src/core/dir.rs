//! Listing directories.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::sync::Cache;
use tresor_engine::format::{BlobId, NodeKind};
use tresor_engine::tree;

use super::namespace::VirtualEntry;
use super::versions::Versions;
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
    entries: Vec<VirtualEntry>,
    /// Without what is damaged, of which there may be more later: when it was made.
    incomplete: Option<Instant>,
}

/// What a virtual folder has at one [generation](super::namespace::Namespace::generation). One that
/// has begun goes on with what it began with, whoever looks at the folder meanwhile.
pub(super) type Listings = Cache<(Ino, u32), Arc<Listing>>;

/// How long what is damaged stays left out before it is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

impl Listing {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn find(&self, name: &[u8]) -> Option<&Place> {
        let at = self.entries.binary_search_by(|e| e.name.as_slice().cmp(name)).ok()?;
        Some(&self.entries[at].place)
    }

    fn is_good(&self) -> bool {
        self.incomplete.is_none_or(|made| made.elapsed() < LOOK_AGAIN)
    }
}

/// `.` and `..` come first.
const DOTS: u64 = 2;

/// Where a listing of a virtual folder goes on: a number below 2^63, since generations are below 2^31.
fn offset_of(generation: u32, position: u64) -> u64 {
    (u64::from(generation) << 32) | position
}

/// The generation that has begun, if entries of the folder itself have been listed, and the position.
fn position_of(offset: u64) -> (Option<u32>, u64) {
    let generation = (offset >> 32) as u32;
    ((generation > 0).then_some(generation), offset & u64::from(u32::MAX))
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
        match tree {
            Some(root) => {
                let first = offset.saturating_sub(DOTS);
                self.list_tree(ino, &dir, &root, first, look_up, each)
            }
            None => self.list_virtual(ino, &dir, offset, look_up, each),
        }
    }

    /// Which state of the folder a listing shows that begins now. It only ever changes in
    /// virtual folders.
    pub fn listing_version(&self, ino: Ino) -> FsResult<u32> {
        match self.inode(ino)?.place {
            Place::Folder(_) | Place::Versions(_) => {
                self.refresh()?;
                Ok(self.namespace.generation())
            }
            _ => Ok(0),
        }
    }

    /// The entries that a virtual folder has now.
    pub(super) fn listing(&self, ino: Ino, place: &Place) -> FsResult<Arc<Listing>> {
        self.refresh()?;
        Ok(self.listing_now(ino, place)?.1)
    }

    /// With their generation.
    fn listing_now(&self, ino: Ino, place: &Place) -> FsResult<(u32, Arc<Listing>)> {
        let generation = self.namespace.generation();
        let known = self.listings.get(&(ino, generation));
        if let Some(known) = known.filter(|known| known.is_good()) {
            return Ok((generation, known));
        }
        // By now they may be of a later one.
        let (generation, mut entries, is_whole) = match place {
            Place::Folder(folder) => {
                let (generation, entries) = self.namespace.entries(folder);
                (generation, entries, true)
            }
            Place::Versions(of) => {
                let Versions { generation, entries, is_whole } = self.version_entries(of)?;
                (generation, entries, is_whole)
            }
            _ => return Err(FsError::NotADirectory),
        };
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let listing = Arc::new(Listing { entries, incomplete: (!is_whole).then(Instant::now) });
        self.listings.insert((ino, generation), listing.clone());
        Ok((generation, listing))
    }

    /// The entries that a virtual folder had when it was begun to be listed.
    fn listing_begun(&self, ino: Ino, place: &Place, generation: u32) -> FsResult<Arc<Listing>> {
        if let Some(known) = self.listings.get(&(ino, generation)) {
            return Ok(known);
        }
        // Where it would go on in another one, some would be missing, or come twice.
        let (now, listing) = self.listing_now(ino, place)?;
        if now == generation { Ok(listing) } else { Err(FsError::Stale) }
    }

    fn list_virtual(
        &self,
        ino: Ino,
        dir: &Inode,
        offset: u64,
        look_up: LookUp,
        each: &mut dyn FnMut(Entry<'_>) -> bool,
    ) -> FsResult<()> {
        self.refresh()?;
        let (begun, position) = position_of(offset);
        let (generation, listing) = match begun {
            Some(begun) => (begun, self.listing_begun(ino, &dir.place, begun)?),
            None => self.listing_now(ino, &dir.place)?,
        };
        let skip = usize::try_from(position.saturating_sub(DOTS)).unwrap_or(usize::MAX);
        for (entry, position) in listing.entries.iter().zip(DOTS + 1..).skip(skip) {
            let next = offset_of(generation, position);
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
