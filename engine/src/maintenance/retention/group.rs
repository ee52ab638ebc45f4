//! Which snapshots a policy looks at together.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::places::stands_for;
use crate::error::{Error, Result};
use crate::format::{PathBytes, SnapshotData};
use crate::repo::Snapshot;

/// By what snapshots are told apart, so that a policy applies to each source by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupBy {
    pub host: bool,
    pub paths: bool,
    pub tags: bool,
}

impl Default for GroupBy {
    fn default() -> Self {
        Self { host: true, paths: true, tags: false }
    }
}

impl FromStr for GroupBy {
    type Err = Error;

    /// Any of `host`, `paths` and `tags` with commas between; nothing for one group.
    fn from_str(text: &str) -> Result<Self> {
        let mut by = Self { host: false, paths: false, tags: false };
        for word in text.split(',').map(str::trim).filter(|w| !w.is_empty()) {
            match word {
                "host" | "hosts" => by.host = true,
                "path" | "paths" => by.paths = true,
                "tag" | "tags" => by.tags = true,
                other => {
                    return Err(Error::Invalid(format!(
                        "can't group by {other:?}: give any of host, paths and tags, with commas between"
                    )));
                }
            }
        }
        Ok(by)
    }
}

/// What the snapshots of a group have in common; `None` where it wasn't asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupKey {
    pub host: Option<String>,
    /// Sorted.
    pub paths: Option<Vec<PathBytes>>,
    /// Sorted.
    pub tags: Option<Vec<String>>,
}

impl GroupKey {
    fn new(data: &SnapshotData, by: GroupBy) -> Self {
        Self {
            host: by.host.then(|| data.host.clone()),
            paths: by.paths.then(|| sorted(&data.paths)),
            tags: by.tags.then(|| sorted(&data.tags)),
        }
    }
}

fn sorted<T: Clone + Ord>(list: &[T]) -> Vec<T> {
    let mut list = list.to_vec();
    list.sort_unstable();
    list.dedup();
    list
}

impl fmt::Display for GroupKey {
    /// `host web, paths /etc, /home, tags a`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |word: &str, items: &[String]| match items {
            [] => format!("no {word}"),
            items => format!("{word} {}", items.join(", ")),
        };
        let host = self.host.as_ref().map(|host| format!("host {host}"));
        let paths = self.paths.as_ref().map(|p| p.iter().map(PathBytes::display).collect());
        let paths = paths.map(|p: Vec<_>| list("paths", &p));
        let tags = self.tags.as_ref().map(|t| list("tags", t));
        let parts: Vec<_> = [host, paths, tags].into_iter().flatten().collect();
        f.write_str(&if parts.is_empty() { "all snapshots".into() } else { parts.join(", ") })
    }
}

/// Divides snapshots into groups, in the order of their keys; within a group they
/// stay in order. Repaired ones are where their originals are. A policy is applied to each by itself.
pub fn groups(snapshots: &[Snapshot], by: GroupBy) -> Vec<(GroupKey, Vec<Snapshot>)> {
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (snapshot, original) in snapshots.iter().zip(stands_for(snapshots)) {
        let original = snapshots.get(original).unwrap_or(snapshot);
        groups.entry(GroupKey::new(&original.data, by)).or_default().push(snapshot.clone());
    }
    groups.into_iter().collect()
}
