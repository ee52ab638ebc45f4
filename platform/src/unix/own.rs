//! What macOS has beyond attributes, modes and times. Here there is none of it: `macos.rs` has
//! the same functions.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::Stat;
use rustix::io::Errno;
use tresor_engine::format::Node;
use tresor_engine::sink::MetadataProblem;

use super::handle::Handle;

/// Whether attributes of this name are kept by other calls than those for attributes.
pub(super) fn has_own_calls(_: &[u8]) -> bool {
    false
}

/// Takes away what keeps an entry from being changed.
pub(super) fn unlock(_: &Handle<'_>, _: &Stat) {}

/// The same for a directory that is open.
pub(super) fn unlock_dir(_: BorrowedFd<'_>, _: &Stat) {}

/// Sets what is not to be set before the times.
pub(super) fn apply(_: &Handle<'_>, _: &Node, _: &mut Vec<MetadataProblem>) {}

/// Sets what lets nothing be changed any more; nor may the entry be renamed then.
pub(super) fn seal(_: &Handle<'_>, _: &Node, _: &mut Vec<MetadataProblem>) {}

/// Does something to the entry `name` that goes with it, also if it is locked.
pub(super) fn insist<T>(
    _: BorrowedFd<'_>,
    _: &[u8],
    mut op: impl FnMut() -> Result<T, Errno>,
) -> Result<T, Errno> {
    op()
}

/// Does something to the entry `name`, which stays as it is, also if it is locked.
pub(super) fn unlocked<T>(
    _: BorrowedFd<'_>,
    _: &[u8],
    mut op: impl FnMut() -> Result<T, Errno>,
) -> Result<T, Errno> {
    op()
}

/// Forces all that was written to the file system of a directory to its disk.
pub(super) fn force(dir: BorrowedFd<'_>) -> io::Result<()> {
    match rustix::fs::syncfs(dir) {
        // Not every kernel and sandbox has it.
        Err(Errno::NOSYS | Errno::INVAL | Errno::NOTSUP) => {
            rustix::fs::sync();
            Ok(())
        }
        other => Ok(other?),
    }
}
