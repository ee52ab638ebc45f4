//! `forget` of the built command: what it removes by name, and what each rule keeps.
#![cfg(target_os = "linux")]

mod common;

use common::files::*;
use common::*;

fn ids(w: &World) -> Vec<String> {
    let all = w.json("snapshots");
    all.as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_date_removes_no_snapshot_of_another_day() {
    let w = World::new();
    write(w.path("src/file"), "text");
    for time in ["2026-11-20T10:00:00", "2026-11-23T10:00:00", "2026-11-23T11:00:00"] {
        w.ok(&format!("backup -q src --time {time}"));
    }
    let [first, second, third] = ids(&w).try_into().unwrap();
    for words in ["2026-11-22", "2026-11-20T10:01", "2026-11-23 2026-11-22", "yesterday"] {
        let said = w.fails(1, &format!("forget {words}"));
        says(&said, &["there is no snapshot", "of 2026-11-2", "only its id removes it"]);
        assert_eq!(ids(&w).len(), 3, "{words}");
    }
    says(&w.fails(1, "forget 2026-11-22"), &[&first[..8]]);
    assert_eq!(w.json("snapshots 2026-11-22")[0]["id"], first, "to look at");
    w.ok("forget -q 2026-11-23");
    assert_eq!(ids(&w), [&*first, &*second], "the last of the day: not {third}");
    w.ok("forget -q 2026-11-20T10:00");
    assert_eq!(ids(&w), [second]);
}
