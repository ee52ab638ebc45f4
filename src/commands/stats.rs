use std::fmt::Write;

use anyhow::Result;
use serde::Serialize;
use tresor_engine::maintenance::{Stats, stats};

use crate::choose::{self, FilterArgs};
use crate::exit::Exit;
use crate::globals::Globals;
use crate::human::{count, plural, size};
use crate::output;
use crate::progress::{FILES, Json, Reporter};

const EXAMPLES: &str = "\
Examples:
  tresor stats
  tresor stats latest
  tresor stats --host web --json

Exit codes: 0 done, 1 failed, 10 no repository, 12 wrong password";

/// Show how much snapshots hold, and how much the repository takes
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Only these snapshots [default: all]
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,

    #[command(flatten)]
    filter: FilterArgs,
}

#[derive(Serialize)]
struct Answer {
    snapshots: u64,
    entries: u64,
    files: u64,
    restore_bytes: u64,
    blobs: u64,
    blob_bytes: u64,
    stored_bytes: u64,
    packs: u64,
    index_objects: u64,
    parity_objects: u64,
    parity_bytes: u64,
}

pub fn run(args: Args, globals: &Globals) -> Result<Exit> {
    let repo = globals.open()?;
    let snapshots = choose::several(&repo, &args.filter, &args.snapshots)?;
    let reporter = Reporter::unstoppable(globals, FILES, Json::Answer);
    reporter.monitor().phase("looking at snapshots");
    let result = stats(&repo, &snapshots);
    drop(reporter);
    let s = result?;
    if globals.json {
        output::print_json(&Answer {
            snapshots: s.snapshots,
            entries: s.entries,
            files: s.files,
            restore_bytes: s.restore_bytes,
            blobs: s.blobs,
            blob_bytes: s.blob_bytes,
            stored_bytes: s.stored_bytes,
            packs: s.packs,
            index_objects: s.index_objects,
            parity_objects: s.parity_objects,
            parity_bytes: s.parity_bytes,
        })?;
    } else {
        output::print(&text(&s))?;
    }
    Ok(Exit::Done)
}

fn text(s: &Stats) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<22}{value}");
    };
    line("snapshots:", count(s.snapshots));
    line("files in them:", format!("{} ({} entries)", count(s.files), count(s.entries)));
    line("restoring them all:", size(s.restore_bytes));
    line("different contents:", format!("{} in {} blobs", size(s.blob_bytes), count(s.blobs)));
    let objects = [
        plural(s.packs, "pack", "packs"),
        plural(s.index_objects, "index object", "index objects"),
    ];
    line("the whole repository:", format!("{} in {}", size(s.stored_bytes), objects.join(" and ")));
    if s.parity_objects > 0 {
        line("of this parity:", size(s.parity_bytes));
    }
    text
}
