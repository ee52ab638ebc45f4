//! Retention: which snapshots of a group a policy keeps.
//!
//! The `keep_…` rules mean what restic's `--keep-…` options do: a snapshot is kept
//! if one of them wants it; hours, days, weeks (from Monday), months and years are
//! those of the calendar; of each, the last snapshot is kept, the most recent ones
//! first, and only those count that have a snapshot. While a rule still has counts
//! left at the oldest snapshot, it keeps that one too, so that history reaches as
//! far back as it can, and so does a rule of a length of time if the oldest lies within. Lengths are counted back from the newest snapshot, not from
//! now: a client that has stopped making backups loses nothing by waiting.
//!
//! The day and the month of a snapshot are those of the place where it was made: each
//! tells how far its clock was from UTC. So it doesn't matter where a policy is applied.
//!
//! Two rules are tresor's own: [`RetentionPolicy::keep_first_of_month`] and
//! [`RetentionPolicy::keep_restorable`].
//!
//! # Wrong and forged times
//! - A snapshot from the future (more than a day ahead of now) is kept, and counts
//!   in no rule. So it can't push good ones out, and is never removed silently.
//! - A snapshot whose time can't be relied on can't push one out whose time can: the
//!   rules are applied once to all snapshots and once to those alone, and what either
//!   keeps is kept. Such are those whose time was set by hand (it isn't when the client's
//!   clock says that it was saved), and the odd ones of who calls this: a client that
//!   lies writes both times, but not when somebody else has seen the snapshot first
//!   ([`Repository::odd_snapshots`](crate::repo::Repository::odd_snapshots)).
//! - An odd one may be a real backup of a client whose clock was wrong. So the rules are
//!   applied once more with odd ones as snapshots of the moment when they were first seen,
//!   and what they want of those is kept. One of which that isn't known is kept until it is
//!   named.
//!
//! # Repaired snapshots
//! What `repair snapshots` has saved of a snapshot takes part in no rule by itself, so it pushes nothing
//! out: it and its original are kept together, or go together. The original may be
//! whole again one day, and until then the repaired one shows what is left.
//!
//! # Floods
//! `keep_last` counts snapshots, so many new ones push all others out. The service's policy
//! counts days beside that. The threat model (docs/threat-model.md, section 3) says what remains.
//!
//! # What never happens
//! A policy never removes the newest snapshot of a group, nor the newest of those that were saved
//! over six hours ago: the backup that has just saved one may still find that a prune took what it
//! needs, and take it back. A policy that says nothing removes nothing; callers refuse it
//! ([`RetentionPolicy::is_empty`]).

use std::cmp::Reverse;
use std::collections::HashSet;

use jiff::Zoned;
use jiff::tz::{Offset, TimeZone};

use crate::error::{Error, Result};
use crate::format::{ObjectId, SnapshotData, Time};
use crate::repo::{OddSnapshots, Snapshot};
use crate::select::{has_tags, is_ahead, timestamp};

mod age;
mod group;
mod places;
#[cfg(test)]
mod tests;

pub use age::Age;
pub use group::{GroupBy, GroupKey, groups};

const DAY: i64 = 24 * 60 * 60;
/// How many seconds after it was saved a snapshot is there to stay: its backup has confirmed it long ago.
const SETTLED: i64 = 6 * 60 * 60;
/// How far clocks are from UTC, anywhere: 12 hours behind to 14 hours ahead.
const OFFSETS: std::ops::RangeInclusive<i32> = -12 * 3600..=14 * 3600;
const IN_DOUBT: &str =
    "its time can't be right, and when it came isn't known: only its name removes it";

/// A count that never runs out.
pub const UNLIMITED: u32 = u32::MAX;

/// Reads a count: a number, or `unlimited`.
pub fn parse_count(text: &str) -> Result<u32> {
    if text == "unlimited" {
        return Ok(UNLIMITED);
    }
    let wrong = || format!("{text:?} is no count: give a number, or `unlimited`");
    text.parse().map_err(|_| Error::Invalid(wrong()))
}

/// What to keep. Rules that are `None` or zero are off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// The last so many snapshots.
    pub keep_last: Option<u32>,
    pub keep_hourly: Option<u32>,
    pub keep_daily: Option<u32>,
    pub keep_weekly: Option<u32>,
    pub keep_monthly: Option<u32>,
    pub keep_yearly: Option<u32>,
    /// Everything made in this time before the newest snapshot.
    pub keep_within: Option<Age>,
    /// The last snapshot of each hour in this time before the newest, and so on.
    pub keep_within_hourly: Option<Age>,
    pub keep_within_daily: Option<Age>,
    pub keep_within_weekly: Option<Age>,
    pub keep_within_monthly: Option<Age>,
    pub keep_within_yearly: Option<Age>,
    /// What was changed or deleted stays restorable for this time: like `keep_within`,
    /// and the snapshot before that too. It alone holds what was deleted between
    /// it and the first one within.
    pub keep_restorable: Option<Age>,
    /// Snapshots with all tags of one of these lists; a list of nothing stands for
    /// snapshots without tags.
    pub keep_tags: Vec<Vec<String>>,
    /// The first snapshot of every calendar month, for ever.
    pub keep_first_of_month: bool,
}

impl RetentionPolicy {
    /// What the service promises: the last 28 backups, the first of every month for
    /// ever, and whatever was changed or deleted in the last 28 days. Beside the last 28
    /// backups, of which a flood would leave nothing, 28 days are counted.
    pub fn service() -> Self {
        Self {
            keep_last: Some(28),
            keep_daily: Some(28),
            keep_restorable: Some(Age { days: 28, ..Age::default() }),
            keep_first_of_month: true,
            ..Self::default()
        }
    }

    /// Whether no rule is on. Such a policy keeps everything, and is surely a
    /// mistake; don't accept it from people.
    pub fn is_empty(&self) -> bool {
        let ages = [self.keep_within, self.keep_restorable];
        count(self.keep_last) == 0
            && self.periods().iter().all(|(_, n, within)| count(*n) == 0 && age(*within).is_none())
            && ages.into_iter().all(|a| age(a).is_none())
            && self.keep_tags.is_empty()
            && !self.keep_first_of_month
    }

    fn periods(&self) -> [(Period, Option<u32>, Option<Age>); 5] {
        [
            (Period::Hour, self.keep_hourly, self.keep_within_hourly),
            (Period::Day, self.keep_daily, self.keep_within_daily),
            (Period::Week, self.keep_weekly, self.keep_within_weekly),
            (Period::Month, self.keep_monthly, self.keep_within_monthly),
            (Period::Year, self.keep_yearly, self.keep_within_yearly),
        ]
    }
}

fn count(n: Option<u32>) -> u32 {
    n.unwrap_or(0)
}

fn age(age: Option<Age>) -> Option<Age> {
    age.filter(|a| *a != Age::default())
}

/// What a policy says about one snapshot.
#[derive(Clone, Debug)]
pub struct Decision {
    pub snapshot: Snapshot,
    pub keep: bool,
    /// Why it is kept, for people; empty if it isn't.
    pub reasons: Vec<String>,
}

/// Applies a policy to the snapshots of one group. The decisions come in the order
/// of the snapshots, whatever that is. The `odd` ones have times that can't be relied on.
pub fn apply(
    policy: &RetentionPolicy,
    snapshots: &[Snapshot],
    odd: &OddSnapshots,
    now: Time,
) -> Vec<Decision> {
    let mut reasons = Reasons(vec![Vec::new(); snapshots.len()]);
    let stands_for = places::stands_for(snapshots);
    let mut items = newest_first(snapshots);
    items.retain(|item| stands_for.get(item.place) == Some(&item.place));
    let (ahead, counted): (Vec<_>, Vec<_>) =
        items.iter().partition(|item| is_ahead(item.data.time, now));
    if policy.is_empty() {
        items.iter().for_each(|item| reasons.add(item.place, "the policy is empty"));
    } else {
        ahead.iter().for_each(|item| reasons.add(item.place, "its time lies in the future"));
        let reliable = |i: &&Item<'_>| !set_by_hand(i.data) && !odd.contains_key(&i.id);
        let by_clock: Vec<_> = counted.iter().copied().filter(reliable).collect();
        Rules { policy, items: &counted, now }.mark(&mut reasons);
        if by_clock.len() < counted.len() {
            Rules { policy, items: &by_clock, now }.mark(&mut reasons);
        }
        if counted.iter().any(|item| odd.contains_key(&item.id)) {
            mark_odd(policy, &counted, odd, now, &mut reasons);
        }
    }
    keep_together(policy, snapshots, &stands_for, &mut reasons);
    let decide = |(snapshot, reasons): (&Snapshot, Vec<String>)| Decision {
        snapshot: snapshot.clone(),
        keep: !reasons.is_empty(),
        reasons,
    };
    snapshots.iter().zip(reasons.0).map(decide).collect()
}

/// Keeps all that share a place if one of them is wanted.
fn keep_together(
    policy: &RetentionPolicy,
    snapshots: &[Snapshot],
    stands_for: &[usize],
    reasons: &mut Reasons,
) {
    let same = |other: &Snapshot| format!("the same backup as {}", other.id.short());
    let others: Vec<_> = snapshots
        .iter()
        .enumerate()
        .zip(stands_for)
        .filter(|((place, _), original)| place != *original)
        .filter_map(|(one, original)| Some((one, (*original, snapshots.get(*original)?))))
        .collect();
    for ((place, repaired), (original, _)) in &others {
        for list in policy.keep_tags.iter().filter(|list| has_tags(&repaired.data, list)) {
            reasons.add(*place, has_tags_of(list));
            reasons.add(*original, same(repaired));
        }
    }
    for ((place, _), (original, snapshot)) in &others {
        if reasons.is_kept(*original) {
            reasons.add(*place, same(snapshot));
        }
    }
}

fn has_tags_of(list: &[String]) -> String {
    match list.join(",") {
        none if none.is_empty() => "has no tags".into(),
        tags => format!("has tags {tags}"),
    }
}

/// Keeps odd ones as the policy would if they had been made when they were first seen.
fn mark_odd(
    policy: &RetentionPolicy,
    counted: &[&Item<'_>],
    odd: &OddSnapshots,
    now: Time,
    reasons: &mut Reasons,
) {
    let mut moved: Vec<Item<'_>> = Vec::new();
    for item in counted.iter().copied() {
        match odd.get(&item.id) {
            None => moved.push(item.clone()),
            Some(Some(came)) => {
                let at = on_its_clock(*came, item.data);
                moved.push(Item { at, saved: *came, ..item.clone() });
            }
            Some(None) => reasons.add(item.place, IN_DOUBT),
        }
    }
    moved.sort_by_key(|item| Reverse((item.at.timestamp(), item.id)));
    let moved: Vec<_> = moved.iter().collect();
    let mut as_they_came = Reasons(vec![Vec::new(); reasons.0.len()]);
    Rules { policy, items: &moved, now }.mark(&mut as_they_came);
    for item in moved.into_iter().filter(|item| odd.contains_key(&item.id)) {
        let came = item.at.strftime("%Y-%m-%d");
        for reason in as_they_came.0.get(item.place).into_iter().flatten() {
            reasons.add(item.place, format!("{reason} (first seen {came})"));
        }
    }
}

/// A snapshot to decide about.
#[derive(Clone)]
struct Item<'a> {
    /// Its place among those that were asked about.
    place: usize,
    id: ObjectId,
    data: &'a SnapshotData,
    at: Zoned,
    saved: Time,
}

/// Newest first; those of one moment by their ids, as everywhere.
fn newest_first<'a>(snapshots: &'a [Snapshot]) -> Vec<Item<'a>> {
    let mut order: Vec<_> = snapshots.iter().enumerate().collect();
    order.sort_by_key(|(_, s)| Reverse(s.order()));
    let item = |(place, s): (usize, &'a Snapshot)| Item {
        place,
        id: s.id,
        data: &s.data,
        at: on_its_clock(s.data.time, &s.data),
        saved: s.data.saved,
    };
    order.into_iter().map(item).collect()
}

/// A moment on the clock of the place where a snapshot was made. A forged offset that no place
/// has is none, so that nobody gets many days out of one.
fn on_its_clock(moment: Time, data: &SnapshotData) -> Zoned {
    let offset = Some(data.utc_offset).filter(|seconds| OFFSETS.contains(seconds));
    let offset = offset.and_then(|seconds| Offset::from_seconds(seconds).ok());
    timestamp(moment).to_zoned(TimeZone::fixed(offset.unwrap_or(Offset::UTC)))
}

/// Whether a snapshot's time isn't that of the clock when it was made.
fn set_by_hand(data: &SnapshotData) -> bool {
    // Casting takes care of what is no number, or too large.
    let run = data.summary.seconds.max(0.0) as i64;
    let end = data.time.seconds.saturating_add(run);
    // A day, since a notebook may sleep during a backup.
    data.saved.seconds.abs_diff(end) > DAY.unsigned_abs()
}

/// Why each snapshot is kept, by its place.
struct Reasons(Vec<Vec<String>>);

impl Reasons {
    fn add(&mut self, place: usize, reason: impl Into<String>) {
        let reason = reason.into();
        if let Some(reasons) = self.0.get_mut(place).filter(|r| !r.contains(&reason)) {
            reasons.push(reason);
        }
    }

    fn is_kept(&self, place: usize) -> bool {
        self.0.get(place).is_some_and(|r| !r.is_empty())
    }
}

/// A policy on its way through the snapshots that count, newest first.
struct Rules<'a> {
    policy: &'a RetentionPolicy,
    items: &'a [&'a Item<'a>],
    now: Time,
}

impl Rules<'_> {
    fn mark(&self, reasons: &mut Reasons) {
        let newest = self.newest();
        for item in self.items.iter().take(count(self.policy.keep_last) as usize) {
            reasons.add(item.place, "last snapshot");
        }
        for (period, n, within) in self.policy.periods() {
            self.each_period(period, count(n), reasons);
            if let Some(within) = age(within) {
                self.each_period_within(period, within, &newest, reasons);
            }
        }
        self.within(&newest, reasons);
        self.tagged(reasons);
        if self.policy.keep_first_of_month {
            self.first_of_months(reasons);
        }
        if let Some(newest) = self.items.first().filter(|item| !reasons.is_kept(item.place)) {
            reasons.add(newest.place, "newest snapshot");
        }
        let settled = self.now.seconds.saturating_sub(SETTLED);
        let newest = self.items.iter().find(|item| item.saved.seconds <= settled);
        if let Some(newest) = newest.filter(|item| !reasons.is_kept(item.place)) {
            reasons.add(newest.place, "newest of those saved over six hours ago");
        }
    }

    /// Where lengths are counted back from: the newest snapshot, which is always
    /// kept, so that deciding again decides the same; but not the future.
    fn newest(&self) -> Zoned {
        let now = timestamp(self.now).to_zoned(TimeZone::UTC);
        match self.items.first() {
            Some(newest) => {
                newest.at.clone().min(now.with_time_zone(newest.at.time_zone().clone()))
            }
            None => now,
        }
    }

    fn each_period(&self, period: Period, mut left: u32, reasons: &mut Reasons) {
        let mut seen = HashSet::new();
        for (n, item) in self.items.iter().enumerate() {
            if left == 0 {
                return;
            }
            if seen.insert(period.of(&item.at)) {
                left -= u32::from(left != UNLIMITED);
                reasons.add(item.place, format!("{} snapshot", period.word()));
            } else if n + 1 == self.items.len() {
                reasons.add(item.place, format!("oldest {} snapshot", period.word()));
            }
        }
    }

    fn each_period_within(&self, period: Period, age: Age, newest: &Zoned, reasons: &mut Reasons) {
        let mut seen = HashSet::new();
        for (n, item) in self.younger(age, newest).iter().enumerate() {
            if seen.insert(period.of(&item.at)) {
                reasons.add(item.place, format!("{} within {age}", period.word()));
            } else if n + 1 == self.items.len() {
                reasons.add(item.place, format!("oldest {} within {age}", period.word()));
            }
        }
    }

    /// The snapshots made less than `age` before the newest.
    fn younger(&self, age: Age, newest: &Zoned) -> &[&Item<'_>] {
        let start = age.before(newest);
        let older = |item: &&Item<'_>| start.is_some_and(|start| item.at.timestamp() <= start);
        let end = self.items.iter().position(older).unwrap_or(self.items.len());
        &self.items[..end]
    }

    fn within(&self, newest: &Zoned, reasons: &mut Reasons) {
        if let Some(age) = age(self.policy.keep_within) {
            let younger = self.younger(age, newest);
            younger.iter().for_each(|item| reasons.add(item.place, format!("within {age}")));
        }
        if let Some(age) = age(self.policy.keep_restorable) {
            let needed = self.younger(age, newest).len() + 1;
            for item in self.items.iter().take(needed) {
                reasons.add(item.place, format!("restorable for {age}"));
            }
        }
    }

    fn tagged(&self, reasons: &mut Reasons) {
        for (item, list) in self.items.iter().flat_map(|item| {
            let lists = self.policy.keep_tags.iter().filter(|list| has_tags(item.data, list));
            lists.map(move |list| (item, list))
        }) {
            reasons.add(item.place, has_tags_of(list));
        }
    }

    fn first_of_months(&self, reasons: &mut Reasons) {
        let mut seen = HashSet::new();
        for item in self.items.iter().rev() {
            if seen.insert(Period::Month.of(&item.at)) {
                reasons.add(item.place, format!("first of {}", item.at.strftime("%Y-%m")));
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Period {
    Hour,
    Day,
    Week,
    Month,
    Year,
}

impl Period {
    fn word(self) -> &'static str {
        match self {
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Year => "yearly",
        }
    }

    /// Which one a moment is in. The hour that comes twice when clocks are set
    /// back is two hours.
    fn of(self, at: &Zoned) -> [i32; 4] {
        let [year, month, day] = [at.year().into(), at.month().into(), at.day().into()];
        match self {
            // By no clock but one: an offset that somebody makes up is no new hour.
            Self::Hour => {
                let hours = at.timestamp().as_second().div_euclid(3600);
                [(hours >> 16) as i32, (hours & 0xffff) as i32, 0, 0]
            }
            Self::Day => [year, month, day, 0],
            Self::Week => {
                let week = at.date().iso_week_date();
                [week.year().into(), week.week().into(), 0, 0]
            }
            Self::Month => [year, month, 0, 0],
            Self::Year => [year, 0, 0, 0],
        }
    }
}
