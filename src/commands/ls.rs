use std::ffi::OsString;
use std::io::Write;

use anyhow::Result;
use jiff::tz::TimeZone;
use tresor_engine::format::{Node, display_name};
use tresor_engine::history;
use tresor_engine::repo::Repository;

use crate::choose::{self, FilterArgs, Found, Place};
use crate::exit::Exit;
use crate::globals::Globals;
use crate::output::{self, Out};
use crate::{human, json};

const EXAMPLES: &str = "\
Examples:
  tresor ls latest
  tresor ls -l latest:/etc
  tresor ls --no-recursive 1a2b3c4d /home /srv
  tresor ls latest --json | jq -r 'select(.size > 1e9) | .path'

Exit codes: 0 done, 1 failed, 10 no repository, 12 wrong password";

/// List the files and folders in a snapshot
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The snapshot, and a place in it
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    snapshot: OsString,

    /// List only these places (below the one given with the snapshot)
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,

    /// Show mode, owner, size and time too
    #[arg(short, long)]
    long: bool,

    /// Don't go into the folders that are listed
    #[arg(long)]
    no_recursive: bool,

    #[command(flatten)]
    filter: FilterArgs,
}

pub fn run(args: Args, globals: &Globals) -> Result<Exit> {
    let repo = globals.open()?;
    let place = choose::place(&repo, &args.filter, &args.snapshot)?;
    let style = match (globals.json, args.long) {
        (true, _) => Style::Json,
        (_, true) => Style::Long(TimeZone::system()),
        _ => Style::Short,
    };
    let mut list = List { out: output::out(), style, recursive: !args.no_recursive };
    if args.paths.is_empty() {
        list.place(&repo, &place)?;
    }
    for path in &args.paths {
        let below = choose::names_of(path.as_encoded_bytes());
        let names = [place.names.clone(), below].concat();
        list.place(&repo, &Place { snapshot: place.snapshot.clone(), names })?;
    }
    list.out.flush()?;
    Ok(Exit::Done)
}

enum Style {
    Short,
    Long(TimeZone),
    Json,
}

struct List {
    out: Out,
    style: Style,
    recursive: bool,
}

impl List {
    /// A file, or what is in a directory.
    fn place(&mut self, repo: &Repository, place: &Place) -> Result<()> {
        let found = place.find(repo)?;
        let base = place.path();
        let Some(tree) = found.tree() else {
            if let Found::Entry(node) = &found {
                self.entry(&base, node)?;
            }
            return Ok(());
        };
        let mut failed = None;
        let walked = history::walk(repo, &tree, &mut |path, node| {
            let path = [base.as_slice(), path].concat();
            match self.entry(&path, node) {
                Ok(()) => Ok(self.recursive),
                Err(e) => {
                    // Ends the walk; the error itself is not the engine's.
                    failed = Some(e);
                    Err(tresor_engine::Error::Interrupted)
                }
            }
        });
        match failed {
            Some(e) => Err(e),
            None => Ok(walked?),
        }
    }

    fn entry(&mut self, path: &[u8], node: &Node) -> Result<()> {
        match &self.style {
            Style::Json => output::json_line(&mut self.out, &json::Entry::new(path, node))?,
            Style::Short => writeln!(self.out, "{}", display_name(path))?,
            Style::Long(zone) => writeln!(self.out, "{}", long(path, node, zone))?,
        }
        Ok(())
    }
}

/// `-rw-r--r--  root  root   1.2 KiB  2026-11-23 14:30:05  /etc/hosts`
pub fn long(path: &[u8], node: &Node, zone: &TimeZone) -> String {
    let path = display_name(path);
    let target = node.target.as_deref().map(|t| format!(" -> {}", display_name(t)));
    format!("{}  {path}{}", human::facts(node, zone), target.unwrap_or_default())
}
