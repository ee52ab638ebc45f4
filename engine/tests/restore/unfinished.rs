//! Restores that did not end, after which files may be of the right size and time and hold
//! something else: that is what a power loss leaves of what was not forced to the disk.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use tresor_engine::format::BlobId;
use tresor_engine::repo::Repository;
use tresor_engine::restorer::RestoreOptions;

use crate::kit::*;

/// Writes zeros into a file, of which its size and time tell nothing.
fn lose(target: &Target, name: &str) {
    let file = File::options().write(true).open(target.path(name)).unwrap();
    let mtime = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(&[0; 100], 0).unwrap();
    file.set_modified(mtime).unwrap();
}

/// A restore that ends at its last file, of several.
fn interrupted(
    target: &mut Target,
    repo: &Arc<Repository>,
    root: &BlobId,
    options: &RestoreOptions,
) {
    let mut quirks = Quirks::new(target.sink());
    quirks.full_at = Some(b"z".to_vec());
    let (ended, _) = target.run(repo, root, &[], Arc::new(quirks), options);
    assert!(ended.unwrap_err().to_string().contains("the target is full"));
}

fn three_files(maker: &Maker) -> BlobId {
    maker.dir(["a", "b", "z"].iter().map(|name| maker.file(name, &[7; 1000])).collect())
}

#[test]
fn what_an_interrupted_restore_has_written_is_compared_by_the_next() {
    let maker = Maker::new();
    let (root, mut target) = (three_files(&maker), Target::new());
    let repo = maker.open();
    interrupted(&mut target, &repo, &root, &Default::default());
    assert!(target.path("a").exists());
    lose(&target, "a");
    let restored = target.restore(&repo, &root);
    assert_eq!((restored.files_restored, restored.files_unchanged), (2, 1));
    assert_eq!(target.read("a"), [7; 1000]);
    // That one ended, so its files are trusted and nothing else is left.
    lose(&target, "a");
    assert_eq!(target.restore(&repo, &root).files_unchanged, 3);
    assert_eq!(fs::read_dir(target.folder.path()).unwrap().count(), 3);
}

/// Before a restore is reported as done, and not before all is written.
#[test]
fn what_is_restored_is_forced_to_the_disk() {
    let maker = Maker::new();
    let below = maker.dir(vec![maker.file("f", &[1; 1000])]);
    let root = maker.dir(vec![dir("dir", below)]);
    let repo = maker.open();
    let mut target = Target::new();
    let told = |target: &mut Target, forces, options: &RestoreOptions| {
        let quirks = Quirks { forces, ..Quirks::new(target.sink()) };
        let told = quirks.told.clone();
        let (done, _) = target.run(&repo, &root, &[], Arc::new(quirks), options);
        let told = told.lock().unwrap().clone();
        (done.map(|done| done.files_unchanged), told)
    };
    let dry = RestoreOptions { dry_run: true, ..Default::default() };
    assert_eq!(told(&mut target, true, &dry).1, [""; 0]);
    let (done, order) = told(&mut target, false, &Default::default());
    assert_eq!(order, ["begin", "file", "metadata", "force"]);
    let message = done.unwrap_err().to_string();
    assert!(message.contains("can't force to the disk") && message.contains("--overwrite"));
    // Nothing of that is sure.
    lose(&target, "dir/f");
    let (done, order) = told(&mut target, true, &Default::default());
    assert_eq!((done.unwrap(), order), (0, vec!["begin", "file", "metadata", "force", "end"]));
    assert_eq!(target.read("dir/f"), [1; 1000]);
    let (done, order) = told(&mut target, true, &Default::default());
    assert_eq!(done.unwrap(), 1);
    assert_eq!(order, ["begin", "metadata", "metadata", "force", "end"]);
}

/// Nor is it made up for by one that could not restore all.
#[test]
fn what_could_not_be_restored_stays_in_doubt() {
    let maker = Maker::new();
    let (root, mut target) = (three_files(&maker), Target::new());
    let repo = maker.open();
    interrupted(&mut target, &repo, &root, &Default::default());
    fs::remove_file(target.path("b")).unwrap();
    target.write("b/in_the_way", b"");
    let (restored, _) = target.try_restore(&repo, &root, &Default::default());
    assert_eq!(restored.errors, 1);
    fs::remove_dir_all(target.path("b")).unwrap();
    lose(&target, "a");
    target.restore(&repo, &root);
    assert_eq!(target.read("a"), [7; 1000]);
}

/// A restore of something else doesn't make good what is in doubt.
#[test]
fn only_the_same_restore_makes_up_for_one_that_did_not_end() {
    let maker = Maker::new();
    let (root, mut target) = (three_files(&maker), Target::new());
    let repo = maker.open();
    interrupted(&mut target, &repo, &root, &Default::default());
    let only_b = |delete: bool| RestoreOptions {
        include: patterns(&["b"]),
        exclude: patterns(&["a", "z"]),
        delete,
        ..Default::default()
    };
    let other = maker.dir(vec![maker.file("b", &[8; 1000])]);
    let repo = maker.open();
    target.restore_with(&repo, &root, &only_b(true));
    target.restore_with(&repo, &other, &only_b(false));
    target.restore_with(&repo, &root, &only_b(false));
    lose(&target, "a");
    target.restore(&repo, &root);
    assert_eq!(target.read("a"), [7; 1000]);
    assert_eq!(fs::read_dir(target.folder.path()).unwrap().count(), 3);
}
