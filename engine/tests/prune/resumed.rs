//! A prune that is interrupted while it copies: the next one goes on from there.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tresor_engine::Result;
use tresor_engine::format::ChunkSizes;
use tresor_engine::maintenance::{MaxUnused, PruneOutcome};

use super::*;

const BATCH: u64 = 2 << 20;

/// What doesn't compress.
fn noise(rng: &mut Rng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    bytes
}

/// A dozen packs of 2 MB of which half is needed.
fn half_used() -> (Store, Kept) {
    let mut rng = Rng::with_seed(21);
    // So that the index is small.
    let store = new_store_of(None, ChunkSizes::default());
    partly_needed(store, (12, 8), || Item::file(noise(&mut rng, 250_000)), |_, n| n % 2 == 0)
}

/// Once a prune has stored so many bytes of packs, it can read no more of them, or it dies.
fn interrupted(
    store: &Store,
    options: &PruneOptions,
    limit: u64,
    dies: bool,
) -> (Result<PruneOutcome>, u64) {
    let copied = Arc::new(AtomicU64::new(0));
    let (seen, counted) = (copied.clone(), copied.clone());
    let hook = move |call: &Call| {
        let reads_pack = matches!(call, Call::Get(name) if name.kind == ObjectKind::Pack);
        match seen.load(SeqCst) >= limit && (dies || reads_pack) {
            true => Err(HookedStore::broken()),
            false => Ok(()),
        }
    };
    let count = move |name: &ObjectName, bytes: &[u8]| {
        if name.kind == ObjectKind::Pack {
            counted.fetch_add(bytes.len() as u64, SeqCst);
        }
    };
    let repo =
        open_over(store, |store| Arc::new(HookedStore::new(store.clone(), hook).observing(count)));
    let result = prune_at(&repo, options, 0);
    (result, copied.load(SeqCst))
}

fn planned(store: &Store, options: &PruneOptions) -> u64 {
    plan_prune(&open(store), options, &Quiet::default()).unwrap().bytes_repack
}

#[test]
fn what_was_copied_is_not_copied_again() {
    let (base, kept) = half_used();
    for options in [gentle(), all()] {
        let options = PruneOptions { batch_bytes: BATCH, ..options };
        let before = planned(&base, &options);
        assert!(before > 20 << 20);
        for (dies, percent) in [false, true].into_iter().flat_map(|d| [25, 50, 75].map(|p| (d, p)))
        {
            let what = format!("grace {:?}, dies: {dies}, at {percent} %", options.grace);
            let store = copy(&base);
            // Half of it is needed.
            let (result, copied) = interrupted(&store, &options, before / 200 * percent, dies);
            assert!(result.is_err(), "{what}");
            let left = planned(&store, &options);
            assert!(left + copied <= before + BATCH, "{what}: {before}, {copied}, {left}");
            kept.verify(&store, &what);
            finish(&store, &kept, &options, &what);
        }
    }
}

/// However often: what was copied in whole batches stays done.
#[test]
fn interruptions_come_to_an_end() {
    let (base, kept) = half_used();
    for (options, dies) in [(gentle(), true), (all(), true), (all(), false)] {
        let options = PruneOptions { batch_bytes: BATCH, ..options };
        let store = copy(&base);
        let mut times = 0;
        while interrupted(&store, &options, 2 * BATCH, dies).0.is_err() {
            times += 1;
            assert!(times < 12, "no end: {} bytes left", planned(&store, &options));
        }
        assert!(times > 1, "{times} interruptions");
        finish(&store, &kept, &options, "in the end");
    }
}

/// Blobs lie in packs of which half is needed, and in others that hold nothing else, as copies do
/// that a prune had just named when it died: the former are garbage.
#[test]
fn of_two_places_the_pack_counts_that_is_used_best() {
    let (store, kept) = half_used();
    let mut bare = objects(&store);
    bare.retain(|name, _| matches!(name.kind, ObjectKind::Config | ObjectKind::Key));
    let elsewhere = store_of(&bare);
    try_backup(&open(&elsewhere), &kept.0[0].1, None).unwrap();
    for kind in [ObjectKind::Pack, ObjectKind::Index] {
        for (name, _) in elsewhere.list(kind).unwrap() {
            store.put(&name, &elsewhere.get(&name).unwrap()).unwrap();
        }
    }
    let plan = plan_prune(&open(&store), &gentle(), &Quiet::default()).unwrap();
    assert_eq!((plan.packs_repack, plan.bytes_repack), (0, 0), "{plan:?}");
    finish(&store, &kept, &gentle(), "without copying");
}

/// There may be no room for copies before the garbage is gone.
#[test]
fn garbage_is_deleted_before_anything_is_copied() {
    let (store, kept) = half_used();
    let lazy = PruneOptions { max_unused: MaxUnused::Unlimited, ..gentle() };
    assert!(prune_at(&open(&store), &lazy, -3 * DAY).unwrap().bytes_marked > 0);
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = calls.clone();
    let repo = open_over(&store, |store| {
        hooked(store, 0, move |call| {
            match call {
                Call::Put(name) | Call::Delete(name) if name.kind == ObjectKind::Pack => {
                    seen.lock().unwrap().push(matches!(call, Call::Put(_)));
                }
                _ => {}
            }
            Ok(())
        })
        .0
    });
    let outcome = prune_at(&repo, &gentle(), 0).unwrap();
    assert!(outcome.bytes_repacked > 0);
    let calls = calls.lock().unwrap();
    let deleted = calls.iter().take_while(|stores| !**stores).count() as u64;
    assert!(deleted > 0 && deleted == outcome.packs_deleted, "{deleted} of {outcome:?}");
    kept.verify(&store, "afterwards");
}

/// A backup that ends looks at all that it relies on again for each batch, and would never get to
/// the end of that if the next batch came before.
#[test]
fn where_looking_takes_long_batches_are_long_too() {
    let (base, kept) = half_used();
    let batches = |look: Duration| {
        let store = copy(&base);
        let (slow, seen) = (AtomicBool::new(true), Arc::new(AtomicU64::new(0)));
        let counted = seen.clone();
        let repo = open_over(&store, |store| {
            let hook = move |call: &Call| {
                match call {
                    Call::GetRange(..) if slow.swap(false, SeqCst) => std::thread::sleep(look),
                    Call::Delete(name) if name.kind == ObjectKind::Index => {
                        counted.fetch_add(1, SeqCst);
                    }
                    _ => {}
                }
                Ok(())
            };
            hooked(store, 0, hook).0
        });
        prune_at(&repo, &PruneOptions { batch_bytes: 1, ..all() }, 0).unwrap();
        kept.verify(&store, "afterwards");
        seen.load(SeqCst)
    };
    let (many, few) = (batches(Duration::ZERO), batches(Duration::from_millis(1100)));
    assert!(few * 3 < many, "{few} index objects replaced, and {many} if looking is quick");
}
