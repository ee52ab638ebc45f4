//! A process that really dies, at each of its calls to a store on the disk in turn. The
//! test starts itself: `child` is what dies.
#![cfg(unix)]

#[path = "prune/world.rs"]
#[allow(dead_code, reason = "each test binary uses a part")]
mod world;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tresor_engine::Result;
use tresor_engine::crypto::{KdfCost, Password};
use tresor_engine::format::ObjectKind;
use tresor_engine::maintenance::{
    RepairIndexOptions, RepairSnapshotsOptions, repair_index, repair_snapshots,
};
use tresor_engine::monitor::Quiet;
use tresor_engine::repo::{InitOptions, OpenOptions, Repository};
use tresor_engine::store::{LocalStore, Store};
use tresor_testkit::{HookedStore, password};

use world::*;

const COST: KdfCost = KdfCost { memory: 8 * 1024, passes: 1, lanes: 1 };
/// What the child does, at which call it dies, and where.
const TASK: &str = "TRESOR_TEST_TASK";

fn other_password() -> Password {
    Password::new(b"battery staple".to_vec())
}

fn local(path: &Path) -> Store {
    Arc::new(LocalStore::new(path))
}

/// Does one thing to a repository.
fn work(store: &Store, what: &str) -> Result<()> {
    if what == "init" {
        let options = InitOptions {
            label: "test".into(),
            cost: COST,
            parity: None,
            chunks: Default::default(),
        };
        return Repository::init(store, &password(), &options);
    }
    let repo = Repository::open(store.clone(), &password(), &OpenOptions::default())?;
    let quiet = Quiet::default();
    match what {
        "backup" => try_backup(&repo, &three_snapshots().2, repo.snapshots()?.pop()).map(drop),
        "forget" => repo.forget(&[repo.snapshots()?[0].id]),
        "prune" => prune_at(&repo, &all(), 0).map(drop),
        "passwd" => repo.change_password(&other_password(), "new", COST).map(drop),
        "repair index" => {
            let options = RepairIndexOptions { read_all: true, dry_run: false };
            repair_index(&repo, &options, &quiet).map(drop)
        }
        "repair snapshots" => {
            repair_snapshots(&repo, &RepairSnapshotsOptions::default(), &quiet).map(drop)
        }
        _ => panic!("what is {what}?"),
    }
}

#[test]
#[ignore = "the other tests start it in a process of its own"]
fn child() {
    let Ok(task) = std::env::var(TASK) else { return };
    let [what, at, path] = task.split('|').collect::<Vec<_>>()[..] else { panic!("{task}") };
    let (at, calls) = (at.parse().unwrap(), AtomicUsize::new(0));
    let hook = move |_: &_| {
        if calls.fetch_add(1, SeqCst) == at {
            std::process::abort();
        }
        Ok(())
    };
    let store: Store = Arc::new(HookedStore::new(local(Path::new(path)), hook));
    work(&store, what).unwrap();
}

/// Whether the child died.
fn dies(what: &str, at: usize, path: &Path) -> bool {
    use std::os::unix::process::ExitStatusExt;
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture", "--test-threads", "1"])
        .env(TASK, format!("{what}|{at}|{}", path.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success() || status.signal() == Some(6), "{what}, call {at}: {status}");
    !status.success()
}

/// Calls from one death to the next; `TRESOR_TEST_ROUNDS=1` tries each of them. That each call
/// may fail for good is in `faults.rs`; here it is shown that dying is no more than that.
fn stride() -> usize {
    if std::env::var_os("TRESOR_TEST_ROUNDS").is_some() { 1 } else { 6 }
}

/// Lets `what` die at its calls in turn; `look` gets what is left each time.
fn at_calls(what: &str, base: &Store, least: usize, look: impl Fn(&Store, &str)) {
    let before = objects(base);
    // A short one is tried at each call.
    let stride = if least > 5 { stride() } else { 1 };
    for at in (fastrand::usize(..stride)..).step_by(stride) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("repo");
        let store = local(&path);
        if !before.is_empty() {
            store.create().unwrap();
        }
        before.iter().for_each(|(name, bytes)| store.put(name, bytes).unwrap());
        let died = dies(what, at, &path);
        look(&store, &format!("{what}, dead at call {at}"));
        if !died {
            assert!(at >= least, "{what}: only {at} calls");
            eprintln!("{what}: died at one of {stride} of {at} calls");
            break;
        }
    }
}

#[test]
fn a_backup_dies() {
    let (base, kept, tree) = three_snapshots();
    at_calls("backup", &base, 10, |store, what| {
        assert_whole(&open(store), &kept, what);
        let mut kept = kept.clone();
        kept.add(&open(store), &tree);
        assert_whole(&open(store), &kept, what);
    });
}

#[test]
fn a_forget_and_a_prune_die() {
    let (base, mut kept, _) = three_snapshots();
    kept.0.remove(0);
    at_calls("forget", &base, 5, |store, what| assert_whole(&open(store), &kept, what));
    work(&base, "forget").unwrap();
    at_calls("prune", &base, 20, |store, what| {
        kept.verify(store, what);
        work(store, "prune").unwrap();
        kept.verify_clean(store, what);
    });
}

#[test]
fn a_change_of_the_password_dies() {
    let (base, kept, _) = three_snapshots();
    at_calls("passwd", &base, 5, |store, what| {
        let open = |p| Repository::open(store.clone(), &p, &OpenOptions::default()).ok();
        let repo = open(other_password()).or_else(|| open(password()));
        assert_whole(&repo.unwrap_or_else(|| panic!("{what}: locked out")), &kept, what);
    });
}

#[test]
fn repairs_die() {
    let (base, kept, _) = broken_index();
    at_calls("repair index", &base, 20, |store, what| {
        work(store, "repair index").unwrap();
        kept.verify(store, what);
    });
    let (base, kept) = lossy();
    at_calls("repair snapshots", &base, 20, |store, what| {
        work(store, "repair snapshots").unwrap();
        let listed = names(store, ObjectKind::Snapshot);
        assert!(kept.0.iter().all(|(s, _)| listed.contains(&s.id)), "{what}");
        assert_eq!(listed.len(), 3, "{what}: one repaired snapshot, once");
        holds(&open(store), &kept.0[0].0, &kept.0[0].1, what);
        let repo = open(store);
        let snapshots = repo.snapshots().unwrap();
        let repaired = snapshots.iter().find(|s| s.is_repaired()).unwrap();
        reads_whole(&repo, &repaired.id, what);
    });
}

#[test]
fn an_init_dies() {
    let nothing: Store = Arc::new(tresor_engine::store::MemoryStore::new());
    at_calls("init", &nothing, 5, |store, what| {
        if Repository::open(store.clone(), &password(), &OpenOptions::default()).is_err() {
            work(store, "init").unwrap_or_else(|e| panic!("{what}: {e}"));
        }
        Kept::default().verify(store, what);
    });
}
