//! Reads a file tree.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::windows::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use tresor_engine::format::Node;
use tresor_engine::source::{Room, SourceDir, SourceFile};
use windows_sys::Wdk::Storage::FileSystem::FILE_NON_DIRECTORY_FILE;
use windows_sys::Win32::Storage::FileSystem::{FILE_ATTRIBUTE_SPARSE_FILE, FILE_READ_DATA};
use windows_sys::Win32::System::Ioctl::FSCTL_QUERY_ALLOCATED_RANGES;

use super::{READ_DIR, metadata, nt, reparse, stat, streams};

pub(super) struct Directory {
    file: File,
    /// Held while listing, which moves a position.
    listing: Mutex<()>,
    /// The volumes on the way to it, and its own.
    volumes: Arc<Vec<u64>>,
}

impl Directory {
    pub fn new(file: File) -> io::Result<Self> {
        Self::below(file, &Arc::default())
    }

    fn below(file: File, volumes: &Arc<Vec<u64>>) -> io::Result<Self> {
        let (_, volume) = stat::node(b"", &file)?;
        let mut volumes = volumes.clone();
        if volumes.last() != Some(&volume) {
            Arc::make_mut(&mut volumes).push(volume);
        }
        Ok(Self { file, listing: Mutex::new(()), volumes })
    }
}

impl SourceDir for Directory {
    fn names(&self) -> io::Result<Vec<Vec<u8>>> {
        let _one = self.listing.lock().unwrap_or_else(PoisonError::into_inner);
        super::names(&self.file)
    }

    fn stat(&self, name: &[u8]) -> io::Result<(Node, u64)> {
        let open = nt::Open::existing(0);
        let file = super::open_existing(&self.file, name, open, false)?;
        if !reparse::is_mount_point(&file)? {
            return stat::node(name, &file);
        }
        let (node, volume) =
            stat::node(name, &super::open_existing(&self.file, name, open, true)?)?;
        if self.volumes.contains(&volume) {
            let message =
                "the volume that is mounted there is one that it lies in, and not saved again";
            return Err(io::Error::other(message));
        }
        Ok((node, volume))
    }

    fn details(&self, node: &mut Node, room: &mut Room) -> io::Result<()> {
        metadata::read_in(&self.file, node, room)
    }

    fn open_stream(&self, node: &Node, name: &[u8]) -> io::Result<Box<dyn SourceFile>> {
        open_stream(&self.file, &node.name, name)
    }

    fn open_dir(&self, name: &[u8]) -> io::Result<Arc<dyn SourceDir>> {
        let dir = super::open_dir(&self.file, name, READ_DIR)?;
        Ok(Arc::new(Self::below(dir, &self.volumes)?))
    }

    fn open_file(&self, name: &[u8]) -> io::Result<Box<dyn SourceFile>> {
        open_file(&self.file, name)
    }
}

/// Opens a regular file and nothing else, whatever has taken its place.
pub(super) fn open_file(dir: &File, name: &[u8]) -> io::Result<Box<dyn SourceFile>> {
    let open = nt::Open::existing(FILE_READ_DATA).with(FILE_NON_DIRECTORY_FILE);
    // A link would be opened as such: its data is what it leads to.
    let file = super::open_existing(dir, name, open, false)?;
    let attributes = stat::basic(&file)?.FileAttributes;
    if stat::link_tag(&file, attributes)? != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a regular file"));
    }
    let is_sparse = attributes & FILE_ATTRIBUTE_SPARSE_FILE != 0;
    // What is kept in an unusual way must be opened so that the system shows its content.
    let is_unusual =
        attributes & windows_sys::Win32::Storage::FileSystem::FILE_ATTRIBUTE_REPARSE_POINT != 0;
    let file = if is_unusual { super::open_existing(dir, name, open, true)? } else { file };
    Ok(Box::new(RegularFile { file, is_sparse }))
}

pub(super) fn open_stream(
    dir: &File,
    entry: &[u8],
    name: &[u8],
) -> io::Result<Box<dyn SourceFile>> {
    let file = super::open_entry(dir, entry, nt::Open::existing(0))?;
    streams::open_to_read(&file, name)
}

struct RegularFile {
    file: File,
    is_sparse: bool,
}

impl SourceFile for RegularFile {
    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.seek_read(buf, offset)
    }

    fn next_data(&mut self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let Some(len) = (i64::MAX as u64).checked_sub(offset) else { return Ok(None) };
        if !self.is_sparse {
            return Ok(Some(offset..u64::MAX));
        }
        let ask = [offset.to_le_bytes(), len.to_le_bytes()].concat();
        // One range is all that is wanted; that there are more is no error then.
        let mut answer = [0; 16];
        const MORE_DATA: i32 = 234;
        match nt::control(&self.file, FSCTL_QUERY_ALLOCATED_RANGES, &ask, &mut answer) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(e) if e.raw_os_error() == Some(MORE_DATA) => {}
            // Not every file system knows where its holes are.
            Err(_) => return Ok(Some(offset..u64::MAX)),
        }
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| answer[at + i]));
        let start = number(0).max(offset);
        Ok(Some(start..number(0).saturating_add(number(8)).max(start)))
    }

    fn stat(&mut self) -> io::Result<Node> {
        stat::node(b"", &self.file).map(|(node, _)| node)
    }
}
