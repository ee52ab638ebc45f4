//! Opening, listing and restoring: an error that says so or the right answer, and what is
//! kept of it is not wrong either.

use std::path::Path;
use std::sync::Mutex;

use tresor_engine::format::ParityShare;
use tresor_engine::repo::{Notice, Snapshot, StateOptions};
use tresor_engine::restorer::RestoreOptions;
use tresor_engine::store::StoreErrorKind;
use tresor_testkit::{Body, Item, random_bytes};

use super::*;
use crate::kit::{Target, fit};

/// Those that fail what reads.
const FAULTS: [Fault; 9] = [
    Fault::Before,
    Fault::After,
    Fault::Dead,
    Fault::Once(StoreErrorKind::NotFound),
    Fault::From(StoreErrorKind::NotFound),
    Fault::Once(StoreErrorKind::Unreadable),
    Fault::From(StoreErrorKind::Unreadable),
    Fault::Once(StoreErrorKind::PermissionDenied),
    Fault::Once(StoreErrorKind::Truncated),
];

/// Two snapshots; files small and so long that their chunks are in several packs.
fn base(parity: Option<ParityShare>) -> (Store, Kept) {
    let mut rng = fastrand::Rng::with_seed(17);
    let store = new_store_with(parity);
    let mut kept = Kept::default();
    let small = |name: &str| Item::file(name);
    let mut sub = Item::dir().with("one", small("one")).with("two", small("two"));
    for n in 0..2 {
        let long = Item::file(random_bytes(&mut rng, 300_000));
        sub = sub.with(format!("long{n}"), long);
        let mut tree = Item::dir().with("sub", sub.clone()).with("empty", Item::dir());
        fit(&mut tree);
        kept.add(&open(&store), &tree);
    }
    // A record, which says what isn't lost.
    let twin = open(&store).save_snapshot(&kept.0[0].0.data).unwrap();
    open(&store).forget(&[twin]).unwrap();
    (store, kept)
}

/// Somebody who keeps what he has seen, and parts of the index.
struct Reader {
    state: Client,
    cache: tempfile::TempDir,
}

impl Reader {
    /// Reads everything. What is given without an error is right.
    fn read(&self, store: &Store, kept: &Kept, what: &str) -> tresor_engine::Result<()> {
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = told.clone();
        let state = StateOptions {
            folder: self.state.folder.path().to_owned(),
            accept_older: false,
            tell: Arc::new(move |notice: &Notice| tell.lock().unwrap().push(notice.clone())),
        };
        let cache = Some(self.cache.path().to_owned());
        let options = OpenOptions { cache, state: Some(state), on_mended: None };
        let repo = Repository::open(store.clone(), &password(), &options)?;
        let listed = repo.snapshots_and_damaged();
        let setback = repo.setback();
        let is_alarmed = !setback.snapshots.is_empty() || !setback.key_slots.is_empty();
        assert!(!is_alarmed, "{what}: {:?}", told.lock().unwrap());
        let (listed, damaged) = listed?;
        if let Some((_, reason)) = damaged.into_iter().next() {
            return Err(Error::Snapshot(reason));
        }
        let listed: Vec<_> = listed.into_iter().map(|s| s.id).collect();
        let expected: Vec<_> = kept.0.iter().map(|(s, _)| s.id).collect();
        assert_eq!(listed, expected, "{what}");
        let [slot] = &repo.key_slots()?[..] else { panic!("{what}: there is one password") };
        slot.info.as_ref().map_err(|reason| Error::Snapshot(reason.clone()))?;
        for (snapshot, tree) in &kept.0 {
            restores(&repo, snapshot, tree, what)?;
        }
        Ok(())
    }
}

/// Restores a snapshot to a folder. What is there then is right, and all of it is there if
/// nothing else was said.
fn restores(
    repo: &Arc<Repository>,
    snapshot: &Snapshot,
    tree: &Item,
    what: &str,
) -> tresor_engine::Result<()> {
    let mut target = Target::new();
    let sink = target.sink();
    let root = &snapshot.data.tree;
    let (restored, problems) = target.run(repo, root, &[], sink, &RestoreOptions::default());
    let missing = missing(target.folder.path(), tree, what);
    let restored = restored?;
    assert_eq!(restored.errors, problems.len() as u64, "{what}: {problems:?}");
    match problems.into_iter().next() {
        Some(problem) => Err(Error::Invalid(problem)),
        None => {
            assert_eq!(missing, 0, "{what}: nobody said that something is missing");
            Ok(())
        }
    }
}

/// How many entries are not there; what is there is what it must be.
fn missing(folder: &Path, item: &Item, what: &str) -> usize {
    let below = |(name, item): (&Vec<u8>, &Item)| {
        let path = folder.join(std::str::from_utf8(name).unwrap());
        match (&item.body, std::fs::symlink_metadata(&path)) {
            (_, Err(_)) => 1,
            (Body::File(bytes, _), Ok(_)) => {
                let read = std::fs::read(&path).unwrap();
                assert!(read == **bytes, "{what}: {} has other bytes", path.display());
                0
            }
            (_, Ok(_)) => missing(&path, item, what),
        }
    };
    item.entries().iter().map(below).sum()
}

fn every_reading_call(parity: Option<ParityShare>, faults: &[Fault]) {
    let (base, kept) = base(parity);
    let before = objects(&base);
    let client = Client::new();
    client.is_content(&base, "at first");
    for &fault in faults {
        let mut failed = 0;
        for at in 0.. {
            let what = format!("{fault:?}, call {at}");
            let reader = Reader { state: client.twin(), cache: tempfile::tempdir().unwrap() };
            let faulty = Faulty::new(&base, fault, at);
            let result = reader.read(&faulty.store, &kept, &what);
            assert!(objects(&base) == before, "{what}: a reader has changed something");
            let ended = faulty.calls() <= at;
            failed += usize::from(result.is_err());
            if let Err(e) = &result {
                assert!(!ended && !e.to_string().contains("please report"), "{what}: {e}");
            }
            let again = reader.read(&base, &kept, &what);
            again.unwrap_or_else(|e| panic!("{what}, and again: {e}"));
            reader.state.is_content(&base, &what);
            if ended {
                assert!(at >= 15, "only {at} calls");
                eprintln!("{fault:?}, of which {failed} mattered: each of {at} calls");
                break;
            }
        }
    }
}

#[test]
fn reading() {
    every_reading_call(None, &FAULTS);
}

/// Bad sectors can be read around, but not what can't be reached.
#[test]
fn reading_with_parity() {
    let damage = [StoreErrorKind::Unreadable, StoreErrorKind::Truncated];
    let faults = [Fault::Before, Fault::Once(damage[0]), Fault::Once(damage[1])];
    every_reading_call(ParityShare::new(50), &faults);
}
