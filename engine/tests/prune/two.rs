//! Two prunes at the same time: one gives way.

use fastrand::Rng;
use tresor_engine::maintenance::{MaxUnused, PruneOptions};

use super::world::*;
use super::{busy, calls_of_a_prune, finish, rounds};

/// What two prunes want at once. The third pair is of two minds about what to keep.
fn pairs() -> [(PruneOptions, PruneOptions); 3] {
    let lazy = PruneOptions { max_unused: MaxUnused::Percent(100.0), ..gentle() };
    [(gentle(), gentle()), (all(), all()), (lazy, all())]
}

/// Another prune, whole, before each call of a prune. The one that comes too
/// late gives way.
#[test]
fn two_prunes() {
    for (ours, theirs) in pairs() {
        let (base, kept, _) = busy(5);
        let total = calls_of_a_prune(&base, &ours);
        for n in 0..total {
            let what = format!("{ours:?} and {theirs:?}, call {n} of {total}");
            let store = copy(&base);
            let other = open(&store);
            let repo = open_over(&store, |inner| {
                at_call(inner, n, move || assert!(prune_at(&other, &theirs, 0).is_ok()))
            });
            if let Err(e) = prune_at(&repo, &ours, 0) {
                let text = e.to_string();
                let gone = text.contains("another prune") || text.contains("no such object");
                assert!(gone, "{what}: {e}");
            }
            kept.verify(&store, &what);
            if n % 4 == 0 {
                finish(&store, &kept, &all(), &what);
            }
        }
    }
}

#[test]
fn two_prunes_crossed() {
    for (ours, theirs) in pairs() {
        let (base, kept, _) = busy(5);
        let (mine, others) = (calls_of_a_prune(&base, &ours), calls_of_a_prune(&base, &theirs));
        for round in 0..rounds(25) {
            let mut rng = Rng::with_seed(round);
            let store = copy(&base);
            let steps = (rng.usize(..mine), rng.usize(..others));
            let what = format!("{ours:?} and {theirs:?}, calls {steps:?}");
            let _ = crossed(
                &store,
                steps,
                |repo| prune_at(repo, &ours, 0),
                move |repo| drop(prune_at(repo, &theirs, 0)),
            );
            kept.verify(&store, &what);
            finish(&store, &kept, &all(), &what);
        }
    }
}
