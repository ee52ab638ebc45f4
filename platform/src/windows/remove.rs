//! Removes entries.

use std::fs::File;
use std::io;

use windows_sys::Wdk::Storage::FileSystem::{
    FILE_BASIC_INFORMATION, FILE_DISPOSITION_DELETE, FILE_DISPOSITION_IGNORE_READONLY_ATTRIBUTE,
    FILE_DISPOSITION_INFORMATION, FILE_DISPOSITION_INFORMATION_EX,
    FILE_DISPOSITION_POSIX_SEMANTICS, FileBasicInformation, FileDispositionInformation,
    FileDispositionInformationEx,
};
use windows_sys::Win32::Storage::FileSystem::{
    DELETE, FILE_ATTRIBUTE_DIRECTORY, FILE_ATTRIBUTE_NORMAL, FILE_ATTRIBUTE_READONLY,
    FILE_WRITE_ATTRIBUTES,
};

use super::{READ_DIR, nt, reparse, stat};
use crate::kept::Kept;

/// Removes an open entry, though it is read-only.
pub(super) fn mark(file: &File) -> io::Result<()> {
    let flags = FILE_DISPOSITION_DELETE
        | FILE_DISPOSITION_POSIX_SEMANTICS
        | FILE_DISPOSITION_IGNORE_READONLY_ATTRIBUTE;
    let all = FILE_DISPOSITION_INFORMATION_EX { Flags: flags };
    if nt::set(file, FileDispositionInformationEx, &all).is_ok() {
        return Ok(());
    }
    // Older systems, and file systems other than NTFS. If this fails, so will the rest.
    let _ = make_writable(file);
    let gone = FILE_DISPOSITION_INFORMATION { DeleteFile: true };
    nt::set(file, FileDispositionInformation, &gone)
}

pub(super) fn make_writable(file: &File) -> io::Result<()> {
    let attributes = stat::basic(file)?.FileAttributes;
    if attributes & FILE_ATTRIBUTE_READONLY == 0 {
        return Ok(());
    }
    let attributes = attributes & !FILE_ATTRIBUTE_READONLY | FILE_ATTRIBUTE_NORMAL;
    let basic = FILE_BASIC_INFORMATION { FileAttributes: attributes, ..Default::default() };
    nt::set(file, FileBasicInformation, &basic)
}

fn open(dir: &File, name: &[u8], access: u32) -> io::Result<File> {
    let open = nt::Open::existing(access | DELETE | FILE_WRITE_ATTRIBUTES);
    let file = super::open_existing(dir, name, open, false)?;
    if reparse::is_mount_point(&file)? {
        let message = "a volume is mounted there; `mountvol /D` takes it away";
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
    }
    Ok(file)
}

fn is_dir(file: &File) -> io::Result<bool> {
    let attributes = stat::basic(file)?.FileAttributes;
    Ok(attributes & FILE_ATTRIBUTE_DIRECTORY != 0 && stat::link_tag(file, attributes)? == 0)
}

/// Removes a non-directory.
pub(super) fn remove(dir: &File, name: &[u8]) -> io::Result<()> {
    let file = open(dir, name, 0)?;
    if is_dir(&file)? {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "is a directory"));
    }
    mark(&file)
}

/// Removes a directory with all in it, without following links.
pub(super) fn remove_dir_all(dir: &File, name: &[u8], kept: &Kept) -> io::Result<()> {
    let frame = |dir: &File, name: &[u8]| {
        let file = open(dir, name, READ_DIR)?;
        kept.check(&stat::identity(&file)?)?;
        let names = if is_dir(&file)? { super::names(&file)? } else { Vec::new() };
        io::Result::Ok((file, names.into_iter()))
    };
    let mut stack = vec![frame(dir, name)?];
    while let Some((file, names)) = stack.last_mut() {
        match names.next() {
            Some(name) => match frame(file, &name) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                below => stack.push(below?),
            },
            None => {
                let Some((file, _)) = stack.pop() else { break };
                mark(&file)?;
            }
        }
    }
    Ok(())
}
