//! Times that can't be right.

use super::*;

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

#[test]
fn what_was_just_saved_may_be_taken_back() {
    let last = RetentionPolicy { keep_last: Some(1), ..none() };
    let why = |times: &[&str]| kept_in(&TimeZone::UTC, &last, &made(times));
    let newest = (2, "last snapshot".to_owned());
    let settled = (1, "newest of those saved over six hours ago".to_owned());
    let fresh = ["2026-11-23", "2026-11-24", "2026-11-25T06:00:01Z"];
    assert_eq!(why(&fresh), [settled, newest.clone()]);
    let old = ["2026-11-23", "2026-11-24", "2026-11-25T06:00:00Z"];
    assert_eq!(why(&old), std::slice::from_ref(&newest));
    // Where none is that old, they are few, and somebody is trying things out.
    let all = ["2026-11-25T10:00Z", "2026-11-25T11:00Z", "2026-11-25T11:30Z"];
    assert_eq!(why(&all), [newest]);
    // What stands for an earlier day may have been saved just now.
    let mut s = made(&["2026-11-20", "2026-11-23", "2026-11-25T06:00:01Z"]);
    Arc::make_mut(&mut s[1].data).saved = at(NOW);
    let kept: Vec<_> = kept_in(&TimeZone::UTC, &last, &s).into_iter().map(|(n, _)| n).collect();
    assert_eq!(kept, [0, 2]);
}
