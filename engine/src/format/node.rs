//! A node: one file, directory or other entry of a tree, with everything
//! the system keeps about it.

use std::time::SystemTime;

use minicbor::{Decode, Decoder, Encode};

use super::attributes::{Stream, Xattr};
use super::ids::BlobId;
use super::left_out::LeftOut;

/// A point in time: seconds since 1970 (UTC) and nanoseconds within the second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode)]
#[cbor(array)]
pub struct Time {
    #[n(0)]
    pub seconds: i64,
    #[n(1)]
    pub nanos: u32,
}

const MAX_NANOS: u32 = 999_999_999;

impl Time {
    /// There are systems that tell more nanoseconds than a second has.
    pub fn new(seconds: i64, nanos: u32) -> Self {
        Self { seconds, nanos: nanos.min(MAX_NANOS) }
    }

    /// `None` if it can't be written down.
    pub fn from_system(time: SystemTime) -> Option<Self> {
        let time = jiff::Timestamp::try_from(time).ok()?;
        let nanos = time.as_nanosecond().rem_euclid(1_000_000_000) as u32;
        Some(Self::new(time.as_nanosecond().div_euclid(1_000_000_000) as i64, nanos))
    }
}

impl<'b, C> Decode<'b, C> for Time {
    fn decode(d: &mut Decoder<'b>, c: &mut C) -> Result<Self, minicbor::decode::Error> {
        #[derive(Decode)]
        #[cbor(array)]
        struct Plain {
            #[n(0)]
            seconds: i64,
            #[n(1)]
            nanos: u32,
        }
        let Plain { seconds, nanos } = d.decode_with(c)?;
        if nanos > MAX_NANOS {
            return Err(minicbor::decode::Error::message("a time has too many nanoseconds"));
        }
        Ok(Self { seconds, nanos })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum NodeKind {
    #[n(0)]
    File,
    #[n(1)]
    Directory,
    #[n(2)]
    Symlink,
    #[n(3)]
    Fifo,
    #[n(4)]
    Socket,
    #[n(5)]
    CharDevice,
    #[n(6)]
    BlockDevice,
}

/// Which files of one snapshot are names of the same file: the device and
/// inode they had on the source. Only present when a file had several names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(array)]
pub struct LinkId {
    #[n(0)]
    pub device: u64,
    #[n(1)]
    pub inode: u64,
    /// Number of names the file had on the source, also outside the backup.
    #[n(2)]
    pub names: u32,
}

impl LinkId {
    /// What tells one file from another: device and inode.
    pub fn key(&self) -> (u64, u64) {
        (self.device, self.inode)
    }
}

/// A run of a file: `len` bytes of the blob `id`, or a hole when there is no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Extent {
    #[n(0)]
    pub len: u64,
    #[n(1)]
    pub id: Option<BlobId>,
}

/// One page of a chunk list: `len` bytes of the file are described by the tree blob `id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct ExtentPage {
    #[n(0)]
    pub len: u64,
    #[n(1)]
    pub id: BlobId,
}

/// What a file consists of. Lengths add up to the node's `size`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Content {
    /// The bytes themselves (tiny files).
    #[n(0)]
    Inline(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    /// Chunks and holes in order.
    #[n(1)]
    Extents(#[n(0)] Vec<Extent>),
    /// Pages of a long chunk list. `level` 1: each page is a list of extents;
    /// above: each page is a list of pages of the level below.
    #[n(2)]
    Pages {
        #[n(0)]
        level: u8,
        #[n(1)]
        pages: Vec<ExtentPage>,
    },
}

impl Content {
    pub fn empty() -> Self {
        Self::Inline(Vec::new())
    }

    /// About how many bytes it has where it is written down.
    pub fn weight(&self) -> usize {
        match self {
            Self::Inline(bytes) => bytes.len(),
            Self::Extents(extents) => extents.len() * 40,
            Self::Pages { pages, .. } => pages.len() * 42,
        }
    }

    /// Length in bytes, holes included. `None` if that can't be: it is more than
    /// there is, a part is empty, or pages are of no level.
    pub fn size(&self) -> Option<u64> {
        match self {
            Self::Inline(bytes) => Some(bytes.len() as u64),
            Self::Extents(extents) => total(extents.iter().map(|e| e.len)),
            Self::Pages { level: 0, .. } => None,
            Self::Pages { pages, .. } => total(pages.iter().map(|p| p.len)),
        }
    }
}

/// The length of parts together, none of which may be empty.
pub(super) fn total(mut lengths: impl Iterator<Item = u64>) -> Option<u64> {
    lengths.try_fold(0u64, |sum, len| sum.checked_add(len).filter(|_| len > 0))
}

/// One entry of a directory. Decoders skip keys they don't know.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Node {
    /// Raw bytes on Unix, WTF-8 on Windows; never empty, `.`, `..` or with `/` or NUL.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub name: Vec<u8>,
    #[n(1)]
    pub kind: NodeKind,
    /// Permission bits with setuid, setgid and sticky (`0o7777`).
    #[n(2)]
    pub mode: u32,
    #[n(3)]
    pub uid: u32,
    #[n(4)]
    pub gid: u32,
    #[n(5)]
    pub user: Option<String>,
    #[n(6)]
    pub group: Option<String>,
    #[n(7)]
    pub mtime: Time,
    #[n(8)]
    pub atime: Time,
    /// Change time on the source; tells whether a file changed, is not restored.
    #[n(9)]
    pub ctime: Time,
    /// Inode on the source; likewise.
    #[n(10)]
    pub inode: u64,
    /// Length in bytes (files); length of the target (symlinks); else 0.
    #[n(11)]
    pub size: u64,
    #[n(12)]
    pub content: Option<Content>,
    /// Root page of a directory's tree.
    #[n(13)]
    pub tree: Option<BlobId>,
    /// Target of a symlink.
    #[cbor(n(14), with = "minicbor::bytes")]
    pub target: Option<Vec<u8>>,
    /// Device number of a device node, as Linux' `makedev` gives it.
    #[n(15)]
    pub device: Option<u64>,
    #[n(16)]
    pub link: Option<LinkId>,
    #[n(17)]
    pub xattrs: Option<Vec<Xattr>>,
    /// Extended attributes, alternate streams among them, that are stored as contents are;
    /// in repositories with the feature `streams`.
    #[n(18)]
    pub streams: Option<Vec<Stream>>,
    /// What a directory held that isn't in its tree.
    #[n(19)]
    pub left_out: Option<LeftOut>,
}

/// What names of the same file have in common, see [`Node::identity`].
pub type FileIdentity = [u8; 32];

impl Node {
    /// The change time of what the next backup shall not take for unchanged.
    pub const LOOK_AGAIN: Time = Time { seconds: 0, nanos: 0 };

    /// An empty node of this name and kind, owned by root, without permissions.
    pub fn new(name: impl Into<Vec<u8>>, kind: NodeKind) -> Self {
        Self {
            name: name.into(),
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            user: None,
            group: None,
            mtime: Time::default(),
            atime: Time::default(),
            ctime: Time::default(),
            inode: 0,
            size: 0,
            content: None,
            tree: None,
            target: None,
            device: None,
            link: None,
            xattrs: None,
            streams: None,
            left_out: None,
        }
    }

    pub fn is_dir(&self) -> bool {
        self.kind == NodeKind::Directory
    }

    pub fn is_file(&self) -> bool {
        self.kind == NodeKind::File
    }

    /// Whether a file's content is of a kind this version knows and as long as the file.
    pub fn has_whole_content(&self) -> bool {
        match &self.content {
            Some(content) => content.size() == Some(self.size),
            None => !self.is_file(),
        }
    }

    /// What tells whether this is another name of the same file; nothing if it is the
    /// only name. Names with the same inode are one file only if the rest agrees: during
    /// a backup an inode may be freed and used again, or a file may change between the
    /// readings of two of its names.
    pub fn identity(&self) -> Option<FileIdentity> {
        let link = self.link?;
        let mut same = Self::new("", self.kind);
        same.link = Some(LinkId { names: 0, ..link });
        (same.size, same.mtime, same.device) = (self.size, self.mtime, self.device);
        (same.content, same.target) = (self.content.clone(), self.target.clone());
        same.streams = self.streams.clone();
        let bytes = minicbor::to_vec(&same).ok()?;
        Some(*blake3::hash(&bytes).as_bytes())
    }

    /// Whether nothing has changed since `before` was saved, as far as the system tells.
    pub fn is_unchanged_since(&self, before: &Node) -> bool {
        before.ctime != Self::LOOK_AGAIN && self.same_stamp(before)
    }

    /// Whether the entry may have had attributes and streams that could not be saved. A restore
    /// leaves alone then what the target has beyond those that it knows.
    pub fn may_lack_attributes(&self) -> bool {
        self.ctime == Self::LOOK_AGAIN
    }

    /// Whether size, times and inode are the same.
    pub fn same_stamp(&self, before: &Node) -> bool {
        self.kind == before.kind
            && self.size == before.size
            && self.mtime == before.mtime
            && self.ctime == before.ctime
            && self.inode == before.inode
    }
}

/// Whether a name can stand in a directory: what a hostile tree must not contain.
pub fn is_valid_name(name: &[u8]) -> bool {
    !name.is_empty() && name != b"." && name != b".." && !name.iter().any(|b| matches!(b, b'/' | 0))
}
