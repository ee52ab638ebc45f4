//! Completes nodes with what costs more to learn, long streams among it.

use std::io::{self, ErrorKind};

use super::is_racy;
use super::read::Reader;
use crate::error::Result;
use crate::format::{Content, MOST_STREAMS, Node, Stream, is_stream_name, stream_name};
use crate::repo::now;
use crate::source::{LongStream, Room, SourceDir, SourceFile};

/// What could be learnt about an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Details {
    Complete,
    /// Not all, or what may be otherwise in a moment: the entry is saved so that the next
    /// backup looks again.
    Partial,
    Vanished,
}

/// More would not fit a page of a directory.
const MOST_ATTRIBUTE_BYTES: usize = 4 << 20;

impl Reader<'_> {
    /// Completes a node, which may be open; reports what can't be learnt.
    pub(super) fn details(
        &mut self,
        dir: &dyn SourceDir,
        file: Option<&dyn SourceFile>,
        node: &mut Node,
        path: &[u8],
    ) -> Result<Details> {
        let shared = self.shared;
        let has_streams = shared.repo.config().has_streams();
        let mut room = if has_streams { Room::with_streams() } else { Room::without_streams() };
        let (begun, mut details) = (now(), Details::Complete);
        let added = match file.map_or(Ok(false), |file| file.details(node, &mut room)) {
            Ok(false) => dir.details(node, &mut room),
            added => added.map(drop),
        };
        if let Err(e) = added {
            let vanished = e.kind() == ErrorKind::NotFound;
            shared.unreadable(path, "can't read its attributes", e)?;
            if vanished {
                return Ok(Details::Vanished);
            }
            details = Details::Partial;
        }
        let len: usize = node.xattrs().iter().map(|x| x.name.len() + x.value.len()).sum();
        if len > MOST_ATTRIBUTE_BYTES {
            shared.problem(
                path,
                &format!("has {len} bytes of extended attributes, more than {MOST_ATTRIBUTE_BYTES}; saved without them"),
            );
            node.xattrs = None;
            return Ok(Details::Partial);
        }
        let mut left = MOST_ATTRIBUTE_BYTES - len;
        for stream in room.into_streams() {
            self.shared.monitor.progress().check()?;
            match self.stream(dir, node, &stream, &mut left)? {
                Ok(None) => {}
                Ok(Some(content)) => {
                    let streams = node.streams.get_or_insert_default();
                    streams.push(Stream { name: stream.name, content });
                }
                Err(e) => {
                    let name = stream_name(&stream.name);
                    shared.unreadable(path, &format!("saved without its stream {name}"), e)?;
                    details = Details::Partial;
                }
            }
        }
        Ok(if is_racy(node, begun) { Details::Partial } else { details })
    }

    /// Stores a stream that is too long for its node, or says why it can't be saved; `None`
    /// if it has vanished. `left` are the bytes that may still come into the node.
    fn stream(
        &mut self,
        dir: &dyn SourceDir,
        node: &Node,
        stream: &LongStream,
        left: &mut usize,
    ) -> Result<io::Result<Option<Content>>> {
        let LongStream { name, len } = stream;
        if !self.shared.repo.config().has_streams() {
            return Ok(Err(io::Error::other(format!(
                "{len} bytes are too many for a repository that an older tresor has made; in a new one there is room"
            ))));
        }
        let most = left.saturating_sub(name.len());
        if !is_stream_name(name) || node.streams().len() >= MOST_STREAMS || most == 0 {
            return Ok(Err(io::Error::other("there are too many, or its name is impossible")));
        }
        let content = match dir.open_stream(node, name) {
            Ok(mut file) => self.contents(&mut *file, *len)?,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Ok(None)),
            Err(e) => Err(e),
        };
        Ok(content.and_then(|(content, _)| {
            let rest = most.checked_sub(content.weight());
            *left = rest.ok_or_else(|| io::Error::other("there are too many others"))?;
            Ok(Some(content))
        }))
    }
}
