//! Alternate streams of a file or directory.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::windows::fs::FileExt;

use tresor_engine::contents::size_of;
use tresor_engine::format::windows::STREAM;
use tresor_engine::format::{Content, Node, NodeKind, Value, Xattr};
use tresor_engine::naming::{from_utf16, to_utf16};
use tresor_engine::sink::{MetadataProblem, Streams};
use tresor_engine::source::{Room, SourceFile};
use windows_sys::Wdk::Storage::FileSystem::{FILE_OVERWRITE_IF, FileStreamInformation};
use windows_sys::Win32::Storage::FileSystem::{DELETE, FILE_READ_DATA, FILE_WRITE_DATA};

use super::nt;

/// Names (UTF-16) and lengths of the alternate streams.
fn list(file: &File) -> Vec<(Vec<u16>, u64)> {
    // A file system that has none of them says that it doesn't know the question.
    let Ok(buffer) = nt::query_list(file, FileStreamInformation) else { return Vec::new() };
    let mut all = Vec::new();
    nt::for_each(&buffer, buffer.len() * 8, 4, 24, |record, name| {
        let length: [u8; 8] = std::array::from_fn(|i| record.get(8 + i).copied().unwrap_or(0));
        if let Some(name) = own_name(name) {
            all.push((name.to_vec(), u64::from_le_bytes(length)));
        }
    });
    all
}

/// `:name:$DATA` without what is around it; nothing for the file's own data.
fn own_name(name: &[u16]) -> Option<&[u16]> {
    let data: Vec<u16> = ":$DATA".encode_utf16().collect();
    let name = name.strip_prefix(&[u16::from(b':')])?.strip_suffix(data.as_slice())?;
    (!name.is_empty()).then_some(name)
}

fn open(file: &File, name: &[u16], open: nt::Open) -> io::Result<File> {
    open.open_no_follow(file, &[&[u16::from(b':')], name].concat())
}

/// Adds the streams that the room keeps. One that can't be read is an error once the others
/// are there.
pub(super) fn read(file: &File, into: &mut Vec<Xattr>, room: &mut Room) -> io::Result<()> {
    let mut failed = Ok(());
    for (wide, length) in list(file) {
        let name = [STREAM, &from_utf16(&wide)].concat();
        if !room.keeps(&name, length) {
            continue;
        }
        match content(file, &wide, length as usize) {
            Ok(value) => into.push(Xattr { name, value }),
            Err(e) => {
                let shown = String::from_utf16_lossy(&wide);
                failed = Err(io::Error::new(e.kind(), format!("stream {shown}: {e}")));
            }
        }
    }
    failed
}

/// Opens a stream, by the name of its attribute, to read it in parts.
pub(super) fn open_to_read(file: &File, name: &[u8]) -> io::Result<Box<dyn SourceFile>> {
    let name = name.strip_prefix(STREAM).ok_or(io::ErrorKind::NotFound)?;
    let stream = open(file, &wide(name)?, nt::Open::existing(FILE_READ_DATA))?;
    Ok(Box::new(Stream(stream)))
}

struct Stream(File);

impl SourceFile for Stream {
    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.seek_read(buf, offset)
    }

    fn next_data(&mut self, offset: u64) -> io::Result<Option<Range<u64>>> {
        Ok(Some(offset..u64::MAX))
    }

    fn stat(&mut self) -> io::Result<Node> {
        let mut node = Node::new("", NodeKind::File);
        node.size = self.0.metadata()?.len();
        Ok(node)
    }
}

fn content(file: &File, name: &[u16], length: usize) -> io::Result<Vec<u8>> {
    let stream = open(file, name, nt::Open::existing(FILE_READ_DATA))?;
    let mut bytes = vec![0; length];
    let mut done = 0;
    while done < length {
        match stream.seek_read(&mut bytes[done..], done as u64)? {
            0 => break,
            n => done += n,
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

/// Makes the streams those of the node.
pub(super) fn write(
    file: &File,
    node: &Node,
    streams: &mut dyn Streams,
    problems: &mut Vec<MetadataProblem>,
) {
    let mut problem = |name: &[u8], error| {
        let what = format!("stream {}", String::from_utf8_lossy(name));
        problems.push(MetadataProblem { what, error });
    };
    for (name, _) in list(file) {
        let name8 = from_utf16(&name);
        if node.windows_streams().all(|(wanted, _)| wanted != name8)
            && let Err(e) = remove(file, &name)
        {
            problem(&name8, e);
        }
    }
    for (name, value) in node.windows_streams() {
        let put = match value {
            Value::Here(bytes) => create(file, name).and_then(|s| write_at(&s, bytes, 0)),
            Value::Stored(content) => put_stored(file, name, content, streams),
        };
        if let Err(e) = put {
            problem(name, e);
        }
    }
}

/// Makes a stream what the snapshot has of it. If that fails once writing has begun, it is not there.
fn put_stored(
    file: &File,
    name: &[u8],
    content: &Content,
    streams: &mut dyn Streams,
) -> io::Result<()> {
    let size = size_of(content).map_err(io::Error::other)?;
    let own = [STREAM, name].concat();
    if let Ok(mut there) = open_to_read(file, &own)
        && streams.is_right(&own, &mut *there)?
    {
        return Ok(());
    }
    let stream = create(file, name)?;
    let written = streams.write(&own, &mut |bytes, at| write_at(&stream, bytes, at));
    let done = written.and_then(|()| stream.set_len(size));
    drop(stream);
    if done.is_err() {
        let _ = remove(file, &wide(name)?);
    }
    done
}

/// Makes a stream, or empties it.
fn create(file: &File, name: &[u8]) -> io::Result<File> {
    let how = nt::Open { disposition: FILE_OVERWRITE_IF, ..nt::Open::existing(FILE_WRITE_DATA) };
    open(file, &wide(name)?, how)
}

fn write_at(stream: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match stream.seek_write(&bytes[done..], at + done as u64)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            n => done += n,
        }
    }
    Ok(())
}

fn remove(file: &File, name: &[u16]) -> io::Result<()> {
    open(file, name, nt::Open::existing(DELETE)).and_then(|stream| super::remove::mark(&stream))
}

/// The name of a stream as Windows has it.
fn wide(name: &[u8]) -> io::Result<Vec<u16>> {
    let wide = to_utf16(name).filter(|w| !w.is_empty() && !w.iter().any(is_separator));
    wide.ok_or_else(|| super::wrong_name(name))
}

/// What would end the name of a stream, or lead elsewhere.
fn is_separator(unit: &u16) -> bool {
    [0, b':', b'/', b'\\'].map(u16::from).contains(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_streams() {
        let wide = |text: &str| text.encode_utf16().collect::<Vec<_>>();
        assert_eq!(own_name(&wide(":Zone.Identifier:$DATA")), Some(&wide("Zone.Identifier")[..]));
        for text in ["::$DATA", ":x:$INDEX_ALLOCATION", "", ":", "x"] {
            assert_eq!(own_name(&wide(text)), None, "{text}");
        }
    }
}
