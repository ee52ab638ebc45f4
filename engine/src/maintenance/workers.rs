//! Many objects looked at by a few threads, and what the errors of that mean.

use crate::error::{Error, Result};
use crate::store::StoreErrorKind;

/// Does `work` for each item, on every core. Ends with the first error.
pub(super) fn for_each<T: Sync>(
    items: &[T],
    work: impl Fn(&T) -> Result<()> + Send + Sync,
) -> Result<()> {
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get()).clamp(2, 8);
    crate::workers::for_each(items, workers, work)
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

/// What is wrong with an object that is named beside it.
pub(super) fn reason(error: Error) -> String {
    match error {
        Error::Damaged { reason, .. } => reason,
        error => error.to_string(),
    }
}
