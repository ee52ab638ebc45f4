//! Looking after a repository: what is reachable, check, prune, retention.

mod reach;

pub use reach::{Reached, walk_reachable};
