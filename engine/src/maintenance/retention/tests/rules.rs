//! The other rules, groups, and how rules are written.

use super::*;

#[test]
fn keep_last() {
    for (n, expected) in [(1, 5..6), (2, 4..6), (6, 0..6), (100, 0..6), (UNLIMITED, 0..6)] {
        let policy = RetentionPolicy { keep_last: Some(n), ..none() };
        assert_eq!(kept(policy, &DAYS), expected.collect::<Vec<_>>());
    }
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
