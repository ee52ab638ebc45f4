use std::path::PathBuf;

use anyhow::Result;
use tresor_mountfs::system::unmount;

use crate::exit::Exit;
use crate::globals::Globals;

const EXAMPLES: &str = "\
Examples:
  tresor umount /mnt/restore
  tresor umount --lazy /mnt/restore     though a program still has a file open there

Exit codes: 0 unmounted, 1 failed";

/// Remove a drive
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Where the drive is
    #[arg(value_name = "MOUNTPOINT")]
    point: PathBuf,

    /// Remove it now, and end it when nothing on it is in use any more
    #[arg(short, long)]
    lazy: bool,
}

pub fn run(args: Args, _: &Globals) -> Result<Exit> {
    unmount(&args.point, args.lazy)?;
    Ok(Exit::Done)
}
