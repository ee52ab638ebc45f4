//! The tresor repository: its format, and everything that reads and writes it.
//! Prints nothing and reads no environment.

pub mod error;
pub mod format;
pub mod sink;
pub mod source;
pub mod store;

pub use error::{Error, Result};
