//! The policy of the service.

use super::*;

/// Good snapshots, one a week for a year, as the service keeps them.
fn weekly() -> Vec<Snapshot> {
    let week = |n: usize| Time::new(at("2025-12-01").seconds + n as i64 * 7 * DAY, 0);
    let all: Vec<_> = (0..51).map(|n| snapshot(n, week(n), week(n))).collect();
    survivors(&RetentionPolicy::service(), &all, &berlin())
}

/// What a client with the key may add, to push them out: none goes that would have stayed.
#[test]
fn the_service_withstands_floods() {
    let good = weekly();
    let survive = |bad: Vec<(Time, Time)>, odd: bool| {
        let bad = bad.into_iter().enumerate();
        let bad: Vec<_> = bad.map(|(n, (time, saved))| snapshot(1000 + n, time, saved)).collect();
        let odd: HashSet<_> = bad.iter().filter(|_| odd).map(|s| s.id).collect();
        let all: Vec<_> = good.iter().chain(&bad).cloned().collect();
        let left = survivors_among(&RetentionPolicy::service(), &all, &odd, &berlin());
        let lost = good.iter().filter(|g| left.iter().all(|l| l.id != g.id)).count();
        assert!(left.iter().any(|s| s.id == good[good.len() - 1].id));
        lost
    };
    let now = at(NOW).seconds;
    let times = |n: i64, time: &dyn Fn(i64) -> i64, saved: &dyn Fn(i64) -> i64| -> Vec<_> {
        (0..n).map(|n| (Time::new(time(n), 0), Time::new(saved(n), 0))).collect()
    };
    let recent = |n: i64| now - n;
    let daily = |n: i64| now - 3 * DAY - n * DAY / 2;
    let monthly = |n: i64| at("2025-11-01").seconds + n * 28 * DAY;
    let ahead = |n: i64| now + 2 * DAY + n;
    // Thousands within an hour take one place of 28.
    assert!(survive(times(3000, &recent, &recent), false) <= 1);
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
        all.push(snapshot(n, now, now));
        kept.push(snapshot(n, now, now));
        let decisions = apply(&RetentionPolicy::service(), &kept, &HashSet::new(), now, &berlin());
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
