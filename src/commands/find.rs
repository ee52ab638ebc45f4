use std::io::{self, IsTerminal, Write};

use anyhow::{Context, Result};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use jiff::tz::TimeZone;
use serde::Serialize;
use tresor_engine::format::{Node, display_name};
use tresor_engine::history;
use tresor_engine::repo::{Repository, Snapshot};

use super::ls;
use crate::choose::{self, FilterArgs};
use crate::exit::Exit;
use crate::globals::Globals;
use crate::output::{self, Out, json_line};
use crate::progress::{FILES, Json, Reporter};
use crate::{human, json};

const EXAMPLES: &str = "\
Examples:
  tresor find '*.docx'
  tresor find -i 'report*' --host laptop
  tresor find '/home/*/.ssh/**' --long --snapshot latest

A pattern is about the name of a file or folder; if there is a / in it, about the whole
path (about its end, if it doesn't begin with one). * stays within a name, ** doesn't.
Each version that differs in contents, owner, mode or time is shown once, with the
snapshots that hold it.

Exit codes: 0 done (also if nothing is found), 1 failed, 10 no repository,
12 wrong password";

/// Find files and folders in all snapshots
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What to look for (any of these)
    #[arg(value_name = "PATTERN", required = true)]
    patterns: Vec<String>,

    /// Take capital and small letters as the same
    #[arg(short, long)]
    ignore_case: bool,

    /// Look only in this snapshot (may be repeated)
    #[arg(short, long, value_name = "SNAPSHOT")]
    snapshot: Vec<String>,

    /// Show mode and owner too, and name every snapshot
    #[arg(short, long)]
    long: bool,

    #[command(flatten)]
    filter: FilterArgs,
}

pub fn run(args: Args, globals: &Globals) -> Result<Exit> {
    let matcher = Matcher::new(&args)?;
    let repo = globals.open()?;
    let snapshots = choose::several(&repo, &args.filter, &args.snapshot)?;
    // A line on the screen would get in the way of results that go there too.
    let reporter =
        (!io::stdout().is_terminal()).then(|| Reporter::unstoppable(globals, FILES, Json::Answer));
    let mut list = List {
        out: output::out(),
        json: globals.json,
        long: args.long,
        zone: TimeZone::system(),
        snapshots: &snapshots,
        last: None,
        found: 0,
    };
    let monitor = reporter.as_ref().map(Reporter::monitor);
    let matches = |path: &[u8], node: &Node| {
        if let Some(monitor) = &monitor {
            monitor.progress().add(1, 0);
        }
        matcher.matches(path, node)
    };
    list.run(&repo, &matches)?;
    drop(reporter);
    list.out.flush()?;
    if list.found == 0 && globals.wants_text() {
        output::complain(&format!("nothing found in {}", snapshots_of(snapshots.len())));
    }
    Ok(Exit::Done)
}

fn snapshots_of(n: usize) -> String {
    human::plural(n as u64, "snapshot", "snapshots")
}

/// Patterns about names, and those about paths.
struct Matcher {
    names: GlobSet,
    paths: GlobSet,
}

impl Matcher {
    fn new(args: &Args) -> Result<Self> {
        let (mut names, mut paths) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        for pattern in &args.patterns {
            let (set, text) = match pattern.contains('/') {
                false => (&mut names, pattern.clone()),
                true if pattern.starts_with('/') => (&mut paths, pattern.clone()),
                true => (&mut paths, format!("**/{pattern}")),
            };
            let glob = GlobBuilder::new(text.trim_end_matches('/'))
                .literal_separator(true)
                .backslash_escape(true)
                .case_insensitive(args.ignore_case)
                .build()
                .with_context(|| format!("bad pattern {pattern:?}"))?;
            set.add(glob);
        }
        Ok(Self { names: names.build()?, paths: paths.build()? })
    }

    fn matches(&self, path: &[u8], node: &Node) -> bool {
        let is_match = |set: &GlobSet, bytes: &[u8]| match os_str(bytes) {
            Some(text) => !set.is_empty() && set.is_match(text),
            None => false,
        };
        is_match(&self.names, &node.name) || is_match(&self.paths, path)
    }
}

#[cfg(unix)]
fn os_str(bytes: &[u8]) -> Option<&std::ffi::OsStr> {
    Some(std::os::unix::ffi::OsStrExt::from_bytes(bytes))
}

#[cfg(not(unix))]
fn os_str(bytes: &[u8]) -> Option<&std::ffi::OsStr> {
    std::str::from_utf8(bytes).ok().map(Into::into)
}

#[derive(Serialize)]
struct Version {
    #[serde(flatten)]
    entry: json::Entry,
    snapshots: Vec<String>,
}

struct List<'a> {
    out: Out,
    json: bool,
    long: bool,
    zone: TimeZone,
    snapshots: &'a [Snapshot],
    /// The path whose versions are being listed.
    last: Option<Vec<u8>>,
    found: u64,
}

impl List<'_> {
    fn run(&mut self, repo: &Repository, matches: &dyn Fn(&[u8], &Node) -> bool) -> Result<()> {
        let mut failed = None;
        let all = self.snapshots;
        let done = history::find(repo, all, matches, &mut |path, node, holders| {
            self.version(path, node, holders).map_err(|e| {
                // Ends the search; the error itself is not the engine's.
                failed = Some(e);
                tresor_engine::Error::Interrupted
            })
        });
        match failed {
            Some(e) => Err(e),
            None => Ok(done?),
        }
    }

    fn version(&mut self, path: &[u8], node: &Node, holders: &[usize]) -> Result<()> {
        self.found += 1;
        let all = self.snapshots;
        let holders: Vec<&Snapshot> = holders.iter().filter_map(|n| all.get(*n)).collect();
        if self.json {
            let snapshots = holders.iter().map(|s| s.id.to_string()).collect();
            let version = Version { entry: json::Entry::new(path, node), snapshots };
            json_line(&mut self.out, &version)?;
        } else {
            self.version_text(path, node, &holders)?;
        }
        // Results are seen as they come.
        if io::stdout().is_terminal() {
            self.out.flush()?;
        }
        Ok(())
    }

    fn version_text(&mut self, path: &[u8], node: &Node, holders: &[&Snapshot]) -> Result<()> {
        if self.last.as_deref() != Some(path) {
            writeln!(self.out, "{}", display_name(path))?;
            self.last = Some(path.to_vec());
        }
        if self.long {
            writeln!(self.out, "  {}", ls::facts(node, &self.zone))?;
            for s in holders {
                let time = human::time(s.data.time, &self.zone);
                writeln!(self.out, "      in {}  {time}  {}", s.id.short(), s.data.host)?;
            }
            return Ok(());
        }
        let size = if node.is_file() { human::size(node.size) } else { "-".into() };
        let time = human::time(node.mtime, &self.zone);
        writeln!(self.out, "  {time}  {size:>10}  in {}", named(holders))?;
        Ok(())
    }
}

/// `1a2b3c4d`, or how many snapshots, with the oldest and the newest.
fn named(holders: &[&Snapshot]) -> String {
    match holders {
        [] => "no snapshot".into(),
        [first, .., last] if holders.len() > 4 => {
            format!("{}: {} … {}", snapshots_of(holders.len()), first.id.short(), last.id.short())
        }
        few => few.iter().map(|s| s.id.short()).collect::<Vec<_>>().join(", "),
    }
}
