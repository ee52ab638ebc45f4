//! The power fails while something is repaired, while passwords come and go, and while
//! records of what was forgotten are joined.

use tresor_engine::format::{ObjectId, ObjectName};
use tresor_engine::maintenance::{
    RepairIndexOptions, RepairSnapshotsOptions, repair_index, repair_snapshots, scrub,
};
use tresor_engine::repo::Snapshot;
use tresor_engine::store::Disk;

use super::client::Client;
use super::*;

/// A repository on a disk that is watched.
struct Place<R> {
    root: PathBuf,
    disk: Arc<Watched<R>>,
}

impl<R: Clone + Send + Sync + 'static> Place<R> {
    /// The store as a new process opens it: what others have changed it doesn't know.
    fn process(&self) -> Store {
        Arc::new(LocalStore::with_disk(&self.root, self.disk.clone()))
    }

    fn report(&self, reported: R) {
        self.disk.report(|r| *r = reported);
    }
}

/// Lets the power fail after each change that `work` makes to a disk where `base` lies. `look`
/// gets what is there then, and what `work` had reported.
fn cut<R: Clone + Send + Sync + 'static>(
    base: &Store,
    least: usize,
    reported: R,
    work: impl FnOnce(&Place<R>),
    look: impl Fn(&Store, R, &str),
) {
    let folder = tempfile::tempdir().unwrap();
    let place = Place { root: folder.path().join("repo"), disk: Watched::new(reported) };
    let store = place.process();
    store.create().unwrap();
    objects(base).iter().for_each(|(name, bytes)| store.put(name, bytes).unwrap());
    place.disk.everything_is_there();
    work(&place);
    let images = place.disk.images();
    assert!(images.len() >= least, "{}", images.len());
    let (mut looks, mut last) = (0, None);
    for (n, (platter, reported)) in images.iter().enumerate() {
        for share in [0.0, 0.5] {
            let image = platter.clone().after(&mut Rng::with_seed(n as u64), share);
            let store = store_of_image(&image, &place.root);
            // The same was there before.
            let now = Some((objects(&store), Arc::as_ptr(reported)));
            if now != last {
                let what = format!("change {n} of {}, {share} kept", images.len());
                look(&store, R::clone(reported), &what);
                (looks, last) = (looks + 1, now);
            }
        }
    }
    eprintln!("{} changes, {looks} looks", images.len());
}

fn other_password() -> Password {
    Password::new(b"battery staple".to_vec())
}

fn opens(store: &Store, password: &Password) -> bool {
    Repository::open(store.clone(), password, &OpenOptions::default()).is_ok()
}

/// Snapshots of a tree that changes, and the tree as it is then.
fn snapshots(parity: Option<ParityShare>, count: usize) -> (Store, Kept, Item) {
    let mut rng = Rng::with_seed(21);
    let store = new_store_with(parity);
    let mut kept = Kept::default();
    let mut tree = some_tree(&mut rng, 3);
    for _ in 0..count {
        kept.add(&open(&store), &tree);
        tree = change(&mut rng, &tree);
    }
    (store, kept, tree)
}

fn flip(store: &Store, name: &ObjectName) {
    let mut bytes = store.get(name).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    store.replace(name, &bytes).unwrap();
}

fn all_of(store: &Store, kind: ObjectKind) -> Vec<ObjectName> {
    let mut all: Vec<_> = store.list(kind).unwrap().into_iter().map(|(name, _)| name).collect();
    all.sort();
    all
}

fn mend_index(store: &Store, read_all: bool) {
    let options = RepairIndexOptions { read_all, dry_run: false };
    repair_index(&open(store), &options, &Quiet::default()).unwrap();
}

/// Whenever the power fails, a repair makes everything whole; once one was reported, everything is.
fn the_index_is_repaired(base: &Store, kept: &Kept, read_all: bool) {
    let before = open(base).index().objects().len();
    let work = |place: &Place<bool>| {
        mend_index(&place.process(), read_all);
        place.report(true);
    };
    cut(base, 5, false, work, |store, done, what| {
        assert!(open(store).index().objects().len() >= before, "{what}: an entry is lost");
        if !done {
            mend_index(store, read_all);
        }
        kept.verify(store, what);
    });
}

#[test]
fn repair_of_the_index() {
    for parity in [None, ParityShare::new(50)] {
        let (base, kept, _) = snapshots(parity, 3);
        let index = all_of(&base, ObjectKind::Index);
        // Parity would make up for less.
        let bytes = base.get(&index[0]).unwrap();
        base.replace(&index[0], &bytes[..40]).unwrap();
        base.delete(&index[1]).unwrap();
        if parity.is_some() {
            base.delete(&index[0].parity()).unwrap();
            base.delete(&index[1].parity()).unwrap();
        }
        the_index_is_repaired(&base, &kept, false);
    }
}

#[test]
fn repair_of_the_index_reads_all_packs() {
    let (base, kept, _) = broken_index();
    the_index_is_repaired(&base, &kept, true);
}

/// A backup died before its packs were there for good, or the index object that names them. Who
/// relies on them, or lets others do so, makes sure of that.
fn what_nobody_settled(before: usize, has_index: bool, enter: impl Fn(&Place<Kept>)) {
    let (base, kept, tree) = snapshots(None, before);
    let full = copy(&base);
    let mut all = kept.clone();
    all.add(&open(&full), &tree);
    let known = objects(&base);
    let new = |kind| all_of(&full, kind).into_iter().filter(|name| !known.contains_key(name));
    let work = |place: &Place<Kept>| {
        let dead = place.process();
        let put = |name| dead.put(&name, &full.get(&name).unwrap()).unwrap();
        new(ObjectKind::Pack).for_each(put);
        if has_index {
            dead.settle().unwrap();
            new(ObjectKind::Index).for_each(put);
        }
        enter(place);
        let mut kept = kept.clone();
        kept.add(&open(&place.process()), &tree);
        assert!(names(&place.process(), ObjectKind::Pack) == names(&full, ObjectKind::Pack));
        place.report(kept);
    };
    cut(&base, 10, kept.clone(), work, |store, kept, what| {
        assert_whole(&open(store), &kept, what);
    });
}

#[test]
fn repair_of_the_index_enters_packs_that_nobody_settled() {
    what_nobody_settled(2, false, |place| mend_index(&place.process(), false));
}

#[test]
fn a_first_backup_takes_up_packs_that_nobody_settled() {
    what_nobody_settled(0, false, |_| {});
}

#[test]
fn a_backup_relies_on_an_index_object_that_nobody_settled() {
    what_nobody_settled(2, true, |_| {});
}

#[test]
fn a_backup_writes_into_folders_that_nobody_settled() {
    let (base, _, tree) = snapshots(None, 0);
    let work = |place: &Place<Kept>| {
        for byte in 0..=255 {
            place.disk.make_dir(&place.root.join(format!("packs/{byte:02x}"))).unwrap();
        }
        let mut kept = Kept::default();
        kept.add(&open(&place.process()), &tree);
        place.report(kept);
    };
    cut(&base, 10, Kept::default(), work, |store, kept, what| {
        assert_whole(&open(store), &kept, what);
    });
}

/// Somebody died who was removing a snapshot: it is not there again when a prune has deleted what
/// it needs.
#[test]
fn a_prune_follows_a_forget_that_nobody_settled() {
    let (base, mut kept, _) = snapshots(None, 3);
    let gone = ObjectName::new(ObjectKind::Snapshot, kept.0.remove(0).0.id);
    let work = |place: &Place<()>| {
        place.process().delete(&gone).unwrap();
        prune_at(&open(&place.process()), &all(), 0).unwrap();
    };
    cut(&base, 10, (), work, |store, (), what| assert_whole(&open(store), &kept, what));
}

/// A lost pack, or one that has rotted, is doomed, and then stored again by a backup.
#[test]
fn a_backup_heals_what_a_repair_has_doomed() {
    for is_lost in [true, false] {
        let (base, mut kept, _) = snapshots(None, 1);
        let before = names(&base, ObjectKind::Pack);
        let tree = some_tree(&mut Rng::with_seed(4), 3);
        kept.add(&open(&base), &tree);
        for name in all_of(&base, ObjectKind::Pack) {
            match before.contains(&name.id) {
                true => {}
                false if is_lost => base.delete(&name).unwrap(),
                false => flip(&base, &name),
            }
        }
        let work = |place: &Place<Option<Snapshot>>| {
            mend_index(&place.process(), true);
            let snapshot = try_backup(&open(&place.process()), &tree, None).unwrap();
            place.report(Some(snapshot));
        };
        cut(&base, 10, None, work, |store, saved, what| {
            let what = format!("lost: {is_lost}, {what}");
            let repo = open(store);
            let listed = names(store, ObjectKind::Snapshot);
            assert!(kept.0.iter().all(|(s, _)| listed.contains(&s.id)), "{what}");
            holds(&repo, &kept.0[0].0, &kept.0[0].1, &what);
            if let Some(saved) = saved {
                assert!(listed.contains(&saved.id), "{what}: a saved snapshot is gone");
                holds(&repo, &saved, &tree, &what);
                holds(&repo, &kept.0[1].0, &kept.0[1].1, &what);
            }
        });
    }
}

#[test]
fn repair_of_snapshots() {
    let (base, kept) = lossy();
    let options = RepairSnapshotsOptions::default();
    let repair = |store: &Store| {
        let report = repair_snapshots(&open(store), &options, &Quiet::default()).unwrap();
        report.repaired[0].repaired.unwrap()
    };
    let work = |place: &Place<Option<ObjectId>>| {
        let id = repair(&place.process());
        place.report(Some(id));
    };
    cut(&base, 10, None, work, |store, reported, what| {
        let before = names(store, ObjectKind::Snapshot);
        assert!(kept.0.iter().all(|(s, _)| before.contains(&s.id)), "{what}: an original is gone");
        assert!(reported.is_none_or(|id| before.contains(&id)), "{what}: it is gone");
        let id = repair(store);
        assert!(reported.is_none_or(|reported| reported == id), "{what}: repaired again");
        assert_eq!(names(store, ObjectKind::Snapshot).len(), 3, "{what}");
        let repo = open(store);
        holds(&repo, &kept.0[0].0, &kept.0[0].1, what);
        reads_whole(&repo, &id, what);
    });
}

/// An object of each kind is damaged, and of parity one is damaged and one is gone.
#[test]
fn repair_of_objects() {
    let (base, kept, _) = snapshots(ParityShare::new(50), 3);
    base.put(&ObjectName::new(ObjectKind::Parity, ObjectId([7; 32])), b"of nothing").unwrap();
    let mut kinds = ObjectKind::ALL.to_vec();
    kinds.retain(|kind| *kind != ObjectKind::Parity && !all_of(&base, *kind).is_empty());
    let whole = objects(&base);
    kinds.iter().for_each(|kind| flip(&base, &all_of(&base, *kind)[0]));
    let packs = all_of(&base, ObjectKind::Pack);
    flip(&base, &packs[1].parity());
    base.delete(&packs[2].parity()).unwrap();
    let repair = |store: &Store| {
        let options = RepairObjectsOptions::default();
        repair_objects(store, &options, &Quiet::default()).unwrap()
    };
    let work = |place: &Place<bool>| {
        let report = repair(&place.process());
        assert_eq!((report.mended.len(), report.parity_made.len()), (kinds.len(), 2));
        assert_eq!((report.left.len(), report.parity_removed), (0, 1));
        place.report(true);
    };
    cut(&base, 20, false, work, |store, done, what| {
        if !done {
            let report = repair(store);
            assert!(report.left.is_empty(), "{what}: {report:?}");
        }
        assert!(scrub(store, &Quiet::default()).unwrap().problems.is_empty(), "{what}");
        let now = objects(store);
        assert!(now.iter().all(|(name, bytes)| whole[name] == *bytes), "{what}");
        assert_eq!(now.len(), whole.len() - 1, "{what}");
        kept.verify(store, what);
    });
}

#[test]
fn a_key_is_added() {
    for parity in [None, ParityShare::new(50)] {
        let (base, kept, _) = snapshots(parity, 1);
        let client = Client::new();
        client.is_content(&base, "at first");
        let work = |place: &Place<bool>| {
            open(&place.process()).add_key(&other_password(), "second", COST).unwrap();
            place.report(true);
        };
        cut(&base, 4, false, work, |store, added, what| {
            client.twin().is_content(store, what);
            assert!(!added || opens(store, &other_password()), "{what}");
            assert_all_open(store, &kept, what);
        });
    }
}

#[test]
fn a_key_is_removed() {
    for parity in [None, ParityShare::new(50)] {
        let (base, kept, _) = snapshots(parity, 1);
        let id = open(&base).add_key(&other_password(), "second", COST).unwrap();
        let client = Client::new();
        client.is_content(&base, "at first");
        let work = |place: &Place<bool>| {
            open(&place.process()).remove_key(&id).unwrap();
            place.report(true);
        };
        cut(&base, 6, false, work, |store, removed, what| {
            client.twin().is_content(store, what);
            assert!(!removed || !opens(store, &other_password()), "{what}");
            // Nor is it made anew.
            if parity.is_some() {
                let options = RepairObjectsOptions::default();
                repair_objects(store, &options, &Quiet::default()).unwrap();
                assert!(!removed || !opens(store, &other_password()), "{what}, repaired");
            }
            assert_all_open(store, &kept, what);
        });
    }
}

/// The first password opens it, and all is there.
fn assert_all_open(store: &Store, kept: &Kept, what: &str) {
    let repo = open(store);
    kept.0.iter().for_each(|(snapshot, tree)| holds(&repo, snapshot, tree, what));
}

/// As many records as are joined by the next forget.
#[test]
fn records_are_joined() {
    let (base, mut kept, _) = snapshots(None, 2);
    let client = Client::new();
    let repo = client.open(&base);
    let save = |_| repo.save_snapshot(&kept.0[0].0.data).unwrap();
    let mut gone: Vec<_> = (0..17).map(save).collect();
    client.is_content(&base, "at first");
    let last = gone.pop().unwrap();
    gone.iter().for_each(|id| open(&base).forget(&[*id]).unwrap());
    assert_eq!(names(&base, ObjectKind::Forgotten).len(), 16);
    let gone = [last, kept.0.remove(0).0.id];
    let work = |place: &Place<bool>| {
        open(&place.process()).forget(&gone).unwrap();
        place.report(true);
    };
    cut(&base, 20, false, work, |store, done, what| {
        client.twin().is_content(store, what);
        assert_whole(&open(store), &kept, what);
        if done {
            kept.verify(store, what);
            assert_eq!(names(store, ObjectKind::Forgotten).len(), 1, "{what}");
        }
    });
}
