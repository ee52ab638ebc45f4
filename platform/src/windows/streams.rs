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
use windows_sys::Win32::Foundation::ERROR_FILE_NOT_FOUND;
use windows_sys::Win32::Storage::FileSystem::{DELETE, FILE_READ_DATA, FILE_WRITE_DATA};

use super::metadata::of_part;
use super::nt;

/// Names (UTF-16) and lengths of the alternate streams; none where the file system has none.
fn list(file: &File) -> io::Result<Vec<(Vec<u16>, u64)>> {
    let mut all = Vec::new();
    let Some(buffer) = nt::query_list(file, FileStreamInformation)? else { return Ok(all) };
    nt::for_each(&buffer, buffer.len() * 8, 4, 24, |record, name| {
        let length: [u8; 8] = std::array::from_fn(|i| record.get(8 + i).copied().unwrap_or(0));
        if let Some(name) = own_name(name) {
            all.push((name.to_vec(), u64::from_le_bytes(length)));
        }
    });
    Ok(all)
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

/// Adds the streams that the room keeps, but for those that have vanished. What can't be read is
/// an error once the others are there.
pub(super) fn read(file: &File, into: &mut Vec<Xattr>, room: &mut Room) -> io::Result<()> {
    let mut failed = Ok(());
    for (wide, length) in list(file).map_err(|e| of_part("list of streams", e))? {
        let name = [STREAM, &from_utf16(&wide)].concat();
        if !room.keeps(&name, length) {
            continue;
        }
        match content(file, &wide, length as usize) {
            Ok(value) => into.push(Xattr { name, value }),
            Err(e) if has_vanished(&e) => {}
            Err(e) => {
                let what = format!("stream {}", String::from_utf16_lossy(&wide));
                failed = failed.and(Err(of_part(&what, e)));
            }
        }
    }
    failed
}

/// Also a share that is gone would be of the kind "not found".
fn has_vanished(error: &io::Error) -> bool {
    error.raw_os_error() == Some(ERROR_FILE_NOT_FOUND as i32)
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

/// Makes the streams those of the node. What is right already is not touched.
pub(super) fn write(
    file: &File,
    node: &Node,
    streams: &mut dyn Streams,
    problems: &mut Vec<MetadataProblem>,
) {
    let mut problem = |what: String, error| problems.push(MetadataProblem { what, error });
    let shown = |name: &[u8]| format!("stream {}", String::from_utf8_lossy(name));
    match list(file) {
        // It may have had more than could be saved.
        Ok(_) if node.may_lack_attributes() => {}
        Ok(there) => {
            for (name, _) in there {
                let name8 = from_utf16(&name);
                if node.windows_streams().all(|(wanted, _)| wanted != name8)
                    && let Err(e) = remove(file, &name)
                {
                    problem(format!("{} (to be removed)", shown(&name8)), e);
                }
            }
        }
        Err(e) => problem("list of streams".into(), e),
    }
    for (name, value) in node.windows_streams() {
        let put = match value {
            Value::Here(bytes) => put_short(file, name, bytes),
            Value::Stored(content) => put_stored(file, name, content, streams),
        };
        if let Err(e) = put {
            problem(shown(name), e);
        }
    }
}

fn put_short(file: &File, name: &[u8], bytes: &[u8]) -> io::Result<()> {
    // One byte more shows whether it is longer.
    if content(file, &wide(name)?, bytes.len() + 1).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    put(file, name, |stream| write_at(stream, bytes, 0))
}

/// Makes a stream what the snapshot has of it.
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
    put(file, name, |stream| {
        streams.write(&own, &mut |bytes, at| write_at(stream, bytes, at))?;
        stream.set_len(size)
    })
}

/// Makes a stream, or empties it, and writes it. If that fails once writing has begun, it is not
/// there.
fn put(file: &File, name: &[u8], write: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    let name = wide(name)?;
    let how = nt::Open { disposition: FILE_OVERWRITE_IF, ..nt::Open::existing(FILE_WRITE_DATA) };
    let stream = open(file, &name, how)?;
    let done = write(&stream);
    drop(stream);
    if done.is_err() {
        let _ = remove(file, &name);
    }
    done
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
