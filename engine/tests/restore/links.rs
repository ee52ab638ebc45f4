//! Files with several names.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;

use tresor_engine::format::{Content, LinkId, Node, NodeKind};
use tresor_engine::restorer::RestoreOptions;

use crate::kit::*;

fn linked(mut node: Node, inode: u64, names: u32) -> Node {
    node.link = Some(LinkId { device: 1, inode, names });
    node
}

#[test]
fn names_of_one_file_stay_names_of_one_file() {
    let maker = Maker::new();
    let file = |name: &str, names| linked(maker.file(name, b"same"), 7, names);
    // A further name was made while the backup ran.
    let sub = maker.dir(vec![file("c", 3)]);
    let fifo = |name| linked(node(name, NodeKind::Fifo), 8, 2);
    let root = maker.dir(vec![
        file("a", 2),
        file("b", 2),
        dir("sub", sub),
        fifo("x"),
        fifo("y"),
        linked(maker.file("z", b"other device"), 7, 2),
    ]);
    let repo = maker.open();
    let mut target = Target::new();
    let restored = target.restore(&repo, &root);
    assert_eq!(target.inode("a"), target.inode("b"));
    assert_eq!(target.inode("a"), target.inode("sub/c"));
    assert_eq!(target.inode("x"), target.inode("y"));
    assert_eq!((restored.files, restored.files_restored, restored.others), (4, 4, 2));
    assert_eq!(restored.bytes, 3 * 4 + 12);
    assert_eq!(target.progress, (7, restored.bytes));

    // In place: one name got lost, one is a file of its own.
    fs::remove_file(target.path("b")).unwrap();
    fs::remove_file(target.path("sub/c")).unwrap();
    fs::write(target.path("sub/c"), b"own").unwrap();
    let restored = target.restore(&repo, &root);
    assert_eq!(target.inode("a"), target.inode("b"));
    assert_eq!(target.inode("a"), target.inode("sub/c"));
    assert_eq!((restored.files_restored, restored.files_unchanged), (2, 2));
    let inode = target.inode("a");
    let restored = target.restore(&repo, &root);
    assert_eq!((restored.files_restored, restored.files_unchanged), (0, 4));
    assert_eq!(target.inode("a"), inode);
}

/// An inode was freed and used again during the backup, or the file changed.
#[test]
fn an_inode_alone_does_not_make_one_file() {
    let maker = Maker::new();
    let file = |name: &str, bytes: &[u8]| linked(maker.file(name, bytes), 7, 2);
    let mut later = file("later", b"same");
    later.mtime.nanos += 1;
    let inline = |name, bytes: &[u8]| {
        let content = Content::Inline(bytes.to_vec());
        linked(crate::kit::file(name, bytes.len() as u64, content), 9, 2)
    };
    let mut link = linked(node("link", NodeKind::Symlink), 7, 2);
    link.target = Some(b"anywhere".to_vec());
    let root = maker.dir(vec![
        file("a", b"same"),
        file("b", b"same"),
        file("changed", b"diff"),
        file("changed2", b"diff"),
        file("longer", b"longer"),
        later,
        inline("i1", b"one"),
        inline("i2", b"two"),
        link,
    ]);
    let mut target = Target::new();
    let restored = target.restore(&maker.open(), &root);
    assert_eq!((restored.files, restored.files_restored, restored.others), (8, 8, 1));
    for (name, bytes) in [
        ("a", "same"),
        ("b", "same"),
        ("changed", "diff"),
        ("changed2", "diff"),
        ("longer", "longer"),
        ("later", "same"),
        ("i1", "one"),
        ("i2", "two"),
    ] {
        assert_eq!(target.read(name), bytes.as_bytes(), "{name}");
    }
    assert_eq!(target.inode("a"), target.inode("b"));
    assert_eq!(target.inode("changed"), target.inode("changed2"));
    assert_ne!(target.inode("a"), target.inode("changed"));
    assert_ne!(target.inode("a"), target.inode("later"));
}

#[test]
fn nothing_is_linked_to_a_file_that_was_not_restored() {
    let maker = Maker::new();
    let file = |name: &str| linked(maker.file(name, &[1; 1000]), 7, 2);
    let root = maker.dir(vec![file("a"), file("b"), file("c")]);
    // The target is to blame: the other names can be restored.
    let mut target = Target::new();
    target.write("a/in_the_way", b"");
    let (restored, problems) = target.try_restore(&maker.open(), &root, &Default::default());
    assert_eq!((restored.files, restored.files_restored, problems.len()), (3, 2, 1));
    assert!(problems[0].starts_with("/a: "), "{problems:?}");
    assert_eq!(target.read("b"), [1; 1000]);
    assert_eq!(target.inode("b"), target.inode("c"));

    // The repository is.
    maker.damage(&chunk_of(&file("a")));
    let mut target = Target::new();
    target.write("a", b"old a");
    target.write("b", b"old b");
    let (restored, problems) = target.try_restore(&maker.open(), &root, &Default::default());
    assert_eq!((restored.files, restored.files_restored, problems.len()), (3, 0, 3));
    for (problem, name) in problems.iter().zip(["a", "b", "c"]) {
        assert!(problem.starts_with(&format!("/{name}: not restored: ")), "{problems:?}");
    }
    assert_eq!(target.read("a"), b"old a");
    assert_eq!(target.read("b"), b"old b");
    assert!(!target.path("c").exists());
}

/// Better a file of its own than none, on FAT or across mounts.
#[test]
fn a_target_without_links() {
    let maker = Maker::new();
    let file = |name: &str| linked(maker.file(name, b"same"), 7, 2);
    let root = maker.dir(vec![file("a"), file("b")]);
    let mut target = Target::new();
    let quirks = Quirks { no_links: true, ..Quirks::new(target.sink()) };
    let (restored, problems) =
        target.run(&maker.open(), &root, &[], Arc::new(quirks), &Default::default());
    assert_eq!(restored.unwrap().files_restored, 2);
    assert!(problems.len() == 1 && problems[0].contains("/b: "), "{problems:?}");
    assert_eq!(target.read("b"), b"same");
}

#[test]
fn only_names_that_were_asked_for() {
    let maker = Maker::new();
    let file = |name: &str| linked(maker.file(name, b"same"), 7, 3);
    let root = maker.dir(vec![file("a"), file("b"), file("c")]);
    let mut target = Target::new();
    let options = RestoreOptions {
        include: patterns(&["b", "c"]),
        exclude: patterns(&["c"]),
        ..Default::default()
    };
    let restored = target.restore_with(&maker.open(), &root, &options);
    assert_eq!((restored.files, target.read("b")), (1, b"same".to_vec()));
    assert_eq!(fs::read_dir(target.folder.path()).unwrap().count(), 1);
}

/// A file that has names elsewhere isn't ours to change, whatever it looks like: somebody may
/// have put it there so that its owner or mode is changed.
#[test]
fn what_has_another_name_elsewhere_stays_as_it_is() {
    let maker = Maker::new();
    let bytes = b"what it says doesn't matter";
    let group = |name: &str| linked(maker.file(name, bytes), 7, 2);
    let alone = maker.file("alone", bytes);
    let mtime = alone.mtime;
    let root = maker.dir(vec![alone, group("one"), group("two")]);
    let repo = maker.open();
    for verify in [false, true] {
        let outside = tempfile::tempdir().unwrap();
        let mut target = Target::new();
        let put = |secret: &str, names: &[&str]| {
            let secret = outside.path().join(secret);
            fs::write(&secret, bytes).unwrap();
            fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
            let time = std::time::SystemTime::UNIX_EPOCH
                + std::time::Duration::new(mtime.seconds as u64, mtime.nanos);
            fs::File::options().write(true).open(&secret).unwrap().set_modified(time).unwrap();
            names.iter().for_each(|name| fs::hard_link(&secret, target.path(name)).unwrap());
            secret
        };
        let secrets = [put("shadow", &["alone"]), put("other", &["one", "two"])];
        let options = RestoreOptions { verify, ..Default::default() };
        let restored = target.restore_with(&repo, &root, &options);
        assert_eq!((restored.files_restored, restored.files_unchanged), (3, 0));
        for secret in &secrets {
            let there = fs::metadata(secret).unwrap();
            assert_eq!((there.mode() & 0o7777, there.nlink()), (0o600, 1), "{secret:?}");
        }
        assert_eq!(target.inode("one"), target.inode("two"));
        for name in ["alone", "one"] {
            assert_eq!(target.read(name), bytes);
            assert_eq!(fs::metadata(target.path(name)).unwrap().mode() & 0o7777, 0o644);
        }
        // Now all names are ours.
        let again = target.restore_with(&repo, &root, &options);
        assert_eq!((again.files_restored, again.files_unchanged), (0, 3));
    }
}
