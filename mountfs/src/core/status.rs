//! What reading has cost so far: the hidden file `.tresor-status` at the root of the drive.

use std::sync::atomic::Ordering::Relaxed;

use super::SnapshotFs;

/// Not listed, so that copying a whole drive doesn't copy it.
pub const NAME: &str = ".tresor-status";

impl SnapshotFs {
    /// A JSON object; the fields are described in docs/drive.md.
    pub fn status(&self) -> Vec<u8> {
        let blocks = self.blocks.counts();
        let counters = self.repo.counters();
        let fields = [
            ("block_hits", blocks.hits),
            ("blocks_fetched", blocks.fetched),
            ("segments_fetched", counters.segments_fetched.load(Relaxed)),
            ("store_reads", counters.store_reads.load(Relaxed)),
            ("bytes_read", counters.bytes_read.load(Relaxed)),
            ("bytes_decoded", counters.bytes_decoded.load(Relaxed)),
            ("inodes", self.inodes.count() as u64),
            ("open_files", self.files.len() as u64),
        ];
        let fields: Vec<_> = fields.iter().map(|(k, v)| format!("  \"{k}\": {v}")).collect();
        format!("{{\n{}\n}}\n", fields.join(",\n")).into_bytes()
    }
}
