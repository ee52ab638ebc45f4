//! Objects by their names.

use crate::error::{Error, Result};
use crate::format::{ObjectId, ObjectName};
use crate::store::Store;

/// What is wrong with an object that was altered.
pub const ALTERED: &str = "its bytes are not what its name says";

/// Reads an object and compares its bytes with its name.
pub fn read(store: &Store, name: &ObjectName) -> Result<Vec<u8>> {
    let bytes = store.get(name)?;
    if ObjectId::of(&bytes) == name.id { Ok(bytes) } else { Err(Error::damaged(*name, ALTERED)) }
}
