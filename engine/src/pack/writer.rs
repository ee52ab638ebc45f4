//! Gathers segments into packs, stores the packs, and publishes them in index objects.
//!
//! Order is the promise: a pack is settled in the store before an index object
//! names it, and a snapshot is written only after `finish`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use dashmap::DashSet;

use super::builder::{PackBuilder, Packed};
use crate::error::{Error, Result};
use crate::format::{
    BlobId, BlobKind, IndexData, ObjectId, ObjectKind, ObjectName, Purpose, sealed,
};
use crate::repo::Repository;

/// A pack is closed once it is this long.
const PACK_TARGET: usize = 16 << 20;
/// Data segments go to one of these packs at random, so that the order of
/// segments in a pack doesn't tell the order of chunks in a file.
const DATA_PACKS: usize = 2;
/// Threads that hash and store finished packs.
const UPLOADERS: usize = 2;
/// An index object is written at least this often, so that little is sent
/// again after an interruption.
const INDEX_EVERY: Duration = Duration::from_secs(20);
const INDEX_PACKS: usize = 32;
const INDEX_BLOBS: usize = 200_000;

/// What a writer has added so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriterCounts {
    pub blobs: u64,
    /// Plaintext bytes of those blobs.
    pub bytes: u64,
    /// Bytes in the store, packs and index objects.
    pub stored: u64,
}

pub struct PackWriter {
    shared: Arc<Shared>,
    claimed: Arc<DashSet<BlobId>>,
    /// Packs being filled: `DATA_PACKS` for data, then one for trees.
    open: Vec<Mutex<Option<PackBuilder>>>,
    upload: Sender<PackBuilder>,
    uploaders: Vec<JoinHandle<()>>,
    dry: bool,
}

struct Shared {
    repo: Arc<Repository>,
    pending: Mutex<Pending>,
    error: Mutex<Option<Error>>,
    blobs: AtomicU64,
    bytes: AtomicU64,
    stored: AtomicU64,
}

struct Pending {
    data: IndexData,
    blobs: usize,
    since: Instant,
    written: Vec<ObjectId>,
}

impl PackWriter {
    pub fn new(repo: Arc<Repository>) -> Self {
        Self::make(repo, false)
    }

    /// A writer that only counts what it would store.
    pub fn dry(repo: Arc<Repository>) -> Self {
        Self::make(repo, true)
    }

    fn make(repo: Arc<Repository>, dry: bool) -> Self {
        let pending = Pending {
            data: IndexData::default(),
            blobs: 0,
            since: Instant::now(),
            written: Vec::new(),
        };
        let shared = Arc::new(Shared {
            repo,
            pending: Mutex::new(pending),
            error: Mutex::new(None),
            blobs: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            stored: AtomicU64::new(0),
        });
        let claimed = Arc::new(DashSet::new());
        let (upload, queue) = bounded(1);
        let uploaders = (0..UPLOADERS)
            .map(|_| {
                let (shared, claimed) = (shared.clone(), claimed.clone());
                let queue: Receiver<PackBuilder> = queue.clone();
                std::thread::spawn(move || {
                    queue.iter().for_each(|pack| shared.store_pack(pack, &claimed));
                })
            })
            .collect();
        let open = (0..=DATA_PACKS).map(|_| Mutex::new(None)).collect();
        Self { shared, claimed, open, upload, uploaders, dry }
    }

    /// Whether the caller must store this blob: nobody has it and nobody else
    /// is about to store it. Blobs in packs that prune has marked are stored anew.
    pub fn claim(&self, id: &BlobId) -> bool {
        let missing = self.shared.repo.index().find(id).is_none_or(|f| f.marked.is_some());
        missing && self.claimed.insert(*id)
    }

    /// Adds a segment of claimed blobs.
    pub fn add(&self, segment: &Packed) -> Result<()> {
        self.failed()?;
        let shared = &self.shared;
        shared.blobs.fetch_add(segment.blobs.len() as u64, Relaxed);
        shared.bytes.fetch_add(segment.blobs.iter().map(|b| u64::from(b.1)).sum(), Relaxed);
        if self.dry {
            shared.stored.fetch_add(segment.payload.len() as u64 + 16, Relaxed);
            return Ok(());
        }
        let slot = match segment.kind {
            BlobKind::Tree => DATA_PACKS,
            BlobKind::Data => usize::from(crate::crypto::random::<1>()?[0]) % DATA_PACKS,
        };
        let full = {
            let mut open = lock(&self.open[slot]);
            let mut pack = match open.take() {
                Some(pack) => pack,
                None => PackBuilder::new(self.shared.repo.keys())?,
            };
            pack.add(segment);
            if pack.size() < PACK_TARGET {
                *open = Some(pack);
                None
            } else {
                Some(pack)
            }
        };
        full.map_or(Ok(()), |pack| self.send(pack))
    }

    fn send(&self, pack: PackBuilder) -> Result<()> {
        self.upload.send(pack).map_err(|_| Error::Interrupted)
    }

    fn failed(&self) -> Result<()> {
        lock(&self.shared.error).take().map_or(Ok(()), Err)
    }

    pub fn counts(&self) -> WriterCounts {
        self.shared.counts()
    }

    /// Stores what is left and publishes it. Returns the counts and the index
    /// objects that were written. Afterwards everything survives a power loss.
    pub fn finish(mut self) -> Result<(WriterCounts, Vec<ObjectId>)> {
        for slot in std::mem::take(&mut self.open) {
            if let Some(pack) = slot.into_inner().unwrap_or_else(|e| e.into_inner()) {
                self.send(pack)?;
            }
        }
        let (closed, _) = bounded(0);
        drop(std::mem::replace(&mut self.upload, closed));
        for uploader in std::mem::take(&mut self.uploaders) {
            if uploader.join().is_err() {
                return Err(Error::Invalid("an upload thread panicked".into()));
            }
        }
        self.failed()?;
        let mut pending = lock(&self.shared.pending);
        self.shared.write_index(&mut pending)?;
        self.shared.repo.store().settle()?;
        Ok((self.shared.counts(), std::mem::take(&mut pending.written)))
    }
}

impl Shared {
    fn counts(&self) -> WriterCounts {
        WriterCounts {
            blobs: self.blobs.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            stored: self.stored.load(Relaxed),
        }
    }

    fn store_pack(&self, pack: PackBuilder, claimed: &DashSet<BlobId>) {
        if let Err(error) = self.try_store_pack(pack, claimed) {
            // The first error is the cause; the others follow from it.
            lock(&self.error).get_or_insert(error);
        }
    }

    fn try_store_pack(&self, pack: PackBuilder, claimed: &DashSet<BlobId>) -> Result<()> {
        let (entry, bytes) = pack.finish();
        self.repo.store().put(&ObjectName::new(ObjectKind::Pack, entry.id), &bytes)?;
        self.stored.fetch_add(entry.size, Relaxed);
        self.repo.index().add(&entry);
        let mut blobs = 0;
        for (id, ..) in entry.segments.iter().flat_map(|s| s.blobs()) {
            claimed.remove(&id);
            blobs += 1;
        }
        let mut pending = lock(&self.pending);
        pending.data.packs.push(entry);
        pending.blobs += blobs;
        let due = pending.data.packs.len() >= INDEX_PACKS
            || pending.blobs >= INDEX_BLOBS
            || pending.since.elapsed() >= INDEX_EVERY;
        if due { self.write_index(&mut pending) } else { Ok(()) }
    }

    fn write_index(&self, pending: &mut Pending) -> Result<()> {
        if pending.data.packs.is_empty() {
            return Ok(());
        }
        self.repo.store().settle()?;
        let data = std::mem::take(&mut pending.data);
        pending.blobs = 0;
        pending.since = Instant::now();
        let object = sealed::seal(self.repo.keys(), Purpose::Index, &data)?;
        let id = self.repo.put_object(ObjectKind::Index, &object)?;
        self.stored.fetch_add(object.len() as u64, Relaxed);
        pending.written.push(id);
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
