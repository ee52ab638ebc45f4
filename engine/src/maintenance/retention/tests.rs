use std::sync::Arc;

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::format::{BlobId, ObjectId, PathBytes, Summary};

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
        xattr_names: None,
    };
    let mut id = [0; 32];
    id[..8].copy_from_slice(&(n as u64).to_be_bytes());
    Snapshot { id: ObjectId(id), data: Arc::new(data) }
}

fn made(times: &[&str]) -> Vec<Snapshot> {
    times.iter().enumerate().map(|(n, t)| snapshot(n, at(t), at(t))).collect()
}

/// Made where clocks are so.
fn made_in(zone: &TimeZone, snapshots: &[Snapshot]) -> Vec<Snapshot> {
    let mut snapshots = snapshots.to_vec();
    for s in &mut snapshots {
        let offset = zone.to_offset(timestamp(s.data.time)).seconds();
        Arc::make_mut(&mut s.data).utc_offset = offset;
    }
    snapshots
}

/// Places of the snapshots that are kept, and why, if they were made in a time zone.
fn kept_in(
    zone: &TimeZone,
    policy: &RetentionPolicy,
    snapshots: &[Snapshot],
) -> Vec<(usize, String)> {
    let snapshots = made_in(zone, snapshots);
    let decisions = apply(policy, &snapshots, &OddSnapshots::new(), at(NOW));
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
    assert_eq!(kept(policy, &["1999-05-01", "2003-05-01", "2010-05-01", "2026-01-01"]), [1, 2, 3]);
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
fn periods_are_those_of_the_place() {
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
    // A day has 24 hours where lengths are counted: only the offset is known, not the zone.
    let times = ["2026-03-28T10:30Z", "2026-03-28T11:30Z", "2026-03-29T10:00Z"];
    let within = |text| RetentionPolicy { keep_within: age(text), ..none() };
    assert_eq!(kept_berlin(within("1d"), &times), [0, 1, 2]);
    assert_eq!(kept_berlin(within("23h"), &times), [1, 2]);
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
    let policy =
        RetentionPolicy { keep_within_daily: age("9d"), keep_within_monthly: age("1y"), ..none() };
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

/// Wherever the policy is applied, and whatever the clocks of others say.
#[test]
fn the_month_is_that_of_the_place_where_it_was_made() {
    // Half past midnight in Berlin, the day before in New York, and in UTC.
    let mut s =
        made(&["2026-10-31T22:50Z", "2026-10-31T23:30Z", "2026-11-01T04:30Z", "2026-11-02"]);
    for (s, offset) in s.iter_mut().zip([-4, 1, -5, 1]) {
        Arc::make_mut(&mut s.data).utc_offset = offset * 3600;
    }
    let decide = |policy: &RetentionPolicy, s: &[Snapshot]| -> Vec<_> {
        let decisions = apply(policy, s, &OddSnapshots::new(), at(NOW));
        decisions.into_iter().map(|d| d.reasons.join("; ")).collect()
    };
    let policy = RetentionPolicy { keep_first_of_month: true, ..none() };
    let expected = ["first of 2026-10", "first of 2026-11", "", "newest snapshot"];
    assert_eq!(decide(&policy, &s), expected);
    assert_eq!(decide(&RetentionPolicy::service(), &s)[1].matches("first of 2026-11").count(), 1);
    let policy = RetentionPolicy { keep_daily: Some(2), ..none() };
    assert_eq!(decide(&policy, &s), ["", "", "daily snapshot", "daily snapshot"]);
    // An offset that no place has is none: a forged one gets no month of its own.
    Arc::make_mut(&mut s[2].data).utc_offset = 26 * 3600;
    Arc::make_mut(&mut s[3].data).utc_offset = i32::MIN;
    assert_eq!(decide(&policy, &s), ["", "", "daily snapshot", "daily snapshot"]);
    let within = RetentionPolicy { keep_within: age("36h"), ..none() };
    assert_eq!(decide(&within, &s), ["", "within 36h", "within 36h", "within 36h"]);
}

/// Sixty good nights, then ten with the clock at 2020, as a computer without a battery has it.
#[test]
fn backups_of_a_wrong_clock_are_kept_as_others_are() {
    let night = |n: i64| Time::new(at(NOW).seconds - (70 - n) * DAY, 0);
    let wrong = |n: i64| Time::new(at("2020-01-01").seconds + n * DAY, 0);
    let mut s: Vec<_> = (0..60).map(|n| snapshot(n as usize, night(n), night(n))).collect();
    s.extend((60..70).map(|n| snapshot(n as usize, wrong(n - 60), wrong(n - 60))));
    let odd: OddSnapshots = (60..70).map(|n| (s[n as usize].id, Some(night(n)))).collect();
    let policies = [
        RetentionPolicy::service(),
        RetentionPolicy { keep_last: Some(28), ..none() },
        RetentionPolicy { keep_within: age("28d"), ..none() },
        RetentionPolicy { keep_daily: Some(28), ..none() },
    ];
    for policy in &policies {
        let decisions = apply(policy, &s, &odd, at(NOW));
        assert!(decisions[60..].iter().all(|d| d.keep), "{policy:?}");
        let why = decisions[69].reasons.join("; ");
        assert!(why.contains("(first seen 2026-11-24)"), "{why}");
        // What the good ones alone would be kept for, they are kept for.
        let alone = apply(policy, &s[..60], &OddSnapshots::new(), at(NOW));
        assert!(alone.iter().zip(&decisions).all(|(alone, d)| alone.reasons == d.reasons));
    }
    // They don't stay for ever: when others have come, they go as those before them do.
    s.extend((70..140).map(|n| snapshot(n as usize, night(n), night(n))));
    let later = Time::new(night(140).seconds, 0);
    for policy in &policies {
        let decisions = apply(policy, &s, &odd, later);
        let kept: Vec<_> = (60..70).filter(|n| decisions[*n].keep).collect();
        assert!(kept.len() <= 1 && kept.first().is_none_or(|n| *n == 60), "{policy:?}: {kept:?}");
    }
    // Nobody knows when they came: they stay until they are named, and it is said.
    let odd: OddSnapshots = odd.into_keys().map(|id| (id, None)).collect();
    for policy in &policies {
        let decisions = apply(policy, &s, &odd, later);
        assert!(decisions[60..70].iter().all(|d| d.reasons.contains(&IN_DOUBT.to_owned())));
    }
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
    let decisions = apply(&policy, &s, &OddSnapshots::new(), at(NOW));
    assert!(decisions.iter().zip(&s).all(|(d, s)| d.snapshot.id == s.id));
    assert_eq!(decisions.iter().map(|d| d.keep).collect::<Vec<_>>()[..3], [true, true, false]);
    assert!(apply(&policy, &[], &OddSnapshots::new(), at(NOW)).is_empty());
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
    for time in ["2026-11-01T00:00Z", "2026-11-22T12:00Z", "2026-11-22T13:00Z", "2026-11-22T14:00Z"]
    {
        s.push(snapshot(s.len(), at(time), at(NOW)));
    }
    let policy = RetentionPolicy { keep_last: Some(3), keep_first_of_month: true, ..none() };
    let places: Vec<_> = kept_in(&TimeZone::UTC, &policy, &s).into_iter().map(|(n, _)| n).collect();
    assert_eq!(places, [0, 1, 2, 3, 4, 5, 6]);
    // But they don't stay for ever either.
    let policy = RetentionPolicy { keep_last: Some(2), ..none() };
    let places: Vec<_> = kept_in(&TimeZone::UTC, &policy, &s).into_iter().map(|(n, _)| n).collect();
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
        let decisions = apply(&policy, &s, &OddSnapshots::new(), Time::new(now, 0));
        assert!(decisions.iter().all(|d| d.keep));
    }
}

/// Good snapshots, one a week for a year, as the service keeps them.
fn weekly() -> Vec<Snapshot> {
    let week = |n: usize| Time::new(at("2025-12-01").seconds + n as i64 * 7 * DAY, 0);
    let all: Vec<_> = (0..51).map(|n| snapshot(n, week(n), week(n))).collect();
    survivors(&RetentionPolicy::service(), &all)
}

/// What a client with the key may add, to push them out: none goes that would have stayed.
#[test]
fn the_service_withstands_floods() {
    let good = weekly();
    let flood = |bad: Vec<(Time, Time)>, odd: bool, offsets: &[i32]| {
        let bad = bad.into_iter().enumerate().map(|(n, (time, saved))| {
            let mut s = snapshot(1000 + n, time, saved);
            Arc::make_mut(&mut s.data).utc_offset = 3600 * offsets[n % offsets.len()];
            s
        });
        let bad: Vec<_> = bad.collect();
        let odd: OddSnapshots = bad.iter().filter(|_| odd).map(|s| (s.id, Some(at(NOW)))).collect();
        let all: Vec<_> = good.iter().chain(&bad).cloned().collect();
        let left = survivors_among(&RetentionPolicy::service(), &all, &odd);
        let lost = good.iter().filter(|g| left.iter().all(|l| l.id != g.id)).count();
        assert!(left.iter().any(|s| s.id == good[good.len() - 1].id));
        lost
    };
    let survive = |bad, odd| flood(bad, odd, &[0]);
    let now = at(NOW).seconds;
    let times = |n: i64, time: &dyn Fn(i64) -> i64, saved: &dyn Fn(i64) -> i64| -> Vec<_> {
        (0..n).map(|n| (Time::new(time(n), 0), Time::new(saved(n), 0))).collect()
    };
    let recent = |n: i64| now - n;
    let daily = |n: i64| now - 3 * DAY - n * DAY / 2;
    let monthly = |n: i64| at("2025-11-01").seconds + n * 28 * DAY;
    let ahead = |n: i64| now + 2 * DAY + n;
    // Thousands within an hour take one place of 28, or three if it is said where they aren't made.
    assert!(survive(times(3000, &recent, &recent), false) <= 1);
    assert!(flood(times(3000, &recent, &recent), false, &[0, -12, 14, 25, -25]) <= 3);
    // From the future, none.
    assert_eq!(survive(times(3000, &ahead, &recent), false), 0);
    assert_eq!(survive(times(3000, &ahead, &ahead), false), 0);
    // Of the past, set by hand: none. With both times forged: none, if somebody looked in between.
    for past in [&daily as &dyn Fn(i64) -> i64, &monthly] {
        assert_eq!(survive(times(14, past, &recent), false), 0);
        assert_eq!(survive(times(14, past, past), true), 0);
    }
    assert_eq!(survive(times(3000, &daily, &recent), false), 0);
    assert_eq!(survive(times(3000, &daily, &daily), true), 0);
    // Nobody has looked: then they count, as the threat model says.
    assert!(survive(times(3000, &daily, &daily), false) > 0);
}

/// Backs up at the given hours, and applies the service's policy after each.
fn serve(hours: impl IntoIterator<Item = i64>) {
    let (mut all, mut kept): (Vec<Snapshot>, Vec<Snapshot>) = Default::default();
    for (n, hour) in hours.into_iter().enumerate() {
        let now = Time::new(at("2026-01-05").seconds + hour * 3600, 0);
        let new = made_in(&berlin(), &[snapshot(n, now, now)]);
        all.extend_from_slice(&new);
        kept.extend(new);
        let decisions = apply(&RetentionPolicy::service(), &kept, &OddSnapshots::new(), now);
        kept = decisions.into_iter().filter(|d| d.keep).map(|d| d.snapshot).collect();
        let has = |s: &Snapshot| kept.iter().any(|k| k.id == s.id);
        assert!(all.iter().rev().take(28).all(has), "the last 28");
        let since = now.seconds - 28 * DAY;
        for pair in all.windows(2) {
            let until = pair[1].data.time.seconds;
            assert!(until <= since || has(&pair[0]), "what was deleted after {}", pair[0].id);
        }
        let mut months = HashSet::new();
        let month =
            |s: &Snapshot| timestamp(s.data.time).to_zoned(berlin()).strftime("%Y-%m").to_string();
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

/// Snapshots of a year before now and two days after, in order; some have
/// their time set by hand. Some times come more than once, and clocks differ.
fn histories() -> impl Strategy<Value = Vec<Snapshot>> {
    let now = at(NOW).seconds / 900;
    let times = prop_oneof![now - 35000..now + 200, now - 300..now + 200];
    let offsets =
        prop::sample::select(vec![0, 3600, 7200, -12600, -12 * 3600, 14 * 3600, i32::MAX]);
    let each = (times, prop::bool::weighted(0.2), prop::bool::weighted(0.1), offsets);
    prop::collection::vec(each, 0..60).prop_map(|mut list| {
        list.sort_by_key(|(time, ..)| *time);
        let build = |(n, (time, by_hand, tagged, offset)): (usize, (i64, bool, bool, i32))| {
            let time = Time::new(time * 900, 0);
            let saved = if by_hand { at("2026-11-30") } else { time };
            let mut s = snapshot(n, time, saved);
            let data = Arc::make_mut(&mut s.data);
            data.tags.extend(tagged.then(|| "t".to_owned()));
            data.utc_offset = offset;
            s
        };
        list.into_iter().enumerate().map(build).collect()
    })
}

fn policies() -> impl Strategy<Value = RetentionPolicy> {
    let n =
        || prop_oneof![3 => Just(None), 3 => (0..9u32).prop_map(Some), 1 => Just(Some(UNLIMITED))];
    let ages = ["1h", "30h", "1d", "28d", "2m", "1y1m1d1h", "0d"];
    let age = move || {
        prop::option::weighted(
            0.3,
            prop::sample::select(ages.to_vec()).prop_map(|a| a.parse().unwrap()),
        )
    };
    let counts = (n(), n(), n(), n(), n(), n());
    let within = (age(), age(), age(), age(), age(), age(), age());
    (counts, within, any::<bool>(), any::<bool>()).prop_map(|(n, w, tag, first)| RetentionPolicy {
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
    })
}

fn survivors(policy: &RetentionPolicy, s: &[Snapshot]) -> Vec<Snapshot> {
    survivors_among(policy, s, &OddSnapshots::new())
}

fn survivors_among(policy: &RetentionPolicy, s: &[Snapshot], odd: &OddSnapshots) -> Vec<Snapshot> {
    let decisions = apply(policy, s, odd, at(NOW));
    decisions.into_iter().filter(|d| d.keep).map(|d| d.snapshot).collect()
}

fn ids(snapshots: &[Snapshot]) -> Vec<ObjectId> {
    snapshots.iter().map(|s| s.id).collect()
}

/// Some of them are odd, and came in the last days, or nobody knows when.
fn odd_among(s: &[Snapshot], some: &[u8]) -> OddSnapshots {
    let came = |n: u8| (n > 128).then(|| Time::new(at(NOW).seconds - i64::from(n) * 7200, 0));
    let odd = s.iter().zip(some).filter(|(_, n)| **n > 96);
    odd.map(|(s, n)| (s.id, came(*n))).collect()
}

proptest! {
    #[test]
    fn deciding_again_keeps_all_survivors(
        s in histories(), policy in policies(), some in any::<[u8; 60]>(),
    ) {
        let odd = odd_among(&s, &some);
        let first = survivors_among(&policy, &s, &odd);
        prop_assert_eq!(ids(&survivors_among(&policy, &first, &odd)), ids(&first));
    }

    #[test]
    fn enough_is_kept(s in histories(), policy in policies()) {
        let left = survivors(&policy, &s);
        let last = count(policy.keep_last) as usize;
        prop_assert!(left.len() >= last.max(1).min(s.len()));
        prop_assert!(ids(&left).ends_with(&ids(&s[s.len().saturating_sub(1)..])));
    }

    #[test]
    fn a_rule_more_removes_nothing_more(
        s in histories(), policy in policies(), n in 1..9u32,
    ) {
        prop_assume!(!policy.is_empty());
        let more = RetentionPolicy { keep_first_of_month: true, keep_weekly: Some(UNLIMITED),
            keep_last: Some(count(policy.keep_last).max(n)), ..policy.clone() };
        let (few, many) = (survivors(&policy, &s), survivors(&more, &s));
        let many = ids(&many);
        prop_assert!(few.iter().all(|s| many.contains(&s.id)));
    }

    #[test]
    fn odd_ones_push_nothing_out(
        s in histories(), policy in policies(), some in any::<[u8; 60]>(),
    ) {
        let odd = odd_among(&s, &some);
        let is_good = |s: &&Snapshot| !odd.contains_key(&s.id) && !set_by_hand(&s.data);
        let good: Vec<_> = s.iter().filter(is_good).cloned().collect();
        let among = ids(&survivors_among(&policy, &s, &odd));
        prop_assert!(survivors(&policy, &good).iter().all(|s| among.contains(&s.id)));
    }

    /// What an odd one would be kept for if its clock had been right, it is kept for.
    #[test]
    fn odd_ones_are_kept_as_if_their_clocks_had_been_right(
        s in histories(), policy in policies(), some in any::<[u8; 60]>(),
    ) {
        let odd = odd_among(&s, &some);
        let mut righted = s.clone();
        righted.retain(|s| s.data.time <= Time::new(at(NOW).seconds + DAY, 0) && odd.get(&s.id) != Some(&None));
        for s in &mut righted {
            let data = Arc::make_mut(&mut s.data);
            data.time = odd.get(&s.id).copied().flatten().unwrap_or(data.time);
            data.saved = data.time;
        }
        let among = ids(&survivors_among(&policy, &s, &odd));
        let expected = survivors(&policy, &righted);
        let mut expected = expected.iter().filter(|s| odd.contains_key(&s.id));
        prop_assert!(expected.all(|s| among.contains(&s.id)));
        prop_assert!(s.iter().all(|s| odd.get(&s.id) != Some(&None) || among.contains(&s.id)));
    }

    #[test]
    fn wrong_times_push_nothing_out(s in histories(), policy in policies()) {
        let good: Vec<_> = s.iter().filter(|s| !set_by_hand(&s.data)).cloned().collect();
        let alone = survivors(&policy, &good);
        let among = ids(&survivors(&policy, &s));
        prop_assert!(alone.iter().all(|s| among.contains(&s.id)));
        let tomorrow = Time::new(at(NOW).seconds + DAY, 0);
        prop_assert!(s.iter().all(|s| s.data.time <= tomorrow || among.contains(&s.id)));
    }
}
