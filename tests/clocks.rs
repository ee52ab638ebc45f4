//! The whole program where clocks are or were wrong, and where they differ.
#![cfg(target_os = "linux")]

mod common;

use common::files::*;
use common::*;

#[test]
fn the_latest_is_not_one_from_the_future() {
    let w = World::new();
    let backup = |text: &str, more: &str| {
        write(w.path("src/file"), text);
        w.run(&format!("backup src {more}")).expect(0)
    };
    backup("old", "--time 2020-01-01T12:00:00");
    backup("ahead", "--time 2222-01-01T12:00:00");
    let ahead = w.json("snapshots")[1]["short_id"].as_str().unwrap().to_owned();
    let warning =
        ["2222-01-01 12:00:00", &ahead, "lies in the future", "isn't taken for the latest"];
    // Nor is it what a backup compares with.
    let ran = backup("new", "");
    says(&ran.err, &warning);
    assert_eq!(ran.err.matches(&*ahead).count(), 2, "the name and what removes it: {}", ran.err);
    let file = w.inside("src/file");
    for (name, text) in
        [("latest", "new"), ("latest~1", "old"), (&*ahead, "ahead"), ("2222-01-01", "ahead")]
    {
        let ran = w.run(&format!("cat {name}:/{file}")).expect(0);
        assert_eq!(ran.out, text, "{name}");
        if name.starts_with("latest") { says(&ran.err, &warning) } else { assert_eq!(ran.err, "") }
    }
    let ran = w.run("restore latest -t out -q").expect(0);
    says(&ran.err, &warning);
    assert_eq!(std::fs::read_to_string(w.path("out").join(&file)).unwrap(), "new");
    if can_mount() {
        let drive = w.mount("", "mnt");
        for at in ["snapshots/latest", "ids/latest", "@latest"] {
            assert_eq!(std::fs::read_to_string(drive.at(at).join(&file)).unwrap(), "new", "{at}");
        }
        assert_eq!(std::fs::read_to_string(drive.at("@latest~1").join(&file)).unwrap(), "old");
        says(&drive.unmount().expect(0).err, &warning);
    }
    // Where there are no others, it is.
    w.ok("forget -q latest latest~1");
    let ran = w.run(&format!("cat latest:/{file}")).expect(0);
    assert_eq!((&*ran.out, &*ran.err), ("ahead", ""));
}
