//! Parity as people use it: a repository on a bad disk is read, and mended without a password.

mod common;

use std::fs;
use std::path::Path;

use common::*;
use tresor_engine::format::ParityShare;

fn world() -> World {
    let w = World::bare();
    w.init_with(ParityShare::new(50));
    fs::create_dir(w.path("data")).unwrap();
    let bytes: Vec<u8> = (0..400_000u32).flat_map(|n| n.wrapping_mul(n).to_le_bytes()).collect();
    fs::write(w.path("data/large"), bytes).unwrap();
    fs::write(w.path("data/small"), "small").unwrap();
    w.ok("backup data -q");
    w
}

/// Zeroes a sector in the middle of a file.
fn damage(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.len() / 2 / 4096 * 4096;
    let end = bytes.len().min(at + 4096);
    bytes[at..end].fill(0);
    fs::write(path, bytes).unwrap();
}

/// A command by somebody who doesn't know the password.
fn keyless(w: &World, words: &str) -> Ran {
    ran(w.command(words).env_remove("TRESOR_PASSWORD_FILE"))
}

#[test]
fn a_damaged_repository_is_read_and_mended() {
    let w = world();
    let kinds = ["packs", "index", "snapshots", "keys"];
    let damaged: Vec<_> = kinds.iter().map(|kind| w.largest(kind)).collect();
    let before: Vec<_> = damaged.iter().map(|path| fs::read(path).unwrap()).collect();
    damaged.iter().for_each(|path| damage(path));
    let name = damaged[0].strip_prefix(w.path("repo")).unwrap().to_str().unwrap().to_owned();

    let restored = w.run("restore latest --target out -q --no-cache").expect(0);
    says(&restored.err, &[&name, "parity", "tresor repair objects"]);
    let large = |folder: &str| fs::read(w.path(folder).join("large")).unwrap();
    assert!(large("data") == large(&format!("out/{}", w.inside("data"))));
    let report = w.run("check --read-data --no-cache --json").expect(1);
    let answer = &lines(&report.out)[0];
    assert!(
        answer["problems"].as_array().unwrap().iter().all(|p| p["files"] == serde_json::json!([]))
    );

    let found = keyless(&w, "scrub --json").expect(1);
    let problems = lines(&found.out)[0]["problems"].as_array().unwrap().clone();
    assert_eq!(problems.len(), 4);
    assert!(problems.iter().all(|p| p["mendable"] == true), "{problems:?}");
    says(&keyless(&w, "repair objects --dry-run").expect(0).out, &["would be mended", "dry run"]);
    assert!(fs::read(&damaged[0]).unwrap() != before[0]);
    let mended = keyless(&w, "repair objects --json").expect(0);
    let answer = &lines(&mended.out)[0];
    assert_eq!(answer["mended"].as_array().unwrap().len(), 4, "{answer}");
    for (path, bytes) in damaged.iter().zip(&before) {
        assert!(fs::read(path).unwrap() == *bytes, "{path:?}");
    }
    keyless(&w, "scrub -q").expect(0);
    w.ok("check --read-data -q");
    says(&keyless(&w, "repair objects").expect(0).out, &["no problem is left"]);
}

#[test]
fn what_can_t_be_mended_is_told_and_left() {
    let w = world();
    let pack = w.largest("packs");
    let length = fs::metadata(&pack).unwrap().len() as usize;
    fs::write(&pack, vec![1; length]).unwrap();
    let report = keyless(&w, "repair objects").expect(1);
    says(&report.out, &["can't be mended", "another copy", "1 problem is left"]);
    assert!(fs::read(&pack).unwrap() == vec![1; length]);
    w.fails(1, "check --read-data");
}

#[test]
fn a_config_that_is_gone_is_made_anew_without_a_password() {
    let w = world();
    let config = fs::read(w.path("repo/config")).unwrap();
    fs::remove_file(w.path("repo/config")).unwrap();
    keyless(&w, "repair objects -q").expect(0);
    assert!(fs::read(w.path("repo/config")).unwrap() == config);
    w.ok("check --read-data -q");
}

#[test]
fn parity_is_chosen_when_a_repository_is_made() {
    let w = World::bare();
    says(&w.fails(1, "init --parity 0%"), &["0.1%"]);
    w.ok("init --parity 5% -q");
    assert_eq!(w.objects("parity").len(), 2);
    let stats = w.json("stats");
    assert_eq!(stats["parity_objects"], 2);
    // Key slots of their own, and packs of a backup that is forgotten and pruned.
    fs::create_dir(w.path("data")).unwrap();
    fs::write(w.path("data/file"), vec![7; 100_000]).unwrap();
    w.ok("backup data -q");
    let all = |w: &World| {
        ["packs", "index", "snapshots", "keys", "forgotten"]
            .iter()
            .map(|kind| w.objects(kind).len())
            .sum::<usize>()
            + 1
    };
    assert_eq!(w.objects("parity").len(), all(&w));
    w.ok("forget latest -q");
    w.ok("prune --grace 0 --max-unused 0 -q");
    assert_eq!(w.objects("parity").len(), all(&w));

    let plain = World::new();
    says(&plain.fails(1, "repair objects"), &["no parity", "--parity"]);
    assert!(!plain.path("repo/parity").exists());
}
