//! Restores over the folder that was backed up.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::time::{Duration, SystemTime};

use common::files::*;
use common::*;

#[derive(serde::Deserialize)]
struct Summary {
    deleted: u64,
}

/// What a restore of a whole snapshot to `/` would remove. No test does more than ask that.
fn removes(w: &World) -> u64 {
    let said = w.ok("restore latest -t / --overwrite --delete -n --json");
    let summary = said.lines().last().unwrap();
    serde_json::from_str::<Summary>(summary).unwrap().deleted
}

/// All that lies beside what was backed up, up to `/`, isn't superfluous.
#[test]
fn what_lies_beside_it_stays() {
    let w = World::new();
    for path in ["src/kept", "src/excluded", "beside/file"] {
        write(w.path(path), "content");
    }
    w.ok("backup -q src --exclude excluded");
    write(w.path("src/new"), "new");
    assert_eq!(removes(&w), 1);
    let source = w.path("src").canonicalize().unwrap();
    w.ok(&format!("restore -q latest:{0} -t {0} --overwrite --delete", source.display()));
    assert!(!w.path("src/new").exists());
    assert_eq!(fs::read_to_string(w.path("src/excluded")).unwrap(), "content");
}

/// A snapshot of a stream says nothing of the machine.
#[test]
fn a_stream_removes_nothing() {
    let w = World::new();
    w.ok("backup -q --stdin-from-command --stdin-filename dump -- echo dumped");
    for path in ["target/etc/passwd", "target/file"] {
        write(w.path(path), "content");
    }
    let said = w.run("restore latest -t target --overwrite --delete").expect(0).err;
    says(&said, &["nothing in it was removed"]);
    assert_eq!(names(w.path("target")), ["dump", "etc", "file"]);
    assert!(w.path("target/etc/passwd").exists());
}

/// A variable that isn't set must not mean everything.
#[test]
fn an_empty_path_is_not_the_whole_snapshot() {
    let w = World::new();
    write(w.path("src/file"), "content");
    w.ok("backup -q src");
    write(w.path("target/file"), "content");
    for place in ["latest:", "2999-01-01:"] {
        let said = w.fails(1, &format!("restore {place} -t target --overwrite --delete"));
        says(&said, &["is empty", ":/"]);
    }
    assert_eq!(names(w.path("target")), ["file"]);
    w.ok("restore latest:/ -t whole");
    assert!(w.path("whole").join(w.inside("src/file")).exists());
}

/// What belongs to a folder: its mode, owner, time and an attribute.
fn own(folder: &Path) -> (u32, u32, SystemTime, Option<Vec<u8>>) {
    let there = fs::metadata(folder).unwrap();
    let mut value = [0; 16];
    let len = rustix::fs::getxattr(folder, "user.note", &mut value[..]).ok();
    let attribute = len.map(|len| value[..len].to_vec());
    (there.mode() & 0o7777, there.uid(), there.modified().unwrap(), attribute)
}

fn set_mode(folder: &Path, mode: u32) {
    fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
}

/// The mode of `.ssh` is what keeps the keys in it from others.
#[test]
fn the_folder_that_was_asked_for_gets_what_belongs_to_it() {
    let w = World::new();
    write(w.path("src/key"), "secret");
    write(w.path("src/other"), "text");
    let src = w.path("src");
    set_xattr(&src, "user.note", b"mine");
    if is_root() {
        chown(&src, Some(1234), None).unwrap();
    }
    set_mode(&src, 0o710);
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    fs::File::open(&src).unwrap().set_modified(long_ago).unwrap();
    let saved = own(&src);
    w.ok("backup -q src");
    let place = format!("latest:/{}", w.inside("src"));

    w.ok(&format!("restore -q {place} -t out/new"));
    assert_eq!(own(&w.path("out/new")), saved);
    assert_ne!(own(&w.path("out")).0 & 0o077, 0);
    w.ok(&format!("restore -q {place} -t out/part --include key"));
    assert_eq!(
        (own(&w.path("out/part")), names(w.path("out/part"))),
        (saved.clone(), vec!["key".into()])
    );
    // A whole snapshot and a file have no folder of their own.
    w.ok("restore -q latest -t out/all");
    w.ok(&format!("restore -q {place}/key -t out/file"));
    for folder in ["out/all", "out/file"] {
        assert_eq!(own(&w.path(folder)).0, own(&w.path("out")).0, "{folder}");
    }

    // One that was there is somebody's, unless it is the one that was saved.
    fs::create_dir(w.path("there")).unwrap();
    set_mode(&w.path("there"), 0o755);
    w.ok(&format!("restore -q {place} -t there"));
    assert_eq!((own(&w.path("there")).0, own(&w.path("there")).3), (0o755, None));
    set_mode(&src, 0o755);
    w.ok(&format!("restore -q {place} -t src --overwrite --include key"));
    w.ok(&format!("restore -q {place} -t src --overwrite --dry-run"));
    assert_eq!(own(&src).0, 0o755);
    w.ok(&format!("restore -q {place} -t src --overwrite"));
    assert_eq!(own(&src), saved);
}

/// Not only at the end.
#[test]
fn a_folder_is_closed_to_others_while_it_is_restored() {
    if !can_trace() {
        return;
    }
    let w = World::new();
    write(w.path("src/key"), "secret");
    w.ok("backup -q src");
    let mut traced = w.plain("strace");
    traced.args(["-f", "-e", "trace=mkdir,mkdirat", env!("CARGO_BIN_EXE_tresor"), "restore"]);
    traced.args(["-q", &format!("latest:/{}", w.inside("src")), "-t", "closed"]);
    let said = ran(&mut traced).expect(0).err;
    assert!(said.contains("(\"closed\", 0700)"), "{said}");
}
