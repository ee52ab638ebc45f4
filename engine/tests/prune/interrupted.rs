//! A prune that is interrupted: the next one finishes its work.

use fastrand::Rng;
use tresor_engine::store::Store;
use tresor_testkit::HookedStore;

use super::world::stores::Volatile;
use super::world::*;
use super::{busy, calls_of_a_prune, finish, rounds};

/// The store fails from some call on, for every call there is; then the power
/// goes, and of what was not settled some is lost.
#[test]
fn interrupted_at_every_call() {
    for options in [gentle(), all()] {
        let (base, kept, _) = busy(2);
        let before = objects(&base);
        let total = calls_of_a_prune(&base, &options);
        assert!(total > 40);
        for n in 0..total {
            let what = format!("grace {:?}, call {n} of {total}", options.grace);
            let mut rng = Rng::with_seed(n as u64);
            let volatile = Volatile::new(&before);
            let store: Store = volatile.clone();
            let repo = open_over(&store, |s| hooked(s, n, |_| Err(HookedStore::broken())).0);
            // Packs are filled at random, so that it may take a few calls more or less.
            let ended = prune_at(&repo, &options, 0).is_ok();
            assert!(!ended || n + 12 > total, "{what}");
            let whole = copy(&store);
            kept.verify(&whole, &what);
            // What was unindexed can be marked only now.
            if n % 3 == 0 {
                finish(&whole, &kept, &options, &what);
            }
            let store = volatile.after_power_loss(&mut rng);
            kept.verify(&store, &format!("{what}, power lost"));
            finish(&store, &kept, &options, &what);
        }
    }
}

/// Interrupted again and again, it makes progress all the same.
#[test]
fn interrupted_many_times() {
    for seed in 0..rounds(6) {
        let (base, kept, _) = busy(3);
        let mut rng = Rng::with_seed(seed);
        let mut store = base;
        let total = calls_of_a_prune(&store, &all());
        for round in 0..6 {
            let options = if rng.bool() { all() } else { gentle() };
            let volatile = Volatile::new(&objects(&store));
            let n = total / 2 + rng.usize(..total / 2);
            let repo = open_over(&(volatile.clone() as Store), |s| {
                hooked(s, n, |_| Err(HookedStore::broken())).0
            });
            let _ = prune_at(&repo, &options, round * 30 * 3600);
            store = volatile.after_power_loss(&mut rng);
        }
        kept.verify(&store, &format!("seed {seed}"));
        finish(&store, &kept, &gentle(), &format!("seed {seed}"));
    }
}
