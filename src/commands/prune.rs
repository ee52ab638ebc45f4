use std::collections::HashSet;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tresor_engine::format::ObjectId;
use tresor_engine::maintenance::{
    MaxUnused, PruneOptions, PruneOutcome, PrunePlan, plan_prune, plan_prune_without, prune,
};
use tresor_engine::monitor::Monitor;
use tresor_engine::repo::Repository;

use crate::exit::Exit;
use crate::globals::Globals;
use crate::human::{plural, size};
use crate::progress::{Json, PACKS, Reporter};
use crate::{output, parse};

const EXAMPLES: &str = "\
Examples:
  tresor prune
  tresor prune --dry-run
  tresor prune --max-unused 10G --max-repack-size 50G
  tresor prune --max-unused 0 --grace 0

Backups, restores and drives may go on meanwhile. So that they can, space is given back
in two steps: packs that nothing needs are marked, and deleted by a prune that comes
after the time of grace. --grace 0 deletes at once, and is for a repository to which
nobody is backing up right now.

What a pack holds that is not needed stays there as long as something else in it is, until
the pack is rewritten. --max-unused says how much may stay: 5% of what is used, 10G, or
unlimited, which rewrites nothing for its sake. --max-repack-size ends that earlier: the
next prune goes on. The packs with the most to gain come first.

Exit codes: 0 done, 1 failed, 10 no repository, 12 wrong password, 130 interrupted";

/// Free the space of data that no snapshot needs
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    prune: PruneArgs,

    /// Show what would be done, change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

#[derive(clap::Args)]
pub struct PruneArgs {
    /// Unused data that may stay in packs that are needed: in percent of what is used, a size such as 10G, or unlimited
    #[arg(long, value_name = "AMOUNT", value_parser = parse::max_unused, default_value = "5%")]
    max_unused: MaxUnused,

    /// Rewrite packs of at most so much, such as 10G
    #[arg(long, value_name = "SIZE", value_parser = parse::size)]
    max_repack_size: Option<u64>,

    /// How long unneeded packs stay before they are deleted
    #[arg(long, value_name = "TIME", value_parser = parse::length, default_value = "24h")]
    grace: Duration,
}

#[derive(Serialize)]
pub struct Answer {
    dry_run: bool,
    snapshots: u64,
    blobs_used: u64,
    blobs_unused: u64,
    bytes_used: u64,
    bytes_unused: u64,
    packs_kept: u64,
    bytes_unused_kept: u64,
    packs_repack: u64,
    bytes_repack: u64,
    packs_mark: u64,
    bytes_mark: u64,
    packs_delete: u64,
    bytes_delete: u64,
    packs_waiting: u64,
    packs_recovered: u64,
    packs_unindexed: u64,
    /// What was done; nothing after a dry run.
    done: Option<Done>,
}

#[derive(Serialize)]
struct Done {
    packs_deleted: u64,
    bytes_deleted: u64,
    bytes_repacked: u64,
    bytes_marked: u64,
}

pub fn run(args: Args, globals: &Globals) -> Result<Exit> {
    let repo = globals.open()?;
    let answer = if args.dry_run {
        foresee(&repo, &args.prune, &HashSet::new(), globals)?
    } else {
        carry_out(&repo, &args.prune, globals)?
    };
    if globals.json {
        output::print_json(&answer)?;
    } else if globals.wants_text() {
        output::print(&answer.text())?;
    }
    Ok(Exit::Done)
}

/// Also what `forget --prune` does.
pub fn carry_out(repo: &Arc<Repository>, args: &PruneArgs, globals: &Globals) -> Result<Answer> {
    let options = args.options();
    with_monitor(repo, globals, |monitor| {
        let plan = plan_prune(repo, &options, monitor)?;
        let answer = Answer::new(&plan);
        let done = Some(Done::new(&prune(repo, &options, plan, monitor)?));
        Ok(Answer { dry_run: false, done, ..answer })
    })
}

/// What a prune would do once these snapshots are forgotten.
pub fn foresee(
    repo: &Arc<Repository>,
    args: &PruneArgs,
    forgotten: &HashSet<ObjectId>,
    globals: &Globals,
) -> Result<Answer> {
    with_monitor(repo, globals, |monitor| {
        let plan = plan_prune_without(repo, forgotten, &args.options(), monitor)?;
        Ok(Answer::new(&plan))
    })
}

fn with_monitor(
    repo: &Repository,
    globals: &Globals,
    work: impl FnOnce(&dyn Monitor) -> Result<Answer>,
) -> Result<Answer> {
    // What is noticed is said before there is a line of progress.
    repo.snapshot_ids()?;
    let reporter = Reporter::start(globals, PACKS, Json::Answer);
    work(&*reporter.monitor())
}

impl PruneArgs {
    fn options(&self) -> PruneOptions {
        PruneOptions {
            max_unused: self.max_unused,
            max_repack_bytes: self.max_repack_size,
            grace: self.grace,
            ..PruneOptions::default()
        }
    }
}

impl Done {
    fn new(outcome: &PruneOutcome) -> Self {
        Self {
            packs_deleted: outcome.packs_deleted,
            bytes_deleted: outcome.bytes_deleted,
            bytes_repacked: outcome.bytes_repacked,
            bytes_marked: outcome.bytes_marked,
        }
    }
}

impl Answer {
    /// Of a plan that isn't carried out.
    fn new(plan: &PrunePlan) -> Self {
        Self {
            dry_run: true,
            snapshots: plan.snapshots,
            blobs_used: plan.blobs_used,
            blobs_unused: plan.blobs_unused,
            bytes_used: plan.bytes_used,
            bytes_unused: plan.bytes_unused,
            packs_kept: plan.packs_kept,
            bytes_unused_kept: plan.bytes_unused_kept,
            packs_repack: plan.packs_repack,
            bytes_repack: plan.bytes_repack,
            packs_mark: plan.packs_mark,
            bytes_mark: plan.bytes_mark,
            packs_delete: plan.packs_delete,
            bytes_delete: plan.bytes_delete,
            packs_waiting: plan.packs_waiting,
            packs_recovered: plan.packs_recovered,
            packs_unindexed: plan.packs_unindexed,
            done: None,
        }
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        let packs = |n| plural(n, "pack", "packs");
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<12}{value}");
        };
        line("used:", format!("{} in {}", size(self.bytes_used), blobs(self.blobs_used)));
        line("unused:", format!("{} in {}", size(self.bytes_unused), blobs(self.blobs_unused)));
        let unused = match self.bytes_unused_kept {
            0 => String::new(),
            bytes => format!(", {} unused in them", size(bytes)),
        };
        line("kept:", packs(self.packs_kept) + &unused);
        if self.packs_repack > 0 {
            let rewritten = format!("{}, {}", packs(self.packs_repack), size(self.bytes_repack));
            line("rewritten:", rewritten);
        }
        if self.packs_mark > 0 {
            let marked = format!("{}, {}", packs(self.packs_mark), size(self.bytes_mark));
            line("marked:", format!("{marked}, to be deleted by a later prune"));
        }
        if self.packs_waiting > 0 {
            line("waiting:", format!("{}, marked earlier", packs(self.packs_waiting)));
        }
        if self.packs_recovered > 0 {
            line("recovered:", format!("{}, needed after all", packs(self.packs_recovered)));
        }
        if self.packs_unindexed > 0 {
            line("unindexed:", format!("{}, of interrupted backups", packs(self.packs_unindexed)));
        }
        let (deleted, bytes) = match &self.done {
            Some(done) => (done.packs_deleted, done.bytes_deleted),
            None => (self.packs_delete, self.bytes_delete),
        };
        line("deleted:", format!("{}, {}", packs(deleted), size(bytes)));
        if self.dry_run {
            text.push_str("dry run: nothing was changed\n");
        }
        text
    }
}

fn blobs(n: u64) -> String {
    plural(n, "blob", "blobs")
}
