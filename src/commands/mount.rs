use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jiff::tz::TimeZone;
use tresor_engine::repo::{Repository, Snapshot};
use tresor_mountfs::system::{MountError, mount, mount_point, unmount};
use tresor_mountfs::{DriveOptions, Layout, MountOptions, SnapshotFs};

use crate::background;
use crate::choose::{self, FilterArgs};
use crate::exit::Exit;
use crate::globals::Globals;
use crate::{drive_status, nfs_drive, output, parse, signals};

const EXAMPLES: &str = "\
Examples:
  tresor mount /mnt/restore                     every snapshot, in folders by time, host and tag
  tresor mount latest /mnt/restore              the newest snapshot
  tresor mount --background 2026-11-23 /mnt/r   the last one of that day; returns at once
  tresor umount /mnt/restore
  tresor mount R:                               on Windows; * takes the next free letter

  tresor mount --status /mnt/restore            what it has fetched so far

  sudo -E tresor mount --via nfs /mnt/restore   without FUSE, through the system's NFS client
  tresor mount --via nfs                        only serve it, and say how to mount it
  tresor mount --via nfs latest -               the same with one snapshot

The drive is read-only. Files are fetched and decrypted when they are read. For /etc/fstab see
docs/drive.md, which describes the rest, too.

Exit codes: 0 unmounted, 1 failed, 10 no repository, 12 wrong password";

/// How long programs that still use the drive have after a signal.
const LAST_READS: Duration = Duration::from_secs(2);

/// Show snapshots as a drive
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, override_usage = "tresor mount [OPTIONS] [SNAPSHOT] MOUNTPOINT")]
pub struct Args {
    /// A snapshot, if only that one shall be shown, and an empty folder (Windows: R:, *, or a new folder;
    /// with --via nfs also `-`, or nothing: only serve it)
    #[arg(value_name = "[SNAPSHOT] MOUNTPOINT", num_args = 1..=2, required_unless_present = "via")]
    pub what: Vec<OsString>,

    /// What the drive comes through [default: FUSE, on Windows WinFsp]
    #[arg(long, value_enum)]
    pub via: Option<Via>,

    /// With --via nfs: the port to serve at [default: one that is free]
    #[arg(long, requires = "via")]
    pub port: Option<u16>,

    /// With --via nfs: the address to serve at [default: 127.0.0.1]. Nothing is encrypted: at an
    /// address of a network, who sees what is sent there can read everything
    #[arg(long, value_name = "ADDRESS", requires = "via")]
    pub listen: Option<IpAddr>,

    #[command(flatten)]
    pub filter: FilterArgs,

    /// Go into the background as soon as the drive answers
    #[arg(long)]
    pub background: bool,

    /// Let other users in, each to what the recorded permissions allow
    #[arg(long)]
    pub allow_other: bool,

    /// Remove the drive when nobody has used it for so long, like 30m
    #[arg(long, value_name = "DURATION", value_parser = parse::length)]
    pub idle_exit: Option<Duration>,

    /// Tell what the drive at MOUNTPOINT has done so far, instead of mounting one
    #[arg(long, conflicts_with_all = ["background", "allow_other", "idle_exit"])]
    pub status: bool,

    /// What the root of the drive holds
    #[arg(long, value_enum, default_value_t = LayoutArg::Folders)]
    pub layout: LayoutArg,

    /// Memory for decrypted blocks
    #[arg(long, value_name = "SIZE", default_value = "128M", value_parser = parse::size)]
    pub cache_size: u64,

    /// The part of `--background` that stays: password on standard input, one line when ready.
    #[arg(long, hide = true)]
    pub serve: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Via {
    /// The system's own: FUSE, on Windows WinFsp
    System,
    /// An NFS server in this program, for the client that every system has; see docs/nfs.md
    Nfs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LayoutArg {
    /// Folders by time, host, tag and id
    Folders,
    /// @GMT-… folders for Samba's shadow_copy2, see docs/samba.md
    PreviousVersions,
}

impl From<LayoutArg> for Layout {
    fn from(layout: LayoutArg) -> Self {
        match layout {
            LayoutArg::Folders => Self::Folders,
            LayoutArg::PreviousVersions => Self::PreviousVersions,
        }
    }
}

impl Args {
    fn point(&self) -> Result<&Path> {
        match self.what.last() {
            Some(point) => Ok(Path::new(point)),
            None => bail!("no mount point given"),
        }
    }

    /// Where it shall be mounted; none if it is only served.
    pub fn point_if_any(&self) -> Option<&Path> {
        let only_served = |point: &&Path| self.via == Some(Via::Nfs) && *point == Path::new("-");
        self.what.last().map(Path::new).filter(|point| !only_served(point))
    }

    fn snapshot(&self, repo: &Repository) -> Result<Option<Snapshot>> {
        let [name, _] = self.what.as_slice() else { return Ok(None) };
        let place = choose::place(repo, &self.filter, name)?;
        if !place.names.is_empty() {
            bail!(
                "{}: a drive shows whole snapshots; mount the snapshot and open {} there",
                name.display(),
                place.shown()
            );
        }
        Ok(Some(place.snapshot))
    }

    pub fn idle_exit(&self) -> Option<Duration> {
        self.idle_exit.filter(|limit| !limit.is_zero())
    }

    /// Tells people where the drive is, and what removes it.
    pub fn where_it_is(&self, point: &Path) -> Result<String> {
        // In the background there is nobody to press anything.
        let (shown, how) = if self.serve { (self.point()?, "") } else { (point, "Ctrl-C or ") };
        let shown = shown.display();
        Ok(format!("The drive is at {shown}. {how}`tresor umount {shown}` removes it.\n"))
    }

    /// What is to be shown.
    pub fn drive(&self, repo: Arc<Repository>) -> Result<Arc<SnapshotFs>> {
        if self.what.len() < 2 && self.layout == LayoutArg::Folders {
            let filter = self.filter.filter();
            let mut shown = repo.snapshots()?;
            shown.retain(|s| filter.matches(&s.data));
            // Tells which ones aren't, while somebody hears it.
            choose::latest(&shown);
        }
        let options = DriveOptions {
            snapshot: self.snapshot(&repo)?,
            filter: self.filter.filter(),
            time_zone: TimeZone::system(),
            layout: self.layout.into(),
            cache_size: self.cache_size,
        };
        Ok(Arc::new(SnapshotFs::new(repo, options)?))
    }
}

pub fn run(args: Args, globals: &Globals) -> Result<Exit> {
    if args.status {
        return drive_status::show(args.point()?, globals);
    }
    if args.via != Some(Via::Nfs) && (args.port.is_some() || args.listen.is_some()) {
        bail!("--port and --listen are for --via nfs");
    }
    if args.background {
        return background::start(&args, globals);
    }
    if args.what.len() == 2 && args.layout != LayoutArg::Folders {
        bail!("--layout is about a drive with all snapshots; leave it or the snapshot out");
    }
    let repo = if args.serve { background::open(globals)? } else { globals.open()? };
    match args.via {
        Some(Via::Nfs) => nfs_drive::run(&args, globals, repo),
        _ => run_mounted(&args, globals, repo),
    }
}

fn run_mounted(args: &Args, globals: &Globals, repo: Arc<Repository>) -> Result<Exit> {
    let point = mount_point(args.point()?)?;
    let at = point.clone();
    // Before there is a drive: a signal must never leave one behind that nobody serves.
    let _guard = signals::on_stop(move || leave(at.clone()));
    let options = MountOptions {
        allow_other: args.allow_other,
        source: globals.location()?.display().to_string(),
        repository: Some(globals.location()?),
        idle_exit: args.idle_exit(),
        on_error: Arc::new(output::complain),
    };
    let mounted = mount(args.drive(repo)?, &point, &options)?;
    let said = if globals.json { String::new() } else { args.where_it_is(mounted.point())? };
    background::say(args.serve, globals, &said)?;
    mounted.wait().context("the drive ended")?;
    Ok(Exit::Done)
}

/// Unmounts after a signal, also if something is open there, and ends the
/// program though that keeps the drive alive.
pub fn leave(point: PathBuf) {
    std::thread::spawn(move || {
        match unmount(&point, true) {
            Ok(()) => {}
            // It came before there was one.
            Err(MountError::NotMounted(_)) => {
                std::process::exit(Exit::Interrupted.code().into());
            }
            // Without this program, who looks there would wait, or find it dead.
            Err(e) => {
                return output::complain(&format!(
                    "{e}. Until it is unmounted this goes on; another signal ends it all the same"
                ));
            }
        }
        std::thread::sleep(LAST_READS);
        std::process::exit(Exit::Done.code().into());
    });
}
