//! Where a backup reads from: the seam that each operating system implements.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::format::{Node, NodeKind};

/// An open directory of the source. Entries are reached relative to it, so
/// that paths of any length work and a renamed parent doesn't mislead.
pub trait SourceDir: Send + Sync {
    /// Names in the directory, without `.` and `..`, in any order.
    fn names(&self) -> io::Result<Vec<Vec<u8>>>;

    /// Kind, owner ids, mode, times, inode, size, device and link of an entry,
    /// not following symlinks; what `details` adds is missing.
    /// Also returns the number of the file system the entry is on.
    fn stat(&self, name: &[u8]) -> io::Result<(Node, u64)>;

    /// The number of the file system that this directory is on; `None` for one that stands for
    /// several, each of whose entries is a file system's root.
    fn device(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }

    /// Adds what costs more to learn: owner names, symlink target, and the extended
    /// attributes that `room` keeps. What can be learnt is there also after an error.
    fn details(&self, node: &mut Node, room: &mut Room) -> io::Result<()>;

    /// Opens an extended attribute of an entry, not following symlinks.
    fn open_stream(&self, node: &Node, name: &[u8]) -> io::Result<Box<dyn SourceFile>> {
        let _ = (node, name);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Opens a directory inside this one, not following symlinks.
    fn open_dir(&self, name: &[u8]) -> io::Result<Arc<dyn SourceDir>>;

    /// Opens a regular file inside this one, not following symlinks.
    fn open_file(&self, name: &[u8]) -> io::Result<Box<dyn SourceFile>>;
}

/// An open regular file, or stream, of the source.
pub trait SourceFile: Send {
    /// Reads at an offset; 0 only at the end of the file.
    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// The next range that holds data at or after `offset`, or `None` when
    /// only a hole (or nothing) follows. Systems without holes answer `offset..u64::MAX`.
    fn next_data(&mut self, offset: u64) -> io::Result<Option<Range<u64>>>;

    /// The file's entry as `SourceDir::stat` would give it now (the name is empty).
    fn stat(&mut self) -> io::Result<Node>;

    /// Adds what `SourceDir::details` adds, if an open file tells that sooner than its name does;
    /// false if not.
    fn details(&self, _node: &mut Node, _room: &mut Room) -> io::Result<bool> {
        Ok(false)
    }
}

/// How much room a node has for extended attributes (alternate streams are some), and which
/// of them it has none for: those are streams.
#[derive(Debug)]
pub struct Room {
    each: u64,
    left: u64,
    streams: Vec<LongStream>,
}

/// An extended attribute that is too long for its node.
#[derive(Debug, PartialEq, Eq)]
pub struct LongStream {
    pub name: Vec<u8>,
    pub len: u64,
}

impl Room {
    /// Where long ones are stored as contents are: a page of a tree, which holds many nodes,
    /// stays short. Linux has none that are longer than this, so what it has mostly lies in
    /// the node.
    pub fn with_streams() -> Self {
        Self::new(64 << 10, 1 << 20)
    }

    /// Where they can't be: as much as a page can take.
    pub fn without_streams() -> Self {
        Self::new(3 << 20, 3 << 20)
    }

    /// For attributes of at most so many bytes each, and together with their names.
    pub fn new(each: u64, together: u64) -> Self {
        Self { each, left: together, streams: Vec::new() }
    }

    /// Whether an attribute of this length shall be read into the node.
    pub fn keeps(&mut self, name: &[u8], len: u64) -> bool {
        let rest = self.left.checked_sub(len.saturating_add(name.len() as u64));
        match rest.filter(|_| len <= self.each) {
            Some(rest) => {
                self.left = rest;
                true
            }
            None => {
                self.streams.push(LongStream { name: name.to_vec(), len });
                false
            }
        }
    }

    /// Those that it doesn't keep, in order of their names.
    pub fn into_streams(mut self) -> Vec<LongStream> {
        self.streams.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        self.streams.dedup_by(|a, b| a.name == b.name);
        self.streams
    }
}

/// Bytes in memory as a file.
pub struct Bytes(pub Vec<u8>);

impl SourceFile for Bytes {
    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        let len = buf.len().min(self.0.len() - from);
        buf[..len].copy_from_slice(&self.0[from..from + len]);
        Ok(len)
    }

    fn next_data(&mut self, offset: u64) -> io::Result<Option<Range<u64>>> {
        Ok(Some(offset..u64::MAX))
    }

    fn stat(&mut self) -> io::Result<Node> {
        let mut node = Node::new("", NodeKind::File);
        node.size = self.0.len() as u64;
        Ok(node)
    }
}
