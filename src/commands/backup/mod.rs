mod command;
mod options;
mod report;
mod source;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail};
use clap::ArgGroup;
use tresor_engine::archiver::{self, BackupOptions, Outcome, backup, backup_stream};
use tresor_engine::repo::Repository;
use tresor_engine::source::SourceFile;

use crate::exit::Exit;
use crate::globals::Globals;
use crate::parse;
use crate::progress::{FILES, Json, PATIENCE, Reporter};
use command::CommandOutput;
use report::Report;
use source::{Source, When, Wish};

const EXAMPLES: &str = "\
Examples:
  tresor backup ~/Documents ~/Pictures
  tresor backup --system-state          (Windows, as administrator)
  tresor backup / --one-file-system --exclude-caches -e /var/cache -e '*.tmp'
  tresor backup /srv --tag daily --exclude-file /etc/tresor.exclude --dry-run -v
  mysqldump shop | tresor backup --stdin --stdin-filename shop.sql
  tresor backup --stdin-filename shop.sql --stdin-from-command -- mysqldump shop

Patterns: one that begins with / is about the whole path, any other about the last part
of it (*.o, build/tmp). * stays within a name, ** doesn't. A trailing / means directories
only, a leading ! takes back what an earlier pattern left out, but nothing in a folder that is
left out itself. Those of files come first. In a file there is one pattern on a line, and lines
that begin with # don't count. The repository and tresor's own cache are always left out, and on
Windows what FilesNotToBackup and FilesNotToSnapshot list. -v names all that is left out.

If what stands before | can fail, its output may end too early: --stdin-from-command sees that.

On Windows, files are read from a shadow copy if that can be made, which takes the rights of an
administrator; without, files that are in use may be missing, which is reported.

What is unchanged since the latest snapshot of the same host and paths is not read
again, and what the repository has already is not stored again.

Exit codes: 0 done, 1 failed (no snapshot), 3 done but some files could not be read or held still,
or the repository is damaged or was set back to an older state, 10 no repository, 12 wrong password,
130 interrupted";

/// Save files and folders as a new snapshot
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
#[command(group = ArgGroup::new("stream").args(["stdin", "stdin_from_command"]))]
pub struct Args {
    /// Files and folders to save; after --stdin-from-command --, the command
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,

    /// Leave out what matches (may be repeated)
    #[arg(short, long, value_name = "PATTERN")]
    exclude: Vec<String>,

    /// Leave out what matches a pattern in this file (may be repeated)
    #[arg(long, value_name = "FILE")]
    exclude_file: Vec<PathBuf>,

    /// Leave out the contents of folders with a CACHEDIR.TAG
    #[arg(long)]
    exclude_caches: bool,

    /// Leave out files longer than this, such as 500M
    #[arg(long, value_name = "SIZE", value_parser = parse::size)]
    exclude_larger_than: Option<u64>,

    /// Stay on the file systems of the given paths
    #[arg(short = 'x', long)]
    one_file_system: bool,

    /// Save also what the system says is not to be backed up (Windows: FilesNotToBackup)
    #[arg(long)]
    no_system_excludes: bool,

    /// Read from a snapshot that the system makes of the volumes (Windows: shadow copies; macOS,
    /// as root and with `on` only: APFS)
    #[arg(
        long,
        value_name = "WHEN",
        value_enum,
        num_args = 0..=1,
        require_equals = true,
        default_value = "auto",
        default_missing_value = "on",
        conflicts_with = "stream"
    )]
    use_fs_snapshot: When,

    /// Save also all that it takes to bring this Windows back: the drives that it lies on, whole
    #[arg(long, conflicts_with = "stream")]
    system_state: bool,

    /// Save the paths listed in this file too, one on a line (- for standard input)
    #[arg(long, value_name = "FILE", conflicts_with = "stream")]
    files_from: Vec<PathBuf>,

    /// Tags of the snapshot (may be repeated)
    #[arg(long, value_name = "TAG[,TAG…]")]
    tag: Vec<String>,

    /// Host to write down [default: this one]
    #[arg(short = 'H', long, value_name = "HOST")]
    host: Option<String>,

    /// Time to write down, on the clock of this place [default: now]
    #[arg(long, value_name = "\"YYYY-MM-DD HH:MM:SS\"", value_parser = parse::local_time)]
    time: Option<jiff::Zoned>,

    /// Snapshot to compare with [default: the latest of the same host and paths]
    #[arg(long, value_name = "SNAPSHOT", conflicts_with_all = ["force", "stream"])]
    parent: Option<OsString>,

    /// Compare with no snapshot: read every file
    #[arg(short, long)]
    force: bool,

    /// Tell what would be done, store nothing
    #[arg(short = 'n', long)]
    dry_run: bool,

    /// Save what comes from standard input as one file
    #[arg(long)]
    stdin: bool,

    /// Save what a command prints as one file; no snapshot is made if it fails
    #[arg(long)]
    stdin_from_command: bool,

    /// Name of that file
    #[arg(long, value_name = "NAME", default_value = "stdin", requires = "stream")]
    stdin_filename: OsString,
}

pub fn run(args: Args, globals: &Globals) -> Result<Exit> {
    if args.stdin || args.stdin_from_command {
        return run_stream(args, globals);
    }
    let paths = options::paths(&args, globals)?;
    let mut exclude = options::excludes(&args, globals)?;
    paths.iter().for_each(|path| exclude.ask_for(&path.0));
    let repo = globals.open()?;
    // Opening may have made the cache.
    options::exclude_own(&mut exclude, globals)?;
    let (parent, snapshots_damaged) = options::parent(&args, &repo, &paths)?;
    let options = BackupOptions { parent, exclude, paths, ..options::common(&args) };
    let reporter = Reporter::start(globals, FILES, Json::Messages);
    let wish = Wish { when: args.use_fs_snapshot, system_state: args.system_state };
    let result = save(&repo, &options, wish, &reporter);
    let left_out = reporter.left_out();
    let (outcome, source) = reporter.end(result)?;
    report::print(
        &repo,
        &Report { outcome: &outcome, options: &options, source, left_out, snapshots_damaged },
        globals,
    )
}

/// Runs the backup, and finds out meanwhile how much there is to do.
fn save(
    repo: &Arc<Repository>,
    options: &BackupOptions,
    wish: Wish,
    reporter: &Reporter,
) -> Result<(Outcome, source::Report)> {
    // If the backup fails, this is dropped, and with it the snapshot is given up.
    let source = Source::open(wish, options, reporter)?;
    let outcome = std::thread::scope(|scope| {
        if let Some(parent) = &options.parent {
            let before = &parent.data.summary;
            reporter.expect(before.entries(), before.bytes, true);
        } else if reporter.is_seen() {
            let root = source.root.clone();
            scope.spawn(move || {
                if !reporter.wait(PATIENCE)
                    && let Some(all) = archiver::count(&root, options, &|| reporter.is_over())
                {
                    reporter.expect(all.entries, all.bytes, false);
                }
            });
        }
        let result = backup(repo, source.root.clone(), options, reporter.monitor());
        reporter.finish();
        result
    })?;
    Ok((outcome, source.finish(reporter)))
}

fn run_stream(args: Args, globals: &Globals) -> Result<Exit> {
    let name = options::stream_name(&args)?;
    if args.stdin && !args.paths.is_empty() {
        bail!("--stdin saves standard input only; save paths with another `tresor backup`");
    }
    if args.stdin_from_command && args.paths.is_empty() {
        bail!("--stdin-from-command needs the command: tresor backup --stdin-from-command -- CMD");
    }
    let repo = globals.open()?;
    // Nothing is compared with them, but are all still there?
    repo.snapshot_ids()?;
    let path = [b"/", name.as_slice()].concat();
    let paths = vec![tresor_engine::format::PathBytes(path)];
    let options = BackupOptions { paths, ..options::common(&args) };
    let reporter = Reporter::start(globals, FILES, Json::Messages);
    let result = stream(&args)
        .and_then(|stream| Ok(backup_stream(&repo, &name, stream, &options, reporter.monitor())?));
    let outcome = reporter.end(result)?;
    let source = source::Report::default();
    report::print(
        &repo,
        &Report { outcome: &outcome, options: &options, source, left_out: 0, snapshots_damaged: 0 },
        globals,
    )
}

fn stream(args: &Args) -> Result<Box<dyn SourceFile>> {
    Ok(if args.stdin_from_command {
        tresor_platform::stream_source(Box::new(CommandOutput::start(&args.paths)?))
    } else {
        tresor_platform::stream_source(Box::new(std::io::stdin()))
    })
}
