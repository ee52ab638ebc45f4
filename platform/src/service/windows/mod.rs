//! Services of Windows' service manager. They run as the system's own account, and so does a
//! drive of theirs: it is there before anybody has logged on, and for everybody who may read it.

mod events;
mod manager;
mod secret;
mod serve;

pub(super) use events::report;
pub(super) use manager::Manager;
pub use serve::serve;
pub(crate) use serve::{ended, is_service, ready};

/// Ends with a zero.
fn wide(text: &std::ffi::OsStr) -> Vec<u16> {
    std::os::windows::ffi::OsStrExt::encode_wide(text).chain([0]).collect()
}
