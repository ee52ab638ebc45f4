//! No key and nonce meet twice: each object has a salt of its own, hence a key of its
//! own, and no two pieces of a pack begin at the same place. Looked at over a history
//! of backups, prunes, key changes, damages and repairs, failed calls among them, in all
//! objects that anybody ever wanted to store.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use fastrand::Rng;
use tresor_engine::crypto::{KdfCost, Password};
use tresor_engine::format::{
    Config, KeySlot, ObjectId, ObjectKind, ObjectName, PACK_TRAILER_LEN, ParityShare,
};
use tresor_engine::maintenance::{
    MaxUnused, PruneOptions, RepairIndexOptions, RepairSnapshotsOptions, plan_prune, prune,
    repair_index, repair_snapshots,
};
use tresor_engine::monitor::Quiet;
use tresor_engine::pack::read_table;
use tresor_engine::repo::{InitOptions, OpenOptions, Repository};
use tresor_engine::store::{MemoryStore, Store};
use tresor_testkit::{HookedStore, Item, options, password, random_bytes};

const COST: KdfCost = KdfCost { memory: 8 * 1024, passes: 1, lanes: 1 };

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

    fn look_at(&mut self, name: &ObjectName, bytes: &[u8]) {
        match name.kind {
            ObjectKind::Config => {
                let config = Config::parse(bytes).unwrap();
                self.add(&config.secret[8..40], "config".into());
            }
            ObjectKind::Key => {
                let slot: KeySlot = minicbor::decode(bytes).unwrap();
                self.add(&slot.salt, format!("{name}, password"));
                self.add(&slot.info[8..40], format!("{name}, info"));
            }
            // Nothing in it is encrypted.
            ObjectKind::Parity => {}
            _ => self.add(&bytes[8..40], name.to_string()),
        }
    }
}

/// Where the pieces of a pack begin, which are their nonces: segments, padding, table, trailer.
fn pieces_are_apart(repo: &Repository, id: ObjectId, bytes: &[u8]) {
    let entry = read_table(repo.keys(), id, bytes).unwrap();
    let mut starts = BTreeSet::new();
    let mut end = 0;
    for (offset, segment) in entry.placed() {
        assert!(segment.sealed_len > 16 && starts.insert(u64::from(offset)));
        end = u64::from(offset) + u64::from(segment.sealed_len);
    }
    let trailer = bytes.len() as u64 - PACK_TRAILER_LEN as u64;
    // The padding begins where the segments end, and is a piece even if it is empty.
    assert!(starts.insert(end) && end + 16 + 16 <= trailer && starts.insert(trailer));
}

#[derive(Default)]
struct Seen {
    salts: Salts,
    packs: HashMap<ObjectId, Vec<u8>>,
}

#[test]
fn no_key_and_nonce_meet_twice() {
    let most = [None, ParityShare::new(50)].map(history).into_iter().sum::<usize>();
    assert!(most > 500, "{most}");
}

/// A long life of a repository; how many salts there were.
fn history(parity: Option<ParityShare>) -> usize {
    let inner: Store = Arc::new(MemoryStore::new());
    let seen: Arc<Mutex<Seen>> = Arc::default();
    // So many calls from now on one fails.
    let left = Arc::new(AtomicUsize::new(usize::MAX));
    let (observed, counter) = (seen.clone(), left.clone());
    let hooked = HookedStore::new(inner.clone(), move |_: &_| match counter.fetch_sub(1, SeqCst) {
        0 => Err(HookedStore::broken()),
        _ => Ok(()),
    });
    let store: Store = Arc::new(hooked.observing(move |name, bytes| {
        let mut seen = observed.lock().unwrap();
        seen.salts.look_at(name, bytes);
        if name.kind == ObjectKind::Pack {
            seen.packs.insert(name.id, bytes.to_vec());
        }
    }));
    let mut current = password();
    Repository::init(
        &store,
        &current,
        &InitOptions { label: "test".into(), cost: COST, parity, chunks: Default::default() },
    )
    .unwrap();
    let mut rng = Rng::with_seed(11);
    let mut tree = Item::dir();
    let quiet = Quiet::default();
    for round in 0..150 {
        let repo = Repository::open(store.clone(), &current, &OpenOptions::default()).unwrap();
        if rng.u8(..3) == 0 {
            left.store(rng.usize(..25), SeqCst);
        }
        match rng.u8(..12) {
            0..=5 => {
                for _ in 0..3 {
                    let bytes = random_bytes(&mut rng, 40_000);
                    let name = format!("{}", rng.u8(..40));
                    tree.entries_mut().insert(name.into_bytes(), Item::file(bytes));
                }
                // Without a parent all is read again; the same content makes new objects, too.
                let parent = repo.snapshots().ok().and_then(|mut all| all.pop());
                let options = options(parent.filter(|_| rng.bool()));
                let source = tree.source();
                let _ = tresor_engine::archiver::backup(
                    &repo,
                    source,
                    &options,
                    Arc::new(Quiet::default()),
                );
            }
            6 | 7 => {
                let old = repo.snapshots().unwrap_or_default();
                let old: Vec<_> = old.iter().take(2).map(|s| s.id).collect();
                let _ = repo.forget(&old);
                let grace = std::time::Duration::ZERO;
                let options = PruneOptions {
                    grace,
                    max_unused: MaxUnused::Percent(0.0),
                    ..Default::default()
                };
                let plan = plan_prune(&repo, &options, &quiet);
                let _ = plan.and_then(|plan| prune(&repo, &options, plan, &quiet));
            }
            8 => {
                let _ = repo.add_key(&Password::new(b"another".to_vec()), "label", COST);
            }
            9 => {
                let new = Password::new(format!("password {round}").into_bytes());
                if repo.change_password(&new, "changed", COST).is_ok() {
                    current = new;
                }
            }
            _ => {
                let packs = inner.list(ObjectKind::Pack).unwrap();
                if let Some((name, _)) = rng.choice(packs) {
                    let mut bytes = inner.get(&name).unwrap();
                    bytes[60] ^= 1;
                    inner.replace(&name, &bytes).unwrap();
                }
                let options = RepairIndexOptions { read_all: true, dry_run: false };
                let _ = repair_index(&repo, &options, &quiet);
                let options = RepairSnapshotsOptions { read_data: true, ..Default::default() };
                let _ = repair_snapshots(&repo, &options, &quiet);
            }
        }
        left.store(usize::MAX, SeqCst);
        // A change that failed may have been made.
        if Repository::open(store.clone(), &current, &OpenOptions::default()).is_err() {
            current = Password::new(format!("password {round}").into_bytes());
        }
    }
    let repo = Repository::open(store.clone(), &current, &OpenOptions::default()).unwrap();
    let seen = seen.lock().unwrap();
    seen.packs.iter().for_each(|(id, bytes)| pieces_are_apart(&repo, *id, bytes));
    eprintln!("{} salts, {} packs", seen.salts.0.len(), seen.packs.len());
    seen.salts.0.len()
}
