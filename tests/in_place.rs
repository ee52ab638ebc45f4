//! Restores over the folder that was backed up.
#![cfg(target_os = "linux")]

mod common;

use std::fs;

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
