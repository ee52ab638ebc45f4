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

use tresor_engine::format::Node;
use tresor_engine::history::{self, Enters};
use tresor_engine::repo::Snapshot;
use tresor_engine::select::time_name;
use tresor_engine::tree::NodeAt;

use super::inode::VersionsOf;
use super::namespace::VirtualEntry;
use super::{ACL, FsError, FsResult, Ino, Inode, Place, SnapshotFs};

pub const NAME: &[u8] = b".versions";

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

    /// Also of which generation they are.
    pub(super) fn version_entries(&self, of: &VersionsOf) -> FsResult<(u32, Vec<VirtualEntry>)> {
        let (generation, snapshots) = self.namespace.snapshots_of(&of.host);
        let nodes = of.dir.iter().map(|(page, number)| NodeAt::load(&self.repo, page, *number));
        let nodes: Vec<NodeAt> = nodes.collect::<Result<_, _>>()?;
        let dir: Vec<&[u8]> = nodes.iter().map(|node| node.name.as_slice()).collect();
        let others = self.others.load(Relaxed);
        // Who may go there in one snapshot need not have been let in before, or since.
        let enters = |above: usize, node: &Node| {
            !others || nodes.get(above).is_some_and(|here| has_same_rights(here, node))
        };
        let entries = match &of.name {
            None => {
                let names = history::names(&self.repo, &snapshots, &dir, &enters)?;
                let folder = |name: Vec<u8>| {
                    let of = VersionsOf { name: Some(name.clone()), ..of.clone() };
                    VirtualEntry { name, place: Place::Versions(Box::new(of)) }
                };
                names.into_iter().map(folder).collect()
            }
            Some(name) => self.versions(&snapshots, &[&dir[..], &[name]].concat(), &enters)?,
        };
        Ok((generation, entries))
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
    fn versions(
        &self,
        snapshots: &[Snapshot],
        path: &[&[u8]],
        enters: Enters<'_>,
    ) -> FsResult<Vec<VirtualEntry>> {
        let ending = path.last().map_or(Vec::new(), |name| ending(name));
        let mut taken = HashSet::new();
        let mut entries = Vec::new();
        for version in history::versions(&self.repo, snapshots, path, enters)? {
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
        Ok(entries)
    }
}

/// Whether the same users may do the same with two directories.
fn has_same_rights(one: &Node, other: &Node) -> bool {
    (one.uid, one.gid, one.mode) == (other.uid, other.gid, other.mode)
        && one.attribute(ACL) == other.attribute(ACL)
}

/// `.txt`, so that programs still know what they open; nothing if there is none.
fn ending(name: &[u8]) -> Vec<u8> {
    let ending = std::str::from_utf8(name).ok().and_then(|n| Path::new(n).extension());
    let ending = ending.and_then(OsStr::to_str).filter(|e| e.len() <= 16);
    ending.map_or(Vec::new(), |e| format!(".{e}").into_bytes())
}
