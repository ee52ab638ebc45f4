//! The power fails after any change to the disk: whatever was not forced to it may
//! be lost, in any combination. What was reported as saved is there.

#[path = "setback/client.rs"]
mod client;
#[path = "power_loss/platter.rs"]
mod platter;
#[path = "power_loss/repairs.rs"]
mod repairs;
#[allow(dead_code, reason = "each test binary uses a part")]
#[path = "prune/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fastrand::Rng;
use tresor_engine::Error;
use tresor_engine::crypto::{KdfCost, Password};
use tresor_engine::format::{ObjectKind, ParityShare};
use tresor_engine::maintenance::{CheckOptions, RepairObjectsOptions, check, repair_objects};
use tresor_engine::monitor::Quiet;
use tresor_engine::repo::{InitOptions, OpenOptions, Repository};
use tresor_engine::store::{Disk, LocalStore, Store};
use tresor_testkit::{Item, password};

use platter::{Entry, Watched, store_of_image};
use world::*;

const COST: KdfCost = KdfCost { memory: 8 * 1024, passes: 1, lanes: 1 };

/// What has been reported so far.
#[derive(Clone)]
struct Reported {
    made: bool,
    kept: Kept,
    /// One of these opens.
    passwords: Vec<&'static str>,
}

impl Reported {
    fn nothing() -> Self {
        Self { made: false, kept: Kept::default(), passwords: vec!["correct horse"] }
    }
}

fn assert_saved(store: &Store, reported: &Reported, what: &str) {
    let open = || {
        let try_open = |p: &&str| {
            let password = Password::new(p.as_bytes().to_vec());
            Repository::open(store.clone(), &password, &OpenOptions::default()).ok()
        };
        reported.passwords.iter().find_map(try_open)
    };
    let repo = open().unwrap_or_else(|| panic!("{what}: nobody can open it"));
    let options = CheckOptions { read_data: true, ..Default::default() };
    let report = check(&repo, &options, &Quiet::default()).unwrap();
    assert!(report.problems.is_empty(), "{what}: {:#?}", report.problems);
    let listed = names(store, ObjectKind::Snapshot);
    for (snapshot, tree) in &reported.kept.0 {
        assert!(listed.contains(&snapshot.id), "{what}: a saved snapshot is gone");
        holds(&repo, snapshot, tree, what);
    }
}

fn init(store: &Store, parity: Option<ParityShare>) -> tresor_engine::Result<()> {
    let options =
        InitOptions { label: "test".into(), cost: COST, parity, chunks: Default::default() };
    Repository::init(store, &password(), &options)
}

#[test]
fn what_was_reported_is_there_whenever_the_power_fails() {
    whenever_the_power_fails(None);
}

#[test]
fn so_it_is_with_parity() {
    whenever_the_power_fails(Some(ParityShare::new(50).unwrap()));
}

fn whenever_the_power_fails(parity: Option<ParityShare>) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("repo");
    let disk = Watched::new(Reported::nothing());
    let store: Store = Arc::new(LocalStore::with_disk(&root, disk.clone()));

    init(&store, parity).unwrap();
    disk.report(|r| r.made = true);
    let mut rng = Rng::with_seed(5);
    let (repo, mut kept) = (open(&store), Kept::default());
    let mut tree = some_tree(&mut rng, 5);
    for _ in 0..3 {
        kept.add(&repo, &tree);
        disk.report(|r| r.kept = kept.clone());
        tree = change(&mut rng, &tree);
    }
    // From when it is asked for, a snapshot may be gone.
    let (gone, _) = kept.0.remove(0);
    disk.report(|r| r.kept = kept.clone());
    repo.forget(&[gone.id]).unwrap();
    prune_at(&repo, &all(), 0).unwrap();
    disk.report(|r| r.passwords.push("battery staple"));
    repo.change_password(&Password::new(b"battery staple".to_vec()), "new", COST).unwrap();
    disk.report(|r| r.passwords = vec!["battery staple"]);
    kept.add(&repo, &tree);
    disk.report(|r| r.kept = kept.clone());

    let images = disk.images();
    eprintln!("{} changes, each with two shares of what was unsettled", images.len());
    assert!(images.len() > 60, "{}", images.len());
    for (n, (platter, reported)) in images.iter().enumerate() {
        for share in [0.0, 0.5] {
            let image = platter.clone().after(&mut Rng::with_seed(n as u64), share);
            if reported.made {
                let what = format!("change {n} of {}, {share} kept", images.len());
                let store = store_of_image(&image, &root);
                if parity.is_some() {
                    // What isn't reported yet may lack its parity.
                    let options = RepairObjectsOptions::default();
                    let report = repair_objects(&store, &options, &Quiet::default()).unwrap();
                    assert!(
                        report.left.is_empty() && report.mended.is_empty(),
                        "{what}: {report:#?}"
                    );
                }
                assert_saved(&store, reported, &what);
            }
        }
    }
}

/// What an image has below a folder, as a folder on the disk.
fn folder_of_image(image: &BTreeMap<PathBuf, Entry>, from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    // Folders come before what is in them.
    for (path, entry) in image {
        let Ok(inside) = path.strip_prefix(from) else { continue };
        let to = to.join(inside);
        // What lies in a folder that was lost is lost, too.
        let _ = match entry {
            Some(bytes) => std::fs::write(to, &**bytes),
            None => std::fs::create_dir(to),
        };
    }
}

/// The power fails while a repository is made: it is there and opens, or can be made then.
#[test]
fn the_power_fails_during_init() {
    the_power_fails_during_init_in("repo", &[]);
}

/// What it lies in is made, too.
#[test]
fn the_power_fails_during_init_in_a_new_place() {
    the_power_fails_during_init_in("a/b/repo", &[]);
    the_power_fails_during_init_in("a/b/repo", &["a"]);
}

/// Nobody forced the names to the disk of folders that were just made for it.
#[test]
fn the_power_fails_during_init_in_folders_of_the_user() {
    the_power_fails_during_init_in("repo", &["repo"]);
    the_power_fails_during_init_in("a/b/repo", &["a", "a/b", "a/b/repo"]);
}

fn the_power_fails_during_init_in(place: &str, made_before: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join(place);
    let disk = Watched::new(Reported::nothing());
    made_before.iter().for_each(|made| disk.make_dir_above(&folder.path().join(made)).unwrap());
    let store: Store = Arc::new(LocalStore::with_disk(&root, disk.clone()));
    init(&store, None).unwrap();
    disk.report(|r| r.made = true);
    let images = disk.images();
    eprintln!("{} changes of init", images.len());
    assert!(images.len() > 8, "{}", images.len());
    let (mut made, mut again) = (0, 0);
    for (n, (platter, reported)) in images.iter().enumerate() {
        for round in 0..3u32 {
            let share = f64::from(round) / 3.0;
            let mut rng = Rng::with_seed(n as u64 * 100 + u64::from(round));
            let image = platter.clone().after(&mut rng, share);
            let what = format!("change {n} of {}, {share} kept", images.len());
            let to = folder.path().join(format!("{n}-{round}"));
            folder_of_image(&image, folder.path(), &to);
            let store: Store = Arc::new(LocalStore::new(to.join(place)));
            match init(&store, None) {
                Ok(()) => {
                    assert!(!reported.made, "{what}: it was reported as made, and is gone");
                    again += 1;
                }
                // It was made already, and must be whole.
                Err(Error::RepositoryExists(_)) => made += 1,
                Err(e) => panic!("{what}: {e}"),
            }
            assert_saved(&store, reported, &what);
            let backup = try_backup(&open(&store), &Item::dir(), None);
            assert!(backup.is_ok(), "{what}: {:?}", backup.err());
        }
    }
    assert!(made > 2 && again > 8, "{made} made, {again} again");
}
