use std::fmt::Write;

use anyhow::Result;
use clap::Subcommand;
use serde::Serialize;
use tresor_engine::format::{display_name, stream_name};
use tresor_engine::maintenance::{
    self, Loss, RepairIndexOptions, RepairIndexReport, RepairObjectsOptions, RepairObjectsReport,
    RepairSnapshotsOptions, RepairSnapshotsReport, repair_index, repair_objects, repair_snapshots,
};
use tresor_engine::repo::Repository;

use super::scrub::Problem as ScrubProblem;
use crate::exit::Exit;
use crate::globals::Globals;
use crate::human::{plural, size};
use crate::progress::{Json, OBJECTS, PACKS, Reporter};
use crate::{json, output};

const EXAMPLES: &str = "\
After damage, in this order:
  tresor check --read-data          what is damaged, and which files are touched
  tresor repair objects             mend damaged objects with their parity, if there is any
  (put objects back from another copy of the repository, if there is one)
  tresor repair index --read-all-packs
                                    build the index again from what packs say of themselves,
                                    and rely no more on packs that are damaged
  tresor backup ...                 stores again what is lost and still on the disk
  tresor repair snapshots           save what is left of snapshots that lack something
  tresor forget ID                  remove an original, once you don't hope to mend it

Nothing is removed but index objects that can't be read or that others stand in for, and with
`repair snapshots --forget-unreadable` snapshot objects that can't be read. If nothing but index
objects is damaged, --read-all-packs isn't needed.";

/// Mend a damaged repository
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Objects(ObjectsArgs),
    Index(IndexArgs),
    Snapshots(SnapshotsArgs),
}

/// Mend damaged objects with their parity, without a password
///
/// Reads every object, as `scrub` does. What damage the parity of an object can make up for is
/// put right; parity that is damaged or missing is made anew. For repositories that were made
/// with `init --parity`.
#[derive(clap::Args)]
#[command(after_help = "\
Exit codes: 0 no problem is left, 1 something can't be mended or failed, 10 no repository,
130 interrupted")]
struct ObjectsArgs {
    /// Show what would be done, change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Build the index again from the tables in the packs
#[derive(clap::Args)]
struct IndexArgs {
    /// Read all packs, correct what the index says of them, and rely no more on damaged ones
    ///
    /// What is in a damaged pack is stored again by the next backup of the same data; what
    /// can still be read of it can be read.
    #[arg(long)]
    read_all_packs: bool,

    /// Show what would be done, change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Save what is left of snapshots that lack something
///
/// For each such snapshot a new one is saved, with the tag `repaired`. A file that has
/// lost a part becomes NAME.damaged, with a hole where each lost part was; a file of
/// which nothing is left is left out.
#[derive(clap::Args)]
#[command(after_help = "\
Exit codes: 0 nothing is lost, 3 something is (also when all else was saved), 1 failed,
10 no repository, 12 wrong password, 130 interrupted")]
struct SnapshotsArgs {
    /// Read every byte of every pack first, to know all that is damaged
    #[arg(long)]
    read_data: bool,

    /// Remove snapshot objects that can't be read at all (prune waits for that)
    #[arg(long)]
    forget_unreadable: bool,

    /// Show what would be done, change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

pub fn run(args: Args, globals: &Globals) -> Result<Exit> {
    match args.what {
        What::Objects(args) => objects(&args, globals),
        What::Index(args) => index(&args, globals),
        What::Snapshots(args) => snapshots(&args, globals),
    }
}

#[derive(Serialize)]
struct ObjectsAnswer<'a> {
    dry_run: bool,
    objects: u64,
    bytes_read: u64,
    mended: Vec<ScrubProblem<'a>>,
    parity_made: Vec<ScrubProblem<'a>>,
    parity_removed: u64,
    left: Vec<ScrubProblem<'a>>,
}

fn objects(args: &ObjectsArgs, globals: &Globals) -> Result<Exit> {
    let options = RepairObjectsOptions { dry_run: args.dry_run };
    let store = globals.store()?;
    let reporter = Reporter::start(globals, OBJECTS, Json::Answer);
    let result = repair_objects(&store, &options, &*reporter.monitor());
    let report = reporter.end(result)?;
    if globals.json {
        output::print_json(&ObjectsAnswer {
            dry_run: args.dry_run,
            objects: report.objects,
            bytes_read: report.bytes,
            mended: list(&report.mended),
            parity_made: list(&report.parity_made),
            parity_removed: report.parity_removed,
            left: list(&report.left),
        })?;
    } else {
        output::print(&objects_text(&report, args.dry_run, globals))?;
    }
    Ok(if report.left.is_empty() { Exit::Done } else { Exit::Failed })
}

fn list(problems: &[maintenance::ScrubProblem]) -> Vec<ScrubProblem<'_>> {
    problems.iter().map(ScrubProblem::new).collect()
}

fn objects_text(report: &RepairObjectsReport, dry_run: bool, globals: &Globals) -> String {
    let mut text = String::new();
    let lists = [
        ("can't be mended", &report.left),
        (if dry_run { "would be mended" } else { "mended" }, &report.mended),
        (if dry_run { "would get new parity" } else { "has new parity" }, &report.parity_made),
    ];
    for (what, problems) in lists {
        for problem in problems {
            let message = output::tidy(&problem.message);
            let _ = writeln!(text, "{}: {what}: {message}", problem.object);
        }
    }
    if globals.quiet {
        return text;
    }
    let objects = plural(report.objects, "object", "objects");
    let _ = writeln!(text, "read {objects}, {}", size(report.bytes));
    if report.parity_removed > 0 {
        let removed = plural(report.parity_removed, "object", "objects");
        let _ = writeln!(text, "removed the parity of {removed} that are gone");
    }
    let left = report.left.len() as u64;
    let _ = match left {
        0 => writeln!(text, "no problem is left"),
        _ => writeln!(
            text,
            "{} left: put these objects back from another copy of the repository, if there is one; else go on as `tresor repair --help` says",
            plural(left, "problem is", "problems are")
        ),
    };
    if dry_run {
        text.push_str("dry run: nothing was changed\n");
    }
    text
}

#[derive(Serialize)]
struct IndexAnswer {
    dry_run: bool,
    folders_made: Vec<String>,
    packs: u64,
    tables_read: u64,
    packs_added: u64,
    blobs_added: u64,
    packs_corrected: u64,
    packs_missing: u64,
    packs_damaged: u64,
    index_removed: Vec<String>,
    unreadable: Vec<Problem>,
}

#[derive(Serialize)]
struct Problem {
    object: String,
    message: String,
}

fn index(args: &IndexArgs, globals: &Globals) -> Result<Exit> {
    let options = RepairIndexOptions { read_all: args.read_all_packs, dry_run: args.dry_run };
    let (repo, made) = match args.dry_run {
        true => (globals.open()?, Vec::new()),
        false => globals.open_by(Repository::open_for_repair)?,
    };
    let made: Vec<_> = made.into_iter().map(|kind| kind.folder().to_owned()).collect();
    let reporter = Reporter::start(globals, PACKS, Json::Answer);
    let result = repair_index(&repo, &options, &*reporter.monitor());
    let report = reporter.end(result)?;
    if globals.json {
        let problem = |(object, message): &(String, String)| Problem {
            object: object.clone(),
            message: message.clone(),
        };
        output::print_json(&IndexAnswer {
            dry_run: args.dry_run,
            folders_made: made.clone(),
            packs: report.packs,
            tables_read: report.tables_read,
            packs_added: report.packs_added,
            blobs_added: report.blobs_added,
            packs_corrected: report.packs_corrected,
            packs_missing: report.packs_missing,
            packs_damaged: report.packs_damaged,
            index_removed: report.removed.iter().map(ToString::to_string).collect(),
            unreadable: report.unreadable.iter().map(problem).collect(),
        })?;
    } else {
        output::print(&index_text(&report, &made, args.dry_run, globals))?;
    }
    let gone = made.len() + report.unreadable.len();
    Ok(Exit::unless(gone as u64 + report.packs_missing + report.packs_damaged))
}

fn index_text(
    report: &RepairIndexReport,
    made: &[String],
    dry_run: bool,
    globals: &Globals,
) -> String {
    let mut text = String::new();
    for folder in made {
        let _ = writeln!(
            text,
            "{folder}/ was gone and is made again, empty: put back what was in it if there is a copy, before you prune"
        );
    }
    for (object, message) in &report.unreadable {
        let _ = writeln!(text, "{object}: left alone: {}", output::tidy(message));
    }
    if globals.quiet {
        return text;
    }
    let packs = |n| plural(n, "pack", "packs");
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<12}{value}");
    };
    line("looked at:", format!("{}, {}", packs(report.packs), tables(report.tables_read)));
    let blobs = plural(report.blobs_added, "blob", "blobs");
    line("added:", format!("{} with {blobs}", packs(report.packs_added)));
    line("corrected:", packs(report.packs_corrected));
    for (name, count) in [("missing:", report.packs_missing), ("damaged:", report.packs_damaged)] {
        if count > 0 {
            let what = "the next backup stores again what it needs of them";
            line(name, format!("{}; {what}", packs(count)));
        }
    }
    let objects = plural(report.removed.len() as u64, "index object", "index objects");
    line("removed:", format!("{objects} that could not be read"));
    if dry_run {
        text.push_str("dry run: nothing was changed\n");
    }
    text
}

fn tables(n: u64) -> String {
    plural(n, "table read", "tables read")
}

#[derive(Serialize)]
struct SnapshotsAnswer {
    dry_run: bool,
    snapshots: u64,
    repaired: Vec<Repaired>,
    not_now: Vec<String>,
    unreadable: Vec<Problem>,
    forgotten: Vec<String>,
}

#[derive(Serialize)]
struct Repaired {
    original: String,
    snapshot_id: Option<String>,
    already: bool,
    losses: Vec<LossAnswer>,
}

#[derive(Serialize)]
struct LossAnswer {
    #[serde(flatten)]
    path: json::Path,
    kind: &'static str,
    kept_as: Option<json::Path>,
    ranges: Vec<(u64, u64)>,
    entries: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<String>,
}

fn snapshots(args: &SnapshotsArgs, globals: &Globals) -> Result<Exit> {
    let SnapshotsArgs { read_data, forget_unreadable, dry_run } = *args;
    let options = RepairSnapshotsOptions { read_data, forget_unreadable, dry_run };
    let repo = globals.open()?;
    let reporter = Reporter::start(globals, PACKS, Json::Answer);
    let result = repair_snapshots(&repo, &options, &*reporter.monitor());
    let report = reporter.end(result)?;
    if globals.json {
        output::print_json(&snapshots_answer(&report, dry_run))?;
    } else {
        output::print(&snapshots_text(&report, dry_run, globals))?;
    }
    let lacking = report.repaired.len() + report.unreadable.len() + report.not_now.len();
    Ok(Exit::unless(lacking as u64))
}

fn snapshots_answer(report: &RepairSnapshotsReport, dry_run: bool) -> SnapshotsAnswer {
    let loss = |loss: &Loss| LossAnswer {
        path: json::Path::new(&loss.path),
        kind: if loss.is_dir { "directory" } else { "file" },
        kept_as: loss.kept_as.as_deref().map(json::Path::new),
        ranges: loss.ranges.clone(),
        entries: loss.entries,
        stream: loss.stream.as_deref().map(json::path_text),
    };
    let repaired = report.repaired.iter().map(|r| Repaired {
        original: r.original.id.to_string(),
        snapshot_id: r.repaired.map(|id| id.to_string()),
        already: r.already,
        losses: r.losses.iter().map(loss).collect(),
    });
    let unreadable = report.unreadable.iter().map(|(id, message)| Problem {
        object: format!("snapshots/{id}"),
        message: message.clone(),
    });
    SnapshotsAnswer {
        dry_run,
        snapshots: report.snapshots,
        repaired: repaired.collect(),
        not_now: report.not_now.iter().map(|s| s.id.to_string()).collect(),
        unreadable: unreadable.collect(),
        forgotten: report.forgotten.iter().map(ToString::to_string).collect(),
    }
}

fn snapshots_text(report: &RepairSnapshotsReport, dry_run: bool, globals: &Globals) -> String {
    let mut text = String::new();
    for (id, message) in &report.unreadable {
        let _ = writeln!(text, "snapshots/{id}: can't be read: {}", output::tidy(message));
    }
    for snapshot in &report.not_now {
        let _ = writeln!(
            text,
            "{}: left as it is: the disk can't read a part of it now, which may be readable later; copy the repository to another disk, and repair the copy",
            snapshot.id.short()
        );
    }
    for r in &report.repaired {
        let id = r.original.id.short();
        let _ = match (r.repaired, r.already) {
            (Some(new), true) => writeln!(text, "{id}: repaired earlier as {}", new.short()),
            (Some(new), false) => writeln!(text, "{id}: what is left is saved as {}", new.short()),
            (None, _) if dry_run => writeln!(text, "{id}: lacks something"),
            (None, _) => writeln!(text, "{id}: nothing of it can be saved"),
        };
        r.losses.iter().for_each(|loss| text.push_str(&loss_text(loss)));
    }
    if globals.quiet {
        return text;
    }
    if report.repaired.is_empty() && report.unreadable.is_empty() && report.not_now.is_empty() {
        let snapshots = plural(report.snapshots, "snapshot", "snapshots");
        let _ = writeln!(text, "{snapshots} looked at: nothing is missing");
    }
    let forgotten = report.forgotten.len() as u64;
    if forgotten > 0 {
        let _ = writeln!(text, "removed: {}", plural(forgotten, "snapshot", "snapshots"));
    }
    if report.repaired.iter().any(|r| r.repaired.is_some()) {
        text.push_str("The originals are left as they were; `tresor forget ID` removes one.\n");
    }
    if dry_run {
        text.push_str("dry run: nothing was changed\n");
    }
    text
}

fn loss_text(loss: &Loss) -> String {
    let path = display_name(&loss.path);
    let kept = loss.kept_as.as_deref().map(display_name);
    if let (Some(stream), Some(kept)) = (&loss.stream, &kept) {
        let stream = stream_name(stream);
        return format!("    {path}: its stream {stream} is lost; the rest is kept as {kept}\n");
    }
    let bytes: u64 = loss.ranges.iter().map(|(start, end)| end - start).sum();
    let ranges: Vec<_> = loss.ranges.iter().map(|(start, end)| format!("{start}-{end}")).collect();
    match (loss.is_dir, kept, loss.entries) {
        (true, _, Some(0)) => format!(
            "    {path}: the list of its entries contradicted itself; what it names is kept\n"
        ),
        (true, _, Some(n)) => {
            format!("    {path}: has lost {}\n", plural(n, "entry", "entries"))
        }
        (true, Some(kept), None) => {
            format!("    {path}: what was in it is lost; the empty folder is kept as {kept}\n")
        }
        (false, Some(kept), _) if loss.ranges.is_empty() => format!(
            "    {path}: what it consists of doesn't add up to its length; it is kept as {kept}\n"
        ),
        (false, Some(kept), _) => format!(
            "    {path}: has lost {} (bytes {}); the rest is kept as {kept}\n",
            size(bytes),
            ranges.join(", ")
        ),
        (_, None, _) => format!("    {path}: is lost\n"),
    }
}
