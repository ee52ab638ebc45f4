//! Where a restore writes to: the seam that each operating system implements.
//! No method ever follows a symlink that lies in the target.

use std::io;
use std::sync::Arc;

use crate::format::Node;
use crate::source::SourceFile;

/// An open directory of the target.
pub trait SinkDir: Send + Sync {
    /// Names in the directory, without `.`, `..` and notes of restores.
    fn names(&self) -> io::Result<Vec<Vec<u8>>>;

    /// Entry as it is now in the target (see `SourceDir::stat`), `None` if there is none.
    fn stat(&self, name: &[u8]) -> io::Result<Option<Node>>;

    /// Opens the directory `name`, making it (with mode 0700) if there is none.
    /// Anything else under that name is an error of kind `AlreadyExists`.
    fn make_dir(&self, name: &[u8]) -> io::Result<Arc<dyn SinkDir>>;

    /// Opens an existing directory.
    fn open_dir(&self, name: &[u8]) -> io::Result<Arc<dyn SinkDir>>;

    /// Opens an existing regular file, to compare.
    fn open_file(&self, name: &[u8]) -> io::Result<Box<dyn SourceFile>>;

    /// Opens an extended attribute of an existing entry, to compare.
    fn open_stream(&self, node: &Node, name: &[u8]) -> io::Result<Box<dyn SourceFile>> {
        let _ = (node, name);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Starts a new file that gets its name only at [`SinkFile::finish`].
    fn create_file(&self, node: &Node) -> io::Result<Box<dyn SinkFile>>;

    /// Makes a symlink, FIFO, socket or device with its metadata, replacing a
    /// non-directory of that name.
    fn make_special(
        &self,
        node: &Node,
        streams: &mut dyn Streams,
    ) -> io::Result<Vec<MetadataProblem>>;

    /// Makes `name` here another name of `target_name` in `target`, replacing a
    /// non-directory of that name.
    fn link(&self, name: &[u8], target: &dyn SinkDir, target_name: &[u8]) -> io::Result<()>;

    /// Sets owner, mode, times and extended attributes of an existing directory or file of
    /// this directory. What can't be set is returned, the rest is set. Attributes that are there and
    /// not in the node go, unless it may lack some (`Node::may_lack_attributes`).
    fn set_metadata(
        &self,
        node: &Node,
        streams: &mut dyn Streams,
    ) -> io::Result<Vec<MetadataProblem>>;

    /// The same for this directory itself, and on the disk before this returns.
    fn set_own_metadata(
        &self,
        node: &Node,
        streams: &mut dyn Streams,
    ) -> io::Result<Vec<MetadataProblem>>;

    /// Removes a non-directory.
    fn remove(&self, name: &[u8]) -> io::Result<()>;

    /// Removes a directory and all in it. Where it meets a folder that is [`Kept::Itself`],
    /// that is an error.
    fn remove_dir_all(&self, name: &[u8]) -> io::Result<()>;

    /// How an entry stands to the folders that are left alone.
    fn kept(&self, name: &[u8]) -> io::Result<Kept> {
        let _ = name;
        Ok(Kept::No)
    }

    /// Removes what runs that are dead have left here half written, and nothing else;
    /// how many files.
    fn remove_leftovers(&self) -> io::Result<u64> {
        Ok(0)
    }

    /// Notes here, and on the disk before this returns, that the restore `job` is under way.
    /// Says whether there was a note already, here or, as far as the system lets it look, in a directory
    /// above: a restore, perhaps another one, did not end.
    fn begin(&self, _job: u32) -> io::Result<bool> {
        Ok(false)
    }

    /// Forces what was written here and below to the disk. Only the directory that `begin`
    /// was called on, and those opened through it, know what that is.
    fn force(&self) -> io::Result<()> {
        Ok(())
    }

    /// Takes the note of `begin` away.
    fn end(&self, _job: u32) -> io::Result<()> {
        Ok(())
    }

    /// For downcasts by `link`.
    fn as_any(&self) -> &dyn std::any::Any;
}

/// How an entry stands to the folders that a restore leaves alone, whatever it is told: the
/// repository that it reads, for one. The text says which one it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    No,
    /// It is a directory with such a one somewhere in it.
    Around(&'static str),
    Itself(&'static str),
}

/// A file being written. Dropped without `finish`, it leaves nothing behind.
pub trait SinkFile: Send {
    /// Writes at an offset; what is never written reads as a hole.
    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Sets length and metadata, then gives the file its name, replacing a
    /// non-directory of that name.
    fn finish(
        self: Box<Self>,
        node: &Node,
        streams: &mut dyn Streams,
    ) -> io::Result<Vec<MetadataProblem>>;
}

/// What the streams of a node hold (see `Node::streams`). They are set with the rest of its
/// extended attributes; one that can't be had is a `MetadataProblem`; then it is as it
/// was before or not there, but never a part of it.
pub trait Streams {
    /// Whether a stream of the target is as it shall be.
    fn is_right(&mut self, name: &[u8], there: &mut dyn SourceFile) -> io::Result<bool>;

    /// Gives what a stream shall hold, in pieces and their offsets, in any order. What isn't
    /// given is zeros.
    fn write(
        &mut self,
        name: &[u8],
        to: &mut (dyn FnMut(&[u8], u64) -> io::Result<()> + Send),
    ) -> io::Result<()>;
}

/// For nodes without streams.
pub struct NoStreams;

impl Streams for NoStreams {
    fn is_right(&mut self, _: &[u8], _: &mut dyn SourceFile) -> io::Result<bool> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn write(
        &mut self,
        _: &[u8],
        _: &mut (dyn FnMut(&[u8], u64) -> io::Result<()> + Send),
    ) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Something about an entry that could not be restored; its data was.
#[derive(Debug)]
pub struct MetadataProblem {
    /// What it was: `"owner"`, `"extended attribute user.x"`.
    pub what: String,
    pub error: io::Error,
}
