//! What holds for any policy and any history.

use proptest::prelude::*;

use super::*;

/// Snapshots of a year before now and two days after, in order; some have
/// their time set by hand. Some times come more than once, and clocks differ.
pub(super) fn histories() -> impl Strategy<Value = Vec<Snapshot>> {
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

pub(super) fn policies() -> impl Strategy<Value = RetentionPolicy> {
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

/// Some of them are odd, and came in the last days, or nobody knows when.
pub(super) fn odd_among(s: &[Snapshot], some: &[u8]) -> OddSnapshots {
    let came = |n: u8| (n > 128).then(|| Time::new(at(NOW).seconds - i64::from(n) * 7200, 0));
    let odd = s.iter().zip(some).filter(|(_, n)| **n > 96);
    odd.map(|(s, n)| (s.id, came(*n))).collect()
}

pub(super) fn ids(snapshots: &[Snapshot]) -> Vec<ObjectId> {
    snapshots.iter().map(|s| s.id).collect()
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
