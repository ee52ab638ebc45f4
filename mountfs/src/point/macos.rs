//! The table of mounts of macOS, and its calls.

use std::ffi::{CStr, CString, OsStr, c_char};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Drive, Kind};

/// Room for mounts that come while the list is asked for.
const SPARE: usize = 16;

pub(super) fn mounts_at(point: &Path) -> Vec<Option<Drive>> {
    let there = |line: &&Line| Path::new(OsStr::from_bytes(line.point())) == point;
    lines().iter().filter(there).map(Line::drive).collect()
}

/// A line of the table of mounts.
struct Line(libc::statfs);

impl Line {
    /// The table doesn't tell where a server listens.
    fn drive(&self) -> Option<Drive> {
        let kind = Kind::of(self.kind(), self.source())?;
        Some(Drive { kind, source: self.source().to_vec(), device: self.device(), server: None })
    }

    fn device(&self) -> Vec<u8> {
        // SAFETY: it is these two numbers, to which the crate gives no way.
        let numbers: [i32; 2] = unsafe { std::mem::transmute(self.0.f_fsid) };
        numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
    }

    fn kind(&self) -> &[u8] {
        text(&self.0.f_fstypename)
    }

    fn source(&self) -> &[u8] {
        text(&self.0.f_mntfromname)
    }

    fn point(&self) -> &[u8] {
        text(&self.0.f_mntonname)
    }
}

fn lines() -> Vec<Line> {
    // SAFETY: without a buffer it only counts.
    let count = unsafe { libc::getfsstat(std::ptr::null_mut(), 0, libc::MNT_NOWAIT) };
    let mut all = Vec::<libc::statfs>::with_capacity(usize::try_from(count).unwrap_or(0) + SPARE);
    let room = size_of_val(all.spare_capacity_mut());
    let room = libc::c_int::try_from(room).unwrap_or(0);
    // SAFETY: the buffer has as many bytes as is said.
    let filled = unsafe { libc::getfsstat(all.as_mut_ptr(), room, libc::MNT_NOWAIT) };
    let filled = usize::try_from(filled).unwrap_or(0).min(all.capacity());
    // SAFETY: so many were filled in.
    unsafe { all.set_len(filled) };
    all.into_iter().map(Line).collect()
}

/// A string in a field that may be longer.
fn text(field: &[c_char]) -> &[u8] {
    // SAFETY: the same bytes, unsigned.
    let bytes = unsafe { std::slice::from_raw_parts(field.as_ptr().cast::<u8>(), field.len()) };
    CStr::from_bytes_until_nul(bytes).map_or(bytes, CStr::to_bytes)
}

/// macOS has no lazy way: `force` takes the drive from who uses it.
pub(crate) fn unmount(point: &Path, force: bool) -> io::Result<()> {
    let path = CString::new(point.as_os_str().as_bytes())?;
    let flags = if force { libc::MNT_FORCE } else { 0 };
    // SAFETY: the path ends with a NUL.
    match unsafe { libc::unmount(path.as_ptr(), flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What is asked of a server that is gone ends with an error.
pub(super) fn forced_unmount(point: &Path) -> io::Result<()> {
    unmount(point, true)
}

/// Asks the service that Finder asks, which may have a hand on the drive itself.
pub(super) fn helper_unmount(point: &Path, force: bool) -> bool {
    let mut command = Command::new("diskutil");
    command.arg("unmount").args(force.then_some("force")).arg(point);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
