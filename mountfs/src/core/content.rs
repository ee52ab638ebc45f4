//! Reading files, without handles: a kernel that needs none saves two requests a file.

use std::sync::Arc;

use moka::sync::Cache;
use tresor_engine::format::{BlobId, NodeKind};
use tresor_engine::tree::NodeAt;

use super::{FsError, FsResult, Ino, Inode, Place, SnapshotFs};
use crate::read::{FileReader, Piece};

/// Files that were read lately, by where their nodes stand.
pub(super) struct Files(Cache<(BlobId, u32), Arc<FileReader>>);

/// Bytes that chunk lists of such files may take.
const MOST: u64 = 4 << 20;

impl Default for Files {
    fn default() -> Self {
        let weight = |_: &_, file: &Arc<FileReader>| file.weight();
        Self(Cache::builder().max_capacity(MOST).weigher(weight).build())
    }
}

impl SnapshotFs {
    /// Up to `len` bytes from `offset`; fewer only at the end of the file. A
    /// damaged block is an error, never short or zero-filled.
    pub fn read_at(&self, ino: Ino, offset: u64, len: usize) -> FsResult<Vec<u8>> {
        if let Some(text) = self.own_text(ino)? {
            return Ok(part_of(&text, offset, len));
        }
        Ok(self.file(ino)?.read_at(&self.blocks, offset, len)?)
    }

    /// The same where it lies, not copied.
    pub fn pieces_at(&self, ino: Ino, offset: u64, len: usize) -> FsResult<Vec<Piece>> {
        if let Some(text) = self.own_text(ino)? {
            return Ok(vec![Piece::Bytes(part_of(&text, offset, len))]);
        }
        Ok(self.file(ino)?.pieces(&self.blocks, offset, len)?)
    }

    /// To be told of every read, so that what follows is fetched ahead.
    pub fn read_ahead(&self, ino: Ino, offset: u64, len: usize) {
        let Ok(inode) = self.inode(ino) else { return };
        if let Ok(file) = self.file_at(&inode) {
            FileReader::read_ahead(&file, &self.prefetcher, offset, len);
            self.small_file_read(&inode, offset);
        }
    }

    /// Reads a stream, as `read_at` and `read_ahead` together do it for a file.
    pub fn read_stream(
        &self,
        stream: &Arc<FileReader>,
        offset: u64,
        len: usize,
    ) -> FsResult<Vec<u8>> {
        FileReader::read_ahead(stream, &self.prefetcher, offset, len);
        Ok(stream.read_at(&self.blocks, offset, len)?)
    }

    /// The next data (or hole) at or after `offset`; `None` if there is none.
    pub fn seek(&self, ino: Ino, offset: u64, hole: bool) -> FsResult<Option<u64>> {
        if let Some(text) = self.own_text(ino)? {
            let len = text.len() as u64;
            return Ok((offset < len).then_some(if hole { len } else { offset }));
        }
        Ok(self.file(ino)?.seek(&self.blocks, offset, hole)?)
    }

    /// What a file holds that is the drive's own.
    fn own_text(&self, ino: Ino) -> FsResult<Option<Vec<u8>>> {
        Ok(match self.inode(ino)?.place {
            Place::Status => Some(self.status()),
            Place::NeverIndex => Some(Vec::new()),
            _ => None,
        })
    }

    fn file(&self, ino: Ino) -> FsResult<Arc<FileReader>> {
        self.file_at(&self.inode(ino)?)
    }

    fn file_at(&self, inode: &Inode) -> FsResult<Arc<FileReader>> {
        let (page, number) = match inode.place {
            Place::Node { page, number } => (page, number),
            Place::Link(_) => return Err(FsError::Invalid),
            _ => return Err(FsError::IsADirectory),
        };
        if let Some(known) = self.files.0.get(&(page, number)) {
            return Ok(known);
        }
        let node = NodeAt::load(&self.repo, &page, number)?;
        match node.kind {
            NodeKind::Directory => return Err(FsError::IsADirectory),
            NodeKind::File => {}
            _ => return Err(FsError::Invalid),
        }
        let file = Arc::new(FileReader::of_node(&node)?);
        self.files.0.insert((page, number), file.clone());
        Ok(file)
    }

    /// Files that are, or were lately, read.
    pub(super) fn files_in_use(&self) -> u64 {
        self.files.0.entry_count()
    }
}

fn part_of(text: &[u8], offset: u64, len: usize) -> Vec<u8> {
    let from = text.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
    text[from..text.len().min(from.saturating_add(len))].to_vec()
}
