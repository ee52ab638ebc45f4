//! How many instructions fixed small workloads take, counted by callgrind: no clock is needed,
//! and a change that makes them half as dear again is noticed on any machine. The test starts
//! itself below valgrind; `workload` is what runs there.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use fastrand::Rng;
use tresor_engine::crypto::KdfCost;
use tresor_engine::monitor::Quiet;
use tresor_engine::repo::{InitOptions, Repository, Snapshot};
use tresor_engine::restorer::{RestoreOptions, restore};
use tresor_engine::select::SnapshotFilter;
use tresor_engine::store::{MemoryStore, Store};
use tresor_mountfs::{DriveOptions, Ino, Layout, SnapshotFs};
use tresor_testkit::{Item, backup, open, options, password};

/// Which workload the child runs.
const TASK: &str = "TRESOR_TEST_WORKLOAD";
/// The least that a repository accepts, so that not all is hashing of passwords.
const COST: KdfCost = KdfCost { memory: 8 * 1024, passes: 1, lanes: 1 };

/// What each workload takes beyond another one, in millions, in a build for tests. Valgrind knows no
/// AVX-512, so that this is the same on all machines that have AVX2.
const WORKLOADS: [(&str, &str, u64); 4] = [
    ("backup", "open", 100),
    ("unchanged", "backup", 10),
    ("restore", "backup", 47),
    ("drive", "backup", 20),
];

fn has_valgrind() -> bool {
    let version = Command::new("valgrind").arg("--version").stdout(Stdio::null()).status();
    let has = version.is_ok_and(|status| status.success());
    if !has {
        eprintln!(
            "SKIPPED: instructions are not counted without valgrind (a package of that name)"
        );
    }
    has
}

/// Millions of instructions that a workload takes altogether.
fn millions(workload: &str) -> u64 {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut command = Command::new("valgrind");
    // For callgrind_annotate, if there is more than there should be.
    let out = folder.join(format!("callgrind.{workload}"));
    command.args(["--tool=callgrind", &format!("--callgrind-out-file={}", out.display())]);
    command.arg(std::env::current_exe().unwrap()).args(["--exact", "workload"]);
    let output = command.env(TASK, workload).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{workload}: {said}");
    let collected = said.lines().find_map(|line| line.split("Collected : ").nth(1));
    collected.and_then(|n| n.trim().parse::<u64>().ok()).unwrap_or_else(|| panic!("{said}"))
        / 1_000_000
}

#[test]
fn instructions_of_fixed_workloads() {
    if !has_valgrind() {
        return;
    }
    let names = ["open", "backup", "unchanged", "restore", "drive"];
    let counts: Vec<_> = thread::scope(|scope| {
        let counting: Vec<_> = names.map(|name| scope.spawn(move || millions(name))).into();
        counting.into_iter().map(|c| c.join().unwrap()).collect()
    });
    let of = |name: &str| counts[names.iter().position(|n| *n == name).unwrap()];
    let mut wrong = Vec::new();
    for (name, base, usual) in WORKLOADS {
        let took = of(name).saturating_sub(of(base));
        eprintln!("{name}: {took} million instructions, usually {usual}");
        if took > usual * 3 / 2 {
            wrong.push(format!("{name}: {took} million instructions instead of {usual}"));
        }
        // A bound that is far above what it takes would notice nothing.
        if took < usual / 2 {
            wrong.push(format!("{name}: only {took} million; lower what is said to be usual"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// Runs below valgrind only.
#[test]
fn workload() {
    let Ok(task) = std::env::var(TASK) else { return };
    let store: Store = Arc::new(MemoryStore::new());
    let init =
        InitOptions { label: "test".into(), cost: COST, parity: None, chunks: Default::default() };
    Repository::init(&store, &password(), &init).unwrap();
    let repo = open(&store);
    if task == "open" {
        return;
    }
    let tree = tree();
    let (snapshot, _) = backup(&repo, &tree, &options(None));
    match task.as_str() {
        "backup" => {}
        "unchanged" => {
            let (again, _) = backup(&repo, &tree, &options(Some(snapshot.clone())));
            assert_eq!(again.data.tree, snapshot.data.tree);
        }
        "restore" => {
            let target = tempfile::tempdir().unwrap();
            let sink = tresor_platform::open_sink(target.path()).unwrap();
            let (options, monitor) = (RestoreOptions::default(), Arc::new(Quiet::default()));
            let done = restore(&repo, &snapshot.data.tree, &[], sink, &options, monitor).unwrap();
            assert_eq!((done.files_restored, done.errors), (FILES * FOLDERS + 1, 0));
        }
        "drive" => read_on_a_drive(&repo, snapshot),
        task => panic!("there is no workload {task}"),
    }
}

const FOLDERS: u64 = 6;
const FILES: u64 = 100;
const LARGE: usize = 2 << 20;

/// Small files with text, and a large one that doesn't compress.
fn tree() -> Item {
    let mut rng = Rng::with_seed(11);
    let mut tree = Item::dir();
    for folder in 0..FOLDERS {
        let below = (0..FILES).fold(Item::dir(), |dir, n| {
            dir.with(format!("file {n:03}"), Item::file(format!("{folder} {n} ").repeat(300)))
        });
        tree = tree.with(format!("folder {folder}"), below);
    }
    let large: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(LARGE).collect();
    tree.with("large", Item::file(large))
}

/// The large file from end to end.
fn read_on_a_drive(repo: &Arc<Repository>, snapshot: Snapshot) {
    const STEP: usize = 128 << 10;
    let options = DriveOptions {
        snapshot: Some(snapshot),
        filter: SnapshotFilter::default(),
        time_zone: jiff::tz::TimeZone::UTC,
        layout: Layout::Folders,
        cache_size: 16 << 20,
    };
    let fs = SnapshotFs::new(repo.clone(), options).unwrap();
    let file = fs.lookup(Ino::ROOT, b"large").unwrap().ino;
    for at in (0..LARGE).step_by(STEP) {
        fs.read_ahead(file, at as u64, STEP);
        assert_eq!(fs.read_at(file, at as u64, STEP).unwrap().len(), STEP);
    }
}
