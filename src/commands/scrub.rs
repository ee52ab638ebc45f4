use std::fmt::Write;

use anyhow::Result;
use serde::Serialize;
use tresor_engine::maintenance::{Cure, ScrubProblem, ScrubReport, scrub};

use crate::exit::Exit;
use crate::globals::Globals;
use crate::human::{plural, size};
use crate::output;
use crate::progress::{Json, OBJECTS, Reporter};

const EXAMPLES: &str = "\
Examples:
  tresor scrub -r /srv/backups/customer
  tresor scrub --json

No password is needed: the name of an object is the hash of its bytes. So whoever keeps
a repository for others can look for rot. What is missing, and which files are touched,
only `tresor check` can tell, which needs the password. If the repository has parity, that is
checked too, and `tresor repair objects` mends what it can.

Exit codes: 0 no problems, 1 problems found or failed, 10 no repository, 130 interrupted";

/// Check that no object has changed, without a password
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {}

#[derive(Serialize)]
struct Answer<'a> {
    problems: Vec<Problem<'a>>,
    objects: u64,
    bytes_read: u64,
}

#[derive(Serialize)]
pub struct Problem<'a> {
    object: &'a str,
    message: &'a str,
    /// Whether `repair objects` can put it right.
    mendable: bool,
}

impl<'a> Problem<'a> {
    pub fn new(problem: &'a ScrubProblem) -> Self {
        let mendable = problem.cure != Cure::None;
        Self { object: &problem.object, message: &problem.message, mendable }
    }
}

const HINT: &str = ": put these objects back from another copy of the repository, if there is one; `tresor check --read-data`, which needs the password, tells which files are touched\n";

pub fn run(_: Args, globals: &Globals) -> Result<Exit> {
    let store = globals.store()?;
    let reporter = Reporter::start(globals, OBJECTS, Json::Answer);
    let result = scrub(&store, &*reporter.monitor());
    let report = reporter.end(result)?;
    if globals.json {
        output::print_json(&Answer {
            problems: report.problems.iter().map(Problem::new).collect(),
            objects: report.objects,
            bytes_read: report.bytes,
        })?;
    } else {
        output::print(&text(&report, globals))?;
    }
    Ok(if report.problems.is_empty() { Exit::Done } else { Exit::Failed })
}

fn text(report: &ScrubReport, globals: &Globals) -> String {
    let mut text = String::new();
    for problem in &report.problems {
        let _ = writeln!(text, "{}: {}", problem.object, output::tidy(&problem.message));
    }
    if globals.quiet {
        return text;
    }
    let objects = plural(report.objects, "object", "objects");
    let _ = writeln!(text, "read {objects}, {}", size(report.bytes));
    let all = report.problems.len() as u64;
    if all == 0 {
        text.push_str("each is what its name says\n");
        return text;
    }
    let mendable = report.problems.iter().filter(|p| p.cure != Cure::None).count() as u64;
    let _ = write!(text, "{} found", plural(all, "problem", "problems"));
    if mendable > 0 {
        let _ = write!(text, "; `tresor repair objects` puts {mendable} of them right");
    }
    text.push_str(if mendable < all { HINT } else { "\n" });
    text
}
