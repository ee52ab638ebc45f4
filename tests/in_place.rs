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
