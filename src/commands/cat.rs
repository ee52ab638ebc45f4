use std::ffi::OsString;
use std::io::Write;

use anyhow::{Result, bail};
use tresor_engine::Error;
use tresor_engine::restorer::read_file;

use crate::choose::{self, FilterArgs, Found};
use crate::exit::Exit;
use crate::globals::Globals;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  tresor cat latest:/etc/fstab
  tresor cat latest:/shop.sql | mysql shop
  tresor cat 2026-11-23:/etc/hosts | diff - /etc/hosts

Exit codes: 0 done, 1 failed, 10 no repository, 12 wrong password";

/// Write the contents of a file in a snapshot to standard output
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The snapshot and the file
    #[arg(value_name = "SNAPSHOT:PATH")]
    file: OsString,

    #[command(flatten)]
    filter: FilterArgs,
}

pub fn run(args: Args, globals: &Globals) -> Result<Exit> {
    let repo = globals.open()?;
    let place = choose::place(&repo, &args.filter, &args.file)?;
    let node = match place.find(&repo)? {
        Found::Entry(node) if node.is_file() => node,
        Found::Root(_) => bail!("which file? Write SNAPSHOT:PATH, like latest:/etc/fstab"),
        Found::Entry(_) => bail!(
            "{} is not a regular file; `tresor ls` lists a folder, `tresor restore` brings it back",
            place.shown()
        ),
    };
    let mut out = output::out();
    match read_file(&repo, &node, &mut out) {
        // Of our own output, which says so itself.
        Err(Error::Io { error, .. }) => bail!(error),
        other => other?,
    }
    out.flush()?;
    Ok(Exit::Done)
}
