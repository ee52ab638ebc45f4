//! What was saved comes back.

use std::fs;
use std::sync::Arc;

use fastrand::Rng;
use tresor_engine::restorer::RestoreOptions;
use tresor_testkit::{Item, backup, options, random_bytes, random_tree, repository};

use crate::kit::*;

#[test]
fn random_trees_come_back() {
    for seed in 0..6 {
        let mut tree = random_tree(&mut Rng::with_seed(seed), 80);
        fit(&mut tree);
        let repo = repository();
        let (snapshot, _) = backup(&repo, &tree, &options(None));
        let mut target = Target::new();
        let restored = target.restore(&repo, &snapshot.data.tree);
        assert_same(&*target.source(), &tree);
        let all = &snapshot.data.summary;
        assert_eq!(
            (restored.files, restored.directories, restored.others, restored.bytes),
            (all.files, all.directories, all.others, all.bytes)
        );
        assert_eq!((restored.files_restored, restored.files_unchanged), (all.files, 0));
        assert_eq!(target.progress, (all.files + all.directories + all.others, all.bytes));

        // Again: everything is there.
        let options = RestoreOptions { verify: true, delete: true, ..Default::default() };
        let again = target.restore_with(&repo, &snapshot.data.tree, &options);
        assert_same(&*target.source(), &tree);
        assert_eq!((again.files_restored, again.files_unchanged), (0, all.files));
        assert_eq!((again.bytes_written, again.deleted), (0, 0));
        // Of names of one file, one is read.
        assert!(again.verified + 2 >= all.files);
        assert_eq!(target.progress, (all.files + all.directories + all.others, all.bytes));
    }
}

fn house() -> Item {
    let file = |bytes: &str| Item::file(bytes.as_bytes());
    let user = Item::dir()
        .with("a.txt", file("a"))
        .with("b.doc", file("b"))
        .with("deep", Item::dir().with("c.txt", file("c")).with("d", Item::dir()))
        .with("tmp", Item::dir().with("e.txt", file("e")));
    let mut tree = Item::dir()
        .with("etc", Item::dir().with("fstab", file("f")))
        .with("home", Item::dir().with("u", user));
    fit(&mut tree);
    tree
}

fn names(target: &Target) -> Vec<String> {
    let root = format!("{:?}", target.folder.path());
    let root = root.trim_end_matches('"');
    let short = |line: &String| {
        let path = line.split(' ').next().unwrap().replace(root, "");
        path.trim_matches(['"', '/']).to_owned()
    };
    target.listing().iter().map(short).collect()
}

#[test]
fn a_folder_or_a_file_of_a_snapshot() {
    let (repo, tree) = (repository(), house());
    let (snapshot, _) = backup(&repo, &tree, &options(None));
    let root = &snapshot.data.tree;
    let mut target = Target::new();
    let run = |target: &mut Target, path: &[&str]| {
        let sink = target.sink();
        let (restored, problems) = target.run(&repo, root, path, sink, &Default::default());
        assert_eq!(problems, [""; 0]);
        restored
    };
    run(&mut target, &["home", "u"]).unwrap();
    assert_same(&*target.source(), &tree.entries()[&b"home"[..]].entries()[&b"u"[..]]);

    let mut target = Target::new();
    let restored = run(&mut target, &["home", "u", "deep", "c.txt"]).unwrap();
    assert_eq!((restored.files, restored.directories), (1, 0));
    assert_eq!(names(&target), ["c.txt"]);
    assert_eq!(target.read("c.txt"), b"c");

    let missing = run(&mut target, &["home", "nobody"]).unwrap_err();
    assert!(missing.to_string().contains("/home/nobody"), "{missing}");
    assert!(run(&mut target, &["etc", "fstab", "x"]).is_err());
}

#[test]
fn only_what_was_asked_for() {
    let (repo, tree) = (repository(), house());
    let (snapshot, _) = backup(&repo, &tree, &options(None));
    let check = |include: &[&str], exclude: &[&str], path: &[&str], expected: &[&str]| {
        let options = RestoreOptions {
            include: patterns(include),
            exclude: patterns(exclude),
            ..Default::default()
        };
        let mut target = Target::new();
        let sink = target.sink();
        let (restored, problems) = target.run(&repo, &snapshot.data.tree, path, sink, &options);
        assert_eq!((restored.unwrap().errors, problems), (0, vec![]));
        assert_eq!(names(&target), expected, "{include:?} {exclude:?} {path:?}");
    };
    check(&["*.doc"], &[], &[], &["home", "home/u", "home/u/b.doc"]);
    check(
        &["/home/u/deep"],
        &[],
        &[],
        &["home", "home/u", "home/u/deep", "home/u/deep/c.txt", "home/u/deep/d"],
    );
    check(&["*.txt"], &["tmp/"], &["home"], &["u", "u/a.txt", "u/deep", "u/deep/c.txt"]);
    check(
        &[],
        &["*.txt", "/etc"],
        &[],
        &["home", "home/u", "home/u/b.doc", "home/u/deep", "home/u/deep/d", "home/u/tmp"],
    );
    // What is in a folder that was asked for was asked for, wherever the restore begins.
    check(&["/home"], &[], &["home", "u", "tmp"], &["e.txt"]);
    check(&["/home/u"], &[], &["home", "u", "tmp"], &["e.txt"]);
    check(&["nothing"], &[], &[], &[]);
}

/// An existing folder that only leads to what was asked for stays as it was.
#[test]
fn folders_that_were_not_asked_for_keep_their_metadata() {
    let (repo, mut tree) = (repository(), house());
    tree.entries_mut().get_mut(&b"home"[..]).unwrap().node.mode = 0o711;
    let (snapshot, _) = backup(&repo, &tree, &options(None));
    let mut target = Target::new();
    fs::create_dir_all(target.path("home/u/tmp")).unwrap();
    fs::create_dir(target.path("etc")).unwrap();
    let before = target.listing();
    let include = patterns(&["/home/u/a.txt", "/home/u/deep/c.txt"]);
    let options = RestoreOptions { include, ..Default::default() };
    let restored = target.restore_with(&repo, &snapshot.data.tree, &options);
    assert_eq!(restored.files, 2);
    let after = target.listing();
    let line = |list: &[String], name: &str| {
        let name = format!("{:?} ", target.path(name));
        list.iter().find(|l| l.starts_with(&name)).unwrap().clone()
    };
    for untouched in ["home", "home/u/tmp", "etc"] {
        assert_eq!(line(&after, untouched), line(&before, untouched), "{untouched}");
    }
    // Its time tells of the new entries, the rest is as it was.
    let mode = |list: &[String]| line(list, "home/u").split(' ').nth(1).unwrap().to_owned();
    assert_eq!(mode(&after), mode(&before));
    let since = fs::metadata(target.path("home/u")).unwrap().modified().unwrap().elapsed();
    assert!(since.is_ok_and(|s| s.as_secs() < 600));
    // A folder made for it is as it was saved.
    let deep = fs::metadata(target.path("home/u/deep")).unwrap().modified().unwrap();
    assert!(deep.elapsed().unwrap().as_secs() > 1_000_000);
}

#[test]
fn a_dry_run_changes_nothing_and_tells_what_would_be_done() {
    let (repo, tree) = (repository(), house());
    let (snapshot, _) = backup(&repo, &tree, &options(None));
    let dry = || RestoreOptions { dry_run: true, delete: true, ..Default::default() };
    let mut target = Target::new();
    let restored = target.restore_with(&repo, &snapshot.data.tree, &dry());
    assert_eq!((restored.files_restored, restored.files_unchanged), (5, 0));
    assert_eq!(restored.directories, 6);
    assert_eq!(target.listing(), [""; 0]);
    let all = &snapshot.data.summary;
    assert_eq!(target.progress, (all.files + all.directories + all.others, all.bytes));

    target.restore(&repo, &snapshot.data.tree);
    target.write("home/u/a.txt", b"other");
    target.write("home/u/new", b"new");
    fs::remove_dir_all(target.path("home/u/deep")).unwrap();
    fs::write(target.path("home/u/deep"), b"in the way").unwrap();
    fs::remove_file(target.path("etc/fstab")).unwrap();
    fs::create_dir(target.path("etc/fstab")).unwrap();
    let before = target.listing();
    let restored = target.restore_with(&repo, &snapshot.data.tree, &dry());
    assert_eq!((restored.files_restored, restored.files_unchanged, restored.deleted), (3, 2, 1));
    assert_eq!(target.listing(), before);
    let options = RestoreOptions { dry_run: true, ..Default::default() };
    let (_, problems) = target.try_restore(&repo, &snapshot.data.tree, &options);
    assert!(problems.len() == 1 && problems[0].starts_with("/etc/fstab: "), "{problems:?}");
    assert_eq!(target.listing(), before);
    // And really.
    let options = RestoreOptions { delete: true, ..Default::default() };
    target.restore_with(&repo, &snapshot.data.tree, &options);
    assert_same(&*target.source(), &tree);
}

#[test]
fn a_deep_tree() {
    let mut tree = Item::dir().with("bottom", Item::file("b"));
    for _ in 0..400 {
        tree = Item::dir().with("d".repeat(20), tree);
    }
    fit(&mut tree);
    let repo = repository();
    let (snapshot, _) = backup(&repo, &tree, &options(None));
    let mut target = Target::new();
    assert_eq!(target.restore(&repo, &snapshot.data.tree).directories, 400);
    assert_same(&*target.source(), &tree);
}

/// Whichever of the threads that write it comes to the end of the room.
#[test]
fn a_large_file_for_which_there_is_no_room_ends_the_restore() {
    let bytes = random_bytes(&mut Rng::with_seed(1), 20_000_000);
    let repo = repository();
    let tree = Item::dir().with("f", Item::file(bytes));
    let (snapshot, _) = backup(&repo, &tree, &options(None));
    for room in [0, 9_999_999, 19_999_999] {
        let mut target = Target::new();
        let quirks = Arc::new(Quirks { room, ..Quirks::new(target.sink()) });
        let (ended, _) = target.run(&repo, &snapshot.data.tree, &[], quirks, &Default::default());
        assert!(ended.unwrap_err().to_string().contains("the target is full"), "{room}");
        assert!(!target.path("f").exists());
    }
}

#[test]
fn a_large_file_is_verified_and_fetched_by_many_threads() {
    let bytes = random_bytes(&mut Rng::with_seed(1), 20_000_000);
    let mut tree = Item::dir().with("f", Item::file(bytes));
    fit(&mut tree);
    let repo = repository();
    let (snapshot, _) = backup(&repo, &tree, &options(None));
    let mut target = Target::new();
    let options = RestoreOptions { verify: true, ..Default::default() };
    let restored = target.restore_with(&repo, &snapshot.data.tree, &options);
    assert_eq!((restored.bytes_written, restored.verified), (20_000_000, 1));
    assert_same(&*target.source(), &tree);
}
