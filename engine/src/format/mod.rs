//! Bytes only: how each thing is written down (see docs/format.md). No I/O here.

mod ids;
mod node;
mod snapshot;

pub use ids::{BlobId, NotAnId, ObjectId, ObjectKind, ObjectName};
pub use node::{Content, Extent, ExtentPage, LinkId, Node, NodeKind, Time, Xattr, is_valid_name};
pub use snapshot::{PathBytes, SnapshotData, Summary, display_name};
