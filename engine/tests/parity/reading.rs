//! A damaged repository is read as if it were whole, and says so.

use std::sync::Mutex;

use tresor_engine::format::Time;
use tresor_engine::maintenance::{CheckOptions, Subset, check};
use tresor_engine::parity::make;
use tresor_engine::repo::{OpenOptions, Repository};
use tresor_engine::store::{StoreError, StoreErrorKind};
use tresor_testkit::{Call, HookedStore, password};

use super::*;

type Told = Arc<Mutex<Vec<ObjectName>>>;

fn open_listening(store: &Store) -> (Arc<Repository>, Told) {
    let told = Told::default();
    let tell = told.clone();
    let on_mended = move |name: &ObjectName| tell.lock().unwrap().push(*name);
    let options = OpenOptions { on_mended: Some(Arc::new(on_mended)), ..Default::default() };
    (Repository::open(store.clone(), &password(), &options).unwrap(), told)
}

#[test]
fn every_object_damaged_and_every_file_read() {
    let mut rng = Rng::with_seed(1);
    let mut tree = some_tree(&mut rng, 5);
    tree.entries_mut()
        .insert(b"large".to_vec(), one_file(2_000_000).entries()[&b"file"[..]].clone());
    let (store, kept) = repository(5, &tree);
    let names: Vec<_> = objects(&store).into_keys().collect();
    let damaged: Vec<_> = names.into_iter().filter(|n| n.kind != ObjectKind::Parity).collect();
    for name in &damaged {
        change_object(&store, name, |bytes| {
            // In the middle, so that a config is still one that can be parsed, or not.
            let at = if name.kind == ObjectKind::Pack { 1000.min(bytes.len() - 1) } else { 40 };
            let end = bytes.len().min(at + SECTOR);
            bytes[at..end].iter_mut().for_each(|b| *b = !*b);
            if rng.bool() && name.kind != ObjectKind::Config {
                bytes.truncate(bytes.len() - 7);
            }
        });
    }
    let before = objects(&store);
    let (repo, told) = open_listening(&store);
    for (snapshot, tree) in &kept.0 {
        holds(&repo, snapshot, tree, "with parity");
    }
    let report =
        check(&repo, &CheckOptions { read_data: true, ..Default::default() }, &Quiet::default())
            .unwrap();
    let mut named: Vec<_> = report.problems.iter().map(|p| p.object.clone()).collect();
    named.sort();
    let mut expected: Vec<_> = damaged.iter().map(ObjectName::path).collect();
    expected.sort();
    assert_eq!(named, expected, "{:#?}", report.problems);
    assert!(report.problems.iter().all(|p| p.files.is_empty()), "{:#?}", report.problems);
    let mut told = told.lock().unwrap().clone();
    told.sort();
    assert_eq!(told, damaged, "each once");
    assert_eq!(repo.mended(), damaged);
    assert!(objects(&store) == before, "reading changes nothing");
    repair(&store);
    kept.verify(&store, "repaired");
    assert_tidy(&store, "repaired");
}

/// A medium with bad sectors: every read that touches one fails.
#[test]
fn bad_sectors() {
    let (store, kept) = repository(10, &one_file(2_000_000));
    let pack = largest(&store, ObjectKind::Pack);
    let bad: Store = Arc::new(HookedStore::new(store.clone(), move |call| {
        let unreadable =
            Err(StoreError::new(StoreErrorKind::Unreadable, "read", "x", "bad sector"));
        match *call {
            Call::Get(name) if name == pack => unreadable,
            Call::GetRange(name, at, len) if name == pack => {
                let sector = |at: u64| at / SECTOR as u64;
                let hit = (sector(at)..=sector(at + len as u64 - 1)).any(|n| n % 20 == 3);
                if hit { unreadable } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }));
    let (repo, told) = open_listening(&bad);
    holds(&repo, &kept.0[0].0, &kept.0[0].1, "bad sectors");
    assert_eq!(*told.lock().unwrap(), [pack]);
    // What is stored in its place lies elsewhere on the disk.
    let dry = try_repair(&bad, true).unwrap();
    assert_eq!(dry.mended.len(), 1, "{dry:?}");
}

#[test]
fn a_prune_repacks_what_it_can_read_with_parity() {
    let mut rng = Rng::with_seed(3);
    let store = new_store_with(share(5));
    let mut kept = Kept::default();
    let mut tree = some_tree(&mut rng, 6);
    for _ in 0..3 {
        kept.add(&open(&store), &tree);
        tree = change(&mut rng, &tree);
    }
    kept.forget(&open(&store), 0);
    for pack in names(&store, ObjectKind::Pack) {
        change_object(&store, &ObjectName::new(ObjectKind::Pack, pack), |bytes| bytes[77] ^= 1);
    }
    prune_at(&open(&store), &all(), 0).unwrap();
    repair(&store);
    kept.verify_clean(&store, "after a prune of damaged packs");
    assert_tidy(&store, "after a prune of damaged packs");
}

#[test]
fn check_names_what_has_no_parity() {
    let (store, _) = repository(5, &one_file(1000));
    let bare = largest(&store, ObjectKind::Pack);
    store.delete(&bare.parity()).unwrap();
    let report = check(&open(&store), &CheckOptions::default(), &Quiet::default()).unwrap();
    let named: Vec<_> = report.problems.iter().map(|p| p.object.clone()).collect();
    assert_eq!(named, [bare.path()]);
    repair(&store);
    let report = check(&open(&store), &CheckOptions::default(), &Quiet::default()).unwrap();
    assert!(report.problems.is_empty());
}

fn named(store: &Store, options: CheckOptions) -> Vec<String> {
    let report = check(&open(store), &options, &Quiet::default()).unwrap();
    assert!(report.problems.iter().all(|p| p.files.is_empty()), "{:#?}", report.problems);
    report.problems.into_iter().map(|p| p.object).collect()
}

/// Parity that has rotted, or of which half has arrived, is named before it is needed.
#[test]
fn check_names_parity_that_is_damaged() {
    let (base, _) = repository(5, &one_file(100_000));
    open(&base).forget(&[open(&base).snapshots().unwrap()[0].id]).unwrap();
    let mut kept = Kept::default();
    kept.add(&open(&base), &one_file(100_000));
    let everything = CheckOptions { read_data: true, ..Default::default() };
    assert!(named(&base, everything).is_empty());
    let lately = CheckOptions { since: Some(Time::new(0, 0)), ..everything };
    let subset = CheckOptions { subset: Some(Subset::Percent(100.0)), ..Default::default() };
    for (name, _) in base.list(ObjectKind::Parity).unwrap() {
        let path = vec![name.path()];
        let rotten = copy(&base);
        change_object(&rotten, &name, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        });
        for options in [everything, lately, subset] {
            assert_eq!(named(&rotten, options), path, "rotten, {options:?}");
        }
        assert!(named(&rotten, CheckOptions::default()).is_empty(), "it wasn't read");
        let cut = copy(&base);
        change_object(&cut, &name, |bytes| bytes.truncate(bytes.len() / 2));
        for options in [everything, lately, subset, CheckOptions::default()] {
            assert_eq!(named(&cut, options), path, "cut, {options:?}");
        }
        for store in [rotten, cut] {
            repair(&store);
            assert!(objects(&store) == objects(&base), "{name}: not as it was");
        }
    }
}

/// A part of the packs is read, and no parity of others.
#[test]
fn a_subset_reads_the_parity_of_its_packs() {
    let mut rng = Rng::with_seed(8);
    let store = new_store_with(share(5));
    let mut kept = Kept::default();
    for _ in 0..4 {
        kept.add(&open(&store), &some_tree(&mut rng, 2));
    }
    let packs = names(&store, ObjectKind::Pack);
    for id in &packs {
        let parity = ObjectName::new(ObjectKind::Pack, *id).parity();
        change_object(&store, &parity, |bytes| bytes[70] ^= 1);
    }
    let part = |part| {
        let subset = Some(Subset::Part { part, of: 2 });
        named(&store, CheckOptions { subset, ..Default::default() })
    };
    let (one, two) = (part(1), part(2));
    assert!(!one.is_empty() && !two.is_empty(), "{one:?}, {two:?}");
    assert_eq!(one.len() + two.len(), packs.len());
    assert!(one.iter().all(|object| !two.contains(object)));
}

/// Another writer may make more or less of it.
#[test]
fn parity_of_another_length_is_parity() {
    let (store, _) = repository(5, &one_file(100_000));
    let pack = largest(&store, ObjectKind::Pack);
    let more = make(&store.get(&pack).unwrap(), share(50).unwrap()).unwrap();
    store.replace(&pack.parity(), &more).unwrap();
    assert_eq!(named(&store, CheckOptions::default()), [""; 0]);
    prune_at(&open(&store), &all(), 0).unwrap();
    assert!(store.get(&pack.parity()).unwrap() == more);
}

/// Files are named with what is lost, not with what parity makes up for.
#[test]
fn lost_files_are_named_beside_damage_that_is_made_up_for() {
    for seed in 0..6 {
        let mut rng = Rng::with_seed(seed);
        let mut noise = |len| (0..len).map(|_| rng.u8(..)).collect::<Vec<_>>();
        let store = new_store_with(share(5));
        let mut kept = Kept::default();
        kept.add(&open(&store), &Item::dir().with("one", Item::file(noise(100_000))));
        let first: HashSet<_> = names(&store, ObjectKind::Pack);
        kept.add(&open(&store), &Item::dir().with("two", Item::file(noise(200_000))));
        let sizes = store.list(ObjectKind::Pack).unwrap();
        let of_two = sizes.iter().filter(|(name, _)| !first.contains(&name.id));
        let lost = of_two.max_by_key(|(_, size)| *size).unwrap().0;
        let of_one = sizes.iter().filter(|(name, _)| first.contains(&name.id));
        let damaged = of_one.max_by_key(|(_, size)| *size).unwrap().0;
        store.delete(&lost).unwrap();
        change_object(&store, &damaged, |bytes| bytes[10_000] ^= 1);
        let options = CheckOptions { read_data: true, ..CheckOptions::default() };
        let report = check(&open(&store), &options, &Quiet::default()).unwrap();
        for problem in &report.problems {
            let is_lost = problem.object == lost.path();
            assert_eq!(problem.files.iter().any(|f| f.contains("two")), is_lost, "{problem:?}");
            assert!(!problem.files.iter().any(|f| f.contains("one")), "{problem:?}");
        }
        assert!(
            report.problems.iter().any(|p| p.object == damaged.path()),
            "{:?}",
            report.problems
        );
    }
}
