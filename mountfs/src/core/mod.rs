//! The file system without a kernel: synchronous, shared between threads, and
//! read-only. What each operation promises is written down in docs/drive.md.

mod ahead;
mod attr;
mod content;
mod dir;
mod error;
mod inode;
mod leaf;
mod namespace;
mod status;
mod versions;
mod windows;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use jiff::tz::TimeZone;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tresor_engine::format::{BlobId, NodeKind, Time, Value, display_name};
use tresor_engine::repo::{Repository, Snapshot, without_fetching};
use tresor_engine::select::SnapshotFilter;
use tresor_engine::tree::{self, NodeAt};

pub use attr::{Attr, Changes};
pub use dir::{Entry, LookUp};
pub use error::{FsError, FsResult};
pub use inode::{Folder, Ino, Inode, Place};
pub use leaf::Leaf;
pub use namespace::Layout;
pub use status::NAME as STATUS_FILE;
pub use windows::{WindowsEntry, WindowsMeta, WindowsStream};

use crate::OnError;
use crate::read::{BlockCache, FileReader, Prefetcher};
use ahead::Ahead;
use content::Files;
use dir::Listings;
use inode::Inodes;
use namespace::Namespace;
use status::Failures;
use windows::Indexes;

pub struct DriveOptions {
    /// Show this snapshot at the root; otherwise all of them in folders.
    pub snapshot: Option<Snapshot>,
    /// Which snapshots the folders show.
    pub filter: SnapshotFilter,
    /// For the names of snapshots.
    pub time_zone: TimeZone,
    /// What the root holds, if it isn't one snapshot.
    pub layout: Layout,
    /// Bytes of the block cache.
    pub cache_size: u64,
}

/// What Spotlight looks for at the root of a volume, to leave it alone.
const NEVER_INDEX: &[u8] = b".metadata_never_index";
/// Beside owner, group and mode it says who may do what.
pub const ACL: &[u8] = b"system.posix_acl_access";
/// Attributes that programs like `ls` ask for at each file, unless they are told
/// that the file system has none of them.
const ASKED_OF_ALL: [&[u8]; 3] = [b"security.selinux", ACL, b"system.posix_acl_default"];
/// Listings of virtual folders that are kept.
const LISTINGS: u64 = 64;

/// Size of the drive, for `df`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Volume {
    pub bytes: u64,
    pub entries: u64,
}

pub struct SnapshotFs {
    repo: Arc<Repository>,
    namespace: Arc<Namespace>,
    inodes: Inodes,
    blocks: Arc<BlockCache>,
    prefetcher: Prefetcher,
    files: Files,
    ahead: Ahead,
    listings: Listings,
    requests: AtomicU64,
    failures: Failures,
    /// Whether others than who mounted are let in.
    others: AtomicBool,
    tell: OnceLock<OnError>,
    windows: Indexes,
    shown: Option<Snapshot>,
}

impl SnapshotFs {
    pub fn new(repo: Arc<Repository>, options: DriveOptions) -> tresor_engine::Result<Self> {
        let (filter, time_zone) = (options.filter, options.time_zone);
        let namespace = Arc::new(Namespace::new(repo.clone(), filter, time_zone, options.layout));
        let root = match &options.snapshot {
            Some(snapshot) => {
                namespace.know(snapshot);
                Place::Snapshot(Box::new(snapshot.clone()))
            }
            None => {
                namespace.look()?;
                Place::Folder(Box::new(Folder::Root))
            }
        };
        let blocks = Arc::new(BlockCache::new(repo.clone(), options.cache_size));
        let prefetcher = Prefetcher::new(blocks.clone(), options.cache_size);
        // Plain LRU: a policy that looks at frequency refuses one that has just begun.
        let lru = EvictionPolicy::lru();
        let listings = Cache::builder().max_capacity(LISTINGS).eviction_policy(lru).build();
        Ok(Self {
            repo,
            namespace,
            inodes: Inodes::new(root),
            blocks,
            prefetcher,
            files: Files::default(),
            ahead: Ahead::default(),
            listings,
            requests: AtomicU64::new(0),
            failures: Failures::default(),
            others: AtomicBool::default(),
            tell: OnceLock::new(),
            windows: Indexes::default(),
            shown: options.snapshot,
        })
    }

    /// Comes before anybody asks for anything: whether others are let in, each to what the recorded
    /// permissions allow, and who is told of what is passed over.
    pub fn open_to(&self, others: bool, tell: OnError) {
        self.others.fetch_or(others, Relaxed);
        let _ = self.tell.set(tell);
    }

    /// The entry `name` of a directory. Counts one lookup, to be given back by [`forget`](Self::forget).
    /// `.` and `..` are asked for by NFS servers only, also of entries forgotten lately.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> FsResult<Attr> {
        match name {
            b"." => return self.enter_again(parent),
            b".." => {
                let below = self.inodes.recall(parent).ok_or(FsError::Stale)?;
                return self.enter_again(below.parent);
            }
            _ => {}
        }
        let dir = self.inode(parent)?;
        if parent == Ino::ROOT && name == status::NAME.as_bytes() {
            return self.enter(parent, name, &dir, Place::Status);
        }
        match self.find(parent, &dir, name) {
            Err(FsError::NotFound) if parent == Ino::ROOT && name == NEVER_INDEX => {
                self.enter(parent, name, &dir, Place::NeverIndex)
            }
            found => found,
        }
    }

    /// An entry that the snapshots, or their folders, have.
    fn find(&self, parent: Ino, dir: &Inode, name: &[u8]) -> FsResult<Attr> {
        match &dir.place {
            Place::Folder(folder) => {
                let listing = self.listing(parent, &dir.place)?;
                let unlisted = || self.namespace.unlisted(folder, name);
                let place = listing.find(name).cloned().or_else(unlisted);
                self.enter(parent, name, dir, place.ok_or(FsError::NotFound)?)
            }
            Place::Versions(of) => {
                let place = self.version_entry(parent, &dir.place, of, name)?;
                self.enter(parent, name, dir, place)
            }
            Place::Link(_) | Place::Status | Place::NeverIndex => Err(FsError::NotADirectory),
            Place::Snapshot(_) | Place::Node { .. } => {
                let root = self.tree(dir)?.ok_or(FsError::NotADirectory)?;
                match tree::position(&self.repo, &root, name)? {
                    Some((index, node)) => Ok(self.enter_node(parent, dir, index, &node)),
                    None if name == versions::NAME => {
                        let place = self.versions_of(dir, parent)?;
                        self.enter(parent, name, dir, place)
                    }
                    None => Err(FsError::NotFound),
                }
            }
        }
    }

    /// Drops `count` lookups.
    pub fn forget(&self, ino: Ino, count: u64) {
        self.inodes.forget(ino, count);
    }

    pub fn attr(&self, ino: Ino) -> FsResult<Attr> {
        let place = self.inode(ino)?.place;
        if let Place::Folder(_) | Place::Versions(_) = place {
            self.refresh()?;
        }
        self.attr_of(ino, &place)
    }

    /// The one snapshot that is shown, unless all are.
    pub fn shown(&self) -> Option<&Snapshot> {
        self.shown.as_ref()
    }

    /// The name of the volume: what the drive shows.
    pub fn label(&self) -> String {
        match &self.shown {
            Some(snapshot) => format!("tresor {} {}", snapshot.data.host, snapshot.id.short()),
            None => "tresor".into(),
        }
    }

    /// Whether what is in this directory never changes.
    pub fn is_fixed(&self, ino: Ino) -> bool {
        self.inode(ino).is_ok_and(|i| matches!(i.place, Place::Node { .. } | Place::Snapshot(_)))
    }

    pub fn readlink(&self, ino: Ino) -> FsResult<Vec<u8>> {
        let inode = self.inode(ino)?;
        match inode.place {
            Place::Link(target) => Ok(target.into_vec()),
            Place::Node { page, number } => {
                let node = NodeAt::load(&self.repo, &page, number)?;
                node.target.clone().ok_or(FsError::Invalid)
            }
            _ => Err(FsError::Invalid),
        }
    }

    /// An extended attribute, if it has at most so many bytes.
    pub fn xattr(&self, ino: Ino, name: &[u8], most: u64) -> FsResult<Vec<u8>> {
        let node = match self.inode(ino)?.place {
            Place::Node { page, number } => NodeAt::load(&self.repo, &page, number)?,
            Place::Versions(of) if name == ACL => {
                self.versions_stand_in(&of)?.ok_or(FsError::NoAttribute)?
            }
            _ => return Err(FsError::NoAttribute),
        };
        match node.attribute(name) {
            Some(Value::Here(bytes)) if bytes.len() as u64 <= most => Ok(bytes.to_vec()),
            Some(value) => {
                let stream = FileReader::of_attribute(value)?;
                let len = usize::try_from(stream.size()).ok().filter(|_| stream.size() <= most);
                Ok(stream.read_at(&self.blocks, 0, len.ok_or(FsError::AttributeTooLong)?)?)
            }
            None if ASKED_OF_ALL.contains(&name) && self.namespace.lacks_xattr(name) => {
                Err(FsError::NoSuchAttributes)
            }
            None => Err(FsError::NoAttribute),
        }
    }

    /// Names of the extended attributes that have at most so many bytes: who copies a file
    /// would stumble over others.
    pub fn xattr_names(&self, ino: Ino, most: u64) -> FsResult<Vec<Vec<u8>>> {
        let Place::Node { page, number } = self.inode(ino)?.place else { return Ok(Vec::new()) };
        let node = NodeAt::load(&self.repo, &page, number)?;
        let fits = |value: Value<'_>| value.size().is_some_and(|size| size <= most);
        let names = node.attributes().filter(|(_, value)| fits(*value));
        Ok(names.map(|(name, _)| name.to_vec()).collect())
    }

    pub fn volume(&self) -> Volume {
        let (bytes, entries) = match &self.shown {
            Some(snapshot) => {
                let s = &snapshot.data.summary;
                (s.bytes, s.entries())
            }
            None => self.namespace.volume(),
        };
        Volume { bytes, entries }
    }

    /// The path of an inode on the drive, for messages: as far as it is in memory, since who waits
    /// for an answer waits for that, too.
    pub fn path(&self, ino: Ino) -> String {
        let mut parts = Vec::new();
        let mut at = ino;
        while at != Ino::ROOT {
            let Some(inode) = self.inodes.get(at) else { break };
            parts.push(display_name(&without_fetching(|| self.name_of(&inode))));
            at = inode.parent;
        }
        parts.iter().rev().fold(String::new(), |path, part| path + "/" + part)
    }

    /// The name of an entry in its directory.
    fn name_of(&self, inode: &Inode) -> Vec<u8> {
        let parent = self.inodes.get(inode.parent).map(|parent| parent.place);
        let siblings = match (&inode.place, parent) {
            (Place::Status, _) => return status::NAME.into(),
            (Place::NeverIndex, _) => return NEVER_INDEX.into(),
            (_, Some(Place::Folder(folder))) => self.namespace.entries(&folder).1,
            (_, Some(Place::Versions(of))) => {
                self.version_entries(&of).map_or(Vec::new(), |versions| versions.entries)
            }
            (Place::Versions(_), _) => return versions::NAME.to_vec(),
            _ => Vec::new(),
        };
        if let Some(entry) = siblings.into_iter().find(|e| e.place == inode.place) {
            return entry.name;
        }
        match &inode.place {
            Place::Node { page, number } => NodeAt::load(&self.repo, page, *number)
                .map_or_else(|_| b"?".to_vec(), |node| node.name.clone()),
            Place::Snapshot(snapshot) => snapshot.id.short().into_bytes(),
            _ => b"?".to_vec(),
        }
    }

    fn inode(&self, ino: Ino) -> FsResult<Inode> {
        self.inodes.get(ino).ok_or(FsError::Stale)
    }

    /// If the store can't be reached, the folders stay as they were.
    fn refresh(&self) -> FsResult<()> {
        self.namespace.refresh();
        Ok(())
    }

    /// Root page of a directory of a snapshot; nothing if it is no directory.
    fn tree(&self, inode: &Inode) -> FsResult<Option<BlobId>> {
        Ok(match &inode.place {
            Place::Snapshot(snapshot) => Some(snapshot.data.tree),
            Place::Node { page, number } => NodeAt::load(&self.repo, page, *number)?.tree,
            _ => None,
        })
    }

    fn enter(&self, parent: Ino, name: &[u8], dir: &Inode, place: Place) -> FsResult<Attr> {
        let ino = Ino::of_place(parent, name, &place);
        // An entry that is reached by its version may be of another snapshot: what
        // is hard-linked below it has nothing to do with what is elsewhere.
        let own = matches!(place, Place::Snapshot(_) | Place::Node { .. });
        let root = if own { ino } else { dir.root };
        let ino = self.inodes.remember(ino, Inode { parent, root, place: place.clone() }, false);
        let mut attr = self.attr_of(ino, &place).inspect_err(|_| self.inodes.forget(ino, 1))?;
        if matches!(place, Place::Node { .. }) {
            // The version stays what it is; its name goes, or becomes that of another one.
            attr.changes = Changes::Sometimes;
        }
        Ok(attr)
    }

    fn enter_again(&self, ino: Ino) -> FsResult<Attr> {
        let inode = self.inodes.recall(ino).ok_or(FsError::Stale)?;
        let place = inode.place.clone();
        // It is the same entry, whatever other names it has.
        let ino = self.inodes.remember(ino, inode, true);
        self.attr_of(ino, &place).inspect_err(|_| self.inodes.forget(ino, 1))
    }

    /// `index` is the node's place in the directory.
    fn enter_node(&self, parent: Ino, dir: &Inode, index: u64, node: &NodeAt) -> Attr {
        let place = Place::Node { page: node.page_id, number: node.number };
        let inode = Inode { parent, root: dir.root, place };
        let ino = self.number(parent, dir, index, node);
        Attr::of_node(self.inodes.remember(ino, inode, node.link.is_some()), node)
    }

    /// The number of the entry at this place of a directory.
    fn number(&self, parent: Ino, dir: &Inode, index: u64, node: &NodeAt) -> Ino {
        // The root's own number is the same whatever snapshot it shows.
        let base = |ino| match &self.shown {
            Some(snapshot) if ino == Ino::ROOT => Ino::of_snapshot(&snapshot.id),
            _ => ino,
        };
        match node.identity() {
            Some(file) => Ino::of_link(base(dir.root), &file),
            None => Ino::of_entry(base(parent), index),
        }
    }

    fn attr_of(&self, ino: Ino, place: &Place) -> FsResult<Attr> {
        let directory = |time| Attr::of_virtual(ino, NodeKind::Directory, 0, time);
        Ok(match place {
            Place::Folder(folder) => directory(self.namespace.time(folder)),
            // Its tree doesn't change, but its name may go.
            Place::Snapshot(snapshot) => directory(snapshot.data.time),
            Place::Link(target) => {
                let time = self.namespace.time(&Folder::Snapshots);
                Attr::of_virtual(ino, NodeKind::Symlink, target.len() as u64, time)
            }
            Place::Status => status::attr(ino),
            Place::NeverIndex => Attr::of_virtual(ino, NodeKind::File, 0, Time::default()),
            Place::Versions(of) => {
                let attr = directory(self.namespace.time(&Folder::Snapshots));
                match self.versions_stand_in(of)? {
                    Some(dir) => attr.with_rights_of(&dir),
                    None => attr,
                }
            }
            Place::Node { page, number } => {
                Attr::of_node(ino, &*NodeAt::load(&self.repo, page, *number)?)
            }
        })
    }
}
