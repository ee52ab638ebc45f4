//! What reading has cost so far: the hidden file `.tresor-status` at the root of the drive.

use std::collections::HashSet;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard};

use serde::Serialize;
use tresor_engine::format::NodeKind;
use tresor_engine::repo::now;

use super::{Attr, Changes, FsError, Ino, SnapshotFs};

/// Not listed, so that copying a whole drive doesn't copy it.
pub const NAME: &str = ".tresor-status";
/// Its length in bytes, always: kernels want to know it before they read.
pub const LEN: usize = 4096;
/// Longer messages are cut; in JSON one byte may become six.
const MOST_MESSAGE: usize = 500;
/// Of more, some are told of again.
const MOST_PASSED_OVER: usize = 1000;

pub(super) fn attr(ino: Ino) -> Attr {
    let attr = Attr::of_virtual(ino, NodeKind::File, LEN as u64, now());
    Attr { changes: Changes::Always, ..attr }
}

/// The fields are described in docs/drive.md.
#[derive(Serialize)]
struct Status {
    requests: u64,
    block_hits: u64,
    blocks_fetched: u64,
    segments_fetched: u64,
    store_reads: u64,
    bytes_read: u64,
    bytes_decoded: u64,
    inodes: u64,
    files: u64,
    errors: u64,
    last_error: Option<String>,
    older_state: u64,
}

/// Operations that failed for want of data, or passed over something.
#[derive(Default)]
pub(super) struct Failures(Mutex<Noted>);

#[derive(Default)]
struct Noted {
    errors: u64,
    last: Option<String>,
    /// What was told of as passed over, so that it is told of once.
    passed_over: HashSet<String>,
}

impl Failures {
    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Noted {
    fn note(&mut self, message: &str) {
        self.errors += 1;
        self.last = Some(message.chars().take(MOST_MESSAGE).collect());
    }
}

impl SnapshotFs {
    /// To be told of each request of a kernel, or of a client, that counts.
    pub fn note_request(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    /// A JSON object, filled up with blanks.
    pub fn status(&self) -> Vec<u8> {
        let blocks = self.blocks.counts();
        let counters = self.repo.counters();
        let (errors, last_error) = {
            let noted = self.failures.noted();
            (noted.errors, noted.last.clone())
        };
        let status = Status {
            requests: self.requests.load(Relaxed),
            block_hits: blocks.hits,
            blocks_fetched: blocks.fetched,
            segments_fetched: counters.segments_fetched.load(Relaxed),
            store_reads: counters.store_reads.load(Relaxed),
            bytes_read: counters.bytes_read.load(Relaxed),
            bytes_decoded: counters.bytes_decoded.load(Relaxed),
            inodes: self.inodes.count() as u64,
            files: self.files_in_use(),
            errors,
            last_error,
            older_state: self.repo.setback().count() as u64,
        };
        let text = serde_json::to_string_pretty(&status).unwrap_or_default();
        format!("{text:<width$}\n", width = LEN - 1).into_bytes()
    }

    /// Takes note of an operation on an inode that failed. Returns what to tell
    /// of it, if the repository is to blame: the path, and the reason.
    pub fn failed(&self, ino: Ino, error: &FsError) -> Option<String> {
        let FsError::Io(reason) = error else { return None };
        let message = format!("{}: {reason}", self.path(ino));
        self.failures.noted().note(&message);
        Some(message)
    }

    /// Takes note of something that an operation did without, and tells of it, once.
    pub(super) fn passed_over(&self, message: &str) {
        {
            let mut noted = self.failures.noted();
            if noted.passed_over.contains(message) {
                return;
            }
            if noted.passed_over.len() == MOST_PASSED_OVER {
                noted.passed_over.clear();
            }
            noted.passed_over.insert(message.to_owned());
            noted.note(message);
        }
        if let Some(tell) = self.tell.get() {
            tell(message);
        }
    }
}
