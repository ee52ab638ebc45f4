//! Mounting on Linux, by the kernel's call or by fusermount3. That, and agreeing with the kernel on how to talk,
//! is fuser's; requests are served by ourselves (docs/decisions/0013).

mod device;
mod habits;
mod listing;
mod protocol;
mod serve;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use fuser::{
    Config, Filesystem, InitFlags, KernelConfig, MountOption, Request, Session, SessionACL,
};

use super::drive::Drive;
use crate::MountOptions;
use crate::point::{MountError, SOURCE_PREFIX};
use device::{Device, LONGEST_WRITE};
use serve::{Opens, Server};

/// Threads that take requests; most of what must be fetched is answered by others.
/// More make the kernel wake one that sleeps on another processor.
pub(super) const THREADS: usize = 2;
const READ_AHEAD_KIB: u32 = 1024;
/// Requests of the kernel's own readahead under way at once.
const MAX_BACKGROUND: u16 = 64;

/// A drive that is served. Dropped, it is unmounted.
pub(super) struct Serving {
    /// Ends with the drive.
    pub guard: JoinHandle<io::Result<()>>,
    _mounted: Session<Handshake>,
}

/// What fuser asks when it has mounted.
struct Handshake {
    check_permissions: bool,
    opens: Arc<Mutex<Opens>>,
}

impl Filesystem for Handshake {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let agreed = negotiate(config, self.check_permissions);
        *self.opens.lock().unwrap_or_else(|e| e.into_inner()) = agreed;
        Ok(())
    }
}

/// Mounts the drive and serves it.
pub(super) fn serve(
    drive: Arc<Drive>,
    point: &Path,
    options: &MountOptions,
) -> Result<Serving, MountError> {
    let opens = Arc::<Mutex<Opens>>::default();
    let handshake = Handshake { check_permissions: options.allow_other, opens: opens.clone() };
    let mounted = connect(handshake, point, options)?;
    let opens = *opens.lock().unwrap_or_else(|e| e.into_inner());
    let only = (!options.allow_other).then(|| rustix::process::geteuid().as_raw());
    let server = Arc::new(Server::new(drive, opens, only));
    let ended = start(&server, &mounted)
        .map_err(|e| MountError::Io(format!("can't serve {}", point.display()), e))?;
    let guard = thread::spawn(move || wait_for(&ended));
    Ok(Serving { guard, _mounted: mounted })
}

/// One that finds no drive any more tells for all of them: others may be waiting for a store that
/// stalls. One that ends with an error leaves it to them.
fn wait_for(ended: &Receiver<io::Result<()>>) -> io::Result<()> {
    let mut all = Err(io::Error::other("a thread panicked"));
    for one in ended {
        if one.is_ok() {
            return Ok(());
        }
        all = one;
    }
    all
}

/// The threads that serve it; each says when it has ended.
fn start(
    server: &Arc<Server>,
    mounted: &Session<Handshake>,
) -> io::Result<Receiver<io::Result<()>>> {
    let mut devices = vec![Device::new(mounted.as_fd())?];
    while devices.len() < THREADS {
        // Who may not open it, as fusermount3 may, takes requests from the one with all threads.
        let another = devices[0].another().or_else(|_| Device::new(mounted.as_fd()))?;
        devices.push(another);
    }
    let (end, ended) = mpsc::channel();
    for device in devices {
        let (server, end) = (server.clone(), end.clone());
        let serving = thread::Builder::new().name("drive".into());
        serving.spawn(move || end.send(server.run(device)))?;
    }
    Ok(ended)
}

fn connect(
    handshake: Handshake,
    point: &Path,
    options: &MountOptions,
) -> Result<Session<Handshake>, MountError> {
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
    Session::new(handshake, point, &config).map_err(|e| explain(e, point))
}

/// Agrees with the kernel on what it asks.
fn negotiate(config: &mut KernelConfig, check_permissions: bool) -> Opens {
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
    let _ = config.set_max_write(LONGEST_WRITE);
    let mut has = |flag| config.add_capabilities(flag).is_ok();
    Opens {
        no_file: has(InitFlags::FUSE_NO_OPEN_SUPPORT),
        no_directory: has(InitFlags::FUSE_NO_OPENDIR_SUPPORT),
    }
}

/// Lets the kernel ask for more at once when a file is read in sequence. Only root may; else reads
/// stay 128 KiB long, which is slower and nothing more. The drive itself isn't asked which device it
/// is, as in the table of mounts: that may wait for the store.
pub(super) fn read_further_ahead(device: &OsStr) {
    let file = Path::new("/sys/class/bdi").join(device).join("read_ahead_kb");
    let _ = std::fs::write(file, READ_AHEAD_KIB.to_string());
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
