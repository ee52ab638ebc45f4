//! One file for each command: its `Args`, and `run`, which carries it out.

pub mod backup;
pub mod cat;
pub mod check;
pub mod completions;
pub mod diff;
pub mod find;
pub mod forget;
pub mod init;
pub mod key;
pub mod ls;
pub mod mount;
pub mod prune;
pub mod repair;
pub mod restore;
pub mod scrub;
pub mod service;
pub mod snapshots;
pub mod stats;
pub mod umount;
pub mod versions;
