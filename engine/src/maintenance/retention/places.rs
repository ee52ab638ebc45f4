//! Snapshots that stand for one backup: an original, and what `repair snapshots` has saved of it.

use std::collections::HashMap;

use crate::format::{PathBytes, SnapshotData, Time};
use crate::repo::{REPAIRED, Snapshot};

/// What a repaired snapshot has in common with its original.
#[derive(PartialEq, Eq, Hash)]
struct Backup<'a> {
    times: (Time, i32, Time),
    host: &'a str,
    user: &'a str,
    paths: &'a [PathBytes],
    /// But the one of repaired ones; sorted.
    tags: Vec<&'a str>,
}

impl<'a> Backup<'a> {
    fn of(data: &'a SnapshotData) -> Self {
        let mut tags: Vec<_> = data.tags.iter().map(String::as_str).collect();
        tags.retain(|tag| *tag != REPAIRED);
        tags.sort_unstable();
        tags.dedup();
        Self {
            times: (data.time, data.utc_offset, data.saved),
            host: &data.host,
            user: &data.user,
            paths: &data.paths,
            tags,
        }
    }
}

/// For each snapshot the place of the one that it counts with: its own, or of a repaired one that
/// of its original. Without an original the last of the repaired ones takes its part.
pub(super) fn stands_for(snapshots: &[Snapshot]) -> Vec<usize> {
    let mut originals: HashMap<Backup<'_>, (usize, &Snapshot)> = HashMap::new();
    for (place, snapshot) in snapshots.iter().enumerate() {
        let original = originals.entry(Backup::of(&snapshot.data)).or_insert((place, snapshot));
        if snapshot.order() > original.1.order() {
            *original = (place, snapshot);
        }
    }
    let stands_for = |(place, snapshot): (usize, &Snapshot)| {
        let original = originals.get(&Backup::of(&snapshot.data));
        original.filter(|_| snapshot.is_repaired()).map_or(place, |(place, _)| *place)
    };
    snapshots.iter().enumerate().map(stands_for).collect()
}
