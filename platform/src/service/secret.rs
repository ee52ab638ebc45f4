//! Files that only their owner can read, and programs that only their owner can change.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{Result, ServiceError, io_error};

/// Rights of the group and of others; to write, of both.
const OTHERS: u32 = 0o077;
const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// A folder of secrets, one file for each name.
pub(super) struct Secrets(pub PathBuf);

impl Secrets {
    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name).with_extension("password")
    }

    pub fn keep(&self, name: &str, secret: &[u8]) -> Result<PathBuf> {
        let file = self.file(name);
        let failed = io_error(&file);
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0).map_err(&failed)?;
        // One that a service left behind that wasn't removed by `remove`.
        self.forget(name)?;
        let mut options = OpenOptions::new();
        let mut made =
            options.write(true).create_new(true).mode(0o600).open(&file).map_err(&failed)?;
        made.write_all(secret).and_then(|()| made.sync_all()).map_err(failed)?;
        Ok(file)
    }

    /// Whether there was one.
    pub fn forget(&self, name: &str) -> Result<bool> {
        let file = self.file(name);
        match std::fs::remove_file(&file) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            removed => removed.map_err(io_error(&file)).map(|()| true),
        }
    }
}

/// Whether nobody but root and the user `account` can read a file.
pub(super) fn is_secret(file: &Path, account: u32) -> Result<bool> {
    let meta = file.metadata().map_err(io_error(file))?;
    Ok(meta.mode() & OTHERS == 0 && (meta.uid() == account || meta.uid() == 0))
}

/// Refuses a program that somebody else than root and `account` can put another one in the
/// place of.
pub(super) fn check_program(program: &Path, account: u32) -> Result<()> {
    let real = program.canonicalize().map_err(io_error(program))?;
    for part in real.ancestors() {
        let meta = part.metadata().map_err(io_error(part))?;
        let is_ours = meta.uid() == 0 || meta.uid() == account;
        // In a sticky folder each owns what is his.
        let is_open = meta.mode() & OTHERS_WRITE != 0 && meta.mode() & STICKY == 0;
        if !is_ours || is_open {
            return Err(ServiceError::Program {
                program: real.display().to_string(),
                culprit: part.display().to_string(),
                owner: if account == 0 { "root".into() } else { "you".into() },
                better: "/usr/local/bin",
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn me() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    #[test]
    fn secrets_are_readable_to_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = Secrets(folder.path().join("a/b"));
        let file = secrets.keep("one", b"word").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"word");
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(secrets.0.metadata().unwrap().mode() & 0o777, 0o700);
        assert!(is_secret(&file, me()).unwrap());
        set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        assert!(!is_secret(&file, me()).unwrap());
        // Not into one that others can read.
        let file = secrets.keep("one", b"other").unwrap();
        assert!(is_secret(&file, me()).unwrap());
        secrets.forget("one").unwrap();
        secrets.forget("one").unwrap();
        assert!(!file.exists() && is_secret(&file, me()).is_err());
    }

    #[test]
    fn programs_that_others_can_replace_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("bin/tresor");
        std::fs::create_dir(folder.path().join("bin")).unwrap();
        std::fs::write(&program, "").unwrap();
        let mode = |path: &Path, mode| set_permissions(path, Permissions::from_mode(mode)).unwrap();
        mode(&program, 0o755);
        assert!(check_program(&program, me()).is_ok());
        mode(folder.path(), 0o777);
        assert!(check_program(&program, me()).is_err());
        mode(folder.path(), 0o1777);
        assert!(check_program(&program, me()).is_ok());
        mode(&program, 0o775);
        assert!(check_program(&program, me()).is_err());
    }
}
