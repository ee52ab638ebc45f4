//! Long streams: the target asks for them while it sets what belongs to their entry.

use std::io;
use std::sync::atomic::Ordering::Relaxed;

use super::Shared;
use super::fetch::{self, Failure, Target};
use super::files::has_content;
use crate::contents;
use crate::error::{Error, Result};
use crate::format::{BlobId, Content, Node};
use crate::sink::Streams;
use crate::source::SourceFile;

/// Lets the target set what belongs to an entry. The outer error ends the restore.
pub(super) fn with_streams<T>(
    shared: &Shared<'_>,
    node: &Node,
    set: impl FnOnce(&mut dyn Streams) -> io::Result<T>,
) -> Result<io::Result<T>> {
    Ok(counting_streams(shared, node, set)?.map(|(done, _)| done))
}

/// The same; also says whether a stream was written.
pub(super) fn counting_streams<T>(
    shared: &Shared<'_>,
    node: &Node,
    set: impl FnOnce(&mut dyn Streams) -> io::Result<T>,
) -> Result<io::Result<(T, bool)>> {
    let mut streams = Stored { shared, node, wrote: false, fatal: None };
    let done = set(&mut streams);
    match streams.fatal {
        Some(fatal) => Err(fatal),
        None => Ok(done.map(|done| (done, streams.wrote))),
    }
}

struct Stored<'a> {
    shared: &'a Shared<'a>,
    node: &'a Node,
    wrote: bool,
    /// Ends the restore.
    fatal: Option<Error>,
}

impl<'a> Stored<'a> {
    fn find(&self, name: &[u8]) -> Result<(&'a Content, u64)> {
        let stream = self.node.streams().iter().find(|stream| stream.name == name);
        let stream = stream.ok_or_else(|| Error::Invalid("it has no such stream".into()))?;
        Ok((&stream.content, contents::size_of(&stream.content)?))
    }

    fn fail(&mut self, failure: Failure) -> io::Error {
        match failure {
            Failure::Target(e) => e,
            Failure::Engine(e) => match self.shared.survive(e) {
                Ok(e) => io::Error::other(e.to_string()),
                Err(fatal) => io::Error::other(self.fatal.insert(fatal).to_string()),
            },
        }
    }
}

impl Streams for Stored<'_> {
    fn is_right(&mut self, name: &[u8], there: &mut dyn SourceFile) -> io::Result<bool> {
        let look = |(content, size)| has_content(self.shared, there, content, size);
        self.find(name).map_err(Failure::from).and_then(look).map_err(|e| self.fail(e))
    }

    fn write(&mut self, name: &[u8], to: Write<'_>) -> io::Result<()> {
        self.wrote = true;
        let mut writing = Writing { shared: self.shared, to };
        let fetch = |(content, size)| fetch::fetch(self.shared, content, size, &mut writing);
        self.find(name).map_err(Failure::from).and_then(fetch).map_err(|e| self.fail(e))
    }
}

type Write<'a> = &'a mut (dyn FnMut(&[u8], u64) -> io::Result<()> + Send);

struct Writing<'a> {
    shared: &'a Shared<'a>,
    to: Write<'a>,
}

impl Target for Writing<'_> {
    /// Was looked at before.
    fn has(&mut self, _: u64, _: u64, _: &BlobId) -> Result<bool, Failure> {
        self.shared.monitor.progress().check()?;
        Ok(false)
    }

    fn data(&mut self, at: u64, bytes: &[u8]) -> Result<(), Failure> {
        self.shared.monitor.progress().check()?;
        (self.to)(bytes, at)?;
        self.shared.counts.written.fetch_add(bytes.len() as u64, Relaxed);
        Ok(())
    }
}
