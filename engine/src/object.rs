//! Objects by their names.

use crate::error::{Error, Result};
use crate::format::{ObjectId, ObjectKind, ObjectName};
use crate::store::{Store, StoreError, StoreErrorKind};

/// What is wrong with an object that was altered.
pub const ALTERED: &str = "its bytes are not what its name says";

/// Stores an object, and looks whether all of it has arrived: stores have been known to
/// report success too early.
pub fn write(store: &Store, name: &ObjectName, bytes: &[u8]) -> Result<()> {
    store.put(name, bytes)?;
    match has_arrived(store, name, bytes) {
        Ok(true) => Ok(()),
        Err(e) if e.is_not_found() && may_vanish(name.kind) => Ok(()),
        Err(e) => Err(e.into()),
        Ok(false) => {
            // Nobody relies on it yet.
            let _ = store.delete(name);
            Err(cut_off(name, bytes).into())
        }
    }
}

/// Puts an object in the place of one whose bytes are wrong, and looks whether all of it has
/// arrived. What is there then is perhaps all there is of it, so it is tried twice.
pub fn replace(store: &Store, name: &ObjectName, bytes: &[u8]) -> Result<(), StoreError> {
    for _ in 0..2 {
        store.replace(name, bytes)?;
        if has_arrived(store, name, bytes)? {
            return Ok(());
        }
    }
    Err(cut_off(name, bytes))
}

pub fn has_arrived(store: &Store, name: &ObjectName, bytes: &[u8]) -> Result<bool, StoreError> {
    Ok(store.size(name)? == bytes.len() as u64)
}

/// Prunes replace index objects and remove packs. Who relies on such a one looks for it
/// later; nobody does so for other kinds.
pub fn may_vanish(kind: ObjectKind) -> bool {
    matches!(kind, ObjectKind::Index | ObjectKind::Pack)
}

fn cut_off(name: &ObjectName, bytes: &[u8]) -> StoreError {
    let message = format!("only a part of its {} bytes has arrived", bytes.len());
    StoreError::new(StoreErrorKind::Other, "write", name.path(), message)
}

/// Reads an object and compares its bytes with its name.
pub fn read(store: &Store, name: &ObjectName) -> Result<Vec<u8>> {
    let bytes = store.get(name)?;
    if ObjectId::of(&bytes) == name.id { Ok(bytes) } else { Err(Error::damaged(*name, ALTERED)) }
}
