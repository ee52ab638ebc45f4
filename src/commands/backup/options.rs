//! From the command line to what the archiver wants to know.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use jiff::Zoned;
use tresor_engine::archiver::BackupOptions;
use tresor_engine::exclude::Patterns;
use tresor_engine::format::{PathBytes, is_valid_name};
use tresor_engine::repo::{Repository, Snapshot};

use super::Args;
use super::source::When;
use crate::choose::{self, FilterArgs};
use crate::globals::Globals;
use crate::output;
use crate::progress::{self, Json};
use crate::{parse, text_file};

/// Everything but paths, patterns and parent.
pub(super) fn common(args: &Args) -> BackupOptions {
    let clock = args.time.clone().unwrap_or_else(Zoned::now);
    BackupOptions {
        paths: Vec::new(),
        exclude: Patterns::default(),
        exclude_larger_than: args.exclude_larger_than,
        exclude_caches: args.exclude_caches,
        one_file_system: args.one_file_system,
        parent: None,
        host: args.host.clone().unwrap_or_else(tresor_platform::host_name),
        user: tresor_platform::user_name(),
        tags: parse::tags(&args.tag),
        time: args.time.as_ref().map(parse::engine_time),
        utc_offset: clock.offset().seconds(),
        program: concat!("tresor ", env!("CARGO_PKG_VERSION")).into(),
        dry_run: args.dry_run,
    }
}

/// The paths to save. One that isn't there is left to the archiver, which says so.
pub(super) fn paths(args: &Args, globals: &Globals) -> Result<Vec<PathBytes>> {
    let mut asked: Vec<PathBuf> = args.paths.iter().map(PathBuf::from).collect();
    for list in &args.files_from {
        asked.extend(listed(list)?);
    }
    if asked.iter().any(|path| path.as_os_str().is_empty()) {
        bail!(
            "one of the paths to save is empty (as by a variable that isn't set), so no snapshot was made"
        );
    }
    asked.iter().filter(|path| leads_to_folder(path)).for_each(|link| {
        let message = format!(
            "{0} is a symlink, and only the link is saved (write {0}/ to save the folder that it leads to)",
            link.display()
        );
        progress::note(globals, Json::Messages, &message);
    });
    let mut paths = if args.system_state { system_state(args, globals)? } else { Vec::new() };
    if asked.is_empty() && paths.is_empty() {
        bail!("nothing to save: name files or folders, like `tresor backup ~/Documents`");
    }
    let missing: Vec<_> =
        asked.iter().filter_map(|path| tresor_platform::absolute_path(path).err()).collect();
    if missing.len() == asked.len() && paths.is_empty() {
        let all = missing.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        bail!("none of the paths can be saved, so no snapshot was made: {all}");
    }
    paths.extend(asked.iter().map(|path| choose::absolute(path)));
    paths.sort_unstable();
    paths.dedup();
    Ok(paths)
}

/// Whether a symlink to a folder is meant as such.
fn leads_to_folder(path: &Path) -> bool {
    let is_link = path.symlink_metadata().is_ok_and(|found| found.is_symlink());
    let means_folder = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    is_link && path.is_dir() && !means_folder
}

/// The volumes that this system lies on.
fn system_state(args: &Args, globals: &Globals) -> Result<Vec<PathBytes>> {
    if args.use_fs_snapshot == When::Off {
        bail!("--system-state takes a shadow copy: leave --use-fs-snapshot=off away");
    }
    let state = tresor_platform::system_state().map_err(|e| anyhow!("--system-state: {e}"))?;
    if !state.elsewhere.is_empty() {
        let message = format!(
            "a part of the system state has no drive letter and is not saved ({}); docs/windows.md says how boot files are made anew",
            state.elsewhere.join(", ")
        );
        progress::note(globals, Json::Messages, &message);
    }
    Ok(state.volumes)
}

fn listed(file: &Path) -> Result<Vec<PathBuf>> {
    let mut bytes = Vec::new();
    let read = if file == Path::new("-") {
        std::io::stdin().read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|mut f| f.read_to_end(&mut bytes))
    };
    read.with_context(|| format!("can't read the list of files {}", file.display()))?;
    if text_file::is_utf16(&bytes) {
        bail!("the list of files {} is in UTF-16: save it as UTF-8", file.display());
    }
    let lines = text_file::without_mark(&bytes).split(|b| *b == b'\n').map(without_return);
    let lines = lines.filter(|line| !line.is_empty());
    lines.map(|line| from_bytes(line).map(PathBuf::from)).collect()
}

/// On Windows no name ends so, but lines do.
fn without_return(line: &[u8]) -> &[u8] {
    if cfg!(windows) { line.strip_suffix(b"\r").unwrap_or(line) } else { line }
}

#[cfg(unix)]
fn from_bytes(bytes: &[u8]) -> Result<OsString> {
    Ok(std::os::unix::ffi::OsStringExt::from_vec(bytes.to_vec()))
}

#[cfg(not(unix))]
fn from_bytes(bytes: &[u8]) -> Result<OsString> {
    Ok(String::from_utf8(bytes.to_vec()).context("the list of files is no UTF-8")?.into())
}

/// The rules of the system come first, so that a pattern can take back what they leave out.
pub(super) fn excludes(args: &Args, globals: &Globals) -> Result<Patterns> {
    let mut patterns = Patterns::default();
    if !args.no_system_excludes {
        add_system_rules(&mut patterns, globals)
            .context("can't read what the system says is not to be backed up (--no-system-excludes: don't ask)")?;
    }
    for file in &args.exclude_file {
        let text = text_file::read(file)
            .with_context(|| format!("can't read the patterns in {}", file.display()))?;
        patterns.add_file(&text).with_context(|| file.display().to_string())?;
    }
    // Last, so that they can take back what a file leaves out.
    args.exclude.iter().try_for_each(|pattern| patterns.add(pattern))?;
    Ok(patterns)
}

fn add_system_rules(patterns: &mut Patterns, globals: &Globals) -> Result<()> {
    let (rules, odd) = tresor_platform::system_rules()?;
    rules.iter().try_for_each(|rule| patterns.add_system(rule))?;
    for problem in odd.iter().filter(|_| globals.verbose > 0) {
        output::complain(&format!("{} is not understood: {}", problem.what, problem.message));
    }
    Ok(())
}

/// Leaves out the repository and the caches, whatever the patterns say.
pub(super) fn exclude_own(patterns: &mut Patterns, globals: &Globals) -> Result<()> {
    let caches = globals.cache_folder().map(|folder| match globals.owns_cache_folder() {
        true => vec![folder],
        false => caches_in(&folder),
    });
    for own in caches.into_iter().flatten().chain([globals.location()?]) {
        // What isn't there needs not be left out.
        if let Ok(own) = own.canonicalize() {
            patterns.add_path(&tresor_platform::recorded_path(own.as_os_str().as_encoded_bytes()));
        }
    }
    Ok(())
}

/// Caches of repositories in a folder that somebody has named: whatever else is in it is his.
fn caches_in(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = folder.read_dir() else { return Vec::new() };
    let is_id = |name: &str| name.len() == 32 && name.bytes().all(|b| b.is_ascii_hexdigit());
    let paths = entries.flatten().map(|entry| entry.path());
    paths.filter(|path| path.file_name().and_then(|n| n.to_str()).is_some_and(is_id)).collect()
}

/// The snapshot to compare with, and how many can't be read.
pub(super) fn parent(
    args: &Args,
    repo: &Repository,
    paths: &[PathBytes],
) -> Result<(Option<Snapshot>, u64)> {
    if args.force {
        // Nothing is compared with them, but are all still there?
        repo.snapshot_ids()?;
        return Ok((None, 0));
    }
    let host = args.host.clone().unwrap_or_else(tresor_platform::host_name);
    if let Some(name) = &args.parent {
        let filter = FilterArgs { host: vec![host], tag: Vec::new(), path: Vec::new() };
        let place = choose::place(repo, &filter, name)?;
        if !place.names.is_empty() {
            bail!("--parent takes a whole snapshot, without a path in it");
        }
        return Ok((Some(place.snapshot), 0));
    }
    let same = |s: &Snapshot| {
        let mut of = s.data.paths.clone();
        of.sort_unstable();
        s.data.host == host && of == paths
    };
    let (all, damaged) = choose::all_and_damaged(repo)?;
    let all: Vec<_> = all.into_iter().filter(same).collect();
    Ok((choose::latest(&all).cloned(), damaged))
}

pub(super) fn stream_name(args: &Args) -> Result<Vec<u8>> {
    let name = args.stdin_filename.as_encoded_bytes();
    let name = name.strip_prefix(b"/").unwrap_or(name);
    if !is_valid_name(name) {
        bail!("--stdin-filename {:?} is no name of a file", args.stdin_filename);
    }
    Ok(name.to_vec())
}
