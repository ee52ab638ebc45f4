//! No key and nonce meet twice: each object has a salt of its own, hence a key of its
//! own, and no two pieces of a pack begin at the same place. Looked at over a history
//! of backups, prunes, key changes and repairs, in all objects that there ever were.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use fastrand::Rng;
use tresor_engine::crypto::{KdfCost, Password};
use tresor_engine::format::{Config, KeySlot, ObjectId, ObjectKind, ObjectName};
use tresor_engine::maintenance::{PruneOptions, plan_prune, prune};
use tresor_engine::monitor::Quiet;
use tresor_engine::pack::read_table;
use tresor_engine::repo::Repository;
use tresor_engine::store::{MemoryStore, Store};
use tresor_testkit::{Item, backup, init, open, options, random_bytes};

/// Salts by what they are for, and the object that they are in.
#[derive(Default)]
struct Salts(HashMap<[u8; 32], String>);

impl Salts {
    fn add(&mut self, salt: &[u8], of: String) {
        let salt: [u8; 32] = salt.try_into().unwrap();
        assert_ne!(salt, [0; 32], "{of}");
        if let Some(known) = self.0.insert(salt, of.clone()) {
            assert_eq!(known, of, "they have the same salt");
        }
    }

    /// Looks at all objects of a store.
    fn collect(&mut self, repo: &Repository, store: &Store) {
        let config = store.get(&ObjectName::CONFIG).unwrap();
        let config = Config::parse(&config).unwrap();
        self.add(&config.secret[8..40], "config".into());
        for kind in ObjectKind::ALL.into_iter().filter(|kind| *kind != ObjectKind::Config) {
            for (name, _) in store.list(kind).unwrap() {
                let bytes = store.get(&name).unwrap();
                if kind == ObjectKind::Key {
                    let slot: KeySlot = minicbor::decode(&bytes).unwrap();
                    self.add(&slot.salt, format!("{name}, password"));
                    self.add(&slot.info[8..40], format!("{name}, info"));
                } else {
                    self.add(&bytes[8..40], name.to_string());
                }
                if kind == ObjectKind::Pack {
                    pieces_are_apart(repo, name.id, &bytes);
                }
            }
        }
    }
}

/// Segments, table and trailer of a pack begin at different places.
fn pieces_are_apart(repo: &Repository, id: ObjectId, bytes: &[u8]) {
    let entry = read_table(repo.keys(), id, bytes).unwrap();
    let mut starts = BTreeSet::new();
    for (offset, segment) in entry.placed() {
        assert!(segment.sealed_len > 16 && starts.insert(offset));
    }
}

#[test]
fn no_key_and_nonce_meet_twice() {
    let store: Store = Arc::new(MemoryStore::new());
    init(&store);
    let mut rng = Rng::with_seed(11);
    let mut salts = Salts::default();
    let mut tree = Item::dir();
    for round in 0..40 {
        let repo = open(&store);
        for _ in 0..5 {
            let len = rng.usize(0..100_000);
            let name = format!("{}", rng.u8(..40));
            tree.entries_mut().insert(name.into_bytes(), Item::file(random_bytes(&mut rng, len)));
        }
        let parent = repo.snapshots().unwrap().pop();
        // Without a parent all is read again; the same content makes new objects, too.
        backup(&repo, &tree, &options(parent.filter(|_| rng.bool())));
        salts.collect(&repo, &store);
        if round % 4 == 3 {
            let snapshots = repo.snapshots().unwrap();
            let old: Vec<_> = snapshots.iter().take(2).map(|s| s.id).collect();
            repo.forget(&old).unwrap();
            let options = PruneOptions { grace: std::time::Duration::ZERO, ..Default::default() };
            let plan = plan_prune(&repo, &options, &Quiet::default()).unwrap();
            prune(&repo, &options, plan, &Quiet::default()).unwrap();
            salts.collect(&repo, &store);
        }
        if round % 10 == 9 {
            let password = Password::new(format!("another {round}").into_bytes());
            repo.add_key(&password, "label", KdfCost::FLOOR).unwrap();
            salts.collect(&repo, &store);
        }
    }
    assert!(salts.0.len() > 120, "{}", salts.0.len());
}
