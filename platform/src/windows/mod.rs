//! Windows. Everything is reached by calls relative to an open directory and none follows
//! a link, as on Unix. The root of a snapshot holds a folder for each drive letter.
//!
//! What Windows keeps beyond a node's fields is saved as extended attributes (see
//! `tresor_engine::format::windows`). Names are those of `tresor_engine::naming`.

mod excludes;
mod machine;
mod metadata;
mod nt;
mod path;
mod privileges;
mod registry;
mod remove;
mod reparse;
mod security;
mod sink;
mod source;
mod stat;
mod streams;
mod temp;
mod vss;

use std::fs::File;
use std::io;
use std::os::windows::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use tresor_engine::format::is_valid_name;
use tresor_engine::naming::{from_utf16, node_name, to_utf16, windows_name};
use tresor_engine::sink::SinkDir;
use tresor_engine::source::SourceDir;
use windows_sys::Wdk::Storage::FileSystem::FILE_DIRECTORY_FILE;
use windows_sys::Win32::Storage::FileSystem::{
    FILE_ADD_FILE, FILE_ADD_SUBDIRECTORY, FILE_FLAG_BACKUP_SEMANTICS, FILE_LIST_DIRECTORY,
    FILE_READ_ATTRIBUTES, FILE_TRAVERSE, SYNCHRONIZE,
};

pub use excludes::system_rules;
pub use path::{absolute_path, recorded_path};
pub(crate) use privileges::close_streams;
pub use privileges::on_console_stop;
pub(crate) use security::read as security_of;
pub use vss::{hold_source, system_state};

use crate::kept::Kept;

const READ_DIR: u32 = FILE_LIST_DIRECTORY | FILE_TRAVERSE;
const WRITE_DIR: u32 = READ_DIR | FILE_ADD_FILE | FILE_ADD_SUBDIRECTORY;

/// The whole machine as a source: a folder for each drive letter.
pub fn source_root() -> io::Result<Arc<dyn SourceDir>> {
    privileges::take();
    Ok(Arc::new(machine::Machine::default()))
}

/// Any directory as the root of a source.
pub fn open_source(dir: &Path) -> io::Result<Arc<dyn SourceDir>> {
    privileges::take();
    Ok(Arc::new(source::Directory::new(open_root(dir, READ_DIR)?)?))
}

/// An existing directory as the target of a restore.
///
/// Owners and rights of other systems mean nothing here: what is restored from one gets
/// those that the target folder gives. An owner that this user may not set is passed over
/// without an error, as on Unix.
pub fn open_sink(dir: &Path) -> io::Result<Arc<dyn SinkDir>> {
    open_sink_keeping(dir, Kept::default())
}

/// The same, with folders in it that are left alone.
pub fn open_sink_keeping(dir: &Path, kept: Kept) -> io::Result<Arc<dyn SinkDir>> {
    privileges::take();
    Ok(Arc::new(sink::Directory::new(open_root(dir, WRITE_DIR)?, Arc::new(kept))))
}

/// Volume and number of a directory.
pub(crate) type Identity = (u64, u64);

/// Which directory this is, and itself, held open.
pub(crate) fn identify(dir: &Path) -> io::Result<(Identity, File)> {
    let open = open_root(dir, 0)?;
    Ok((stat::identity(&open)?, open))
}

fn open_root(dir: &Path, access: u32) -> io::Result<File> {
    let mut options = std::fs::OpenOptions::new();
    options.access_mode(access | FILE_READ_ATTRIBUTES | SYNCHRONIZE);
    options
        .custom_flags(FILE_FLAG_BACKUP_SEMANTICS)
        .open(dir)
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", dir.display())))
}

fn wrong_name(name: &[u8]) -> io::Error {
    let message = format!("{:?} can't be a name in a directory", String::from_utf8_lossy(name));
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// What an entry of this name is called here.
fn wide(name: &[u8]) -> io::Result<Vec<u16>> {
    let wide = is_valid_name(name).then(|| to_utf16(&windows_name(name))).flatten();
    wide.ok_or_else(|| wrong_name(name))
}

/// Opens an entry that is there. Some programs make names that others can't handle, such
/// as `con` or `x.`; they are found as they are.
fn open_existing(dir: &File, name: &[u8], open: nt::Open, follow: bool) -> io::Result<File> {
    let call = |name: &[u16]| {
        if follow { open.open(dir, name) } else { open.open_no_follow(dir, name) }
    };
    let own = wide(name)?;
    match call(&own) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => match to_utf16(name) {
            Some(raw) if raw != own => call(&raw).map_err(|_| e),
            _ => Err(e),
        },
        opened => opened,
    }
}

/// Opens an entry. Where a volume is mounted in a folder, that is the root of the volume, as on
/// Unix.
fn open_entry(dir: &File, name: &[u8], open: nt::Open) -> io::Result<File> {
    let file = open_existing(dir, name, open, false)?;
    if reparse::is_mount_point(&file)? { open_existing(dir, name, open, true) } else { Ok(file) }
}

fn open_dir(dir: &File, name: &[u8], access: u32) -> io::Result<File> {
    let opened = open_entry(dir, name, nt::Open::existing(access).with(FILE_DIRECTORY_FILE))?;
    let attributes = stat::basic(&opened)?.FileAttributes;
    if stat::link_tag(&opened, attributes)? != 0 {
        return Err(io::Error::new(io::ErrorKind::NotADirectory, "is a link"));
    }
    Ok(opened)
}

/// Names in a directory, as snapshots have them.
fn names(dir: &File) -> io::Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    nt::names(dir, |name| {
        let name = from_utf16(name);
        if name != b"." && name != b".." {
            all.push(node_name(&name));
        }
    })?;
    Ok(all)
}
