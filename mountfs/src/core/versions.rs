//! Every version of a file: `.versions` in each directory of a snapshot.
//!
//! ```text
//! report/.versions/letter.txt/2026-11-23 14.30.05.txt
//! ```
//! Not listed, so that copying a folder doesn't fall into it. A real entry of
//! that name goes before it.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use tresor_engine::format::{Node, display_name};
use tresor_engine::history::{self, Gathered, Missed, VersionAt};
use tresor_engine::repo::Snapshot;
use tresor_engine::select::time_name;
use tresor_engine::tree::NodeAt;

use super::inode::VersionsOf;
use super::namespace::VirtualEntry;
use super::{ACL, FsError, FsResult, Ino, Inode, Place, SnapshotFs};

pub const NAME: &[u8] = b".versions";

/// What a `.versions`, or a folder below it, holds.
pub(super) struct Versions {
    /// Of the snapshots that were looked at.
    pub generation: u32,
    pub entries: Vec<VirtualEntry>,
    /// Whether nothing was damaged.
    pub is_whole: bool,
}

impl SnapshotFs {
    /// The `.versions` of a directory of a snapshot.
    pub(super) fn versions_of(&self, dir: &Inode, ino: Ino) -> FsResult<Place> {
        let Place::Snapshot(snapshot) = self.inode(dir.root)?.place else {
            return Err(FsError::NotFound);
        };
        let host = snapshot.data.host.clone();
        let mut nodes = Vec::new();
        let mut at = (ino, dir.clone());
        while let Place::Node { page, number } = at.1.place {
            nodes.push((page, number));
            at = (at.1.parent, self.inode(at.1.parent)?);
        }
        nodes.reverse();
        Ok(Place::Versions(Box::new(VersionsOf { host, dir: nodes, name: None })))
    }

    /// The directory that a `.versions`, or a folder below it, is about: who may do what there
    /// may do so here. None for the root of a snapshot, which everybody may read.
    pub(super) fn versions_stand_in(&self, of: &VersionsOf) -> FsResult<Option<NodeAt>> {
        let node = of.dir.last().map(|(page, number)| NodeAt::load(&self.repo, page, *number));
        Ok(node.transpose()?)
    }

    pub(super) fn version_entries(&self, of: &VersionsOf) -> FsResult<Versions> {
        let (generation, snapshots) = self.namespace.snapshots_of(&of.host);
        let nodes = of.dir.iter().map(|(page, number)| NodeAt::load(&self.repo, page, *number));
        let nodes: Vec<NodeAt> = nodes.collect::<Result<_, _>>()?;
        let dir: Vec<&[u8]> = nodes.iter().map(|node| node.name.as_slice()).collect();
        let others = self.others.load(Relaxed);
        // Who may go there in one snapshot need not have been let in before, or since.
        let enters = |above: usize, node: &Node| {
            !others || nodes.get(above).is_some_and(|here| has_same_rights(here, node))
        };
        let (entries, is_whole) = match &of.name {
            None => {
                let names = history::names(&self.repo, &snapshots, &dir, &enters)?;
                let (names, is_whole) = self.gathered(&snapshots, names)?;
                let folder = |name: Vec<u8>| {
                    let of = VersionsOf { name: Some(name.clone()), ..of.clone() };
                    VirtualEntry { name, place: Place::Versions(Box::new(of)) }
                };
                (names.into_iter().map(folder).collect(), is_whole)
            }
            Some(name) => {
                let path = [&dir[..], &[name]].concat();
                let versions = history::versions(&self.repo, &snapshots, &path, &enters)?;
                let (versions, is_whole) = self.gathered(&snapshots, versions)?;
                (self.version_names(&snapshots, name, versions), is_whole)
            }
        };
        Ok(Versions { generation, entries, is_whole })
    }

    /// What was found, and whether that is all. What is damaged in some snapshots is told of,
    /// and an error only if there is nothing else.
    fn gathered<T>(&self, snapshots: &[Snapshot], gathered: Gathered<T>) -> FsResult<(T, bool)>
    where
        for<'a> &'a T: IntoIterator,
    {
        let Gathered { found, missed } = gathered;
        for missed in &missed {
            self.passed_over(&told(snapshots, missed));
        }
        match missed.into_iter().next() {
            Some(first) if (&found).into_iter().next().is_none() => Err(first.error.into()),
            first => Ok((found, first.is_none())),
        }
    }

    /// One entry of a `.versions` folder, without listing it if that can be helped.
    pub(super) fn version_entry(
        &self,
        ino: Ino,
        place: &Place,
        of: &VersionsOf,
        name: &[u8],
    ) -> FsResult<Place> {
        if of.name.is_some() {
            return self.listing(ino, place)?.find(name).cloned().ok_or(FsError::NotFound);
        }
        let place =
            Place::Versions(Box::new(VersionsOf { name: Some(name.to_vec()), ..of.clone() }));
        let listing = self.listing(Ino::of_place(ino, name, &place), &place)?;
        if listing.is_empty() { Err(FsError::NotFound) } else { Ok(place) }
    }

    /// Each version under the time of the first snapshot that holds it.
    fn version_names(
        &self,
        snapshots: &[Snapshot],
        name: &[u8],
        versions: Vec<VersionAt>,
    ) -> Vec<VirtualEntry> {
        let ending = ending(name);
        let mut taken = HashSet::new();
        let mut entries = Vec::new();
        for version in versions {
            let Some(first) = version.snapshots.first().and_then(|n| snapshots.get(*n)) else {
                continue;
            };
            let mut time = time_name(first.data.time, self.namespace.time_zone());
            if !taken.insert(time.clone()) {
                time = format!("{time} {}", first.id.short());
            }
            let name = [time.as_bytes(), &ending].concat();
            let place = Place::Node { page: version.node.page_id, number: version.node.number };
            entries.push(VirtualEntry { name, place });
        }
        entries
    }
}

/// Whether the same users may do the same with two directories.
fn has_same_rights(one: &Node, other: &Node) -> bool {
    (one.uid, one.gid, one.mode) == (other.uid, other.gid, other.mode)
        && one.attribute(ACL) == other.attribute(ACL)
}

fn told(snapshots: &[Snapshot], missed: &Missed) -> String {
    let holders = missed.snapshots.iter().filter_map(|n| snapshots.get(*n));
    let holders: Vec<_> = holders.map(|s| s.id.short()).collect();
    let path = display_name(&missed.path);
    let (first, more) = (holders.first().map_or("", String::as_str), holders.len().max(1) - 1);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("versions in {path} of {first}{more} are left out: {}", missed.error)
}

/// `.txt`, so that programs still know what they open; nothing if there is none.
fn ending(name: &[u8]) -> Vec<u8> {
    let ending = std::str::from_utf8(name).ok().and_then(|n| Path::new(n).extension());
    let ending = ending.and_then(OsStr::to_str).filter(|e| e.len() <= 16);
    ending.map_or(Vec::new(), |e| format!(".{e}").into_bytes())
}
