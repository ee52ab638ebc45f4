use std::io::{self, IsTerminal};

use anyhow::{Context, Result};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use tresor_engine::format::Node;
use tresor_engine::history;

use crate::choose::{self, FilterArgs};
use crate::exit::Exit;
use crate::globals::Globals;
use crate::progress::{FILES, Json, Reporter};
use crate::version_list::VersionList;

const EXAMPLES: &str = "\
Examples:
  tresor find '*.docx'
  tresor find -i 'report*' --host laptop
  tresor find '/home/*/.ssh/**' --long --snapshot latest

A pattern is about the name of a file or folder; if there is a / in it, about the whole
path (about its end, if it doesn't begin with one). * stays within a name, ** doesn't.
Each version that differs in contents, owner, mode or time is shown once, with the
snapshots that hold it.

Exit codes: 0 done (also if nothing is found), 1 failed, 3 some folders are damaged and were
passed over, 10 no repository, 12 wrong password";

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
    let mut list = VersionList::new(&snapshots, args.long, globals);
    let monitor = reporter.as_ref().map(Reporter::monitor);
    let matches = |path: &[u8], node: &Node| {
        if let Some(monitor) = &monitor {
            monitor.progress().add(1, 0);
        }
        matcher.matches(path, node)
    };
    let mut failed = None;
    let done = history::find(&repo, &snapshots, &matches, &mut |path, node, holders| {
        list.version(path, node, holders).map_err(|e| {
            // Ends the search; the error itself is not the engine's.
            failed = Some(e);
            tresor_engine::Error::Interrupted
        })
    });
    drop(reporter);
    failed.map_or(Ok(()), Err)?;
    list.finish(&done?, globals)
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
        let is_match = |set: &GlobSet, bytes: &[u8]| !set.is_empty() && set.is_match(os_str(bytes));
        is_match(&self.names, &node.name) || is_match(&self.paths, path)
    }
}

#[cfg(unix)]
fn os_str(bytes: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}

/// What is no text has something else in place of it, which `*` and `?` match too.
#[cfg(not(unix))]
fn os_str(bytes: &[u8]) -> std::ffi::OsString {
    String::from_utf8_lossy(bytes).into_owned().into()
}
