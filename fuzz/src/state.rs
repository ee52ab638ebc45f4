//! What a client keeps of what it has seen: a file that others may have changed or the
//! disk has garbled. It keeps nobody from the repository, and is made anew.

use std::fs;
use std::sync::{Arc, LazyLock, Mutex};

use tresor_engine::format::ObjectId;
use tresor_engine::repo::{Notice, OpenOptions, Repository, StateOptions};
use tresor_engine::store::{MemoryStore, Store};
use tresor_testkit::{Item, backup, options, password};

use crate::world;

const MAGIC: &[u8] = b"tresor state 1\n";
/// In an input these stand for the repository's id and for its snapshot's: they are random.
pub const REPOSITORY: [u8; 16] = [0xee; 16];
pub const SNAPSHOT: [u8; 32] = [0xdd; 32];

struct World {
    store: Store,
    repository: [u8; 16],
    snapshot: ObjectId,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let store: Store = Arc::new(MemoryStore::new());
    let repo = world::init(&store);
    let tree = Item::dir().with("file", Item::file("bytes"));
    let (snapshot, _) = backup(&repo, &tree, &options(None));
    World { store, repository: repo.id(), snapshot: snapshot.id }
});

fn replace(text: &mut [u8], from: &[u8], to: &[u8]) {
    let places = text.windows(from.len()).enumerate().filter(|(_, w)| *w == from);
    let places: Vec<_> = places.map(|(at, _)| at).collect();
    // The first of those that overlap.
    let mut free = 0;
    for at in places {
        if at >= free {
            text[at..at + to.len()].copy_from_slice(to);
            free = at + to.len();
        }
    }
}

/// The whole file, if it begins like one, or else what its hash protects.
pub fn state_file(input: &[u8]) {
    let world = &*WORLD;
    let mut text = input.to_vec();
    replace(&mut text, &REPOSITORY, &world.repository);
    replace(&mut text, &SNAPSHOT, &world.snapshot.0);
    let bytes = match text.starts_with(MAGIC) {
        true => text,
        false => [MAGIC, blake3::hash(&text).as_bytes(), &text].concat(),
    };
    let folder = tempfile::tempdir().unwrap();
    let name: String = world.repository.iter().map(|b| format!("{b:02x}")).collect();
    fs::write(folder.path().join(name), &bytes).unwrap();

    // As it is, then as that has left it; then taken as it is, and what is left after that.
    for (accept_older, must_be_fine) in [(false, false), (true, false), (false, true)] {
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = {
            let told = told.clone();
            Arc::new(move |notice: &Notice| told.lock().unwrap().push(notice.clone()))
        };
        let state = StateOptions { folder: folder.path().to_owned(), accept_older, tell };
        let options = OpenOptions { state: Some(state), ..OpenOptions::default() };
        let repo = Repository::open(world.store.clone(), &password(), &options).unwrap();
        assert_eq!(repo.snapshot_ids().unwrap(), [world.snapshot]);
        assert_eq!(repo.snapshots().unwrap().len(), 1);
        assert_eq!(repo.key_slots().unwrap().len(), 1);
        let told = told.lock().unwrap();
        for notice in told.iter() {
            assert!(!matches!(notice, Notice::NotKept(..)), "{notice:?}");
            if let Notice::SetBack(setback) | Notice::Accepted(setback) = notice {
                assert!(setback.count() > 0 && setback.count() <= input.len());
            }
            assert!(!must_be_fine, "it was accepted, and still {notice:?}");
        }
    }
}
