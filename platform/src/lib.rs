//! What tresor needs from each operating system: reading a file tree with all
//! that belongs to it (the engine's `SourceDir`), holding it still meanwhile
//! (`SourceSnapshot`), writing one (`SinkDir`), a few facts about the machine and this
//! process, and what the system starts by itself.
//!
//! `unix/` serves Linux and macOS, `windows/` provides the same functions there.

mod kept;
mod memory;
pub mod not_to_backup;
mod passing;
mod process;
pub mod service;
mod snapshot;
mod stamp;
mod stream;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

pub use kept::Kept;
pub use memory::{ALLOCATOR, Allocator};
#[cfg(unix)]
pub use process::hangup_is_ignored;
pub use process::{
    cache_folder, detach, harden_process, host_name, leave_streams, leave_terminal,
    raise_file_limit, state_folder, user_name,
};
pub use snapshot::{NoSnapshot, Problem, SourceSnapshot, SystemState, Wanted};
pub use stream::stream_source;
#[cfg(unix)]
pub use unix::{
    absolute_path, hold_source, open_sink, open_sink_keeping, open_source, recorded_path,
    source_root, system_rules, system_state,
};
#[cfg(windows)]
pub use windows::{
    absolute_path, hold_source, on_console_stop, open_sink, open_sink_keeping, open_source,
    recorded_path, source_root, system_rules, system_state,
};
