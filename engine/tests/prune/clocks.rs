//! Clocks that are wrong: whatever they say, no snapshot that was saved loses anything. A
//! backup that runs meanwhile is saved, or says that it must be run again.

use std::sync::{Arc, Mutex};

use fastrand::Rng;
use tresor_engine::Error;
use tresor_engine::format::{IndexData, ObjectKind, Time};
use tresor_engine::index::read_object;
use tresor_engine::maintenance::{PruneOutcome, plan_prune, prune};
use tresor_engine::monitor::Quiet;
use tresor_engine::repo::{Repository, Snapshot, now};
use tresor_engine::store::Store;
use tresor_testkit::{HookedStore, Item};

use super::world::*;
use super::{finish, rounds};

const HOUR: i64 = 3600;
const YEARS: i64 = 3650 * DAY;
/// How fast the clocks of hosts are.
const CLOCKS: [i64; 7] = [-YEARS, -25 * HOUR, -HOUR, 0, HOUR, 25 * HOUR, YEARS];

fn with_clock(store: &Store, fast: i64) -> Store {
    Arc::new(HookedStore::new(store.clone(), |_| Ok(())).fast_by(fast))
}

/// What a host prunes with the grace that is usual.
fn prune_by(repo: &Arc<Repository>) -> Result<PruneOutcome, Error> {
    let plan = plan_prune(repo, &gentle(), &Quiet::default())?;
    prune(repo, &gentle(), plan, &Quiet::default())
}

/// A repository from which a tree was forgotten a moment ago: a backup of it finds all its
/// data there, and the next prune marks that.
fn forgotten(seed: u64) -> (Store, Kept, Item) {
    let mut rng = Rng::with_seed(seed);
    let store = new_store();
    let repo = open(&store);
    let mut kept = Kept::default();
    kept.add(&repo, &some_tree(&mut rng, 6));
    let tree = some_tree(&mut rng, 6);
    kept.add(&repo, &tree);
    kept.forget(&repo, 1);
    (store, kept, change(&mut rng, &tree))
}

/// A backup was saved, or says that it must be run again. Either way the others are whole,
/// the next one succeeds, and what is not needed goes in the end.
#[track_caller]
fn judge(
    store: &Store,
    kept: &Kept,
    tree: &Item,
    backup: Result<Snapshot, Error>,
    what: &str,
) -> bool {
    let mut kept = kept.clone();
    let saved = match backup {
        Ok(snapshot) => {
            kept.0.push((snapshot, tree.clone()));
            true
        }
        Err(e) => {
            assert!(e.to_string().contains("run the backup again"), "{what}: {e}");
            false
        }
    };
    kept.verify(store, what);
    if !saved {
        kept.add(&open(store), tree);
    }
    finish(store, &kept, &gentle(), what);
    saved
}

/// Before each call of a backup one host prunes, then another one.
#[test]
fn two_prunes_by_wrong_clocks_during_a_backup() {
    let (base, kept, tree) = forgotten(1);
    let (mut n, mut saved, mut refused) = (0, 0, 0);
    let mut pairs = CLOCKS.iter().flat_map(|a| CLOCKS.map(|b| (*a, b))).cycle();
    let mut ended = false;
    while !ended {
        for _ in 0..3 {
            let (first, second) = pairs.next().unwrap();
            let own = CLOCKS[n % CLOCKS.len()];
            let what = format!("call {n}, prunes {first} and {second}, backup {own} s fast");
            let store = copy(&base);
            let hosts = [first, second].map(|fast| open(&with_clock(&store, fast)));
            let pruned = Arc::new(Mutex::new(false));
            let done = pruned.clone();
            let repo = open_over(&store, |inner| {
                at_call(&with_clock(inner, own), n, move || {
                    for host in &hosts {
                        prune_by(host).unwrap();
                    }
                    *done.lock().unwrap() = true;
                })
            });
            let backup = try_backup(&repo, &tree, None);
            ended |= !*pruned.lock().unwrap();
            let is_saved = judge(&store, &kept, &tree, backup, &what);
            *(if is_saved { &mut saved } else { &mut refused }) += 1;
            // Where clocks agree within an hour, nothing is in the way of a backup.
            let agree = [first, second].iter().all(|c| c.abs() <= HOUR) && second - first <= HOUR;
            assert!(is_saved || !agree, "{what}");
        }
        n += 1;
    }
    eprintln!("{saved} saved, {refused} refused");
    assert!(n > 8 && saved > 10 && refused > 3, "{n} calls, {saved} saved, {refused} refused");
}

/// A backup and three prunes of hosts whose clocks say what they like, call by call.
#[test]
fn a_backup_among_prunes_by_wrong_clocks() {
    let (base, kept, tree) = forgotten(2);
    let (mut saved, mut refused) = (0, 0);
    for round in 0..rounds(25) {
        let mut rng = Rng::with_seed(round);
        let clocks: Vec<_> = (0..4).map(|_| *rng.choice(&CLOCKS).unwrap()).collect();
        let what = format!("round {round}, clocks {clocks:?}");
        let store = copy(&base);
        // The backup is slow: much happens between two of its calls.
        let turns = Turns::new(&[1, 7, 7, 7], rng);
        let backup = std::thread::scope(|scope| {
            for (i, fast) in clocks.iter().enumerate().skip(1) {
                let (store, turns, what) = (with_clock(&store, *fast), turns.clone(), &what);
                scope.spawn(move || {
                    // One after the other: the second may delete what the first has marked.
                    turns.run(i, &store, |repo| {
                        for _ in 0..2 {
                            if let Err(e) = prune_by(repo) {
                                let text = e.to_string();
                                let known = ["another prune", "no such object", "vanishing"];
                                assert!(known.iter().any(|k| text.contains(k)), "{what}: {e}");
                            }
                        }
                    });
                });
            }
            turns.run(0, &with_clock(&store, clocks[0]), |repo| try_backup(repo, &tree, None))
        });
        let is_saved = judge(&store, &kept, &tree, backup, &what);
        *(if is_saved { &mut saved } else { &mut refused }) += 1;
    }
    eprintln!("{saved} saved, {refused} refused");
    assert!(saved > 5 && refused > 2, "{saved} saved, {refused} refused");
}

/// Marked by a host whose clock was years fast: the next prune begins the grace anew.
#[test]
fn a_mark_from_the_future_does_not_keep_a_pack() {
    let (store, kept, _) = forgotten(3);
    assert!(prune_by(&open(&with_clock(&store, YEARS))).unwrap().bytes_marked > 0);
    let at = |fast| prune_by(&open(&with_clock(&store, fast))).unwrap();
    let again = at(0);
    assert!(again.bytes_marked > 0 && again.packs_deleted == 0, "{again:?}");
    let early = at(23 * HOUR);
    assert_eq!((early.bytes_marked, early.packs_deleted), (0, 0));
    assert!(at(25 * HOUR).packs_deleted > 0);
    kept.verify_clean(&store, "in the end");
}

/// A mark a little in the future is of a clock a little fast, and stays.
#[test]
fn clocks_that_differ_a_little_do_not_put_off_deleting() {
    let (store, kept, _) = forgotten(3);
    let at = |fast| prune_by(&open(&with_clock(&store, fast))).unwrap();
    assert!(at(HOUR / 2).bytes_marked > 0);
    assert_eq!(at(0).bytes_marked, 0);
    assert!(at(25 * HOUR).packs_deleted > 0);
    kept.verify_clean(&store, "in the end");
}

#[test]
fn no_mark_is_too_odd() {
    for seconds in [i64::MIN, -1, 0, 1, 2, now().seconds + YEARS, i64::MAX] {
        let (store, kept, tree) = forgotten(4);
        let repo = open(&store);
        for id in names(&store, ObjectKind::Index) {
            let mut data = read_object(&store, repo.keys(), &id).unwrap();
            data.packs.iter_mut().for_each(|p| p.marked = Some(Time::new(seconds, 0)));
            put_index(&repo, &IndexData { replaces: vec![id], ..data });
        }
        let what = format!("marked at {seconds}");
        for fast in [i64::MIN / 2, -YEARS, YEARS] {
            prune_by(&open(&with_clock(&store, fast))).unwrap();
            kept.verify(&store, &what);
        }
        judge(&store, &kept, &tree, try_backup(&open(&store), &tree, None), &what);
    }
}
