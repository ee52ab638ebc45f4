//! Snapshots and what was repaired of them.

use proptest::prelude::*;

use super::histories::{histories, ids, odd_among, policies};
use super::*;

/// Two of four have lost something, and are repaired.
fn half_repaired() -> Vec<Snapshot> {
    let s = made(&["2026-11-20", "2026-11-21", "2026-11-22", "2026-11-23"]);
    let mut all = s.clone();
    all.extend([repaired(&s[2], 1), repaired(&s[3], 2)]);
    all.sort_by_key(Snapshot::order);
    all
}

fn why(policy: RetentionPolicy, s: &[Snapshot]) -> Vec<String> {
    let decisions = apply(&policy, s, &OddSnapshots::new(), at(NOW));
    decisions.into_iter().map(|d| d.reasons.join("; ")).collect()
}

#[test]
fn a_repaired_one_pushes_nothing_out_and_stays_with_its_original() {
    let s = half_repaired();
    let places: Vec<_> = s.iter().map(|s| (s.id.0[7], s.is_repaired())).collect();
    let expected = [(0, false), (1, false), (2, true), (2, false), (3, true), (3, false)];
    assert_eq!(places, expected, "the latest is what was backed up");
    let last = |n| RetentionPolicy { keep_last: Some(n), ..none() };
    assert!(why(last(4), &s).iter().all(|why| !why.is_empty()));
    let same = format!("the same backup as {}", s[5].id.short());
    assert_eq!(why(last(1), &s), ["", "", "", "", &*same, "last snapshot"]);
    let first = RetentionPolicy { keep_first_of_month: true, ..none() };
    assert_eq!(
        why(first, &s[2..])[..2],
        [format!("the same backup as {}", s[3].id.short()), "first of 2026-11".to_owned(),]
    );
    // Who wants the repaired ones gets the originals too.
    let tagged = RetentionPolicy { keep_tags: vec![vec![REPAIRED.into()]], ..none() };
    let kept = why(tagged, &s);
    assert_eq!(kept[..2], ["", ""]);
    assert_eq!(kept[3], format!("the same backup as {}", s[2].id.short()));
    assert!(kept[2].starts_with("has tags repaired; "), "{kept:?}");
}

#[test]
fn without_its_original_a_repaired_one_counts() {
    let s = half_repaired();
    let left: Vec<_> = [&s[0], &s[2], &s[4]].map(Snapshot::clone).into();
    let last = |n| RetentionPolicy { keep_last: Some(n), ..none() };
    assert_eq!(why(last(2), &left), ["", "last snapshot", "last snapshot"]);
    // Repaired twice, as more was lost: one place.
    let mut again = [s[1].clone(), s[2].clone(), s[2].clone()];
    again[2].id.0[31] = 7;
    let same = format!("the same backup as {}", again[2].id.short());
    assert_eq!(why(last(1), &again), ["", &*same, "last snapshot"]);
}

#[test]
fn what_only_looks_alike_counts_by_itself() {
    let day = "2026-11-23";
    let mut s = made(&[day; 3]);
    // Somebody's own tag, at another moment; and two backups of one moment.
    Arc::make_mut(&mut s[0].data).tags.push(REPAIRED.into());
    Arc::make_mut(&mut s[0].data).time.nanos = 1;
    s.sort_by_key(Snapshot::order);
    let last = RetentionPolicy { keep_last: Some(2), ..none() };
    assert_eq!(why(last, &s), ["", "last snapshot", "last snapshot"]);
}

#[test]
fn they_are_in_one_group() {
    let mut s = made(&["2026-11-22", "2026-11-23"]);
    Arc::make_mut(&mut s[1].data).tags.push("x".into());
    s.push(repaired(&s[1], 1));
    s.push(repaired(&s[0], 2));
    let groups = groups(&s, "tags".parse().unwrap());
    let of: Vec<_> = groups.iter().map(|(key, s)| (key.to_string(), s.len())).collect();
    assert_eq!(of, [("no tags".to_owned(), 2), ("tags x".to_owned(), 2)]);
}

proptest! {
    /// Whatever is repaired, nothing else is decided otherwise; and it goes with its original.
    #[test]
    fn repaired_ones_change_nothing(
        s in histories(), policy in policies(),
        some in any::<[u8; 60]>(), which in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        prop_assume!(!s.is_empty());
        let odd = odd_among(&s, &some);
        let alone = ids(&survivors_among(&policy, &s, &odd));
        let mut all = s.clone();
        let mut odd_too = odd.clone();
        let mut originals = Vec::new();
        for (n, index) in (1..).zip(which) {
            let original = index.get(&s);
            let one = repaired(original, n);
            // They are saved long after the times that they tell, and so look odd.
            odd_too.insert(one.id, Some(at(NOW)));
            // Of backups that nothing tells apart it goes with the last.
            let alike = s.iter().rev().find(|other| other.data == original.data).unwrap();
            originals.push((one.id, alike.id));
            all.push(one);
        }
        all.sort_by_key(Snapshot::order);
        let among = ids(&survivors_among(&policy, &all, &odd_too));
        prop_assert!(s.iter().all(|s| alone.contains(&s.id) == among.contains(&s.id)));
        for (repaired, original) in originals {
            prop_assert_eq!(among.contains(&repaired), among.contains(&original));
        }
    }
}
