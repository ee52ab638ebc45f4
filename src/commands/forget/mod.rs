mod policy;

use std::fmt::Write;
use std::sync::Arc;

use anyhow::Result;
use jiff::tz::TimeZone;
use serde::Serialize;
use tresor_engine::Error;
use tresor_engine::format::ObjectId;
use tresor_engine::maintenance::retention::{
    Decision, GroupBy, GroupKey, RetentionPolicy, apply, groups,
};
use tresor_engine::repo::{OddSnapshots, Repository, Snapshot, now};

use super::prune::{self, PruneArgs};
use crate::choose::{self, FilterArgs};
use crate::exit::Exit;
use crate::globals::Globals;
use crate::human::{self, plural};
use crate::table::Table;
use crate::{json, output};
use policy::PolicyArgs;

const EXAMPLES: &str = "\
Examples:
  tresor forget --policy service --prune
  tresor forget --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --dry-run
  tresor forget --host web --keep-within 1y --keep-first-of-month
  tresor forget 1a2b3c4d 5e6f7a8b

A snapshot is kept if one of the rules wants it. The rules apply to each group of
snapshots by itself (--group-by), and never remove the newest one of a group, nor the newest
of those saved over six hours ago. What was repaired counts with its original. The month
and the day of a snapshot are those of the place where it was made. What snapshots alone
held takes space until the next `tresor prune`.

A date as SNAPSHOT names the last snapshot of that day, minute or second; if there is none,
nothing is removed.

Exit codes: 0 done, 1 failed, 10 no repository, 12 wrong password, 130 interrupted";

/// Why a snapshot is removed.
const UNWANTED: &str = "no rule keeps it";

/// Remove snapshots, by name or by what to keep
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Snapshots to remove
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,

    /// Show what would be removed and why the rest stays, with --prune also its plan; change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,

    /// Free their space too, as `tresor prune` does
    #[arg(long)]
    prune: bool,

    /// What the snapshots of a group have in common; '' for one group
    #[arg(short, long, value_name = "host,paths,tags", default_value = "host,paths")]
    group_by: String,

    #[command(flatten)]
    filter: FilterArgs,

    #[command(flatten)]
    policy: PolicyArgs,

    #[command(flatten, next_help_heading = "With --prune")]
    prune_args: PruneArgs,
}

#[derive(Serialize)]
struct Answer {
    dry_run: bool,
    groups: Vec<Group>,
    removed: Vec<String>,
    prune: Option<prune::Answer>,
}

#[derive(Serialize)]
struct Group {
    host: Option<String>,
    paths: Option<Vec<String>>,
    tags: Option<Vec<String>>,
    keep: Vec<Decided>,
    remove: Vec<Decided>,
}

#[derive(Serialize)]
struct Decided {
    #[serde(flatten)]
    snapshot: json::Snapshot,
    reasons: Vec<String>,
}

type Decisions = Vec<(GroupKey, Vec<Decision>)>;

pub fn run(args: Args, globals: &Globals) -> Result<Exit> {
    let policy = args.policy.policy(!args.snapshots.is_empty())?;
    let by: GroupBy = args.group_by.parse()?;
    let repo = globals.open()?;
    let chosen = choose::several_to_remove(&repo, &args.filter, &args.snapshots)?;
    let decisions = match policy {
        Some(policy) => decide(&policy, &chosen, &repo.odd_snapshots(), by),
        None => Vec::new(),
    };
    let removed: Vec<ObjectId> = if args.snapshots.is_empty() {
        let all = decisions.iter().flat_map(|(_, group)| group);
        all.filter(|d| !d.keep).map(|d| d.snapshot.id).collect()
    } else {
        chosen.iter().map(|s| s.id).collect()
    };
    if !args.dry_run {
        repo.refuse_older_state()?;
        if let Err(e) = repo.forget(&removed) {
            return Err(tell_what_is_gone(&repo, &removed, e));
        }
    }
    if !globals.json && (globals.wants_text() || args.dry_run) {
        output::print(&text(&args, &chosen, &decisions, &removed))?;
    }
    let prune = prune_after(&repo, &args, &removed, globals)?;
    if globals.json {
        let removed = removed.iter().map(ObjectId::to_string).collect();
        let groups = decisions.iter().map(|(key, group)| Group::new(key, group)).collect();
        output::print_json(&Answer { dry_run: args.dry_run, groups, removed, prune })?;
    } else if let Some(answer) = prune.filter(|_| globals.wants_text() || args.dry_run) {
        output::print(&answer.text())?;
    }
    Ok(Exit::Done)
}

/// Not all could be removed.
fn tell_what_is_gone(repo: &Repository, removed: &[ObjectId], error: Error) -> anyhow::Error {
    let Ok(there) = repo.snapshot_ids() else { return error.into() };
    let gone: Vec<_> =
        removed.iter().filter(|id| !there.contains(id)).map(ObjectId::short).collect();
    let gone = if gone.is_empty() { "none".into() } else { gone.join(", ") };
    anyhow::Error::from(error).context(format!("not all could be removed; these are gone: {gone}"))
}

fn prune_after(
    repo: &Arc<Repository>,
    args: &Args,
    removed: &[ObjectId],
    globals: &Globals,
) -> Result<Option<prune::Answer>> {
    if !args.prune {
        return Ok(None);
    }
    if args.dry_run {
        let removed = removed.iter().copied().collect();
        return prune::foresee(repo, &args.prune_args, &removed, globals).map(Some);
    }
    prune::carry_out(repo, &args.prune_args, globals).map(Some)
}

fn decide(
    policy: &RetentionPolicy,
    snapshots: &[Snapshot],
    odd: &OddSnapshots,
    by: GroupBy,
) -> Decisions {
    let now = now();
    let decided = |(key, group): (GroupKey, Vec<Snapshot>)| {
        let decisions = apply(policy, &group, odd, now);
        (key, decisions)
    };
    groups(snapshots, by).into_iter().map(decided).collect()
}

impl Group {
    fn new(key: &GroupKey, group: &[Decision]) -> Self {
        let (keep, remove): (Vec<_>, Vec<_>) = group.iter().partition(|d| d.keep);
        let decided = |d: &Decision| Decided {
            snapshot: json::Snapshot::new(&d.snapshot),
            reasons: if d.keep { d.reasons.clone() } else { vec![UNWANTED.into()] },
        };
        Self {
            host: key.host.clone(),
            paths: key
                .paths
                .as_ref()
                .map(|all| all.iter().map(|p| json::path_text(&p.0)).collect()),
            tags: key.tags.clone(),
            keep: keep.into_iter().map(decided).collect(),
            remove: remove.into_iter().map(decided).collect(),
        }
    }
}

fn text(args: &Args, chosen: &[Snapshot], decisions: &Decisions, removed: &[ObjectId]) -> String {
    let zone = TimeZone::system();
    let mut text = String::new();
    for (key, group) in decisions {
        let _ = writeln!(text, "{key}:");
        let mut table = Table::new(["", "ID", "Time", "Tags", "Why"], &[]);
        for d in group {
            table.row([
                if d.keep { "keep" } else { "forget" }.into(),
                d.snapshot.id.short(),
                human::time(d.snapshot.data.time, &zone),
                d.snapshot.data.tags.join(","),
                if d.keep { d.reasons.join("\n") } else { UNWANTED.into() },
            ]);
        }
        text.push_str(&table.text());
        text.push('\n');
    }
    if decisions.is_empty() {
        for s in chosen {
            let time = human::time(s.data.time, &zone);
            let _ = writeln!(
                text,
                "forget  {}  {time}  {}",
                s.id.short(),
                human::foreign(&s.data.host)
            );
        }
    }
    let what = plural(removed.len() as u64, "snapshot", "snapshots");
    let _ = match (args.dry_run, removed.is_empty() || args.prune) {
        (true, _) => writeln!(text, "dry run: {what} would be removed"),
        (_, true) => writeln!(text, "removed {what}"),
        (_, false) => writeln!(text, "removed {what}; `tresor prune` frees their space"),
    };
    text
}
