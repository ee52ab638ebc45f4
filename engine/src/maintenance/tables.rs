//! What packs' own tables say, to be compared with what the index says of the packs.

use std::collections::{HashMap, HashSet};

use super::workers::stops;
use crate::error::Result;
use crate::format::{ObjectId, PackEntry};
use crate::index::read_object;
use crate::repo::Repository;

/// What a table says, in short.
pub(super) type Digest = [u8; 32];

pub(super) fn digest(entry: &PackEntry) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&entry.salt).update(&entry.size.to_le_bytes());
    for segment in &entry.segments {
        hasher.update(&[segment.kind as u8]).update(&segment.sealed_len.to_le_bytes());
        hasher.update(&(segment.blobs.len() as u64).to_le_bytes()).update(&segment.blobs);
    }
    hasher.finalize().into()
}

/// Tables that were read: of each only the digest is kept.
#[derive(Default)]
pub(super) struct Tables(HashMap<ObjectId, Digest>);

impl Tables {
    pub fn insert(&mut self, table: &PackEntry) {
        self.0.insert(table.id, digest(table));
    }

    pub fn get(&self, pack: &ObjectId) -> Option<&Digest> {
        self.0.get(pack)
    }

    /// Packs of which index objects say what their tables don't.
    pub fn contradicted(&self, repo: &Repository) -> Result<HashSet<ObjectId>> {
        let mut wrong = HashSet::new();
        if self.0.is_empty() {
            return Ok(wrong);
        }
        for id in repo.index().objects() {
            let data = match read_object(repo.store(), repo.keys(), &id) {
                Ok(data) => data,
                Err(e) if stops(&e) => return Err(e),
                // A prune has replaced it, or it is damaged since it was taken up.
                Err(_) => continue,
            };
            let is_wrong = |p: &&PackEntry| self.get(&p.id).is_some_and(|own| *own != digest(p));
            wrong.extend(data.packs.iter().filter(is_wrong).map(|p| p.id));
        }
        Ok(wrong)
    }
}
