//! The virtual folders above the snapshots:
//!
//! ```text
//! snapshots/<time>   hosts/<host>/<time>   tags/<tag>/<time>   ids/<short id>
//! ```
//! each with a link `latest`; or, for Samba, nothing but snapshots at the root:
//!
//! ```text
//! @GMT-2026.11.23-14.30.05
//! ```
//! Read again from the store when looked at, but not more often than twice a second, and on a
//! thread of its own: a store that stalls must not hold up who asks for what is known.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use tresor_engine::format::Time;
use tresor_engine::repo::{Repository, Snapshot, now};
use tresor_engine::select::{SnapshotFilter, SnapshotSpec, passing_over, select, time_name};

use super::inode::{Folder, Place};
use crate::follow;

/// What the root of the drive holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// Folders by time, host, tag and id.
    #[default]
    Folders,
    /// Snapshots by their time in UTC, as Samba's `shadow_copy2` wants them.
    PreviousVersions,
}

const REFRESH_EVERY: Duration = Duration::from_millis(500);
/// How long who asks waits for the look that he has begun.
const PATIENCE: Duration = Duration::from_millis(100);
const LATEST: &[u8] = b"latest";

/// An entry of a virtual folder.
#[derive(Clone, Debug)]
pub struct VirtualEntry {
    pub name: Vec<u8>,
    pub place: Place,
}

pub struct Namespace {
    repo: Arc<Repository>,
    filter: SnapshotFilter,
    time_zone: TimeZone,
    layout: Layout,
    state: RwLock<State>,
    looks: Mutex<Looks>,
    look_ended: Condvar,
}

/// When the last look at the snapshots ended, and whether there is one under way.
#[derive(Default)]
struct Looks {
    ended: Option<Instant>,
    under_way: bool,
}

/// The one that is under way; it ends when this is dropped.
struct Look(Arc<Namespace>);

impl Drop for Look {
    fn drop(&mut self) {
        *self.0.looks() = Looks { ended: Some(Instant::now()), under_way: false };
        self.0.look_ended.notify_all();
    }
}

#[derive(Default)]
struct State {
    /// Oldest first, each with the name it has in folders by time.
    listed: Vec<(String, Snapshot)>,
    xattr_names: Names,
    /// Another whenever another set of snapshots is listed: from 1 to `MOST_GENERATION`.
    generation: u32,
}

/// Names of extended attributes that entries of snapshots have.
#[derive(Default)]
struct Names {
    all: HashSet<Vec<u8>>,
    /// A snapshot doesn't say which ones it has.
    are_unknown: bool,
}

/// Then they begin again.
const MOST_GENERATION: u32 = u32::MAX >> 1;

impl Namespace {
    pub fn new(
        repo: Arc<Repository>,
        filter: SnapshotFilter,
        time_zone: TimeZone,
        layout: Layout,
    ) -> Self {
        let (state, looks) = (RwLock::default(), Mutex::default());
        Self { repo, filter, time_zone, layout, state, looks, look_ended: Condvar::new() }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(|e| e.into_inner())
    }

    fn looks(&self) -> std::sync::MutexGuard<'_, Looks> {
        self.looks.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Takes up new snapshots and drops forgotten ones, as of now.
    pub fn look(self: &Arc<Self>) -> tresor_engine::Result<()> {
        self.looks().under_way = true;
        let _look = Look(self.clone());
        self.read_snapshots()
    }

    /// The same if that was long ago, and if the store answers soon. If it doesn't, or can't be
    /// reached, what is known stays for now.
    pub fn refresh(self: &Arc<Self>) {
        let mut looks = self.looks();
        if looks.under_way || looks.ended.is_some_and(|at| at.elapsed() < REFRESH_EVERY) {
            return;
        }
        looks.under_way = true;
        drop(looks);
        follow::free();
        let look = Look(self.clone());
        let work = move || {
            let _ = look.0.read_snapshots();
        };
        // Without a thread it ends at once.
        let _ = thread::Builder::new().name("snapshots".into()).spawn(work);
        let wait = |looks: &mut Looks| looks.under_way;
        drop(self.look_ended.wait_timeout_while(self.looks(), PATIENCE, wait));
    }

    fn read_snapshots(&self) -> tresor_engine::Result<()> {
        let mut snapshots = self.repo.snapshots()?;
        snapshots.retain(|s| self.filter.matches(&s.data));
        let has_new = {
            let state = self.read();
            let known = state.listed.iter().map(|(_, s)| s.id);
            if state.generation > 0 && known.clone().eq(snapshots.iter().map(|s| s.id)) {
                return Ok(());
            }
            let known: HashSet<_> = known.collect();
            snapshots.iter().any(|s| !known.contains(&s.id))
        };
        // What a snapshot needs is in the index when it is saved.
        if has_new {
            self.repo.refresh_index()?;
        }
        // What was backed up keeps its name, whatever is repaired of it later.
        let (repaired, originals): (Vec<&Snapshot>, Vec<_>) =
            snapshots.iter().partition(|s| s.is_repaired());
        let mut names = HashMap::new();
        let mut taken = HashSet::new();
        for snapshot in originals.into_iter().chain(repaired) {
            let mut name = time_name(snapshot.data.time, &self.time_zone);
            if taken.contains(&name) {
                name = format!("{name} {}", snapshot.id.short());
            }
            taken.insert(name.clone());
            names.insert(snapshot.id, name);
        }
        let named = |s: Snapshot| (names.remove(&s.id).unwrap_or_default(), s);
        let listed = snapshots.into_iter().map(named).collect();
        self.write().list(listed);
        Ok(())
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(|e| e.into_inner())
    }

    pub fn time_zone(&self) -> &TimeZone {
        &self.time_zone
    }

    /// Listed snapshots of a host, oldest first, and of which generation.
    pub fn snapshots_of(&self, host: &str) -> (u32, Vec<Snapshot>) {
        let state = self.read();
        let of_host = state.listed.iter().map(|(_, s)| s).filter(|s| s.data.host == host);
        (state.generation, of_host.cloned().collect())
    }

    /// To be told of a snapshot that is shown without being listed.
    pub fn know(&self, snapshot: &Snapshot) {
        self.write().xattr_names.add(snapshot);
    }

    /// Another number, below 2^31, whenever other snapshots are listed; 0 before any are.
    pub fn generation(&self) -> u32 {
        self.read().generation
    }

    /// Time of the latest snapshot of a folder. Kernels keep listings as long as
    /// this is the same, so the nanoseconds differ when other snapshots are listed.
    pub fn time(&self, folder: &Folder) -> Time {
        let state = self.read();
        let latest = state.latest(folder).map(|(_, s)| s.data.time).unwrap_or_default();
        Time::new(latest.seconds, state.generation % 1_000_000_000)
    }

    /// Whether no entry of any snapshot that was ever listed has this extended attribute.
    pub fn lacks_xattr(&self, name: &[u8]) -> bool {
        let names = &self.read().xattr_names;
        !names.are_unknown && !names.all.contains(name)
    }

    /// What a folder holds, and of which generation.
    pub fn entries(&self, folder: &Folder) -> (u32, Vec<VirtualEntry>) {
        let state = self.read();
        (state.generation, self.entries_of(&state, folder))
    }

    fn entries_of(&self, state: &State, folder: &Folder) -> Vec<VirtualEntry> {
        let dir = |name: &str, folder: Folder| VirtualEntry {
            name: name.as_bytes().to_vec(),
            place: Place::Folder(Box::new(folder)),
        };
        match folder {
            Folder::Root if self.layout == Layout::PreviousVersions => state.by_gmt(),
            Folder::Root => vec![
                dir("hosts", Folder::Hosts),
                dir("ids", Folder::Ids),
                dir("snapshots", Folder::Snapshots),
                dir("tags", Folder::Tags),
            ],
            Folder::Hosts => {
                let hosts = state.listed.iter().map(|(_, s)| s.data.host.as_str());
                unique(hosts).map(|(name, host)| dir(&name, Folder::Host(host))).collect()
            }
            Folder::Tags => {
                let tags = state.listed.iter().flat_map(|(_, s)| &s.data.tags);
                let tags = unique(tags.map(String::as_str));
                tags.map(|(name, tag)| dir(&name, Folder::Tag(tag))).collect()
            }
            Folder::Snapshots | Folder::Ids | Folder::Host(_) | Folder::Tag(_) => {
                let mut entries: Vec<_> = state
                    .of(folder)
                    .map(|(name, snapshot)| VirtualEntry {
                        name: entry_name(folder, name, snapshot).into_bytes(),
                        place: Place::Snapshot(Box::new(snapshot.clone())),
                    })
                    .collect();
                if let Some((name, snapshot)) = state.latest(folder) {
                    let latest = entry_name(folder, name, snapshot).into_bytes();
                    let place = Place::Link(latest.into());
                    entries.push(VirtualEntry { name: LATEST.to_vec(), place });
                }
                entries
            }
        }
    }

    /// A name that is not listed, at the root: a snapshot by what follows the `@`.
    pub fn unlisted(&self, folder: &Folder, name: &[u8]) -> Option<Place> {
        match (folder, name.strip_prefix(b"@")) {
            (Folder::Root, Some(spec)) => self.select(std::str::from_utf8(spec).ok()?),
            _ => None,
        }
    }

    /// What `@…` means: a snapshot as it is named on the command line.
    fn select(&self, spec: &str) -> Option<Place> {
        let spec = SnapshotSpec::parse(spec, &self.time_zone).ok()?;
        let snapshots: Vec<_> = self.read().listed.iter().map(|(_, s)| s.clone()).collect();
        let selected = select(&snapshots, &SnapshotFilter::default(), &spec, now()).ok()?;
        Some(Place::Snapshot(Box::new(selected.snapshot.clone())))
    }

    /// Bytes and entries of the latest snapshot: what `df` shows.
    pub fn volume(&self) -> (u64, u64) {
        let state = self.read();
        let latest = state.latest(&Folder::Snapshots).map(|(_, s)| s.data.summary);
        latest.map_or((0, 0), |s| (s.bytes, s.entries()))
    }
}

impl Names {
    fn add(&mut self, snapshot: &Snapshot) {
        match &snapshot.data.xattr_names {
            Some(names) => {
                let new: Vec<_> = names.iter().filter(|n| !self.all.contains(&n.0)).collect();
                self.all.extend(new.into_iter().map(|name| name.0.clone()));
            }
            // An older program may have seen that there are none.
            None => self.are_unknown |= snapshot.data.summary.xattr_entries > 0,
        }
    }
}

impl State {
    fn list(&mut self, listed: Vec<(String, Snapshot)>) {
        listed.iter().for_each(|(_, snapshot)| self.xattr_names.add(snapshot));
        self.listed = listed;
        self.generation = self.generation % MOST_GENERATION + 1;
    }

    /// Of several in one second, the newest.
    fn by_gmt(&self) -> Vec<VirtualEntry> {
        let by_name: BTreeMap<String, &Snapshot> =
            self.listed.iter().map(|(_, s)| (gmt_name(s.data.time), s)).collect();
        let entry = |(name, snapshot): (String, &Snapshot)| VirtualEntry {
            name: name.into_bytes(),
            place: Place::Snapshot(Box::new(snapshot.clone())),
        };
        by_name.into_iter().map(entry).collect()
    }

    /// Of those in a folder, as `latest` on the command line.
    fn latest<'a>(&'a self, folder: &'a Folder) -> Option<&'a (String, Snapshot)> {
        let all: Vec<_> = self.of(folder).collect();
        passing_over(&all, |(_, s)| s.data.time, now()).0.last().copied()
    }

    fn of<'a>(&'a self, folder: &'a Folder) -> impl Iterator<Item = &'a (String, Snapshot)> {
        self.listed.iter().filter(move |(_, s)| match folder {
            Folder::Host(host) => s.data.host == *host,
            Folder::Tag(tag) => s.data.tags.contains(tag),
            _ => true,
        })
    }
}

/// `@GMT-2026.11.23-14.30.05`: what a client of a Windows share calls a previous version.
fn gmt_name(time: Time) -> String {
    let time = time_name(time, &TimeZone::UTC);
    format!("@GMT-{}", time.replace('-', ".").replace(' ', "-"))
}

fn entry_name(folder: &Folder, time: &str, snapshot: &Snapshot) -> String {
    if *folder == Folder::Ids { snapshot.id.short() } else { time.to_owned() }
}

/// Each host or tag once, with the name of its folder.
fn unique<'a>(all: impl Iterator<Item = &'a str>) -> impl Iterator<Item = (String, String)> {
    let folders: BTreeMap<String, String> =
        all.map(|text| (folder_name(text), text.to_owned())).collect();
    folders.into_iter()
}

/// A host or tag as a file name: what can't stand in one on Unix or Windows, and
/// `%`, is written as `%XX`.
fn folder_name(text: &str) -> String {
    if text.is_empty() {
        return "%".into();
    }
    let special = matches!(text, "." | ".." | "latest");
    let mut name = String::new();
    for c in text.chars() {
        let bad = c.is_control() || "/\\:*?\"<>|%".contains(c);
        if bad || special && name.is_empty() {
            let mut utf8 = [0; 4];
            let bytes = c.encode_utf8(&mut utf8).bytes();
            bytes.for_each(|b| name.push_str(&format!("%{b:02X}")));
        } else {
            name.push(c);
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::folder_name;

    #[test]
    fn times_as_samba_names_them() {
        assert_eq!(super::gmt_name(super::Time::new(1_795_444_205, 9)), "@GMT-2026.11.23-14.30.05");
    }

    #[test]
    fn folder_names_are_possible_and_different() {
        let texts = ["a", "a/b", "a%2Fb", "", ".", "..", "%", "latest", "x:y", "\n"];
        let names: std::collections::HashSet<_> = texts.iter().map(|t| folder_name(t)).collect();
        assert_eq!(names.len(), texts.len());
        assert!(names.iter().all(|n| !n.contains('/') && n != "." && n != ".." && !n.is_empty()));
    }
}
