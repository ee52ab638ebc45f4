//! What answering a request needs, whoever takes it from the kernel.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Release};
use std::time::Duration;

use fuser::Errno;
use tresor_engine::repo::without_fetching;

use super::errno::errno;
use super::host::THREADS;
use crate::MountOptions;
use crate::core::{Attr, Changes, FsError, FsResult, Ino, SnapshotFs};
use crate::follow;
use crate::idle::Activity;
use crate::pool::Pool;
use crate::report::Reporter;

/// What is in a snapshot never changes.
pub const FOR_GOOD: Duration = Duration::from_secs(365 * 24 * 3600);
/// Virtual folders do. With the time between looks at the store less than a second.
const FOR_NOW: Duration = Duration::from_millis(400);
pub const BLOCK: u32 = 4096;
/// Linux takes no extended attribute that is longer. macOS asks for a resource fork as a whole.
const MOST_XATTR: u64 = if cfg!(target_os = "linux") { 64 << 10 } else { 4 << 20 };
pub const LONGEST_NAME: u32 = 255;
const LONGEST_XATTR_NAME: usize = if cfg!(target_os = "linux") { 255 } else { 127 };

/// What is needed to answer, on any thread.
pub struct Drive {
    pub fs: Arc<SnapshotFs>,
    reporter: Reporter,
    activity: Arc<Activity>,
    pool: Pool,
    /// Held by the one request that may fetch where it arrived.
    fetching_here: AtomicBool,
    check_permissions: bool,
}

impl Drive {
    pub fn new(fs: Arc<SnapshotFs>, activity: Arc<Activity>, options: &MountOptions) -> Self {
        fs.open_to(options.allow_other, options.on_error.clone());
        Self {
            fs,
            reporter: Reporter::new(options.on_error.clone()),
            activity,
            pool: Pool::new(),
            fetching_here: AtomicBool::default(),
            check_permissions: options.allow_other,
        }
    }

    /// The errno of an error; one about the repository is reported with the path. Nothing here
    /// waits: it comes before the answer.
    pub fn fail(&self, ino: Ino, error: &FsError) -> Errno {
        if let Some(message) = self.fs.failed(ino, error) {
            self.reporter.tell(message);
        }
        errno(error)
    }

    /// Answers at once if nothing needs fetching. One request at a time may fetch
    /// on the thread that it came to, which saves waking another one; the rest go
    /// to the pool, and a thread stays free for what comes: no request waits for
    /// another's.
    pub fn answer<T>(
        self: &Arc<Self>,
        ino: Ino,
        work: impl Fn(&SnapshotFs) -> FsResult<T> + Send + 'static,
        reply: impl FnOnce(Result<T, Errno>) + Send + 'static,
    ) {
        self.fill(ino, (), move |fs, ()| work(fs), move |(), done| reply(done));
    }

    /// The same with a reply that `work` fills.
    pub fn fill<R: Send + 'static, T>(
        self: &Arc<Self>,
        ino: Ino,
        mut into: R,
        work: impl Fn(&SnapshotFs, &mut R) -> FsResult<T> + Send + 'static,
        reply: impl FnOnce(R, Result<T, Errno>) + Send + 'static,
    ) {
        self.activity.note();
        self.fs.note_request();
        match without_fetching(|| work(&self.fs, &mut into)) {
            Err(FsError::WouldFetch) => {
                let drive = self.clone();
                let fetch = move |turn: Option<Turn>| {
                    let done = work(&drive.fs, &mut into);
                    // Before the answer, which may bring the next request at once.
                    drop(turn);
                    reply(into, done.map_err(|e| drive.fail(ino, &e)));
                };
                match Turn::take(&self.fetching_here) {
                    turn @ Some(_) => {
                        follow::free();
                        // A reply that is dropped by a panic answers EIO, as on the pool.
                        let _ = catch_unwind(AssertUnwindSafe(|| fetch(turn)));
                    }
                    None => self.pool.run(move || fetch(None)),
                }
            }
            done => reply(into, done.map_err(|e| self.fail(ino, &e))),
        }
    }

    /// What to say of an extended attribute that nothing on the drive has.
    pub fn no_such_xattr(&self, name: &[u8]) -> Errno {
        // A kernel that checks ACLs takes any other error for a refusal.
        let checked = self.check_permissions && name.starts_with(b"system.posix_acl_");
        if checked { Errno::NO_XATTR } else { Errno::EOPNOTSUPP }
    }
}

/// The right to fetch on a thread that takes requests.
struct Turn<'a>(&'a AtomicBool);

impl<'a> Turn<'a> {
    fn take(taken: &'a AtomicBool) -> Option<Self> {
        (THREADS > 1 && !taken.swap(true, Acquire)).then(|| Self(taken))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(false, Release);
    }
}

/// An entry, or nothing where there will never be one of that name.
pub fn look_up(fs: &SnapshotFs, parent: Ino, name: &[u8]) -> FsResult<Option<Attr>> {
    match fs.lookup(parent, name) {
        Err(FsError::NotFound) if fs.is_fixed(parent) => Ok(None),
        other => other.map(Some),
    }
}

/// An extended attribute, or nothing if nothing on the drive has one of that name.
pub fn xattr(fs: &SnapshotFs, ino: Ino, name: &[u8]) -> FsResult<Option<Vec<u8>>> {
    match fs.xattr(ino, name, MOST_XATTR) {
        Err(FsError::NoSuchAttributes) => Ok(None),
        other => other.map(Some),
    }
}

/// The names of an entry's extended attributes, each with a NUL behind it.
pub fn xattr_names(fs: &SnapshotFs, ino: Ino) -> FsResult<Vec<u8>> {
    let mut names = fs.xattr_names(ino, MOST_XATTR)?;
    // Whoever copies the entry would ask for them in vain.
    names.retain(|name| name.len() <= LONGEST_XATTR_NAME);
    Ok(names.into_iter().flat_map(|name| [name, vec![0]].concat()).collect())
}

/// Whether holes or data are sought.
pub fn seeks_hole(whence: i32) -> Result<bool, Errno> {
    match whence {
        libc::SEEK_DATA => Ok(false),
        libc::SEEK_HOLE => Ok(true),
        _ => Err(Errno::EINVAL),
    }
}

/// How long the kernel may keep what it is told of an entry.
pub fn valid(attr: &Attr) -> Duration {
    match attr.changes {
        Changes::Never => FOR_GOOD,
        Changes::Sometimes => FOR_NOW,
        Changes::Always => Duration::ZERO,
    }
}

/// A device number as the kernel's protocol has it: 12 bits major, 20 bits minor.
pub fn rdev((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

#[cfg(test)]
pub mod tests {
    use jiff::tz::TimeZone;
    use tresor_engine::select::SnapshotFilter;
    use tresor_testkit::{Item, backup, options, repository};

    use super::*;
    use crate::{DriveOptions, Layout, OwnDrive};

    /// A drive that shows this tree.
    pub fn drive_of(tree: &Item) -> Arc<Drive> {
        let repo = repository();
        let (snapshot, _) = backup(&repo, tree, &options(None));
        let shown = DriveOptions {
            snapshot: Some(snapshot),
            filter: SnapshotFilter::default(),
            time_zone: TimeZone::UTC,
            layout: Layout::Folders,
            cache_size: 4 << 20,
        };
        let options = MountOptions {
            allow_other: false,
            reader: None,
            source: "test".into(),
            repository: None,
            idle_exit: None,
            own: OwnDrive::default(),
            on_error: Arc::new(|_| {}),
        };
        let fs = Arc::new(SnapshotFs::new(repo, shown).unwrap());
        Arc::new(Drive::new(fs, Arc::new(Activity::new()), &options))
    }

    #[test]
    fn device_numbers() {
        assert_eq!(rdev((8, 1)), 0x0801);
        assert_eq!(rdev((259, 300)), (259 << 8) | (300 & 0xff) | ((300 & !0xff) << 12));
    }
}
