use std::ffi::{OsStr, OsString};
use std::io::Write;

use anyhow::{Result, bail};
use tresor_engine::Error;
use tresor_engine::format::{Node, Value, windows};
use tresor_engine::restorer::{read_attribute, read_file};

use crate::choose::{self, FilterArgs, Found};
use crate::exit::Exit;
use crate::globals::Globals;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  tresor cat latest:/etc/fstab
  tresor cat latest:/shop.sql | mysql shop
  tresor cat 2026-11-23:/etc/hosts | diff - /etc/hosts
  tresor cat --attribute com.apple.ResourceFork latest:/Users/Anna/Logo > fork

Exit codes: 0 done, 1 failed, 10 no repository, 12 wrong password";

/// Write the contents of a file in a snapshot to standard output
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The snapshot and the file
    #[arg(value_name = "SNAPSHOT:PATH")]
    file: OsString,

    /// Write this extended attribute of the entry, which may be one that is too long for this
    /// system (`ls --json` lists those), or an alternate stream of Windows
    #[arg(long, value_name = "NAME")]
    attribute: Option<OsString>,

    #[command(flatten)]
    filter: FilterArgs,
}

pub fn run(args: Args, globals: &Globals) -> Result<Exit> {
    let repo = globals.open()?;
    let place = choose::place(&repo, &args.filter, &args.file)?;
    let node = match place.find(&repo)? {
        Found::Entry(node) if node.is_file() || args.attribute.is_some() => node,
        Found::Root(_) => bail!("which file? Write SNAPSHOT:PATH, like latest:/etc/fstab"),
        Found::Entry(_) => bail!(
            "{} is not a regular file; `tresor ls` lists a folder, `tresor restore` brings it back",
            place.shown()
        ),
    };
    let mut out = output::out();
    let written = match &args.attribute {
        Some(name) => read_attribute(&repo, attribute(&node, name)?, &mut out),
        None => read_file(&repo, &node, &mut out),
    };
    match written {
        // Of our own output, which says so itself.
        Err(Error::Io { error, .. }) => bail!(error),
        other => other?,
    }
    out.flush()?;
    Ok(Exit::Done)
}

/// An attribute by its name, or by that of the alternate stream of Windows that it is.
fn attribute<'n>(node: &'n Node, name: &OsStr) -> Result<Value<'n>> {
    let own = name.as_encoded_bytes();
    let stream = [windows::STREAM, own].concat();
    match node.attribute(own).or_else(|| node.attribute(&stream)) {
        Some(value) => Ok(value),
        None => bail!("it has no extended attribute or stream {:?}", name),
    }
}
