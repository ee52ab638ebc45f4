//! How much there is.

use super::reach::{At, Reached, walk_reachable};
use super::used::{Inserted, UsedBlobs};
use crate::error::{Error, Result};
use crate::format::{BlobId, BlobKind, ObjectKind};
use crate::repo::{Repository, Snapshot};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub snapshots: u64,
    /// Entries and files of all these snapshots, each counted in each snapshot.
    pub entries: u64,
    pub files: u64,
    /// What restoring each of them would write into files; streams are not counted.
    pub restore_bytes: u64,
    /// Different blobs that they need, and their plaintext bytes.
    pub blobs: u64,
    pub blob_bytes: u64,
    /// All objects in the store, also what only other snapshots need.
    pub stored_bytes: u64,
    pub packs: u64,
    pub index_objects: u64,
    pub parity_objects: u64,
    /// Their length, part of `stored_bytes`.
    pub parity_bytes: u64,
}

pub fn stats(repo: &Repository, snapshots: &[Snapshot]) -> Result<Stats> {
    let mut stats = Stats { snapshots: snapshots.len() as u64, ..Stats::default() };
    // They may be newer than the index at hand.
    repo.index().sync_checked(repo.store(), repo.keys())?;
    let used = UsedBlobs::new(repo.index(), |_| false);
    let mut walk = Walk { used, stats: &mut stats };
    for snapshot in snapshots {
        walk_reachable(repo, &snapshot.data.tree, &mut walk)?;
        let summary = &snapshot.data.summary;
        let add = |sum: &mut u64, n: u64| *sum = sum.saturating_add(n);
        add(&mut walk.stats.files, summary.files);
        add(&mut walk.stats.entries, summary.entries());
        add(&mut walk.stats.restore_bytes, summary.bytes);
    }
    for kind in ObjectKind::ALL {
        if kind == ObjectKind::Config {
            stats.stored_bytes += repo.store().size(&crate::format::ObjectName::CONFIG)?;
            continue;
        }
        let listed = repo.store().list(kind)?;
        let bytes = listed.iter().map(|(_, size)| size).sum::<u64>();
        stats.stored_bytes += bytes;
        match kind {
            ObjectKind::Parity => {
                stats.parity_objects = listed.len() as u64;
                stats.parity_bytes = bytes;
            }
            ObjectKind::Pack => stats.packs = listed.len() as u64,
            ObjectKind::Index => stats.index_objects = listed.len() as u64,
            _ => {}
        }
    }
    Ok(stats)
}

struct Walk<'a> {
    used: UsedBlobs,
    stats: &'a mut Stats,
}

impl Reached for Walk<'_> {
    fn blob(&mut self, _: BlobKind, id: &BlobId, _: At<'_>) -> Result<bool> {
        match self.used.insert(id) {
            Inserted::New(_, len) => {
                self.stats.blobs += 1;
                self.stats.blob_bytes += u64::from(len);
                Ok(true)
            }
            Inserted::Before(_) => Ok(false),
            Inserted::Unknown => Err(Error::BlobMissing(*id)),
        }
    }
}
