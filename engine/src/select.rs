//! Choosing snapshots: by host, tags and paths, and by what a person types for
//! one of them (`latest`, an id, a date).

use jiff::civil::{self, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use crate::error::{Error, Result};
use crate::format::{PathBytes, SnapshotData, Time};
use crate::repo::Snapshot;

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
    /// The first moment that is past it.
    end: DateTime,
    zone: TimeZone,
}

impl DateSpec {
    fn reaches(&self, time: Time) -> bool {
        self.zone.to_datetime(timestamp(time)) < self.end
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
        let end = match named_day(text, zone) {
            Some(day) => day.to_datetime(civil::Time::midnight()).saturating_add(1.day()),
            None => end_of(text).ok_or_else(|| not_a_snapshot(text))?,
        };
        Ok(Self::Date(DateSpec { text: text.to_owned(), end, zone: zone.clone() }))
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

fn is_id_prefix(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn not_a_snapshot(text: &str) -> Error {
    Error::Snapshot(format!(
        "{text:?} names no snapshot: give latest, latest~1, the first digits of an id (lower case), a day like 2026-11-23 or a time like 2026-11-23T14:30"
    ))
}

/// The first moment past a written day, minute or second.
fn end_of(text: &str) -> Option<DateTime> {
    let (date, time) = match text.split_once(['T', ' ']) {
        Some((date, time)) => (date, Some(time)),
        None => (text, None),
    };
    let [year, month, day] = numbers(date, "-", [4, 2, 2])?;
    let date = civil::Date::new(year, month as i8, day as i8).ok()?;
    let (start, length) = match time {
        None => (date.at(0, 0, 0, 0), 1.day()),
        Some(time) => {
            let minute = numbers(time, ":.", [2, 2]).map(|[h, m]| ([h, m, 0], 1.minute()));
            let second = || numbers(time, ":.", [2, 2, 2]).map(|parts| (parts, 1.second()));
            let ([h, m, s], length) = minute.or_else(second)?;
            let time = civil::Time::new(h as i8, m as i8, s as i8, 0).ok()?;
            (date.to_datetime(time), length)
        }
    };
    Some(start.saturating_add(length))
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
    end_of(&day).map(|_| day)
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
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::format::{BlobId, ObjectId, Summary};
    use crate::repo::now;

    /// Central European time, without needing the system's database.
    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    fn at(text: &str) -> Time {
        let t: Timestamp = text.parse().unwrap();
        Time::new(t.as_second(), t.subsec_nanosecond() as u32)
    }

    fn snapshot(id: u8, time: &str) -> Snapshot {
        let data = SnapshotData {
            time: at(time),
            utc_offset: 0,
            host: "web".into(),
            user: "root".into(),
            paths: vec![path("/etc"), path("/home")],
            tags: vec!["a".into(), "b".into()],
            tree: BlobId([0; 32]),
            summary: Summary::default(),
            program: String::new(),
            saved: at(time),
            xattr_names: None,
        };
        Snapshot { id: ObjectId([id; 32]), data: Arc::new(data) }
    }

    fn path(text: &str) -> PathBytes {
        PathBytes(text.into())
    }

    fn lists(lists: &[&[&str]]) -> Vec<Vec<String>> {
        lists.iter().map(|l| l.iter().map(|t| t.to_string()).collect()).collect()
    }

    fn all() -> SnapshotFilter {
        SnapshotFilter::default()
    }

    fn find(snapshots: &[Snapshot], filter: &SnapshotFilter, text: &str) -> Result<u8, String> {
        let found = SnapshotSpec::parse(text, &berlin())
            .and_then(|spec| select(snapshots, filter, &spec, now()))
            .map_err(|e| e.to_string())?;
        Ok(found.snapshot.id.0[0])
    }

    #[test]
    fn filter_by_host_tags_and_paths() {
        let s = snapshot(1, "2026-11-23T10:00Z").data;
        let tags = |l| SnapshotFilter { tags: lists(l), ..all() }.matches(&s);
        let hosts = |h: &[&str]| {
            let hosts = h.iter().map(|h| h.to_string()).collect();
            SnapshotFilter { hosts, ..all() }.matches(&s)
        };
        let paths = |p: &[&str]| {
            SnapshotFilter { paths: p.iter().map(|p| path(p)).collect(), ..all() }.matches(&s)
        };
        assert!(all().is_empty() && all().matches(&s));
        assert!(hosts(&["web"]) && hosts(&["db", "web"]) && !hosts(&["db"]));
        assert!(tags(&[&["a"]]) && tags(&[&["a", "b"]]) && tags(&[&["x"], &["b"]]));
        assert!(!tags(&[&["a", "x"]]) && !tags(&[&["x"], &["y"]]));
        assert!(paths(&["/etc"]) && paths(&["/home", "/etc"]) && !paths(&["/etc", "/var"]));
        assert!(!paths(&["/et"]), "a whole path, not the beginning of one");
    }

    #[test]
    fn an_empty_tag_stands_for_no_tags() {
        let tagged = snapshot(1, "2026-11-23T10:00Z").data;
        let bare = SnapshotData { tags: Vec::new(), ..(*tagged).clone() };
        for list in [lists(&[&[""]]), lists(&[&[]])] {
            let filter = SnapshotFilter { tags: list, ..all() };
            assert!(filter.matches(&bare) && !filter.matches(&tagged));
        }
        let either = SnapshotFilter { tags: lists(&[&[""], &["a"]]), ..all() };
        assert!(either.matches(&bare) && either.matches(&tagged));
    }

    #[test]
    fn specs_are_read() {
        let parse = |text| SnapshotSpec::parse(text, &berlin()).ok();
        assert_eq!(parse("latest"), Some(SnapshotSpec::Latest(0)));
        assert_eq!(parse("latest~12"), Some(SnapshotSpec::Latest(12)));
        let whole = "0f".repeat(32);
        for id in ["a", "20261123", "2026", &whole] {
            assert_eq!(parse(id), Some(SnapshotSpec::Prefix(id.into())));
        }
        let dates = ["2026-11-23", "2026-11-23T14:30", "2026-11-23 14:30:05", "2026-11-23T14.30"];
        for date in dates.into_iter().chain(["2026-11-23 14.30.05", "2028-02-29", "9999-12-31"]) {
            assert!(matches!(parse(date), Some(SnapshotSpec::Date(_))), "{date}");
        }
    }

    #[test]
    fn what_is_no_spec_is_refused_with_the_ways_to_write_one() {
        let long = "a".repeat(65);
        let wrong =
            ["", "Latest", "latest~", "latest~-1", "latest~4294967296", "ABC", "xyz", &long];
        let dates =
            ["2026-02-29", "2026-13-01", "2026-1-1", "26-01-01", "2026-11-23T", "é026-11-23"];
        let times =
            ["2026-11-23T24:00", "2026-11-23T14", "2026-11-23T14:60", "2026-11-23T14:30:05:1"];
        let more = ["2026-11-23T+1:30", "2026-11-23T14:30Z", "2026-11-23T14:30:60", "2026-11-2３"];
        for text in wrong.into_iter().chain(dates).chain(times).chain(more) {
            let error = SnapshotSpec::parse(text, &berlin()).expect_err(text).to_string();
            assert!(error.contains("latest~1") && error.contains("2026-11-23T14:30"), "{error}");
        }
    }

    #[test]
    fn latest_counts_back_among_what_matches() {
        let mut s: Vec<_> = (1..=4).map(|n| snapshot(n, &format!("2026-11-2{n}T10:00Z"))).collect();
        Arc::make_mut(&mut s[3].data).host = "db".into();
        let web = SnapshotFilter { hosts: vec!["web".into()], ..all() };
        assert_eq!(find(&s, &all(), "latest"), Ok(4));
        assert_eq!(find(&s, &web, "latest"), Ok(3));
        assert_eq!(find(&s, &web, "latest~2"), Ok(1));
        let error = find(&s, &web, "latest~3").unwrap_err();
        assert!(error.contains("3 snapshots of host web") && error.contains("latest~2"), "{error}");
        let error = find(&s[..1], &all(), "latest~4294967295").unwrap_err();
        assert!(error.contains("there is 1 snapshot,"), "{error}");
    }

    #[test]
    fn the_latest_is_not_from_the_future() {
        let days = ["2026-11-21", "2026-11-23", "2026-11-24", "2036-01-01", "2037-01-01"];
        let s: Vec<_> = (1..).zip(days).map(|(n, d)| snapshot(n, &format!("{d}T10:00Z"))).collect();
        let ids = |list: &[Snapshot]| list.iter().map(|s| s.id.0[0]).collect::<Vec<_>>();
        let find = |s: &[Snapshot], text: &str, now: &str| {
            let spec = SnapshotSpec::parse(text, &berlin()).unwrap();
            let found = select(s, &all(), &spec, at(now)).unwrap();
            (found.snapshot.id.0[0], ids(&found.passed_over))
        };
        // A day ahead is what clocks may differ by.
        assert_eq!(find(&s, "latest", "2026-11-23T10:00Z"), (3, vec![4, 5]));
        assert_eq!(find(&s, "latest", "2026-11-23T09:59Z"), (2, vec![3, 4, 5]));
        assert_eq!(find(&s, "latest~1", "2026-11-23T10:00Z"), (2, vec![4, 5]));
        assert_eq!(find(&s, "latest", "2040-01-01T10:00Z"), (5, vec![]));
        // If there are no others, it is the latest of these.
        assert_eq!(find(&s, "latest~1", "2020-01-01T10:00Z"), (4, vec![]));
        assert_eq!(find(&s[4..], "latest", "2026-11-23T10:00Z"), (5, vec![]));
        // Who asks for a time or an id gets it.
        assert_eq!(find(&s, "2037-01-01", "2026-11-23T10:00Z"), (5, vec![]));
        assert_eq!(find(&s, "05", "2026-11-23T10:00Z"), (5, vec![]));
    }

    #[test]
    fn a_day_reaches_to_its_end_in_the_time_zone() {
        // Local times: 23.11. 00:00:00, 23.11. 23:59:59.9, 24.11. 00:00:00.
        let times = ["2026-11-22T23:00Z", "2026-11-23T22:59:59.9Z", "2026-11-23T23:00Z"];
        let s: Vec<_> = (1..).zip(times).map(|(n, t)| snapshot(n, t)).collect();
        assert_eq!(find(&s, &all(), "2026-11-23"), Ok(2));
        assert_eq!(find(&s, &all(), "2026-11-24"), Ok(3));
        assert_eq!(find(&s, &all(), "9999-12-31"), Ok(3));
        let error = find(&s, &all(), "2026-11-22").unwrap_err();
        assert!(error.contains("up to 2026-11-22"), "{error}");
        assert!(error.contains("01010101 of 2026-11-23 00.00.00"), "{error}");
    }

    #[test]
    fn a_time_reaches_to_the_end_of_its_minute_or_second() {
        let times = ["2026-11-23T13:30:05.9Z", "2026-11-23T13:30:06Z", "2026-11-23T13:31Z"];
        let s: Vec<_> = (1..).zip(times).map(|(n, t)| snapshot(n, t)).collect();
        assert_eq!(find(&s, &all(), "2026-11-23T14:30:05"), Ok(1));
        assert_eq!(find(&s, &all(), "2026-11-23 14.30"), Ok(2));
        assert!(find(&s, &all(), "2026-11-23T14:29").is_err());
    }

    #[test]
    fn clocks_that_change() {
        // In autumn 02:30 comes twice, in spring not at all.
        let times =
            ["2026-03-29T00:59Z", "2026-03-29T01:00Z", "2026-10-25T00:30Z", "2026-10-25T01:30Z"];
        let s: Vec<_> = (1..).zip(times).map(|(n, t)| snapshot(n, t)).collect();
        assert_eq!(find(&s, &all(), "2026-03-29T02:30"), Ok(1));
        assert_eq!(find(&s, &all(), "2026-03-29T03:00"), Ok(2));
        assert_eq!(find(&s, &all(), "2026-10-25T02:29"), Ok(2));
        assert_eq!(find(&s, &all(), "2026-10-25T02:30"), Ok(4));
    }

    #[test]
    fn ids_ignore_the_filter_and_may_be_short() {
        let s = [snapshot(0x1a, "2026-11-21T10:00Z"), snapshot(0x1b, "2026-11-22T10:00Z")];
        let none = SnapshotFilter { hosts: vec!["db".into()], ..all() };
        assert_eq!(find(&s, &none, "1a"), Ok(0x1a));
        assert_eq!(find(&s, &none, &"1b".repeat(32)), Ok(0x1b));
        let error = find(&s, &all(), "1").unwrap_err();
        assert!(error.contains("2 snapshots") && error.contains("1a1a1a1a, 1b1b1b1b;"), "{error}");
        assert!(find(&s, &all(), "77").unwrap_err().contains("begins with 77 ("));
        let error = find(&s, &all(), "20261123").unwrap_err();
        assert!(error.contains("the day is written 2026-11-23"), "{error}");
    }

    #[test]
    fn candidates_are_told_apart_but_not_without_end() {
        let mut s: Vec<_> = (0..20).map(|_| snapshot(7, "2026-11-21T10:00Z")).collect();
        s.iter_mut().enumerate().for_each(|(n, s)| s.id.0[9] = n as u8);
        let error = find(&s, &all(), "0707").unwrap_err();
        assert!(error.contains(&format!("{}01,", "07".repeat(9))), "{error}");
        assert!(error.contains("and 12 more"), "{error}");
    }

    #[test]
    fn nothing_to_choose_from() {
        for spec in ["latest", "1a", "2026-11-23"] {
            assert!(find(&[], &all(), spec).unwrap_err().contains("`tresor backup`"));
        }
        let s = [snapshot(1, "2026-11-23T10:00Z")];
        let filter = SnapshotFilter {
            hosts: vec!["x".into(), "y".into()],
            tags: lists(&[&["t", "u"], &[""]]),
            paths: vec![path("/srv")],
        };
        let error = find(&s, &filter, "latest").unwrap_err();
        assert!(error.contains("host x or host y, tag t,u or no tag, path /srv"), "{error}");
        assert!(error.contains("has 1 snapshot ("), "{error}");
    }

    #[test]
    fn paths_are_split_off() {
        let cases = [
            ("latest", "latest", None),
            ("latest:/etc", "latest", Some("/etc")),
            ("latest:etc/x", "latest", Some("etc/x")),
            ("latest:", "latest", Some("")),
            ("latest~2:/a:/b", "latest~2", Some("/a:/b")),
            ("1a2b:a:/b", "1a2b", Some("a:/b")),
            ("1a2b:2024", "1a2b", Some("2024")),
            ("latest:C:/Users", "latest", Some("C:/Users")),
            ("2026-11-23:/etc", "2026-11-23", Some("/etc")),
            ("2026-11-23T14:30", "2026-11-23T14:30", None),
            ("2026-11-23T14:30:05", "2026-11-23T14:30:05", None),
            ("2026-11-23 14:30:05:/etc:x", "2026-11-23 14:30:05", Some("/etc:x")),
            ("2026-11-23T14:30:/etc", "2026-11-23T14:30", Some("/etc")),
            ("2026-11-23T14:30:/05", "2026-11-23T14:30", Some("/05")),
            ("2026-11-23T14:30:etc", "2026-11-23T14:30", Some("etc")),
            ("2026-11-23T14:30:2024", "2026-11-23T14:30", Some("2024")),
            ("2026-11-23T14.30:05", "2026-11-23T14.30", Some("05")),
            ("é:é", "é", Some("é")),
            ("", "", None),
        ];
        for (text, snapshot, path) in cases {
            assert_eq!(split_path(text), (snapshot, path), "{text}");
        }
    }

    #[test]
    fn time_names_are_read_back() {
        let s = [snapshot(1, "2026-11-23T13:30:05.5Z")];
        let name = time_name(s[0].data.time, &berlin());
        assert_eq!(name, "2026-11-23 14.30.05");
        assert_eq!(find(&s, &all(), &name), Ok(1));
        assert_eq!(time_name(at("2026-07-01T12:00:00Z"), &berlin()), "2026-07-01 14.00.00");
        assert_eq!(time_name(Time::new(-1, 999_999_999), &TimeZone::UTC), "1969-12-31 23.59.59");
    }

    #[test]
    fn forged_times_do_no_harm() {
        let mut s = vec![snapshot(1, "2026-11-23T13:30Z"); 2];
        Arc::make_mut(&mut s[0].data).time = Time::new(i64::MIN, u32::MAX);
        Arc::make_mut(&mut s[1].data).time = Time::new(i64::MAX, u32::MAX);
        assert!(find(&s, &all(), "2026-11-23").is_ok());
        assert!(s.iter().all(|s| !time_name(s.data.time, &berlin()).contains(':')));
    }

    #[test]
    fn today_and_yesterday() {
        let ago =
            |hours: i64| (Timestamp::now() - jiff::SignedDuration::from_hours(hours)).to_string();
        let snapshots = [snapshot(1, &ago(72)), snapshot(2, &ago(24)), snapshot(3, &ago(0))];
        assert_eq!(find(&snapshots, &all(), "today"), Ok(3));
        assert_eq!(find(&snapshots, &all(), "yesterday"), Ok(2));
        assert!(find(&snapshots[2..], &all(), "yesterday").is_err());
    }
}
