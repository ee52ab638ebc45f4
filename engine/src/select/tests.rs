//! Which snapshots are meant.

use std::sync::Arc;

use super::*;
use crate::format::{BlobId, ObjectId};
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
        host: "web".into(),
        user: "root".into(),
        paths: vec![path("/etc"), path("/home")],
        tags: vec!["a".into(), "b".into()],
        ..SnapshotData::new(at(time), BlobId([0; 32]))
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
    let wrong = ["", "Latest", "latest~", "latest~-1", "latest~4294967296", "ABC", "xyz", &long];
    let dates = ["2026-02-29", "2026-13-01", "2026-1-1", "26-01-01", "2026-11-23T", "é026-11-23"];
    let times = ["2026-11-23T24:00", "2026-11-23T14", "2026-11-23T14:60", "2026-11-23T14:30:05:1"];
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
fn a_date_removes_nothing_from_before_it() {
    // In Berlin: 23:30 on the 21st, and 10:00:05 and 10:30 on the 23rd.
    let times = ["2026-11-21T22:30Z", "2026-11-23T09:00:05Z", "2026-11-23T09:30Z"];
    let s: Vec<_> = (1..).zip(times).map(|(n, t)| snapshot(n, t)).collect();
    let removes = |text: &str| {
        let spec = SnapshotSpec::parse(text, &berlin()).unwrap();
        let found = select_to_remove(&s, &all(), &spec, now()).map_err(|e| e.to_string())?;
        Ok::<_, String>(found.snapshot.id.0[0])
    };
    let there = [("2026-11-21", 1), ("2026-11-23", 3), ("2026-11-21 23.30", 1), ("latest~1", 2)];
    let times = [("2026-11-23T10:00", 2), ("2026-11-23T10:00:05", 2), ("0202", 2)];
    for (text, id) in there.into_iter().chain(times) {
        assert_eq!(removes(text), Ok(id), "{text}");
    }
    let earlier = [("2026-11-22", "01010101 of 2026-11-21 23.30.00"), ("2026-11-24", "03030303")];
    let times = [("2026-11-23T10:00:06", "02020202"), ("2026-11-23T10:29", "02020202")];
    for (text, last) in earlier.into_iter().chain(times) {
        let error = removes(text).unwrap_err();
        assert!(error.contains(text) && error.contains(last), "{error}");
        assert!(find(&s, &all(), text).is_ok(), "to restore from, the last up to then");
    }
    assert!(removes("2026-11-20").unwrap_err().contains("the first is 01010101"));
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
    let ago = |hours: i64| (Timestamp::now() - jiff::SignedDuration::from_hours(hours)).to_string();
    let snapshots = [snapshot(1, &ago(72)), snapshot(2, &ago(24)), snapshot(3, &ago(0))];
    assert_eq!(find(&snapshots, &all(), "today"), Ok(3));
    assert_eq!(find(&snapshots, &all(), "yesterday"), Ok(2));
    assert!(find(&snapshots[2..], &all(), "yesterday").is_err());
}
