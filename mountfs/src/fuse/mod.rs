//! FUSE: translates the kernel's requests into calls of [`SnapshotFs`], and
//! nothing else. Requests that must fetch run on a pool, so that none waits for another.

mod adapter;
mod errno;
mod mount;

pub use crate::point::{MountError, drive_root, is_drive, mount_point, unmount};
pub use mount::{MountOptions, Mounted, mount};
