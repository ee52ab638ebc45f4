//! The one table from the drive's errors to NTSTATUS.

use winfsp::FspError;

use crate::core::FsError;

const fn status(number: u32) -> FspError {
    FspError::NTSTATUS(number.cast_signed())
}

/// What every change is answered with.
pub(super) const READ_ONLY: FspError = status(0xc000_00a2);
pub(super) const END_OF_FILE: FspError = status(0xc000_0011);
pub(super) const NO_LINK: FspError = status(0xc000_0275);
pub(super) const BUFFER_TOO_SMALL: FspError = status(0xc000_0023);
pub(super) const BUFFER_OVERFLOW: FspError = status(0x8000_0005);

pub(super) fn ntstatus(error: &FsError) -> FspError {
    status(match error {
        FsError::NotFound => 0xc000_0034,
        FsError::NotADirectory => 0xc000_0103,
        FsError::IsADirectory => 0xc000_00ba,
        FsError::Invalid => 0xc000_0010,
        FsError::AttributeTooLong => 0xc000_0904,
        FsError::NoAttribute | FsError::NoSuchAttributes => 0xc000_0052,
        FsError::Stale => 0xc000_0128,
        FsError::Io(_) | FsError::WouldFetch => 0xc000_009c,
    })
}
