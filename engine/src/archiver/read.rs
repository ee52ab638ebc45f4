//! Reads files: into chunks, into blobs that the repository doesn't have yet.

use crossbeam_channel::Receiver;

use std::io;
use std::sync::atomic::Ordering::Relaxed;

use super::details::Details;
use super::walk::{Job, Nodes, Work};
use super::{Segments, Shared};
use crate::contents::ContentBuilder;
use crate::error::{Error, Result};
use crate::format::{BlobKind, Content, Extent, Node, NodeKind, display_name};
use crate::pack::NewSegment;
use crate::source::{SourceDir, SourceFile};
use crate::tree::TreeSink;

/// Files up to this length lie in the tree itself.
const INLINE: usize = 96;
/// Small chunks are compressed together up to this many bytes; a chunk at
/// least half as long has a segment of its own, so that reading it decodes nothing else.
const SEGMENT: usize = 256 << 10;
const OWN_SEGMENT: usize = 64 << 10;
/// Bytes read at once from large files.
const READ: usize = 1 << 20;

/// One reader thread: works off jobs until there are no more.
pub(super) fn reader(shared: &Shared, jobs: &Receiver<Job>, segments: &Segments) -> Result<()> {
    let mut reader = Reader::new(shared, segments);
    for job in jobs {
        shared.monitor.progress().check()?;
        match job {
            Job::Entries { works, reply } => {
                let nodes: Result<Nodes> = works.into_iter().map(|w| reader.work(w)).collect();
                let _ = reply.send(nodes?);
            }
            Job::Stream { mut node, mut stream, reply } => {
                let (content, size) = reader.input(&mut *stream, &node.name)?;
                (node.content, node.size) = (Some(content), size);
                let _ = reply.send(vec![Ok(node)]);
            }
        }
    }
    reader.finish()
}

/// Whether a file hasn't changed since it was told that it had so many bytes. Some, as those of
/// `/proc`, don't tell.
fn is_as_before(after: &Node, node: &mut Node, told: u64) -> bool {
    let len = node.size;
    if told == 0 && after.size == 0 {
        node.size = 0;
    }
    let same = after.same_stamp(node);
    node.size = len;
    same
}

/// A segment for small chunks.
fn gathering() -> NewSegment {
    NewSegment::with_room(BlobKind::Data, SEGMENT + OWN_SEGMENT)
}

pub(super) struct Reader<'a> {
    pub(super) shared: &'a Shared,
    segments: &'a Segments,
    /// New small chunks that don't fill a segment yet.
    small: NewSegment,
    pages: TreeSink<'a>,
    buffer: Vec<u8>,
}

impl<'a> Reader<'a> {
    pub fn new(shared: &'a Shared, segments: &'a Segments) -> Self {
        let pages = TreeSink::new(&shared.repo, &shared.writer);
        Self { shared, segments, small: gathering(), pages, buffer: Vec::new() }
    }

    /// Stores what has been gathered.
    pub fn finish(mut self) -> Result<()> {
        self.send_small()?;
        self.pages.flush()
    }

    /// Completes a node; its name if it can't be read.
    fn work(&mut self, work: Work) -> Result<Result<Box<Node>, Vec<u8>>> {
        let name = work.node.name.clone();
        Ok(self.complete(work)?.ok_or(name))
    }

    fn complete(&mut self, work: Work) -> Result<Option<Box<Node>>> {
        let Work { dir, mut node, path, before } = work;
        let shared = self.shared;
        let mut file = None;
        if node.is_file() {
            match dir.open_file(&node.name) {
                Ok(opened) => file = Some(opened),
                Err(e) => {
                    shared.unreadable(&path, "can't be opened", e)?;
                    return Ok(None);
                }
            }
        }
        let details = self.details(&*dir, file.as_deref(), &mut node, &path)?;
        let useless = node.kind == NodeKind::Symlink && node.target.is_none();
        if details == Details::Vanished || useless {
            return Ok(None);
        }
        let node = match file {
            Some(file) => self.file(&*dir, file, node, details, &path)?,
            None => {
                if details == Details::Partial {
                    node.ctime = Node::LOOK_AGAIN;
                }
                Some(node)
            }
        };
        if let Some(node) = &node {
            let action = if before { "changed" } else { "new" };
            if node.is_file() {
                let counts = &shared.counts;
                if before { &counts.changed } else { &counts.new }.fetch_add(1, Relaxed);
            }
            shared.monitor.entry(action, &|| display_name(&path));
        }
        shared.monitor.progress().add(1, 0);
        Ok(node)
    }

    /// Reads a file; once more if it changed meanwhile.
    fn file(
        &mut self,
        dir: &dyn SourceDir,
        mut file: Box<dyn SourceFile>,
        mut node: Box<Node>,
        mut details: Details,
        path: &[u8],
    ) -> Result<Option<Box<Node>>> {
        for attempt in 0.. {
            let told = node.size;
            match self.contents(&mut *file, node.size)? {
                Ok((content, size)) => (node.content, node.size) = (Some(content), size),
                Err(e) => {
                    self.shared.unreadable(path, "can't be read", e)?;
                    return Ok(None);
                }
            }
            let Ok(after) = file.stat() else {
                node.ctime = Node::LOOK_AGAIN;
                break;
            };
            if is_as_before(&after, &mut node, told) {
                if details != Details::Complete {
                    node.ctime = Node::LOOK_AGAIN;
                }
                break;
            }
            if attempt > 0 {
                self.shared.problem(path, "changed while it was read; saved as it was read");
                node.ctime = Node::LOOK_AGAIN;
                break;
            }
            let (name, content) = (std::mem::take(&mut node.name), node.content.take());
            *node = Node { name, content, link: node.link, ..after };
            details = self.details(dir, Some(&*file), &mut node, path)?;
        }
        Ok(Some(node))
    }

    /// Content and length of a file. The outer error ends the backup, the inner one is the file's.
    pub(super) fn contents(
        &mut self,
        file: &mut dyn SourceFile,
        size: u64,
    ) -> Result<io::Result<(Content, u64)>> {
        let min = self.shared.chunker.min();
        if size >= min as u64 {
            return self.large(file, size);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(min + 1, 0);
        // One byte more than expected shows whether the file has grown.
        let wanted = size as usize + 1;
        let read = read_full(file, &mut buffer[..wanted], 0);
        let result = match read {
            // Longer than it says, or it doesn't say (as in /proc): to its end.
            Ok(len) if len == wanted => self.endless(file),
            Ok(len) => {
                self.shared.monitor.progress().add(0, len as u64);
                self.small(&buffer[..len]).map(|content| Ok((content, len as u64)))
            }
            Err(e) => Ok(Err(e)),
        };
        self.buffer = buffer;
        result
    }

    fn small(&mut self, data: &[u8]) -> Result<Content> {
        if data.len() <= INLINE {
            return Ok(Content::Inline(data.to_vec()));
        }
        let id = self.chunk(data)?;
        Ok(Content::Extents(vec![Extent { len: data.len() as u64, id: Some(id) }]))
    }

    /// Stores a chunk unless it is known.
    fn chunk(&mut self, data: &[u8]) -> Result<crate::format::BlobId> {
        let id = self.shared.repo.keys().blob_id(BlobKind::Data, data);
        if self.shared.writer.claim(&id) {
            if data.len() >= OWN_SEGMENT {
                let mut segment = NewSegment::new(BlobKind::Data);
                segment.push(id, data);
                self.send(segment)?;
            } else {
                self.small.push(id, data);
                if self.small.bytes.len() >= SEGMENT {
                    self.send_small()?;
                }
            }
        }
        Ok(id)
    }

    fn send(&self, segment: NewSegment) -> Result<()> {
        self.segments.send(segment).map_err(|_| Error::Interrupted)
    }

    fn send_small(&mut self) -> Result<()> {
        if self.small.blobs.is_empty() {
            return Ok(());
        }
        let segment = std::mem::replace(&mut self.small, gathering());
        self.send(segment)
    }

    /// Reads a file of any length, passing over its holes.
    fn large(
        &mut self,
        file: &mut dyn SourceFile,
        size: u64,
    ) -> Result<io::Result<(Content, u64)>> {
        let mut content = ContentBuilder::default();
        let mut at = 0;
        while at < size {
            let data = match file.next_data(at) {
                Ok(Some(data)) => data.start.max(at).min(size)..data.end.min(size),
                Ok(None) => size..size,
                Err(e) => return Ok(Err(e)),
            };
            content.push(Extent { len: data.start - at, id: None }, &mut self.pages)?;
            at = data.start;
            if data.is_empty() {
                continue;
            }
            match self.run(file, data.clone(), &mut content)? {
                Ok(end) if end == data.end => at = end,
                // It got shorter: what was read is the file.
                Ok(end) => {
                    at = end;
                    break;
                }
                Err(e) => return Ok(Err(e)),
            }
        }
        Ok(Ok((content.finish(&mut self.pages)?, at)))
    }

    /// Chunks a range of a file; returns where reading ended.
    fn run(
        &mut self,
        file: &mut dyn SourceFile,
        range: std::ops::Range<u64>,
        content: &mut ContentBuilder,
    ) -> Result<io::Result<u64>> {
        let max = self.shared.chunker.max();
        let mut window = Window::new(range);
        loop {
            self.shared.monitor.progress().check()?;
            match window.fill(file, max) {
                Ok(read) => self.shared.monitor.progress().add(0, read),
                Err(e) => return Ok(Err(e)),
            }
            while window.has(max) {
                let len = self.shared.chunker.cut(window.data());
                let id = self.chunk(&window.data()[..len])?;
                content.push(Extent { len: len as u64, id: Some(id) }, &mut self.pages)?;
                window.consume(len);
            }
            if window.is_done() {
                return Ok(Ok(window.position));
            }
        }
    }

    /// Reads a file to its end, wherever that is.
    fn endless(&mut self, file: &mut dyn SourceFile) -> Result<io::Result<(Content, u64)>> {
        let mut content = ContentBuilder::default();
        match self.run(file, 0..u64::MAX, &mut content)? {
            Ok(end) => Ok(Ok((content.finish(&mut self.pages)?, end))),
            Err(e) => Ok(Err(e)),
        }
    }

    /// Reads a stream of unknown length.
    fn input(&mut self, stream: &mut dyn SourceFile, name: &[u8]) -> Result<(Content, u64)> {
        self.endless(stream)?.map_err(|e| Error::io(format!("reading {}", display_name(name)), e))
    }
}

/// Data of a range that has been read and not yet cut.
struct Window {
    buffer: Vec<u8>,
    start: usize,
    position: u64,
    end: u64,
}

impl Window {
    fn new(range: std::ops::Range<u64>) -> Self {
        Self { buffer: Vec::new(), start: 0, position: range.start, end: range.end }
    }

    fn data(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Reads until there is a chunk's worth, or the range ends. Returns how much was read.
    fn fill(&mut self, file: &mut dyn SourceFile, max: usize) -> io::Result<u64> {
        if self.data().len() >= max || self.position >= self.end {
            return Ok(0);
        }
        self.buffer.drain(..self.start);
        self.start = 0;
        let have = self.buffer.len();
        let want = (self.end - self.position).min((max.max(READ) + READ - have) as u64) as usize;
        self.buffer.resize(have + want, 0);
        let read = read_full(file, &mut self.buffer[have..], self.position)?;
        self.buffer.truncate(have + read);
        self.position += read as u64;
        if read < want {
            self.end = self.position;
        }
        Ok(read as u64)
    }

    /// Whether the next chunk can be cut for good.
    fn has(&self, max: usize) -> bool {
        let len = self.data().len();
        len >= max || len > 0 && self.position >= self.end
    }

    fn consume(&mut self, len: usize) {
        self.start += len;
    }

    fn is_done(&self) -> bool {
        self.data().is_empty() && self.position >= self.end
    }
}

/// Reads until the buffer is full or the file ends.
fn read_full(file: &mut dyn SourceFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        // A short read of a small file is its end.
        if done < buffer.len() && buffer.len() < (64 << 10) {
            break;
        }
    }
    Ok(done)
}
