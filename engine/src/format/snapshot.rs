//! A snapshot: what was backed up, when, from where, and the tree that holds it.

use minicbor::{Decode, Encode};

use super::ids::BlobId;
use super::left_out::LeftOut;
use super::node::Time;

/// Counts of one backup run. Files, directories and others are entries; bytes
/// are plaintext unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Summary {
    #[n(0)]
    pub files: u64,
    #[n(1)]
    pub directories: u64,
    /// Symlinks, FIFOs, sockets and devices.
    #[n(2)]
    pub others: u64,
    /// Length of all files together, holes included, and without their streams.
    #[n(3)]
    pub bytes: u64,
    #[n(4)]
    pub files_new: u64,
    #[n(5)]
    pub files_changed: u64,
    #[n(6)]
    pub files_unchanged: u64,
    /// Blobs that the repository did not have.
    #[n(7)]
    pub blobs_added: u64,
    /// Length of those blobs.
    #[n(8)]
    pub bytes_added: u64,
    /// What they take in the store, compressed and encrypted.
    #[n(9)]
    pub bytes_stored: u64,
    /// Entries that could not be read.
    #[n(10)]
    pub errors: u64,
    #[n(11)]
    pub seconds: f64,
    /// Entries that have extended attributes.
    #[n(12)]
    pub xattr_entries: u64,
}

impl Summary {
    /// Files, directories and others together. Clients write what they like: what is
    /// more than there can be stays the most.
    pub fn entries(&self) -> u64 {
        self.files.saturating_add(self.directories).saturating_add(self.others)
    }
}

#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct SnapshotData {
    /// Time the snapshot stands for: the start of the backup, or what `--time` said.
    #[n(0)]
    pub time: Time,
    /// Offset of the client's clock from UTC in seconds, for display.
    #[n(1)]
    pub utc_offset: i32,
    #[n(2)]
    pub host: String,
    #[n(3)]
    pub user: String,
    /// Absolute paths that were asked for, raw bytes.
    #[n(4)]
    pub paths: Vec<PathBytes>,
    #[n(5)]
    pub tags: Vec<String>,
    /// Root page of the tree; its nodes are the entries of `/`.
    #[n(6)]
    pub tree: BlobId,
    #[n(7)]
    pub summary: Summary,
    /// Version of the program that wrote it.
    #[n(8)]
    pub program: String,
    /// Time of the client's clock when it was saved. Equals `time` plus the run
    /// unless `--time` was given; retention tells forged times by it.
    #[n(9)]
    pub saved: Time,
    /// Names of the extended attributes that entries have, sorted. Absent if
    /// they are too many, or if an older program wrote it.
    #[n(10)]
    pub xattr_names: Option<Vec<PathBytes>>,
    /// What `/` held that isn't in the tree.
    #[n(11)]
    pub left_out: Option<LeftOut>,
}

impl SnapshotData {
    /// Of nothing but a tree, by nobody.
    pub fn new(time: Time, tree: BlobId) -> Self {
        Self {
            time,
            utc_offset: 0,
            host: String::new(),
            user: String::new(),
            paths: Vec::new(),
            tags: Vec::new(),
            tree,
            summary: Summary::default(),
            program: String::new(),
            saved: time,
            xattr_names: None,
            left_out: None,
        }
    }
}

/// A path as raw bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct PathBytes(#[cbor(n(0), with = "minicbor::bytes")] pub Vec<u8>);

impl PathBytes {
    /// For people: bytes that are no UTF-8 are shown as `\xNN`.
    pub fn display(&self) -> String {
        display_name(&self.0)
    }
}

/// `path` and a name below it, in place of what followed it.
pub fn extend_path(path: &mut Vec<u8>, above: usize, name: &[u8]) {
    path.truncate(above);
    path.push(b'/');
    path.extend_from_slice(name);
}

/// A name or path for people: bytes that are no UTF-8, and control characters, as `\xNN`.
pub fn display_name(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() {
                text.extend(c.to_string().bytes().map(|b| format!("\\x{b:02x}")));
            } else {
                text.push(c);
            }
        }
        text.extend(chunk.invalid().iter().map(|b| format!("\\x{b:02x}")));
    }
    text
}
