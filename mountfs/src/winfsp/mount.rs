//! Mounting and unmounting.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use windows_sys::Win32::Storage::FileSystem::GetLogicalDrives;
use winfsp::host::{FileSystemHost, FineGuard, VolumeParams};

use super::access::Rights;
use super::adapter::{ALLOCATION, Adapter};
use super::signal::Signal;
use super::{access, library, signal};
use crate::MountOptions;
use crate::core::{Ino, SnapshotFs};
use crate::report::Reporter;

/// How many milliseconds the driver keeps what it knows where snapshots come and go. It
/// has one limit for everything on a drive, and keeps content only if there is none.
const FOLDERS: u32 = 1000;
/// How long `unmount` waits for the drive to be gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longer names of volumes are not allowed.
const MOST_LABEL: usize = 32;
const POLL: Duration = Duration::from_millis(50);

/// Why a drive could not be mounted or unmounted, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error(
        "drives need WinFsp 2.0 or newer, which is not installed here: get it with `winget install WinFsp.WinFsp`, or from winfsp.dev"
    )]
    NoWinFsp,
    #[error(
        "WinFsp is installed, but its driver doesn't answer ({0}); start the machine again, or install WinFsp 2.0 or newer"
    )]
    NoDriver(String),
    #[error("the letter {0} is taken; choose another one, or `*` for the last that is free")]
    Taken(String),
    #[error("there is no drive letter left; name a folder to mount in")]
    NoLetter,
    #[error("a drive is mounted on {0} already; `tresor umount {0}` removes it")]
    Mounted(String),
    #[error("{0} is no empty folder; name one that is, or one that isn't there")]
    NotEmpty(String),
    #[error("the mount point {0} holds the repository, or lies in it; choose another folder")]
    Repository(String),
    #[error("{0} is not known on Windows")]
    Option(&'static str),
    #[error("no drive is mounted on {0}")]
    NotMounted(String),
    #[error("the drive on {0} is still there; it may be fetching something: try again")]
    Busy(String),
    #[error(
        "there is no user {0} who could read the drive ({1}); --reader takes a name, as `whoami` shows it"
    )]
    Reader(String, io::Error),
    #[error("{0}: {1}")]
    Io(String, io::Error),
}

/// A mounted drive. Dropped, it is unmounted.
pub struct Mounted {
    host: FileSystemHost<Adapter, FineGuard>,
    // Dropped after WinFsp's own folder is gone, and before others hear of it.
    _folder: Option<EmptyFolder>,
    point: PathBuf,
    signal: Signal,
}

/// A folder of the user's, which is away as long as WinFsp's own is in its place.
struct EmptyFolder(PathBuf);

impl EmptyFolder {
    /// Nothing if there is none, as with a letter.
    fn take(point: &Path) -> io::Result<Option<Self>> {
        match std::fs::remove_dir(point) {
            Ok(()) => Ok(Some(Self(point.into()))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl Drop for EmptyFolder {
    fn drop(&mut self) {
        let _ = std::fs::create_dir(&self.0);
    }
}

impl Mounted {
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Waits until somebody unmounts it.
    pub fn wait(self) -> io::Result<()> {
        self.signal.wait()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.host.unmount();
        self.host.stop();
    }
}

fn letter(point: &Path) -> Option<char> {
    match point.as_os_str().as_encoded_bytes() {
        [letter, b':'] | [letter, b':', b'\\' | b'/'] if letter.is_ascii_alphabetic() => {
            Some(char::from(letter.to_ascii_uppercase()))
        }
        _ => None,
    }
}

fn is_taken(letter: char) -> bool {
    let bit = u32::from(letter).wrapping_sub(u32::from('A'));
    // SAFETY: takes nothing.
    bit < 26 && unsafe { GetLogicalDrives() } >> bit & 1 == 1
}

/// What the user means: `R:`, `*` for the last letter that is free, or a folder.
pub fn mount_point(typed: &Path) -> io::Result<PathBuf> {
    if typed == Path::new("*") {
        // A and B are for floppy disks.
        let free = ('D'..='Z').rev().find(|letter| !is_taken(*letter));
        return match free {
            Some(letter) => Ok(format!("{letter}:").into()),
            None => Err(io::Error::other(MountError::NoLetter)),
        };
    }
    match letter(typed) {
        Some(letter) => Ok(format!("{letter}:").into()),
        None => std::path::absolute(typed),
    }
}

/// The root folder of what is mounted there: `R:` alone would be the folder that this
/// process is in there.
pub fn drive_root(point: &Path) -> io::Result<PathBuf> {
    let mut root = mount_point(point)?.into_os_string();
    root.push("\\");
    Ok(root.into())
}

/// Mounts the drive; it answers when this returns.
pub fn mount(
    fs: Arc<SnapshotFs>,
    point: &Path,
    options: &MountOptions,
) -> Result<Mounted, MountError> {
    let point = mount_point(point).map_err(|e| MountError::Io(point.display().to_string(), e))?;
    let shown = point.display().to_string();
    let failed = |e: io::Error| MountError::Io(shown.clone(), e);
    check(&point, options)?;
    let signal = Signal::new(&point).map_err(failed)?;
    let signal = signal.ok_or_else(|| MountError::Mounted(shown.clone()))?;
    if !library::load() {
        return Err(MountError::NoWinFsp);
    }
    let reader = options.reader.as_deref();
    let no_reader = |e| match reader {
        Some(reader) => MountError::Reader(reader.into(), e),
        None => failed(e),
    };
    let rights = Rights::new(reader, options.allow_other).map_err(no_reader)?;
    let label: String = fs.label().chars().take(MOST_LABEL).collect();
    let letter = letter(&point);
    let for_all = letter.filter(|_| access::is_elevated());
    let is_network = letter.is_some() && for_all.is_none();
    let params = parameters(&label, is_network, fs.is_fixed(Ino::ROOT));
    fs.open_to(false, options.on_error.clone());
    let reporter = Reporter::new(options.on_error.clone());
    let adapter = Adapter { fs, reporter, rights, label };
    let no_driver = |e: &dyn std::fmt::Display| MountError::NoDriver(e.to_string());
    options.own.mounting(|| {
        // Before the host, which is then dropped first.
        let folder =
            if letter.is_none() { EmptyFolder::take(&point).map_err(failed)? } else { None };
        let mut host =
            FileSystemHost::<_, FineGuard>::new(params, adapter).map_err(|e| no_driver(&e))?;
        let is_put = for_all.is_some_and(|letter| put_for_all(&mut host, letter, options));
        if !is_put {
            host.mount(point.as_os_str().to_owned()).map_err(|e| failed(e.into()))?;
        }
        host.start().map_err(|e| failed(e.into()))?;
        let mount = Mount(point.clone());
        Ok((Mounted { host, _folder: folder, point, signal }, mount))
    })
}

/// A prompt that was opened as administrator has letters of its own, which the same user's
/// Explorer doesn't know. Windows' mount manager gives one that is everybody's, but only to
/// administrators, and to no network drive.
fn put_for_all(
    host: &mut FileSystemHost<Adapter, FineGuard>,
    letter: char,
    options: &MountOptions,
) -> bool {
    match host.mount(OsString::from(format!(r"\\.\{letter}:"))) {
        Ok(()) => true,
        Err(e) => {
            (options.on_error)(&format!(
                "Windows' mount manager gives no letter ({e}): {letter}: is there for programs that run as administrator only"
            ));
            false
        }
    }
}

/// A drive of this program: as long as that runs, its event is nobody else's.
pub(crate) struct Mount(PathBuf);

impl Mount {
    pub fn unmount(&self, lazy: bool) -> Result<(), MountError> {
        match unmount(&self.0, lazy) {
            Err(MountError::NotMounted(_)) => Ok(()),
            other => other,
        }
    }
}

fn check(point: &Path, options: &MountOptions) -> Result<(), MountError> {
    let shown = || point.display().to_string();
    if options.idle_exit.is_some() {
        return Err(MountError::Option("--idle-exit"));
    }
    if signal::is_served(point) {
        return Err(MountError::Mounted(shown()));
    }
    match letter(point) {
        Some(letter) if is_taken(letter) => Err(MountError::Taken(shown())),
        Some(_) => Ok(()),
        None if options.repository.as_ref().is_some_and(|r| point.starts_with(r)) => {
            Err(MountError::Repository(shown()))
        }
        None => match point.symlink_metadata() {
            Ok(found) if !found.is_dir() || holds_something(point) => {
                Err(MountError::NotEmpty(shown()))
            }
            _ => Ok(()),
        },
    }
}

/// Also if that can't be told.
fn holds_something(folder: &Path) -> bool {
    std::fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_some())
}

/// What the driver is told of the drive. With a letter it is a network drive if it can be: that
/// keeps Explorer from reading every file for a small picture of it. Windows has none in folders.
fn parameters(label: &str, is_network: bool, is_fixed: bool) -> VolumeParams {
    let mut params = VolumeParams::new();
    if is_network {
        let no_separators = |c: char| if matches!(c, '\\' | '/' | ':') { '-' } else { c };
        let share: String = label.chars().map(no_separators).collect();
        params.prefix(format!("\\tresor\\{share}"));
    }
    params
        .filesystem_name("tresor")
        .sector_size(ALLOCATION as u16)
        .sectors_per_allocation_unit(1)
        .max_component_length(255)
        .file_info_timeout(if is_fixed { u32::MAX } else { FOLDERS })
        .case_sensitive_search(false)
        .case_preserved_names(true)
        .unicode_on_disk(true)
        .persistent_acls(true)
        .reparse_points(true)
        .named_streams(true)
        .read_only_volume(true)
        .post_cleanup_when_modified_only(true);
    params
}

/// Whether a drive of this program is there, in this session.
pub fn is_drive(point: &Path) -> bool {
    mount_point(point).is_ok_and(|point| signal::is_served(&point))
}

/// Removes a drive. What is open there gets errors; there is no other way on Windows.
pub fn unmount(point: &Path, lazy: bool) -> Result<(), MountError> {
    let point = mount_point(point).map_err(|e| MountError::Io(point.display().to_string(), e))?;
    if !signal::send(&point) {
        return Err(MountError::NotMounted(point.display().to_string()));
    }
    let start = std::time::Instant::now();
    while !lazy && signal::is_served(&point) {
        if start.elapsed() > PATIENCE {
            return Err(MountError::Busy(point.display().to_string()));
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}
