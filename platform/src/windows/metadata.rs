//! What belongs to an entry beside its content.

use std::fs::File;
use std::io;

use tresor_engine::format::windows::{ATTRIBUTES, CREATED, PREFIX, REPARSE, SECURITY};
use tresor_engine::format::{Node, NodeKind, Xattr};
use tresor_engine::sink::{MetadataProblem, Streams};
use tresor_engine::source::Room;
use windows_sys::Wdk::Storage::FileSystem::{FILE_BASIC_INFORMATION, FileBasicInformation};
use windows_sys::Win32::Foundation::ERROR_TOO_MANY_OPEN_FILES;
use windows_sys::Win32::Storage::FileSystem::{
    FILE_ATTRIBUTE_ARCHIVE, FILE_ATTRIBUTE_COMPRESSED, FILE_ATTRIBUTE_DIRECTORY,
    FILE_ATTRIBUTE_HIDDEN, FILE_ATTRIBUTE_NORMAL, FILE_ATTRIBUTE_NOT_CONTENT_INDEXED,
    FILE_ATTRIBUTE_READONLY, FILE_ATTRIBUTE_SYSTEM, FILE_ATTRIBUTE_TEMPORARY, FILE_READ_DATA,
    FILE_WRITE_ATTRIBUTES, FILE_WRITE_DATA, READ_CONTROL, WRITE_DAC, WRITE_OWNER,
};
use windows_sys::Win32::System::Ioctl::FSCTL_SET_COMPRESSION;
use windows_sys::Win32::System::SystemServices::ACCESS_SYSTEM_SECURITY;

use super::{nt, privileges, remove, reparse, security, stat, streams};

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
    let rights = rights.map_err(|e| of_part("security descriptor", e));
    let streams = streams::read(file, &mut all, room);
    all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    node.xattrs = Some(all);
    rights.and(streams)
}

/// An error of something that belongs to an entry. That this is not found says nothing about the
/// entry; errors of the whole process stay what they are.
pub(super) fn of_part(what: &str, error: io::Error) -> io::Error {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => io::ErrorKind::Other,
        kind => kind,
    };
    if error.raw_os_error() == Some(ERROR_TOO_MANY_OPEN_FILES as i32) {
        return error;
    }
    io::Error::new(kind, format!("{what}: {error}"))
}

/// Opens an entry to set what belongs to it, with as many rights as there are. What is read-only
/// would be closed to us, its streams too, so it isn't any more; `apply` makes it so again.
pub(super) fn open(dir: &File, node: &Node) -> io::Result<File> {
    let with = |access: u32| super::open_entry(dir, &node.name, nt::Open::existing(access));
    let file = with_most(with)?;
    if stat::node(&node.name, &file)?.0.kind != node.kind {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "is of another kind now"));
    }
    let is_closed = stat::basic(&file)?.FileAttributes & FILE_ATTRIBUTE_READONLY != 0;
    if !is_closed || remove::make_writable(&file).is_err() {
        return Ok(file);
    }
    Ok(open_again(&file).unwrap_or(file))
}

/// What is open already, once more: without a name it is itself.
pub(super) fn open_again(file: &File) -> io::Result<File> {
    with_most(|access: u32| nt::Open::existing(access).open_no_follow(file, &[]))
}

fn with_most(open: impl Fn(u32) -> io::Result<File>) -> io::Result<File> {
    let least = READ_CONTROL | FILE_WRITE_ATTRIBUTES;
    let ladder = [
        least | WRITE_DAC | WRITE_OWNER | FILE_READ_DATA | FILE_WRITE_DATA | audit_access(),
        least | WRITE_DAC | WRITE_OWNER,
        least | WRITE_DAC,
        FILE_WRITE_ATTRIBUTES,
    ];
    let mut last = Err(io::ErrorKind::PermissionDenied.into());
    for access in ladder {
        last = open(access);
        match &last {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
            _ => break,
        }
    }
    last
}

/// Sets all that can be set, and tells what can't. Streams come first: they are opened by name,
/// which the rights that are set after them may forbid, and writing them changes times. Attributes
/// and times come last, since a file may be closed by them.
pub(super) fn apply(
    file: &File,
    node: &Node,
    streams: &mut dyn Streams,
) -> io::Result<Vec<MetadataProblem>> {
    let mut problems = Vec::new();
    for (name, _) in node.attributes().filter(|(name, _)| !name.starts_with(PREFIX)) {
        let what = format!("extended attribute {}", name.escape_ascii());
        let error = io::Error::new(io::ErrorKind::Unsupported, "Windows has nothing like it");
        problems.push(MetadataProblem { what, error });
    }
    let problem = |what: &str, error| MetadataProblem { what: what.into(), error };
    let now = stat::basic(file)?;
    let recorded = node.windows_attributes();
    if recorded.is_some_and(|r| (r ^ now.FileAttributes) & FILE_ATTRIBUTE_COMPRESSED != 0) {
        let compress = recorded.is_some_and(|r| r & FILE_ATTRIBUTE_COMPRESSED != 0);
        let format = u16::from(compress).to_le_bytes();
        if let Err(e) = nt::control(file, FSCTL_SET_COMPRESSION, &format, &mut []) {
            problems.push(problem("compression", e));
        }
    }
    if recorded.is_some() {
        streams::write(file, node, streams, &mut problems);
    }
    if let Some(descriptor) = node.windows_security()
        && security::read(file).ok().as_deref() != Some(descriptor)
        && let Err(e) = security::write(file, descriptor)
    {
        problems.push(problem("security descriptor", e));
    }
    if let Err(e) = set_basic(file, node, now.FileAttributes) {
        problems.push(problem("attributes and times", e));
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
