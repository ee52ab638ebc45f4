//! The root of a snapshot: the machine with its drive letters.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tresor_engine::format::Node;
use tresor_engine::source::{Room, SourceDir, SourceFile};
use windows_sys::Win32::Storage::FileSystem::{GetDriveTypeW, GetLogicalDrives, READ_CONTROL};
use windows_sys::Win32::System::WindowsProgramming::DRIVE_FIXED;

use super::{READ_DIR, metadata, open_root, source, stat, streams};

#[derive(Default)]
pub(super) struct Machine {
    /// Where drives are read that are held still.
    pub held: BTreeMap<u8, PathBuf>,
}

impl Machine {
    /// `C:\`
    fn root(&self, name: &[u8]) -> io::Result<PathBuf> {
        match name {
            [letter @ b'A'..=b'Z'] => {
                let living = || PathBuf::from(format!("{}:\\", char::from(*letter)));
                Ok(self.held.get(letter).cloned().unwrap_or_else(living))
            }
            _ => Err(io::Error::new(io::ErrorKind::NotFound, "there is no drive of this letter")),
        }
    }

    fn open(&self, name: &[u8], access: u32) -> io::Result<File> {
        open_root(&self.root(name)?, access)
    }
}

/// The letters of this machine's disks, not those of others or of what can be taken out.
pub(super) fn fixed() -> impl Iterator<Item = u8> {
    // SAFETY: takes nothing.
    let letters = unsafe { GetLogicalDrives() };
    (b'A'..=b'Z').filter(move |l| letters >> (l - b'A') & 1 == 1 && is_fixed(*l))
}

fn is_fixed(letter: u8) -> bool {
    let path = [u16::from(letter), 0x3a, 0x5c, 0];
    // SAFETY: the path ends with a zero.
    unsafe { GetDriveTypeW(path.as_ptr()) == DRIVE_FIXED }
}

impl SourceDir for Machine {
    fn names(&self) -> io::Result<Vec<Vec<u8>>> {
        Ok(fixed().map(|letter| vec![letter]).collect())
    }

    fn stat(&self, name: &[u8]) -> io::Result<(Node, u64)> {
        stat::node(name, &self.open(name, 0)?)
    }

    fn details(&self, node: &mut Node, room: &mut Room) -> io::Result<()> {
        let file = metadata::with_audit(|audit| self.open(&node.name, READ_CONTROL | audit))?;
        metadata::read_root(&file, node, room)
    }

    fn open_stream(&self, node: &Node, name: &[u8]) -> io::Result<Box<dyn SourceFile>> {
        streams::open_to_read(&self.open(&node.name, 0)?, name)
    }

    fn open_dir(&self, name: &[u8]) -> io::Result<Arc<dyn SourceDir>> {
        Ok(Arc::new(source::Directory::new(self.open(name, READ_DIR)?)?))
    }

    fn open_file(&self, _: &[u8]) -> io::Result<Box<dyn SourceFile>> {
        Err(io::Error::new(io::ErrorKind::IsADirectory, "is a drive"))
    }
}
