//! Restores over what is there.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::sync::Arc;

use fastrand::Rng;
use tresor_engine::format::{Content, NodeKind};
use tresor_engine::restorer::RestoreOptions;
use tresor_testkit::{Item, backup, options, random_bytes, repository};

use crate::kit::*;

fn delete() -> RestoreOptions {
    RestoreOptions { delete: true, ..Default::default() }
}

fn verify() -> RestoreOptions {
    RestoreOptions { verify: true, ..Default::default() }
}

#[test]
fn only_what_differs_is_fetched_and_written() {
    let mut rng = Rng::with_seed(1);
    let large = random_bytes(&mut rng, 12_000_000);
    let mut tree = Item::dir()
        .with("large", Item::file(large))
        .with("same", Item::file(random_bytes(&mut rng, 500_000)))
        .with("tiny", Item::file("t"));
    fit(&mut tree);
    let repo = repository();
    let (snapshot, _) = backup(&repo, &tree, &options(None));
    let mut target = Target::new();
    target.restore(&repo, &snapshot.data.tree);
    let same = target.inode("same");

    let file = File::options().write(true).open(target.path("large")).unwrap();
    file.write_all_at(b"!", 6_000_000).unwrap();
    drop(file);
    let restored = target.restore(&repo, &snapshot.data.tree);
    assert_same(&*target.source(), &tree);
    assert_eq!((restored.files_restored, restored.files_unchanged), (1, 2));
    let max = u64::from(repo.config().chunks.max);
    assert!((1..=max).contains(&restored.bytes_written), "{restored:?}");
    assert_eq!(target.inode("same"), same);
    assert_eq!(target.progress, (3, 12_500_001));

    // Only the metadata differs.
    fs::set_permissions(target.path("same"), fs::Permissions::from_mode(0o600)).unwrap();
    let restored = target.restore(&repo, &snapshot.data.tree);
    assert_eq!((restored.files_restored, restored.bytes_written), (0, 0));
    assert_same(&*target.source(), &tree);
}

/// A file that looks the same is trusted unless it is to be verified.
#[test]
fn verify_reads_what_looks_unchanged() {
    let maker = Maker::new();
    let wide = file(
        "sparse",
        300_000,
        Content::Extents(vec![hole(100_000), maker.chunk(&[7; 100_000]), hole(100_000)]),
    );
    let root = maker.dir(vec![
        maker.file("f", &[1; 1000]),
        file("inline", 3, Content::Inline(b"abc".to_vec())),
        wide,
    ]);
    let repo = maker.open();
    let mut target = Target::new();
    let restored = target.restore_with(&repo, &root, &verify());
    assert_eq!((restored.files_restored, restored.verified), (3, 3));
    let restored = target.restore_with(&repo, &root, &verify());
    assert_eq!((restored.files_unchanged, restored.verified), (3, 3));

    let change = |name: &str, at: u64| {
        let path = target.path(name);
        let file = File::options().write(true).open(path).unwrap();
        let mtime = file.metadata().unwrap().modified().unwrap();
        file.write_all_at(b"!", at).unwrap();
        file.set_modified(mtime).unwrap();
    };
    for (name, at) in
        [("f", 999), ("inline", 0), ("sparse", 50), ("sparse", 150_000), ("sparse", 299_999)]
    {
        change(name, at);
    }
    let trusted = target.restore(&repo, &root);
    assert_eq!(trusted.files_unchanged, 3);
    let restored = target.restore_with(&repo, &root, &verify());
    assert_eq!((restored.files_restored, restored.files_unchanged, restored.verified), (3, 0, 3));
    assert_eq!(target.read("inline"), b"abc");
    assert_eq!(target.read("f"), [1; 1000]);
    assert_eq!(target.read("sparse")[150_000], 7);
}

#[test]
fn verify_notices_what_changes_meanwhile() {
    let maker = Maker::new();
    let root = maker.dir(vec![maker.file("bad", &[1; 1000]), maker.file("good", &[2; 1000])]);
    let repo = maker.open();
    let mut target = Target::new();
    let folder = target.folder.path().to_owned();
    let mut quirks = Quirks::new(target.sink());
    quirks.after_file = Arc::new(move |node| {
        if node.name == b"bad" {
            let file = File::options().write(true).open(folder.join("bad")).unwrap();
            file.write_all_at(b"!", 500).unwrap();
        }
    });
    let (restored, problems) = target.run(&repo, &root, &[], Arc::new(quirks), &verify());
    let restored = restored.unwrap();
    assert_eq!((restored.errors, restored.verified, restored.files_restored), (1, 1, 2));
    assert!(problems[0].starts_with("/bad: reads differently"), "{problems:?}");
}

#[test]
fn things_of_another_kind_are_replaced() {
    let maker = Maker::new();
    let mut link = node("link", NodeKind::Symlink);
    link.target = Some(b"somewhere".to_vec());
    let below = maker.dir(vec![maker.file("f", b"below")]);
    let root = maker.dir(vec![
        maker.file("file", b"new"),
        maker.file("file2", b"new"),
        link,
        dir("dir", below),
        dir("dir2", below),
    ]);
    let repo = maker.open();
    let mut target = Target::new();
    target.write("outside", b"outside");
    symlink("outside", target.path("file")).unwrap();
    fs::create_dir_all(target.path("file2/sub")).unwrap();
    fs::create_dir_all(target.path("link/sub")).unwrap();
    target.write("dir", b"a file");
    fs::create_dir(target.path("elsewhere")).unwrap();
    symlink("elsewhere", target.path("dir2")).unwrap();

    // Directories stay, the rest makes room.
    let (restored, problems) = target.try_restore(&repo, &root, &Default::default());
    assert_eq!(restored.errors, 2);
    for (problem, path) in problems.iter().zip(["/file2", "/link"]) {
        let all = problems.join(" ");
        assert!(all.contains(&format!("{path}: ")) && problem.contains("--delete"), "{all}");
    }
    assert!(target.path("file2/sub").is_dir() && target.path("link/sub").is_dir());
    assert_eq!(target.read("outside"), b"outside");
    assert_eq!(target.read("file"), b"new");
    assert_eq!(target.read("dir/f"), b"below");
    assert_eq!(target.read("dir2/f"), b"below");
    assert!(target.path("dir2").symlink_metadata().unwrap().is_dir());
    assert_eq!(fs::read_dir(target.path("elsewhere")).unwrap().count(), 0);

    target.restore_with(&repo, &root, &delete());
    assert_eq!(target.read("file2"), b"new");
    assert_eq!(fs::read_link(target.path("link")).unwrap().to_str(), Some("somewhere"));
    assert!(!target.path("elsewhere").exists());
}

/// A directory makes room only when there is something to put in its place.
#[test]
fn a_failure_leaves_what_was_there() {
    let maker = Maker::new();
    let bad = maker.file("bad", &[1; 1000]);
    maker.damage(&chunk_of(&bad));
    let broken = maker.dir(vec![]);
    maker.damage(&broken);
    // A symlink without a target can't be made.
    let impossible = node("impossible", NodeKind::Symlink);
    let root = maker.dir(vec![bad, dir("broken", broken), impossible]);
    let repo = maker.open();
    let mut target = Target::new();
    target.write("bad/a", b"a");
    target.write("impossible/b", b"b");
    target.write("broken", b"a file");
    let (restored, problems) = target.try_restore(&repo, &root, &delete());
    assert!(restored.errors >= 3, "{problems:?}");
    assert_eq!(target.read("bad/a"), b"a");
    assert_eq!(target.read("impossible/b"), b"b");
    assert_eq!(target.read("broken"), b"a file");
    assert_eq!(restored.files_restored, 0);
}

#[test]
fn no_passing_names_are_left() {
    let maker = Maker::new();
    let bad = maker.file("bad", &[1; 1000]);
    maker.damage(&chunk_of(&bad));
    let root = maker.dir(vec![bad, maker.file("good", b"good")]);
    let mut target = Target::new();
    let (_, problems) = target.try_restore(&maker.open(), &root, &Default::default());
    assert_eq!(problems.len(), 1);
    assert_eq!(fs::read_dir(target.folder.path()).unwrap().count(), 1);
}

#[test]
fn metadata_of_the_target_itself_stays() {
    let maker = Maker::new();
    let root = maker.dir(vec![maker.file("f", b"f")]);
    let mut target = Target::new();
    fs::set_permissions(target.folder.path(), fs::Permissions::from_mode(0o2750)).unwrap();
    target.restore(&maker.open(), &root);
    let mode = fs::metadata(target.folder.path()).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o2750);
}
