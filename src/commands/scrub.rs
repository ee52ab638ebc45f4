use std::fmt::Write;

use anyhow::Result;
use serde::Serialize;
use tresor_engine::maintenance::{ScrubProblem, ScrubReport, scrub};

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
only `tresor check` can tell, which needs the password.

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
struct Problem<'a> {
    object: &'a str,
    message: &'a str,
}

impl<'a> Problem<'a> {
    fn new(problem: &'a ScrubProblem) -> Self {
        Self { object: &problem.object, message: &problem.message }
    }
}

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
    let _ = match report.problems.len() as u64 {
        0 => writeln!(text, "each is what its name says"),
        n => writeln!(
            text,
            "{} found: put these objects back from another copy of the repository, if there is one; `tresor check --read-data`, which needs the password, tells which files are touched",
            plural(n, "problem", "problems")
        ),
    };
    text
}
