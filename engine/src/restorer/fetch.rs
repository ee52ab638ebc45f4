//! From a file's extents to its bytes: few large reads, every core decoding.

use std::io::{self, Write};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crossbeam_channel::bounded;

use crate::cache::Cache;
use crate::contents::extents_in;
use crate::error::{Error, Result};
use crate::format::{BlobId, BlobKind, Content, Extent, Node, ObjectId};
use crate::index::Location;
use crate::pack::Segment;
use crate::repo::Repository;

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
pub(super) trait Target {
    /// Whether the target holds this chunk already, so that it isn't fetched.
    fn has(&mut self, at: u64, len: u64, id: &BlobId) -> Result<bool, Failure>;
    fn data(&mut self, at: u64, bytes: &[u8]) -> Result<(), Failure>;
}

/// A chunk to fetch.
#[derive(Clone, Copy)]
struct Piece {
    at: u64,
    id: BlobId,
    location: Location,
}

/// How much of a file is planned at once; bounds memory for files of any length.
const WINDOW: u64 = 256 << 20;
/// Fewer bytes than this are fetched by the calling thread alone.
const PARALLEL: u64 = 2 << 20;
/// Longest read of the store.
const RUN: u64 = 2 << 20;
const RUN_QUEUE: usize = 4;

/// Calls `each` for every extent, in order, until it says no.
pub(super) fn for_each_extent(
    repo: &Repository,
    content: &Content,
    size: u64,
    each: &mut dyn FnMut(u64, Extent) -> Result<bool, Failure>,
) -> Result<bool, Failure> {
    let mut start = 0;
    while start < size {
        let end = start.saturating_add(WINDOW).min(size);
        for (at, extent) in extents_in(repo, content, start..end)? {
            // One that reaches in from the window before has had its turn.
            if at >= start && !each(at, extent)? {
                return Ok(false);
            }
        }
        start = end;
    }
    Ok(true)
}

pub(super) fn fetch(
    repo: &Repository,
    cache: &Cache<(ObjectId, u32), Segment>,
    content: &Content,
    size: u64,
    target: &mut dyn Target,
) -> Result<(), Failure> {
    if let Content::Inline(bytes) = content {
        return target.data(0, bytes);
    }
    let mut start = 0;
    while start < size {
        let end = start.saturating_add(WINDOW).min(size);
        let pieces = missing(repo, content, start..end, target)?;
        let bytes: u64 = pieces.iter().map(|p| u64::from(p.location.len)).sum();
        if bytes < PARALLEL {
            for piece in &pieces {
                few(repo, cache, piece, target)?;
            }
        } else {
            many(repo, pieces, target)?;
        }
        start = end;
    }
    Ok(())
}

fn missing(
    repo: &Repository,
    content: &Content,
    window: Range<u64>,
    target: &mut dyn Target,
) -> Result<Vec<Piece>, Failure> {
    let mut pieces = Vec::new();
    for (at, extent) in extents_in(repo, content, window.clone())? {
        let Some(id) = extent.id.filter(|_| at >= window.start) else { continue };
        if target.has(at, extent.len, &id)? {
            continue;
        }
        let location = repo.locate(&id)?;
        if u64::from(location.len) != extent.len {
            return Err(Error::Invalid(format!(
                "blob {} is not as long as the file's chunk list says",
                id.short()
            ))
            .into());
        }
        pieces.push(Piece { at, id, location });
    }
    Ok(pieces)
}

/// One chunk, by way of the cache of shared segments.
fn few(
    repo: &Repository,
    cache: &Cache<(ObjectId, u32), Segment>,
    piece: &Piece,
    target: &mut dyn Target,
) -> Result<(), Failure> {
    let addr = piece.location.segment;
    let segment = cache.get_or((addr.pack, addr.offset), || {
        let segment = repo.read_segment(&addr)?;
        let weight = segment.len();
        Ok::<_, Error>((Arc::new(segment), weight))
    });
    let blob = segment
        .as_ref()
        .map_err(|_| ())
        .and_then(|s| s.blob(BlobKind::Data, &piece.id, &piece.location).map_err(|_| ()));
    match blob {
        Ok(bytes) => target.data(piece.at, bytes),
        // Perhaps there is another, intact copy; if not, this gives the error.
        Err(()) => target.data(piece.at, &repo.read_blob(BlobKind::Data, &piece.id)?),
    }
}

/// Many chunks: long reads, decoded by several threads, written by this one.
fn many(repo: &Repository, pieces: Vec<Piece>, target: &mut dyn Target) -> Result<(), Failure> {
    let runs = runs(pieces);
    let next = AtomicUsize::new(0);
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get()).clamp(2, 8);
    std::thread::scope(|scope| {
        let (decoded, queue) = bounded(RUN_QUEUE);
        for _ in 0..workers {
            let (decoded, runs, next) = (decoded.clone(), &runs, &next);
            scope.spawn(move || {
                while let Some(run) = runs.get(next.fetch_add(1, Relaxed)) {
                    if decoded.send((run, decode(repo, run))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(decoded);
        for (run, result) in queue {
            match result {
                Ok(segments) => {
                    for (piece, number) in run {
                        let blob =
                            segments[*number].blob(BlobKind::Data, &piece.id, &piece.location);
                        target.data(piece.at, blob?)?;
                    }
                }
                Err(_) => {
                    for (piece, _) in run {
                        target.data(piece.at, &repo.read_blob(BlobKind::Data, &piece.id)?)?;
                    }
                }
            }
        }
        Ok(())
    })
}

/// Pieces of one read, each with the number of its segment in that read.
type Run = Vec<(Piece, usize)>;

fn runs(mut pieces: Vec<Piece>) -> Vec<Run> {
    pieces.sort_by_key(|p| (p.location.segment.pack, p.location.segment.offset));
    let mut runs: Vec<Run> = Vec::new();
    for piece in pieces {
        let segment = piece.location.segment;
        if let Some(run) = runs.last_mut()
            && let (Some(first), Some(last)) = (run.first().copied(), run.last().copied())
        {
            let (from, to) = (first.0.location.segment, last.0.location.segment);
            if to == segment {
                run.push((piece, last.1));
                continue;
            }
            let near = u64::from(segment.offset) <= to.end() + (64 << 10);
            if from.pack == segment.pack && near && segment.end() - u64::from(from.offset) <= RUN {
                run.push((piece, last.1 + 1));
                continue;
            }
        }
        runs.push(vec![(piece, 0)]);
    }
    runs
}

/// Reads and decodes a run, and checks its blobs' ids.
fn decode(repo: &Repository, run: &Run) -> Result<Vec<Segment>> {
    let mut addrs = Vec::new();
    for (piece, number) in run {
        if addrs.len() <= *number {
            addrs.push(piece.location.segment);
        }
    }
    let segments = repo.read_segments(&addrs)?;
    for (piece, number) in run {
        segments[*number].blob(BlobKind::Data, &piece.id, &piece.location)?;
    }
    Ok(segments)
}

/// Writes a file's bytes in order, holes as zeros.
pub fn read_file(repo: &Repository, node: &Node, out: &mut dyn Write) -> Result<()> {
    let bad = |e| Error::io("can't write", e);
    match &node.content {
        None => Ok(()),
        Some(Content::Inline(bytes)) => out.write_all(bytes).map_err(bad),
        Some(content) => {
            let each = &mut |_, extent: Extent| {
                match extent.id {
                    Some(id) => out.write_all(&repo.read_blob(BlobKind::Data, &id)?)?,
                    None => {
                        io::copy(&mut io::Read::take(io::repeat(0), extent.len), out)?;
                    }
                }
                Ok(true)
            };
            match for_each_extent(repo, content, node.size, each) {
                Ok(_) => Ok(()),
                Err(Failure::Engine(e)) => Err(e),
                Err(Failure::Target(e)) => Err(bad(e)),
            }
        }
    }
}
