//! Choosing snapshots: by host, tags and paths, and by what a person types for
//! one of them (`latest`, an id, a date).

use jiff::civil::{self, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use crate::error::{Error, Result};
use crate::format::{PathBytes, SnapshotData, Time};
use crate::repo::Snapshot;

/// Digits of an id that name a snapshot to be removed: fewer may be a typo.
const FEWEST_DIGITS: usize = 4;
/// Candidates of an ambiguous id that are named in the message.
const MOST_CANDIDATES: usize = 8;
/// How far in seconds a time may lie ahead of the clock: clocks of clients differ.
const TOLERANCE: i64 = 24 * 60 * 60;

/// Which snapshots to look at. An empty list asks for nothing in particular.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotFilter {
    /// The snapshot is of one of these hosts.
    pub hosts: Vec<String>,
    /// The snapshot has all tags of one of these lists. A list of nothing (or of
    /// one empty tag, `--tag ''`) stands for snapshots without tags.
    pub tags: Vec<Vec<String>>,
    /// The snapshot was asked for with all of these paths, perhaps with others too.
    pub paths: Vec<PathBytes>,
}

impl SnapshotFilter {
    /// Whether every snapshot matches.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty() && self.tags.is_empty() && self.paths.is_empty()
    }

    pub fn matches(&self, snapshot: &SnapshotData) -> bool {
        (self.hosts.is_empty() || self.hosts.contains(&snapshot.host))
            && (self.tags.is_empty() || self.tags.iter().any(|list| has_tags(snapshot, list)))
            && self.paths.iter().all(|path| snapshot.paths.contains(path))
    }

    /// For messages: `host web, tag a,b, path /etc`.
    fn describe(&self) -> String {
        let hosts = self.hosts.iter().map(|h| format!("host {h}"));
        let tags = self.tags.iter().map(|list| match list.join(",") {
            none if none.is_empty() => "no tag".to_owned(),
            list => format!("tag {list}"),
        });
        let either = |words: Vec<String>| (!words.is_empty()).then(|| words.join(" or "));
        let paths = self.paths.iter().map(|p| format!("path {}", p.display()));
        let parts = [either(hosts.collect()), either(tags.collect())];
        parts.into_iter().flatten().chain(paths).collect::<Vec<_>>().join(", ")
    }
}

/// Whether a snapshot has all tags of a list; for an empty list (or one empty
/// tag), whether it has none.
pub(crate) fn has_tags(snapshot: &SnapshotData, list: &[String]) -> bool {
    if list.iter().all(String::is_empty) {
        return snapshot.tags.is_empty();
    }
    list.iter().all(|tag| snapshot.tags.contains(tag))
}

/// One snapshot, as a person says it.
#[derive(Clone, Debug, PartialEq)]
pub enum SnapshotSpec {
    /// `latest`, or `latest~N`: the one N before it.
    Latest(u32),
    /// The first digits of an id.
    Prefix(String),
    /// The last one up to the end of a day, minute or second.
    Date(DateSpec),
}

/// A day, minute or second on the clock of a place.
///
/// A snapshot is up to it if a clock there had not gone past it. So when clocks
/// are set back and 02:30 comes twice, `02:30` reaches to the second one, and a
/// time that was skipped stands for the moment of the jump.
#[derive(Clone, Debug, PartialEq)]
pub struct DateSpec {
    /// As it was typed.
    text: String,
    start: DateTime,
    /// The first moment that is past it.
    end: DateTime,
    zone: TimeZone,
}

impl DateSpec {
    fn reaches(&self, time: Time) -> bool {
        self.zone.to_datetime(timestamp(time)) < self.end
    }

    fn holds(&self, time: Time) -> bool {
        self.reaches(time) && self.zone.to_datetime(timestamp(time)) >= self.start
    }
}

impl SnapshotSpec {
    /// Reads `latest`, `latest~N`, the first digits of an id, a day
    /// (`2026-11-23`, `yesterday`, `today`), or a time (`2026-11-23T14:30`, with seconds if wanted; a
    /// space may stand for the `T`, and dots for the colons, as in
    /// [`time_name`]). Digits without dashes, like `20261123`, are an id.
    pub fn parse(text: &str, zone: &TimeZone) -> Result<Self> {
        if text == "latest" {
            return Ok(Self::Latest(0));
        }
        if let Some(back) = text.strip_prefix("latest~").and_then(|n| n.parse().ok()) {
            return Ok(Self::Latest(back));
        }
        if is_id_prefix(text) {
            return Ok(Self::Prefix(text.to_owned()));
        }
        let (start, end) = match named_day(text, zone) {
            Some(day) => whole_day(day),
            None => written(text).ok_or_else(|| not_a_snapshot(text))?,
        };
        Ok(Self::Date(DateSpec { text: text.to_owned(), start, end, zone: zone.clone() }))
    }
}

fn named_day(text: &str, zone: &TimeZone) -> Option<civil::Date> {
    let today = zone.to_datetime(Timestamp::now()).date();
    match text {
        "today" => Some(today),
        "yesterday" => today.yesterday().ok(),
        _ => None,
    }
}

/// The first moment of a day, minute or second, written as in a [`SnapshotSpec`].
pub fn start_of(text: &str, zone: &TimeZone) -> Option<Time> {
    let (start, _) = named_day(text, zone).map(whole_day).or_else(|| written(text))?;
    let start = zone.to_ambiguous_timestamp(start).earlier().ok()?;
    Some(Time::new(start.as_second(), 0))
}

fn whole_day(day: civil::Date) -> (DateTime, DateTime) {
    let start = day.to_datetime(civil::Time::midnight());
    (start, start.saturating_add(1.day()))
}

fn is_id_prefix(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn not_a_snapshot(text: &str) -> Error {
    Error::Snapshot(format!(
        "{text:?} names no snapshot: give latest, latest~1, the first digits of an id (lower case), a day like 2026-11-23 or a time like 2026-11-23T14:30"
    ))
}

/// The first moment of a written day, minute or second, and the first past it.
fn written(text: &str) -> Option<(DateTime, DateTime)> {
    let (date, time) = match text.split_once(['T', ' ']) {
        Some((date, time)) => (date, Some(time)),
        None => (text, None),
    };
    let [year, month, day] = numbers(date, "-", [4, 2, 2])?;
    let date = civil::Date::new(year, month as i8, day as i8).ok()?;
    let Some(time) = time else { return Some(whole_day(date)) };
    let minute = numbers(time, ":.", [2, 2]).map(|[h, m]| ([h, m, 0], 1.minute()));
    let second = || numbers(time, ":.", [2, 2, 2]).map(|parts| (parts, 1.second()));
    let ([h, m, s], length) = minute.or_else(second)?;
    let start = date.to_datetime(civil::Time::new(h as i8, m as i8, s as i8, 0).ok()?);
    Some((start, start.saturating_add(length)))
}

/// Numbers of so many digits each, with one of `between` between them.
fn numbers<const N: usize>(text: &str, between: &str, digits: [usize; N]) -> Option<[i16; N]> {
    let mut parts = text.split(|c| between.contains(c));
    let mut out = [0; N];
    for (number, digits) in out.iter_mut().zip(digits) {
        let part = parts.next().filter(|p| p.len() == digits)?;
        *number = part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok())??;
    }
    parts.next().is_none().then_some(out)
}

/// Whether a time lies in the future, by more than clocks may differ.
pub(crate) fn is_ahead(time: Time, now: Time) -> bool {
    time > Time::new(now.seconds.saturating_add(TOLERANCE), now.nanos)
}

/// Divides snapshots, given oldest first, into those of which the last is the latest, and those
/// that are passed over because they lie in the future. If all do, none is.
pub fn passing_over<T>(all: &[T], time: impl Fn(&T) -> Time, now: Time) -> (&[T], &[T]) {
    let end = all.partition_point(|one| !is_ahead(time(one), now));
    all.split_at(if end == 0 { all.len() } else { end })
}

/// The snapshot that is meant.
#[derive(Clone, Debug)]
pub struct Selected {
    pub snapshot: Snapshot,
    /// Those of the future that would have been the latest, oldest first. To be told.
    pub passed_over: Vec<Snapshot>,
}

/// Finds the snapshot that is meant among those of a repository, oldest first.
/// An id is looked for among all, whatever the filter says.
pub fn select(
    snapshots: &[Snapshot],
    filter: &SnapshotFilter,
    spec: &SnapshotSpec,
    now: Time,
) -> Result<Selected> {
    if snapshots.is_empty() {
        return fail("the repository has no snapshots yet (make one with `tresor backup`)");
    }
    let only = |snapshot| Selected { snapshot, passed_over: Vec::new() };
    if let SnapshotSpec::Prefix(prefix) = spec {
        return by_prefix(snapshots, prefix).map(only);
    }
    let matching: Vec<_> = snapshots.iter().filter(|s| filter.matches(&s.data)).collect();
    let [first, ..] = matching.as_slice() else {
        return fail(format!(
            "no snapshot matches {}; the repository has {} (`tresor snapshots` lists them)",
            filter.describe(),
            count(snapshots.len()),
        ));
    };
    match spec {
        SnapshotSpec::Latest(back) => {
            let (counted, ahead) = passing_over(&matching, |s| s.data.time, now);
            let snapshot = nth_back(counted, *back, filter)?;
            let passed_over = ahead.iter().map(|s| (*s).clone()).collect();
            Ok(Selected { snapshot, passed_over })
        }
        SnapshotSpec::Date(date) => {
            let found = matching.iter().rev().find(|s| date.reaches(s.data.time));
            found.map(|s| only((*s).clone())).ok_or_else(|| too_early(date, first, filter))
        }
        SnapshotSpec::Prefix(prefix) => by_prefix(snapshots, prefix).map(only),
    }
}

/// The same for what removes snapshots: a date names only one of that day, minute or second,
/// and never an earlier one; an id has some digits, and is that of one which the filter matches.
pub fn select_to_remove(
    snapshots: &[Snapshot],
    filter: &SnapshotFilter,
    spec: &SnapshotSpec,
    now: Time,
) -> Result<Selected> {
    let selected = select(snapshots, filter, spec, now)?;
    let Snapshot { id, data } = &selected.snapshot;
    match spec {
        SnapshotSpec::Prefix(prefix) if prefix.len() < FEWEST_DIGITS => fail(format!(
            "{prefix} is too short to remove a snapshot by; {} is meant if it is {}",
            id.short(),
            time_name(data.time, &TimeZone::system()),
        )),
        SnapshotSpec::Prefix(_) if !filter.matches(data) => fail(format!(
            "snapshot {} doesn't match {}, so nothing was removed",
            id.short(),
            filter.describe(),
        )),
        SnapshotSpec::Date(date) if !date.holds(data.time) => fail(format!(
            "there is no snapshot{} of {}; the last one before is {} of {}: only its id removes it",
            of_filter(filter),
            date.text,
            id.short(),
            time_name(data.time, &date.zone),
        )),
        _ => Ok(selected),
    }
}

fn nth_back(matching: &[&Snapshot], back: u32, filter: &SnapshotFilter) -> Result<Snapshot> {
    let oldest = matching.len().saturating_sub(1);
    let place = usize::try_from(back).ok().and_then(|back| oldest.checked_sub(back));
    if let Some(snapshot) = place.and_then(|place| matching.get(place)) {
        return Ok((*snapshot).clone());
    }
    fail(format!(
        "latest~{back} is before the first snapshot: there is {}{}, the oldest is latest~{oldest}",
        count(matching.len()),
        of_filter(filter),
    ))
}

fn too_early(date: &DateSpec, first: &Snapshot, filter: &SnapshotFilter) -> Error {
    Error::Snapshot(format!(
        "there is no snapshot{} up to {}; the first is {} of {}",
        of_filter(filter),
        date.text,
        first.id.short(),
        time_name(first.data.time, &date.zone),
    ))
}

fn by_prefix(snapshots: &[Snapshot], prefix: &str) -> Result<Snapshot> {
    let found: Vec<_> = snapshots
        .iter()
        .map(|s| (s.id.to_string(), s))
        .filter(|(id, _)| id.starts_with(prefix))
        .collect();
    match found.as_slice() {
        [] => fail(unknown(prefix)),
        [(_, snapshot)] => Ok((*snapshot).clone()),
        several => fail(ambiguous(prefix, several.iter().map(|(id, _)| id.as_str()).collect())),
    }
}

fn unknown(prefix: &str) -> String {
    let hint = as_day(prefix).map(|day| format!("; the day is written {day}")).unwrap_or_default();
    format!("no snapshot has an id that begins with {prefix}{hint} (`tresor snapshots` lists them)")
}

/// `20261123` as a day, in case it was meant so.
fn as_day(digits: &str) -> Option<String> {
    let (year, rest) = digits.split_at_checked(4)?;
    let (month, day) = rest.split_at_checked(2)?;
    let day = format!("{year}-{month}-{day}");
    written(&day).map(|_| day)
}

/// Names the candidates, with as many digits as tell them apart.
fn ambiguous(prefix: &str, mut ids: Vec<&str>) -> String {
    ids.sort_unstable();
    let common =
        |pair: &[&str]| pair[0].bytes().zip(pair[1].bytes()).take_while(|(a, b)| a == b).count();
    let digits = ids.windows(2).map(common).max().map_or(8, |n| (n + 1).max(8));
    let named: Vec<_> =
        ids.iter().take(MOST_CANDIDATES).filter_map(|id| id.get(..digits)).collect();
    let more = match ids.len().saturating_sub(named.len()) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    format!(
        "{} have an id that begins with {prefix}: {}{more}; give more digits",
        count(ids.len()),
        named.join(", ")
    )
}

fn of_filter(filter: &SnapshotFilter) -> String {
    if filter.is_empty() { String::new() } else { format!(" of {}", filter.describe()) }
}

fn count(snapshots: usize) -> String {
    if snapshots == 1 { "1 snapshot".into() } else { format!("{snapshots} snapshots") }
}

fn fail<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::Snapshot(message.into()))
}

/// Divides `SNAPSHOT[:PATH]` at the first colon that is not part of a time:
/// `latest:/etc`, `1a2b:etc`, `2026-11-23T14:30:/etc`. The path may contain
/// colons, and may leave out the first slash; an empty one is the root.
///
/// A colon is part of a time if a day and an hour stand before it and two digits
/// behind it. So `2026-11-23T14:30:05` is a time, and not the file `05`; that
/// one is `2026-11-23T14:30:/05`.
pub fn split_path(text: &str) -> (&str, Option<&str>) {
    let (head, tail) = text.split_at(time_len(text));
    match tail.split_once(':') {
        Some((rest, path)) => (&text[..head.len() + rest.len()], Some(path)),
        None => (text, None),
    }
}

/// Length of the time (with colons) that a text begins with, or 0.
fn time_len(text: &str) -> usize {
    let shape = |pattern: &str| {
        let (start, rest) = text.as_bytes().split_at_checked(pattern.len())?;
        let fits = |(p, b): (u8, &u8)| match p {
            b'0' => b.is_ascii_digit(),
            b'T' => matches!(b, b'T' | b' '),
            p => p == *b,
        };
        let ends = matches!(rest.first(), None | Some(b':'));
        (ends && pattern.bytes().zip(start).all(fits)).then_some(start.len())
    };
    shape("0000-00-00T00:00:00").or_else(|| shape("0000-00-00T00:00")).unwrap_or(0)
}

/// What a snapshot's time is called in lists and on the drive:
/// `2026-11-23 14.30.05`. There are no colons in it, which Windows doesn't allow
/// in names. [`SnapshotSpec::parse`] reads it back.
pub fn time_name(time: Time, zone: &TimeZone) -> String {
    let t = zone.to_datetime(timestamp(time));
    format!(
        "{:04}-{:02}-{:02} {:02}.{:02}.{:02}",
        t.year(),
        t.month(),
        t.day(),
        t.hour(),
        t.minute(),
        t.second()
    )
}

/// A time for the calendar. What lies outside of it (a damaged or forged one)
/// becomes its first or last moment.
pub(crate) fn timestamp(time: Time) -> Timestamp {
    let nanos = time.nanos.min(999_999_999) as i32;
    Timestamp::new(time.seconds, nanos).unwrap_or(match time.seconds {
        0.. => Timestamp::MAX,
        _ => Timestamp::MIN,
    })
}

#[cfg(test)]
mod tests;
