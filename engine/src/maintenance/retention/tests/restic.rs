//! The cases that restic tests its policy with (`internal/data/snapshot_policy_test.go` and the kept ones in its `testdata`).

use super::*;

/// Newest first: of each month the days, the times if they aren't 10:20:30, and tags.
const MADE: &[(&str, &str)] = &[
    (
        "2016-01",
        "18T12:02:03 12T21:08:03 12T21:02:03 09T21:02:03 08T20:02:03 07T10:02:03 06T08:02:03 05T09:02:03 04T16:23:03 04T12:30:03 04T12:28:03 04T12:24:03 04T12:23:03 04T11:23:03 04T10:23:03 03T07:02:03 01T07:08:03 01T01:03:03 01T01:02:03",
    ),
    ("2015-11", "22 21 20 18 15 13T10:20:30.1 13 12 10 08"),
    ("2015-10", "22 22 22/foo+bar 22/foo+bar 22/foo+bar 20 11 10 09 08 06 05 02 01"),
    ("2015-09", "22 20 11 10 09 08 06 05 02 01"),
    ("2015-08", "22 21 20 18 15 13T10:20:30.1 13 12 10 08"),
    ("2014-11", "22 21 20 18 15/foo+bar 13T10:20:30.1/bar 13/foo 12/foo 10/foo 08/foo"),
    ("2014-10", "22/foo 20/foo 11/foo 10/foo 09/foo 08/foo 06/foo 05/foo 02/foo 01/foo"),
    ("2014-09", "22 20 11 10 09 08 06 05 02 01"),
    ("2014-08", "22 21 20 18 15 13T10:20:30.1 13 12 10 08"),
];

/// A policy, and places of those that it keeps in the list above.
const KEPT: &[(&str, &str)] = &[
    ("last=10", "0-9"),
    ("last=15", "0-14"),
    ("last=99", "0-98"),
    ("last=200", "0-102"),
    ("hourly=20", "0-1 3-9 13-17 19-24"),
    ("daily=3", "0-1 3"),
    ("daily=10", "0-1 3-8 15-16"),
    ("daily=30", "0-1 3-8 15-16 19-24 26-29 34-43"),
    ("last=5 daily=5", "0-5"),
    ("last=2 daily=10", "0-1 3-8 15-16"),
    ("weekly=2", "0-1"),
    ("weekly=4", "0-1 3 15"),
    ("daily=3 weekly=4", "0-1 3 15"),
    ("monthly=6", "0 19 29 43 53 63"),
    ("daily=2 weekly=2 monthly=6", "0-1 19 29 43 53 63"),
    ("yearly=10", "0 19 63 102"),
    ("daily=7 weekly=2 monthly=3 yearly=10", "0-1 3-7 19 29 63 102"),
    ("tag=foo", "31-33 67 69-82"),
    ("tag=foo,bar", "31-33 67"),
    ("tag=foo tag=bar", "31-33 67-82"),
    ("within=1d", "0"),
    ("within=2d", "0"),
    ("within=7d", "0-2"),
    ("within=1m", "0-18"),
    ("within=1m14d", "0-18"),
    ("within=1y1d1m", "0-62"),
    ("within=13d23h", "0-8"),
    ("within=2m2h", "0-22"),
    ("within=1y2m3d3h", "0-67"),
    ("within-hourly=1y2m3d3h", "0-1 3-9 13-17 19-24 26-29 34-58 60-67"),
    ("within-daily=1y2m3d3h", "0-1 3-8 15-16 19-24 26-29 34-58 60-67"),
    ("within-weekly=1y2m3d3h", "0-1 3 15 19 23 28-29 35 41 43-45 49 53 57 62-63 67"),
    ("within-monthly=1y2m3d3h", "0 19 29 43 53 63"),
    ("within-yearly=1y2m3d3h", "0 19 63"),
    (
        "within=1h within-hourly=1d within-daily=7d within-weekly=1m within-monthly=1y within-yearly=9999y",
        "0-1 3 15 19 29 43 53 63 102",
    ),
    ("last=unlimited", "0-102"),
    ("last=unlimited hourly=unlimited", "0-102"),
    ("hourly=unlimited", "0-1 3-9 13-17 19-24 26-29 34-58 60-68 70-98 100-102"),
    ("daily=3 weekly=2 monthly=unlimited yearly=unlimited", "0-1 3 19 29 43 53 63 73 83 93 102"),
];

fn snapshots() -> Vec<Snapshot> {
    let all = MADE.iter().flat_map(|(month, days)| days.split(' ').map(move |day| (month, day)));
    let snapshot = |(n, (month, text)): (usize, (&&str, &str))| {
        let (when, tags) = text.split_once('/').unwrap_or((text, ""));
        let (day, clock) = when.split_once('T').unwrap_or((when, "10:20:30"));
        let t: Timestamp = format!("{month}-{day}T{clock}Z").parse().unwrap();
        let time = Time::new(t.as_second(), t.subsec_nanosecond() as u32);
        // Those of one moment go by their ids: as in the list.
        let mut s = snapshot(1000 - n, time, time);
        let tags = tags.split('+').filter(|tag| !tag.is_empty());
        Arc::make_mut(&mut s.data).tags = tags.map(str::to_owned).collect();
        s
    };
    all.enumerate().map(snapshot).collect()
}

fn policy(text: &str) -> RetentionPolicy {
    let mut policy = none();
    for (rule, value) in text.split(' ').map(|rule| rule.split_once('=').unwrap()) {
        let n = || Some(parse_count(value).unwrap());
        match rule {
            "last" => policy.keep_last = n(),
            "hourly" => policy.keep_hourly = n(),
            "daily" => policy.keep_daily = n(),
            "weekly" => policy.keep_weekly = n(),
            "monthly" => policy.keep_monthly = n(),
            "yearly" => policy.keep_yearly = n(),
            "within" => policy.keep_within = age(value),
            "within-hourly" => policy.keep_within_hourly = age(value),
            "within-daily" => policy.keep_within_daily = age(value),
            "within-weekly" => policy.keep_within_weekly = age(value),
            "within-monthly" => policy.keep_within_monthly = age(value),
            "within-yearly" => policy.keep_within_yearly = age(value),
            "tag" => policy.keep_tags.push(value.split(',').map(str::to_owned).collect()),
            other => panic!("{other}"),
        }
    }
    policy
}

/// `0-2 7` as numbers.
fn places(text: &str) -> Vec<usize> {
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        first.parse::<usize>().unwrap()..=last.parse().unwrap()
    };
    text.split(' ').flat_map(range).collect()
}

/// A rule of tresor keeps the newest in any case, which restic's tags don't.
#[test]
fn the_same_is_kept_as_by_restic() {
    let s = snapshots();
    assert_eq!(s.len(), 103);
    for (text, expected) in KEPT {
        let mut expected = places(expected);
        if !expected.contains(&0) {
            expected.insert(0, 0);
        }
        let kept: Vec<_> =
            kept_in(&TimeZone::UTC, &policy(text), &s).into_iter().map(|(n, _)| n).collect();
        assert_eq!(kept, expected, "{text}");
    }
}
