//! Repositories made by hand, folders to restore into, and targets with quirks.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tresor_engine::Result;
use tresor_engine::exclude::Patterns;
use tresor_engine::format::{
    BlobId, BlobKind, Content, ContentPage, Extent, Node, NodeKind, ObjectKind, ObjectName, Time,
    TreePage,
};
use tresor_engine::monitor::{Monitor, Quiet};
use tresor_engine::pack::{NewSegment, PackWriter, Packed};
use tresor_engine::repo::Repository;
use tresor_engine::restorer::{RestoreOptions, Restored, restore};
use tresor_engine::sink::{MetadataProblem, NoStreams, SinkDir, SinkFile, Streams};
use tresor_engine::source::{Bytes, Room, SourceDir, SourceFile};
use tresor_engine::store::{MemoryStore, Store};
use tresor_testkit::{Body, Item, init, open};

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub fn patterns(patterns: &[&str]) -> Patterns {
    Patterns::new(patterns).unwrap()
}

/// A folder to restore into.
pub struct Target {
    pub folder: TempDir,
    /// Entries and bytes that the progress of the last restore came to.
    pub progress: (u64, u64),
}

impl Target {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), progress: (0, 0) }
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    pub fn sink(&self) -> Arc<dyn SinkDir> {
        tresor_platform::open_sink(self.folder.path()).unwrap()
    }

    pub fn source(&self) -> Arc<dyn SourceDir> {
        tresor_platform::open_source(self.folder.path()).unwrap()
    }

    pub fn read(&self, below: &str) -> Vec<u8> {
        fs::read(self.path(below)).unwrap()
    }

    pub fn write(&self, below: &str, bytes: &[u8]) {
        fs::create_dir_all(self.path(below).parent().unwrap()).unwrap();
        fs::write(self.path(below), bytes).unwrap();
    }

    pub fn inode(&self, below: &str) -> u64 {
        fs::symlink_metadata(self.path(below)).unwrap().ino()
    }

    /// Restores what must go without a problem.
    pub fn restore(&mut self, repo: &Arc<Repository>, root: &BlobId) -> Restored {
        self.restore_with(repo, root, &RestoreOptions::default())
    }

    pub fn restore_with(
        &mut self,
        repo: &Arc<Repository>,
        root: &BlobId,
        options: &RestoreOptions,
    ) -> Restored {
        let (restored, problems) = self.try_restore(repo, root, options);
        assert_eq!(problems, [""; 0]);
        restored
    }

    /// Also returns the problems, which must be as many as were counted.
    pub fn try_restore(
        &mut self,
        repo: &Arc<Repository>,
        root: &BlobId,
        options: &RestoreOptions,
    ) -> (Restored, Vec<String>) {
        let (restored, problems) = self.run(repo, root, &[], self.sink(), options);
        let restored = restored.unwrap();
        assert_eq!(restored.errors, problems.len() as u64, "{problems:?}");
        (restored, problems)
    }

    pub fn run(
        &mut self,
        repo: &Arc<Repository>,
        root: &BlobId,
        path: &[&str],
        sink: Arc<dyn SinkDir>,
        options: &RestoreOptions,
    ) -> (Result<Restored>, Vec<String>) {
        let monitor = Arc::new(Quiet::default());
        let path: Vec<_> = path.iter().map(|n| n.as_bytes().to_vec()).collect();
        let restored = restore(repo, root, &path, sink, options, monitor.clone());
        let progress = monitor.progress();
        self.progress = (progress.entries.load(Relaxed), progress.bytes.load(Relaxed));
        let problems = monitor.problems.lock().unwrap();
        let problems = problems.iter().map(|(path, message)| format!("{path}: {message}"));
        (restored, problems.collect())
    }

    /// Every entry below with what a restore may change of it.
    pub fn listing(&self) -> Vec<String> {
        let mut list = Vec::new();
        list_into(self.folder.path(), &mut list);
        list
    }
}

fn list_into(folder: &Path, list: &mut Vec<String>) {
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let m = fs::symlink_metadata(&path).unwrap();
        list.push(format!(
            "{path:?} {:o} {}:{} {} {}.{} {}",
            m.mode(),
            m.uid(),
            m.gid(),
            m.ino(),
            m.mtime(),
            m.mtime_nsec(),
            m.size()
        ));
        if m.is_dir() {
            list_into(&path, list);
        }
    }
}

/// Makes a tree such as this process can restore here with all that belongs to it.
pub fn fit(item: &mut Item) {
    if !matches!(item.node.kind, NodeKind::File | NodeKind::Directory) || !has_xattrs() {
        item.node.xattrs = None;
    }
    if item.node.kind == NodeKind::CharDevice && !makes_devices() {
        (item.node.kind, item.node.device) = (NodeKind::Fifo, None);
    }
    for byte in item.node.target.iter_mut().flatten().filter(|byte| **byte == 0) {
        *byte = b'0';
    }
    if !is_root() {
        item.node.uid = rustix::process::geteuid().as_raw();
        item.node.gid = rustix::process::getegid().as_raw();
        item.node.mode |= 0o700;
    }
    if let Body::Dir(entries) = &mut item.body {
        entries.values_mut().for_each(fit);
    }
}

pub fn has_xattrs() -> bool {
    let file = tempfile::NamedTempFile::new().unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(file.path(), "user.test", b"x", flags).is_ok()
}

fn makes_devices() -> bool {
    let target = Target::new();
    let mut node = node("null", NodeKind::CharDevice);
    node.device = Some(0x0103);
    target.sink().make_special(&node, &mut NoStreams).is_ok()
}

/// Asserts that a folder holds the tree with everything that belongs to it.
pub fn assert_same(dir: &dyn SourceDir, item: &Item) {
    compare(dir, item, "");
}

fn compare(dir: &dyn SourceDir, item: &Item, path: &str) {
    let mut names = dir.names().unwrap();
    names.sort();
    assert_eq!(names, item.entries().keys().cloned().collect::<Vec<_>>(), "names in {path}/");
    for (name, item) in item.entries() {
        let path = format!("{path}/{}", name.escape_ascii());
        let (mut now, _) = dir.stat(name).unwrap();
        dir.details(&mut now, &mut Room::with_streams()).unwrap();
        let mut wanted = item.node.clone();
        wanted.name.clone_from(name);
        if wanted.kind == NodeKind::Symlink {
            (now.mode, now.atime) = (wanted.mode, wanted.atime);
        }
        let links = |node: &Node| node.link.map(|link| link.names);
        assert_eq!(links(&now), links(&wanted), "{path}");
        (now.ctime, now.inode, now.link) = (wanted.ctime, wanted.inode, wanted.link);
        (now.user, now.group) = (wanted.user.clone(), wanted.group.clone());
        assert_eq!(now, wanted, "{path}");
        match &item.body {
            Body::Dir(_) => compare(&*dir.open_dir(name).unwrap(), item, &path),
            Body::File(bytes, _) => {
                let mut file = dir.open_file(name).unwrap();
                let mut read = vec![0; bytes.len()];
                let mut done = 0;
                while done < read.len() {
                    let n = file.read_at(&mut read[done..], done as u64).unwrap();
                    assert!(n > 0, "{path} is short");
                    done += n;
                }
                assert!(read == **bytes, "data of {path}");
            }
            Body::Other => {}
        }
    }
}

/// A node that this process may own.
pub fn node(name: &str, kind: NodeKind) -> Node {
    let mut node = Node::new(name, kind);
    node.mode = if kind == NodeKind::Directory { 0o755 } else { 0o644 };
    node.uid = rustix::process::geteuid().as_raw();
    node.gid = rustix::process::getegid().as_raw();
    node.mtime = Time::new(1_000_000_000, 7);
    node.atime = node.mtime;
    node
}

pub fn file(name: &str, size: u64, content: Content) -> Node {
    let mut node = node(name, NodeKind::File);
    (node.size, node.content) = (size, Some(content));
    node
}

pub fn dir(name: &str, tree: BlobId) -> Node {
    let mut node = node(name, NodeKind::Directory);
    node.tree = Some(tree);
    node
}

pub fn hole(len: u64) -> Extent {
    Extent { len, id: None }
}

/// A repository whose every blob is in a pack of its own.
pub struct Maker {
    pub store: Store,
    repo: Arc<Repository>,
}

impl Maker {
    pub fn new() -> Self {
        let store: Store = Arc::new(MemoryStore::new());
        init(&store);
        let repo = open(&store);
        Self { store, repo }
    }

    /// The repository as a restore finds it.
    pub fn open(&self) -> Arc<Repository> {
        open(&self.store)
    }

    pub fn put(&self, kind: BlobKind, bytes: &[u8]) -> BlobId {
        self.put_all(kind, &[bytes])[0]
    }

    /// Stores blobs in segments of their own.
    pub fn put_all<B: AsRef<[u8]>>(&self, kind: BlobKind, blobs: &[B]) -> Vec<BlobId> {
        let mut writer = PackWriter::new(self.repo.clone());
        let mut ids = Vec::new();
        for bytes in blobs {
            let id = self.repo.keys().blob_id(kind, bytes.as_ref());
            if self.repo.index().find(&id).is_none() && !ids.contains(&id) {
                let mut segment = NewSegment::new(kind);
                segment.push(id, bytes.as_ref());
                writer.add(&Packed::from(segment)).unwrap();
            }
            ids.push(id);
        }
        writer.finish().unwrap();
        ids
    }

    /// A directory of these entries in this order.
    pub fn page(&self, nodes: Vec<Node>) -> BlobId {
        self.put(BlobKind::Tree, &TreePage::Leaf(nodes).encode())
    }

    pub fn dir(&self, mut nodes: Vec<Node>) -> BlobId {
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        self.page(nodes)
    }

    pub fn content_page(&self, page: &ContentPage) -> BlobId {
        self.put(BlobKind::Tree, &page.encode())
    }

    /// A chunk of a file.
    pub fn chunk(&self, bytes: &[u8]) -> Extent {
        Extent { len: bytes.len() as u64, id: Some(self.put(BlobKind::Data, bytes)) }
    }

    /// A file of one chunk.
    pub fn file(&self, name: &str, bytes: &[u8]) -> Node {
        file(name, bytes.len() as u64, Content::Extents(vec![self.chunk(bytes)]))
    }

    pub fn pack_of(&self, id: &BlobId) -> ObjectName {
        ObjectName::new(ObjectKind::Pack, self.repo.locate(id).unwrap().segment.pack)
    }

    /// Flips a bit of a blob in the store.
    pub fn damage(&self, id: &BlobId) {
        damage(&self.store, &self.repo, id);
    }
}

pub fn damage(store: &Store, repo: &Repository, id: &BlobId) {
    let segment = repo.locate(id).unwrap().segment;
    let name = ObjectName::new(ObjectKind::Pack, segment.pack);
    let mut pack = store.get(&name).unwrap();
    pack[segment.offset as usize + segment.sealed_len as usize / 2] ^= 1;
    store.delete(&name).unwrap();
    store.put(&name, &pack).unwrap();
}

/// The only chunk of a file.
pub fn chunk_of(node: &Node) -> BlobId {
    match &node.content {
        Some(Content::Extents(extents)) => extents[0].id.unwrap(),
        _ => panic!("{node:?}"),
    }
}

type AfterFile = dyn Fn(&Node) + Send + Sync;

/// By names of entries and of their streams.
pub type Given = BTreeMap<(Vec<u8>, Vec<u8>), Vec<u8>>;

/// A target with quirks.
#[derive(Clone)]
pub struct Quirks {
    pub inner: Arc<dyn SinkDir>,
    /// Keeps names in lower case only.
    pub folds: bool,
    pub no_links: bool,
    /// The file for which there is no room.
    pub full_at: Option<Vec<u8>>,
    /// How far the room reaches in each file.
    pub room: u64,
    /// Whether its disk takes what is forced to it.
    pub forces: bool,
    /// What of it all it was told, in order.
    pub told: Arc<Mutex<Vec<&'static str>>>,
    /// How often it was asked for an entry.
    pub stats: Arc<AtomicU64>,
    /// The streams of its entries, by the names of both, if it has such of any length.
    pub streams: Option<Arc<Mutex<Given>>>,
    /// Called when a file got its name.
    pub after_file: Arc<AfterFile>,
}

impl Quirks {
    pub fn new(inner: Arc<dyn SinkDir>) -> Self {
        Self {
            inner,
            folds: false,
            no_links: false,
            full_at: None,
            room: u64::MAX,
            forces: true,
            told: Arc::default(),
            stats: Arc::default(),
            streams: None,
            after_file: Arc::new(|_| {}),
        }
    }

    pub fn folding(inner: Arc<dyn SinkDir>) -> Arc<dyn SinkDir> {
        Arc::new(Self { folds: true, ..Self::new(inner) })
    }

    fn below(&self, inner: Arc<dyn SinkDir>) -> Arc<dyn SinkDir> {
        Arc::new(Self { inner, ..self.clone() })
    }

    fn name(&self, name: &[u8]) -> Vec<u8> {
        if self.folds { name.to_ascii_lowercase() } else { name.to_vec() }
    }

    fn node(&self, node: &Node) -> Node {
        let mut own = Node { name: self.name(&node.name), ..node.clone() };
        if self.streams.is_some() {
            own.streams = None;
        }
        own
    }

    /// Takes streams as a system does that has them: what is right already is left alone.
    fn take(&self, node: &Node, streams: &mut dyn Streams, problems: &mut Vec<MetadataProblem>) {
        let Some(all) = &self.streams else { return };
        let mut all = all.lock().unwrap();
        for stream in node.streams() {
            let key = (node.name.clone(), stream.name.clone());
            if let Some(there) = all.get(&key)
                && streams.is_right(&stream.name, &mut Bytes(there.clone())).unwrap_or(false)
            {
                continue;
            }
            self.told.lock().unwrap().push("stream");
            let mut bytes = vec![0; stream.content.size().unwrap_or(0) as usize];
            let written = streams.write(&stream.name, &mut |piece, at| {
                bytes[at as usize..at as usize + piece.len()].copy_from_slice(piece);
                Ok(())
            });
            match written {
                Ok(()) => drop(all.insert(key, bytes)),
                Err(error) => {
                    all.remove(&key);
                    problems.push(MetadataProblem { what: "stream".into(), error });
                }
            }
        }
    }
}

impl SinkDir for Quirks {
    fn names(&self) -> io::Result<Vec<Vec<u8>>> {
        self.inner.names()
    }

    fn stat(&self, name: &[u8]) -> io::Result<Option<Node>> {
        self.stats.fetch_add(1, Relaxed);
        self.inner.stat(&self.name(name))
    }

    fn make_dir(&self, name: &[u8]) -> io::Result<Arc<dyn SinkDir>> {
        Ok(self.below(self.inner.make_dir(&self.name(name))?))
    }

    fn open_dir(&self, name: &[u8]) -> io::Result<Arc<dyn SinkDir>> {
        Ok(self.below(self.inner.open_dir(&self.name(name))?))
    }

    fn open_file(&self, name: &[u8]) -> io::Result<Box<dyn SourceFile>> {
        self.inner.open_file(&self.name(name))
    }

    fn create_file(&self, node: &Node) -> io::Result<Box<dyn SinkFile>> {
        if self.full_at.as_deref() == Some(&node.name) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let inner = self.inner.create_file(&self.node(node))?;
        Ok(Box::new(QuirkFile { inner, quirks: self.clone() }))
    }

    fn open_stream(&self, node: &Node, name: &[u8]) -> io::Result<Box<dyn SourceFile>> {
        let Some(streams) = &self.streams else {
            return self.inner.open_stream(&self.node(node), name);
        };
        let there = streams.lock().unwrap().get(&(node.name.clone(), name.to_vec())).cloned();
        Ok(Box::new(Bytes(there.ok_or(io::ErrorKind::NotFound)?)))
    }

    fn make_special(
        &self,
        node: &Node,
        streams: &mut dyn Streams,
    ) -> io::Result<Vec<MetadataProblem>> {
        let mut problems = self.inner.make_special(&self.node(node), streams)?;
        self.take(node, streams, &mut problems);
        Ok(problems)
    }

    fn link(&self, name: &[u8], target: &dyn SinkDir, target_name: &[u8]) -> io::Result<()> {
        if self.no_links {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let target = target.as_any().downcast_ref::<Self>().unwrap();
        self.inner.link(&self.name(name), &*target.inner, &self.name(target_name))
    }

    fn set_metadata(
        &self,
        node: &Node,
        streams: &mut dyn Streams,
    ) -> io::Result<Vec<MetadataProblem>> {
        self.told.lock().unwrap().push("metadata");
        let mut problems = self.inner.set_metadata(&self.node(node), streams)?;
        self.take(node, streams, &mut problems);
        Ok(problems)
    }

    fn set_own_metadata(
        &self,
        node: &Node,
        streams: &mut dyn Streams,
    ) -> io::Result<Vec<MetadataProblem>> {
        self.told.lock().unwrap().push("own metadata");
        self.inner.set_own_metadata(node, streams)
    }

    fn remove(&self, name: &[u8]) -> io::Result<()> {
        self.inner.remove(&self.name(name))
    }

    fn remove_dir_all(&self, name: &[u8]) -> io::Result<()> {
        self.inner.remove_dir_all(&self.name(name))
    }

    fn begin(&self, job: u32) -> io::Result<bool> {
        self.told.lock().unwrap().push("begin");
        self.inner.begin(job)
    }

    fn force(&self) -> io::Result<()> {
        self.told.lock().unwrap().push("force");
        if self.forces { self.inner.force() } else { Err(io::Error::other("a bad sector")) }
    }

    fn end(&self, job: u32) -> io::Result<()> {
        self.told.lock().unwrap().push("end");
        self.inner.end(job)
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

struct QuirkFile {
    inner: Box<dyn SinkFile>,
    quirks: Quirks,
}

impl SinkFile for QuirkFile {
    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        if offset + data.len() as u64 > self.quirks.room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.inner.write_at(data, offset)
    }

    fn finish(
        self: Box<Self>,
        node: &Node,
        streams: &mut dyn Streams,
    ) -> io::Result<Vec<MetadataProblem>> {
        let mut problems = self.inner.finish(&self.quirks.node(node), streams)?;
        self.quirks.take(node, streams, &mut problems);
        self.quirks.told.lock().unwrap().push("file");
        (self.quirks.after_file)(node);
        Ok(problems)
    }
}
