//! Where objects lie. A store knows nothing of keys or contents: it keeps
//! named runs of bytes that never change.

mod disk;
mod kept;
mod local;
mod memory;

use std::sync::Arc;

pub use disk::{Disk, OsDisk};
pub use local::LocalStore;
pub use memory::MemoryStore;

use crate::format::{ObjectKind, ObjectName, Time};

/// A place for objects. Calls come from many threads at once, and may be slow or fail.
pub trait ObjectStore: Send + Sync {
    /// Stores an object whole or not at all. An object that is there already
    /// is left alone (names are hashes), except the config, where it is an error: of several
    /// who store it at once, one succeeds.
    /// After [`settle`](Self::settle) returned, the object survives a power loss.
    fn put(&self, name: &ObjectName, data: &[u8]) -> Result<(), StoreError>;

    /// Puts an object in the place of one whose bytes are wrong. At any time one of the
    /// two is there, whole or as it was.
    fn replace(&self, name: &ObjectName, data: &[u8]) -> Result<(), StoreError>;

    /// The whole object. One that is longer than its kind may be
    /// ([`ObjectKind::max_len`]) is the error [`StoreErrorKind::TooLong`], and is not read.
    fn get(&self, name: &ObjectName) -> Result<Vec<u8>, StoreError>;

    /// `len` bytes from `offset`; fewer is the error [`StoreErrorKind::Truncated`].
    fn get_range(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Vec<u8>, StoreError>;

    /// The bytes that an object must have, for whoever was given wrong ones. `None` if the
    /// store has nothing to make them from.
    fn mended(&self, _: &ObjectName) -> Option<Arc<Vec<u8>>> {
        None
    }

    /// Length in bytes.
    fn size(&self, name: &ObjectName) -> Result<u64, StoreError>;

    /// Every whole object of a kind with its length, in any order. Files that
    /// are no objects are passed over.
    fn list(&self, kind: ObjectKind) -> Result<Vec<(ObjectName, u64)>, StoreError>;

    /// Removes an object; one that isn't there is no error.
    fn delete(&self, name: &ObjectName) -> Result<(), StoreError>;

    /// Makes every earlier `put` and `delete` of this process survive a power loss,
    /// and whatever a listing showed of the index and the snapshots, whoever did that.
    fn settle(&self) -> Result<(), StoreError>;

    /// Like [`settle`](Self::settle), and for packs that others have stored, who may have
    /// crashed before they settled.
    fn settle_all(&self) -> Result<(), StoreError> {
        self.settle()
    }

    /// Of the objects of a kind those that came here at `time` or later, by the store's
    /// own clock. Who can't tell gives all of them: one too many does no harm.
    fn added_since(&self, kind: ObjectKind, time: Time) -> Result<Vec<ObjectName>, StoreError> {
        let _ = time;
        Ok(self.list(kind)?.into_iter().map(|(name, _)| name).collect())
    }

    /// The store's own clock, if it has one and lets it be read: the same for all who
    /// use the store, whatever their own clocks say.
    fn clock(&self) -> Option<Time> {
        None
    }

    /// Removes what interrupted `put`s left behind, if older than `age` by the store's
    /// clock. Returns how many files and bytes.
    fn sweep(&self, age: std::time::Duration) -> Result<(u64, u64), StoreError>;

    /// Prepares an empty place for a repository; an error if something is there but key slots,
    /// which an interrupted init may have left: whose they are is not known here.
    fn create(&self) -> Result<(), StoreError>;

    /// Makes folders anew that the repository has lost; which ones.
    fn make_folders(&self) -> Result<Vec<ObjectKind>, StoreError> {
        Ok(Vec::new())
    }

    /// Free and total bytes of the place, if it knows.
    fn space(&self) -> Option<(u64, u64)> {
        None
    }

    /// The place in words, for messages.
    fn describe(&self) -> String;
}

pub type Store = Arc<dyn ObjectStore>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreErrorKind {
    NotFound,
    AlreadyExists,
    Truncated,
    TooLong,
    NoSpace,
    PermissionDenied,
    ReadOnly,
    /// The medium can't give the bytes back (a bad sector).
    Unreadable,
    Other,
}

/// A call to a store failed.
#[derive(Debug, thiserror::Error)]
#[error("{op} {what}: {message}{}", hint(*kind))]
pub struct StoreError {
    pub kind: StoreErrorKind,
    /// `"read"`, `"write"`, `"list"`, `"delete"`, …
    pub op: &'static str,
    /// Full path or address of what the call was about.
    pub what: String,
    pub message: String,
}

fn hint(kind: StoreErrorKind) -> &'static str {
    match kind {
        StoreErrorKind::NoSpace => {
            " (the repository's disk is full: make a few megabytes of room there: `tresor forget` and `tresor prune` can then free more; then run this again. Nothing already saved is lost)"
        }
        StoreErrorKind::ReadOnly => " (the repository's file system is mounted read-only)",
        StoreErrorKind::Unreadable => {
            " (the disk can't read it now: a bad sector or a bad cable; it doesn't count as lost. Copy the repository to another disk as far as it can be read, and go on there)"
        }
        StoreErrorKind::PermissionDenied => " (check who owns the repository's files)",
        _ => "",
    }
}

/// EIO, and on Windows ERROR_CRC.
const BAD_SECTOR: i32 = if cfg!(windows) { 23 } else { 5 };

impl StoreError {
    pub fn new(
        kind: StoreErrorKind,
        op: &'static str,
        what: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self { kind, op, what: what.into(), message: message.into() }
    }

    pub fn io(op: &'static str, what: impl Into<String>, error: &std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        let kind = match error.kind() {
            _ if error.raw_os_error() == Some(BAD_SECTOR) => StoreErrorKind::Unreadable,
            K::NotFound => StoreErrorKind::NotFound,
            K::AlreadyExists => StoreErrorKind::AlreadyExists,
            K::UnexpectedEof => StoreErrorKind::Truncated,
            K::StorageFull | K::QuotaExceeded => StoreErrorKind::NoSpace,
            K::PermissionDenied => StoreErrorKind::PermissionDenied,
            K::ReadOnlyFilesystem => StoreErrorKind::ReadOnly,
            _ => StoreErrorKind::Other,
        };
        Self::new(kind, op, what, error.to_string())
    }

    /// `len` is more than such an object can have.
    pub fn too_long(what: impl Into<String>, kind: ObjectKind, len: u64) -> Self {
        let (noun, most) = (kind.noun(), kind.max_len());
        let message = format!("it has {len} bytes, and a {noun} has at most {most}");
        Self::new(StoreErrorKind::TooLong, "read", what, message)
    }

    pub fn is_not_found(&self) -> bool {
        self.kind == StoreErrorKind::NotFound
    }
}
