//! What holds for any policy and any history.

use proptest::prelude::*;

use super::*;

fn zones() -> impl Strategy<Value = TimeZone> {
    let zones =
        ["CET-1CEST,M3.5.0,M10.5.0/3", "UTC0", "<-12>12", "<+14>-14", "NST3:30NDT,M3.2.0,M11.1.0"];
    prop::sample::select(zones.to_vec()).prop_map(|text| TimeZone::posix(text).unwrap())
}

/// Snapshots of a year before now and two days after, in order; some have
/// their time set by hand. Some times come more than once.
fn histories() -> impl Strategy<Value = Vec<Snapshot>> {
    let now = at(NOW).seconds / 900;
    let times = prop_oneof![now - 35000..now + 200, now - 300..now + 200];
    let each = (times, prop::bool::weighted(0.2), prop::bool::weighted(0.1));
    prop::collection::vec(each, 0..60).prop_map(|mut list| {
        list.sort_by_key(|(time, ..)| *time);
        let build = |(n, (time, by_hand, tagged)): (usize, (i64, bool, bool))| {
            let time = Time::new(time * 900, 0);
            let saved = if by_hand { at("2026-11-30") } else { time };
            let mut s = snapshot(n, time, saved);
            Arc::make_mut(&mut s.data).tags.extend(tagged.then(|| "t".to_owned()));
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

fn ids(snapshots: &[Snapshot]) -> Vec<ObjectId> {
    snapshots.iter().map(|s| s.id).collect()
}

proptest! {
    #[test]
    fn deciding_again_keeps_all_survivors(
        s in histories(), policy in policies(), zone in zones(),
    ) {
        let first = survivors(&policy, &s, &zone);
        prop_assert_eq!(ids(&survivors(&policy, &first, &zone)), ids(&first));
    }

    #[test]
    fn enough_is_kept(s in histories(), policy in policies(), zone in zones()) {
        let left = survivors(&policy, &s, &zone);
        let last = count(policy.keep_last) as usize;
        prop_assert!(left.len() >= last.max(1).min(s.len()));
        prop_assert!(ids(&left).ends_with(&ids(&s[s.len().saturating_sub(1)..])));
    }

    #[test]
    fn a_rule_more_removes_nothing_more(
        s in histories(), policy in policies(), n in 1..9u32, zone in zones(),
    ) {
        prop_assume!(!policy.is_empty());
        let more = RetentionPolicy { keep_first_of_month: true, keep_weekly: Some(UNLIMITED),
            keep_last: Some(count(policy.keep_last).max(n)), ..policy.clone() };
        let (few, many) = (survivors(&policy, &s, &zone), survivors(&more, &s, &zone));
        let many = ids(&many);
        prop_assert!(few.iter().all(|s| many.contains(&s.id)));
    }

    #[test]
    fn odd_ones_push_nothing_out(
        s in histories(), policy in policies(), zone in zones(), some in any::<[bool; 60]>(),
    ) {
        let odd: HashSet<_> = s.iter().zip(some).filter(|(_, odd)| *odd).map(|(s, _)| s.id).collect();
        let is_good = |s: &&Snapshot| !odd.contains(&s.id) && !set_by_hand(&s.data);
        let good: Vec<_> = s.iter().filter(is_good).cloned().collect();
        let among = ids(&survivors_among(&policy, &s, &odd, &zone));
        prop_assert!(survivors(&policy, &good, &zone).iter().all(|s| among.contains(&s.id)));
    }

    #[test]
    fn wrong_times_push_nothing_out(s in histories(), policy in policies(), zone in zones()) {
        let good: Vec<_> = s.iter().filter(|s| !set_by_hand(&s.data)).cloned().collect();
        let alone = survivors(&policy, &good, &zone);
        let among = ids(&survivors(&policy, &s, &zone));
        prop_assert!(alone.iter().all(|s| among.contains(&s.id)));
        let tomorrow = Time::new(at(NOW).seconds + DAY, 0);
        prop_assert!(s.iter().all(|s| s.data.time <= tomorrow || among.contains(&s.id)));
    }
}
