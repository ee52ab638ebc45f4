//! Objects by their names.

use crate::error::{Error, Result};
use crate::format::{ObjectId, ObjectName};
use crate::store::Store;

/// What is wrong with an object that was altered.
pub const ALTERED: &str = "its bytes are not what its name says";

/// Stores an object, and looks whether all of it has arrived: stores have been known to
/// report success too early.
pub fn write(store: &Store, name: &ObjectName, bytes: &[u8]) -> Result<()> {
    store.put(name, bytes)?;
    let size = match store.size(name) {
        Ok(size) if size == bytes.len() as u64 => return Ok(()),
        // Others have removed it since; who relies on it looks for it later.
        Err(e) if e.is_not_found() => return Ok(()),
        other => other?,
    };
    // Nobody relies on it yet.
    let _ = store.delete(name);
    let message = format!("only {size} of {} bytes have arrived in the store", bytes.len());
    Err(Error::damaged(*name, message))
}

/// Reads an object and compares its bytes with its name.
pub fn read(store: &Store, name: &ObjectName) -> Result<Vec<u8>> {
    let bytes = store.get(name)?;
    if ObjectId::of(&bytes) == name.id { Ok(bytes) } else { Err(Error::damaged(*name, ALTERED)) }
}
