//! Mounting on macOS, through macFUSE; what it is told is in `macfuse_options.rs`.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use fuser::{KernelConfig, Session, SessionACL};

use super::adapter::Adapter;
use super::macfuse;
use super::macfuse_options::options_for;
use crate::MountOptions;
use crate::point::{MountError, is_drive};

/// fuser has one thread here that takes requests, and it never fetches.
pub(super) const THREADS: usize = 1;
/// How long the kernel may take to show a drive that answers.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

pub(super) fn connect(
    adapter: Adapter,
    point: &Path,
    options: &MountOptions,
) -> Result<Session<Adapter>, MountError> {
    let acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    let told = options_for(options, &adapter.fs().label());
    match macfuse::connect(adapter, point, &told, acl) {
        Some(Ok(session)) => Ok(session),
        Some(Err(e)) => Err(explain(e, point)),
        None => Err(MountError::NoMacFuse),
    }
}

/// Files and directories are opened, and nothing is to be agreed on: the bits that mean so on
/// Linux mean something else to macFUSE (it has a lock for each file instead of "directories
/// need not be opened").
pub(super) fn negotiate(_: &mut KernelConfig, _: bool) -> (bool, bool) {
    (false, false)
}

/// The kernel mounts once the session answers, and doesn't tell.
pub(super) fn mounted(point: &Path) {
    let start = Instant::now();
    while !is_drive(point) && start.elapsed() < PATIENCE {
        std::thread::sleep(POLL);
    }
}

fn explain(error: io::Error, point: &Path) -> MountError {
    MountError::Io(
        format!(
            "can't mount on {} (has macFUSE's extension been allowed in System Settings, Privacy & Security?)",
            point.display()
        ),
        error,
    )
}
