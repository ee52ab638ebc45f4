//! How long operations tell what they are doing and can be stopped.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::error::{Error, Result};

/// Counters of a running operation, read by whoever draws a progress line.
#[derive(Default)]
pub struct Progress {
    /// Entries done and expected (0: not known).
    pub entries: AtomicU64,
    pub entries_total: AtomicU64,
    /// Bytes done and expected (0: not known).
    pub bytes: AtomicU64,
    pub bytes_total: AtomicU64,
    /// Set by whoever wants the operation to stop soon.
    pub stop: AtomicBool,
}

impl Progress {
    pub fn add(&self, entries: u64, bytes: u64) {
        self.entries.fetch_add(entries, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub fn expect(&self, entries: u64, bytes: u64) {
        self.entries_total.store(entries, Relaxed);
        self.bytes_total.store(bytes, Relaxed);
    }

    /// An error once a stop was asked for.
    pub fn check(&self) -> Result<()> {
        if self.stop.load(Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// What an operation reports while it runs. Called from several threads.
pub trait Monitor: Send + Sync {
    fn progress(&self) -> &Progress;

    /// Something went wrong with one entry; the operation goes on.
    /// `path` is for people.
    fn problem(&self, path: &str, message: &str);

    /// One entry was dealt with: `action` is a stable word such as `new`,
    /// `changed`, `unchanged`, `restored`.
    fn entry(&self, _action: &'static str, _path: &dyn Fn() -> String) {}

    /// One entry is left out: by a rule of the system, and `why` says where that is from, or else
    /// as it was asked for.
    fn left_out(&self, _path: &dyn Fn() -> String, _why: Option<&str>) {}

    /// Something that is no problem, but good to know.
    fn note(&self, _message: &str) {}

    /// An entry was neither restored nor removed; `what` it is says why.
    fn left_alone(&self, _path: &str, _what: &str) {}

    /// Whether `entry` is listened to.
    fn wants_entries(&self) -> bool {
        false
    }

    /// What the operation is about to do, for people.
    fn phase(&self, _text: &str) {}
}

/// Counts, and keeps problems for tests and quiet callers.
#[derive(Default)]
pub struct Quiet {
    progress: Progress,
    pub problems: std::sync::Mutex<Vec<(String, String)>>,
}

impl Monitor for Quiet {
    fn progress(&self) -> &Progress {
        &self.progress
    }

    fn problem(&self, path: &str, message: &str) {
        if let Ok(mut problems) = self.problems.lock() {
            problems.push((path.to_owned(), message.to_owned()));
        }
    }
}
