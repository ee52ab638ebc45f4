//! scrub and repair as people use them.

mod common;

use std::fs;
use std::path::PathBuf;

use common::World;
use serde_json::Value;

fn objects(world: &World, folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![world.path("repo").join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

fn run(world: &World, words: &str) -> (i32, String) {
    let out = world.command(words).output().unwrap();
    (out.status.code().unwrap(), String::from_utf8(out.stdout).unwrap())
}

fn json(world: &World, words: &str) -> (i32, Value) {
    let (code, text) = run(world, words);
    (code, serde_json::from_str(&text).unwrap_or_else(|e| panic!("{words}: {e}: {text:?}")))
}

fn world() -> World {
    let world = World::new();
    fs::create_dir(world.path("data")).unwrap();
    let bytes: Vec<u8> = (0..100_000u32).flat_map(|n| n.wrapping_mul(n).to_le_bytes()).collect();
    fs::write(world.path("data/large"), bytes).unwrap();
    fs::write(world.path("data/small"), "small").unwrap();
    assert_eq!(run(&world, "backup data -q").0, 0);
    world
}

#[test]
fn scrub_needs_no_password() {
    let world = world();
    let scrub = |words: &str| {
        let mut command = world.command(words);
        command.env_remove("TRESOR_PASSWORD_FILE");
        let out = command.output().unwrap();
        (out.status.code().unwrap(), String::from_utf8(out.stdout).unwrap())
    };
    let (code, text) = scrub("scrub");
    assert!(code == 0 && text.contains("each is what its name says"), "{text}");
    let pack = objects(&world, "packs").remove(0);
    let mut bytes = fs::read(&pack).unwrap();
    bytes[60] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let (code, text) = scrub("scrub --json");
    let answer: Value = serde_json::from_str(&text).unwrap();
    let name = pack.strip_prefix(world.path("repo")).unwrap().to_str().unwrap();
    assert_eq!((code, answer["problems"][0]["object"].as_str()), (1, Some(name)));
    assert_eq!(answer["problems"].as_array().unwrap().len(), 1);
    assert_eq!(scrub("scrub -r nowhere").0, 10);
}

#[test]
fn a_lost_index_is_built_again() {
    let world = world();
    objects(&world, "index").iter().for_each(|path| fs::remove_file(path).unwrap());
    assert_eq!(run(&world, "check").0, 1);
    let (code, answer) = json(&world, "repair index --json");
    assert_eq!((code, answer["packs_added"].as_u64()), (0, answer["packs"].as_u64()));
    assert_eq!(run(&world, "check --read-data").0, 0);
}

#[test]
fn what_is_left_of_a_snapshot() {
    let world = world();
    // The packs with contents are larger than those with trees.
    let size = |path: &PathBuf| fs::metadata(path).unwrap().len();
    let largest = objects(&world, "packs").into_iter().max_by_key(size).unwrap();
    fs::remove_file(largest).unwrap();
    let (code, dry) = json(&world, "repair snapshots --dry-run --json");
    assert_eq!((code, dry["repaired"].as_array().unwrap().len()), (3, 1));
    assert_eq!(objects(&world, "snapshots").len(), 1);
    let (code, answer) = json(&world, "repair snapshots --json");
    assert_eq!((code, &answer["repaired"][0]["losses"]), (3, &dry["repaired"][0]["losses"]));
    let loss = &answer["repaired"][0]["losses"][0];
    assert!(loss["path"].as_str().unwrap().ends_with("/data/large"), "{loss}");
    // The original stays until somebody removes it.
    assert_eq!(objects(&world, "snapshots").len(), 2);
    let original = answer["repaired"][0]["original"].as_str().unwrap();
    assert_eq!(run(&world, &format!("forget {original} -q")).0, 0);
    let (code, text) = run(&world, "repair snapshots");
    assert!(code == 0 && text.contains("nothing is missing"), "{text}");
    assert_eq!(run(&world, "restore latest --target out -q").0, 0);
    let small = world.path("out").join(world.inside("data/small"));
    assert_eq!(fs::read(small).unwrap(), b"small");
}

/// A folder of the repository is gone: every command says what to do, and nothing takes it
/// for empty.
#[test]
fn a_folder_that_is_gone_is_made_again() {
    for folder in ["index", "packs", "snapshots"] {
        let world = world();
        let (there, aside) = (world.path("repo").join(folder), world.path("aside"));
        fs::rename(&there, &aside).unwrap();
        let mut commands = vec!["prune --grace 0 -q", "check -q", "backup data -q"];
        // It doesn't look at snapshots.
        if folder != "snapshots" {
            commands.push("repair index --dry-run -q");
        }
        for words in commands {
            let ran = world.run(words);
            assert_eq!(ran.code, 1, "{words}: {}", ran.out);
            common::says(&ran.err, &[folder, "is gone", "tresor repair index"]);
            assert!(!there.exists(), "{words}");
        }
        let (code, answer) = json(&world, "repair index --json");
        assert_eq!(code, 3, "{answer}");
        assert_eq!(answer["folders_made"], serde_json::json!([folder]));
        if folder == "index" {
            assert!(answer["packs_added"].as_u64().unwrap() > 0, "{answer}");
        } else {
            fs::remove_dir_all(&there).unwrap();
            fs::rename(&aside, &there).unwrap();
            run(&world, "repair index -q");
        }
        assert_eq!(run(&world, "check --read-data").0, 0, "{folder}");
        assert_eq!(run(&world, "restore latest -t out -q").0, 0, "{folder}");
    }
    let world = world();
    fs::remove_dir_all(world.path("repo/keys")).unwrap();
    common::says(&world.fails(1, "snapshots"), &["keys", "put it back from a copy"]);
}
