//! The policy of the service.

use super::*;

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
