//! Where a backup reads from: the seam that each operating system implements.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::format::Node;

/// An open directory of the source. Entries are reached relative to it, so
/// that paths of any length work and a renamed parent doesn't mislead.
pub trait SourceDir: Send + Sync {
    /// Names in the directory, without `.` and `..`, in any order.
    fn names(&self) -> io::Result<Vec<Vec<u8>>>;

    /// Kind, owner ids, mode, times, inode, size, device and link of an entry,
    /// not following symlinks; what `details` adds is missing.
    /// Also returns the number of the file system the entry is on.
    fn stat(&self, name: &[u8]) -> io::Result<(Node, u64)>;

    /// Adds what costs more to learn: owner names, extended attributes, symlink target.
    fn details(&self, node: &mut Node) -> io::Result<()>;

    /// Opens a directory inside this one, not following symlinks.
    fn open_dir(&self, name: &[u8]) -> io::Result<Arc<dyn SourceDir>>;

    /// Opens a regular file inside this one, not following symlinks.
    fn open_file(&self, name: &[u8]) -> io::Result<Box<dyn SourceFile>>;
}

/// An open regular file of the source.
pub trait SourceFile: Send {
    /// Reads at an offset; 0 only at the end of the file.
    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// The next range that holds data at or after `offset`, or `None` when
    /// only a hole (or nothing) follows. Systems without holes answer `offset..u64::MAX`.
    fn next_data(&mut self, offset: u64) -> io::Result<Option<Range<u64>>>;

    /// The file's entry as `SourceDir::stat` would give it now (the name is empty).
    fn stat(&mut self) -> io::Result<Node>;

    /// Adds what `SourceDir::details` adds, if an open file tells that sooner than its name does;
    /// false if not.
    fn details(&self, _node: &mut Node) -> io::Result<bool> {
        Ok(false)
    }
}
