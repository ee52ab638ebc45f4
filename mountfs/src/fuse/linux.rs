//! Mounting on Linux, by the kernel's call or by fusermount3.

use std::io;
use std::path::Path;

use fuser::{Config, InitFlags, KernelConfig, MountOption, Session, SessionACL};

use super::adapter::Adapter;
use crate::MountOptions;
use crate::point::{MountError, SOURCE_PREFIX};

/// Threads that take requests; most of what must be fetched is answered by others.
/// More make the kernel wake one that sleeps on another processor.
pub(super) const THREADS: usize = 2;
const READ_AHEAD_KIB: u32 = 1024;
/// Requests of the kernel's own readahead under way at once.
const MAX_BACKGROUND: u16 = 64;

pub(super) fn connect(
    adapter: Adapter,
    point: &Path,
    options: &MountOptions,
) -> Result<Session<Adapter>, MountError> {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoAtime,
        // The option list is separated by commas.
        MountOption::FSName(SOURCE_PREFIX.to_owned() + &options.source.replace([',', '\\'], "_")),
        MountOption::Subtype("tresor".into()),
    ];
    if options.allow_other {
        config.acl = SessionACL::All;
        config.mount_options.push(MountOption::DefaultPermissions);
    }
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    Session::new(adapter, point, &config).map_err(|e| explain(e, point))
}

/// Agrees with the kernel on what it asks. Whether files, and whether directories, need not be
/// opened.
pub(super) fn negotiate(config: &mut KernelConfig, check_permissions: bool) -> (bool, bool) {
    let wanted = [
        InitFlags::FUSE_DO_READDIRPLUS,
        InitFlags::FUSE_PARALLEL_DIROPS,
        InitFlags::FUSE_CACHE_SYMLINKS,
        InitFlags::FUSE_ASYNC_DIO,
        // Looks up "." of a number that an NFS client has kept.
        InitFlags::FUSE_EXPORT_SUPPORT,
        // Listings of virtual folders are kept until their time changes.
        InitFlags::FUSE_AUTO_INVAL_DATA,
    ];
    // The kernel takes this one as a wish to check permissions at all.
    let acl = check_permissions.then_some(InitFlags::FUSE_POSIX_ACL);
    for flag in wanted.into_iter().chain(acl) {
        // What an older kernel lacks is only slower.
        let _ = config.add_capabilities(flag);
    }
    let _ = config.set_max_background(MAX_BACKGROUND);
    let mut has = |flag| config.add_capabilities(flag).is_ok();
    (has(InitFlags::FUSE_NO_OPEN_SUPPORT), has(InitFlags::FUSE_NO_OPENDIR_SUPPORT))
}

/// What there is to do once the drive is there.
pub(super) fn mounted(point: &Path) {
    read_further_ahead(point);
}

/// Lets the kernel ask for more at once when a file is read in sequence. Only
/// root may; else reads stay 128 KiB long, which is slower and nothing more.
fn read_further_ahead(point: &Path) {
    if let Ok(meta) = std::fs::metadata(point) {
        use std::os::unix::fs::MetadataExt;
        let device = meta.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let file = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
        let _ = std::fs::write(file, READ_AHEAD_KIB.to_string());
    }
}

fn explain(error: io::Error, point: &Path) -> MountError {
    let text = error.to_string();
    if !Path::new("/dev/fuse").exists() {
        MountError::NoFuse
    } else if text.contains("user_allow_other") {
        MountError::AllowOther
    } else if error.kind() == io::ErrorKind::NotFound {
        MountError::NoFusermount
    } else {
        MountError::Io(format!("can't mount on {}", point.display()), error)
    }
}
