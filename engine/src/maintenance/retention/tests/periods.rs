//! Hours to years, and lengths of time.

use super::*;

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
    assert_eq!(places, [0, 1, 5, 6, 7]);
    assert_eq!(reasons[0].1, "oldest monthly within 1y");
    assert_eq!(reasons[4].1, "daily within 9d; monthly within 1y");
    // The oldest of all, not of those within.
    let policy = RetentionPolicy { keep_within_monthly: age("1m"), ..none() };
    assert_eq!(kept(policy, &[&["2026-09-01"], DAYS.as_slice()].concat()), [6]);
}

#[test]
fn what_was_deleted_stays_restorable() {
    // What was deleted on the 16th is in the one of the 15th only.
    let policy = |text| RetentionPolicy { keep_restorable: age(text), ..none() };
    assert_eq!(kept(policy("2d"), &DAYS), [3, 4, 5]);
    assert_eq!(kept(policy("1h"), &DAYS), [4, 5]);
    assert_eq!(kept(policy("9y"), &DAYS), [0, 1, 2, 3, 4, 5]);
}
