use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tresor_engine::repo::Repository;
use tresor_mountfs::system::{mount, mount_point};
use tresor_mountfs::{MountOptions, OwnDrive};

use crate::background;
use crate::drive_args::{DriveArgs, Via};
use crate::exit::{self, Exit};
use crate::globals::Globals;
use crate::{drive_status, nfs_drive, output, signals};

const EXAMPLES: &str = "\
Examples:
  tresor mount /mnt/restore                     every snapshot, in folders by time, host and tag
  tresor mount latest /mnt/restore              the newest snapshot
  tresor mount --background 2026-11-23 /mnt/r   the last one of that day; returns at once
  tresor umount /mnt/restore
  tresor mount R:                               on Windows; * takes the last letter that is free

  tresor mount --status /mnt/restore            what it has fetched so far

  sudo -E tresor mount --via nfs /mnt/restore   without FUSE, through the system's NFS client
  tresor mount --via nfs                        only serve it, and say how to mount it
  tresor mount --via nfs latest -               the same with one snapshot

The drive is read-only. Files are fetched and decrypted when they are read. For /etc/fstab see
docs/drive.md, which describes the rest, too.

Exit codes: 0 unmounted, 1 failed, 10 no repository, 12 wrong password";

/// How long programs that still use the drive have after a signal.
const LAST_READS: Duration = Duration::from_secs(2);
/// How often it is tried to unmount a drive that can't be.
const AGAIN: Duration = Duration::from_secs(1);

/// Show snapshots as a drive
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, override_usage = "tresor mount [OPTIONS] [SNAPSHOT] MOUNTPOINT")]
pub struct Args {
    #[command(flatten)]
    pub drive: DriveArgs,

    /// Go into the background as soon as the drive answers
    #[arg(long)]
    pub background: bool,

    /// Tell what the drive at MOUNTPOINT has done so far, instead of mounting one
    #[arg(long, conflicts_with_all = ["background", "allow_other", "idle_exit"])]
    pub status: bool,

    /// The part of `--background` that stays: password on standard input, one line when ready.
    #[arg(long, hide = true)]
    pub serve: bool,
}

impl Args {
    /// Tells people where the drive is, and what removes it.
    pub fn where_it_is(&self, point: &Path) -> Result<String> {
        // In the background there is nobody to press anything.
        let (shown, how) =
            if self.serve { (self.drive.point()?, "") } else { (point, "Ctrl-C or ") };
        let shown = shown.display();
        Ok(format!("The drive is at {shown}. {how}`tresor umount {shown}` removes it.\n"))
    }
}

pub fn run(args: Args, globals: &Globals) -> Result<Exit> {
    if args.status {
        return drive_status::show(args.drive.point()?, globals);
    }
    args.drive.check()?;
    if args.background {
        return background::start(&args, globals);
    }
    let repo = if args.serve { background::open(globals)? } else { globals.open()? };
    match args.drive.via {
        Some(Via::Nfs) => nfs_drive::run(&args, globals, repo),
        _ => run_mounted(&args, globals, repo),
    }
}

fn run_mounted(args: &Args, globals: &Globals, repo: Arc<Repository>) -> Result<Exit> {
    let point = mount_point(args.drive.point()?)?;
    let own = OwnDrive::default();
    let to_leave = own.clone();
    // Before there is a drive: a signal must never leave one behind that nobody serves.
    let _guard = signals::on_stop(move || leave(to_leave.clone()));
    let options = MountOptions {
        allow_other: args.drive.allow_other,
        reader: args.drive.reader.clone(),
        source: globals.location()?.display().to_string(),
        repository: Some(globals.location()?),
        idle_exit: args.drive.idle_exit(),
        own,
        on_error: Arc::new(output::complain),
    };
    let mounted = mount(args.drive.drive(repo)?, &point, &options)?;
    let said = if globals.json { String::new() } else { args.where_it_is(mounted.point())? };
    background::say(args.serve, globals, &said)?;
    mounted.wait().context("the drive ended")?;
    Ok(Exit::Done)
}

/// Unmounts after a signal, also if something is open there, and ends the
/// program though that keeps the drive alive.
pub fn leave(own: OwnDrive) {
    std::thread::spawn(move || {
        let mut told = false;
        loop {
            match own.unmount(true) {
                Ok(true) => break,
                // It came before there was one.
                Ok(false) => exit::now(Exit::Interrupted),
                // Without this program, who looks there would wait, or find it dead.
                Err(e) if !told => output::complain(&format!(
                    "{e}. Until it is unmounted this goes on; another signal ends it all the same"
                )),
                Err(_) => {}
            }
            told = true;
            std::thread::sleep(AGAIN);
        }
        std::thread::sleep(LAST_READS);
        exit::now(Exit::Done);
    });
}
