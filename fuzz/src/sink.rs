//! A target of restores in memory, which takes nothing that would lead out of it.

use std::any::Any;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use tresor_engine::format::{Node, NodeKind, is_valid_name};
use tresor_engine::sink::{MetadataProblem, SinkDir, SinkFile, Streams};
use tresor_engine::source::SourceFile;

/// The most that one file takes; a restore is told that the target is full.
const MOST: u64 = 32 << 20;

/// What lies under a name.
#[derive(Clone)]
pub enum Restored {
    Dir(MemorySink),
    /// Runs of bytes and where they begin; the rest are zeros.
    File(Node, Arc<BTreeMap<u64, Vec<u8>>>),
    Other(Node),
}

/// A directory; clones are the same one.
#[derive(Clone, Default)]
pub struct MemorySink {
    entries: Arc<Mutex<BTreeMap<Vec<u8>, Restored>>>,
}

/// Entries are told apart by their inodes.
fn own(node: &Node) -> Node {
    static INODES: AtomicU64 = AtomicU64::new(1);
    Node { inode: INODES.fetch_add(1, Relaxed), ..node.clone() }
}

fn absent() -> io::Error {
    ErrorKind::NotFound.into()
}

/// Every name that a restore uses must be one that stays in its directory.
fn check(name: &[u8]) {
    assert!(is_valid_name(name), "a restore would leave the target by {}", name.escape_ascii());
}

impl MemorySink {
    pub fn entries(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Restored>> {
        self.entries.lock().unwrap()
    }

    fn get(&self, name: &[u8]) -> Option<Restored> {
        check(name);
        self.entries().get(name).cloned()
    }

    fn put(&self, name: &[u8], what: Restored) -> io::Result<()> {
        check(name);
        let mut entries = self.entries();
        if let Some(Restored::Dir(_)) = entries.get(name) {
            return Err(ErrorKind::IsADirectory.into());
        }
        entries.insert(name.to_vec(), what);
        Ok(())
    }
}

impl SinkDir for MemorySink {
    fn names(&self) -> io::Result<Vec<Vec<u8>>> {
        Ok(self.entries().keys().cloned().collect())
    }

    fn stat(&self, name: &[u8]) -> io::Result<Option<Node>> {
        Ok(self.get(name).map(|there| match there {
            Restored::Dir(_) => Node::new(name, NodeKind::Directory),
            Restored::File(node, _) | Restored::Other(node) => node,
        }))
    }

    fn make_dir(&self, name: &[u8]) -> io::Result<Arc<dyn SinkDir>> {
        check(name);
        let dir = || Restored::Dir(Self::default());
        match self.entries().entry(name.to_vec()).or_insert_with(dir) {
            Restored::Dir(dir) => Ok(Arc::new(dir.clone())),
            _ => Err(ErrorKind::AlreadyExists.into()),
        }
    }

    fn open_dir(&self, name: &[u8]) -> io::Result<Arc<dyn SinkDir>> {
        match self.get(name) {
            Some(Restored::Dir(dir)) => Ok(Arc::new(dir)),
            Some(_) => Err(ErrorKind::NotADirectory.into()),
            None => Err(absent()),
        }
    }

    fn open_file(&self, name: &[u8]) -> io::Result<Box<dyn SourceFile>> {
        match self.get(name) {
            Some(Restored::File(node, bytes)) => Ok(Box::new(Reading { node, bytes })),
            Some(_) => Err(ErrorKind::InvalidInput.into()),
            None => Err(absent()),
        }
    }

    fn create_file(&self, node: &Node) -> io::Result<Box<dyn SinkFile>> {
        check(&node.name);
        Ok(Box::new(Writing { dir: self.clone(), bytes: BTreeMap::new(), taken: 0 }))
    }

    fn make_special(
        &self,
        node: &Node,
        streams: &mut dyn Streams,
    ) -> io::Result<Vec<MetadataProblem>> {
        assert!(!node.is_file() && !node.is_dir(), "{:?} is not special", node.kind);
        self.put(&node.name, Restored::Other(own(node)))?;
        Ok(take_streams(node, streams))
    }

    fn link(&self, name: &[u8], target: &dyn SinkDir, target_name: &[u8]) -> io::Result<()> {
        let target = target.as_any().downcast_ref::<Self>().unwrap();
        match target.get(target_name) {
            Some(Restored::Dir(_)) => Err(ErrorKind::PermissionDenied.into()),
            Some(what) => self.put(name, what),
            None => Err(absent()),
        }
    }

    fn set_metadata(
        &self,
        node: &Node,
        streams: &mut dyn Streams,
    ) -> io::Result<Vec<MetadataProblem>> {
        self.get(&node.name).map(|_| take_streams(node, streams)).ok_or_else(absent)
    }

    fn set_own_metadata(
        &self,
        node: &Node,
        streams: &mut dyn Streams,
    ) -> io::Result<Vec<MetadataProblem>> {
        Ok(take_streams(node, streams))
    }

    fn remove(&self, name: &[u8]) -> io::Result<()> {
        check(name);
        self.entries().remove(name).map(drop).ok_or_else(absent)
    }

    fn remove_dir_all(&self, name: &[u8]) -> io::Result<()> {
        self.remove(name)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Asks for all streams; what it is given must lie within them.
fn take_streams(node: &Node, streams: &mut dyn Streams) -> Vec<MetadataProblem> {
    let mut problems = Vec::new();
    for stream in node.streams() {
        let size = stream.content.size();
        let mut taken = 0;
        let written = streams.write(&stream.name, &mut |bytes, at| {
            let end = at.checked_add(bytes.len() as u64);
            assert!(end.is_some_and(|end| size.is_some_and(|size| end <= size)));
            taken += bytes.len() as u64;
            if taken > MOST { Err(ErrorKind::FileTooLarge.into()) } else { Ok(()) }
        });
        if let Err(error) = written {
            problems.push(MetadataProblem { what: "stream".into(), error });
        }
    }
    problems
}

struct Writing {
    dir: MemorySink,
    bytes: BTreeMap<u64, Vec<u8>>,
    taken: u64,
}

impl SinkFile for Writing {
    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        self.taken += data.len() as u64;
        if self.taken > MOST {
            return Err(ErrorKind::FileTooLarge.into());
        }
        assert!(
            offset.checked_add(data.len() as u64).is_some(),
            "written past the end of all files"
        );
        self.bytes.insert(offset, data.to_vec());
        Ok(())
    }

    fn finish(
        self: Box<Self>,
        node: &Node,
        streams: &mut dyn Streams,
    ) -> io::Result<Vec<MetadataProblem>> {
        let end = self.bytes.last_key_value().map_or(0, |(at, b)| at + b.len() as u64);
        assert!(end <= node.size, "{end} bytes were written of a file of {}", node.size);
        self.dir.put(&node.name, Restored::File(own(node), Arc::new(self.bytes)))?;
        Ok(take_streams(node, streams))
    }
}

struct Reading {
    node: Node,
    bytes: Arc<BTreeMap<u64, Vec<u8>>>,
}

/// Bytes of a file from an offset on, at most `len`.
pub fn part(node: &Node, bytes: &BTreeMap<u64, Vec<u8>>, offset: u64, len: usize) -> Vec<u8> {
    let len = node.size.saturating_sub(offset).min(len as u64) as usize;
    let mut out = vec![0; len];
    for (at, run) in bytes.range(..offset.saturating_add(len as u64)) {
        let from = offset.max(*at);
        let to = (offset + len as u64).min(at + run.len() as u64);
        if from < to {
            let run = &run[(from - at) as usize..(to - at) as usize];
            out[(from - offset) as usize..(to - offset) as usize].copy_from_slice(run);
        }
    }
    out
}

impl SourceFile for Reading {
    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = part(&self.node, &self.bytes, offset, buf.len());
        buf[..read.len()].copy_from_slice(&read);
        Ok(read.len())
    }

    fn next_data(&mut self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let ends_later = |(at, run): &(&u64, &Vec<u8>)| *at + run.len() as u64 > offset;
        let next = self.bytes.iter().find(ends_later);
        Ok(next.map(|(at, run)| offset.max(*at)..at + run.len() as u64))
    }

    fn stat(&mut self) -> io::Result<Node> {
        Ok(self.node.clone())
    }
}
