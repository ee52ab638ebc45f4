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
    /// The inode or handle is not known (any more).
    #[error("stale inode or handle")]
    Stale,
    /// The repository could not be read, or what was read is damaged. Concerns
    /// this one operation.
    #[error("{0}")]
    Io(String),
}

impl From<tresor_engine::Error> for FsError {
    fn from(e: tresor_engine::Error) -> Self {
        Self::Io(e.to_string())
    }
}

pub type FsResult<T> = Result<T, FsError>;
