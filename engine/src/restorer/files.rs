//! Workers: each restores files, taking what is right already from the target.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::Shared;
use super::fetch::{self, Failure, Target};
use super::walk::clear_the_way;
use crate::error::Result;
use crate::format::{BlobId, BlobKind, Content, Node, display_name};
use crate::sink::{SinkDir, SinkFile};
use crate::source::SourceFile;

pub(super) struct FileJob {
    /// `None` in a dry run if the directory isn't there.
    pub dir: Option<Arc<dyn SinkDir>>,
    pub node: Node,
    pub path: Vec<u8>,
}

pub(super) type Batch = Vec<FileJob>;

/// How a file ended up.
enum Done {
    Unchanged,
    Restored,
}

pub(super) fn restore(shared: &Shared<'_>, batch: Batch) -> Result<()> {
    for job in batch {
        shared.monitor.progress().check()?;
        let (counts, path) = (&shared.counts, &job.path);
        counts.files.fetch_add(1, Relaxed);
        counts.bytes.fetch_add(job.node.size, Relaxed);
        match file(shared, &job) {
            Ok(Done::Unchanged) => {
                counts.unchanged.fetch_add(1, Relaxed);
                shared.monitor.progress().add(0, job.node.size);
                shared.monitor.entry("unchanged", &|| display_name(path));
            }
            Ok(Done::Restored) => {
                counts.restored.fetch_add(1, Relaxed);
                shared.monitor.entry("restored", &|| display_name(path));
            }
            Err(Failure::Target(e)) if is_full(&e) => {
                return Err(crate::Error::io(
                    format!(
                        "the target is full; {} and what follows was not restored (free some space and run this again with --overwrite)",
                        display_name(path)
                    ),
                    e,
                ));
            }
            Err(Failure::Target(e)) => shared.problem(path, &format!("can't be written: {e}")),
            Err(Failure::Engine(crate::Error::Interrupted)) => {
                return Err(crate::Error::Interrupted);
            }
            Err(Failure::Engine(e)) => shared.problem(path, &format!("not restored: {e}")),
        }
        shared.monitor.progress().add(1, 0);
    }
    Ok(())
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn file(shared: &Shared<'_>, job: &FileJob) -> Result<Done, Failure> {
    let FileJob { dir, node, path } = job;
    let Some(dir) = dir else { return Ok(Done::Restored) };
    let there = dir.stat(&node.name)?.filter(Node::is_file);
    if let Some(there) = &there {
        let looks_same = there.size == node.size && there.mtime == node.mtime;
        if looks_same && (!shared.options.verify || is_right(shared, &**dir, node)?) {
            if !shared.options.dry_run {
                shared.metadata_problems(path, &dir.set_metadata(node)?);
            }
            return Ok(Done::Unchanged);
        }
    }
    if shared.options.dry_run {
        return Ok(Done::Restored);
    }
    clear_the_way(shared, &**dir, node)?;
    let old = match there {
        Some(_) => dir.open_file(&node.name).ok(),
        None => None,
    };
    let problems = write(shared, &**dir, node, old)?;
    shared.metadata_problems(path, &problems);
    if shared.options.verify {
        if is_right(shared, &**dir, node)? {
            shared.counts.verified.fetch_add(1, Relaxed);
        } else {
            shared.problem(
                path,
                "reads differently from what was restored: the target's disk is not to be trusted",
            );
        }
    }
    Ok(Done::Restored)
}

fn write(
    shared: &Shared<'_>,
    dir: &dyn SinkDir,
    node: &Node,
    old: Option<Box<dyn SourceFile>>,
) -> Result<Vec<crate::sink::MetadataProblem>, Failure> {
    let mut writing = Writing { shared, file: dir.create_file(node)?, old, buffer: Vec::new() };
    if let Some(content) = &node.content {
        fetch::fetch(shared.repo, &shared.segments, content, node.size, &mut writing)?;
    }
    Ok(writing.file.finish(node)?)
}

/// A file being restored, and what lies under its name now.
struct Writing<'a> {
    shared: &'a Shared<'a>,
    file: Box<dyn SinkFile>,
    old: Option<Box<dyn SourceFile>>,
    buffer: Vec<u8>,
}

impl Target for Writing<'_> {
    fn has(&mut self, at: u64, len: u64, id: &BlobId) -> Result<bool, Failure> {
        let Some(old) = self.old.as_deref_mut() else { return Ok(false) };
        if !holds(self.shared, old, at, len, id, &mut self.buffer) {
            return Ok(false);
        }
        self.file.write_at(&self.buffer, at)?;
        self.shared.monitor.progress().add(0, len);
        Ok(true)
    }

    fn data(&mut self, at: u64, bytes: &[u8]) -> Result<(), Failure> {
        self.shared.monitor.progress().check()?;
        self.file.write_at(bytes, at)?;
        self.shared.counts.written.fetch_add(bytes.len() as u64, Relaxed);
        self.shared.monitor.progress().add(0, bytes.len() as u64);
        Ok(())
    }
}

/// Whether the file has these bytes at this place; they are then in `buffer`.
fn holds(
    shared: &Shared<'_>,
    file: &mut dyn SourceFile,
    at: u64,
    len: u64,
    id: &BlobId,
    buffer: &mut Vec<u8>,
) -> bool {
    // No chunk is longer than a segment may be; a longer claim is false.
    if len > crate::format::MAX_SEGMENT as u64 {
        return false;
    }
    buffer.resize(len as usize, 0);
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], at + done as u64) {
            Ok(0) | Err(_) => return false,
            Ok(n) => done += n,
        }
    }
    shared.repo.keys().blob_id(BlobKind::Data, buffer) == *id
}

/// Reads a file of the target and compares it with the snapshot.
fn is_right(shared: &Shared<'_>, dir: &dyn SinkDir, node: &Node) -> Result<bool, Failure> {
    let mut file = dir.open_file(&node.name)?;
    if file.stat()?.size != node.size {
        return Ok(false);
    }
    match &node.content {
        Some(Content::Inline(bytes)) => {
            let mut buffer = vec![0; bytes.len() + 1];
            let read = file.read_at(&mut buffer, 0)?;
            Ok(buffer[..read] == **bytes)
        }
        Some(content) => {
            let mut buffer = Vec::new();
            fetch::for_each_extent(shared.repo, content, node.size, &mut |at, extent| {
                Ok(match extent.id {
                    Some(id) => holds(shared, &mut *file, at, extent.len, &id, &mut buffer),
                    None => is_zero(&mut *file, at, extent.len)?,
                })
            })
        }
        None => Ok(true),
    }
}

fn is_zero(file: &mut dyn SourceFile, mut at: u64, len: u64) -> io::Result<bool> {
    let end = at + len;
    let mut buffer = vec![0; 1 << 16];
    while at < end {
        match file.next_data(at)? {
            Some(data) if data.start < end => at = data.start.max(at),
            _ => return Ok(true),
        }
        let want = (end - at).min(buffer.len() as u64) as usize;
        let read = file.read_at(&mut buffer[..want], at)?;
        if read == 0 || buffer[..read].iter().any(|b| *b != 0) {
            return Ok(false);
        }
        at += read as u64;
    }
    Ok(true)
}
