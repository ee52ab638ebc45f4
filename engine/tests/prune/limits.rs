//! How much a prune copies.

use tresor_engine::maintenance::MaxUnused;

use super::*;

/// Packs of different sizes, each with something that is needed and something that isn't; of the
/// last one nearly all is needed.
fn partly_used() -> (Store, Kept) {
    let mut rng = Rng::with_seed(51);
    let file = || {
        let len = 5_000 + rng.usize(..20_000);
        Item::file(random_bytes(&mut rng, len))
    };
    partly_needed(new_store(), (10, 10), file, |round, n| n >= 10 - round)
}

#[test]
fn no_more_is_copied_than_was_allowed() {
    let (store, kept) = partly_used();
    let whole = plan_prune(&open(&store), &all(), &Quiet::default()).unwrap();
    assert!(whole.packs_repack >= 9, "{whole:?}");
    let limit = whole.bytes_repack / 4;
    let limited = PruneOptions { max_repack_bytes: Some(limit), ..all() };
    let mut prunes = 0;
    loop {
        let repo = open(&store);
        let plan = plan_prune(&repo, &limited, &Quiet::default()).unwrap();
        assert!(plan.bytes_repack <= limit, "{} of {limit}", plan.bytes_repack);
        if plan.blobs_unused == 0 {
            break;
        }
        let outcome = prune_at(&repo, &limited, 0).unwrap();
        assert!(outcome.bytes_repacked <= limit, "{outcome:?}");
        kept.verify(&store, "with a limit");
        prunes += 1;
        assert!(prunes < 20, "{plan:?}");
    }
    assert!(prunes > 3, "{prunes}");
    kept.verify_clean(&store, "with a limit, in the end");
}

#[test]
fn as_much_stays_unused_as_was_allowed() {
    let (base, kept) = partly_used();
    let plan_of = |store: &Store, max_unused: MaxUnused| {
        let options = PruneOptions { max_unused, ..all() };
        (options, plan_prune(&open(store), &options, &Quiet::default()).unwrap())
    };
    // Packs of which nothing is needed are none of it.
    let (options, plan) = plan_of(&base, MaxUnused::Unlimited);
    assert_eq!((plan.packs_repack, plan.bytes_delete > 0), (0, true), "{plan:?}");
    prune_at(&open(&base), &options, 0).unwrap();
    let (_, plan) = plan_of(&base, MaxUnused::Percent(0.0));
    assert_eq!(plan.bytes_unused_kept, 0, "{plan:?}");
    let (used, unused) = (plan.bytes_used, plan.bytes_unused);
    let percent = |bytes: u64| MaxUnused::Percent(100.0 * bytes as f64 / used as f64);
    assert!(unused * 10 > used, "{plan:?}");
    for enough in [percent(unused + unused / 10), MaxUnused::Bytes(unused), MaxUnused::Unlimited] {
        let (_, plan) = plan_of(&base, enough);
        assert_eq!((plan.packs_repack, plan.bytes_unused_kept), (0, unused), "{plan:?}");
    }
    for most in [&percent, &MaxUnused::Bytes] as [&dyn Fn(u64) -> MaxUnused; 2] {
        let mut copied = 0;
        for allowed in [unused - 1, unused / 2, unused / 5, 0] {
            let store = copy(&base);
            let (options, plan) = plan_of(&store, most(allowed));
            let outcome = prune_at(&open(&store), &options, 0).unwrap();
            let (_, left) = plan_of(&store, most(allowed));
            let what = format!("{:?}", options.max_unused);
            assert!(left.bytes_unused <= allowed + 1, "{left:?} is left of {what}");
            assert_eq!(left.bytes_unused, plan.bytes_unused_kept, "{what}");
            assert!(outcome.bytes_repacked > copied, "{what}: {outcome:?}");
            copied = outcome.bytes_repacked;
            kept.verify(&store, &format!("{what} may stay"));
        }
    }
}
