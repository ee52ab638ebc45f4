//! The drive for Windows, through WinFsp: a driver and a DLL that the user installs.

mod access;
mod adapter;
mod library;
mod mount;
mod ntstatus;
mod signal;
mod walk;

pub(crate) use mount::Mount;
pub use mount::{MountError, Mounted, drive_root, is_drive, mount, mount_point, unmount};
