//! Damaged packs that no index object names.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tresor_engine::format::{ParityShare, Time};
use tresor_engine::maintenance::{PrunePlan, RepairIndexOptions, prune, repair_index, scrub};
use tresor_engine::repo::now;
use tresor_engine::store::{LocalStore, StoreError, StoreErrorKind};
use tresor_testkit::Damage;

use super::*;

/// A repository with a snapshot, and the packs that another backup of it would store.
fn repository(folder: &Path) -> (Store, Kept, Store) {
    let mut rng = Rng::with_seed(31);
    let memory = new_store();
    let mut kept = Kept::default();
    kept.add(&open(&memory), &some_tree(&mut rng, 3));
    let store: Store = Arc::new(LocalStore::new(folder));
    store.create().unwrap();
    objects(&memory).iter().for_each(|(name, bytes)| store.put(name, bytes).unwrap());
    try_backup(&open(&memory), &some_tree(&mut rng, 3), None).unwrap();
    let mut unnamed = objects(&memory);
    let named = names(&store, ObjectKind::Pack);
    unnamed.retain(|name, _| name.kind == ObjectKind::Pack && !named.contains(&name.id));
    assert!(unnamed.len() > 1);
    (store, kept, store_of(&unnamed))
}

fn put_all(store: &Store, from: &Store) {
    objects(from).iter().for_each(|(name, bytes)| store.put(name, bytes).unwrap());
}

#[test]
fn it_goes_after_the_grace() {
    for (damage, options) in Damage::ALL.into_iter().flat_map(|d| [(d, gentle()), (d, all())]) {
        let what = format!("{damage:?}, grace {:?}", options.grace);
        let folder = tempfile::tempdir().unwrap();
        let (store, kept, unnamed) = repository(folder.path());
        let victim = unnamed.list(ObjectKind::Pack).unwrap()[0].0;
        let damaged = damage.inflict(&unnamed, victim, &mut Rng::with_seed(1)).unwrap();
        put_all(&store, &unnamed);
        prune_at(&open(&store), &options, 0).unwrap();
        let stays = !options.grace.is_zero() && damage != Damage::Delete;
        assert_eq!(names(&store, ObjectKind::Pack).contains(&damaged.id), stays, "{what}");
        for later in [2 * DAY, 4 * DAY] {
            prune_at(&open(&store), &options, later).unwrap();
        }
        kept.verify_clean(&store, &what);
        let problems = scrub(&store, &Quiet::default()).unwrap().problems;
        assert!(problems.is_empty(), "{what}: {problems:?}");
        let options = RepairIndexOptions::default();
        let report = repair_index(&open(&store), &options, &Quiet::default()).unwrap();
        assert!(report.unreadable.is_empty(), "{what}: {report:?}");
    }
}

/// One of these packs, with a byte changed.
fn with_a_flipped_byte(folder: &Path) -> (Store, Kept, ObjectName, Vec<u8>) {
    let (store, kept, unnamed) = repository(folder);
    put_all(&store, &unnamed);
    let packs = unnamed.list(ObjectKind::Pack).unwrap();
    let name = packs.into_iter().max_by_key(|(_, size)| *size).unwrap().0;
    let whole = store.get(&name).unwrap();
    let mut bytes = whole.clone();
    bytes[60] ^= 1;
    store.replace(&name, &bytes).unwrap();
    (store, kept, name, whole)
}

#[test]
fn what_the_disk_can_not_read_now_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (store, kept, bad, _) = with_a_flipped_byte(folder.path());
    let failing: Store = Arc::new(HookedStore::new(store.clone(), move |call| match call {
        Call::Get(name) | Call::GetRange(name, ..) if *name == bad => {
            let kind = StoreErrorKind::Unreadable;
            Err(StoreError::new(kind, "read", name.path(), "Input/output error"))
        }
        _ => Ok(()),
    }));
    for later in [0, 2 * DAY] {
        prune_at(&open(&failing), &all(), later).unwrap();
    }
    assert!(names(&store, ObjectKind::Pack).contains(&bad.id));
    kept.verify(&store, "with a bad sector");
}

/// What is read is wrong once, and then it isn't.
#[test]
fn it_is_read_once_more_before_it_goes() {
    let mut tried = 0;
    for good_from in 1.. {
        let folder = tempfile::tempdir().unwrap();
        let (store, kept, name, whole) = with_a_flipped_byte(folder.path());
        let (reads, inner) = (Arc::new(AtomicUsize::new(0)), store.clone());
        let counted = reads.clone();
        let repo = open_over(&store, |store| {
            hooked(store, 0, move |call| {
                let reads_it = matches!(call, Call::Get(n) if *n == name);
                if reads_it && counted.fetch_add(1, SeqCst) + 1 == good_from {
                    inner.replace(&name, &whole)?;
                }
                Ok(())
            })
            .0
        });
        // At a grace that is over.
        prune_at(&repo, &gentle(), 2 * DAY).unwrap();
        if reads.load(SeqCst) < good_from {
            break;
        }
        tried += 1;
        let there = names(&store, ObjectKind::Pack).contains(&name.id);
        assert!(there, "gone, though it was whole at reading {good_from}");
        finish(&store, &kept, &all(), "then");
    }
    assert_eq!(tried, 2);
}

/// A whole pack of another repository is of no use here, and may be all there is of it.
#[test]
fn a_pack_of_another_repository_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (store, kept, _) = repository(folder.path());
    let other = new_store();
    try_backup(&open(&other), &some_tree(&mut Rng::with_seed(32), 3), None).unwrap();
    let (foreign, _) = other.list(ObjectKind::Pack).unwrap()[0];
    store.put(&foreign, &other.get(&foreign).unwrap()).unwrap();
    for options in [gentle(), all()] {
        let (repo, monitor) = (open(&store), Quiet::default());
        let time = Time::new(now().seconds + 2 * DAY, 0);
        let plan = PrunePlan::at(&repo, &options, time, &monitor).unwrap();
        prune(&repo, &options, plan, &monitor).unwrap();
        let problems = monitor.problems.lock().unwrap();
        assert!(problems.len() == 1 && problems[0].0 == foreign.path(), "{problems:?}");
        assert!(problems[0].1.contains("left alone"), "{problems:?}");
    }
    assert!(names(&store, ObjectKind::Pack).contains(&foreign.id));
    kept.verify(&store, "with a pack of another repository");
}

/// What parity makes good is no damage: such a pack is entered as any other.
#[test]
fn one_that_parity_can_mend_is_none_of_them() {
    let mut rng = Rng::with_seed(33);
    let store = new_store_with(ParityShare::new(50));
    let mut kept = Kept::default();
    kept.add(&open(&store), &some_tree(&mut rng, 3));
    let before = copy(&store);
    try_backup(&open(&store), &some_tree(&mut rng, 3), None).unwrap();
    let is_pack = |name: &ObjectName| before.size(name).is_err() && name.kind == ObjectKind::Pack;
    let packs: Vec<_> = objects(&store).into_keys().filter(is_pack).collect();
    let damaged = packs[0];
    for name in packs.iter().flat_map(|name| [*name, name.parity()]) {
        before.put(&name, &store.get(&name).unwrap()).unwrap();
    }
    let mut bytes = before.get(&damaged).unwrap();
    bytes[60] ^= 1;
    before.replace(&damaged, &bytes).unwrap();
    prune_at(&open(&before), &gentle(), 2 * DAY).unwrap();
    let runs = open(&before).index().runs();
    assert!(runs.iter().any(|run| run.packs().any(|pack| pack.id == damaged.id)));
    assert!(names(&before, ObjectKind::Pack).contains(&damaged.id));
    finish(&before, &kept, &all(), "then");
}
