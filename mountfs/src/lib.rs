//! The restore drive: snapshots as a read-only file system.
//!
//! [`core`] is the file system without a kernel: names, attributes, handles.
//! [`read`] is where a read on the drive becomes a fetch from the repository.
//! [`fuse`] and [`winfsp`] only translate; [`system`] is the one of them that this system has.
//! [`nfs`] is for every system.

pub mod core;
#[cfg(target_os = "linux")]
mod follow;
/// Where threads run is the system's.
#[cfg(not(target_os = "linux"))]
mod follow {
    pub fn free() {}
}
#[cfg(unix)]
pub mod fuse;
mod idle;
pub mod nfs;
mod options;
mod own;
#[cfg(unix)]
mod point;
mod pool;
pub mod read;
mod report;
#[cfg(windows)]
pub mod winfsp;

#[cfg(unix)]
pub use fuse as system;
#[cfg(windows)]
pub use winfsp as system;

pub use options::MountOptions;
pub use own::OwnDrive;

pub use core::STATUS_FILE;
pub use core::{
    Attr, DriveOptions, Entry, FsError, Ino, Layout, Leaf, LookUp, SnapshotFs, WindowsEntry,
    WindowsMeta, WindowsStream,
};

/// Called with a line about each operation that fails for want of data.
pub type OnError = std::sync::Arc<dyn Fn(&str) + Send + Sync>;
