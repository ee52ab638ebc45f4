//! What tresor needs from each operating system: reading a file tree with all
//! that belongs to it (the engine's `SourceDir`), writing one (`SinkDir`), and
//! a few facts about the machine and this process.
//!
//! `unix/` serves Linux and macOS; another system gets a room of its own beside
//! it that provides the same functions.

mod memory;
mod process;
mod stream;
#[cfg(unix)]
mod unix;

pub use memory::{ALLOCATOR, Allocator};
pub use process::{
    cache_folder, harden_process, host_name, raise_file_limit, state_folder, user_name,
};
pub use stream::stream_source;
#[cfg(unix)]
pub use unix::{absolute_path, open_sink, open_source, source_root};
