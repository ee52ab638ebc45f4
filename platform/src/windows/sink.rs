//! Writes a file tree. What replaces something gets a passing name first and the real one
//! when it is complete, so that a name always stands for the old or the new.

use std::fs::File;
use std::io;
use std::os::windows::fs::FileExt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tresor_engine::format::{Content, Node, NodeKind};
use tresor_engine::sink::{self, MetadataProblem, SinkDir, SinkFile, Streams};
use tresor_engine::source::SourceFile;
use windows_sys::Wdk::Storage::FileSystem::{
    FILE_DIRECTORY_FILE, FILE_NON_DIRECTORY_FILE, FILE_OPEN_IF, FileLinkInformation,
};
use windows_sys::Win32::Storage::FileSystem::{
    DELETE, FILE_ATTRIBUTE_DIRECTORY, FILE_ATTRIBUTE_SPARSE_FILE, FILE_READ_DATA,
    FILE_WRITE_ATTRIBUTES, FILE_WRITE_DATA, READ_CONTROL, WRITE_DAC, WRITE_OWNER,
};
use windows_sys::Win32::System::Ioctl::FSCTL_SET_SPARSE;

use super::temp::{self, Temp, make_room};
use super::{WRITE_DIR, metadata, nt, remove, reparse, source, stat, wide};
use crate::kept::Kept;

/// What a new entry must be open for, to set all that belongs to it.
const NEW: u32 = DELETE | READ_CONTROL | WRITE_DAC | WRITE_OWNER | FILE_WRITE_ATTRIBUTES;

pub(super) struct Directory {
    file: Arc<File>,
    /// Held while listing, which moves a position.
    listing: Mutex<()>,
    kept: Arc<Kept>,
    /// For passing names; not asked for again for each file.
    number: OnceLock<u64>,
}

impl Directory {
    pub fn new(file: File, kept: Arc<Kept>) -> Self {
        Self { file: Arc::new(file), listing: Mutex::new(()), kept, number: OnceLock::new() }
    }

    fn below(&self, file: File) -> Arc<dyn SinkDir> {
        Arc::new(Self::new(file, self.kept.clone()))
    }
}

impl SinkDir for Directory {
    fn names(&self) -> io::Result<Vec<Vec<u8>>> {
        let _one = self.listing.lock().unwrap_or_else(PoisonError::into_inner);
        super::names(&self.file)
    }

    fn stat(&self, name: &[u8]) -> io::Result<Option<Node>> {
        match super::open_entry(&self.file, name, nt::Open::existing(0)) {
            Ok(file) => stat::node(name, &file).map(|(node, _)| Some(node)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn make_dir(&self, name: &[u8]) -> io::Result<Arc<dyn SinkDir>> {
        let how = nt::Open { disposition: FILE_OPEN_IF, ..nt::Open::existing(WRITE_DIR) };
        let opened = how.with(FILE_DIRECTORY_FILE).open_no_follow(&self.file, &wide(name)?);
        let is_dir = |file: &File| {
            let attributes = stat::basic(file)?.FileAttributes;
            io::Result::Ok(stat::link_tag(file, attributes)? == 0)
        };
        match opened {
            Ok(file) if is_dir(&file)? => Ok(self.below(file)),
            Ok(file) if reparse::is_mount_point(&file)? => self.open_dir(name),
            Err(e) if e.kind() != io::ErrorKind::NotADirectory => Err(e),
            _ => {
                let message = "there is something else of that name in the target";
                Err(io::Error::new(io::ErrorKind::AlreadyExists, message))
            }
        }
    }

    fn open_dir(&self, name: &[u8]) -> io::Result<Arc<dyn SinkDir>> {
        Ok(self.below(super::open_dir(&self.file, name, WRITE_DIR)?))
    }

    fn open_file(&self, name: &[u8]) -> io::Result<Box<dyn SourceFile>> {
        source::open_file(&self.file, name)
    }

    fn open_stream(&self, node: &Node, name: &[u8]) -> io::Result<Box<dyn SourceFile>> {
        source::open_stream(&self.file, &node.name, name)
    }

    fn create_file(&self, node: &Node) -> io::Result<Box<dyn SinkFile>> {
        wide(&node.name)?;
        let access = NEW | FILE_READ_DATA | FILE_WRITE_DATA;
        let temp = self.passing(access, FILE_NON_DIRECTORY_FILE)?;
        temp.claim();
        let has_hole = match &node.content {
            Some(Content::Extents(extents)) => extents.iter().any(|e| e.id.is_none()),
            // Of long lists that is seen while they are written.
            _ => false,
        };
        let mut file = NewFile { temp, len: 0, written: 0, is_sparse: false };
        if has_hole || was_sparse(node) {
            file.make_sparse();
        }
        Ok(Box::new(file))
    }

    fn make_special(
        &self,
        node: &Node,
        streams: &mut dyn Streams,
    ) -> io::Result<Vec<MetadataProblem>> {
        wide(&node.name)?;
        if node.kind != NodeKind::Symlink {
            let message = "Windows has no FIFOs, sockets and devices in folders";
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        }
        let link = reparse::data(node)?;
        if let Some(volume) = reparse::volume(&link) {
            let message = format!(
                "the volume {volume} was mounted in this folder, which a restore doesn't repeat; `mountvol` does"
            );
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        }
        let kind = if self.leads_to_directory(node) {
            FILE_DIRECTORY_FILE
        } else {
            FILE_NON_DIRECTORY_FILE
        };
        let temp = self.passing(NEW, kind)?;
        reparse::write(&temp.file, &link)?;
        let problems = metadata::apply(&temp.file, node, streams)?;
        temp.rename_to(&node.name)?;
        Ok(problems)
    }

    fn link(&self, name: &[u8], target: &dyn SinkDir, target_name: &[u8]) -> io::Result<()> {
        let Some(target) = target.as_any().downcast_ref::<Self>() else {
            let message = "a link can't lead to another kind of target";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        };
        let open = nt::Open::existing(FILE_WRITE_ATTRIBUTES);
        let file = super::open_existing(&target.file, target_name, open, false)?;
        let name = wide(name)?;
        make_room(&self.file, &name)?;
        nt::set_name(&file, FileLinkInformation, 1, &self.file, &name)
    }

    fn set_metadata(
        &self,
        node: &Node,
        streams: &mut dyn Streams,
    ) -> io::Result<Vec<MetadataProblem>> {
        metadata::apply(&metadata::open(&self.file, node)?, node, streams)
    }

    fn set_own_metadata(
        &self,
        node: &Node,
        streams: &mut dyn Streams,
    ) -> io::Result<Vec<MetadataProblem>> {
        metadata::apply(&metadata::open_again(&self.file)?, node, streams)
    }

    fn remove(&self, name: &[u8]) -> io::Result<()> {
        remove::remove(&self.file, name)
    }

    fn remove_dir_all(&self, name: &[u8]) -> io::Result<()> {
        remove::remove_dir_all(&self.file, name, &self.kept)
    }

    fn kept(&self, name: &[u8]) -> io::Result<sink::Kept> {
        let file = super::open_entry(&self.file, name, nt::Open::existing(0))?;
        Ok(self.kept.look(&stat::identity(&file)?))
    }

    fn remove_leftovers(&self) -> io::Result<u64> {
        let names = self.names()?;
        temp::remove_leftovers(&self.file, self.number()?, &names)
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

impl Directory {
    fn number(&self) -> io::Result<u64> {
        let number = match self.number.get() {
            Some(number) => *number,
            None => temp::number(&self.file)?,
        };
        let _ = self.number.set(number);
        Ok(number)
    }

    /// Makes an entry under a passing name.
    fn passing(&self, access: u32, options: u32) -> io::Result<Temp> {
        let access = access | metadata::audit_access();
        Temp::make(&self.file, self.number()?, nt::Open::new(access, options))
    }

    /// Windows has two kinds of links. One from another system is of the kind of what it
    /// leads to, if that is there already.
    fn leads_to_directory(&self, node: &Node) -> bool {
        match node.windows_attributes() {
            Some(attributes) => attributes & FILE_ATTRIBUTE_DIRECTORY != 0,
            None => {
                let target = node.target.as_deref().unwrap_or_default();
                matches!(self.stat(target), Ok(Some(there)) if there.is_dir())
            }
        }
    }
}

/// A gap of this length may be a hole. NTFS keeps none that are shorter.
const GAP: u64 = 64 << 10;

fn was_sparse(node: &Node) -> bool {
    node.windows_attributes().is_some_and(|a| a & FILE_ATTRIBUTE_SPARSE_FILE != 0)
}

/// A file that has only a passing name yet.
struct NewFile {
    temp: Temp,
    /// End of what was written.
    len: u64,
    /// How much was written; nothing is written twice.
    written: u64,
    is_sparse: bool,
}

impl NewFile {
    /// Before a place is written to, or the file ends there. Where it can't be sparse, holes take
    /// room and nothing else is lost.
    fn leave_gap(&mut self, up_to: u64) {
        if up_to.saturating_sub(self.len) >= GAP {
            self.make_sparse();
        }
    }

    fn make_sparse(&mut self) {
        if !self.is_sparse {
            self.is_sparse = true;
            let _ = self.set_sparse(true);
        }
    }

    fn set_sparse(&self, sparse: bool) -> io::Result<()> {
        nt::control(&self.temp.file, FSCTL_SET_SPARSE, &[u8::from(sparse)], &mut []).map(drop)
    }
}

impl SinkFile for NewFile {
    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        self.leave_gap(offset);
        let mut done = 0;
        while done < data.len() {
            match self.temp.file.seek_write(&data[done..], offset + done as u64)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => done += n,
            }
        }
        // An empty write makes a file no longer.
        if !data.is_empty() {
            self.len = self.len.max(offset + data.len() as u64);
            self.written += data.len() as u64;
        }
        Ok(())
    }

    fn finish(
        mut self: Box<Self>,
        node: &Node,
        streams: &mut dyn Streams,
    ) -> io::Result<Vec<MetadataProblem>> {
        self.leave_gap(node.size);
        if self.len != node.size {
            self.temp.file.set_len(node.size)?;
        }
        // What looked like a gap was written later: pieces come in any order.
        if self.is_sparse && self.written >= node.size && !was_sparse(node) {
            let _ = self.set_sparse(false);
        }
        let temp = self.temp;
        let problems = metadata::apply(&temp.file, node, streams)?;
        temp.rename_to(&node.name)?;
        Ok(problems)
    }
}
