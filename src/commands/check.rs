use std::fmt::Write;

use anyhow::Result;
use serde::Serialize;
use tresor_engine::format::{ObjectId, Time};
use tresor_engine::maintenance::{CheckOptions, CheckProblem, CheckReport, Subset, check};

use crate::exit::Exit;
use crate::globals::Globals;
use crate::human::{self, plural, size};
use crate::parse::Since;
use crate::progress::{Json, PACKS, Reporter};
use crate::{output, parse};

const EXAMPLES: &str = "\
Examples:
  tresor check
  tresor check --read-data
  tresor check --read-data-subset 5%
  tresor check --read-data-subset 2/7       (each day of the week another part)
  tresor check --since 2d --read-data       (each night what the last backups added)

Without --read-data the lengths of packs and of parity are checked, not their contents:
damage to contents shows only when they are read.

With --since, what came into the repository before that time is passed over: older
snapshots are not walked, older packs not read. How old something is is told by the
files' times in the repository, which are those of its disk or server. That all packs
are there is checked in any case. Take a longer time than lies between two checks, and
check everything now and then: old data rots too.

Exit codes: 0 no problems, 1 problems found or failed, 10 no repository,
12 wrong password, 130 interrupted";

/// Check that everything the snapshots need is there and intact
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Read every byte of every pack and check it
    #[arg(long)]
    read_data: bool,

    /// Read some packs: 5% or 10G chosen at random, or 2/7, the second of seven parts
    #[arg(long, value_name = "SUBSET", value_parser = parse::subset, conflicts_with = "read_data")]
    read_data_subset: Option<Subset>,

    /// Only what came since: 2d or 36h ago, or a day or time such as yesterday, 2026-11-23 or 2026-11-23T14:30
    #[arg(long, value_name = "DURATION|TIME", value_parser = parse::since)]
    since: Option<Since>,
}

#[derive(Serialize)]
struct Answer<'a> {
    since: Option<String>,
    problems: Vec<Problem<'a>>,
    snapshots: u64,
    older_snapshots: u64,
    packs: u64,
    blobs: u64,
    bytes_read: u64,
    unused_packs: u64,
}

#[derive(Serialize)]
struct Problem<'a> {
    object: &'a str,
    message: &'a str,
    snapshots: Vec<String>,
    files: &'a [String],
    more_files: u64,
}

pub fn run(args: Args, globals: &Globals) -> Result<Exit> {
    let Args { read_data, read_data_subset: subset, since } = args;
    let repo = globals.open()?;
    // What came is known by the store's clock.
    let since = since.map(|since| since.at(repo.clock()));
    let options = CheckOptions { read_data, subset, since };
    // What is noticed is said before there is a line of progress.
    repo.snapshot_ids()?;
    let reporter = Reporter::start(globals, PACKS, Json::Answer);
    let result = check(&repo, &options, &*reporter.monitor());
    let report = reporter.end(result)?;
    if globals.json {
        output::print_json(&answer(&report, since))?;
    } else {
        output::print(&text(&report, globals))?;
    }
    Ok(if report.problems.is_empty() { Exit::Done } else { Exit::Failed })
}

fn answer(report: &CheckReport, since: Option<Time>) -> Answer<'_> {
    fn problem(p: &CheckProblem) -> Problem<'_> {
        let CheckProblem { object, message, snapshots, files, more_files } = p;
        let snapshots = snapshots.iter().map(ToString::to_string).collect();
        Problem { object, message, snapshots, files, more_files: *more_files }
    }
    Answer {
        since: since.map(|time| human::rfc3339(time, 0)),
        problems: report.problems.iter().map(problem).collect(),
        snapshots: report.snapshots,
        older_snapshots: report.older_snapshots,
        packs: report.packs,
        blobs: report.blobs,
        bytes_read: report.bytes_read,
        unused_packs: report.unused_packs,
    }
}

/// Those of a problem in one line.
fn snapshots(ids: &[ObjectId]) -> String {
    const MOST: usize = 12;
    let short: Vec<_> = ids.iter().take(MOST).map(|id| id.short()).collect();
    let count = plural(ids.len() as u64, "snapshot", "snapshots");
    let more = if ids.len() > MOST { ", and earlier ones" } else { "" };
    format!("{count}: {}{more}", short.join(", "))
}

fn text(report: &CheckReport, globals: &Globals) -> String {
    let mut text = String::new();
    for problem in &report.problems {
        let _ = writeln!(text, "{}: {}", problem.object, output::tidy(&problem.message));
        if problem.snapshots.len() > 1 {
            let _ = writeln!(text, "    touches {}", snapshots(&problem.snapshots));
        }
        for file in &problem.files {
            let _ = writeln!(text, "    touches {file}");
        }
        if problem.more_files > 0 {
            let _ = writeln!(text, "    and {}", plural(problem.more_files, "more", "more"));
        }
    }
    if globals.quiet {
        return text;
    }
    let read = match report.bytes_read {
        0 => "contents not read".to_owned(),
        bytes => format!("{} read", size(bytes)),
    };
    let parts = [
        match report.older_snapshots {
            0 => plural(report.snapshots, "snapshot", "snapshots"),
            older => format!(
                "{} ({older} older left out)",
                plural(report.snapshots, "snapshot", "snapshots")
            ),
        },
        plural(report.packs, "pack", "packs"),
        plural(report.blobs, "blob", "blobs"),
        read,
    ];
    let _ = writeln!(text, "checked {}", parts.join(", "));
    if report.unused_packs > 0 {
        let packs = plural(report.unused_packs, "pack", "packs");
        let _ = writeln!(
            text,
            "{packs} belong to no index: of an interrupted or running backup; `tresor prune` deals with them"
        );
    }
    let _ = match report.problems.len() as u64 {
        0 => writeln!(text, "no errors found"),
        n => writeln!(
            text,
            "{} found: put the objects named above back from another copy of the repository, if there is one; else see `tresor repair --help`",
            plural(n, "problem", "problems")
        ),
    };
    text
}
