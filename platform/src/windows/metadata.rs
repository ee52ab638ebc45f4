//! What belongs to an entry beside its content.

use std::fs::File;
use std::io;

use tresor_engine::format::windows::{ATTRIBUTES, CREATED, PREFIX, REPARSE, SECURITY};
use tresor_engine::format::{Node, NodeKind, Xattr};
use tresor_engine::sink::{MetadataProblem, Streams};
use tresor_engine::source::Room;
use windows_sys::Wdk::Storage::FileSystem::{FILE_BASIC_INFORMATION, FileBasicInformation};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_ATTRIBUTE_ARCHIVE, FILE_ATTRIBUTE_COMPRESSED, FILE_ATTRIBUTE_DIRECTORY,
    FILE_ATTRIBUTE_HIDDEN, FILE_ATTRIBUTE_NORMAL, FILE_ATTRIBUTE_NOT_CONTENT_INDEXED,
    FILE_ATTRIBUTE_READONLY, FILE_ATTRIBUTE_SYSTEM, FILE_ATTRIBUTE_TEMPORARY, FILE_READ_DATA,
    FILE_WRITE_ATTRIBUTES, FILE_WRITE_DATA, READ_CONTROL, WRITE_DAC, WRITE_OWNER,
};
use windows_sys::Win32::System::Ioctl::FSCTL_SET_COMPRESSION;
use windows_sys::Win32::System::SystemServices::ACCESS_SYSTEM_SECURITY;

use super::{nt, privileges, reparse, security, stat, streams};

/// The attributes that can be set.
const SETTABLE: u32 = FILE_ATTRIBUTE_READONLY
    | FILE_ATTRIBUTE_HIDDEN
    | FILE_ATTRIBUTE_SYSTEM
    | FILE_ATTRIBUTE_ARCHIVE
    | FILE_ATTRIBUTE_TEMPORARY
    | FILE_ATTRIBUTE_NOT_CONTENT_INDEXED;

pub(super) fn audit_access() -> u32 {
    if privileges::may_audit() { ACCESS_SYSTEM_SECURITY } else { 0 }
}

/// Opens something so that its audit rules can be read, or else without: not every file
/// system has such.
pub(super) fn with_audit(open: impl Fn(u32) -> io::Result<File>) -> io::Result<File> {
    match open(audit_access()) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied && audit_access() != 0 => open(0),
        opened => opened,
    }
}

/// Adds to an entry of a directory what `stat` hasn't told.
pub(super) fn read_in(dir: &File, node: &mut Node, room: &mut Room) -> io::Result<()> {
    let open = |audit| nt::Open::existing(READ_CONTROL | audit);
    let file = with_audit(|audit| super::open_existing(dir, &node.name, open(audit), false))?;
    if !reparse::is_mount_point(&file)? {
        return read(&file, node, room);
    }
    read_root(
        &with_audit(|audit| super::open_existing(dir, &node.name, open(audit), true))?,
        node,
        room,
    )
}

/// The same of the root of a volume. Windows hides all of these, but not the drive or folder that
/// it is seen in; a folder that it is restored to would be hidden.
pub(super) fn read_root(file: &File, node: &mut Node, room: &mut Room) -> io::Result<()> {
    let result = read(file, node, room);
    let shown = !(FILE_ATTRIBUTE_HIDDEN | FILE_ATTRIBUTE_SYSTEM);
    for xattr in node.xattrs.iter_mut().flatten().filter(|xattr| xattr.name == ATTRIBUTES) {
        if let Ok(attributes) = <[u8; 4]>::try_from(&*xattr.value) {
            xattr.value = (u32::from_le_bytes(attributes) & shown).to_le_bytes().into();
        }
    }
    result
}

fn read(file: &File, node: &mut Node, room: &mut Room) -> io::Result<()> {
    let basic = stat::basic(file)?;
    let mut all = vec![
        Xattr { name: ATTRIBUTES.into(), value: basic.FileAttributes.to_le_bytes().into() },
        Xattr { name: CREATED.into(), value: basic.CreationTime.to_le_bytes().into() },
    ];
    if node.kind == NodeKind::Symlink {
        let data = reparse::read(file)?;
        let target = reparse::target(&data);
        let target = target.ok_or_else(|| io::Error::other("is a link of an unknown kind"))?;
        node.size = target.len() as u64;
        node.target = Some(target);
        all.push(Xattr { name: REPARSE.into(), value: data });
    }
    let rights = security::read(file).map(|descriptor| {
        all.push(Xattr { name: SECURITY.into(), value: descriptor });
    });
    let streams = streams::read(file, &mut all, room);
    all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    node.xattrs = Some(all);
    rights.and(streams)
}

/// Opens an entry to set what belongs to it, with as many rights as there are.
pub(super) fn open(dir: &File, name: &[u8]) -> io::Result<File> {
    let least = READ_CONTROL | FILE_WRITE_ATTRIBUTES;
    let ladder = [
        least | WRITE_DAC | WRITE_OWNER | FILE_READ_DATA | FILE_WRITE_DATA | audit_access(),
        least | WRITE_DAC | WRITE_OWNER,
        least | WRITE_DAC,
        FILE_WRITE_ATTRIBUTES,
    ];
    let mut last = Err(io::ErrorKind::PermissionDenied.into());
    for access in ladder {
        last = super::open_entry(dir, name, nt::Open::existing(access));
        match &last {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
            _ => break,
        }
    }
    last
}

/// Sets all that can be set, and tells what can't. Streams come first, since writing them
/// changes times; attributes and times come last, since a file may be closed by them.
pub(super) fn apply(
    file: &File,
    node: &Node,
    streams: &mut dyn Streams,
) -> io::Result<Vec<MetadataProblem>> {
    let mut problems = Vec::new();
    let mut problem =
        |what: &str, error: io::Error| problems.push(MetadataProblem { what: what.into(), error });
    for (name, _) in node.attributes().filter(|(name, _)| !name.starts_with(PREFIX)) {
        let what = format!("extended attribute {}", name.escape_ascii());
        problem(&what, io::Error::new(io::ErrorKind::Unsupported, "Windows has nothing like it"));
    }
    let now = stat::basic(file)?;
    let recorded = node.windows_attributes();
    if recorded.is_some_and(|r| (r ^ now.FileAttributes) & FILE_ATTRIBUTE_COMPRESSED != 0) {
        let compress = recorded.is_some_and(|r| r & FILE_ATTRIBUTE_COMPRESSED != 0);
        let format = u16::from(compress).to_le_bytes();
        if let Err(e) = nt::control(file, FSCTL_SET_COMPRESSION, &format, &mut []) {
            problem("compression", e);
        }
    }
    if let Some(descriptor) = node.windows_security()
        && security::read(file).ok().as_deref() != Some(descriptor)
        && let Err(e) = security::write(file, descriptor)
    {
        problem("security descriptor", e);
    }
    if recorded.is_some() && node.kind != NodeKind::Symlink {
        streams::write(file, node, streams, &mut problems);
    }
    if let Err(error) = set_basic(file, node, now.FileAttributes) {
        problems.push(MetadataProblem { what: "attributes and times".into(), error });
    }
    Ok(problems)
}

fn set_basic(file: &File, node: &Node, now: u32) -> io::Result<()> {
    let is_closed = node.is_file() && node.mode & 0o222 == 0;
    let foreign = if is_closed { FILE_ATTRIBUTE_READONLY } else { now & !FILE_ATTRIBUTE_READONLY };
    let wanted = node.windows_attributes().unwrap_or(foreign) & SETTABLE;
    let directory = now & FILE_ATTRIBUTE_DIRECTORY;
    let attributes = match wanted | directory {
        0 => FILE_ATTRIBUTE_NORMAL,
        some => some,
    };
    let basic = FILE_BASIC_INFORMATION {
        // Zero would mean to leave it.
        CreationTime: node.created().map_or(0, |time| time.to_filetime()),
        LastAccessTime: node.atime.to_filetime().max(1),
        LastWriteTime: node.mtime.to_filetime().max(1),
        ChangeTime: 0,
        FileAttributes: attributes,
    };
    nt::set(file, FileBasicInformation, &basic)
}
