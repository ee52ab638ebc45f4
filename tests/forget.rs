//! `forget` of the built command: what it removes by name, and what each rule keeps. And how
//! much `prune` rewrites then.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeMap;
use std::fs;

use common::files::*;
use common::*;
use serde_json::Value;

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

/// Of each snapshot that stays, in order of time: its letter and why.
fn kept(answer: &Value, letters: &BTreeMap<String, char>) -> Vec<(char, String)> {
    let groups = answer["groups"].as_array().unwrap().iter();
    let mut all: Vec<_> = groups.flat_map(|group| group["keep"].as_array().unwrap()).collect();
    all.sort_by_key(|s| s["time"].as_str().unwrap());
    all.iter().map(|s| (letters[s["id"].as_str().unwrap()], reasons(s))).collect()
}

fn reasons(snapshot: &Value) -> String {
    let reasons = snapshot["reasons"].as_array().unwrap().iter();
    reasons.map(|r| r.as_str().unwrap()).collect::<Vec<_>>().join("; ")
}

#[test]
fn each_rule_keeps_what_it_says() {
    let w = World::new();
    write(w.path("src/file"), "text");
    // The last four are of one week.
    let made = [
        ('a', "2018-05-01T08:00:00", ""),
        ('b', "2019-12-30T08:00:00", ""),
        ('c', "2020-10-01T08:00:00", "--tag t"),
        ('d', "2020-11-02T08:00:00", ""),
        ('e', "2020-11-09T08:00:00", ""),
        ('f', "2020-11-20T08:00:00", ""),
        ('g', "2020-11-23T08:00:00", ""),
        ('h', "2020-11-24T08:00:00", ""),
        ('i', "2020-11-24T09:10:00", ""),
        ('j', "2020-11-24T09:50:00", ""),
    ];
    for (_, time, more) in made {
        w.ok(&format!("backup -q src --time {time} {more}"));
    }
    let letters: BTreeMap<_, _> = ids(&w).into_iter().zip(made.map(|(c, ..)| c)).collect();
    // The letters of those that stay; those of the newest of all, if no rule wants it.
    let cases = [
        ("--keep-last 2", "ij", "last snapshot"),
        ("--keep-hourly 2", "hj", "hourly snapshot"),
        ("--keep-daily 2", "gj", "daily snapshot"),
        ("--keep-weekly 2", "fj", "weekly snapshot"),
        ("--keep-monthly 2", "cj", "monthly snapshot"),
        ("--keep-yearly 2", "bj", "yearly snapshot"),
        ("--keep-within 2h", "hij", "within 2h"),
        ("--keep-within-hourly 9y", "abcdefghj", "hourly within 9y"),
        ("--keep-within-daily 9y", "abcdefgj", "daily within 9y"),
        ("--keep-within-weekly 9y", "abcdefj", "weekly within 9y"),
        ("--keep-within-monthly 9y", "abcj", "monthly within 9y"),
        ("--keep-within-yearly 9y", "abj", "yearly within 9y"),
        ("--keep-restorable 1h", "hij", "restorable for 1h"),
        ("--keep-tag t", "c", "has tags t"),
        ("--keep-tag x --keep-tag t", "c", "has tags t"),
    ];
    for (rule, letters_kept, why) in cases {
        let answer = w.json(&format!("forget --dry-run {rule}"));
        let mut expected: Vec<_> = letters_kept.chars().map(|c| (c, why.to_owned())).collect();
        if !letters_kept.contains('j') {
            expected.push(('j', "newest snapshot".into()));
        }
        assert_eq!(kept(&answer, &letters), expected, "{rule}");
        let gone = answer["groups"][0]["remove"].as_array().unwrap();
        assert_eq!(gone.len(), made.len() - expected.len(), "{rule}");
        assert!(gone.iter().all(|s| reasons(s) == "no rule keeps it"), "{rule}");
    }
    let firsts = [('a', "first of 2018-05"), ('b', "first of 2019-12"), ('c', "first of 2020-10")];
    let more = [('d', "first of 2020-11"), ('j', "newest snapshot")];
    let expected: Vec<_> = firsts.into_iter().chain(more).map(|(c, r)| (c, r.to_owned())).collect();
    let answer = w.json("forget --dry-run --keep-first-of-month");
    assert_eq!(kept(&answer, &letters), expected);
    let by = |by: &str| {
        let mut command = w.command("forget --dry-run --json --keep-last 1 --group-by");
        let answer = lines(&ran(command.arg(by)).expect(0).out).remove(0);
        let kept: String = kept(&answer, &letters).iter().map(|(letter, _)| letter).collect();
        (kept, answer["groups"][0].clone())
    };
    let (kept_by_tags, group) = by("tags");
    assert_eq!((&*kept_by_tags, &group["host"]), ("cj", &Value::Null));
    let (kept_by_host, group) = by("host,paths");
    assert_eq!((&*kept_by_host, &group["tags"]), ("j", &Value::Null));
    assert_eq!(group["paths"][0], w.path("src").to_str().unwrap());
    let (kept_of_all, group) = by("");
    assert_eq!((&*kept_of_all, &group["paths"]), ("j", &Value::Null));
    says(&w.ok("forget --dry-run --keep-last 9"), &["no rule keeps it", "1 snapshot would be"]);
    assert_eq!(ids(&w).len(), made.len(), "dry runs");
    // Each removes what it said.
    w.ok("forget -q --keep-monthly 2");
    let left: String = ids(&w).iter().map(|id| letters[id]).collect();
    assert_eq!(left, "cj");
}

/// A pack is away for a while, and snapshots are repaired meanwhile.
#[test]
fn what_was_repaired_pushes_no_whole_snapshot_out() {
    let (w, pack) = World::in_two_packs();
    for _ in 0..2 {
        w.ok("backup -q src");
    }
    let originals = ids(&w);
    fs::rename(&pack, w.path("away")).unwrap();
    w.run("repair snapshots");
    let all = ids(&w);
    assert_eq!((originals.len(), all.len()), (4, 7), "three needed it");
    fs::rename(w.path("away"), &pack).unwrap();
    w.ok("check -q --read-data");
    assert_eq!(w.json("snapshots latest")[0]["id"], *originals[3]);
    w.ok("forget -q --keep-last 4");
    assert_eq!(ids(&w), all);
    let text = w.ok("forget --dry-run --keep-last 1");
    says(&text, &[&format!("the same backup as {}", &originals[3][..8])]);
    w.ok("forget -q --keep-last 1");
    let left = ids(&w);
    assert_eq!((left.len(), &left[1]), (2, &originals[3]));
    // By its name it goes alone.
    w.ok(&format!("forget -q {}", left[0]));
    assert_eq!(ids(&w), originals[3..]);
}

/// Four packs that are half needed, of six megabytes each.
fn half_needed() -> World {
    let w = World::new();
    for n in 0..4 {
        write(w.path(format!("src/{n}/needed")), noise(2 * n, 4 << 20));
        write(w.path(format!("src/{n}/not")), noise(2 * n + 1, 4 << 20));
        w.ok("backup -q src");
        fs::remove_file(w.path(format!("src/{n}/not"))).unwrap();
    }
    w.ok("backup -q src");
    w.ok("forget -q --keep-last 1");
    w
}

const MB: u64 = 1 << 20;

#[test]
fn prune_rewrites_as_much_as_it_may() {
    let w = half_needed();
    // Bytes that are rewritten, and those that stay unused. Packs of trees are short.
    let plan = |words: &str| {
        let plan = w.json(&format!("prune --dry-run {words}"));
        ["bytes_repack", "bytes_unused_kept"].map(|field| plan[field].as_u64().unwrap())
    };
    let [none, all] = plan("--max-unused unlimited");
    assert!(none == 0 && all > 11 * MB, "{none} {all}");
    let used = w.json("prune --dry-run")["bytes_used"].as_u64().unwrap();
    // No pack is longer, and no less is done than the next one would be too much for.
    let pack = 7 * MB;
    for (words, most) in [
        ("0", 0),
        ("13M", 13 * MB),
        ("7M", 7 * MB),
        ("3145728b", 3 * MB),
        ("40%", used * 40 / 100),
        ("20", used * 20 / 100),
    ] {
        let [rewritten, unused] = plan(&format!("--max-unused {words}"));
        assert!(unused <= most && unused + pack >= most.min(all), "{words}: {unused} of {all}");
        let rest = plan(&format!("--max-unused {words} --max-repack-size 1G"));
        assert_eq!(rest, [rewritten, unused], "{words}");
    }
    let [whole, _] = plan("--max-unused 0");
    for limit in [1, 6, 13, 20] {
        let [rewritten, unused] = plan(&format!("--max-unused 0 --max-repack-size {limit}M"));
        assert!(rewritten <= limit * MB && rewritten + pack >= limit * MB, "{limit}: {rewritten}");
        assert!(unused > 0 && rewritten < whole, "{limit}: {unused}");
    }
    says(&w.ok("prune --dry-run --max-unused 7M"), &["kept:", " MiB unused in them", "rewritten:"]);
    for (words, said) in [
        ("--max-unused lots", ["5%", "10G", "unlimited"]),
        ("--max-unused 101%", ["percentage", "0 to 100", "5%"]),
        ("--max-repack-size lots", ["lots", "is no size", "500M"]),
    ] {
        says(&w.fails(1, &format!("prune {words}")), &said);
    }

    // What was planned is what is done, bit by bit.
    while plan("--max-unused 0") != [0, 0] {
        let done = &w.json("prune --grace 0 --max-unused 0 --max-repack-size 13M")["done"];
        let bytes = done["bytes_repacked"].as_u64().unwrap();
        assert!(bytes > 0 && bytes <= 13 * MB, "{done}");
        w.ok("check -q --read-data");
    }
    w.ok("restore -q latest -t out");
    assert_same(&w.path("src"), &w.path("out").join(w.inside("src")));
}

#[test]
fn as_much_stays_unused_as_it_was_told() {
    let w = half_needed();
    let unused = || w.json("prune --dry-run --max-unused unlimited")["bytes_unused_kept"].clone();
    let before = unused();
    w.ok("prune -q --grace 0 --max-unused unlimited");
    assert_eq!(unused(), before);
    w.ok("backup -q src");
    // `forget` takes it, too.
    w.ok("forget -q latest --prune --grace 0 --max-unused 4M");
    let left = unused().as_u64().unwrap();
    assert!(left <= 4 * MB && left > 2 * MB, "{left}");
    w.ok("check -q --read-data");
}

/// What removes snapshots takes nothing for what wasn't meant.
#[test]
fn what_is_not_clearly_meant_is_not_forgotten() {
    let w = World::new();
    write(w.path("src/file"), "content");
    for host in ["one", "one", "other"] {
        w.ok(&format!("backup -q --host {host} --force src"));
    }
    let before = ids(&w);
    let id = &before[0];
    says(&w.fails(1, &format!("forget {}", &id[..3])), &[&id[..3], "too short"]);
    says(&w.fails(1, &format!("forget --host other {id}")), &["doesn't match host other"]);
    let mut empty = w.command("forget --keep-last 1 --keep-tag");
    says(&ran(empty.arg("")).expect(1).err, &["--keep-tag names no tag"]);
    assert_eq!(ids(&w), before);
    // The newest can't be read: `latest` would be another one.
    let newest = w.path("repo/snapshots").join(&before[2]);
    flip(&newest, newest.metadata().unwrap().len() / 2);
    for name in ["latest", "latest~1", "2999-01-01"] {
        says(&w.fails(1, &format!("forget {name}")), &["can't be read", name, "by its id"]);
    }
    assert_eq!(ids(&w), before[..2]);
    w.ok(&format!("forget {id}"));
    assert_eq!(ids(&w), before[1..2]);
}
