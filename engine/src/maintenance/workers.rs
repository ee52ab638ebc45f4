//! Many objects looked at by a few threads, and what the errors of that mean.

use crate::error::{Error, Result};
use crate::store::StoreErrorKind;
use crate::workers::{Room, for_each_within};

/// Most bytes of objects in memory at once: several packs as they usually are.
pub(super) const BYTES: u64 = 128 << 20;

/// Does `work` for each item, on every core as far as memory goes: an item takes so many
/// `bytes`. Ends with the first error.
pub(super) fn for_each<T: Sync>(
    items: &[T],
    bytes: impl Fn(&T) -> u64 + Sync,
    work: impl Fn(&T) -> Result<()> + Send + Sync,
) -> Result<()> {
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get()).clamp(2, 8);
    for_each_within(items, workers, Room { bytes: BYTES, of: &bytes }, work)
}

/// What an object takes that is read whole.
pub(super) fn size_of<N>((_, size): &(N, u64)) -> u64 {
    *size
}

/// Errors that say nothing about one object, but that nothing more can be learnt.
pub(super) fn stops(error: &Error) -> bool {
    use StoreErrorKind::{NoSpace, Other, PermissionDenied, ReadOnly};
    match error {
        Error::Interrupted | Error::Io { .. } => true,
        Error::Store(e) => matches!(e.kind, Other | NoSpace | PermissionDenied | ReadOnly),
        _ => false,
    }
}

/// Whether an object that couldn't be read must not be removed, by another look at it: it can be
/// read, or the medium can't read it now. In that case it may be able to later, or on another
/// machine, or what is on it may be copied: so the object is not lost.
pub(super) fn must_stay<T>(read: Result<T>) -> Result<bool> {
    match read {
        Err(e) if stops(&e) => Err(e),
        Err(e) => Ok(e.is_unreadable_now()),
        Ok(_) => Ok(true),
    }
}

/// What is wrong with an object that is named beside it.
pub(super) fn reason(error: Error) -> String {
    match error {
        Error::Damaged { reason, .. } => reason,
        error => error.to_string(),
    }
}
