//! Why an operation on the drive failed. Adapters translate these in one table each.

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FsError {
    #[error("no such entry")]
    NotFound,
    #[error("not a directory")]
    NotADirectory,
    #[error("is a directory")]
    IsADirectory,
    #[error("not that kind of entry")]
    Invalid,
    #[error("no such extended attribute")]
    NoAttribute,
    /// Longer than the system can show.
    #[error("the extended attribute is too long")]
    AttributeTooLong,
    /// An ACL or security label, of which nothing on the drive has one.
    #[error("the drive has none of these attributes")]
    NoSuchAttributes,
    /// The inode is not known (any more).
    #[error("stale inode")]
    Stale,
    /// See [`without_fetching`](tresor_engine::repo::without_fetching).
    #[error("not in memory")]
    WouldFetch,
    /// The repository could not be read, or what was read is damaged. Concerns
    /// this one operation.
    #[error("{0}")]
    Io(String),
}

impl From<tresor_engine::Error> for FsError {
    fn from(e: tresor_engine::Error) -> Self {
        match e {
            tresor_engine::Error::WouldFetch => Self::WouldFetch,
            e => Self::Io(e.to_string()),
        }
    }
}

pub type FsResult<T> = Result<T, FsError>;
