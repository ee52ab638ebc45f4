//! What a client has seen of a repository. No secrets: ids are hashes of ciphertext.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use minicbor::{Decode, Encode};

use crate::format::{ObjectId, ObjectKind, SnapshotData, Time};
use crate::repo::forgotten::Evidence;

const HOUR: i64 = 3600;
/// Clocks of clients may differ, and a backup takes its time.
const DAY: i64 = 24 * HOUR;
/// Ids of removed objects that are remembered, the latest.
const MOST_GONE: usize = 100_000;

#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
#[cbor(map)]
pub(super) struct State {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub repository: [u8; 16],
    /// When snapshots were listed last, give or take an hour.
    #[n(1)]
    pub looked: Option<Time>,
    /// When and where nothing was missing.
    #[n(2)]
    pub whole: Option<Whole>,
    #[n(3)]
    pub snapshots: Track,
    #[n(4)]
    pub key_slots: Track,
    /// Records of what was forgotten that have been read.
    #[n(5)]
    pub records: BTreeSet<ObjectId>,
}

/// A look at the repository that found all that was expected.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Whole {
    #[n(0)]
    pub at: Time,
    #[n(1)]
    pub place: String,
}

/// Objects of one kind.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
#[cbor(map)]
pub(super) struct Track {
    /// Those that ought to be there.
    #[n(0)]
    pub seen: BTreeMap<ObjectId, Seen>,
    /// Those that were removed on purpose, and were no longer there, and when that was seen.
    #[n(1)]
    pub gone: BTreeMap<ObjectId, Time>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Encode, Decode)]
#[cbor(array)]
pub(super) struct Seen {
    /// What a snapshot stands for.
    #[n(0)]
    pub time: Time,
    /// Whether the time when it says that it was saved can't be right.
    #[n(1)]
    pub odd: bool,
}

/// What a look at the repository has found out.
pub(super) struct Sight<'a> {
    pub now: Time,
    pub kind: ObjectKind,
    /// Those that are there.
    pub there: Vec<(ObjectId, Seen)>,
    /// Those that were there, are no longer, and were removed on purpose.
    pub removed: Vec<ObjectId>,
    /// Records that were looked at for that.
    pub records: Option<&'a Evidence>,
    /// What is missing, or there against expectation, and shall be taken as it is.
    pub accepted: &'a [ObjectId],
    /// Where the repository is, if nothing is missing.
    pub whole_at: Option<&'a str>,
}

impl Sight<'_> {
    pub fn empty(kind: ObjectKind, now: Time) -> Self {
        let (there, removed) = (Vec::new(), Vec::new());
        Self { now, kind, there, removed, records: None, accepted: &[], whole_at: None }
    }
}

impl State {
    pub fn track(&self, kind: ObjectKind) -> &Track {
        if kind == ObjectKind::Key { &self.key_slots } else { &self.snapshots }
    }

    fn track_mut(&mut self, kind: ObjectKind) -> &mut Track {
        if kind == ObjectKind::Key { &mut self.key_slots } else { &mut self.snapshots }
    }

    /// Whether the time at which a snapshot says that it was saved can't be right: it lies
    /// ahead, or so long before the last look that it would have been seen then.
    pub fn is_odd(&self, data: &SnapshotData, now: Time) -> bool {
        let saved = data.saved.seconds;
        let missed = |looked: Time| saved < looked.seconds.saturating_sub(DAY);
        saved > now.seconds.saturating_add(DAY) || self.looked.is_some_and(missed)
    }

    pub fn take_up(&mut self, sight: &Sight<'_>) {
        let before = self.clone();
        let track = self.track_mut(sight.kind);
        for id in sight.accepted {
            track.seen.remove(id);
            track.gone.remove(id);
        }
        for id in &sight.removed {
            track.seen.remove(id);
            track.gone.insert(*id, sight.now);
        }
        for (id, seen) in &sight.there {
            if !track.gone.contains_key(id) {
                track.seen.entry(*id).or_insert(*seen);
            }
        }
        track.trim();
        if let Some(evidence) = sight.records {
            self.records.extend(evidence.read.keys());
            self.records.retain(|id| evidence.listed.contains(id));
        }
        let changed = *self != before;
        let stale = |at: Option<Time>| {
            changed || at.is_none_or(|at| sight.now.seconds.abs_diff(at.seconds) >= HOUR as u64)
        };
        if sight.kind == ObjectKind::Snapshot && stale(self.looked) {
            self.looked = Some(sight.now);
        }
        if let Some(place) = sight.whole_at {
            let known = self.whole.as_ref().filter(|whole| whole.place == place);
            if stale(known.map(|whole| whole.at)) {
                self.whole = Some(Whole { at: sight.now, place: place.to_owned() });
            }
        }
    }
}

impl Track {
    pub fn missing(&self, listed: &HashSet<ObjectId>) -> Vec<ObjectId> {
        self.seen.keys().filter(|id| !listed.contains(id)).copied().collect()
    }

    pub fn put_back(&self, listed: &HashSet<ObjectId>) -> Vec<ObjectId> {
        self.gone.keys().filter(|id| listed.contains(id)).copied().collect()
    }

    fn trim(&mut self) {
        let Some(excess) = self.gone.len().checked_sub(MOST_GONE).filter(|n| *n > 0) else {
            return;
        };
        let mut by_time: Vec<_> = self.gone.iter().map(|(id, at)| (*at, *id)).collect();
        by_time.sort_unstable();
        for (_, id) in by_time.into_iter().take(excess) {
            self.gone.remove(&id);
        }
    }
}
