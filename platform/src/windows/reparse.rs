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

use super::{nt, stat};

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

fn tag(data: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(number(data, 0)?))
}

/// The target of a link as a path with `/`; `None` if the data is not understood.
pub(super) fn target(data: &[u8]) -> Option<Vec<u8>> {
    let tag = tag(data)?;
    if tag == LX_SYMLINK {
        return data.get(12..).map(<[u8]>::to_vec);
    }
    let is_symlink = tag == IO_REPARSE_TAG_SYMLINK;
    let name = name(data, if is_symlink { 20 } else { 16 })?;
    let is_relative = is_symlink && u32::from_le_bytes(number(data, 16)?) & SYMLINK_RELATIVE != 0;
    Some(if is_relative { relative(&name) } else { super::path::recorded_path(&name) })
}

/// The name that the system goes by, as WTF-8.
fn name(data: &[u8], names_at: usize) -> Option<Vec<u8>> {
    let at = usize::from(u16::from_le_bytes(number(data, 8)?));
    let len = usize::from(u16::from_le_bytes(number(data, 10)?));
    let name = data.get(names_at + at..names_at + at + len)?;
    let wide: Vec<u16> = name.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect();
    Some(from_utf16(&wide))
}

/// The volume that is mounted where this is, as `mountvol` names it. A link to a folder may name
/// its volume so, too; that is none.
pub(super) fn volume(data: &[u8]) -> Option<String> {
    if tag(data)? != IO_REPARSE_TAG_MOUNT_POINT {
        return None;
    }
    let name = String::from_utf8(name(data, 16)?).ok()?;
    let name = name.strip_prefix(r"\??\").map(|name| name.strip_suffix('\\').unwrap_or(name))?;
    let id = name.strip_prefix("Volume{")?.strip_suffix('}')?;
    let is_id = id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    is_id.then(|| format!(r"\\?\{name}\"))
}

/// Whether this is a folder that a volume is mounted in, and not what is mounted.
pub(super) fn is_mount_point(file: &File) -> io::Result<bool> {
    let attributes = stat::basic(file)?.FileAttributes;
    let tag = stat::link_tag(file, attributes)?;
    Ok(tag == IO_REPARSE_TAG_MOUNT_POINT && volume(&read(file)?).is_some())
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

    fn mount_point(name: &str) -> Vec<u8> {
        let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let len = name.len() as u16;
        let mut data = IO_REPARSE_TAG_MOUNT_POINT.to_le_bytes().to_vec();
        for number in [len + 12, 0, 0, len, len + 2, 0] {
            data.extend(number.to_le_bytes());
        }
        [data, name, vec![0; 4]].concat()
    }

    #[test]
    fn volumes_that_are_mounted() {
        let id = "Volume{e2bafdae-1857-4d1a-98b4-31b88549e6f4}";
        let of = |name: &str| volume(&mount_point(name));
        assert_eq!(of(&format!(r"\??\{id}\")), Some(format!(r"\\?\{id}\")));
        assert_eq!(of(&format!(r"\??\{id}\Users")), None);
        assert_eq!(of(r"\??\C:\Users"), None);
        assert_eq!(of(r"\??\Volume{x}\"), None);
        assert_eq!(target(&mount_point(r"\??\C:\Users")).unwrap(), b"/C/Users");
    }

    #[test]
    fn nonsense_has_no_target() {
        for len in 0..24 {
            let mut data = vec![0xff; len];
            assert_eq!((target(&data), volume(&data)), (None, None));
            data.splice(..4.min(len), IO_REPARSE_TAG_SYMLINK.to_le_bytes().into_iter().take(len));
            assert_eq!(target(&data), None);
        }
    }
}
