//! The drive for Windows, through WinFsp: a driver and a DLL that the user installs.

mod access;
mod adapter;
mod library;
mod mount;
mod ntstatus;
mod signal;
mod walk;

pub use mount::{
    MountError, MountOptions, Mounted, drive_root, is_drive, mount, mount_point, unmount,
};

/// Called with a line about each operation that fails for want of data.
pub type OnError = std::sync::Arc<dyn Fn(&str) + Send + Sync>;
