//! Drives that are mounted while a test wants them.

use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;
use serde_json::Value;

use super::{Ran, World, ended, signal, start};

/// A drive in the foreground; dropped, it is gone.
pub struct Drive {
    pub point: PathBuf,
    command: Command,
    child: Option<Child>,
}

impl World {
    /// Mounts on the folder `point`, which is made; `words` are the rest of the command.
    pub fn mount(&self, words: &str, point: &str) -> Drive {
        self.mount_with(self.command(&format!("mount {words} {point}")), point)
    }

    pub fn mount_with(&self, mut command: Command, point: &str) -> Drive {
        let point = self.path(point);
        if !is_mounted(&point) {
            std::fs::create_dir_all(&point).unwrap();
        }
        let mut child = start(&mut command);
        // The line it says when it is ready.
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        if line.is_empty() {
            panic!("{}", ended(&command, child).err);
        }
        Drive { point, command, child: Some(child) }
    }
}

impl Drive {
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.point.join(path)
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// A number of `.tresor-status`.
    pub fn status(&self, field: &str) -> u64 {
        let text = std::fs::read_to_string(self.at(".tresor-status")).unwrap();
        let status: Value = serde_json::from_str(&text).unwrap();
        status[field].as_u64().unwrap_or_else(|| panic!("no {field} in {text}"))
    }

    pub fn signal(&self, number: Signal) {
        signal(self.child.as_ref().unwrap(), number);
    }

    /// Waits until the program has ended, and leaves what is mounted as it is.
    pub fn ended(mut self) -> Ran {
        ended(&self.command, self.child.take().unwrap())
    }

    /// Unmounts; what the program has said.
    pub fn unmount(self) -> Ran {
        unmount(&self.point, UnmountFlags::DETACH).unwrap();
        self.ended().expect(0)
    }
}

impl Drop for Drive {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = unmount(&self.point, UnmountFlags::DETACH);
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Everything that is mounted below a folder.
pub fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let point = |line: &[u8]| {
        let field = line.split(|b| *b == b' ').nth(4)?;
        Some(PathBuf::from(std::ffi::OsStr::from_bytes(field)))
    };
    let points = text.split(|b| *b == b'\n').filter_map(point);
    points.filter(|p| p.starts_with(folder)).collect()
}

pub fn is_mounted(point: &Path) -> bool {
    mounts_below(point).iter().any(|p| p == point)
}

pub fn unmount_all_below(folder: &Path) {
    for point in mounts_below(folder).iter().rev() {
        let _ = unmount(point.as_path(), UnmountFlags::DETACH);
    }
}
