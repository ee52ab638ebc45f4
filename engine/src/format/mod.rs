//! Bytes only: how each thing is written down (see docs/format.md). No I/O here.

mod attributes;
mod config;
mod forgotten;
mod ids;
mod left_out;
pub mod macos;
mod node;
mod pack;
mod parity;
pub mod sealed;
mod snapshot;
mod tree;
pub mod windows;

pub use attributes::{
    MOST_STREAM_NAME, MOST_STREAMS, Stream, Value, Xattr, is_stream_name, stream_name,
};
pub use config::{ChunkSizes, Config, ConfigSecret, FORMAT_VERSION, KeySlot, SlotInfo};
pub use forgotten::{Forgotten, ForgottenData};
pub use ids::{BlobId, NotAnId, ObjectId, ObjectKind, ObjectName};
pub use left_out::LeftOut;
pub use node::{
    Content, Extent, ExtentPage, FileIdentity, LinkId, Node, NodeKind, Time, is_valid_name,
};
pub use pack::{
    BLOB_ENTRY, BlobKind, DOOMED, IndexData, MAX_PACK, MAX_PACK_BLOBS, MAX_SEGMENT,
    PACK_HEADER_LEN, PACK_MAGIC, PACK_TRAILER_LEN, PackEntry, PackTable, Piece, SegmentEntry,
};
pub use parity::{
    MAX_PROTECTED, MAX_SHARD, PARITY_FEATURE, ParityShape, ParityShare, ParityTable, SHARD_UNIT,
    ShardHash, shard_hash,
};
pub use sealed::Purpose;
pub use snapshot::{PathBytes, SnapshotData, Summary, display_name, extend_path};
pub use tree::{Branch, ContentPage, TreePage};
