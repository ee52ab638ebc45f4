//! Alternate streams of a file or directory.

use std::fs::File;
use std::io;
use std::os::windows::fs::FileExt;

use tresor_engine::format::windows::STREAM;
use tresor_engine::format::{Node, Xattr};
use tresor_engine::naming::{from_utf16, to_utf16};
use tresor_engine::sink::MetadataProblem;
use windows_sys::Wdk::Storage::FileSystem::{FILE_OVERWRITE_IF, FileStreamInformation};
use windows_sys::Win32::Storage::FileSystem::{DELETE, FILE_READ_DATA, FILE_WRITE_DATA};

use super::{nt, remove};

/// What all streams of an entry may have together: they are kept in its node.
const MOST: u64 = 3 << 20;

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

/// Adds the streams to a node. One that is too long is left out, which is an error once
/// the others are there.
pub(super) fn read(file: &File, into: &mut Vec<Xattr>) -> io::Result<()> {
    let mut left = MOST;
    let mut failed = Ok(());
    for (name, length) in list(file) {
        let shown = String::from_utf16_lossy(&name);
        let value = match left.checked_sub(length) {
            Some(rest) => {
                left = rest;
                content(file, &name, length as usize)
            }
            None => Err(io::Error::other(format!("{length} bytes are too many to be saved"))),
        };
        match value {
            Ok(value) => into.push(Xattr { name: [STREAM, &from_utf16(&name)].concat(), value }),
            Err(e) => failed = Err(io::Error::new(e.kind(), format!("stream {shown}: {e}"))),
        }
    }
    failed
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
pub(super) fn write(file: &File, node: &Node, problems: &mut Vec<MetadataProblem>) {
    let mut problem = |name: &[u8], error| {
        let what = format!("stream {}", String::from_utf8_lossy(name));
        problems.push(MetadataProblem { what, error });
    };
    for (name, _) in list(file) {
        let name8 = from_utf16(&name);
        if node.windows_streams().all(|(wanted, _)| wanted != name8)
            && let Err(e) =
                open(file, &name, nt::Open::existing(DELETE)).and_then(|s| remove::mark(&s))
        {
            problem(&name8, e);
        }
    }
    for (name, value) in node.windows_streams() {
        if let Err(e) = put(file, name, value) {
            problem(name, e);
        }
    }
}

fn put(file: &File, name: &[u8], value: &[u8]) -> io::Result<()> {
    let wide = to_utf16(name).filter(|w| !w.is_empty() && !w.iter().any(is_separator));
    let wide = wide.ok_or_else(|| super::wrong_name(name))?;
    let how = nt::Open { disposition: FILE_OVERWRITE_IF, ..nt::Open::existing(FILE_WRITE_DATA) };
    let stream = open(file, &wide, how)?;
    let mut done = 0;
    while done < value.len() {
        done += stream.seek_write(&value[done..], done as u64)?;
    }
    Ok(())
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
