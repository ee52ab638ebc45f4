//! How much a prune copies.

use tresor_engine::maintenance::PrunePlan;

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
    let plan_of = |store: &Store, percent: f64| {
        let options = PruneOptions { max_unused_percent: percent, ..all() };
        (options, plan_prune(&open(store), &options, &Quiet::default()).unwrap())
    };
    // Packs of which nothing is needed are none of it.
    let (options, _) = plan_of(&base, 1e9);
    prune_at(&open(&base), &options, 0).unwrap();
    let (_, plan) = plan_of(&base, 0.0);
    let share = |plan: &PrunePlan| 100.0 * plan.bytes_unused as f64 / plan.bytes_used as f64;
    let unused = share(&plan);
    assert!(unused > 10.0, "{plan:?}");
    let (_, plan) = plan_of(&base, unused + 1.0);
    assert_eq!(plan.packs_repack, 0, "{plan:?}");
    let mut copied = 0;
    for percent in [unused - 1.0, unused / 2.0, unused / 5.0, 0.0] {
        let store = copy(&base);
        let (options, _) = plan_of(&store, percent);
        let outcome = prune_at(&open(&store), &options, 0).unwrap();
        let (_, left) = plan_of(&store, percent);
        assert!(share(&left) <= percent + 0.01, "{} % left of {percent} %", share(&left));
        assert!(outcome.bytes_repacked > copied, "{percent} %: {outcome:?}");
        copied = outcome.bytes_repacked;
        kept.verify(&store, &format!("{percent} % may stay"));
    }
}
