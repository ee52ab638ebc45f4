//! What a drive shows, and through what: options of `mount`, and of services that mount.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use jiff::tz::TimeZone;
use tresor_engine::repo::{Repository, Snapshot};
use tresor_mountfs::{DriveOptions, Layout, SnapshotFs};

use crate::choose::{self, FilterArgs};
use crate::globals::Globals;
use crate::parse;

// No lines of documentation: they would stand in the place of the command's.
#[derive(clap::Args)]
pub struct DriveArgs {
    /// A snapshot, if only that one shall be shown, and an empty folder (Windows: R:, * for the last
    /// letter that is free, or an empty or new folder; with --via nfs also `-`, or nothing: only serve it)
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

    /// Let other users in, each to what the recorded permissions allow
    #[arg(long)]
    pub allow_other: bool,

    /// Let this user in, too: a name, or a number that begins with S-1-
    #[arg(long, value_name = "USER", hide = cfg!(not(windows)))]
    pub reader: Option<String>,

    /// Remove the drive when nobody has used it for so long, like 30m
    #[arg(long, value_name = "DURATION", value_parser = parse::length)]
    pub idle_exit: Option<Duration>,

    /// What the root of the drive holds
    #[arg(long, value_enum, default_value_t = LayoutArg::Folders)]
    pub layout: LayoutArg,

    /// Memory for decrypted blocks
    #[arg(long, value_name = "SIZE", default_value = "128M", value_parser = parse::size)]
    pub cache_size: u64,
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

impl DriveArgs {
    /// What clap can't tell.
    pub fn check(&self) -> Result<()> {
        if self.via != Some(Via::Nfs) && (self.port.is_some() || self.listen.is_some()) {
            bail!("--port and --listen are for --via nfs");
        }
        if self.what.len() == 2 && self.layout != LayoutArg::Folders {
            bail!("--layout is about a drive with all snapshots; leave it or the snapshot out");
        }
        if cfg!(not(windows)) && self.reader.is_some() {
            bail!("--reader is for Windows; --allow-other lets others in");
        }
        Ok(())
    }

    pub fn point(&self) -> Result<&Path> {
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

    pub fn snapshot(&self, repo: &Repository) -> Result<Option<Snapshot>> {
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

    /// A command line after which another process of this program serves such a drive,
    /// wherever it is started: `what` is that of this one with paths that hold there, and
    /// `more` are further options. That an older state is accepted isn't passed on: it is about
    /// this start, and the other may come often.
    pub fn line(
        &self,
        what: &[OsString],
        more: Vec<OsString>,
        globals: &Globals,
    ) -> Result<Vec<OsString>> {
        let mut line = vec!["mount".into(), "--repo".into(), globals.location()?.into()];
        let mut add = |option: &str, value: Option<OsString>| {
            line.extend(value.into_iter().flat_map(|value| [option.into(), value]));
        };
        add("--via", (self.via == Some(Via::Nfs)).then(|| "nfs".into()));
        add("--port", self.port.map(|port| port.to_string().into()));
        add("--listen", self.listen.map(|address| address.to_string().into()));
        add("--reader", self.reader.as_ref().map(OsString::from));
        add("--idle-exit", self.idle_exit.map(|limit| format!("{}s", limit.as_secs()).into()));
        add("--cache-size", Some(self.cache_size.to_string().into()));
        let is_default = self.layout == LayoutArg::Folders;
        add("--layout", (!is_default).then(|| "previous-versions".into()));
        for path in &self.filter.path {
            add("--path", Some(std::path::absolute(path)?.into()));
        }
        for (option, values) in [("--host", &self.filter.host), ("--tag", &self.filter.tag)] {
            line.extend(values.iter().map(|value| format!("{option}={value}").into()));
        }
        let switches = [("--no-cache", globals.no_cache), ("--allow-other", self.allow_other)];
        line.extend(switches.iter().filter(|(_, on)| *on).map(|(switch, _)| switch.into()));
        line.extend(more);
        line.push("--".into());
        line.extend(what.iter().cloned());
        Ok(line)
    }
}
