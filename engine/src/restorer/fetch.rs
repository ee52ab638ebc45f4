//! From a file's extents to its bytes: few large reads, every core decoding.

use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::Shared;
use super::extents::Extents;
use crate::contents;
use crate::error::{Error, Result};
use crate::format::{BlobId, BlobKind, Content, Node, Value};
use crate::index::{Location, SegmentAddr};
use crate::pack::Segment;
use crate::repo::Repository;
use crate::workers::lock;

/// Why a file could not be fetched.
pub(super) enum Failure {
    Target(io::Error),
    Engine(Error),
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        Self::Target(e)
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self::Engine(e)
    }
}

/// Takes a file's bytes, in any order. Holes are not mentioned.
pub(super) trait Target: Send {
    /// Whether the target holds this chunk already, so that it isn't fetched.
    fn has(&mut self, at: u64, len: u64, id: &BlobId) -> Result<bool, Failure>;
    fn data(&mut self, at: u64, bytes: &[u8]) -> Result<(), Failure>;
}

/// A chunk to fetch.
#[derive(Clone, Copy)]
struct Piece {
    at: u64,
    /// Length according to the file.
    len: u64,
    id: BlobId,
    location: Location,
}

impl Piece {
    fn put(&self, bytes: &[u8], target: &mut dyn Target) -> Result<(), Failure> {
        check_len(&self.id, bytes, self.len)?;
        target.data(self.at, bytes)
    }
}

fn check_len(id: &BlobId, bytes: &[u8], len: u64) -> Result<()> {
    if bytes.len() as u64 == len {
        return Ok(());
    }
    let id = id.short();
    Err(Error::Invalid(format!("blob {id} is not as long as the list of the file's chunks says")))
}

/// How much of a file is planned at once; bounds memory for files of any length.
const WINDOW: u64 = 256 << 20;
const WINDOW_PIECES: usize = 1 << 16;
/// Fewer bytes than this are fetched by the calling thread alone.
pub(super) const PARALLEL: u64 = 2 << 20;
/// Longest read of the store, and most that it may become decompressed.
const RUN: u64 = 2 << 20;
const RUN_RAW: u64 = 8 << 20;
/// Segments that a thread holds at most while another one writes.
const MOST_READY: usize = 8;
/// Reads under way at once: as many fill a line of 100 Mbit/s that answers after 0.2 s.
const READS: usize = 4;

pub(super) fn fetch(
    shared: &Shared<'_>,
    content: &Content,
    size: u64,
    target: &mut dyn Target,
) -> Result<(), Failure> {
    if let Content::Inline(bytes) = content {
        return target.data(0, bytes);
    }
    let repo = shared.repo;
    let mut extents = Extents::new(repo, content, size);
    loop {
        let pieces = missing(repo, &mut extents, target)?;
        let bytes: u64 = pieces.iter().map(|p| p.len).sum();
        if pieces.is_empty() {
            return Ok(());
        } else if bytes < PARALLEL {
            pieces.iter().try_for_each(|piece| few(shared, piece, target))?;
        } else {
            let _turn = shared.large.enter();
            many(repo, pieces, target)?;
        }
    }
}

/// The next chunks that the target doesn't have; none at the end of the file.
fn missing(
    repo: &Repository,
    extents: &mut Extents<'_>,
    target: &mut dyn Target,
) -> Result<Vec<Piece>, Failure> {
    let (mut pieces, mut bytes) = (Vec::new(), 0u64);
    while bytes < WINDOW && pieces.len() < WINDOW_PIECES {
        let Some(next) = extents.next() else { break };
        let (at, extent) = next?;
        let Some(id) = extent.id else { continue };
        if !target.has(at, extent.len, &id)? {
            bytes = bytes.saturating_add(extent.len);
            pieces.push(Piece { at, len: extent.len, id, location: repo.locate(&id)? });
        }
    }
    Ok(pieces)
}

/// One chunk, by way of the cache of shared segments.
fn few(shared: &Shared<'_>, piece: &Piece, target: &mut dyn Target) -> Result<(), Failure> {
    let repo = shared.repo;
    let segment = shared.segments.get(repo, &piece.location.segment);
    let blob = segment
        .as_ref()
        .map_err(|_| ())
        .and_then(|s| s.blob(BlobKind::Data, &piece.id, &piece.location).map_err(|_| ()));
    match blob {
        Ok(bytes) => piece.put(bytes, target),
        // Perhaps there is another, intact copy; if not, this gives the error.
        Err(()) => piece.put(&repo.read_blob(BlobKind::Data, &piece.id)?, target),
    }
}

/// Many chunks: long reads, by several threads, each of which decodes a segment and writes it
/// while its processor has it at hand.
fn many(repo: &Repository, pieces: Vec<Piece>, target: &mut dyn Target) -> Result<(), Failure> {
    let (runs, next) = (runs(pieces), AtomicUsize::new(0));
    let (target, failure) = (Mutex::new(target), Mutex::new(None));
    let workers = std::thread::available_parallelism().map_or(READS, |n| n.get()).clamp(READS, 8);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(run) = runs.get(next.fetch_add(1, Relaxed)) {
                    if let Err(e) = put_run(repo, run, &target) {
                        lock(&failure).get_or_insert(e);
                        next.store(runs.len(), Relaxed);
                    }
                }
            });
        }
    });
    failure.into_inner().unwrap_or_else(|e| e.into_inner()).map_or(Ok(()), Err)
}

fn put_run(repo: &Repository, run: &Run, target: &Mutex<&mut dyn Target>) -> Result<(), Failure> {
    let mut segments = repo.fetch_segments(&run.segments).ok();
    let mut ready: Vec<Ready<'_>> = Vec::new();
    for pieces in run.pieces.chunk_by(|one, next| one.1 == next.1) {
        let segment = segments.as_mut().and_then(Iterator::next).and_then(Result::ok);
        let is_right = |segment: &Segment| {
            pieces.iter().all(|(p, _)| segment.blob(BlobKind::Data, &p.id, &p.location).is_ok())
        };
        ready.push(Ready { pieces, segment: segment.filter(is_right) });
        // While another thread writes, there is more to decode.
        let free =
            if ready.len() < MOST_READY { target.try_lock().ok() } else { Some(lock(target)) };
        if let Some(mut target) = free {
            ready.drain(..).try_for_each(|ready| ready.put(repo, &mut **target))?;
        }
    }
    let mut target = lock(target);
    ready.drain(..).try_for_each(|ready| ready.put(repo, &mut **target))
}

/// Chunks of one segment, to be written.
struct Ready<'a> {
    pieces: &'a [(Piece, usize)],
    /// Nothing if it isn't intact.
    segment: Option<Segment>,
}

impl Ready<'_> {
    fn put(&self, repo: &Repository, target: &mut dyn Target) -> Result<(), Failure> {
        self.pieces.iter().try_for_each(|(piece, _)| match &self.segment {
            Some(segment) => {
                piece.put(segment.blob(BlobKind::Data, &piece.id, &piece.location)?, target)
            }
            // Perhaps there is another, intact copy; if not, this gives the error.
            None => piece.put(&repo.read_blob(BlobKind::Data, &piece.id)?, target),
        })
    }
}

/// What one read gives.
struct Run {
    segments: Vec<SegmentAddr>,
    /// Sum of their lengths decompressed.
    raw: u64,
    /// Each with the number of its segment.
    pieces: Vec<(Piece, usize)>,
}

impl Run {
    /// Takes a piece whose segment is the last one or may follow it.
    fn take(&mut self, piece: Piece) -> bool {
        let taken = self.reach(piece.location.segment);
        if taken {
            self.pieces.push((piece, self.segments.len() - 1));
        }
        taken
    }

    fn reach(&mut self, segment: SegmentAddr) -> bool {
        let (Some(first), Some(last)) = (self.segments.first(), self.segments.last()) else {
            return false;
        };
        if *last != segment {
            let near = u64::from(segment.offset) <= last.end() + (64 << 10);
            let short = segment.end().saturating_sub(u64::from(first.offset)) <= RUN;
            let raw = self.raw + u64::from(segment.raw_len);
            if first.pack != segment.pack || !near || !short || raw > RUN_RAW {
                return false;
            }
            self.segments.push(segment);
            self.raw = raw;
        }
        true
    }
}

/// Segments that are sorted, as runs that one read each gives.
pub fn runs_of(segments: &[SegmentAddr]) -> Vec<Vec<SegmentAddr>> {
    let mut runs: Vec<Run> = Vec::new();
    for segment in segments {
        if !runs.last_mut().is_some_and(|run| run.reach(*segment)) {
            let raw = u64::from(segment.raw_len);
            runs.push(Run { segments: vec![*segment], raw, pieces: Vec::new() });
        }
    }
    runs.into_iter().map(|run| run.segments).collect()
}

fn runs(mut pieces: Vec<Piece>) -> Vec<Run> {
    pieces.sort_by_key(|p| (p.location.segment.pack, p.location.segment.offset));
    let mut runs: Vec<Run> = Vec::new();
    for piece in pieces {
        if !runs.last_mut().is_some_and(|run| run.take(piece)) {
            let segment = piece.location.segment;
            let raw = u64::from(segment.raw_len);
            runs.push(Run { segments: vec![segment], raw, pieces: vec![(piece, 0)] });
        }
    }
    runs
}

/// Writes a file's bytes in order, holes as zeros.
pub fn read_file(repo: &Repository, node: &Node, out: &mut dyn Write) -> Result<()> {
    contents::check(node)?;
    node.content.as_ref().map_or(Ok(()), |content| read_content(repo, content, node.size, out))
}

/// The same for an extended attribute.
pub fn read_attribute(repo: &Repository, value: Value<'_>, out: &mut dyn Write) -> Result<()> {
    match value {
        Value::Here(bytes) => out.write_all(bytes).map_err(|e| Error::io("can't write", e)),
        Value::Stored(content) => read_content(repo, content, contents::size_of(content)?, out),
    }
}

fn read_content(
    repo: &Repository,
    content: &Content,
    size: u64,
    out: &mut dyn Write,
) -> Result<()> {
    let bad = |e| Error::io("can't write", e);
    if let Content::Inline(bytes) = content {
        return out.write_all(bytes).map_err(bad);
    }
    for next in Extents::new(repo, content, size) {
        let (_, extent) = next?;
        match extent.id {
            Some(id) => {
                let bytes = repo.read_blob(BlobKind::Data, &id)?;
                check_len(&id, &bytes, extent.len)?;
                out.write_all(&bytes).map_err(bad)?;
            }
            None => {
                io::copy(&mut io::Read::take(io::repeat(0), extent.len), out).map_err(bad)?;
            }
        }
    }
    Ok(())
}
