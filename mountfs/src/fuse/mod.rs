//! FUSE: translates the kernel's requests into calls of [`SnapshotFs`](crate::SnapshotFs). On Linux
//! `linux/` takes them from the kernel, on macOS fuser (`adapter.rs`); `drive.rs` is for both. Requests
//! that must fetch run on a pool, but for one at a time, so that none waits for another.

#[cfg(any(target_os = "macos", test))]
mod adapter;
mod drive;
mod errno;
#[cfg(not(target_os = "macos"))]
mod linux;
#[cfg(target_os = "macos")]
mod macfuse;
#[cfg(any(target_os = "macos", test))]
mod macfuse_options;
#[cfg(target_os = "macos")]
mod macos;
mod mount;

#[cfg(not(target_os = "macos"))]
use linux as host;
#[cfg(target_os = "macos")]
use macos as host;
pub use mount::{Mounted, mount};

pub(crate) use crate::point::Mount;
pub use crate::point::{MountError, drive_root, is_drive, mount_point, unmount};
