//! The requests of WinFsp.

use std::borrow::Cow;
use std::ffi::c_void;
use std::sync::Arc;

use tresor_engine::format::{NodeKind, Time};
use tresor_engine::naming::{from_utf16, to_utf16};
use winfsp::filesystem::{
    DirInfo, DirMarker, FileInfo, FileSecurity, FileSystemContext, ModificationDescriptor,
    OpenFileInfo, StreamInfo, VolumeInfo, WideNameInfo,
};
use winfsp::{FspError, Result, U16CStr};

use super::access::Rights;
use super::ntstatus::{
    BUFFER_OVERFLOW, BUFFER_TOO_SMALL, END_OF_FILE, NO_LINK, READ_ONLY, ntstatus,
};
use super::walk::Found;
use crate::core::{Attr, Changes, FsError, Ino, SnapshotFs, WindowsMeta};
use crate::report::Reporter;

/// What files are said to take up is a multiple of this.
pub(super) const ALLOCATION: u64 = 4096;
/// Rights that are about changes.
const TO_CHANGE: u32 = 0x0002 | 0x0004 | 0x0010 | 0x0040 | 0x0100 | 0x0001_0000 | 0x000c_0000;
const DELETE_ON_CLOSE: u32 = 0x1000;

pub(super) struct Adapter {
    pub fs: Arc<SnapshotFs>,
    pub reporter: Reporter,
    pub rights: Rights,
    pub label: String,
}

impl Adapter {
    /// The status of an error; one about the repository is reported with the path.
    fn fail(&self, ino: Ino, error: &FsError) -> FspError {
        if let Some(message) = self.fs.failed(ino, error) {
            self.reporter.tell(message);
        }
        ntstatus(error)
    }

    fn find(&self, path: &U16CStr) -> Result<Found> {
        Found::new(&self.fs, path.as_slice()).map_err(|(ino, e)| self.fail(ino, &e))
    }

    /// Who may do what with an entry.
    fn descriptor(&self, found: &Found) -> Result<Cow<'_, [u8]>> {
        let Some(of_folders) = &self.rights.of_folders else {
            return Ok(Cow::Borrowed(&self.rights.own));
        };
        if found.attr.changes != Changes::Never {
            return Ok(Cow::Borrowed(of_folders));
        }
        let ino = found.attr.ino;
        let recorded = self.fs.windows_security(ino).map_err(|e| self.fail(ino, &e))?;
        Ok(recorded.map_or(Cow::Borrowed(&self.rights.own), Cow::Owned))
    }

    /// Whether the request that is being answered wants to change something. The rights it
    /// got don't tell: who asks for as many as there are gets these, too.
    fn wants_to_change(&self) -> bool {
        // SAFETY: called while a request to open is answered, whose part `Create` is.
        let asked = unsafe { self.with_operation_request(|r| r.Req.Create.DesiredAccess) };
        asked.is_some_and(|asked| asked & TO_CHANGE != 0)
    }
}

fn filetime(time: Time) -> u64 {
    time.to_filetime().cast_unsigned()
}

fn tag(link: &[u8]) -> u32 {
    link.get(..4).map_or(0, |tag| u32::from_le_bytes([tag[0], tag[1], tag[2], tag[3]]))
}

fn fill(info: &mut FileInfo, attr: &Attr, meta: &WindowsMeta, size: u64) {
    let is_file = attr.kind == NodeKind::File;
    info.file_attributes = meta.attributes;
    info.reparse_tag = meta.link.as_deref().map_or(0, tag);
    info.file_size = if is_file { size } else { 0 };
    info.allocation_size = info.file_size.min(attr.allocated.max(size.min(ALLOCATION)));
    info.allocation_size = info.allocation_size.div_ceil(ALLOCATION) * ALLOCATION;
    info.creation_time = filetime(meta.created);
    info.last_access_time = filetime(attr.atime);
    info.last_write_time = filetime(attr.mtime);
    info.change_time = filetime(attr.ctime);
    info.index_number = attr.ino.0;
    info.hard_links = 0;
    info.ea_size = 0;
}

fn give(bytes: &[u8], to: Option<&mut [c_void]>) -> Result<u64> {
    if let Some(to) = to {
        if to.len() < bytes.len() {
            return Err(BUFFER_OVERFLOW);
        }
        // SAFETY: the buffer was found to be long enough, and isn't ours.
        unsafe {
            to.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
    }
    Ok(bytes.len() as u64)
}

fn copy_link(meta: &WindowsMeta, buffer: &mut [u8]) -> Result<u64> {
    let link = meta.link.as_deref().ok_or(NO_LINK)?;
    buffer.get_mut(..link.len()).ok_or(BUFFER_TOO_SMALL)?.copy_from_slice(link);
    Ok(link.len() as u64)
}

impl FileSystemContext for Adapter {
    type FileContext = Found;

    fn get_security_by_name(
        &self,
        path: &U16CStr,
        descriptor: Option<&mut [c_void]>,
        resolve: impl FnOnce(&U16CStr) -> Option<FileSecurity>,
    ) -> Result<FileSecurity> {
        if let Some(link) = resolve(path) {
            return Ok(link);
        }
        let found = self.find(path)?;
        let mut rights = self.descriptor(&found)?;
        // WinFsp would come again with more room, but isn't told how much it takes. Who may
        // have the whole repository may have this.
        if descriptor.as_ref().is_some_and(|to| to.len() < rights.len()) {
            rights = Cow::Borrowed(&self.rights.own);
        }
        let sz_security_descriptor = give(&rights, descriptor)?;
        let attributes = found.meta.attributes;
        Ok(FileSecurity { reparse: false, sz_security_descriptor, attributes })
    }

    fn open(&self, path: &U16CStr, options: u32, _: u32, info: &mut OpenFileInfo) -> Result<Found> {
        let found = self.find(path)?;
        if options & DELETE_ON_CLOSE != 0 || self.wants_to_change() {
            return Err(READ_ONLY);
        }
        fill(info.as_mut(), &found.attr, &found.meta, found.size());
        // The driver takes names that differ in case for the same entry, so it must know
        // how this one is called.
        if found.path.len() * 2 <= usize::from(info.normalized_name_size()) {
            info.set_normalized_name(&found.path, None);
        }
        Ok(found)
    }

    fn close(&self, _: Found) {}

    fn get_file_info(&self, found: &Found, info: &mut FileInfo) -> Result<()> {
        fill(info, &found.attr, &found.meta, found.size());
        Ok(())
    }

    fn get_security(&self, found: &Found, descriptor: Option<&mut [c_void]>) -> Result<u64> {
        give(&self.descriptor(found)?, descriptor)
    }

    fn read(&self, found: &Found, buffer: &mut [u8], offset: u64) -> Result<u32> {
        if offset >= found.size() {
            return Err(END_OF_FILE);
        }
        let ino = found.attr.ino;
        let read = match &found.stream {
            Some(stream) => self.fs.read_stream(stream, offset, buffer.len()),
            None => {
                self.fs.read_ahead(ino, offset, buffer.len());
                self.fs.read_at(ino, offset, buffer.len())
            }
        };
        let bytes = read.map_err(|e| self.fail(ino, &e))?;
        buffer[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len() as u32)
    }

    fn read_directory(
        &self,
        found: &Found,
        _: Option<&U16CStr>,
        marker: DirMarker<'_>,
        buffer: &mut [u8],
    ) -> Result<u32> {
        let ino = found.attr.ino;
        let marker = marker.inner().map(from_utf16);
        let (mut filled, mut failed, mut is_full) = (0, None, false);
        let done = self.fs.windows_list(ino, marker.as_deref(), &mut |entry| {
            let is_dots = entry.name == b"." || entry.name == b"..";
            // The root of a drive has no such entries on Windows.
            if is_dots && ino == Ino::ROOT {
                return true;
            }
            let attr = if is_dots {
                self.fs.attr(entry.attr.ino).unwrap_or(entry.attr)
            } else {
                entry.attr
            };
            let meta = match self.fs.windows_meta(&attr) {
                Ok(meta) => meta,
                Err(_) if is_dots => WindowsMeta { attributes: 0x10, ..WindowsMeta::default() },
                Err(e) => {
                    failed = Some(e);
                    return false;
                }
            };
            let mut info: DirInfo = DirInfo::new();
            fill(info.file_info_mut(), &attr, &meta, attr.size);
            let name = to_utf16(&entry.name).unwrap_or_default();
            // No system has longer names.
            if info.set_name_raw(name.as_slice()).is_err() {
                return true;
            }
            is_full = !info.append_to_buffer(buffer, &mut filled);
            !is_full
        });
        match done.err().or(failed) {
            // What comes before the damage is given first; the next call fails.
            Some(e) if filled == 0 => return Err(self.fail(ino, &e)),
            None if !is_full => drop(DirInfo::<255>::finalize_buffer(buffer, &mut filled)),
            _ => {}
        }
        Ok(filled)
    }

    fn get_volume_info(&self, info: &mut VolumeInfo) -> Result<()> {
        info.total_size = self.fs.volume().bytes;
        info.free_size = 0;
        info.set_volume_label(&self.label);
        Ok(())
    }

    fn get_stream_info(&self, found: &Found, buffer: &mut [u8]) -> Result<u32> {
        let ino = found.attr.ino;
        let streams = self.fs.windows_streams(ino).map_err(|e| self.fail(ino, &e))?;
        // Those of the entry, also if this is one of them.
        let attr = self.fs.attr(ino).map_err(|e| self.fail(ino, &e))?;
        let is_file = !matches!(attr.kind, NodeKind::Directory | NodeKind::Symlink);
        let own = is_file.then(|| (Vec::new(), attr.size));
        let mut filled = 0;
        for (name, size) in own.into_iter().chain(streams) {
            let mut info: StreamInfo = StreamInfo::new();
            info.stream_size = size;
            info.stream_alloc_size = size.div_ceil(ALLOCATION) * ALLOCATION;
            let name = to_utf16(&name).unwrap_or_default();
            if info.set_name_raw(name.as_slice()).is_err() {
                continue;
            }
            if !info.append_to_buffer(buffer, &mut filled) {
                return Ok(filled);
            }
        }
        StreamInfo::<255>::finalize_buffer(buffer, &mut filled);
        Ok(filled)
    }

    fn get_reparse_point_by_name(&self, path: &U16CStr, _: bool, buffer: &mut [u8]) -> Result<u64> {
        copy_link(&self.find(path)?.meta, buffer)
    }

    fn get_reparse_point(&self, found: &Found, _: &U16CStr, buffer: &mut [u8]) -> Result<u64> {
        copy_link(&found.meta, buffer)
    }

    /// There is nothing to be written.
    fn flush(&self, found: Option<&Found>, info: &mut FileInfo) -> Result<()> {
        if let Some(found) = found {
            fill(info, &found.attr, &found.meta, found.size());
        }
        Ok(())
    }

    fn create(
        &self,
        _: &U16CStr,
        _: u32,
        _: u32,
        _: u32,
        _: Option<&[c_void]>,
        _: u64,
        _: Option<&[u8]>,
        _: bool,
        _: &mut OpenFileInfo,
    ) -> Result<Found> {
        Err(READ_ONLY)
    }

    fn overwrite(
        &self,
        _: &Found,
        _: u32,
        _: bool,
        _: u64,
        _: Option<&[u8]>,
        _: &mut FileInfo,
    ) -> Result<()> {
        Err(READ_ONLY)
    }

    fn write(
        &self,
        _: &Found,
        _: &[u8],
        _: u64,
        _: bool,
        _: bool,
        _: &mut FileInfo,
    ) -> Result<u32> {
        Err(READ_ONLY)
    }

    fn rename(&self, _: &Found, _: &U16CStr, _: &U16CStr, _: bool) -> Result<()> {
        Err(READ_ONLY)
    }

    fn set_basic_info(
        &self,
        _: &Found,
        _: u32,
        _: u64,
        _: u64,
        _: u64,
        _: u64,
        _: &mut FileInfo,
    ) -> Result<()> {
        Err(READ_ONLY)
    }

    fn set_delete(&self, _: &Found, _: &U16CStr, _: bool) -> Result<()> {
        Err(READ_ONLY)
    }

    fn set_file_size(&self, _: &Found, _: u64, _: bool, _: &mut FileInfo) -> Result<()> {
        Err(READ_ONLY)
    }

    fn set_security(&self, _: &Found, _: u32, _: ModificationDescriptor) -> Result<()> {
        Err(READ_ONLY)
    }

    fn set_volume_label(&self, _: &U16CStr, _: &mut VolumeInfo) -> Result<()> {
        Err(READ_ONLY)
    }

    fn set_reparse_point(&self, _: &Found, _: &U16CStr, _: &[u8]) -> Result<()> {
        Err(READ_ONLY)
    }

    fn delete_reparse_point(&self, _: &Found, _: &U16CStr, _: &[u8]) -> Result<()> {
        Err(READ_ONLY)
    }

    fn set_extended_attributes(&self, _: &Found, _: &[u8], _: &mut FileInfo) -> Result<()> {
        Err(READ_ONLY)
    }
}
