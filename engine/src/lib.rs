//! The tresor repository: its format, and everything that reads and writes it.
//! Prints nothing and reads no environment.

pub mod archiver;
mod cache;
pub mod chunker;
pub mod coming;
pub mod compress;
pub mod contents;
pub mod crypto;
pub mod error;
pub mod exclude;
pub mod format;
pub mod history;
pub mod index;
mod large_pages;
pub mod maintenance;
pub mod monitor;
pub mod naming;
mod object;
pub mod pack;
pub mod padding;
pub mod parity;
pub mod repo;
pub mod restorer;
pub mod select;
pub mod sink;
pub mod source;
pub mod store;
pub mod tree;
mod workers;

pub use error::{Error, Result};
