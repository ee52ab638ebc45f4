//! Workers: each restores files, taking what is right already from the target.
//! A file that can't be restored leaves what lies under its name as it is.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::extents::Extents;
use super::fetch::{self, Failure, Target};
use super::place::{in_the_way, may_go};
use super::streams::{counting_streams, with_streams};
use super::{Counts, Shared};
use crate::contents;
use crate::error::{Error, Result};
use crate::format::{
    BlobId, BlobKind, Content, LinkId, MAX_SEGMENT, Node, display_name, stream_name,
};
use crate::sink::{MetadataProblem, SinkDir, SinkFile};
use crate::source::SourceFile;

pub(super) struct FileJob {
    /// `None` in a dry run if the directory isn't there.
    pub dir: Option<Arc<dyn SinkDir>>,
    /// Whether the directory is new, so that nothing can be there.
    pub new: bool,
    pub node: Node,
    pub path: Vec<u8>,
    /// The file of the target whose names all belong to this one, if it has several.
    pub ours: Option<LinkId>,
}

pub(super) type Batch = Vec<FileJob>;

/// How a file ended up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    Unchanged,
    Restored,
}

impl Done {
    pub fn count(self, counts: &Counts) -> &'static str {
        match self {
            Self::Unchanged => {
                counts.unchanged.fetch_add(1, Relaxed);
                "unchanged"
            }
            Self::Restored => {
                counts.restored.fetch_add(1, Relaxed);
                "restored"
            }
        }
    }
}

/// Restores a file; false, and reported, if that can't be done. An error ends the restore.
pub(super) fn restore(shared: &Shared<'_>, job: &FileJob) -> Result<bool> {
    let progress = shared.monitor.progress();
    progress.check()?;
    let (counts, path) = (&shared.counts, &job.path);
    counts.files.fetch_add(1, Relaxed);
    counts.bytes.fetch_add(job.node.size, Relaxed);
    let mut told = 0;
    let result = file(shared, job, &mut told);
    // Holes and what is not restored count as done, too.
    progress.add(1, job.node.size.saturating_sub(told));
    let message = match result {
        Ok(done) => {
            let action = done.count(counts);
            shared.monitor.entry(action, &|| display_name(path));
            return Ok(true);
        }
        Err(Failure::Target(e)) if is_full(&e) => {
            let path = display_name(path);
            let what = format!(
                "the target is full; {path} and what follows was not restored (free some space and run this again with --overwrite)"
            );
            return Err(Error::io(what, e));
        }
        Err(Failure::Target(e)) => format!("can't be written: {e}"),
        Err(Failure::Engine(e)) => format!("not restored: {}", shared.survive(e)?),
    };
    shared.problem(path, &message);
    shared.fail(&job.node, path);
    Ok(false)
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// `told` is how many bytes the progress was told of.
fn file(shared: &Shared<'_>, job: &FileJob, told: &mut u64) -> Result<Done, Failure> {
    let (options, FileJob { dir, new, node, path, ours }) = (shared.options, job);
    contents::check(node)?;
    let Some(dir) = dir else { return Ok(Done::Restored) };
    let there = if *new { None } else { dir.stat(&node.name)? };
    let is_dir = there.as_ref().is_some_and(Node::is_dir);
    if is_dir {
        may_go(shared, &**dir, &node.name)?;
    }
    let there = there.filter(Node::is_file);
    // To change what has other names elsewhere would change it there, too. A dry run doesn't
    // look at all names of a file.
    let is_ours = |there: &Node| {
        there.link.is_none() || there.link == *ours || options.dry_run && node.link.is_some()
    };
    let looks_same =
        |there: &Node| there.size == node.size && there.mtime == node.mtime && is_ours(there);
    if there.as_ref().is_some_and(looks_same) && (shared.trusts || holds(shared, &**dir, node)?) {
        let wrote_streams = if options.dry_run {
            would_write_streams(shared, &**dir, node)?
        } else {
            let set = counting_streams(shared, node, |s| dir.set_metadata(node, s))?;
            let (problems, wrote_streams) = set?;
            shared.metadata_problems(path, &problems);
            wrote_streams
        };
        return Ok(if wrote_streams { Done::Restored } else { Done::Unchanged });
    }
    if options.dry_run {
        return Ok(Done::Restored);
    }
    let old = there.and_then(|_| dir.open_file(&node.name).ok());
    let problems = write(shared, &**dir, node, (old, is_dir), told)?;
    shared.metadata_problems(path, &problems);
    if options.verify {
        verify(shared, &**dir, node, path, !problems.is_empty())?;
    }
    Ok(Done::Restored)
}

/// Whether the target's file, unchanged by its looks, is what it should be.
fn holds(shared: &Shared<'_>, dir: &dyn SinkDir, node: &Node) -> Result<bool, Failure> {
    match is_right(shared, dir, node) {
        Ok(true) => {
            shared.counts.verified.fetch_add(1, Relaxed);
            Ok(true)
        }
        // What can't be read is written anew.
        Ok(false) | Err(Failure::Target(_)) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Compares what was restored with the snapshot. `told`: something of it could not be set.
fn verify(
    shared: &Shared<'_>,
    dir: &dyn SinkDir,
    node: &Node,
    path: &[u8],
    told: bool,
) -> Result<()> {
    let all_right = is_right(shared, dir, node).and_then(|right| match right {
        true => are_streams_right(shared, dir, node),
        false => Ok(Right::No),
    });
    let message = match all_right {
        Ok(Right::Yes) => {
            shared.counts.verified.fetch_add(1, Relaxed);
            return Ok(());
        }
        Ok(Right::Missing(..)) if told => return Ok(()),
        Ok(Right::Missing(stream, e)) => {
            format!("was restored, but its stream {} can't be read again: {e}", stream_name(&stream))
        }
        Ok(Right::No) => "reads differently from what was restored: either something else writes there, or the target's disk is not to be trusted".to_owned(),
        Err(Failure::Target(e)) => format!("was restored, but can't be read again: {e}"),
        Err(Failure::Engine(e)) => {
            format!("was restored, but can't be compared: {}", shared.survive(e)?)
        }
    };
    shared.problem(path, &message);
    Ok(())
}

fn write(
    shared: &Shared<'_>,
    dir: &dyn SinkDir,
    node: &Node,
    (old, is_dir): (Option<Box<dyn SourceFile>>, bool),
    told: &mut u64,
) -> Result<Vec<MetadataProblem>, Failure> {
    let file = dir.create_file(node)?;
    let mut writing = Writing { shared, file, old, buffer: Vec::new(), told };
    if let Some(content) = &node.content {
        fetch::fetch(shared, content, node.size, &mut writing)?;
    }
    // Not before there is something to put in its place.
    if is_dir {
        dir.remove_dir_all(&node.name)?;
    }
    let Writing { file, old, .. } = writing;
    // Not every system replaces what is open.
    drop(old);
    // A directory that has come meanwhile stays.
    with_streams(shared, node, |s| file.finish(node, s))?.map_err(|e| match e.kind() {
        io::ErrorKind::IsADirectory => in_the_way().into(),
        _ => e.into(),
    })
}

/// A file being restored, and what lies under its name now.
struct Writing<'a> {
    shared: &'a Shared<'a>,
    file: Box<dyn SinkFile>,
    old: Option<Box<dyn SourceFile>>,
    buffer: Vec<u8>,
    told: &'a mut u64,
}

impl Writing<'_> {
    fn tell(&mut self, bytes: u64) {
        *self.told += bytes;
        self.shared.monitor.progress().add(0, bytes);
    }
}

impl Target for Writing<'_> {
    fn has(&mut self, at: u64, len: u64, id: &BlobId) -> Result<bool, Failure> {
        self.shared.monitor.progress().check()?;
        let Some(old) = self.old.as_deref_mut() else { return Ok(false) };
        if !has_chunk(self.shared, old, at, len, id, &mut self.buffer) {
            return Ok(false);
        }
        self.file.write_at(&self.buffer, at)?;
        self.tell(len);
        Ok(true)
    }

    fn data(&mut self, at: u64, bytes: &[u8]) -> Result<(), Failure> {
        self.shared.monitor.progress().check()?;
        self.file.write_at(bytes, at)?;
        self.shared.counts.written.fetch_add(bytes.len() as u64, Relaxed);
        self.tell(bytes.len() as u64);
        Ok(())
    }
}

/// Whether the file has these bytes at this place; they are then in `buffer`.
fn has_chunk(
    shared: &Shared<'_>,
    file: &mut dyn SourceFile,
    at: u64,
    len: u64,
    id: &BlobId,
    buffer: &mut Vec<u8>,
) -> bool {
    // No chunk is longer than a segment may be; a longer claim is false.
    if len > MAX_SEGMENT as u64 {
        return false;
    }
    buffer.resize(len as usize, 0);
    read_full(file, buffer, at).is_ok_and(|read| read == buffer.len())
        && shared.repo.keys().blob_id(BlobKind::Data, buffer) == *id
}

/// Reads a file of the target and compares it with the snapshot.
fn is_right(shared: &Shared<'_>, dir: &dyn SinkDir, node: &Node) -> Result<bool, Failure> {
    let mut file = dir.open_file(&node.name)?;
    match &node.content {
        Some(content) => has_content(shared, &mut *file, content, node.size),
        None => Ok(file.stat()?.size == node.size),
    }
}

/// Whether the streams of a file are what they should be.
enum Right {
    Yes,
    No,
    /// All but this one, which can't be opened.
    Missing(Vec<u8>, io::Error),
}

fn are_streams_right(
    shared: &Shared<'_>,
    dir: &dyn SinkDir,
    node: &Node,
) -> Result<Right, Failure> {
    let mut right = Right::Yes;
    for stream in node.streams() {
        let mut there = match dir.open_stream(node, &stream.name) {
            Ok(there) => there,
            Err(e) => {
                right = Right::Missing(stream.name.clone(), e);
                continue;
            }
        };
        let size = contents::size_of(&stream.content)?;
        if !has_content(shared, &mut *there, &stream.content, size)? {
            return Ok(Right::No);
        }
    }
    Ok(right)
}

/// Whether a restore would write streams of a file whose data is there.
fn would_write_streams(shared: &Shared<'_>, dir: &dyn SinkDir, node: &Node) -> Result<bool> {
    match are_streams_right(shared, dir, node) {
        Ok(right) => Ok(!matches!(right, Right::Yes)),
        Err(Failure::Target(_)) => Ok(true),
        Err(Failure::Engine(e)) => shared.survive(e).map(|_| true),
    }
}

/// Whether a file, or stream, of the target has this content.
pub(super) fn has_content(
    shared: &Shared<'_>,
    file: &mut dyn SourceFile,
    content: &Content,
    size: u64,
) -> Result<bool, Failure> {
    if file.stat()?.size != size {
        return Ok(false);
    }
    let mut buffer = Vec::new();
    if let Content::Inline(bytes) = content {
        buffer.resize(bytes.len() + 1, 0);
        let read = read_full(file, &mut buffer, 0)?;
        return Ok(buffer[..read] == **bytes);
    }
    for next in Extents::new(shared.repo, content, size) {
        shared.monitor.progress().check()?;
        let (at, extent) = next?;
        let right = match extent.id {
            Some(id) => has_chunk(shared, file, at, extent.len, &id, &mut buffer),
            None => is_zero(shared, file, at, extent.len)?,
        };
        if !right {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_zero(
    shared: &Shared<'_>,
    file: &mut dyn SourceFile,
    mut at: u64,
    len: u64,
) -> Result<bool, Failure> {
    let end = at.saturating_add(len);
    let mut buffer = vec![0; 1 << 16];
    while at < end {
        match file.next_data(at)? {
            Some(data) if data.start < end => at = data.start.max(at),
            _ => return Ok(true),
        }
        shared.monitor.progress().check()?;
        let want = (end - at).min(buffer.len() as u64) as usize;
        let read = read_full(file, &mut buffer[..want], at)?;
        if read < want || buffer[..read].iter().any(|b| *b != 0) {
            return Ok(false);
        }
        at += read as u64;
    }
    Ok(true)
}

/// Reads until the buffer is full or the file ends.
fn read_full(file: &mut dyn SourceFile, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], at + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}
