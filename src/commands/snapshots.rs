use std::fmt::Write;

use anyhow::Result;
use jiff::tz::TimeZone;
use tresor_engine::format::PathBytes;
use tresor_engine::repo::Snapshot;

use crate::choose::{self, FilterArgs};
use crate::exit::Exit;
use crate::globals::Globals;
use crate::table::Table;
use crate::{human, json, output};

const EXAMPLES: &str = "\
Examples:
  tresor snapshots
  tresor snapshots --host web --tag daily
  tresor snapshots latest --json

Exit codes: 0 done, 1 failed, 10 no repository, 12 wrong password";

/// List snapshots, oldest first
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Only these snapshots
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,

    #[command(flatten)]
    filter: FilterArgs,
}

pub fn run(args: Args, globals: &Globals) -> Result<Exit> {
    let repo = globals.open()?;
    let snapshots = choose::several(&repo, &args.filter, &args.snapshots)?;
    if globals.json {
        output::print_json(&snapshots.iter().map(json::Snapshot::new).collect::<Vec<_>>())?;
    } else {
        output::print(&text(&snapshots, globals))?;
    }
    Ok(Exit::Done)
}

fn text(snapshots: &[Snapshot], globals: &Globals) -> String {
    let zone = TimeZone::system();
    let mut table = Table::new(["ID", "Time", "Host", "Tags", "Files", "Size", "Paths"], &[4, 5]);
    for s in snapshots {
        let (data, summary) = (&s.data, &s.data.summary);
        table.row([
            s.id.short(),
            human::time(data.time, &zone),
            human::foreign(&data.host),
            data.tags.iter().map(|t| human::foreign(t)).collect::<Vec<_>>().join("\n"),
            human::count(summary.files),
            human::size(summary.bytes),
            data.paths.iter().map(PathBytes::display).collect::<Vec<_>>().join("\n"),
        ]);
    }
    let mut text = if snapshots.is_empty() { String::new() } else { table.text() };
    if !globals.quiet {
        let _ =
            writeln!(text, "{}", human::plural(snapshots.len() as u64, "snapshot", "snapshots"));
    }
    text
}
