//! The one table from the drive's errors to errno.

use fuser::Errno;

use crate::core::FsError;

pub(super) fn errno(error: &FsError) -> Errno {
    match error {
        FsError::NotFound => Errno::ENOENT,
        FsError::NotADirectory => Errno::ENOTDIR,
        FsError::IsADirectory => Errno::EISDIR,
        FsError::Invalid => Errno::EINVAL,
        FsError::NoAttribute => Errno::NO_XATTR,
        FsError::AttributeTooLong => Errno::E2BIG,
        FsError::NoSuchAttributes => Errno::EOPNOTSUPP,
        FsError::Stale => Errno::ESTALE,
        FsError::Io(_) | FsError::WouldFetch => Errno::EIO,
    }
}
