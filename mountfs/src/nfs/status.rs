//! The one table from the drive's errors to those of NFS.

use nfs3_types::mount::mountstat3;
use nfs3_types::nfs3::nfsstat3;

use crate::core::FsError;

/// Why a call fails.
#[derive(Debug, PartialEq, Eq)]
pub enum Problem {
    Fs(FsError),
    /// This user may not.
    Denied,
    /// Something would be changed.
    ReadOnly,
    /// The client has no room for a single entry.
    TooSmall,
    /// The listing that is to go on is no longer what it was.
    BadCookie,
}

impl From<FsError> for Problem {
    fn from(e: FsError) -> Self {
        Self::Fs(e)
    }
}

pub fn status(problem: &Problem) -> nfsstat3 {
    match problem {
        Problem::Denied => nfsstat3::NFS3ERR_ACCES,
        Problem::ReadOnly => nfsstat3::NFS3ERR_ROFS,
        Problem::TooSmall => nfsstat3::NFS3ERR_TOOSMALL,
        Problem::BadCookie => nfsstat3::NFS3ERR_BAD_COOKIE,
        Problem::Fs(error) => match error {
            FsError::NotFound => nfsstat3::NFS3ERR_NOENT,
            FsError::NotADirectory => nfsstat3::NFS3ERR_NOTDIR,
            FsError::IsADirectory => nfsstat3::NFS3ERR_ISDIR,
            FsError::Invalid => nfsstat3::NFS3ERR_INVAL,
            FsError::AttributeTooLong | FsError::NoAttribute | FsError::NoSuchAttributes => {
                nfsstat3::NFS3ERR_NOTSUPP
            }
            FsError::Stale => nfsstat3::NFS3ERR_STALE,
            FsError::Io(_) | FsError::WouldFetch => nfsstat3::NFS3ERR_IO,
        },
    }
}

/// The same for a client that mounts.
pub fn mount_status(problem: &Problem) -> mountstat3 {
    match problem {
        Problem::Fs(FsError::NotFound | FsError::Stale) => mountstat3::MNT3ERR_NOENT,
        Problem::Fs(FsError::NotADirectory) => mountstat3::MNT3ERR_NOTDIR,
        Problem::Fs(FsError::Io(_) | FsError::WouldFetch) => mountstat3::MNT3ERR_IO,
        Problem::Denied => mountstat3::MNT3ERR_ACCES,
        _ => mountstat3::MNT3ERR_INVAL,
    }
}
