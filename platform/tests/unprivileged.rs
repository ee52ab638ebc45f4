//! A user who isn't root backs up and restores. As root, the tests run
//! themselves again as nobody.
#![cfg(target_os = "linux")]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::*;
use tresor_engine::format::{Node, NodeKind, Xattr};
use tresor_engine::sink::NoStreams;
use tresor_engine::source::Room;
use tresor_platform::{harden_process, open_sink, open_source};

const NOBODY: u32 = 65_534;
/// Where the inner test works; it does nothing without it.
const FOLDER: &str = "TRESOR_TEST_FOLDER";

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Runs the test of that name as somebody who isn't root, in a folder of his
/// that `prepare` has filled as root.
fn as_nobody(test: &str, prepare: impl Fn(&Path)) {
    let folder = folder();
    if !is_root() {
        // Preparing takes root.
        return;
    }
    // The test binary may lie where nobody can't go.
    let binary = folder.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    set_mode(&binary, 0o755);
    let work = folder.path().join("work");
    fs::create_dir(&work).unwrap();
    chown(&work, Some(NOBODY), Some(NOBODY)).unwrap();
    prepare(&work);
    let mut command = Command::new(&binary);
    command.args(["--exact", test, "--nocapture"]).env(FOLDER, &work).current_dir("/");
    let output = command.uid(NOBODY).gid(NOBODY).output().unwrap();
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    assert!(output.status.success() && told.contains("1 passed"), "{told}");
}

/// The folder to work in, or nothing if this is not the inner run.
fn inside() -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os(FOLDER)?);
    assert!(!is_root());
    // Makes `/proc/self` root's, and must not be in the way of attributes.
    harden_process();
    Some(folder)
}

fn foreign(name: &str, kind: NodeKind) -> Node {
    let mut node = Node::new(name, kind);
    (node.uid, node.gid, node.mode) = (0, 0, 0o755);
    node.mtime.seconds = 1_000_000_000;
    node
}

#[test]
fn files_of_others() {
    as_nobody("files_of_others_inside", |_| {});
}

#[test]
fn files_of_others_inside() {
    let Some(work) = inside() else { return };
    let sink = open_sink(&work).unwrap();
    for (name, mode, wanted) in [
        ("suid", 0o4755, 0o755),
        ("sgid", 0o2755, 0o755),
        ("both", 0o6711, 0o711),
        ("t", 0o1777, 0o1777),
    ] {
        let mut node = foreign(name, NodeKind::File);
        node.mode = mode;
        assert_eq!(
            told(&sink.create_file(&node).unwrap().finish(&node, &mut NoStreams).unwrap()),
            [""; 0]
        );
        let meta = fs::metadata(work.join(name)).unwrap();
        assert_eq!(
            (meta.mode() & 0o7777, meta.uid(), meta.mtime()),
            (wanted, NOBODY, 1_000_000_000)
        );
    }
    let mut link = foreign("link", NodeKind::Symlink);
    link.target = Some(b"x".to_vec());
    assert_eq!(told(&sink.make_special(&link, &mut NoStreams).unwrap()), [""; 0]);
    assert_eq!(
        told(&sink.make_special(&foreign("fifo", NodeKind::Fifo), &mut NoStreams).unwrap()),
        [""; 0]
    );
    let mut device = foreign("null", NodeKind::CharDevice);
    device.device = Some(rustix::fs::makedev(1, 3));
    assert!(sink.make_special(&device, &mut NoStreams).is_err());
    // What only root may set is told.
    let mut node = foreign("attributes", NodeKind::File);
    let x = |name: &str, value: Vec<u8>| Xattr { name: name.into(), value };
    node.xattrs = Some(vec![
        x("security.capability", capability()),
        x("trusted.t", b"1".to_vec()),
        x("user.u", b"1".to_vec()),
    ]);
    let problems = sink.create_file(&node).unwrap().finish(&node, &mut NoStreams).unwrap();
    let what: Vec<_> = problems.iter().map(|p| p.what.as_str()).collect();
    assert_eq!(what, ["extended attribute security.capability", "extended attribute trusted.t"]);
    assert_eq!(get_xattr(&work.join("attributes"), "user.u").unwrap(), b"1");
}

/// Who may read an entry sees the names of all its attributes, and what most of them hold.
#[test]
fn an_attribute_that_can_not_be_read_is_named_and_the_others_are_there() {
    let test = "an_attribute_that_can_not_be_read_is_named_and_the_others_are_there_inside";
    as_nobody(test, |work| {
        fs::create_dir(work.join("closed")).unwrap();
        set_xattr(&work.join("closed"), "user.secret", b"x");
        set_xattr(&work.join("closed"), DEFAULT, &acl(7, (1, 7), 7, 7, 7));
        set_mode(&work.join("closed"), 0o711);
    });
}

#[test]
fn an_attribute_that_can_not_be_read_is_named_and_the_others_are_there_inside() {
    let Some(work) = inside() else { return };
    let source = open_source(&work).unwrap();
    let (mut node, _) = source.stat(b"closed").unwrap();
    let error = source.details(&mut node, &mut Room::with_streams()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    assert!(error.to_string().starts_with("user.secret: "), "{error}");
    let names: Vec<_> = node.xattrs().iter().map(|x| x.name.as_slice()).collect();
    assert_eq!(names, [DEFAULT.as_bytes()]);
}

#[test]
fn own_files() {
    as_nobody("own_files_inside", |_| {});
}

#[test]
fn own_files_inside() {
    let Some(work) = inside() else { return };
    let (from, to) = (work.join("from"), work.join("to"));
    fs::create_dir_all(from.join("closed/sub")).unwrap();
    fs::create_dir(&to).unwrap();
    fs::write(from.join("closed/f"), b"x").unwrap();
    fs::write(from.join("read-only"), b"x").unwrap();
    fs::write(from.join("suid"), b"x").unwrap();
    symlink("nowhere", from.join("link")).unwrap();
    set_xattr(&from.join("read-only"), "user.x", b"1");
    set_xattr(&from.join("closed"), "user.y", b"1");
    set_xattr(&from.join("read-only"), ACCESS, &acl(4, (1, 7), 4, 4, 4));
    set_mode(&from.join("suid"), 0o6755);
    set_mode(&from.join("closed/sub"), 0o555);
    set_mode(&from.join("closed"), 0o555);
    // Twice: the second time over directories closed to writing.
    for _ in 0..2 {
        assert_eq!(copy(&from, &to), [""; 0]);
        let (a, b) = (open_source(&from).unwrap(), open_source(&to).unwrap());
        assert_eq!(differences(&*a, &*b), [""; 0]);
    }
    // Attributes of a file that its owner may not write.
    let mut node = look_in(&to, "read-only");
    assert_eq!(node.mode & 0o200, 0);
    node.xattrs = Some(vec![Xattr { name: b"user.z".to_vec(), value: b"2".to_vec() }]);
    assert_eq!(
        told(&open_sink(&to).unwrap().set_metadata(&node, &mut NoStreams).unwrap()),
        [""; 0]
    );
    assert_eq!(look_in(&to, "read-only").xattrs, node.xattrs);
    assert_eq!(look_in(&to, "read-only").mode, node.mode);
    open_sink(&work).unwrap().remove_dir_all(b"to").unwrap();
}

#[test]
fn a_way_that_can_be_gone_but_not_listed() {
    as_nobody("a_way_that_can_be_gone_but_not_listed_inside", |work| {
        fs::create_dir_all(work.join("home/user")).unwrap();
        fs::write(work.join("home/user/f"), b"mine").unwrap();
        chown(work.join("home/user"), Some(NOBODY), Some(NOBODY)).unwrap();
        set_mode(&work.join("home"), 0o711);
    });
}

#[test]
fn a_way_that_can_be_gone_but_not_listed_inside() {
    let Some(work) = inside() else { return };
    let home = open_source(&work).unwrap().open_dir(b"home").unwrap();
    assert_eq!(home.names().unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
    let user = home.open_dir(b"user").unwrap();
    assert_eq!(user.names().unwrap(), [b"f"]);
    // Read although it is root's, where no access time can be spared.
    let mut buffer = [0; 4];
    assert_eq!(user.open_file(b"f").unwrap().read_at(&mut buffer, 0).unwrap(), 4);
    assert_eq!(&buffer, b"mine");
    assert_eq!(look(&*user, b"f").uid, 0);
}
