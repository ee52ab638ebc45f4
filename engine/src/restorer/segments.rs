//! Segments shared by small files: fetched for many files with few reads, each about once.

use std::sync::{Arc, Condvar, Mutex};

use super::fetch::{PARALLEL, runs_of};
use super::files::FileJob;
use crate::cache::Cache;
use crate::coming::Coming;
use crate::error::{Error, Result};
use crate::format::Content;
use crate::index::SegmentAddr;
use crate::pack::Segment;
use crate::repo::Repository;

/// Bytes kept.
const MOST: usize = 32 << 20;
/// Of what is fetched ahead for files handed out together, decompressed.
const AHEAD: u64 = 4 << 20;

pub(super) struct Segments {
    cache: Cache<SegmentAddr, Segment>,
    /// Those that somebody is fetching ahead.
    coming: Coming,
}

impl Segments {
    pub fn new() -> Self {
        let cache = Cache::new(MOST);
        Self { cache, coming: Coming::default() }
    }

    /// A segment, fetched if nobody has done so.
    pub fn get(&self, repo: &Repository, addr: &SegmentAddr) -> Result<Arc<Segment>> {
        self.coming.wait_for(addr);
        self.cache.get_or(*addr, || weighed(repo.read_segment(addr)?))
    }

    /// Fetches what files need that can't be there already. Errors are left to those
    /// who ask for the segment.
    pub fn fetch_ahead(&self, repo: &Repository, files: &[FileJob]) {
        let mut wanted: Vec<_> = files.iter().flat_map(|file| needed(repo, file)).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut left = AHEAD;
        wanted.retain(|addr| {
            let fits = left.checked_sub(u64::from(addr.raw_len));
            left = fits.unwrap_or(left);
            fits.is_some() && self.cache.get_or(*addr, || Err(())).is_err()
        });
        let claim = self.coming.claim(wanted, |_| true);
        for run in runs_of(&claim.addrs) {
            let Ok(segments) = repo.read_segments(&run) else { continue };
            for (addr, segment) in run.iter().zip(segments) {
                let _ = self.cache.get_or(*addr, || weighed(segment));
            }
        }
    }
}

fn weighed(segment: Segment) -> Result<(Arc<Segment>, usize)> {
    let weight = segment.len();
    Ok::<_, Error>((Arc::new(segment), weight))
}

/// Segments of a small file that is to be written whole.
fn needed(repo: &Repository, file: &FileJob) -> Vec<SegmentAddr> {
    let extents = match &file.node.content {
        Some(Content::Extents(extents)) if file.new && file.node.size < PARALLEL => extents,
        _ => return Vec::new(),
    };
    let places = extents.iter().filter_map(|e| e.id).filter_map(|id| repo.index().find(&id));
    places.map(|found| found.location.segment).collect()
}

/// Lets few threads at a time do what takes much memory.
pub(super) struct Turns {
    free: Mutex<usize>,
    left: Condvar,
}

impl Turns {
    pub fn new(most: usize) -> Self {
        Self { free: Mutex::new(most), left: Condvar::new() }
    }

    pub fn enter(&self) -> impl Drop + '_ {
        struct Turn<'a>(&'a Turns);
        impl Drop for Turn<'_> {
            fn drop(&mut self) {
                *self.0.free.lock().unwrap_or_else(|e| e.into_inner()) += 1;
                self.0.left.notify_one();
            }
        }
        let free = self.free.lock().unwrap_or_else(|e| e.into_inner());
        let mut free = self.left.wait_while(free, |n| *n == 0).unwrap_or_else(|e| e.into_inner());
        *free -= 1;
        drop(free);
        Turn(self)
    }
}
