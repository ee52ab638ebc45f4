//! The system calls that change a local store, behind a seam: tests put faults
//! and power losses between them.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

pub trait Disk: Send + Sync {
    /// Makes a new file, writes it and forces its bytes to the disk.
    fn write_new(&self, path: &Path, data: &[u8]) -> io::Result<()>;
    /// Gives a file its final name; `AlreadyExists` if that is taken.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file its final name, and replaces what has it.
    fn rename_over(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes a folder of the repository, which is its owner's only.
    fn make_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes a folder that the repository lies in.
    fn make_dir_above(&self, path: &Path) -> io::Result<()>;
    /// Forces a directory's names to the disk.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Forces a file's bytes to the disk.
    fn sync_file(&self, path: &Path) -> io::Result<()>;
}

/// The real disk.
pub struct OsDisk;

impl Disk for OsDisk {
    fn write_new(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path)?;
        file.write_all(data)?;
        sync(&file)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        // A hard link never replaces, unlike a rename.
        match std::fs::hard_link(from, to) {
            Ok(()) => std::fs::remove_file(from),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(e),
            // FAT keeps a file's length and place beside its name, and forces them to the disk with
            // the file only: the folder alone would have an empty one.
            Err(_) => rename_without_link(from, to).and_then(|()| self.sync_file(to)),
        }
    }

    fn rename_over(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)?;
        self.sync_file(to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        make_private_dir(path)
    }

    fn make_dir_above(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir(path)
    }

    #[cfg(unix)]
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        sync(&File::open(path)?)
    }

    #[cfg(windows)]
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        use std::os::windows::fs::OpenOptionsExt;
        /// `FILE_ADD_FILE`, which every writer has, and `SYNCHRONIZE`.
        const ACCESS: u32 = 0x2 | 0x10_0000;
        /// `FILE_FLAG_BACKUP_SEMANTICS`, without which no folder is opened.
        const FOLDER: u32 = 0x0200_0000;
        sync(&OpenOptions::new().access_mode(ACCESS).custom_flags(FOLDER).open(path)?)
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        // Windows flushes only what is open for writing.
        sync(&OpenOptions::new().read(true).write(cfg!(windows)).open(path)?)
    }
}

/// The same on file systems without hard links.
fn rename_without_link(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            other => return Ok(other?),
        }
    }
    // Names are hashes, so a file that appears between the check and the rename has the same
    // bytes; but for the config.
    if to.exists() { Err(io::ErrorKind::AlreadyExists.into()) } else { std::fs::rename(from, to) }
}

/// Forces a file or a folder to the disk. Some shares have no call for that, or on macOS none
/// that reaches the platter: then what there is must do.
#[cfg(unix)]
fn sync(file: &File) -> io::Result<()> {
    use rustix::io::Errno;
    let refused = |e: &io::Error| {
        let codes = [Errno::INVAL, Errno::NOTSUP, Errno::NOTTY];
        codes.iter().any(|code| e.raw_os_error() == Some(code.raw_os_error()))
    };
    match file.sync_all() {
        Err(e) if refused(&e) => match rustix::fs::fsync(file).map_err(io::Error::from) {
            Err(e) if refused(&e) => Ok(()),
            other => other,
        },
        other => other,
    }
}

#[cfg(not(unix))]
fn sync(file: &File) -> io::Result<()> {
    /// `ERROR_INVALID_FUNCTION` and `ERROR_NOT_SUPPORTED`.
    const REFUSED: [i32; 2] = [1, 50];
    match file.sync_all() {
        Err(e) if e.raw_os_error().is_some_and(|code| REFUSED.contains(&code)) => Ok(()),
        other => other,
    }
}

#[cfg(unix)]
fn make_private_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().mode(0o700).create(path)
}

/// Elsewhere a folder is as private as the one it is in.
#[cfg(not(unix))]
fn make_private_dir(path: &Path) -> io::Result<()> {
    std::fs::create_dir(path)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    fn one_of_many_gives_a_file_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for round in 0..50 {
            let to = at(&format!("config {round}"));
            let rename = |n: usize| {
                let from = at(&format!("{n}"));
                std::fs::write(&from, format!("{n}")).unwrap();
                match rename_without_link(&from, &to) {
                    Err(e) => assert_eq!(e.kind(), io::ErrorKind::AlreadyExists),
                    Ok(()) => return Some(n),
                }
                None
            };
            let won: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|n| scope.spawn(move || rename(n))).collect();
                threads.into_iter().filter_map(|t| t.join().unwrap()).collect()
            });
            assert_eq!(won.len(), 1);
            assert_eq!(std::fs::read(&to).unwrap(), format!("{}", won[0]).into_bytes());
        }
    }

    /// As a share does that has no such call; errors of a disk stay errors.
    #[test]
    fn what_cannot_be_forced_to_the_disk_is_no_error() {
        let (pipe, _writer) = std::io::pipe().unwrap();
        let pipe = File::from(std::os::fd::OwnedFd::from(pipe));
        assert!(pipe.sync_all().is_err());
        sync(&pipe).unwrap();
        sync(&tempfile::tempfile().unwrap()).unwrap();
    }
}
