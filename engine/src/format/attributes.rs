//! Extended attributes, of which alternate streams are some: short ones lie in the node,
//! long ones are stored as the contents of files are.

use std::collections::HashSet;

use minicbor::{Decode, Encode};

use super::node::{Content, Node};
use super::windows;

/// One that lies in its node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Xattr {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub name: Vec<u8>,
    #[cbor(n(1), with = "minicbor::bytes")]
    pub value: Vec<u8>,
}

/// One that is stored as contents are.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Stream {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub name: Vec<u8>,
    #[n(1)]
    pub content: Content,
}

/// Names of streams are no longer, nor are there more of them; systems have names of 255
/// units and less.
pub const MOST_STREAM_NAME: usize = 1024;
pub const MOST_STREAMS: usize = 4096;

/// What an extended attribute holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Here(&'a [u8]),
    Stored(&'a Content),
}

impl Value<'_> {
    /// Length in bytes; `None` if that can't be.
    pub fn size(&self) -> Option<u64> {
        match self {
            Self::Here(bytes) => Some(bytes.len() as u64),
            Self::Stored(content) => content.size(),
        }
    }
}

impl Node {
    /// Those that lie in the node.
    pub fn xattrs(&self) -> &[Xattr] {
        self.xattrs.as_deref().unwrap_or_default()
    }

    /// The value of one that lies in the node.
    pub fn xattr(&self, name: &[u8]) -> Option<&[u8]> {
        self.xattrs().iter().find(|x| x.name == name).map(|x| x.value.as_slice())
    }

    /// Those that are stored as contents are.
    pub fn streams(&self) -> &[Stream] {
        self.streams.as_deref().unwrap_or_default()
    }

    /// All extended attributes, wherever they lie.
    pub fn attributes(&self) -> impl Iterator<Item = (&[u8], Value<'_>)> {
        let here = self.xattrs().iter().map(|x| (x.name.as_slice(), Value::Here(&x.value)));
        here.chain(self.streams().iter().map(|s| (s.name.as_slice(), Value::Stored(&s.content))))
    }

    pub fn attribute(&self, name: &[u8]) -> Option<Value<'_>> {
        self.attributes().find(|(other, _)| *other == name).map(|(_, value)| value)
    }

    /// All that chunks are stored for: the data of a file, and the streams of any entry,
    /// which have names.
    pub fn contents(&self) -> impl Iterator<Item = (Option<&[u8]>, &Content)> {
        let data = self.content.iter().map(|content| (None, content));
        data.chain(self.streams().iter().map(|s| (Some(s.name.as_slice()), &s.content)))
    }

    /// Whether names of streams are possible and in order, and no attribute is there twice.
    pub(super) fn has_valid_streams(&self) -> bool {
        let streams = self.streams();
        if streams.is_empty() {
            return true;
        }
        let here: HashSet<_> = self.xattrs().iter().map(|x| x.name.as_slice()).collect();
        let is_valid = |stream: &Stream| {
            is_stream_name(&stream.name) && !here.contains(stream.name.as_slice())
        };
        streams.len() <= MOST_STREAMS
            && streams.iter().all(is_valid)
            && streams.is_sorted_by(|a, b| a.name < b.name)
    }
}

/// Whether a stream may be called so.
pub fn is_stream_name(name: &[u8]) -> bool {
    (1..=MOST_STREAM_NAME).contains(&name.len()) && !name.contains(&0)
}

/// How the name of a stream is shown to people.
pub fn stream_name(name: &[u8]) -> String {
    super::display_name(name.strip_prefix(windows::STREAM).unwrap_or(name))
}
