//! What a client has seen of a repository. No secrets: ids are hashes of ciphertext.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use minicbor::{Decode, Encode};

use super::OddSnapshots;
use crate::format::{ObjectId, ObjectKind, SnapshotData, Time};
use crate::repo::forgotten::Evidence;
use crate::select::is_ahead;

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
    /// The latest time that this client's clock has shown at a look.
    #[n(6)]
    pub latest: Option<Time>,
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
    /// When a snapshot was seen first, by this client's clock. Older programs didn't keep that.
    #[n(2)]
    pub first: Option<Time>,
    /// What that clock had shown before, if over a day later than the snapshot says that it
    /// was saved: one of the two was wrong.
    #[n(3)]
    pub after: Option<Time>,
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

    /// A snapshot that is seen now.
    pub fn sighted(&self, data: &SnapshotData, now: Time) -> Seen {
        let is_before = |at: &Time| data.saved.seconds < at.seconds.saturating_sub(DAY);
        Seen {
            time: data.time,
            odd: self.is_odd(data, now),
            first: Some(now),
            after: self.latest.or(self.looked).filter(is_before),
        }
    }

    /// Snapshots that can't have been saved when they say, and when they came.
    pub fn odd(&self, now: Time) -> OddSnapshots {
        // A clock that had shown what lies ahead even now was wrong, and proves nothing.
        let believed = |at: Option<Time>| at.filter(|at| !is_ahead(*at, now));
        let came = |seen: &Seen| {
            let after = believed(seen.after);
            (seen.odd || after.is_some()).then(|| believed(seen.first).max(after))
        };
        self.snapshots.seen.iter().filter_map(|(id, seen)| Some((*id, came(seen)?))).collect()
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
            self.latest = self.latest.or(self.looked).max(Some(sight.now));
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::format::BlobId;

    /// What programs wrote before it was kept when a snapshot was seen first.
    #[derive(Clone, Debug, PartialEq, Encode, Decode)]
    #[cbor(map)]
    struct OldState {
        #[cbor(n(0), with = "minicbor::bytes")]
        repository: [u8; 16],
        #[n(1)]
        looked: Option<Time>,
        #[n(3)]
        snapshots: OldTrack,
        #[n(4)]
        key_slots: OldTrack,
        #[n(5)]
        records: BTreeSet<ObjectId>,
    }

    #[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
    #[cbor(map)]
    struct OldTrack {
        #[n(0)]
        seen: BTreeMap<ObjectId, OldSeen>,
        #[n(1)]
        gone: BTreeMap<ObjectId, Time>,
    }

    #[derive(Clone, Debug, PartialEq, Encode, Decode)]
    #[cbor(array)]
    struct OldSeen {
        #[n(0)]
        time: Time,
        #[n(1)]
        odd: bool,
    }

    fn at(days: i64) -> Time {
        Time::new(20_000 * DAY + days * DAY, 0)
    }

    fn id(n: u8) -> ObjectId {
        ObjectId([n; 32])
    }

    fn saved(at: Time) -> Arc<SnapshotData> {
        Arc::new(SnapshotData::new(at, BlobId([0; 32])))
    }

    /// Sees a snapshot, with the clock at `now`.
    fn see(state: &mut State, n: u8, saved_at: Time, now: Time) {
        let there = vec![(id(n), state.sighted(&saved(saved_at), now))];
        state.take_up(&Sight { there, ..Sight::empty(ObjectKind::Snapshot, now) });
    }

    #[test]
    fn what_others_saved_with_wrong_clocks_came_when_it_was_seen() {
        let mut state = State::default();
        see(&mut state, 1, at(0), at(0));
        see(&mut state, 2, at(-2000), at(1));
        see(&mut state, 3, at(2), at(2));
        see(&mut state, 4, at(300), at(3));
        let expected = [(id(2), Some(at(1))), (id(4), Some(at(3)))];
        assert_eq!(state.odd(at(4)), expected.into());
    }

    /// The clock that says when they came is the one that was wrong.
    #[test]
    fn what_was_saved_here_with_a_wrong_clock_came_after_what_that_had_shown() {
        let mut state = State::default();
        see(&mut state, 1, at(0), at(0));
        for n in 0..5 {
            see(&mut state, 10 + n, at(-2000 + i64::from(n)), at(-2000 + i64::from(n)));
        }
        // While it is wrong there is nothing that could tell.
        assert!(state.odd(at(-1990)).values().all(|came| came.is_some_and(|c| c < at(-1990))));
        see(&mut state, 2, at(6), at(6));
        let expected = (10..15).map(|n| (id(n), Some(at(0)))).collect();
        assert_eq!(state.odd(at(7)), expected);
        // It had been years ahead once: what it showed then proves nothing.
        let mut state = State::default();
        see(&mut state, 1, at(5000), at(5000));
        see(&mut state, 2, at(0), at(0));
        see(&mut state, 3, at(1), at(1));
        see(&mut state, 4, at(-300), at(2));
        assert_eq!(state.odd(at(3)), [(id(2), Some(at(0))), (id(4), Some(at(2)))].into());
    }

    #[test]
    fn states_of_older_programs_are_read_and_the_other_way_round() {
        let seen = [
            (id(1), OldSeen { time: at(0), odd: false }),
            (id(2), OldSeen { time: at(-9), odd: true }),
        ];
        let old = OldState {
            repository: [7; 16],
            looked: Some(at(1)),
            snapshots: OldTrack { seen: seen.into(), gone: [(id(3), at(1))].into() },
            key_slots: OldTrack::default(),
            records: [id(4)].into(),
        };
        let mut state: State = minicbor::decode(&minicbor::to_vec(&old).unwrap()).unwrap();
        assert_eq!(state.odd(at(2)), [(id(2), None)].into(), "when it came isn't known");
        see(&mut state, 5, at(-9), at(2));
        assert_eq!(state.odd(at(3))[&id(5)], Some(at(2)));
        let again: OldState = minicbor::decode(&minicbor::to_vec(&state).unwrap()).unwrap();
        assert_eq!(again.snapshots.gone, old.snapshots.gone);
        assert_eq!(again.snapshots.seen.len(), 3);
        assert!(old.snapshots.seen.iter().all(|(id, seen)| again.snapshots.seen[id] == *seen));
    }
}
