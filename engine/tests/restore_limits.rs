//! Restores with few open files, and by a user who isn't root. Apart from the
//! others, as these tests change what holds for the whole process.
#![cfg(target_os = "linux")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};
use tresor_engine::monitor::Quiet;
use tresor_engine::repo::{Repository, Snapshot};
use tresor_engine::restorer::{RestoreOptions, Restored, restore};
use tresor_testkit::{Item, backup, options, repository};

type Saved = (Arc<Repository>, Snapshot);

fn save(tree: &Item) -> Saved {
    let repo = repository();
    let (snapshot, _) = backup(&repo, tree, &options(None));
    (repo, snapshot)
}

fn restore_into(
    (repo, snapshot): &Saved,
    folder: &Path,
    options: &RestoreOptions,
) -> (Restored, Vec<String>) {
    let sink = tresor_platform::open_sink(folder).unwrap();
    let monitor = Arc::new(Quiet::default());
    let restored = restore(repo, &snapshot.data.tree, &[], sink, options, monitor.clone());
    let problems = monitor.problems.lock().unwrap();
    let problems = problems.iter().map(|(path, message)| format!("{path}: {message}")).collect();
    (restored.unwrap(), problems)
}

#[test]
fn many_directories_need_few_open_files() {
    let mut tree = Item::dir();
    for i in 0..1500 {
        let file =
            Item::file(format!("a file longer than what lies in the tree itself, {i}").repeat(3));
        tree = tree.with(format!("{i:05}"), Item::dir().with("f", file));
    }
    own(&mut tree, geteuid().as_raw(), rustix::process::getegid().as_raw());
    let saved = save(&tree);
    let folder = tempfile::tempdir().unwrap();
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(220), ..limit }).unwrap();
    let (restored, problems) = restore_into(&saved, folder.path(), &RestoreOptions::default());
    setrlimit(Resource::Nofile, limit).unwrap();
    assert_eq!(problems, [""; 0]);
    assert_eq!((restored.files_restored, restored.directories), (1500, 1500));
}

fn own(item: &mut Item, uid: u32, gid: u32) {
    (item.node.uid, item.node.gid) = (uid, gid);
    if item.node.is_dir() {
        item.entries_mut().values_mut().for_each(|item| own(item, uid, gid));
    }
}

const NOBODY: u32 = 65_534;
/// Where the inner test works; it does nothing without it.
const FOLDER: &str = "TRESOR_TEST_FOLDER";

/// Runs the inner test as nobody, in a folder of his.
#[test]
fn closed_directories() {
    if !geteuid().is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    // The test binary may lie where nobody can't go.
    let binary = folder.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    let work = folder.path().join("work");
    fs::create_dir(&work).unwrap();
    chown(&work, Some(NOBODY), Some(NOBODY)).unwrap();
    let mut command = Command::new(&binary);
    command.args(["--exact", "closed_directories_inside", "--nocapture"]).env(FOLDER, &work);
    let output = command.current_dir("/").uid(NOBODY).gid(NOBODY).output().unwrap();
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    assert!(output.status.success() && told.contains("1 passed"), "{told}");
}

#[test]
fn closed_directories_inside() {
    let Some(work) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let mut closed = Item::dir()
        .with("f", Item::file("new"))
        .with("secret", Item::file("can't be read"))
        .with("sub", Item::dir().with("g", Item::file("new")));
    closed.node.mode = 0o500;
    closed.entries_mut().get_mut(&b"sub"[..]).unwrap().node.mode = 0o000;
    closed.entries_mut().get_mut(&b"secret"[..]).unwrap().node.mode = 0o000;
    let mut tree = Item::dir().with("closed", closed);
    own(&mut tree, NOBODY, NOBODY);
    let mode = |path: &str| fs::metadata(work.join(path)).unwrap().mode() & 0o7777;
    let open_up = || {
        fs::set_permissions(work.join("closed"), Permissions::from_mode(0o500)).unwrap();
    };
    let saved = save(&tree);
    let plain = RestoreOptions::default();
    for round in 0..3 {
        let (restored, problems) = restore_into(&saved, &work, &plain);
        assert_eq!(problems, [""; 0], "{round}");
        assert_eq!(restored.files_restored, if round == 0 { 3 } else { 0 });
        assert_eq!((mode("closed"), mode("closed/sub")), (0o500, 0o000));
        open_up();
    }
    // Superfluous entries and other contents in it.
    fs::set_permissions(work.join("closed"), Permissions::from_mode(0o700)).unwrap();
    fs::write(work.join("closed/extra"), "extra").unwrap();
    fs::write(work.join("closed/f"), "other contents").unwrap();
    open_up();
    let delete = RestoreOptions { delete: true, ..RestoreOptions::default() };
    let (restored, problems) = restore_into(&saved, &work, &delete);
    assert_eq!(problems, [""; 0]);
    assert_eq!((restored.files_restored, restored.deleted), (1, 1));
    assert_eq!(mode("closed"), 0o500);
    assert_eq!(fs::read(work.join("closed/f")).unwrap(), b"new");
    // What can't be read for comparison is written anew, though not compared afterwards.
    let verify = RestoreOptions { verify: true, ..RestoreOptions::default() };
    let (restored, problems) = restore_into(&saved, &work, &verify);
    assert_eq!((restored.files_restored, restored.verified), (1, 2), "{problems:?}");
    assert!(problems.len() == 1 && problems[0].contains("can't be read again"), "{problems:?}");
    // A directory that only leads to what was asked for stays as it is.
    let include = tresor_engine::exclude::Patterns::new(["f"]).unwrap();
    let options = RestoreOptions { include, ..RestoreOptions::default() };
    restore_into(&saved, &work, &options);
    assert_eq!(mode("closed"), 0o500);
}
