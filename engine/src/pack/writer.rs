//! Gathers segments into packs, stores the packs, and publishes them in index objects.
//!
//! Order is the promise: a pack is settled in the store before an index object
//! names it, and a snapshot is written only after `finish`.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use dashmap::DashSet;

use super::builder::{PackBuilder, Packed};
use crate::error::{Error, Result};
use crate::format::{
    BlobId, BlobKind, IndexData, ObjectId, ObjectKind, ObjectName, PackEntry, Purpose,
    SegmentEntry, sealed,
};
use crate::object;
use crate::repo::Repository;
use crate::store::Store;
use crate::workers::{self, lock};

/// Data segments go to one of these packs at random, so that the order of
/// segments in a pack doesn't tell the order of chunks in a file.
const DATA_PACKS: usize = 2;
/// Threads that hash and store finished packs.
const UPLOADERS: usize = 2;
/// Packs looked up at once.
const LOOKUPS: usize = 8;
/// For more packs than this, a listing of all costs less than looking each up.
const MANY_PACKS: usize = 64;
/// An index object is written at least this often, so that little is sent
/// again after an interruption.
const INDEX_EVERY: Duration = Duration::from_secs(20);
const INDEX_PACKS: usize = 32;
/// As many as take a few megabytes, which are there three times while they are written.
const INDEX_BLOBS: usize = 60_000;

/// What a writer has added so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriterCounts {
    pub blobs: u64,
    /// Plaintext bytes of those blobs.
    pub bytes: u64,
    /// Bytes in the store, packs and index objects.
    pub stored: u64,
}

/// What a writer has stored.
pub struct Finished {
    pub counts: WriterCounts,
    /// Index objects written.
    pub index: Vec<ObjectId>,
    pub packs: Vec<StoredPack>,
}

/// A pack and its length.
pub type StoredPack = (ObjectId, u64);

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
    failed: AtomicBool,
    error: Mutex<Option<Error>>,
    blobs: AtomicU64,
    bytes: AtomicU64,
    stored: AtomicU64,
    /// Packs stored.
    packs: Mutex<Vec<StoredPack>>,
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
            failed: AtomicBool::new(false),
            error: Mutex::new(None),
            blobs: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            stored: AtomicU64::new(0),
            packs: Mutex::default(),
        });
        let claimed = Arc::new(DashSet::new());
        // A full pack waits where it is: 16 MiB more would lie in a queue.
        let (upload, queue) = bounded(0);
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
        !self.shared.repo.index().can_rely_on(id) && self.claimed.insert(*id)
    }

    /// Takes a pack that is in the store, and that no index object names, for one that this
    /// writer has stored.
    pub fn adopt(&self, entry: PackEntry) -> Result<()> {
        self.shared.repo.index().add(&entry);
        self.shared.publish(entry)
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
            let full = open.take_if(|pack| !pack.has_room_for(segment));
            let pack = match &mut *open {
                Some(pack) => pack,
                none => none.insert(PackBuilder::new(self.shared.repo.keys())?),
            };
            pack.add(segment)?;
            full
        };
        full.map_or(Ok(()), |pack| self.send(pack))
    }

    fn send(&self, pack: PackBuilder) -> Result<()> {
        self.upload.send(pack).map_err(|_| Error::Interrupted)
    }

    /// The first error of an uploader; after it has been told, nothing is taken any more.
    fn failed(&self) -> Result<()> {
        if !self.shared.failed.load(Relaxed) {
            return Ok(());
        }
        Err(lock(&self.shared.error).take().unwrap_or(Error::Interrupted))
    }

    pub fn counts(&self) -> WriterCounts {
        self.shared.counts()
    }

    /// Stores what is left and publishes it. Afterwards everything survives a power
    /// loss; after an error there is only [`abandon`](Self::abandon). Whoever relies on the
    /// packs must look whether they are there now.
    pub fn finish(&mut self) -> Result<Finished> {
        for slot in std::mem::take(&mut self.open) {
            if let Some(pack) = slot.into_inner().unwrap_or_else(|e| e.into_inner()) {
                self.send(pack)?;
            }
        }
        self.join_uploaders()?;
        self.failed()?;
        self.shared.write_index(&mut lock(&self.shared.pending))?;
        self.shared.repo.store().settle()?;
        Ok(self.finished())
    }

    /// Gives up, but publishes the packs that were stored, so that they need not
    /// be stored again. Errors don't matter: another one is the cause. Packs that are gone
    /// must be disowned.
    pub fn abandon(mut self) -> Finished {
        if self.join_uploaders().is_ok() {
            let _ = self.shared.write_index(&mut lock(&self.shared.pending));
        }
        self.finished()
    }

    fn finished(&self) -> Finished {
        Finished {
            counts: self.shared.counts(),
            index: lock(&self.shared.pending).written.clone(),
            packs: lock(&self.shared.packs).clone(),
        }
    }

    fn join_uploaders(&mut self) -> Result<()> {
        let (closed, _) = bounded(0);
        drop(std::mem::replace(&mut self.upload, closed));
        let mut result = Ok(());
        for uploader in std::mem::take(&mut self.uploaders) {
            if uploader.join().is_err() {
                result = Err(Error::Invalid("an upload thread panicked; please report it".into()));
            }
        }
        result
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
            if !self.failed.swap(true, Relaxed) {
                *lock(&self.error) = Some(error);
            }
        }
    }

    fn try_store_pack(&self, pack: PackBuilder, claimed: &DashSet<BlobId>) -> Result<()> {
        let (entry, bytes) = pack.finish()?;
        let name = ObjectName::new(ObjectKind::Pack, entry.id);
        object::write(self.repo.store(), &name, &bytes)?;
        self.stored.fetch_add(entry.size, Relaxed);
        self.repo.index().add(&entry);
        for (id, ..) in entry.segments.iter().flat_map(|s| s.blobs()) {
            claimed.remove(&id);
        }
        self.publish(entry)
    }

    /// Notes that a pack shall be named in the index, and names it if it is time for that.
    fn publish(&self, entry: PackEntry) -> Result<()> {
        lock(&self.packs).push((entry.id, entry.size));
        let blobs: usize = entry.segments.iter().map(SegmentEntry::blob_count).sum();
        let mut pending = lock(&self.pending);
        pending.data.packs.push(entry);
        pending.blobs += blobs;
        let due = pending.data.packs.len() >= INDEX_PACKS
            || pending.blobs >= INDEX_BLOBS
            || pending.since.elapsed() >= INDEX_EVERY;
        if due {
            self.still_there(&pending.data)?;
            self.write_index(&mut pending)?;
        }
        Ok(())
    }

    /// A machine that sleeps between storing a pack and naming it in the index
    /// may find that a prune has taken the pack for garbage. That may still happen
    /// until it is named, so whoever has it named looks again in the end.
    fn still_there(&self, data: &IndexData) -> Result<()> {
        let packs: Vec<_> = data.packs.iter().map(|pack| (pack.id, pack.size)).collect();
        match missing_packs(self.repo.store(), &packs)?.first() {
            Some(id) => Err(Error::LostPack(ObjectName::new(ObjectKind::Pack, *id))),
            None => Ok(()),
        }
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

/// Which of these packs are not in the store, or not all of them. Several are looked up at
/// once: one that is far away answers late.
pub fn missing_packs(store: &Store, packs: &[StoredPack]) -> Result<Vec<ObjectId>> {
    let mut doubtful = packs.to_vec();
    if packs.len() > MANY_PACKS {
        let listed = store.list(ObjectKind::Pack)?;
        let listed: HashSet<_> = listed.into_iter().map(|(name, len)| (name.id, len)).collect();
        doubtful.retain(|pack| !listed.contains(pack));
    }
    look_up(store, &doubtful)
}

/// The same, without a listing: on a network drive that may be old.
pub fn look_up(store: &Store, packs: &[StoredPack]) -> Result<Vec<ObjectId>> {
    let missing = Mutex::new(Vec::new());
    workers::for_each(packs, LOOKUPS, |(id, len)| {
        match store.size(&ObjectName::new(ObjectKind::Pack, *id)) {
            Ok(size) if size == *len => {}
            Err(e) if !e.is_not_found() => return Err(e.into()),
            _ => lock(&missing).push(*id),
        }
        Ok(())
    })?;
    Ok(missing.into_inner().unwrap_or_else(|e| e.into_inner()))
}
