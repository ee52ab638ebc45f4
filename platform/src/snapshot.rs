//! A source that is held still while a backup reads it: a snapshot that the system makes
//! of its volumes, such as a shadow copy of Windows. docs/decisions/0010-source-snapshots.md

use std::sync::Arc;

use tresor_engine::format::PathBytes;
use tresor_engine::source::SourceDir;

/// A snapshot of the volumes that were asked for. Dropped, it is given up and removed:
/// what the backup has read is taken to be lost.
pub trait SourceSnapshot {
    /// The whole machine, as [`crate::source_root`] gives it. Paths are those of the living
    /// volumes, and what is held still is read from its snapshot.
    fn root(&self) -> Arc<dyn SourceDir>;

    /// What is held still, for people: `C:`.
    fn held(&self) -> &[String];

    /// What of that which was asked for is not held still, and why.
    fn not_held(&self) -> &[Problem];

    /// The backup has read everything. The programs that hold their files still are told so,
    /// and the snapshot is removed. Returns what went wrong with any of them, from the beginning.
    fn finish(self: Box<Self>) -> Vec<Problem>;
}

/// Something that went wrong with one part; the rest goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub what: String,
    pub message: String,
}

/// Why there is no snapshot of the source.
#[derive(Debug, thiserror::Error)]
pub enum NoSnapshot {
    /// Nothing is known of snapshots on this system.
    #[error("tresor can't make a snapshot of what it saves on this system")]
    Unknown,
    /// It can't be here, or not for this user.
    #[error("{0}")]
    Unavailable(String),
    /// It should be possible, and failed.
    #[error("{0}")]
    Failed(String),
    /// It was told to stop.
    #[error("interrupted")]
    Stopped,
}

/// What is to be held still.
pub struct Wanted<'a> {
    /// As a backup records them: absolute, `/C/Users` on Windows.
    pub paths: &'a [&'a [u8]],
    /// Whether the system is to be able to start from it.
    pub system_state: bool,
    /// Whether other file systems that are mounted below the paths are left out.
    pub one_file_system: bool,
    /// Whether there is no backup without.
    pub required: bool,
    /// Asked now and then; making a snapshot takes up to minutes.
    pub stop: &'a dyn Fn() -> bool,
}

/// Where what makes up the system lies.
pub struct SystemState {
    /// As a backup records them; saved whole, they have all but what is elsewhere.
    pub volumes: Vec<PathBytes>,
    /// Folders that no path leads to, as the system names them.
    pub elsewhere: Vec<String>,
}
