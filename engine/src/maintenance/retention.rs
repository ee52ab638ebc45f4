//! Retention: which snapshots of a group a policy keeps.
//!
//! The `keep_…` rules mean what restic's `--keep-…` options do: a snapshot is kept
//! if one of them wants it; hours, days, weeks (from Monday), months and years are
//! those of the calendar; of each, the last snapshot is kept, the most recent ones
//! first, and only those count that have a snapshot. While a rule still has counts
//! left at the oldest snapshot, it keeps that one too, so that history reaches as
//! far back as it can. Lengths are counted back from the newest snapshot, not from
//! now: a client that has stopped making backups loses nothing by waiting.
//!
//! Two rules are tresor's own: [`RetentionPolicy::keep_first_of_month`] and
//! [`RetentionPolicy::keep_restorable`].
//!
//! # Wrong and forged times
//! - A snapshot from the future (more than a day ahead of now) is kept, and counts
//!   in no rule. So it can't push good ones out, and is never removed silently.
//! - A snapshot whose time was set by hand (it isn't when the client's clock says
//!   that it was saved) can't push one out whose time is the clock's: the rules are
//!   applied once to all snapshots and once to those alone, and what either keeps
//!   is kept. The client writes both times, so this guards against mistakes, not
//!   against a client that lies.
//!
//! # What never happens
//! A policy never removes the newest snapshot of a group, and one that says nothing
//! removes nothing; callers refuse it ([`RetentionPolicy::is_empty`]).
//!
//! Always use the same time zone for a repository: in another one, another snapshot
//! may be the first of its month, and the one that was may be gone.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::str::FromStr;

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};

use crate::error::{Error, Result};
use crate::format::{PathBytes, SnapshotData, Time};
use crate::repo::Snapshot;
use crate::select::{has_tags, timestamp};

const DAY: i64 = 24 * 60 * 60;

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
    /// ever, and whatever was changed or deleted in the last 28 days.
    pub fn service() -> Self {
        Self {
            keep_last: Some(28),
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

/// A length of time by the calendar, as in `2y5m7d3h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Age {
    pub years: u32,
    pub months: u32,
    pub days: u32,
    pub hours: u32,
}

impl Age {
    /// So long before a moment; `None` if no calendar reaches so far back. A day
    /// that a month doesn't have becomes its last.
    fn before(&self, moment: &Zoned) -> Option<Timestamp> {
        let span = Span::new().try_years(self.years).ok()?.try_months(self.months).ok()?;
        let span = span.try_days(self.days).ok()?.try_hours(self.hours).ok()?;
        moment.checked_sub(span).ok().map(|m| m.timestamp())
    }

    fn part(&mut self, unit: char) -> Option<&mut u32> {
        match unit {
            'y' => Some(&mut self.years),
            'm' => Some(&mut self.months),
            'd' => Some(&mut self.days),
            'h' => Some(&mut self.hours),
            _ => None,
        }
    }
}

impl FromStr for Age {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::Invalid(format!(
                "{text:?} is no length of time: write years, months, days and hours like 2y5m7d3h (a week is 7d)"
            ))
        };
        let mut age = Self::default();
        let mut units = HashSet::new();
        let mut rest = text;
        while let Some(end) = rest.find(|c: char| !c.is_ascii_digit()) {
            let number = rest[..end].parse().map_err(|_| wrong())?;
            let unit = rest[end..].chars().next().filter(|u| units.insert(*u));
            *unit.and_then(|u| age.part(u)).ok_or_else(wrong)? = number;
            rest = &rest[end + 1..];
        }
        if units.is_empty() || !rest.is_empty() { Err(wrong()) } else { Ok(age) }
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { years, months, days, hours } = *self;
        if *self == Self::default() {
            return f.write_str("0h");
        }
        let parts = [(years, 'y'), (months, 'm'), (days, 'd'), (hours, 'h')];
        parts.iter().filter(|(n, _)| *n > 0).try_for_each(|(n, unit)| write!(f, "{n}{unit}"))
    }
}

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
/// stay in order. A policy is applied to each by itself.
pub fn groups(snapshots: &[Snapshot], by: GroupBy) -> Vec<(GroupKey, Vec<Snapshot>)> {
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for snapshot in snapshots {
        groups.entry(GroupKey::new(&snapshot.data, by)).or_default().push(snapshot.clone());
    }
    groups.into_iter().collect()
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
/// of the snapshots, whatever that is.
pub fn apply(
    policy: &RetentionPolicy,
    snapshots: &[Snapshot],
    now: Time,
    zone: &TimeZone,
) -> Vec<Decision> {
    let mut reasons = Reasons(vec![Vec::new(); snapshots.len()]);
    let tomorrow = Time::new(now.seconds.saturating_add(DAY), now.nanos);
    let items = newest_first(snapshots, zone);
    let (ahead, counted): (Vec<_>, Vec<_>) =
        items.iter().partition(|item| item.data.time > tomorrow);
    if policy.is_empty() {
        items.iter().for_each(|item| reasons.add(item, "the policy is empty"));
    } else {
        ahead.iter().for_each(|item| reasons.add(item, "its time lies in the future"));
        let by_clock: Vec<_> = counted.iter().copied().filter(|i| !set_by_hand(i.data)).collect();
        Rules { policy, items: &counted, now, zone }.mark(&mut reasons);
        if by_clock.len() < counted.len() {
            Rules { policy, items: &by_clock, now, zone }.mark(&mut reasons);
        }
    }
    let decide = |(snapshot, reasons): (&Snapshot, Vec<String>)| Decision {
        snapshot: snapshot.clone(),
        keep: !reasons.is_empty(),
        reasons,
    };
    snapshots.iter().zip(reasons.0).map(decide).collect()
}

/// A snapshot to decide about.
struct Item<'a> {
    /// Its place among those that were asked about.
    place: usize,
    data: &'a SnapshotData,
    at: Zoned,
}

/// Newest first; those of one moment by their ids, as everywhere.
fn newest_first<'a>(snapshots: &'a [Snapshot], zone: &TimeZone) -> Vec<Item<'a>> {
    let mut order: Vec<_> = snapshots.iter().enumerate().collect();
    order.sort_by_key(|(_, s)| Reverse((s.data.time, s.id)));
    let item = |(place, s): (usize, &'a Snapshot)| Item {
        place,
        data: &s.data,
        at: timestamp(s.data.time).to_zoned(zone.clone()),
    };
    order.into_iter().map(item).collect()
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
    fn add(&mut self, item: &Item<'_>, reason: impl Into<String>) {
        let reason = reason.into();
        if let Some(reasons) = self.0.get_mut(item.place).filter(|r| !r.contains(&reason)) {
            reasons.push(reason);
        }
    }

    fn is_kept(&self, item: &Item<'_>) -> bool {
        self.0.get(item.place).is_some_and(|r| !r.is_empty())
    }
}

/// A policy on its way through the snapshots that count, newest first.
struct Rules<'a> {
    policy: &'a RetentionPolicy,
    items: &'a [&'a Item<'a>],
    now: Time,
    zone: &'a TimeZone,
}

impl Rules<'_> {
    fn mark(&self, reasons: &mut Reasons) {
        let newest = self.newest();
        for item in self.items.iter().take(count(self.policy.keep_last) as usize) {
            reasons.add(item, "last snapshot");
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
        if let Some(newest) = self.items.first().filter(|item| !reasons.is_kept(item)) {
            reasons.add(newest, "newest snapshot");
        }
    }

    /// Where lengths are counted back from: the newest snapshot, which is always
    /// kept, so that deciding again decides the same; but not the future.
    fn newest(&self) -> Zoned {
        let now = timestamp(self.now).to_zoned(self.zone.clone());
        self.items.first().map_or(now.clone(), |newest| newest.at.clone().min(now))
    }

    fn each_period(&self, period: Period, mut left: u32, reasons: &mut Reasons) {
        let mut seen = HashSet::new();
        for (n, item) in self.items.iter().enumerate() {
            if left == 0 {
                return;
            }
            if seen.insert(period.of(&item.at)) {
                left -= u32::from(left != UNLIMITED);
                reasons.add(item, format!("{} snapshot", period.word()));
            } else if n + 1 == self.items.len() {
                reasons.add(item, format!("oldest {} snapshot", period.word()));
            }
        }
    }

    fn each_period_within(&self, period: Period, age: Age, newest: &Zoned, reasons: &mut Reasons) {
        let mut seen = HashSet::new();
        for item in self.younger(age, newest) {
            if seen.insert(period.of(&item.at)) {
                reasons.add(item, format!("{} within {age}", period.word()));
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
            younger.iter().for_each(|item| reasons.add(item, format!("within {age}")));
        }
        if let Some(age) = age(self.policy.keep_restorable) {
            let needed = self.younger(age, newest).len() + 1;
            for item in self.items.iter().take(needed) {
                reasons.add(item, format!("restorable for {age}"));
            }
        }
    }

    fn tagged(&self, reasons: &mut Reasons) {
        for (item, list) in self.items.iter().flat_map(|item| {
            let lists = self.policy.keep_tags.iter().filter(|list| has_tags(item.data, list));
            lists.map(move |list| (item, list))
        }) {
            let tags = list.join(",");
            let none = tags.is_empty();
            reasons.add(item, if none { "has no tags".into() } else { format!("has tags {tags}") });
        }
    }

    fn first_of_months(&self, reasons: &mut Reasons) {
        let mut seen = HashSet::new();
        for item in self.items.iter().rev() {
            if seen.insert(Period::Month.of(&item.at)) {
                reasons.add(item, format!("first of {}", item.at.strftime("%Y-%m")));
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
            Self::Hour => [year, month * 100 + day, at.hour().into(), at.offset().seconds()],
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::format::{BlobId, ObjectId, Summary};

    const NOW: &str = "2026-11-25T12:00Z";

    /// Central European time, without needing the system's database.
    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    fn at(text: &str) -> Time {
        let text = if text.contains('T') { text.to_owned() } else { format!("{text}T11:00Z") };
        Time::new(text.parse::<Timestamp>().unwrap().as_second(), 0)
    }

    /// Ids follow the order, so that it is the order of a repository.
    fn snapshot(n: usize, time: Time, saved: Time) -> Snapshot {
        let data = SnapshotData {
            time,
            utc_offset: 0,
            host: "web".into(),
            user: "root".into(),
            paths: vec![PathBytes(b"/etc".into())],
            tags: Vec::new(),
            tree: BlobId([0; 32]),
            summary: Summary::default(),
            program: String::new(),
            saved,
        };
        let mut id = [0; 32];
        id[..8].copy_from_slice(&(n as u64).to_be_bytes());
        Snapshot { id: ObjectId(id), data: Arc::new(data) }
    }

    fn made(times: &[&str]) -> Vec<Snapshot> {
        times.iter().enumerate().map(|(n, t)| snapshot(n, at(t), at(t))).collect()
    }

    /// Places of the snapshots that are kept, and why.
    fn kept_in(
        zone: &TimeZone,
        policy: &RetentionPolicy,
        snapshots: &[Snapshot],
    ) -> Vec<(usize, String)> {
        let decisions = apply(policy, snapshots, at(NOW), zone);
        let kept = decisions.into_iter().enumerate().filter(|(_, d)| d.keep);
        kept.map(|(n, d)| (n, d.reasons.join("; "))).collect()
    }

    fn kept(policy: RetentionPolicy, times: &[&str]) -> Vec<usize> {
        kept_in(&TimeZone::UTC, &policy, &made(times)).into_iter().map(|(n, _)| n).collect()
    }

    fn kept_berlin(policy: RetentionPolicy, times: &[&str]) -> Vec<usize> {
        kept_in(&berlin(), &policy, &made(times)).into_iter().map(|(n, _)| n).collect()
    }

    fn none() -> RetentionPolicy {
        RetentionPolicy::default()
    }

    fn age(text: &str) -> Option<Age> {
        Some(text.parse().unwrap())
    }

    const DAYS: [&str; 6] =
        ["2026-11-01", "2026-11-08", "2026-11-15", "2026-11-15T20:00Z", "2026-11-22", "2026-11-23"];

    #[test]
    fn keep_last() {
        for (n, expected) in [(1, 5..6), (2, 4..6), (6, 0..6), (100, 0..6), (UNLIMITED, 0..6)] {
            let policy = RetentionPolicy { keep_last: Some(n), ..none() };
            assert_eq!(kept(policy, &DAYS), expected.collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_last_of_each_period_is_kept() {
        let daily = |n| RetentionPolicy { keep_daily: Some(n), ..none() };
        assert_eq!(kept(daily(3), &DAYS), [3, 4, 5]);
        assert_eq!(kept(daily(4), &DAYS), [1, 3, 4, 5]);
        let weekly = |n| RetentionPolicy { keep_weekly: Some(n), ..none() };
        // The 22nd is a Sunday, the 23rd a Monday.
        assert_eq!(kept(weekly(2), &DAYS), [4, 5]);
        assert_eq!(kept(weekly(3), &DAYS), [3, 4, 5]);
        let hours = ["2026-11-23T10:00Z", "2026-11-23T10:59:59Z", "2026-11-23T11:00Z"];
        let hourly = RetentionPolicy { keep_hourly: Some(2), ..none() };
        assert_eq!(kept(hourly, &hours), [1, 2]);
        let months = ["2025-12-31T23:59Z", "2026-01-31", "2026-02-01", "2026-02-28"];
        let monthly = RetentionPolicy { keep_monthly: Some(2), ..none() };
        assert_eq!(kept(monthly, &months), [1, 3]);
        let yearly = RetentionPolicy { keep_yearly: Some(2), ..none() };
        assert_eq!(kept(yearly, &months), [0, 3]);
    }

    #[test]
    fn periods_without_a_snapshot_dont_count() {
        let policy = RetentionPolicy { keep_yearly: Some(3), ..none() };
        assert_eq!(
            kept(policy, &["1999-05-01", "2003-05-01", "2010-05-01", "2026-01-01"]),
            [1, 2, 3]
        );
    }

    #[test]
    fn counts_that_are_left_keep_the_oldest() {
        let policy = RetentionPolicy { keep_monthly: Some(2), ..none() };
        let reasons = kept_in(&TimeZone::UTC, &policy, &made(&DAYS));
        let expected = [(0, "oldest monthly snapshot"), (5, "monthly snapshot")];
        assert_eq!(reasons, expected.map(|(n, r)| (n, r.to_owned())));
        let policy = RetentionPolicy { keep_monthly: Some(1), ..none() };
        assert_eq!(kept(policy, &DAYS), [5]);
        let policy = RetentionPolicy { keep_monthly: Some(UNLIMITED), ..none() };
        assert_eq!(kept(policy, &DAYS), [0, 5]);
    }

    #[test]
    fn weeks_are_those_of_the_iso_year() {
        // The 31st of December 2025 and the 1st of January 2026 share a week.
        let times = ["2025-12-28", "2025-12-29", "2025-12-31", "2026-01-01", "2026-01-05"];
        let policy = RetentionPolicy { keep_weekly: Some(3), ..none() };
        assert_eq!(kept(policy, &times), [0, 3, 4]);
    }

    #[test]
    fn periods_are_those_of_the_time_zone() {
        let times = ["2026-11-22T22:59Z", "2026-11-22T23:00Z", "2026-11-23T10:00Z"];
        let policy = RetentionPolicy { keep_daily: Some(2), ..none() };
        assert_eq!(kept(policy.clone(), &times), [1, 2]);
        assert_eq!(kept_berlin(policy, &times), [0, 2]);
    }

    #[test]
    fn days_and_hours_when_clocks_change() {
        // 02:10 and 02:50 come twice. Four snapshots in two hours of one day.
        let times =
            ["2026-10-25T00:10Z", "2026-10-25T00:50Z", "2026-10-25T01:10Z", "2026-10-25T01:50Z"];
        let hourly = RetentionPolicy { keep_hourly: Some(2), ..none() };
        assert_eq!(kept_berlin(hourly, &times), [1, 3]);
        // A day of 25 hours, and one of 23.
        let daily = RetentionPolicy { keep_daily: Some(2), ..none() };
        let times =
            ["2026-10-24T21:59Z", "2026-10-24T22:00Z", "2026-10-25T22:59Z", "2026-10-25T23:00Z"];
        assert_eq!(kept_berlin(daily.clone(), &times), [2, 3]);
        let times =
            ["2026-03-28T22:59Z", "2026-03-28T23:00Z", "2026-03-29T21:59Z", "2026-03-29T22:00Z"];
        assert_eq!(kept_berlin(daily, &times), [2, 3]);
        // One day before 12:00 is 12:00, which was 23 hours ago; 24 hours are 24.
        let times = ["2026-03-28T10:30Z", "2026-03-28T11:30Z", "2026-03-29T10:00Z"];
        let within = |text| RetentionPolicy { keep_within: age(text), ..none() };
        assert_eq!(kept_berlin(within("1d"), &times), [1, 2]);
        assert_eq!(kept_berlin(within("24h"), &times), [0, 1, 2]);
    }

    #[test]
    fn within_counts_back_from_the_newest() {
        let within = |text| RetentionPolicy { keep_within: age(text), ..none() };
        assert_eq!(kept(within("8d"), &DAYS), [3, 4, 5]);
        assert_eq!(kept(within("8d1h"), &DAYS), [2, 3, 4, 5]);
        assert_eq!(kept(within("99y"), &DAYS), [0, 1, 2, 3, 4, 5]);
        assert_eq!(kept(within("4294967295y"), &DAYS), [0, 1, 2, 3, 4, 5]);
        assert_eq!(kept(within("1h"), &["2001-01-01", "2001-01-02"]), [1]);
    }

    #[test]
    fn within_at_the_end_of_months() {
        // A month before the 31st of March is the 28th of February.
        let times = ["2026-02-28T10:00Z", "2026-02-28T12:00Z", "2026-03-01", "2026-03-31"];
        let policy = RetentionPolicy { keep_within: age("1m"), ..none() };
        assert_eq!(kept(policy, &times), [1, 2, 3]);
        let times = ["2023-02-28T10:00Z", "2023-02-28T12:00Z", "2024-02-29"];
        let policy = RetentionPolicy { keep_within: age("1y"), ..none() };
        assert_eq!(kept(policy, &times), [1, 2]);
    }

    #[test]
    fn the_last_of_each_period_within() {
        let policy = RetentionPolicy {
            keep_within_daily: age("9d"),
            keep_within_monthly: age("1y"),
            ..none()
        };
        let times = [&["2026-10-01", "2026-10-02"], DAYS.as_slice()].concat();
        let reasons = kept_in(&TimeZone::UTC, &policy, &made(&times));
        let places: Vec<_> = reasons.iter().map(|(n, _)| *n).collect();
        assert_eq!(places, [1, 5, 6, 7]);
        assert_eq!(reasons[3].1, "daily within 9d; monthly within 1y");
    }

    #[test]
    fn what_was_deleted_stays_restorable() {
        // What was deleted on the 16th is in the one of the 15th only.
        let policy = |text| RetentionPolicy { keep_restorable: age(text), ..none() };
        assert_eq!(kept(policy("2d"), &DAYS), [3, 4, 5]);
        assert_eq!(kept(policy("1h"), &DAYS), [4, 5]);
        assert_eq!(kept(policy("9y"), &DAYS), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn tags() {
        let mut s = made(&DAYS);
        let tag = |s: &mut Snapshot, tags: &[&str]| {
            Arc::make_mut(&mut s.data).tags = tags.iter().map(|t| t.to_string()).collect();
        };
        tag(&mut s[0], &["a"]);
        tag(&mut s[1], &["a", "b"]);
        tag(&mut s[2], &["c"]);
        tag(&mut s[5], &["d"]);
        let policy = |lists: &[&[&str]]| RetentionPolicy {
            keep_tags: lists.iter().map(|l| l.iter().map(|t| t.to_string()).collect()).collect(),
            ..none()
        };
        let places = |lists: &[&[&str]]| -> Vec<_> {
            kept_in(&TimeZone::UTC, &policy(lists), &s).into_iter().map(|(n, _)| n).collect()
        };
        assert_eq!(places(&[&["a"]]), [0, 1, 5]);
        assert_eq!(places(&[&["a", "b"], &["c"]]), [1, 2, 5]);
        assert_eq!(places(&[&[""]]), [3, 4, 5]);
        let reasons = kept_in(&TimeZone::UTC, &policy(&[&["b", "a"], &[]]), &s);
        assert_eq!(reasons[0].1, "has tags b,a");
        assert_eq!(reasons[1].1, "has no tags");
        assert_eq!(reasons[3].1, "newest snapshot");
    }

    #[test]
    fn the_first_of_every_month_is_kept_for_ever() {
        let policy = RetentionPolicy { keep_first_of_month: true, ..none() };
        let times = [
            "1998-07-31T23:30Z",
            "1998-08-01",
            "2026-01-03",
            "2026-01-04",
            "2026-11-01T00:00Z",
            "2026-11-02",
        ];
        assert_eq!(kept(policy.clone(), &times), [0, 1, 2, 4, 5]);
        // In Berlin, the first one was made in August already.
        assert_eq!(kept_berlin(policy.clone(), &times), [0, 2, 4, 5]);
        let reasons = kept_in(&berlin(), &policy, &made(&times));
        assert_eq!(reasons[0].1, "first of 1998-08");
    }

    #[test]
    fn snapshots_of_one_moment_go_by_their_ids() {
        let policy = RetentionPolicy { keep_last: Some(1), keep_first_of_month: true, ..none() };
        assert_eq!(kept(policy, &["2026-11-23"; 4]), [0, 3]);
    }

    #[test]
    fn the_order_of_the_question_is_that_of_the_answer() {
        let mut s = made(&DAYS);
        s.reverse();
        let policy = RetentionPolicy { keep_last: Some(2), ..none() };
        let decisions = apply(&policy, &s, at(NOW), &TimeZone::UTC);
        assert!(decisions.iter().zip(&s).all(|(d, s)| d.snapshot.id == s.id));
        assert_eq!(decisions.iter().map(|d| d.keep).collect::<Vec<_>>()[..3], [true, true, false]);
        assert!(apply(&policy, &[], at(NOW), &TimeZone::UTC).is_empty());
    }

    #[test]
    fn an_empty_policy_says_so_and_keeps_everything() {
        let zero = Some(0);
        let off = RetentionPolicy {
            keep_last: zero,
            keep_daily: zero,
            keep_within: age("0d"),
            keep_within_yearly: age("0y"),
            keep_restorable: age("0h"),
            ..none()
        };
        for policy in [none(), off] {
            assert!(policy.is_empty());
            assert_eq!(kept(policy, &DAYS).len(), DAYS.len());
        }
        let on = [
            RetentionPolicy { keep_yearly: Some(1), ..none() },
            RetentionPolicy { keep_within_hourly: age("1h"), ..none() },
            RetentionPolicy { keep_tags: vec![vec![]], ..none() },
            RetentionPolicy { keep_first_of_month: true, ..none() },
            RetentionPolicy::service(),
        ];
        assert!(on.iter().all(|policy| !policy.is_empty()));
    }

    #[test]
    fn the_future_pushes_nothing_out_and_is_not_removed() {
        let times = [
            "2026-11-20",
            "2026-11-24",
            "2026-11-26T12:00Z",
            "2026-11-26T12:00:01Z",
            "2037-01-01",
            "2037-01-02",
        ];
        for policy in [
            RetentionPolicy { keep_last: Some(2), ..none() },
            RetentionPolicy { keep_within: age("2d"), ..none() },
            RetentionPolicy { keep_daily: Some(2), keep_first_of_month: false, ..none() },
        ] {
            let reasons = kept_in(&TimeZone::UTC, &policy, &made(&times));
            let places: Vec<_> = reasons.iter().map(|(n, _)| *n).collect();
            assert_eq!(places, [1, 2, 3, 4, 5], "{policy:?}");
            assert!(reasons[2..].iter().all(|(_, r)| r == "its time lies in the future"));
        }
        // The first of a month that has come is not one from the future.
        let policy = RetentionPolicy { keep_first_of_month: true, ..none() };
        assert_eq!(kept(policy, &["2026-11-20", "2026-11-24", "2026-11-28"]), [0, 1, 2]);
    }

    #[test]
    fn a_clock_a_little_ahead_doesnt_move_the_window() {
        let times = ["2026-11-24T11:30Z", "2026-11-24T12:30Z", "2026-11-26T11:00Z"];
        let policy = RetentionPolicy { keep_within: age("1d"), ..none() };
        assert_eq!(kept(policy, &times), [1, 2]);
    }

    #[test]
    fn times_set_by_hand_push_nothing_out() {
        let mut s = made(&["2026-11-20", "2026-11-21", "2026-11-22"]);
        // Saved today, said to be of other days.
        for time in
            ["2026-11-01T00:00Z", "2026-11-22T12:00Z", "2026-11-22T13:00Z", "2026-11-22T14:00Z"]
        {
            s.push(snapshot(s.len(), at(time), at(NOW)));
        }
        let policy = RetentionPolicy { keep_last: Some(3), keep_first_of_month: true, ..none() };
        let places: Vec<_> =
            kept_in(&TimeZone::UTC, &policy, &s).into_iter().map(|(n, _)| n).collect();
        assert_eq!(places, [0, 1, 2, 3, 4, 5, 6]);
        // But they don't stay for ever either.
        let policy = RetentionPolicy { keep_last: Some(2), ..none() };
        let places: Vec<_> =
            kept_in(&TimeZone::UTC, &policy, &s).into_iter().map(|(n, _)| n).collect();
        assert_eq!(places, [1, 2, 5, 6]);
    }

    #[test]
    fn a_long_backup_is_not_set_by_hand() {
        let with = |seconds, saved| {
            let mut s = snapshot(0, at("2026-11-01"), at(saved));
            Arc::make_mut(&mut s.data).summary.seconds = seconds;
            set_by_hand(&s.data)
        };
        assert!(!with(0.0, "2026-11-02") && with(0.0, "2026-11-03"));
        assert!(!with(9.0 * 86400.0, "2026-11-10") && with(9.0 * 86400.0, "2026-11-01"));
        assert!(with(f64::INFINITY, "2026-11-01") && !with(f64::NAN, "2026-11-01"));
        assert!(!with(-1e300, "2026-11-01"));
    }

    #[test]
    fn impossible_times_are_borne() {
        let wild = [i64::MIN, -1, 0, i64::MAX];
        let s: Vec<_> = (0..)
            .zip(wild)
            .map(|(n, t)| snapshot(n, Time::new(t, u32::MAX), Time::new(-t.max(-9), 7)))
            .collect();
        let policy = RetentionPolicy { keep_within: age("1000y1m"), ..RetentionPolicy::service() };
        for now in wild {
            let decisions = apply(&policy, &s, Time::new(now, 0), &berlin());
            assert!(decisions.iter().all(|d| d.keep));
        }
    }

    /// Backs up at the given hours, and applies the service's policy after each.
    fn serve(hours: impl IntoIterator<Item = i64>) {
        let (mut all, mut kept): (Vec<Snapshot>, Vec<Snapshot>) = Default::default();
        for (n, hour) in hours.into_iter().enumerate() {
            let now = Time::new(at("2026-01-05").seconds + hour * 3600, 0);
            all.push(snapshot(n, now, now));
            kept.push(snapshot(n, now, now));
            let decisions = apply(&RetentionPolicy::service(), &kept, now, &berlin());
            kept = decisions.into_iter().filter(|d| d.keep).map(|d| d.snapshot).collect();
            let has = |s: &Snapshot| kept.iter().any(|k| k.id == s.id);
            assert!(all.iter().rev().take(28).all(has), "the last 28");
            let since = now.seconds - 28 * DAY;
            for pair in all.windows(2) {
                let until = pair[1].data.time.seconds;
                assert!(until <= since || has(&pair[0]), "what was deleted after {}", pair[0].id);
            }
            let mut months = HashSet::new();
            let month = |s: &Snapshot| {
                timestamp(s.data.time).to_zoned(berlin()).strftime("%Y-%m").to_string()
            };
            assert!(all.iter().filter(|s| months.insert(month(s))).all(has), "first of the month");
        }
        assert!(kept.len() < all.len());
    }

    #[test]
    fn the_service_keeps_what_it_promises() {
        serve((0..200).map(|day| day * 24));
        serve((0..400).map(|n| n * 5));
        serve((0..60).map(|week| week * 24 * 7));
        // Many in a day, then none for weeks, all over again.
        serve((0..300).map(|n| n / 40 * 24 * 23 + n % 40 / 3));
    }

    #[test]
    fn groups_by_host_and_paths() {
        let paths = |list: &[&str]| list.iter().map(|p| PathBytes((*p).into())).collect::<Vec<_>>();
        let mut s = made(&DAYS);
        let edit = |s: &mut Snapshot, host: &str, list: &[&str], tags: &[&str]| {
            let data = Arc::make_mut(&mut s.data);
            (data.host, data.paths) = (host.into(), paths(list));
            data.tags = tags.iter().map(|t| t.to_string()).collect();
        };
        edit(&mut s[0], "web", &["/b", "/a"], &["x"]);
        edit(&mut s[1], "web", &["/a", "/b"], &[]);
        edit(&mut s[2], "db", &["/a"], &["x", "y"]);
        edit(&mut s[3], "web", &["/a"], &["y", "x"]);
        let divide = |by: &str| -> Vec<(String, usize)> {
            let groups = groups(&s, by.parse().unwrap());
            groups.iter().map(|(key, s)| (key.to_string(), s.len())).collect()
        };
        let owned = |list: &[(&str, usize)]| -> Vec<_> {
            list.iter().map(|(text, n)| (text.to_string(), *n)).collect()
        };
        let hosts = [
            ("host db, paths /a", 1),
            ("host web, paths /a", 1),
            ("host web, paths /a, /b", 2),
            ("host web, paths /etc", 2),
        ];
        assert_eq!(divide("host,paths"), owned(&hosts));
        assert_eq!(groups(&s, GroupBy::default()).len(), 4);
        assert_eq!(divide("tags"), owned(&[("no tags", 3), ("tags x", 1), ("tags x, y", 2)]));
        assert_eq!(divide(""), owned(&[("all snapshots", 6)]));
        assert!("host,user".parse::<GroupBy>().unwrap_err().to_string().contains("\"user\""));
    }

    #[test]
    fn ages_and_counts_are_read() {
        let full = Age { years: 2, months: 5, days: 7, hours: 3 };
        assert_eq!("2y5m7d3h".parse::<Age>().unwrap(), full);
        assert_eq!("3h7d5m2y".parse::<Age>().unwrap(), full);
        assert_eq!(full.to_string(), "2y5m7d3h");
        assert_eq!("0d".parse::<Age>().unwrap().to_string(), "0h");
        for wrong in
            ["", "7", "d", "7w", "-1d", "1d2d", "1d ", " 1d", "1d2", "99999999999d", "1é", "٣d"]
        {
            let error = wrong.parse::<Age>().expect_err(wrong).to_string();
            assert!(error.contains("a week is 7d"), "{error}");
        }
        assert_eq!(parse_count("unlimited").unwrap(), UNLIMITED);
        assert_eq!(parse_count("7").unwrap(), 7);
        assert!(["-1", "", "all"].iter().all(|text| parse_count(text).is_err()));
    }

    fn zones() -> impl Strategy<Value = TimeZone> {
        let zones = [
            "CET-1CEST,M3.5.0,M10.5.0/3",
            "UTC0",
            "<-12>12",
            "<+14>-14",
            "NST3:30NDT,M3.2.0,M11.1.0",
        ];
        prop::sample::select(zones.to_vec()).prop_map(|text| TimeZone::posix(text).unwrap())
    }

    /// Snapshots of a year before now and two days after, in order; some have
    /// their time set by hand. Some times come more than once.
    fn histories() -> impl Strategy<Value = Vec<Snapshot>> {
        let now = at(NOW).seconds / 900;
        let times = prop_oneof![now - 35000..now + 200, now - 300..now + 200];
        let each = (times, prop::bool::weighted(0.2), prop::bool::weighted(0.1));
        prop::collection::vec(each, 0..60).prop_map(|mut list| {
            list.sort_by_key(|(time, ..)| *time);
            let build = |(n, (time, by_hand, tagged)): (usize, (i64, bool, bool))| {
                let time = Time::new(time * 900, 0);
                let saved = if by_hand { at("2026-11-30") } else { time };
                let mut s = snapshot(n, time, saved);
                Arc::make_mut(&mut s.data).tags.extend(tagged.then(|| "t".to_owned()));
                s
            };
            list.into_iter().enumerate().map(build).collect()
        })
    }

    fn policies() -> impl Strategy<Value = RetentionPolicy> {
        let n = || prop_oneof![3 => Just(None), 3 => (0..9u32).prop_map(Some), 1 => Just(Some(UNLIMITED))];
        let ages = ["1h", "30h", "1d", "28d", "2m", "1y1m1d1h", "0d"];
        let age = move || {
            prop::option::weighted(
                0.3,
                prop::sample::select(ages.to_vec()).prop_map(|a| a.parse().unwrap()),
            )
        };
        let counts = (n(), n(), n(), n(), n(), n());
        let within = (age(), age(), age(), age(), age(), age(), age());
        (counts, within, any::<bool>(), any::<bool>()).prop_map(|(n, w, tag, first)| {
            RetentionPolicy {
                keep_last: n.0,
                keep_hourly: n.1,
                keep_daily: n.2,
                keep_weekly: n.3,
                keep_monthly: n.4,
                keep_yearly: n.5,
                keep_within: w.0,
                keep_within_hourly: w.1,
                keep_within_daily: w.2,
                keep_within_weekly: w.3,
                keep_within_monthly: w.4,
                keep_within_yearly: w.5,
                keep_restorable: w.6,
                keep_tags: if tag { vec![vec!["t".into()]] } else { Vec::new() },
                keep_first_of_month: first,
            }
        })
    }

    fn survivors(policy: &RetentionPolicy, s: &[Snapshot], zone: &TimeZone) -> Vec<Snapshot> {
        let decisions = apply(policy, s, at(NOW), zone);
        decisions.into_iter().filter(|d| d.keep).map(|d| d.snapshot).collect()
    }

    fn ids(snapshots: &[Snapshot]) -> Vec<ObjectId> {
        snapshots.iter().map(|s| s.id).collect()
    }

    proptest! {
        #[test]
        fn deciding_again_keeps_all_survivors(
            s in histories(), policy in policies(), zone in zones(),
        ) {
            let first = survivors(&policy, &s, &zone);
            prop_assert_eq!(ids(&survivors(&policy, &first, &zone)), ids(&first));
        }

        #[test]
        fn enough_is_kept(s in histories(), policy in policies(), zone in zones()) {
            let left = survivors(&policy, &s, &zone);
            let last = count(policy.keep_last) as usize;
            prop_assert!(left.len() >= last.max(1).min(s.len()));
            prop_assert!(ids(&left).ends_with(&ids(&s[s.len().saturating_sub(1)..])));
        }

        #[test]
        fn a_rule_more_removes_nothing_more(
            s in histories(), policy in policies(), n in 1..9u32, zone in zones(),
        ) {
            prop_assume!(!policy.is_empty());
            let more = RetentionPolicy { keep_first_of_month: true, keep_weekly: Some(UNLIMITED),
                keep_last: Some(count(policy.keep_last).max(n)), ..policy.clone() };
            let (few, many) = (survivors(&policy, &s, &zone), survivors(&more, &s, &zone));
            let many = ids(&many);
            prop_assert!(few.iter().all(|s| many.contains(&s.id)));
        }

        #[test]
        fn wrong_times_push_nothing_out(s in histories(), policy in policies(), zone in zones()) {
            let good: Vec<_> = s.iter().filter(|s| !set_by_hand(&s.data)).cloned().collect();
            let alone = survivors(&policy, &good, &zone);
            let among = ids(&survivors(&policy, &s, &zone));
            prop_assert!(alone.iter().all(|s| among.contains(&s.id)));
            let tomorrow = Time::new(at(NOW).seconds + DAY, 0);
            prop_assert!(s.iter().all(|s| s.data.time <= tomorrow || among.contains(&s.id)));
        }
    }
}
