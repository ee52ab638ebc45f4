//! Where a read on the drive becomes a fetch: a file's range is split along its
//! chunk list, each chunk comes out of the block cache, and the block cache
//! reads, decrypts and decompresses what it doesn't hold.

mod blocks;
mod file;
mod prefetch;

pub use blocks::{Block, BlockCache, BlockCounts};
pub use file::{FileReader, Piece};
pub use prefetch::Prefetcher;
