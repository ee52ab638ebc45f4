//! Directories: read page by page (`reader.rs`) and written page by page (`writer.rs`), into
//! packs (`sink.rs`).

mod reader;
mod sink;
mod writer;

pub use crate::format::{Branch, TreePage};
pub(crate) use reader::{Bounds, Told};
pub use reader::{Entries, NodeAt, entries, entries_from, entry_count, lookup, position, resolve};
pub use sink::TreeSink;
pub use writer::{BlobSink, DirWriter, Entry};
