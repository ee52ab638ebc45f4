use std::ffi::OsString;
use std::io::Write;

use anyhow::{Result, bail};
use serde::Serialize;
use tresor_engine::format::{BlobId, Node, display_name};
use tresor_engine::history::{self, ChangeKind};
use tresor_engine::repo::Repository;

use crate::choose::{self, FilterArgs, Place};
use crate::exit::Exit;
use crate::globals::Globals;
use crate::human::{count, plural, size};
use crate::output::{self, Out};
use crate::{json, output::json_line};

const EXAMPLES: &str = "\
Examples:
  tresor diff latest~1 latest
  tresor diff 1a2b3c4d:/etc 5e6f7a8b:/etc --metadata

  +  added            M  contents (or target of a link) changed
  -  removed          T  became another kind of entry
                      U  only owner, mode, time or attributes changed (with --metadata)

Exit codes: 0 done (also if they differ), 1 failed, 10 no repository, 12 wrong password";

/// Show what differs between two snapshots, or two folders of snapshots
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The older one
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    old: OsString,

    /// The newer one
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    new: OsString,

    /// List entries too of which only owner, mode, time or attributes changed
    #[arg(long)]
    metadata: bool,

    #[command(flatten)]
    filter: FilterArgs,
}

#[derive(Serialize)]
struct Change {
    message_type: &'static str,
    modifier: &'static str,
    #[serde(flatten)]
    path: json::Path,
}

#[derive(Default, Serialize)]
struct Side {
    files: u64,
    directories: u64,
    others: u64,
    /// Length of files.
    bytes: u64,
}

impl Side {
    fn count(&mut self, node: &Node) {
        match (node.is_file(), node.is_dir()) {
            (true, _) => self.files += 1,
            (_, true) => self.directories += 1,
            _ => self.others += 1,
        }
        if node.is_file() {
            self.bytes = self.bytes.saturating_add(node.size);
        }
    }

    fn text(&self) -> String {
        let parts = [
            plural(self.files, "file", "files"),
            plural(self.directories, "directory", "directories"),
            plural(self.others, "other", "others"),
            size(self.bytes),
        ];
        parts.join(", ")
    }
}

#[derive(Serialize)]
struct Statistics {
    message_type: &'static str,
    old_snapshot: String,
    new_snapshot: String,
    added: Side,
    removed: Side,
    modified: u64,
    metadata_changed: u64,
    type_changed: u64,
}

pub fn run(args: Args, globals: &Globals) -> Result<Exit> {
    let repo = globals.open()?;
    let old = choose::place(&repo, &args.filter, &args.old)?;
    let new = choose::place(&repo, &args.filter, &args.new)?;
    let trees = (tree(&repo, &old)?, tree(&repo, &new)?);
    let statistics = Statistics {
        message_type: "statistics",
        old_snapshot: old.snapshot.id.to_string(),
        new_snapshot: new.snapshot.id.to_string(),
        added: Side::default(),
        removed: Side::default(),
        modified: 0,
        metadata_changed: 0,
        type_changed: 0,
    };
    let (out, json, metadata) = (output::out(), globals.json, args.metadata);
    let mut diff = Diff { out, json, metadata, base: new.path(), statistics };
    diff.run(&repo, &trees)?;
    if globals.json {
        json_line(&mut diff.out, &diff.statistics)?;
    } else if !globals.quiet {
        diff.summary()?;
    }
    diff.out.flush()?;
    Ok(Exit::Done)
}

fn tree(repo: &Repository, place: &Place) -> Result<BlobId> {
    match place.find(repo)?.tree() {
        Some(tree) => Ok(tree),
        None => bail!("{} is not a folder; compare the folders that files are in", place.shown()),
    }
}

struct Diff {
    out: Out,
    json: bool,
    metadata: bool,
    base: Vec<u8>,
    statistics: Statistics,
}

impl Diff {
    fn run(&mut self, repo: &Repository, trees: &(BlobId, BlobId)) -> Result<()> {
        let mut failed = None;
        let done = history::diff(repo, &trees.0, &trees.1, &mut |kind, path, old, new| {
            self.change(kind, path, old, new).map_err(|e| {
                // Ends the walk; the error itself is not the engine's.
                failed = Some(e);
                tresor_engine::Error::Interrupted
            })
        });
        match failed {
            Some(e) => Err(e),
            None => Ok(done?),
        }
    }

    fn change(
        &mut self,
        kind: ChangeKind,
        path: &[u8],
        old: Option<&Node>,
        new: Option<&Node>,
    ) -> Result<()> {
        let all = &mut self.statistics;
        let modifier = match kind {
            ChangeKind::Added => "+",
            ChangeKind::Removed => "-",
            ChangeKind::Modified => "M",
            ChangeKind::Metadata => "U",
            ChangeKind::Type => "T",
        };
        match kind {
            ChangeKind::Added => new.into_iter().for_each(|n| all.added.count(n)),
            ChangeKind::Removed => old.into_iter().for_each(|n| all.removed.count(n)),
            ChangeKind::Modified => all.modified += 1,
            ChangeKind::Metadata => all.metadata_changed += 1,
            ChangeKind::Type => all.type_changed += 1,
        }
        if kind == ChangeKind::Metadata && !self.metadata {
            return Ok(());
        }
        let slash: &[u8] = if new.or(old).is_some_and(Node::is_dir) { b"/" } else { b"" };
        let path = [self.base.as_slice(), path, slash].concat();
        if self.json {
            let path = json::Path::new(&path);
            json_line(&mut self.out, &Change { message_type: "change", modifier, path })?;
        } else {
            writeln!(self.out, "{modifier}    {}", display_name(&path))?;
        }
        Ok(())
    }

    fn summary(&mut self) -> Result<()> {
        let all = &self.statistics;
        let hint = match (all.metadata_changed, self.metadata) {
            (0, _) | (_, true) => "",
            _ => " (--metadata lists them)",
        };
        writeln!(self.out)?;
        writeln!(self.out, "added:            {}", all.added.text())?;
        writeln!(self.out, "removed:          {}", all.removed.text())?;
        writeln!(self.out, "modified:         {}", count(all.modified))?;
        writeln!(self.out, "kind changed:     {}", count(all.type_changed))?;
        writeln!(self.out, "metadata changed: {}{hint}", count(all.metadata_changed))?;
        Ok(())
    }
}
