//! What reading has cost so far: the hidden file `.tresor-status` at the root of the drive.

use std::sync::atomic::Ordering::Relaxed;

use tresor_engine::format::NodeKind;
use tresor_engine::repo::now;

use super::{Attr, Changes, Ino, SnapshotFs};

/// Not listed, so that copying a whole drive doesn't copy it.
pub const NAME: &str = ".tresor-status";

/// Its length in bytes, always: kernels want to know it before they read.
pub const LEN: usize = 1024;

pub(super) fn attr(ino: Ino) -> Attr {
    let attr = Attr::of_virtual(ino, NodeKind::File, LEN as u64, now());
    Attr { changes: Changes::Always, ..attr }
}

impl SnapshotFs {
    /// A JSON object, filled up with blanks; the fields are described in docs/drive.md.
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
            ("files", self.files_in_use()),
        ];
        let fields: Vec<_> = fields.iter().map(|(k, v)| format!("  \"{k}\": {v}")).collect();
        let text = format!("{{\n{}\n}}", fields.join(",\n"));
        format!("{text:<width$}\n", width = LEN - 1).into_bytes()
    }
}
