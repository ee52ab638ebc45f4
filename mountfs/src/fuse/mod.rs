//! FUSE: translates the kernel's requests into calls of [`SnapshotFs`], and
//! nothing else. Requests that must fetch run on a pool, so that none waits for another.

mod adapter;
mod errno;
mod mount;

pub use mount::{
    MountError, MountOptions, Mounted, drive_root, is_drive, mount, mount_point, unmount,
};
pub(crate) use mount::{leave_if_unused, prepare};
