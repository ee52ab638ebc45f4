//! A tree in memory.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tresor_engine::format::{Node, NodeKind, Time, Xattr};
use tresor_engine::source::{Bytes, Room, SourceDir, SourceFile};

/// An entry: its metadata (the name is not used) and what it consists of.
#[derive(Clone, Debug)]
pub struct Item {
    pub node: Node,
    pub body: Body,
}

#[derive(Clone, Debug)]
pub enum Body {
    Dir(BTreeMap<Vec<u8>, Item>),
    /// The bytes, and the ranges of them that are holes (and zero).
    File(Arc<Vec<u8>>, Vec<Range<u64>>),
    Other,
}

fn new_node(kind: NodeKind, mode: u32) -> Node {
    static INODES: AtomicU64 = AtomicU64::new(100);
    let mut node = Node::new("", kind);
    node.inode = INODES.fetch_add(1, Relaxed);
    node.mode = mode;
    node.mtime = Time::new(1_700_000_000 + node.inode as i64, 123_456_789);
    (node.atime, node.ctime) = (node.mtime, node.mtime);
    node
}

impl Item {
    pub fn dir() -> Self {
        Self { node: new_node(NodeKind::Directory, 0o755), body: Body::Dir(BTreeMap::new()) }
    }

    pub fn file(bytes: impl Into<Vec<u8>>) -> Self {
        let (bytes, mut node) = (bytes.into(), new_node(NodeKind::File, 0o644));
        node.size = bytes.len() as u64;
        Self { node, body: Body::File(Arc::new(bytes), Vec::new()) }
    }

    /// A file whose bytes in these ranges are made zero and are holes.
    pub fn sparse(bytes: impl Into<Vec<u8>>, holes: &[Range<u64>]) -> Self {
        let mut bytes = bytes.into();
        for hole in holes {
            bytes[hole.start as usize..hole.end as usize].fill(0);
        }
        let mut item = Self::file(bytes);
        if let Body::File(_, h) = &mut item.body {
            *h = holes.to_vec();
        }
        item
    }

    pub fn symlink(target: impl Into<Vec<u8>>) -> Self {
        let (target, mut node) = (target.into(), new_node(NodeKind::Symlink, 0o777));
        node.size = target.len() as u64;
        node.target = Some(target);
        Self { node, body: Body::Other }
    }

    pub fn special(kind: NodeKind, device: Option<u64>) -> Self {
        let mut node = new_node(kind, 0o600);
        node.device = device;
        Self { node, body: Body::Other }
    }

    /// The entry with another name put in. Panics if this is no directory.
    pub fn with(mut self, name: impl Into<Vec<u8>>, item: Item) -> Self {
        self.entries_mut().insert(name.into(), item);
        self
    }

    pub fn entries(&self) -> &BTreeMap<Vec<u8>, Item> {
        match &self.body {
            Body::Dir(entries) => entries,
            _ => panic!("not a directory"),
        }
    }

    pub fn entries_mut(&mut self) -> &mut BTreeMap<Vec<u8>, Item> {
        match &mut self.body {
            Body::Dir(entries) => entries,
            _ => panic!("not a directory"),
        }
    }

    pub fn bytes(&self) -> &[u8] {
        match &self.body {
            Body::File(bytes, _) => bytes,
            _ => panic!("not a file"),
        }
    }

    /// The entry with an extended attribute more, which may be of any length.
    pub fn with_attribute(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        let xattr = Xattr { name: name.into(), value: value.into() };
        self.node.xattrs.get_or_insert_default().push(xattr);
        self
    }

    /// Gives it other extended attributes, as a program would that sets them.
    pub fn set_attribute(&mut self, name: &str, value: impl Into<Vec<u8>>) {
        let all = self.node.xattrs.get_or_insert_default();
        all.retain(|x| x.name != name.as_bytes());
        all.push(Xattr { name: name.into(), value: value.into() });
        // Of every change its own: trees have several successors.
        self.node.ctime = new_node(self.node.kind, 0).ctime;
    }

    /// Gives a file other bytes, as a program would that writes it.
    pub fn write(&mut self, bytes: impl Into<Vec<u8>>) {
        let (name, inode) = (self.node.name.clone(), self.node.inode);
        *self = Self::file(bytes);
        (self.node.name, self.node.inode) = (name, inode);
        self.node.ctime.nanos += 1;
    }

    /// The tree as a source of a backup.
    pub fn source(&self) -> Arc<dyn SourceDir> {
        Arc::new(MemoryDir(self.clone()))
    }

    /// Number of entries below.
    pub fn count(&self) -> u64 {
        match &self.body {
            Body::Dir(entries) => entries.values().map(|e| 1 + e.count()).sum(),
            _ => 0,
        }
    }
}

struct MemoryDir(Item);

impl MemoryDir {
    fn get(&self, name: &[u8]) -> io::Result<&Item> {
        self.0.entries().get(name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl SourceDir for MemoryDir {
    fn names(&self) -> io::Result<Vec<Vec<u8>>> {
        Ok(self.0.entries().keys().cloned().collect())
    }

    fn stat(&self, name: &[u8]) -> io::Result<(Node, u64)> {
        let mut node = self.get(name)?.node.clone();
        node.name = name.to_vec();
        (node.xattrs, node.target, node.user, node.group) = (None, None, None, None);
        Ok((node, 1))
    }

    fn device(&self) -> io::Result<Option<u64>> {
        Ok(Some(1))
    }

    fn details(&self, node: &mut Node, room: &mut Room) -> io::Result<()> {
        let full = &self.get(&node.name)?.node;
        node.target.clone_from(&full.target);
        (node.user, node.group) = (full.user.clone(), full.group.clone());
        let mut xattrs = full.xattrs.clone();
        xattrs.iter_mut().for_each(|all| all.retain(|x| room.keeps(&x.name, x.value.len() as u64)));
        node.xattrs = xattrs.filter(|all| !all.is_empty() || full.xattrs().is_empty());
        Ok(())
    }

    fn open_stream(&self, node: &Node, name: &[u8]) -> io::Result<Box<dyn SourceFile>> {
        let value = self.get(&node.name)?.node.xattr(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(Bytes(value.to_vec())))
    }

    fn open_dir(&self, name: &[u8]) -> io::Result<Arc<dyn SourceDir>> {
        Ok(self.get(name)?.source())
    }

    fn open_file(&self, name: &[u8]) -> io::Result<Box<dyn SourceFile>> {
        Ok(Box::new(MemoryFile(self.get(name)?.clone())))
    }
}

struct MemoryFile(Item);

impl SourceFile for MemoryFile {
    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.0.bytes();
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn next_data(&mut self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let Body::File(bytes, holes) = &self.0.body else { return Ok(None) };
        let (mut start, len) = (offset, bytes.len() as u64);
        while let Some(hole) = holes.iter().find(|h| h.contains(&start)) {
            start = hole.end;
        }
        let end = holes.iter().map(|h| h.start).filter(|s| *s > start).min().unwrap_or(len);
        Ok((start < len).then_some(start..end))
    }

    fn stat(&mut self) -> io::Result<Node> {
        Ok(self.0.node.clone())
    }
}
