//! Parity: what an object with damaged sectors is made whole with, without any other
//! copy of it. It is made from the object's bytes as they lie in the store, so that who
//! has no key can mend, too; and the hash that an object is named by decides whether
//! what comes out is that object.

mod code;
mod guard;
mod mend;

pub use guard::{Guarded, OnMended};
pub use mend::{Unmendable, Whole, mend};

use crate::error::{Error, Result};
use crate::format::{
    MAX_PROTECTED, ObjectId, ParityShape, ParityShare, ParityTable, ShardHash, shard_hash,
};
use crate::store::{StoreError, StoreErrorKind};

/// Errors that tell of damage to one object.
fn is_damage(error: &StoreError) -> bool {
    matches!(error.kind, StoreErrorKind::Truncated | StoreErrorKind::Unreadable)
}

/// Makes the parity object of an object with these bytes.
pub fn make(bytes: &[u8], share: ParityShare) -> Result<Vec<u8>> {
    if bytes.len() as u64 > MAX_PROTECTED {
        return Err(Error::Invalid(format!(
            "an object of {} bytes is longer than what parity is made for",
            bytes.len()
        )));
    }
    let id = ObjectId::of(bytes);
    let shape = ParityShape::new(id, bytes.len() as u64, share);
    let parity = code::encode(&shape, bytes)
        .map_err(|e| Error::Invalid(format!("can't make parity: {e}; please report it")))?;
    let mut hashes = hashes_of(&shape, bytes);
    hashes.extend(parity.chunks(shape.shard).map(shard_hash));
    let table = shape.table(&hashes);
    Ok([&table[..], &parity, &table].concat())
}

/// How long the parity is that is made of an object of this length, if any is.
pub fn len_for(len: u64, share: ParityShare) -> Option<u64> {
    (len <= MAX_PROTECTED)
        .then(|| ParityShape::new(ObjectId([0; 32]), len, share).total_len() as u64)
}

/// Hashes of an object's shards, of which the last is filled up with zeros.
fn hashes_of(shape: &ParityShape, bytes: &[u8]) -> Vec<ShardHash> {
    let mut hashes: Vec<_> = bytes.chunks_exact(shape.shard).map(shard_hash).collect();
    if hashes.len() < shape.originals() {
        let mut last = bytes[hashes.len() * shape.shard..].to_vec();
        last.resize(shape.shard, 0);
        hashes.push(shard_hash(&last));
    }
    hashes
}

/// Whether a parity object is whole, without looking at the object it is for; what is
/// wrong with it, if not. Without `object` it may be for any (the config's has no hash in
/// its name).
pub fn verify(parity: &[u8], object: Option<ObjectId>) -> Result<(), String> {
    let Some(ParityTable { shape, hashes }) = ParityTable::find(parity, object) else {
        let of_another = object.is_some() && ParityTable::find(parity, None).is_some();
        let nothing = "nothing of its table of hashes is left";
        return Err(if of_another { "it is of other bytes" } else { nothing }.into());
    };
    if parity.len() != shape.total_len() {
        return Err(format!("it is {} bytes long and must be {}", parity.len(), shape.total_len()));
    }
    let shards = shape.shards_at()..shape.total_len() - shape.shards_at();
    let of_parity = &hashes[shape.originals()..];
    let damaged = parity[shards.clone()].chunks(shape.shard).zip(of_parity);
    let damaged = damaged.filter(|(shard, hash)| Some(shard_hash(shard)) != **hash).count();
    if damaged > 0 {
        return Err(format!("{damaged} of its {} pieces are damaged", shape.parity));
    }
    let known: Option<Vec<_>> = hashes.into_iter().collect();
    let table = known.map(|hashes| shape.table(&hashes));
    let is_table = |bytes: &[u8]| table.as_deref() == Some(bytes);
    if is_table(&parity[..shards.start]) && is_table(&parity[shards.end..]) {
        Ok(())
    } else {
        Err("a copy of its table of hashes is damaged".into())
    }
}
