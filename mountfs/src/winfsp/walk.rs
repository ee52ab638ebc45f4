//! From paths, which is what WinFsp asks by, to entries.

use std::sync::Arc;

use tresor_engine::format::NodeKind;
use tresor_engine::naming::{from_utf16, to_utf16};

use crate::core::{Attr, FsError, FsResult, Ino, SnapshotFs, WindowsMeta};
use crate::read::FileReader;

const SEPARATOR: u16 = b'\\' as u16;
const STREAM: u16 = b':' as u16;

/// An entry that a path leads to. Its number and those on the way stay known as long as it lives.
pub(super) struct Found {
    fs: Arc<SnapshotFs>,
    looked_up: Vec<Ino>,
    pub attr: Attr,
    pub meta: WindowsMeta,
    /// The path as the entries on it are called.
    pub path: Vec<u16>,
    /// The stream, if the path names one.
    pub stream: Option<Arc<FileReader>>,
}

impl Drop for Found {
    fn drop(&mut self) {
        self.looked_up.iter().for_each(|ino| self.fs.forget(*ino, 1));
    }
}

impl Found {
    /// Fails with the number of the entry to which the error belongs.
    pub fn new(fs: &Arc<SnapshotFs>, path: &[u16]) -> Result<Self, (Ino, FsError)> {
        let at_root = |e| (Ino::ROOT, e);
        let (path, stream) = match path.iter().position(|unit| *unit == STREAM) {
            Some(at) => (&path[..at], Some(&path[at + 1..])),
            None => (path, None),
        };
        let mut found = Self {
            fs: fs.clone(),
            looked_up: Vec::new(),
            attr: fs.attr(Ino::ROOT).map_err(at_root)?,
            meta: WindowsMeta::default(),
            path: Vec::with_capacity(path.len()),
            stream: None,
        };
        for name in path.split(|unit| *unit == SEPARATOR).filter(|name| !name.is_empty()) {
            let parent = found.attr.ino;
            found.step(name).map_err(|e| (parent, e))?;
        }
        if found.path.is_empty() {
            found.path.push(SEPARATOR);
        }
        let ino = found.attr.ino;
        match stream.and_then(alternate) {
            Some(name) => found.open_stream(name),
            None => fs.windows_meta(&found.attr).map(|meta| found.meta = meta),
        }
        .map_err(|e| (ino, e))?;
        Ok(found)
    }

    fn step(&mut self, name: &[u16]) -> FsResult<()> {
        let entry = self.fs.windows_lookup(self.attr.ino, &from_utf16(name))?;
        self.looked_up.push(entry.attr.ino);
        self.attr = entry.attr;
        self.path.push(SEPARATOR);
        self.path.extend(to_utf16(&entry.name).ok_or(FsError::NotFound)?);
        Ok(())
    }

    fn open_stream(&mut self, name: &[u16]) -> FsResult<()> {
        let name = from_utf16(name);
        let stream = self.fs.windows_stream(&self.attr, &name)?.ok_or(FsError::NotFound)?;
        self.path.push(STREAM);
        self.path.extend(to_utf16(&stream.name).ok_or(FsError::NotFound)?);
        (self.attr, self.meta) = (stream.attr, stream.meta);
        self.stream = Some(stream.content);
        Ok(())
    }

    /// Length of what is read from it.
    pub fn size(&self) -> u64 {
        if self.attr.kind == NodeKind::File { self.attr.size } else { 0 }
    }
}

/// The name of an alternate stream; `:` and `::$DATA` mean the file itself.
fn alternate(stream: &[u16]) -> Option<&[u16]> {
    let name = stream.split(|unit| *unit == STREAM).next()?;
    (!name.is_empty()).then_some(name)
}
