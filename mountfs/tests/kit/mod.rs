//! Drives for tests, with and without a kernel.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod faults;
pub mod nfs;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use tempfile::TempDir;
use tresor_engine::repo::{Repository, Snapshot};
use tresor_engine::select::SnapshotFilter;
use tresor_mountfs::fuse::{Mounted, mount};
use tresor_mountfs::{DriveOptions, Layout, MountOptions, OnError, OwnDrive, SnapshotFs};

/// One snapshot, or all of them in folders; `cache` in bytes.
pub fn drive(repo: &Arc<Repository>, snapshot: Option<Snapshot>, cache: u64) -> Arc<SnapshotFs> {
    let options = DriveOptions {
        snapshot,
        filter: SnapshotFilter::default(),
        time_zone: TimeZone::UTC,
        layout: Layout::Folders,
        cache_size: cache,
    };
    Arc::new(SnapshotFs::new(repo.clone(), options).unwrap())
}

/// A number that the drive's status tells.
pub fn status(fs: &SnapshotFs, field: &str) -> u64 {
    let text = String::from_utf8(fs.status()).unwrap();
    let after = text.split(&format!("\"{field}\": ")).nth(1).unwrap();
    after.split([',', '\n']).next().unwrap().parse().unwrap()
}

/// A drive that the kernel has mounted; unmounted when dropped.
pub struct Mount {
    pub fs: Arc<SnapshotFs>,
    pub mounted: Option<Mounted>,
    folder: TempDir,
}

/// How a drive is mounted that tells its errors so.
pub fn mount_options(on_error: OnError) -> MountOptions {
    MountOptions {
        allow_other: false,
        reader: None,
        source: "test".into(),
        repository: None,
        own: OwnDrive::default(),
        idle_exit: None,
        on_error,
    }
}

impl Mount {
    pub fn new(fs: Arc<SnapshotFs>) -> Self {
        Self::telling(fs, Arc::new(|_| {}))
    }

    pub fn telling(fs: Arc<SnapshotFs>, on_error: OnError) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mounted = mount(fs.clone(), folder.path(), &mount_options(on_error)).unwrap();
        Self { fs, mounted: Some(mounted), folder }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }
}

/// Waits until something is so; fails after half a minute.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(30), "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Does it on another thread, and fails if that takes longer than ten seconds.
pub fn in_time<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, answer) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    answer.recv_timeout(Duration::from_secs(10)).unwrap_or_else(|e| panic!("{what}: {e}"))
}
