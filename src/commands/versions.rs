use std::path::PathBuf;

use anyhow::Result;
use tresor_engine::history;

use crate::choose::{self, FilterArgs};
use crate::exit::Exit;
use crate::globals::Globals;
use crate::version_list::VersionList;

const EXAMPLES: &str = "\
Examples:
  tresor versions ~/Documents/letter.odt
  tresor versions /etc/fstab --long --host web
  tresor cat 1a2b3c4d:/etc/fstab      one of the snapshots named

Each version that differs in contents, owner, mode or time is listed once, with the
snapshots that hold it; a folder counts as different if anything below it is. On a drive,
the folder .versions/ shows the same for one host.

Exit codes: 0 done (also if there is none), 1 failed, 3 some folders are damaged and were
passed over, 10 no repository, 12 wrong password";

/// List every version of a file, across snapshots
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The file or folder, as it was when it was saved; it need not be there any more
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,

    /// Show mode and owner too, and name every snapshot
    #[arg(short, long)]
    long: bool,

    #[command(flatten)]
    filter: FilterArgs,
}

pub fn run(args: Args, globals: &Globals) -> Result<Exit> {
    let repo = globals.open()?;
    let snapshots = choose::several(&repo, &args.filter, &[])?;
    let mut list = VersionList::new(&snapshots, args.long, globals);
    let mut missed = Vec::new();
    for path in &args.paths {
        let path = choose::absolute(path).0;
        let names = choose::names_of(&path);
        let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        let gathered = history::versions(&repo, &snapshots, &names, &|_, _| true)?;
        for version in gathered.found {
            list.version(&path, &version.node, &version.snapshots)?;
        }
        missed.extend(gathered.missed);
    }
    list.finish(&missed, globals)
}
