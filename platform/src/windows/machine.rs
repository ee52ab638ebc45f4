//! The root of a snapshot: the machine with its drive letters.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tresor_engine::format::Node;
use tresor_engine::source::{SourceDir, SourceFile};
use windows_sys::Win32::Storage::FileSystem::{GetDriveTypeW, GetLogicalDrives, READ_CONTROL};
use windows_sys::Win32::System::WindowsProgramming::DRIVE_FIXED;

use super::{READ_DIR, metadata, open_root, source, stat};

pub(super) struct Machine;

/// `C:\`
fn root(name: &[u8]) -> io::Result<PathBuf> {
    match name {
        [letter @ b'A'..=b'Z'] => Ok(PathBuf::from(format!("{}:\\", char::from(*letter)))),
        _ => Err(io::Error::new(io::ErrorKind::NotFound, "there is no drive of this letter")),
    }
}

fn open(name: &[u8], access: u32) -> io::Result<File> {
    open_root(&root(name)?, access)
}

fn is_fixed(letter: u8) -> bool {
    let path = [u16::from(letter), 0x3a, 0x5c, 0];
    // SAFETY: the path ends with a zero.
    unsafe { GetDriveTypeW(path.as_ptr()) == DRIVE_FIXED }
}

impl SourceDir for Machine {
    /// The disks of this machine, not those of others or what can be taken out.
    fn names(&self) -> io::Result<Vec<Vec<u8>>> {
        // SAFETY: takes nothing.
        let letters = unsafe { GetLogicalDrives() };
        let there = (b'A'..=b'Z').filter(|l| letters >> (l - b'A') & 1 == 1 && is_fixed(*l));
        Ok(there.map(|letter| vec![letter]).collect())
    }

    fn stat(&self, name: &[u8]) -> io::Result<(Node, u64)> {
        stat::node(name, &open(name, 0)?)
    }

    fn details(&self, node: &mut Node) -> io::Result<()> {
        let file = metadata::with_audit(|audit| open(&node.name, READ_CONTROL | audit))?;
        metadata::read(&file, node)
    }

    fn open_dir(&self, name: &[u8]) -> io::Result<Arc<dyn SourceDir>> {
        Ok(Arc::new(source::Directory::new(open(name, READ_DIR)?)))
    }

    fn open_file(&self, _: &[u8]) -> io::Result<Box<dyn SourceFile>> {
        Err(io::Error::new(io::ErrorKind::IsADirectory, "is a drive"))
    }
}
