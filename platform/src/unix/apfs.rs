//! Snapshots of APFS, through `tmutil` and `mount_apfs`: Apple lets no other program make them.
//! Nobody has run this on a Mac yet.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr, c_char};
use std::fs::DirBuilder;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use tresor_engine::source::SourceDir;

use super::tmutil;
use super::view::{Place, Places, Swap, View};
use crate::snapshot::{NoSnapshot, Problem, SourceSnapshot, Wanted};

const FIRMLINKS: &str = "/usr/share/firmlinks";
/// Where snapshots are mounted: nobody can put something else in the place of what root has there.
const SCRATCH: &str = "/private/var/tmp";
/// Folders of others that may have our names.
const MOST_TRIES: u32 = 100;

/// Makes snapshots of the volumes that the paths lie on, if somebody wants that for sure: nobody
/// knows yet what comes of it.
pub(super) fn hold_source(wanted: &Wanted) -> Result<Box<dyn SourceSnapshot>, NoSnapshot> {
    if !wanted.required {
        return Err(NoSnapshot::Unknown);
    }
    if !rustix::process::geteuid().is_root() {
        let message = "a snapshot of APFS can be mounted by root only";
        return Err(NoSnapshot::Unavailable(message.into()));
    }
    let mut held = Snapshots::new()?;
    // If this fails, what there is already is removed with it.
    held.make(wanted)?;
    Ok(Box::new(held))
}

struct Snapshots {
    living: Arc<dyn SourceDir>,
    places: Arc<Places>,
    /// Of the snapshots; `tmutil` makes all of them at once.
    date: Option<String>,
    /// Where they are mounted.
    mounted: Vec<PathBuf>,
    held: Vec<String>,
    not_held: Vec<Problem>,
}

/// A file system, and where it is mounted.
struct Volume {
    root: PathBuf,
    is_apfs: bool,
    is_read_only: bool,
}

impl Volume {
    fn of(stat: &libc::statfs) -> Self {
        Self {
            root: OsStr::from_bytes(text(&stat.f_mntonname)).into(),
            is_apfs: text(&stat.f_fstypename) == b"apfs",
            is_read_only: stat.f_flags & libc::MNT_RDONLY as u32 != 0,
        }
    }

    fn at(path: &Path) -> io::Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: numbers and texts, for which zero is a value.
        let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
        // SAFETY: the path ends with a NUL, and the place for the answer lives.
        match unsafe { libc::statfs(path.as_ptr(), &mut stat) } {
            0 => Ok(Self::of(&stat)),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Where something on it is in a snapshot of it that is mounted there. A path that doesn't begin as it
    /// does leads through a firmlink, which has the same name on both sides.
    fn in_snapshot(&self, path: &Path, snapshot: &Path) -> PathBuf {
        let below = path.strip_prefix(&self.root).or_else(|_| path.strip_prefix("/"));
        snapshot.join(below.unwrap_or(path))
    }
}

/// A string in a field that may be longer.
fn text(field: &[c_char]) -> &[u8] {
    // SAFETY: the same bytes, unsigned.
    let bytes = unsafe { std::slice::from_raw_parts(field.as_ptr().cast::<u8>(), field.len()) };
    CStr::from_bytes_until_nul(bytes).map_or(bytes, CStr::to_bytes)
}

/// Where file systems are mounted.
fn mount_points() -> Vec<PathBuf> {
    let mut list = std::ptr::null_mut();
    // SAFETY: points to a list of the system's, which is valid until the next call on this thread.
    let count = unsafe { libc::getmntinfo(&mut list, libc::MNT_NOWAIT) };
    let count = usize::try_from(count).unwrap_or(0);
    if list.is_null() {
        return Vec::new();
    }
    // SAFETY: the list has as many.
    let all = unsafe { std::slice::from_raw_parts(list, count) };
    all.iter().map(|stat| Volume::of(stat).root).collect()
}

impl Snapshots {
    fn new() -> Result<Self, NoSnapshot> {
        let living = super::source_root().map_err(|e| NoSnapshot::Failed(e.to_string()))?;
        let (places, mounted) = (Arc::default(), Vec::new());
        let (held, not_held) = (Vec::new(), Vec::new());
        Ok(Self { living, places, date: None, mounted, held, not_held })
    }

    fn make(&mut self, wanted: &Wanted) -> Result<(), NoSnapshot> {
        let mut volumes = BTreeMap::<PathBuf, Vec<PathBuf>>::new();
        let mut places = Places::new();
        for path in tops(wanted) {
            let volume = Volume::at(&path);
            match volume {
                // Nobody changes it.
                Ok(volume) if volume.is_apfs && volume.is_read_only => {}
                Ok(volume) if volume.is_apfs => volumes.entry(volume.root).or_default().push(path),
                Ok(_) => self.not_held(&path, "isn't on a volume of APFS"),
                // The backup will tell.
                Err(_) => {}
            }
        }
        // In a snapshot there is an empty folder where another volume is mounted.
        for point in mount_points() {
            places.extend(place(&point, &point, None).map(|place| (bytes(&point), place)));
        }
        if volumes.is_empty() {
            let message = "no path lies on a volume of APFS that could change";
            return Err(NoSnapshot::Unavailable(message.into()));
        }
        let said = run("tmutil", &["localsnapshot".as_ref()], wanted)?;
        let date = tmutil::date(&said).ok_or_else(|| {
            NoSnapshot::Failed(format!("`tmutil localsnapshot` named no snapshot: {}", said.trim()))
        })?;
        self.date = Some(date.into());
        for (root, paths) in volumes {
            let listing: [&OsStr; 2] = ["listlocalsnapshots".as_ref(), root.as_ref()];
            let listed = run("tmutil", &listing, wanted)?;
            match tmutil::name(&listed, date) {
                Some(name) => self.mount(name, &root, &paths, &mut places, wanted)?,
                None => self.not_held(&root, "has no snapshot; Time Machine may leave it out"),
            }
        }
        self.places = Arc::new(places);
        Ok(())
    }

    fn not_held(&mut self, path: &Path, message: &str) {
        self.not_held.push(Problem { what: path.display().to_string(), message: message.into() });
    }

    /// Mounts the snapshot of a volume; from there these paths are read.
    fn mount(
        &mut self,
        name: &str,
        root: &Path,
        paths: &[PathBuf],
        places: &mut Places,
        wanted: &Wanted,
    ) -> Result<(), NoSnapshot> {
        let folder = make_folder().map_err(|e| NoSnapshot::Failed(format!("{SCRATCH}: {e}")))?;
        self.mounted.push(folder.clone());
        let words: [&OsStr; 6] = [
            "-o".as_ref(),
            "ro,nobrowse".as_ref(),
            "-s".as_ref(),
            name.as_ref(),
            root.as_ref(),
            folder.as_ref(),
        ];
        run("/sbin/mount_apfs", &words, wanted)?;
        let number = |path: &Path| rustix::fs::stat(path).map(|stat| super::stat::device(&stat));
        let failed = |e| NoSnapshot::Failed(format!("{}: {e}", folder.display()));
        let swap =
            Swap { held: number(&folder).map_err(failed)?, living: number(root).map_err(failed)? };
        let volume = Volume { root: root.into(), is_apfs: true, is_read_only: false };
        for path in paths {
            let there = volume.in_snapshot(path, &folder);
            let inode = |path: &Path| path.symlink_metadata().map(|meta| meta.ino()).ok();
            let is_same = inode(path).is_some() && inode(path) == inode(&there);
            match place(path, &there, Some(swap)).filter(|_| is_same) {
                Some(place) => drop(places.insert(bytes(path), place)),
                None => self.not_held(path, "wasn't found in the snapshot"),
            }
        }
        self.held.push(root.display().to_string());
        Ok(())
    }

    /// What could not be undone.
    fn undo(&mut self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for folder in std::mem::take(&mut self.mounted) {
            if let Err(e) = unmount(&folder).and_then(|()| std::fs::remove_dir(&folder)) {
                let what = folder.display().to_string();
                problems
                    .push(Problem { what, message: format!("the snapshot stays mounted: {e}") });
            }
        }
        if let Some(date) = self.date.take() {
            let words: [&OsStr; 2] = ["deletelocalsnapshots".as_ref(), date.as_ref()];
            if let Err(e) = output("tmutil", &words) {
                problems.push(Problem { what: format!("snapshot {date}"), message: e });
            }
        }
        problems
    }
}

/// What is read in a snapshot of its own: the paths, and what lies on other volumes below them.
fn tops(wanted: &Wanted) -> Vec<PathBuf> {
    let path = |path: &&[u8]| PathBuf::from(OsStr::from_bytes(path));
    let asked: Vec<PathBuf> = wanted.paths.iter().map(path).collect();
    let mut all = asked.clone();
    if !wanted.one_file_system {
        let firmlinks = std::fs::read_to_string(FIRMLINKS).unwrap_or_default();
        let firmlinks = tmutil::firmlinks(&firmlinks).map(PathBuf::from);
        let below = |path: &PathBuf| asked.iter().any(|asked| path.starts_with(asked));
        all.extend(mount_points().into_iter().chain(firmlinks).filter(below));
    }
    all.sort();
    all.dedup();
    // The root has no folder that it lies in.
    all.retain(|path| path.file_name().is_some());
    all
}

/// Where an entry that is seen as `path` is read.
fn place(path: &Path, there: &Path, swap: Option<Swap>) -> Option<Place> {
    path.file_name()?;
    // The root of a snapshot lies in a folder, too.
    let (parent, name) = (there.parent()?, there.file_name()?);
    let dir = super::open_source(parent).ok()?;
    Some(Place { dir, name: name.as_bytes().to_vec(), swap })
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

fn make_folder() -> io::Result<PathBuf> {
    for number in 0..MOST_TRIES {
        let name = format!("tresor-snapshot-{}-{number}", std::process::id());
        let folder = Path::new(SCRATCH).join(name);
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|()| folder),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Also if something is open there: it is ours, and nobody's any more. What isn't mounted need not be.
fn unmount(folder: &Path) -> io::Result<()> {
    let path = CString::new(folder.as_os_str().as_bytes())?;
    // SAFETY: the path ends with a NUL.
    match unsafe { libc::unmount(path.as_ptr(), libc::MNT_FORCE) } {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            e => Err(e),
        },
    }
}

/// Runs one of the system's programs, unless the backup is to end.
fn run(program: &str, words: &[&OsStr], wanted: &Wanted) -> Result<String, NoSnapshot> {
    if (wanted.stop)() {
        return Err(NoSnapshot::Stopped);
    }
    output(program, words).map_err(NoSnapshot::Failed)
}

/// What it says, or why it failed.
fn output(program: &str, words: &[&OsStr]) -> Result<String, String> {
    let shown = || {
        let words = words.iter().map(|word| word.to_string_lossy().into_owned());
        [program.to_owned()].into_iter().chain(words).collect::<Vec<_>>().join(" ")
    };
    let output = Command::new(program).args(words).stdin(Stdio::null()).output();
    let output = output.map_err(|e| format!("`{}` failed: {e}", shown()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("`{}` failed: {}", shown(), text(&output.stderr).trim()))
    }
}

impl SourceSnapshot for Snapshots {
    fn root(&self) -> Arc<dyn SourceDir> {
        Arc::new(View::new(self.living.clone(), self.places.clone()))
    }

    fn held(&self) -> &[String] {
        &self.held
    }

    fn not_held(&self) -> &[Problem] {
        &self.not_held
    }

    fn finish(mut self: Box<Self>) -> Vec<Problem> {
        self.undo()
    }
}

impl Drop for Snapshots {
    fn drop(&mut self) {
        // There is nobody to be told. macOS removes such snapshots after a day.
        let _ = self.undo();
    }
}
