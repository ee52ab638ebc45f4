//! Packs: where blobs are sealed (`builder.rs`) and opened (`reader.rs`), and
//! where a backup's blobs are gathered into packs (`writer.rs`).

mod builder;
mod reader;
mod writer;

pub use builder::{PackBuilder, Packed, Segment as NewSegment};
pub use reader::{Segment, fetch_table, open_segment, read_table, verify_pack};
pub use writer::{Finished, PackWriter, WriterCounts, look_up, missing_packs};
