//! The whole program where clocks are or were wrong, and where they differ.
#![cfg(target_os = "linux")]

mod common;

use std::sync::Arc;

use common::files::*;
use common::*;
use serde_json::Value;
use tresor_engine::crypto::Password;
use tresor_engine::format::Time;
use tresor_engine::repo::{OpenOptions, Repository};
use tresor_engine::store::LocalStore;

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

/// What forget would do: of each snapshot, in order, why it stays.
fn reasons(answer: &Value) -> Vec<(String, String)> {
    let kept =
        answer["groups"].as_array().unwrap().iter().flat_map(|g| g["keep"].as_array().unwrap());
    let text = |reasons: &Value| {
        let all = reasons.as_array().unwrap().iter().map(|r| r.as_str().unwrap());
        all.collect::<Vec<_>>().join("; ")
    };
    kept.map(|s| (s["id"].as_str().unwrap().to_owned(), text(&s["reasons"]))).collect()
}

/// Another computer without a battery saved them, with its clock at 2020.
#[test]
fn forget_keeps_what_was_saved_with_a_wrong_clock() {
    let w = World::new();
    write(w.path("src/file"), "text");
    w.ok("backup -q src --host web");
    let password = Password::new(PASSWORD.into());
    let store = Arc::new(LocalStore::new(w.path("repo")));
    let there = Repository::open(store, &password, &OpenOptions::default()).unwrap();
    let good = there.snapshots().unwrap().remove(0);
    let mut wrong = Vec::new();
    for n in 0..5 {
        let mut data = good.data.as_ref().clone();
        data.saved = Time::new(1_577_880_000 + n * 86_400, 0);
        data.time = data.saved;
        wrong.push(there.save_snapshot(&data).unwrap().to_string());
        w.ok("backup -q src --host web");
    }
    for words in ["--keep-last 11", "--keep-within 28d", "--policy service"] {
        let kept = reasons(&w.json(&format!("forget {words} --dry-run")));
        let why =
            |id: &String| kept.iter().find(|(kept, _)| kept == id).map(|(_, why)| why.as_str());
        assert_eq!(kept.len(), 11, "{words}: {kept:?}");
        let mut all = wrong.iter().map(|id| why(id).expect(words));
        assert!(all.all(|why| why.contains("(first seen 2")), "{words}: {kept:?}");
        says(&w.ok(&format!("forget {words} --dry-run")), &["(first seen 2"]);
    }
    // Two good ones have come since the last but one.
    let kept = reasons(&w.json("forget --keep-last 3"));
    let stay = |id: &String| kept.iter().any(|(kept, _)| kept == id);
    assert!(stay(&wrong[4]) && !stay(&wrong[2]), "{kept:?}");
    w.ok(&format!("forget -q {}", wrong[4]));
    assert!(w.json("snapshots").as_array().unwrap().iter().all(|s| s["id"] != *wrong[4]));
}

#[test]
fn months_dont_depend_on_where_forget_runs() {
    let w = World::new();
    write(w.path("src/file"), "text");
    let in_zone = |zone: &str, words: &[&str]| {
        let ran = ran(w.command("").args(words).env("TZ", zone)).expect(0);
        lines(&ran.out).pop().unwrap()
    };
    let mut ids = Vec::new();
    for time in
        ["2026-02-28 20:00:00", "2026-03-01 00:30:00", "2026-03-01 12:00:00", "2026-03-31 23:30:00"]
    {
        let saved =
            in_zone("CET-1CEST,M3.5.0,M10.5.0/3", &["backup", "src", "--json", "--time", time]);
        ids.push(saved["snapshot_id"].as_str().unwrap().to_owned());
    }
    for zone in ["UTC", "CET-1CEST,M3.5.0,M10.5.0/3", "EST5", "<+14>-14"] {
        let answer = in_zone(zone, &["forget", "--keep-first-of-month", "--dry-run", "--json"]);
        let kept = reasons(&answer);
        let expected = [(0, "first of 2026-02"), (1, "first of 2026-03"), (3, "newest snapshot")];
        let expected = expected.map(|(n, why)| (ids[n].clone(), why.to_owned()));
        assert_eq!(kept, expected, "{zone}");
    }
}
