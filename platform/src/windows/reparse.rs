//! Links: what Windows keeps as reparse points.

use std::fs::File;
use std::io;

use tresor_engine::format::Node;
use tresor_engine::format::windows::SYMLINK_RELATIVE;
use tresor_engine::naming::{from_utf16, node_name};
use windows_sys::Win32::System::Ioctl::{FSCTL_GET_REPARSE_POINT, FSCTL_SET_REPARSE_POINT};
use windows_sys::Win32::System::SystemServices::{
    IO_REPARSE_TAG_MOUNT_POINT, IO_REPARSE_TAG_SYMLINK,
};

use super::nt;

/// Links of the Windows subsystem for Linux.
const LX_SYMLINK: u32 = 0xa000_001d;
/// The longest reparse data that there is.
const MOST: usize = 16 << 10;

/// Other reparse points are files and directories that are kept in an unusual way:
/// compressed, deduplicated, in a cloud. The system shows them as what they are.
pub(super) fn is_link(tag: u32) -> bool {
    matches!(tag, IO_REPARSE_TAG_SYMLINK | IO_REPARSE_TAG_MOUNT_POINT | LX_SYMLINK)
}

pub(super) fn read(file: &File) -> io::Result<Vec<u8>> {
    let mut data = vec![0; MOST];
    let len = nt::control(file, FSCTL_GET_REPARSE_POINT, &[], &mut data)?;
    data.truncate(len);
    Ok(data)
}

pub(super) fn write(file: &File, data: &[u8]) -> io::Result<()> {
    nt::control(file, FSCTL_SET_REPARSE_POINT, data, &mut []).map(drop)
}

fn number<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..at + N)?.try_into().ok()
}

/// The target of a link as a path with `/`; `None` if the data is not understood.
pub(super) fn target(data: &[u8]) -> Option<Vec<u8>> {
    let tag = u32::from_le_bytes(number(data, 0)?);
    if tag == LX_SYMLINK {
        return data.get(12..).map(<[u8]>::to_vec);
    }
    let is_symlink = tag == IO_REPARSE_TAG_SYMLINK;
    let names_at = if is_symlink { 20 } else { 16 };
    let at = usize::from(u16::from_le_bytes(number(data, 8)?));
    let len = usize::from(u16::from_le_bytes(number(data, 10)?));
    let name = data.get(names_at + at..names_at + at + len)?;
    let wide: Vec<u16> = name.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect();
    let name = from_utf16(&wide);
    let is_relative = is_symlink && u32::from_le_bytes(number(data, 16)?) & SYMLINK_RELATIVE != 0;
    Some(if is_relative { relative(&name) } else { super::path::recorded_path(&name) })
}

fn relative(name: &[u8]) -> Vec<u8> {
    let parts = name.split(|b| *b == b'\\');
    parts.map(node_name).collect::<Vec<_>>().join(&b'/')
}

/// What makes a link of this node.
pub(super) fn data(node: &Node) -> io::Result<Vec<u8>> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "a link can't have this target");
    node.windows_link().ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use tresor_engine::format::NodeKind;

    use super::*;

    #[test]
    fn targets_come_back() {
        for text in ["a", "../b/c", "x:y/z.", "/usr/lib"] {
            let mut node = Node::new("l", NodeKind::Symlink);
            node.target = Some(text.into());
            assert_eq!(target(&data(&node).unwrap()).unwrap(), text.as_bytes());
        }
    }

    #[test]
    fn nonsense_has_no_target() {
        for len in 0..24 {
            let mut data = vec![0xff; len];
            assert_eq!(target(&data), None);
            data.splice(..4.min(len), IO_REPARSE_TAG_SYMLINK.to_le_bytes().into_iter().take(len));
            assert_eq!(target(&data), None);
        }
    }
}
