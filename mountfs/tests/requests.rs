//! How often the kernel has to ask, as programs go through a drive: counted, not timed.

mod kit;

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use kit::{Mount, drive, status};
use tresor_testkit::{Item, backup, options, repository};

const FOLDERS: u64 = 40;
const FILES: u64 = 30;

fn tree() -> Item {
    let files = |folder| {
        (0..FILES).fold(Item::dir(), |dir, file| {
            dir.with(format!("{file:02}.txt"), Item::file(format!("{folder} {file}")))
        })
    };
    (0..FOLDERS).fold(Item::dir(), |tree, folder| tree.with(format!("{folder:02}"), files(folder)))
}

fn mounted(tree: &Item) -> Mount {
    let repo = repository();
    let (snapshot, _) = backup(&repo, tree, &options(None));
    Mount::new(drive(&repo, Some(snapshot), 16 << 20))
}

/// Requests that this takes, done by a thread of its own, which the drive doesn't know yet.
fn requests(mount: &Mount, work: impl FnOnce(&Path) + Send) -> u64 {
    let before = status(&mount.fs, "requests");
    std::thread::scope(|scope| scope.spawn(|| work(mount.path())).join()).unwrap();
    status(&mount.fs, "requests") - before
}

/// All that is no directory, as `find` gets it: out of listings alone.
fn find(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(find(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

/// As `ls -lR`: each directory is listed, then looked at entry by entry, before those in it are.
fn look_at_all(dir: &Path) -> u64 {
    let entries: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    let meta = |path: &PathBuf| std::fs::symlink_metadata(path).unwrap();
    let (below, files): (Vec<_>, Vec<_>) = entries.iter().partition(|path| meta(path).is_dir());
    let bytes: u64 = files.into_iter().map(|file| meta(file).size()).sum();
    bytes + below.into_iter().map(|dir| look_at_all(dir)).sum::<u64>()
}

#[test]
fn who_only_lists_asks_for_listings_only() {
    let mount = mounted(&tree());
    let asked = requests(&mount, |root| {
        assert_eq!(find(root).len() as u64, FOLDERS * FILES);
    });
    // Two for each folder, the second of which says that there is no more, and a few for the first one.
    assert!(asked <= 2 * (FOLDERS + 1) + 6, "{asked}");
    // And no inode was made of any file.
    assert!(status(&mount.fs, "inodes") <= FOLDERS + 1);
}

#[test]
fn who_looks_at_everything_asks_for_entries_of_the_first_folder_only() {
    let mount = mounted(&tree());
    let asked = requests(&mount, |root| assert!(look_at_all(root) > 0));
    assert!(asked <= 2 * (FOLDERS + 1) + FILES + 6, "{asked}");
    // The next one who does so is known by what he does, not by who did so before.
    assert_eq!(requests(&mount, |root| assert!(look_at_all(root) > 0)), 0, "all is known by now");
}

#[test]
fn who_copies_asks_once_for_each_file_and_for_entries_of_the_first_folder() {
    let mount = mounted(&tree());
    let asked = requests(&mount, |root| {
        let mut folders: Vec<_> =
            std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).collect();
        folders.sort();
        for folder in folders {
            find(&folder).iter().for_each(|file| assert!(!std::fs::read(file).unwrap().is_empty()));
        }
    });
    let reads = FOLDERS * FILES;
    assert!(asked <= reads + 2 * (FOLDERS + 1) + FILES + 6, "{asked}");
}

#[test]
fn of_a_large_folder_few_entries_are_asked_for_one_by_one() {
    const MANY: u64 = 3000;
    let files = |dir: Item, file| dir.with(format!("{file:04}.txt"), Item::file("x"));
    let mount = mounted(&Item::dir().with("many", (0..MANY).fold(Item::dir(), files)));
    let asked = requests(&mount, |root| assert_eq!(look_at_all(&root.join("many")), MANY));
    assert!(asked < MANY / 8, "{asked}");
}

#[test]
fn a_long_read_asks_for_a_mebibyte_at_once() {
    const LEN: usize = 8 << 20;
    let mount = mounted(&Item::dir().with("f", Item::file(vec![7; LEN])));
    let asked = requests(&mount, |root| {
        let mut options = File::options();
        let file = options.read(true).custom_flags(libc::O_DIRECT).open(root.join("f")).unwrap();
        let mut bytes = vec![0; LEN];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 7));
    });
    assert!(asked <= 8 + 4, "{asked}");
}

#[test]
fn who_looks_at_everything_after_somebody_who_only_listed_asks_for_listings_again() {
    let mount = mounted(&tree());
    requests(&mount, |root| assert_eq!(find(root).len() as u64, FOLDERS * FILES));
    let asked = requests(&mount, |root| assert!(look_at_all(root) > 0));
    // Entries of the first two folders one by one; then each folder's attributes and listing.
    assert!(asked <= 3 * (FOLDERS + 1) + 2 * FILES + 6, "{asked}");
}
