//! A drive that this program has mounted: it is known again, and nothing else is unmounted
//! in its place.

#[cfg(not(target_os = "macos"))]
use std::ffi::OsStr;
#[cfg(not(target_os = "macos"))]
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{Drive, MountError, host, unmount_drive};

#[derive(Clone)]
pub(crate) struct Mount {
    point: PathBuf,
    /// None if it was gone before it could be looked at.
    drive: Option<Drive>,
}

enum Place {
    Top,
    Covered,
    Gone,
}

impl Mount {
    pub(super) fn new(point: PathBuf, drive: Option<Drive>) -> Self {
        Self { point, drive }
    }

    /// Of what was just mounted there.
    pub fn made(point: PathBuf) -> Self {
        let drive = super::drive_there(&point);
        Self { point, drive }
    }

    /// Whether the table of mounts had it.
    pub fn is_known(&self) -> bool {
        self.drive.is_some()
    }

    /// Its number in the table of mounts.
    #[cfg(not(target_os = "macos"))]
    pub fn device(&self) -> Option<&OsStr> {
        self.drive.as_ref().map(|drive| OsStr::from_bytes(&drive.device))
    }

    /// Where it is, without symlinks.
    pub fn point(&self) -> &Path {
        &self.point
    }

    pub fn is_there(&self) -> bool {
        !matches!(self.place(), Place::Gone)
    }

    fn place(&self) -> Place {
        if self.drive.is_none() {
            return Place::Gone;
        }
        let mut all = host::mounts_at(&self.point);
        if all.pop().is_some_and(|top| top == self.drive) {
            Place::Top
        } else if all.contains(&self.drive) {
            Place::Covered
        } else {
            Place::Gone
        }
    }

    /// Unmounts this drive, if it is there still; a lazy one goes as soon as nothing on it is in
    /// use.
    pub fn unmount(&self, lazy: bool) -> Result<(), MountError> {
        let shown = self.point.display().to_string();
        match (&self.drive, self.place()) {
            (Some(drive), Place::Top) => unmount_drive(drive, &self.point, lazy, shown),
            (_, Place::Covered) => Err(MountError::Covered(shown)),
            _ => Ok(()),
        }
    }

    /// What is open on the drive, or has its working folder there, keeps it.
    pub fn leave_if_unused(self) -> impl Fn() -> bool + Send + 'static {
        move || self.unmount(false).is_ok()
    }
}
