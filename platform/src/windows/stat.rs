//! What the system says about an entry, as a node.

use std::fs::File;
use std::io;

use tresor_engine::format::{LinkId, Node, NodeKind, Time};
use windows_sys::Wdk::Storage::FileSystem::{
    FILE_BASIC_INFORMATION, FileAttributeTagInformation, FileBasicInformation,
};
use windows_sys::Win32::Storage::FileSystem::{
    BY_HANDLE_FILE_INFORMATION, FILE_ATTRIBUTE_DIRECTORY, FILE_ATTRIBUTE_READONLY,
    FILE_ATTRIBUTE_REPARSE_POINT, FILE_ATTRIBUTE_TAG_INFO, GetFileInformationByHandle,
};

use super::{nt, reparse};
use crate::stamp::change_time;

pub(super) fn basic(file: &File) -> io::Result<FILE_BASIC_INFORMATION> {
    nt::query(file, FileBasicInformation)
}

/// The tag of a link; 0 for what is none, though it may be kept in an unusual way.
pub(super) fn link_tag(file: &File, attributes: u32) -> io::Result<u32> {
    if attributes & FILE_ATTRIBUTE_REPARSE_POINT == 0 {
        return Ok(0);
    }
    let tag: FILE_ATTRIBUTE_TAG_INFO = nt::query(file, FileAttributeTagInformation)?;
    Ok(if reparse::is_link(tag.ReparseTag) { tag.ReparseTag } else { 0 })
}

/// Rights as Unix would show them: Windows has none that could be written as such.
fn mode(kind: NodeKind, attributes: u32) -> u32 {
    match kind {
        NodeKind::Directory => 0o755,
        NodeKind::Symlink => 0o777,
        _ if attributes & FILE_ATTRIBUTE_READONLY != 0 => 0o444,
        _ => 0o644,
    }
}

/// The entry, and the number of its volume.
pub(super) fn node(name: &[u8], file: &File) -> io::Result<(Node, u64)> {
    let mut info = BY_HANDLE_FILE_INFORMATION::default();
    // SAFETY: the handle is open and the place to write to is of the type it wants.
    if unsafe { GetFileInformationByHandle(nt::raw(file), &mut info) } == 0 {
        return Err(io::Error::last_os_error());
    }
    let basic = basic(file)?;
    let attributes = basic.FileAttributes;
    let kind = match link_tag(file, attributes)? {
        0 if attributes & FILE_ATTRIBUTE_DIRECTORY != 0 => NodeKind::Directory,
        0 => NodeKind::File,
        _ => NodeKind::Symlink,
    };
    let mut node = Node::new(name, kind);
    node.mode = mode(kind, attributes);
    node.mtime = Time::from_filetime(basic.LastWriteTime);
    node.atime = Time::from_filetime(basic.LastAccessTime);
    node.ctime = change_time(Time::from_filetime(basic.ChangeTime), node.mtime);
    node.inode = join(info.nFileIndexHigh, info.nFileIndexLow);
    let device = u64::from(info.dwVolumeSerialNumber);
    if kind == NodeKind::File {
        node.size = join(info.nFileSizeHigh, info.nFileSizeLow);
        if info.nNumberOfLinks > 1 {
            node.link = Some(LinkId { device, inode: node.inode, names: info.nNumberOfLinks });
        }
    }
    Ok((node, device))
}

pub(super) fn identity(file: &File) -> io::Result<super::Identity> {
    let (node, volume) = node(b"", file)?;
    Ok((volume, node.inode))
}

fn join(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}
