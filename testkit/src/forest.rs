//! A source of any number of files that takes no room: what is in them follows from their names.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use tresor_engine::format::{Node, NodeKind, Time};
use tresor_engine::source::{Room, SourceDir, SourceFile};

/// Directories of files, each with other bytes.
#[derive(Clone, Copy, Debug)]
pub struct Forest {
    pub directories: u64,
    /// In each directory.
    pub files: u64,
    /// Bytes of each file.
    pub len: u64,
}

const DIRECTORY: &[u8] = b"directory-";
const FILE: &[u8] = b"file-";
const SECONDS: i64 = 1_735_689_600;

impl Forest {
    pub fn source(self) -> Arc<dyn SourceDir> {
        Arc::new(Folder { forest: self, number: None })
    }

    fn file_node(&self, directory: u64, file: u64) -> Node {
        let mut node = node(NodeKind::File, 0o644, directory * self.files + file);
        node.size = self.len;
        node
    }
}

fn node(kind: NodeKind, mode: u32, inode: u64) -> Node {
    let mut node = Node::new("", kind);
    let time = Time::new(SECONDS + (inode % 1_000_000) as i64, 1);
    (node.mode, node.mtime, node.ctime, node.inode) = (mode, time, time, inode);
    node
}

fn name(prefix: &[u8], number: u64) -> Vec<u8> {
    [prefix, format!("{number:08}").as_bytes()].concat()
}

/// The number in a name, if there is such an entry.
fn number(name: &[u8], prefix: &[u8], count: u64) -> io::Result<u64> {
    let digits = name.strip_prefix(prefix).and_then(|d| std::str::from_utf8(d).ok());
    let number = digits.and_then(|d| d.parse().ok()).filter(|n| *n < count);
    number.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// The root, or one of its directories.
struct Folder {
    forest: Forest,
    number: Option<u64>,
}

impl SourceDir for Folder {
    fn names(&self) -> io::Result<Vec<Vec<u8>>> {
        let (prefix, count) = match self.number {
            None => (DIRECTORY, self.forest.directories),
            Some(_) => (FILE, self.forest.files),
        };
        Ok((0..count).map(|n| name(prefix, n)).collect())
    }

    fn stat(&self, name: &[u8]) -> io::Result<(Node, u64)> {
        let forest = &self.forest;
        let mut found = match self.number {
            None => {
                let number = number(name, DIRECTORY, forest.directories)?;
                node(NodeKind::Directory, 0o755, u64::MAX / 2 + number)
            }
            Some(directory) => forest.file_node(directory, number(name, FILE, forest.files)?),
        };
        found.name = name.to_vec();
        Ok((found, 1))
    }

    fn details(&self, _: &mut Node, _: &mut Room) -> io::Result<()> {
        Ok(())
    }

    fn open_dir(&self, name: &[u8]) -> io::Result<Arc<dyn SourceDir>> {
        let number = Some(number(name, DIRECTORY, self.forest.directories)?);
        Ok(Arc::new(Self { forest: self.forest, number }))
    }

    fn open_file(&self, name: &[u8]) -> io::Result<Box<dyn SourceFile>> {
        let directory = self.number.ok_or(io::ErrorKind::NotFound)?;
        let file = number(name, FILE, self.forest.files)?;
        let text = format!("{directory} {file} ").into_bytes();
        Ok(Box::new(Leaf { node: self.forest.file_node(directory, file), text }))
    }
}

/// A file: the same text again and again.
struct Leaf {
    node: Node,
    text: Vec<u8>,
}

impl SourceFile for Leaf {
    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let len = self.node.size.saturating_sub(offset).min(buf.len() as u64) as usize;
        let from = (offset % self.text.len() as u64) as usize;
        let text = self.text.iter().cycle().skip(from);
        buf[..len].iter_mut().zip(text).for_each(|(to, from)| *to = *from);
        Ok(len)
    }

    fn next_data(&mut self, offset: u64) -> io::Result<Option<Range<u64>>> {
        Ok((offset < self.node.size).then_some(offset..self.node.size))
    }

    fn stat(&mut self) -> io::Result<Node> {
        Ok(self.node.clone())
    }
}
