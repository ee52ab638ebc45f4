//! Damaged repositories: what is whole stays usable, the rest is named, and nothing panics.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::path::Path;

use common::files::*;
use common::*;
use serde_json::Value;

fn middle(object: &Path) -> u64 {
    object.metadata().unwrap().len() / 2
}

fn object_name(w: &World, object: &Path) -> String {
    object.strip_prefix(w.path("repo")).unwrap().to_str().unwrap().to_owned()
}

/// Everything but `bad` comes back from a repository whose pack is broken.
fn assert_rest_is_restored(w: &World, pack: &str) {
    let said = w.fails(3, "restore latest -t out");
    says(&said, &["src/bad", pack]);
    let out = w.path("out").join(w.inside("src"));
    // The damaged one isn't there, neither in part nor under another name.
    assert_eq!(names(&out), ["good"]);
    assert!(fs::read(out.join("good")).unwrap() == noise(1, 3 << 20));
    fs::remove_dir_all(w.path("out")).unwrap();
}

#[test]
fn a_broken_pack_costs_what_is_in_it() {
    let (w, pack) = World::in_two_packs();
    let name = object_name(&w, &pack);
    let whole = fs::read(&pack).unwrap();
    let found = |words: &str| {
        let told = w.fails_with(1, words);
        says(&told, &[&name, "src/bad", "1 problem found", "another copy"]);
        assert!(!told.contains("src/good"), "{told}");
    };
    flip(&pack, middle(&pack));
    w.ok("check");
    found("check --read-data");
    // All snapshots that it touches are named, the newest first.
    let checked = lines(&w.run("check --read-data --json").expect(1).out).remove(0);
    let latest = w.json("snapshots latest")[0]["id"].clone();
    assert_eq!(checked["problems"][0]["snapshots"], Value::Array(vec![latest]));
    assert_rest_is_restored(&w, &name);
    says(&w.fails(1, &format!("cat latest:{}", w.path("src/bad").display())), &[&name, "damaged"]);

    fs::write(&pack, &whole[..whole.len() / 2]).unwrap();
    found("check");
    assert_rest_is_restored(&w, &name);

    fs::remove_file(&pack).unwrap();
    found("check");
    assert_rest_is_restored(&w, &name);
    // Prune doesn't make it worse.
    let kept = w.objects("packs");
    let pruned = w.run("prune --grace 0 --max-unused 0").expect_no_panic();
    assert!(pruned.code == 1 || kept.is_subset(&w.objects("packs")), "{}", pruned.err);

    // Put back from another copy, as `check` says, it is of use again.
    fs::write(&pack, &whole).unwrap();
    w.ok("check -q --read-data");

    // Or as `repair --help` says: what is lost and still on the disk is stored again.
    flip(&pack, middle(&pack));
    let repaired = w.run("repair index --read-all-packs --json").expect(3);
    assert_eq!(lines(&repaired.out).remove(0)["packs_damaged"], 1);
    w.ok("backup -q src");
    w.ok("restore latest -t healed");
    assert_same(&w.path("src"), &w.path("healed").join(w.inside("src")));
    w.ok("restore latest~1 -t healed --overwrite");
    assert_same(&w.path("src"), &w.path("healed").join(w.inside("src")));
    // And when nothing needs it any more, it goes.
    w.ok("prune -q --grace 0 --max-unused 0");
    w.ok("check -q --read-data");
    w.ok("restore latest -t out");
    assert_same(&w.path("src"), &w.path("out").join(w.inside("src")));
}

/// What a test does with each damaged repository. With the codes that are fine.
const COMMANDS: [(&str, &[i32]); 10] = [
    ("snapshots", &[0, 1, 10, 12]),
    ("ls latest", &[0, 1, 10, 12]),
    ("restore latest -t out --overwrite", &[0, 1, 3, 10, 12]),
    ("find *.txt", &[0, 1, 3, 10, 12]),
    ("stats", &[0, 1, 10, 12]),
    ("key list", &[0, 1, 10, 12]),
    ("forget --keep-last 1 --dry-run", &[0, 1, 10, 12]),
    ("prune --dry-run", &[0, 1, 10, 12]),
    ("backup src --dry-run", &[0, 1, 3, 10, 12]),
    ("check --read-data", &[1, 10, 12]),
];

/// Spoils an object in several ways, with the commands after each.
fn spoil(w: &World, object: &Path, also_said: &[&str]) {
    let whole = fs::read(object).unwrap();
    let len = whole.len();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x41;
        bytes
    };
    let spoilt = [
        ("begins otherwise", flipped(0)),
        ("flipped", flipped(len / 3)),
        ("ends otherwise", flipped(len - 1)),
        ("cut", whole[..len / 2].to_vec()),
        ("empty", Vec::new()),
        ("longer", [whole.as_slice(), b"more"].concat()),
        ("something else", noise(99, len)),
    ];
    let is_config = object.ends_with("config");
    for (how, bytes) in spoilt {
        if is_config && how == "longer" {
            // Readers pass over what later formats may add there.
            continue;
        }
        fs::write(object, bytes).unwrap();
        // What the cache knows would hide it.
        let _ = fs::remove_dir_all(w.path("cache"));
        for (words, codes) in COMMANDS {
            let ran = w.run(words).expect_no_panic();
            let told = format!("{words}, {} {how}: {} {}", object.display(), ran.code, ran.err);
            assert!(codes.contains(&ran.code), "{told}");
            let said = ran.err + &ran.out;
            assert!(ran.code == 0 || !said.is_empty(), "{told}");
            if words.starts_with("check") {
                says(&said, also_said);
            }
        }
    }
    fs::write(object, whole).unwrap();
    w.ok("check -q --read-data");
}

#[test]
fn damaged_snapshots_and_indexes() {
    let (w, _) = World::in_two_packs();
    let first = w.json("snapshots latest~1")[0]["id"].as_str().unwrap().to_owned();
    let snapshot = w.path("repo/snapshots").join(&first);
    spoil(&w, &snapshot, &[&first[..8]]);
    let index = w.largest("index");
    spoil(&w, &index, &[&object_name(&w, &index)]);

    // The other snapshots are of use, and the damaged one is named.
    fs::write(&snapshot, "").unwrap();
    let ran = w.run("snapshots").expect(0);
    says(&ran.err, &[&first[..8], "is left out"]);
    says(&ran.out, &["1 snapshot"]);
    w.ok("restore latest -t other");
    assert_same(&w.path("src"), &w.path("other").join(w.inside("src")));
}

#[test]
fn damaged_configs_and_keys() {
    let (w, _) = World::in_two_packs();
    spoil(&w, &w.path("repo/config"), &["config"]);
    let key = w.largest("keys");
    let name = object_name(&w, &key);
    spoil(&w, &key, &[&name]);
    // With another one beside it that can be read.
    fs::write(w.path("second"), "battery staple").unwrap();
    w.ok("key add -q --new-password-file second");
    let whole = fs::read(&key).unwrap();
    fs::write(&key, "").unwrap();
    says(&w.fails(12, "snapshots"), &[&name, "that can be read"]);
    w.ok("snapshots --password-file second");
    fs::write(&key, whole).unwrap();
    for key in w.objects("keys") {
        fs::remove_file(&key).unwrap();
    }
    says(&w.fails(1, "snapshots"), &["no key slot left", "keys/"]);
}

#[test]
fn damaged_trees() {
    let (w, _) = World::in_two_packs();
    // The smallest packs are those of trees.
    let mut packs: Vec<_> = w.objects("packs").into_iter().collect();
    packs.sort_by_key(|pack| pack.metadata().unwrap().len());
    spoil(&w, &packs[0], &[&object_name(&w, &packs[0])]);
}

/// A nightly backup tells whoever looks at its exit code, though all that it saves is there.
#[test]
fn a_backup_tells_that_the_repository_is_damaged() {
    let (w, pack) = World::in_two_packs();
    let whole = fs::read(&pack).unwrap();
    fs::remove_file(&pack).unwrap();
    let name = w.json("snapshots latest")[0]["id"].as_str().unwrap().to_owned();
    let said = w.run("backup --json src").expect(3);
    let summary = lines(&said.out).pop().unwrap();
    assert_eq!((&summary["packs_lost"], &summary["index_damaged"]), (&1.into(), &0.into()));
    // What it saved is whole, and what was lost is stored again.
    for snapshot in ["latest", &name] {
        w.ok(&format!("restore {snapshot} -t out --overwrite"));
        assert_same(&w.path("src"), &w.path("out").join(w.inside("src")));
    }
    w.ok("backup -q src");
    fs::write(&pack, whole).unwrap();

    let index = w.largest("index");
    let bytes = fs::read(&index).unwrap();
    flip(&index, middle(&index));
    let _ = fs::remove_dir_all(w.path("cache"));
    let told = format!("{} is damaged", object_name(&w, &index));
    says(&w.fails_with(0, "snapshots"), &[&told, "repair index"]);
    says(&w.fails_with(3, "backup src"), &[&told, "repair index", "the repository is damaged"]);
    w.ok("restore latest -t out --overwrite");
    assert_same(&w.path("src"), &w.path("out").join(w.inside("src")));
    fs::write(&index, bytes).unwrap();
    assert_eq!(w.json("backup src")["index_damaged"], 0);
}

/// Also if what is damaged are directories of the snapshot it compares with, which it reads.
#[test]
fn what_a_backup_finds_damaged_is_stored_again() {
    let w = World::new();
    for i in 0..60 {
        write(w.path(format!("src/{i}/file")), noise(i, 3000));
    }
    w.ok("backup -q src");
    // The smallest pack is that of trees.
    let packs = w.objects("packs");
    let trees = packs.into_iter().min_by_key(|pack| pack.metadata().unwrap().len()).unwrap();
    flip(&trees, middle(&trees));
    let _ = fs::remove_dir_all(w.path("cache"));
    assert_ne!(w.run("ls latest").code, 0, "it is one that listing needs");
    let said = w.fails_with(3, "backup src");
    says(&said, &[&object_name(&w, &trees), "is damaged", "check --read-data", "saved"]);
    w.ok("restore -q latest -t out");
    assert_same(&w.path("src"), &w.path("out").join(w.inside("src")));
}

#[test]
fn a_backup_tells_that_a_snapshot_is_damaged() {
    let w = World::new();
    write(w.path("src/file"), "content");
    w.ok("backup -q src");
    let snapshot = w.largest("snapshots");
    flip(&snapshot, middle(&snapshot));
    let said = w.fails_with(3, "backup src");
    says(&said, &["is left out", "the repository is damaged", "saved"]);
}
