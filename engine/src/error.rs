//! What can go wrong in the engine.

use crate::format::{BlobId, ObjectName};
use crate::store::{StoreError, StoreErrorKind};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every message names the object or file it is about and, where there is one, the way out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] StoreError),

    #[error("there is no repository at {0} (make one with `tresor init`, or check the path)")]
    NoRepository(String),

    #[error("there is a repository at {0} already; nothing was changed")]
    RepositoryExists(String),

    #[error(
        "wrong password: no key slot of {0} opens with it (a password can't be reset; try another one, or another --password-file)"
    )]
    WrongPassword(String),

    /// The password opens none of those that can be read, and may be that of another one.
    #[error(
        "the password opens no key slot of {place} that can be read, and it may be that of one that can't: {reasons}"
    )]
    UnreadableSlots {
        place: String,
        reasons: String,
        /// Whether there are others, which can be read.
        others: bool,
    },

    #[error("{0} has no key slot left, so it can't be opened; put back a copy of its keys/ folder")]
    NoKeySlot(String),

    /// An object's bytes are not what its name or its authentication says.
    #[error(
        "{object} is damaged: {reason} (`tresor check --read-data` lists what is affected; put the object back from another copy if there is one)"
    )]
    Damaged { object: ObjectName, reason: String },

    #[error(
        "blob {0} is in no pack that the index knows (`tresor check` lists the files it belongs to)"
    )]
    BlobMissing(BlobId),

    /// A prune took it for garbage before the index named it.
    #[error(
        "a prune removed {0}, which this backup had stored, before it was saved (was it suspended for long?), so no snapshot was saved; run the backup again"
    )]
    LostPack(ObjectName),

    #[error("{object} needs {feature}, which this version of tresor doesn't know; use a newer one")]
    Unsupported { object: ObjectName, feature: String },

    #[error("{0}")]
    Snapshot(String),

    #[error("{what}: {error}")]
    Io { what: String, error: std::io::Error },

    /// What is there is not what was seen, see [`setback`](crate::repo::Repository::setback).
    #[error(
        "{0} is not as it was seen before (see above), so nothing was removed: that could not be undone if a newer state turns up; if it shall be taken as it is, say so once with --accept-older-state"
    )]
    OlderState(String),

    #[error("{0}")]
    Invalid(String),

    /// Others were at work; nothing is wrong.
    #[error("{0}")]
    GaveWay(&'static str),

    #[error("interrupted")]
    Interrupted,

    /// What was asked for is not in memory, see [`without_fetching`](crate::repo::without_fetching).
    #[error("not in memory")]
    WouldFetch,
}

impl Error {
    pub fn io(what: impl Into<String>, error: std::io::Error) -> Self {
        Self::Io { what: what.into(), error }
    }

    pub fn damaged(object: ObjectName, reason: impl Into<String>) -> Self {
        Self::Damaged { object, reason: reason.into() }
    }

    /// Whether an object isn't in the store.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Store(e) if e.is_not_found())
    }

    /// Whether the medium couldn't read it now, which doesn't mean that it is lost.
    pub fn is_unreadable_now(&self) -> bool {
        matches!(self, Self::Store(e) if e.kind == StoreErrorKind::Unreadable)
    }

    /// Whether this is about the bytes in the store rather than about reaching it:
    /// other objects may well be readable.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } | Self::BlobMissing(_) => true,
            Self::Store(e) => {
                use StoreErrorKind::{NotFound, TooLong, Truncated, Unreadable};
                matches!(e.kind, NotFound | TooLong | Truncated | Unreadable)
            }
            _ => false,
        }
    }
}
