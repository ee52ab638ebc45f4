use std::ffi::OsString;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tresor_engine::exclude::Patterns;
use tresor_engine::format::{LeftOut, SnapshotData};
use tresor_engine::restorer::{RestoreOptions, Restored, TargetIs, restore};
use tresor_engine::sink::SinkDir;
use tresor_platform::Kept;

use crate::choose::{self, FilterArgs, Found, Place};
use crate::exit::Exit;
use crate::globals::Globals;
use crate::human::{count, plural, size};
use crate::output;
use crate::progress::{FILES, Json, Reporter};

const EXAMPLES: &str = "\
Examples:
  tresor restore latest --target /tmp/restored
  tresor restore latest:/home/anna/Documents --target /tmp/documents
  tresor restore 2026-11-23 -t /tmp/restored --include '*.docx'
  tresor restore latest:/srv -t /srv --overwrite --dry-run -v
  tresor restore latest:/srv -t /srv --overwrite --delete

With a PATH, what is in that folder goes into the target; a file goes there under its own
name. A target that isn't there is made, and gets the folder's own owner, mode, times and
attributes at the end; one that is there already gets them if it is the place that the folder
was saved from, and else stays as it is. Patterns are as for `tresor backup`, about paths as they are in the snapshot.
Nothing is ever written outside of the target. If the repository, tresor's caches or the folder
of what it has seen of repositories lie in the target, they stay as they are.

Exit codes: 0 done, 1 failed, 3 done but something could not be restored,
10 no repository, 12 wrong password, 130 interrupted";

/// Bring files back from a snapshot
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The snapshot, and a place in it
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    snapshot: OsString,

    /// Folder to restore into; it is made if it isn't there
    #[arg(short, long, value_name = "DIR")]
    target: PathBuf,

    /// Restore only what matches, or is below a folder that does (may be repeated)
    #[arg(short, long, value_name = "PATTERN")]
    include: Vec<String>,

    /// Don't restore what matches (may be repeated)
    #[arg(short, long, value_name = "PATTERN")]
    exclude: Vec<String>,

    /// Write into a folder that isn't empty: what differs there is replaced, the rest stays
    ///
    /// A file that has the size and the time of the one in the snapshot is taken to be the same; with
    /// --verify its contents are compared.
    #[arg(long)]
    overwrite: bool,

    /// Remove what is in the target's folders and not in the snapshot
    ///
    /// What the backup left out stays: what was excluded or could not be read, other file systems, and
    /// all beside the paths that were backed up.
    #[arg(long)]
    delete: bool,

    /// Read every file again and compare it with the snapshot
    #[arg(long)]
    verify: bool,

    /// Tell what would be done, change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,

    #[command(flatten)]
    filter: FilterArgs,
}

#[derive(Serialize)]
struct Summary {
    message_type: &'static str,
    dry_run: bool,
    snapshot_id: String,
    files: u64,
    directories: u64,
    others: u64,
    bytes: u64,
    files_restored: u64,
    files_unchanged: u64,
    bytes_written: u64,
    deleted: u64,
    verified: u64,
    errors: u64,
}

pub fn run(args: Args, globals: &Globals) -> Result<Exit> {
    let options = RestoreOptions {
        include: Patterns::new(&args.include)?,
        exclude: Patterns::new(&args.exclude)?,
        dry_run: args.dry_run,
        verify: args.verify,
        delete: args.delete,
        left_out: None,
        target: TargetIs::Another,
    };
    check_target(&args)?;
    let repo = globals.open()?;
    let place = choose::place_to_restore(&repo, &args.filter, &args.snapshot)?;
    // So that a mistyped path leaves no empty target.
    let is_folder = matches!(place.find(&repo)?, Found::Entry(node) if node.is_dir());
    let kept = kept(&args, globals)?;
    let target = Target::open(&args, kept, is_folder)?;
    let reporter = Reporter::start(globals, FILES, Json::Messages);
    expect(&reporter, &place, &options);
    let root = place.snapshot.data.tree;
    let left_out = left_out(&place.snapshot.data);
    let target_is = match target.is_new {
        true => TargetIs::New,
        false if is_its_place(&args.target, &place) => TargetIs::ItsPlace,
        false => TargetIs::Another,
    };
    let options = RestoreOptions { left_out, target: target_is, ..options };
    let restored =
        restore(&repo, &root, &place.names, target.sink.clone(), &options, reporter.monitor());
    let restored = reporter.end(restored)?;
    report(&args, &place, &restored, globals)?;
    Ok(Exit::unless(restored.errors))
}

/// Snapshots of older programs don't say it; but what was asked for does.
fn left_out(data: &SnapshotData) -> Option<LeftOut> {
    let is_whole = data.paths.iter().any(|path| path.0 == b"/");
    data.left_out.clone().or_else(|| (!is_whole).then_some(LeftOut::Unknown))
}

fn is_its_place(target: &Path, place: &Place) -> bool {
    let Ok(target) = target.canonicalize() else { return false };
    let recorded = tresor_platform::recorded_path(target.as_os_str().as_encoded_bytes());
    choose::names_of(&recorded) == place.names
}

/// How much there is to do is known for a whole snapshot.
fn expect(reporter: &Reporter, place: &Place, options: &RestoreOptions) {
    if place.names.is_empty() && options.include.is_empty() {
        let all = &place.snapshot.data.summary;
        reporter.expect(all.entries(), all.bytes, !options.exclude.is_empty());
    }
}

fn check_target(args: &Args) -> Result<()> {
    let target = &args.target;
    let mut entries = match target.read_dir() {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).with_context(|| format!("can't use {}", target.display())),
    };
    if entries.next().is_some() && !args.overwrite && !args.dry_run {
        bail!(
            "the target {} is not empty, so nothing was restored: choose another folder, or add --overwrite to replace what differs there (--dry-run -v shows what that is)",
            target.display()
        );
    }
    Ok(())
}

const REPOSITORY: &str = "the repository";

/// What tresor itself works with, which no restore replaces or removes.
fn kept(args: &Args, globals: &Globals) -> Result<Kept> {
    let own = [
        (Some(globals.location()?), REPOSITORY),
        (globals.cache_folder(), "the folder of tresor's caches"),
        (globals.state_folder(), "the folder of what tresor has seen of repositories"),
    ];
    let own = own.iter().filter_map(|(path, what)| Some((path.as_deref()?, *what)));
    let kept = Kept::new(own).context("can't look at a folder that a restore leaves alone")?;
    match kept.holds(&args.target) {
        Some(what) if what == REPOSITORY || args.delete => bail!(
            "the target {} is, or is in, {what}, so nothing was restored: choose another folder",
            args.target.display()
        ),
        _ => Ok(kept),
    }
}

struct Target {
    sink: Arc<dyn SinkDir>,
    /// Whether it was made just now.
    is_new: bool,
    /// Stands for a target that a dry run doesn't make.
    _empty: Option<tempfile::TempDir>,
}

impl Target {
    fn open(args: &Args, kept: Kept, is_folder: bool) -> Result<Self> {
        let target = args.target.as_path();
        if args.dry_run && !target.exists() {
            let empty = tempfile::tempdir().context("can't make a temporary folder")?;
            let sink = open_sink(empty.path(), kept)?;
            return Ok(Self { sink, is_new: true, _empty: Some(empty) });
        }
        let is_new = make(target, is_folder)
            .with_context(|| format!("can't make the target {}", target.display()))?;
        Ok(Self { sink: open_sink(target, kept)?, is_new, _empty: None })
    }
}

/// Whether it wasn't there. One for a folder is closed to others until it gets that folder's mode.
fn make(target: &Path, is_folder: bool) -> std::io::Result<bool> {
    if let Some(above) = target.parent() {
        std::fs::create_dir_all(above)?;
    }
    #[cfg_attr(not(unix), allow(unused_mut))]
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    if is_folder {
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    }
    #[cfg(not(unix))]
    let _ = is_folder;
    match builder.create(target) {
        Ok(()) => Ok(true),
        Err(_) if target.is_dir() => Ok(false),
        Err(e) => Err(e),
    }
}

fn open_sink(folder: &Path, kept: Kept) -> Result<Arc<dyn SinkDir>> {
    tresor_platform::open_sink_keeping(folder, kept)
        .with_context(|| format!("can't open the target {}", folder.display()))
}

fn report(args: &Args, place: &Place, r: &Restored, globals: &Globals) -> Result<()> {
    if globals.json {
        output::print_json(&Summary {
            message_type: "summary",
            dry_run: args.dry_run,
            snapshot_id: place.snapshot.id.to_string(),
            files: r.files,
            directories: r.directories,
            others: r.others,
            bytes: r.bytes,
            files_restored: r.files_restored,
            files_unchanged: r.files_unchanged,
            bytes_written: r.bytes_written,
            deleted: r.deleted,
            verified: r.verified,
            errors: r.errors,
        })?;
    } else if globals.wants_text() {
        output::print(&text(args, place, r))?;
    }
    Ok(())
}

fn text(args: &Args, place: &Place, r: &Restored) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<20}{value}");
    };
    let (files, same) = (count(r.files_restored), count(r.files_unchanged));
    let written = if args.dry_run { "to be written" } else { "written" };
    line("files:", format!("{files} {written}, {same} there already ({})", size(r.bytes)));
    line("directories:", count(r.directories));
    if r.others > 0 {
        line("others:", format!("{} (links, sockets, devices)", count(r.others)));
    }
    if !args.dry_run {
        line("written:", size(r.bytes_written));
    }
    if args.delete {
        line("removed:", count(r.deleted));
    }
    if args.verify && !args.dry_run {
        line("verified:", plural(r.verified, "file", "files"));
    }
    if r.errors > 0 {
        let what = plural(r.errors, "problem", "problems");
        line("not all restored:", format!("{what}, named above"));
    }
    let (id, from, to) = (place.snapshot.id.short(), place.shown(), args.target.display());
    let _ = match args.dry_run {
        true => writeln!(text, "dry run: nothing was changed in {to}"),
        false => writeln!(text, "restored {from} of snapshot {id} into {to}"),
    };
    text
}
