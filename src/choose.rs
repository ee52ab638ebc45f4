//! From what people type to snapshots, and to places in them.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use anyhow::{Result, bail};
use jiff::tz::TimeZone;
use tresor_engine::format::{BlobId, Node, PathBytes, Time, display_name};
use tresor_engine::repo::{Repository, Snapshot, now};
use tresor_engine::select::{
    Selected, SnapshotFilter, SnapshotSpec, passing_over, select, select_to_remove, split_path,
};
use tresor_engine::tree;

use crate::human;
use crate::output;
use crate::parse;

#[derive(clap::Args, Debug)]
pub struct FilterArgs {
    /// Only snapshots of this host (may be repeated: of any of these)
    #[arg(short = 'H', long, value_name = "HOST")]
    pub host: Vec<String>,

    /// Only snapshots with all of these tags (may be repeated: or all of those; '' for no tags)
    #[arg(long, value_name = "TAG[,TAG…]")]
    pub tag: Vec<String>,

    /// Only snapshots of this path (may be repeated: of all of these)
    #[arg(long, value_name = "PATH")]
    pub path: Vec<PathBuf>,
}

impl FilterArgs {
    pub fn filter(&self) -> SnapshotFilter {
        SnapshotFilter {
            hosts: self.host.clone(),
            tags: parse::tag_lists(&self.tag),
            paths: self.path.iter().map(|p| absolute(p)).collect(),
        }
    }
}

/// A path as snapshots name it. One that isn't there (any more) is taken as it is typed.
pub fn absolute(path: &Path) -> PathBytes {
    PathBytes(tresor_platform::absolute_path(path).unwrap_or_else(|_| plain(path)))
}

fn plain(path: &Path) -> Vec<u8> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut plain = PathBuf::new();
    for part in absolute.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    tresor_platform::recorded_path(plain.as_os_str().as_encoded_bytes())
}

/// Every readable snapshot, oldest first. Damaged ones are named on standard error.
pub fn all(repo: &Repository) -> Result<Vec<Snapshot>> {
    Ok(all_and_damaged(repo)?.0)
}

/// The same, and how many damaged ones there are.
pub fn all_and_damaged(repo: &Repository) -> Result<(Vec<Snapshot>, u64)> {
    let (snapshots, damaged) = repo.snapshots_and_damaged()?;
    for (id, reason) in &damaged {
        output::complain(&format!("snapshot {} is left out: {reason}", id.short()));
    }
    Ok((snapshots, damaged.len() as u64))
}

/// The snapshots that are named, or else all that match.
pub fn several(repo: &Repository, filter: &FilterArgs, names: &[String]) -> Result<Vec<Snapshot>> {
    several_by(select, repo, filter, names)
}

/// The same for what removes them.
pub fn several_to_remove(
    repo: &Repository,
    filter: &FilterArgs,
    names: &[String],
) -> Result<Vec<Snapshot>> {
    let by_place = |name: &&String| {
        let spec = SnapshotSpec::parse(name, &TimeZone::system());
        spec.is_ok_and(|spec| !matches!(spec, SnapshotSpec::Prefix(_)))
    };
    // One that can't be read may be the one that is meant.
    if let Some(name) = names.iter().find(by_place)
        && all_and_damaged(repo)?.1 > 0
    {
        bail!(
            "there are snapshots that can't be read (see above), and {name} may be one of them, so nothing was removed: name it by its id"
        );
    }
    several_by(select_to_remove, repo, filter, names)
}

/// A way from what was typed to the snapshot that is meant.
type Select =
    fn(&[Snapshot], &SnapshotFilter, &SnapshotSpec, Time) -> tresor_engine::Result<Selected>;

fn several_by(
    select: Select,
    repo: &Repository,
    filter: &FilterArgs,
    names: &[String],
) -> Result<Vec<Snapshot>> {
    let snapshots = all(repo)?;
    let filter = filter.filter();
    if names.is_empty() {
        return Ok(snapshots.into_iter().filter(|s| filter.matches(&s.data)).collect());
    }
    let mut chosen: Vec<Snapshot> = Vec::new();
    for name in names {
        let snapshot = one(select, &snapshots, &filter, name)?;
        if chosen.iter().all(|s| s.id != snapshot.id) {
            chosen.push(snapshot);
        }
    }
    Ok(chosen)
}

fn one(
    select: Select,
    snapshots: &[Snapshot],
    filter: &SnapshotFilter,
    name: &str,
) -> Result<Snapshot> {
    let spec = SnapshotSpec::parse(name, &TimeZone::system())?;
    let selected = select(snapshots, filter, &spec, now())?;
    say_passed_over(&selected.passed_over);
    Ok(selected.snapshot)
}

/// The latest of some snapshots, given oldest first. Says which ones are passed over.
pub fn latest(snapshots: &[Snapshot]) -> Option<&Snapshot> {
    let (counted, ahead) = passing_over(snapshots, |s| s.data.time, now());
    say_passed_over(ahead);
    counted.last()
}

fn say_passed_over(ahead: &[Snapshot]) {
    let Some(newest) = ahead.last() else { return };
    let others = match ahead.len() - 1 {
        0 => String::new(),
        n => format!(", and of {} more", human::count(n as u64)),
    };
    let id = newest.id.short();
    output::complain(&format!(
        "the time of snapshot {id}, {}{others}, lies in the future, so it isn't taken for the latest; its id names it (`tresor forget {id}` removes it)",
        human::time(newest.data.time, &TimeZone::system()),
    ));
}

/// A snapshot, and names of directories down to a place in it.
pub struct Place {
    pub snapshot: Snapshot,
    pub names: Vec<Vec<u8>>,
}

/// Finds `SNAPSHOT[:PATH]` for what writes somewhere: an empty path, as by a variable that isn't
/// set, doesn't stand for everything.
pub fn place_to_restore(repo: &Repository, filter: &FilterArgs, text: &OsStr) -> Result<Place> {
    let shown = text.to_string_lossy();
    if let (name, Some("")) = split_path(&shown) {
        bail!("the path after {name}: is empty; write {name} or {name}:/ for the whole snapshot");
    }
    place(repo, filter, text)
}

/// Finds `SNAPSHOT[:PATH]`.
pub fn place(repo: &Repository, filter: &FilterArgs, text: &OsStr) -> Result<Place> {
    // The part before the path is plain ASCII, so it is as long in the text as in the bytes.
    let shown = text.to_string_lossy();
    let (name, path) = split_path(&shown);
    let snapshot = one(select, &all(repo)?, &filter.filter(), name)?;
    let bytes = text.as_encoded_bytes();
    let path = path.and_then(|_| bytes.get(name.len() + 1..)).unwrap_or_default();
    Ok(Place { snapshot, names: names_of(path) })
}

pub fn names_of(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path.split(|b| *b == b'/').filter(|n| !n.is_empty() && *n != b".");
    names.map(<[u8]>::to_vec).collect()
}

/// What lies at a place.
pub enum Found {
    Root(BlobId),
    Entry(Box<Node>),
}

impl Found {
    /// The root page, if it is a directory.
    pub fn tree(&self) -> Option<BlobId> {
        match self {
            Self::Root(tree) => Some(*tree),
            Self::Entry(node) => node.tree,
        }
    }
}

impl Place {
    /// From the root of the snapshot; empty for the root itself.
    pub fn path(&self) -> Vec<u8> {
        self.names.iter().flat_map(|n| [b"/", n.as_slice()].concat()).collect()
    }

    pub fn shown(&self) -> String {
        if self.names.is_empty() { "/".into() } else { display_name(&self.path()) }
    }

    pub fn find(&self, repo: &Repository) -> Result<Found> {
        if self.names.is_empty() {
            return Ok(Found::Root(self.snapshot.data.tree));
        }
        let names: Vec<&[u8]> = self.names.iter().map(Vec::as_slice).collect();
        match tree::resolve(repo, &self.snapshot.data.tree, &names)? {
            Some(node) => Ok(Found::Entry(Box::new(node))),
            None => bail!(
                "snapshot {} holds no {}; `tresor ls {}` shows what it holds",
                self.snapshot.id.short(),
                self.shown(),
                self.snapshot.id.short(),
            ),
        }
    }
}
