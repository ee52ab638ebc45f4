//! The whole program with a repository that was set back to an older state.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::drive::Drive;
use common::files::*;
use common::*;
use serde_json::Value;

fn replace(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    sh("cp", &[&"-a", &from, &to]);
}

/// Three backups; `old` is the repository after the second one.
fn world() -> World {
    let w = World::new();
    for n in 1..=3 {
        write(w.path("src/file"), format!("content {n}"));
        w.ok(&format!("backup -q src --host alpha --time 2026-01-0{n}T12:00:00"));
        if n == 2 {
            replace(&w.path("repo"), &w.path("old"));
        }
    }
    w
}

/// What is written on standard error as JSON: all fields of docs/json.md.
fn noticed(ran: Ran) -> Vec<Value> {
    let said: Vec<_> =
        lines(&ran.err).into_iter().filter(|line| line["message_type"] == "older_state").collect();
    for message in &said {
        let mut fields: Vec<_> = message.as_object().unwrap().keys().map(String::as_str).collect();
        fields.sort_unstable();
        assert_eq!(fields, FIELDS);
    }
    said
}

const FIELDS: [&str; 10] = [
    "accepted",
    "damaged_records",
    "key_slots_lost",
    "key_slots_put_back",
    "last_place",
    "last_time",
    "message_type",
    "place",
    "snapshots_lost",
    "snapshots_put_back",
];

const WORDS: [&str; 5] = [
    "1 snapshot is gone",
    "nobody has forgotten",
    "2026-01-03 12:00:00",
    "set back",
    "--accept-older-state",
];

#[test]
fn every_command_notices() {
    let w = world();
    let newest = w.json("snapshots latest")[0]["id"].as_str().unwrap().to_owned();
    replace(&w.path("old"), &w.path("repo"));
    let file = format!("latest:/{}", w.inside("src/file"));
    let (cat, path) = (format!("cat {file}"), format!("versions {}", w.path("src/file").display()));
    let reading = [
        "snapshots",
        "ls latest",
        "find file",
        &path,
        &cat,
        "diff latest~1 latest",
        "stats",
        "restore latest -t out --overwrite",
        "prune --dry-run",
        "forget --keep-last 1 --dry-run",
    ];
    for words in reading {
        let ran = w.run(words).expect(0);
        says(&ran.err, &WORDS);
        assert_eq!(ran.err.matches("is gone").count(), 1, "{words}: {}", ran.err);
        let said = noticed(w.run(&with_json(words)).expect(0));
        assert_eq!(said.len(), 1, "{words}");
        assert_eq!(said[0]["snapshots_lost"][0]["id"], *newest, "{words}");
        assert_eq!(said[0]["accepted"], false);
    }
    // Removing something would make the loss final.
    let before = w.stored();
    for words in ["prune", "prune --grace 0", "forget latest", "forget --policy service --prune"] {
        let said = w.fails(1, words);
        says(&said, &["nothing was removed", "--accept-older-state"]);
        says(&said, &WORDS);
    }
    assert_eq!(w.stored(), before);
    let ran = w.run("check").expect(1);
    says(&ran.out, &[&format!("snapshots/{newest}"), "nobody has forgotten it"]);
    let answer = lines(&w.run("check --json").expect(1).out).pop().unwrap();
    assert_eq!(answer["problems"][0]["object"], format!("snapshots/{newest}"));
    // A backup saves all the same.
    says(&w.run("backup src").expect(3).out, &["set back", "snapshot", "saved"]);
    for words in ["backup src --force", "backup --stdin", "backup -n src"] {
        says(&w.fails(3, words), &WORDS);
    }
    let summary = lines(&w.run("backup src --json").expect(3).out).pop().unwrap();
    assert_eq!(summary["older_state"], true);
    // Until it is taken as it is.
    let ran = w.run("prune --accept-older-state").expect(0);
    says(&ran.err, &["1 snapshot is gone", "taken as it is"]);
    let ran = w.run("forget --keep-last 2 --prune --grace 0").expect(0);
    assert_eq!(ran.err, "");
    assert_eq!(w.run("check").expect(0).err, "");
    assert_eq!(w.json("backup src")["older_state"], false);
}

#[test]
fn a_copy_elsewhere() {
    let w = world();
    let old = w.path("old").display().to_string();
    let said = w.run("snapshots -r old").expect(0).err;
    let repo = w.path("repo").display().to_string();
    says(
        &said,
        &[&old, "1 snapshot is gone", &repo, "the same id", "older copy", "--accept-older-state"],
    );
    let said = &noticed(w.run("snapshots -r old --json").expect(0))[0];
    assert_eq!((said["place"].as_str(), said["last_place"].as_str()), (Some(&*old), Some(&*repo)));
    // The one in use is still whole, and so is a copy that is as new.
    assert_eq!(w.run("snapshots").expect(0).err, "");
    replace(&w.path("repo"), &w.path("new"));
    assert_eq!(w.run("snapshots -r new").expect(0).err, "");
    // A computer that has seen nothing else says nothing, nor does one without a state.
    assert_eq!(w.run("snapshots -r old --state-dir fresh").expect(0).err, "");
    assert_eq!(w.run("backup -q src -r old --state-dir fresh").expect(0).err, "");
    says(&w.run("snapshots --state-dir fresh").expect(0).err, &["1 snapshot is gone"]);
}

#[test]
fn forgotten_on_another_computer() {
    let w = world();
    let there = "--state-dir there";
    w.ok(&format!("snapshots {there}"));
    let first = w.json("snapshots")[0]["id"].as_str().unwrap().to_owned();
    replace(&w.path("repo"), &w.path("before"));
    w.ok("forget --keep-last 1 --prune --grace 0");
    assert_eq!(w.run(&format!("snapshots {there}")).expect(0).err, "");
    assert_eq!(w.run(&format!("check {there}")).expect(0).err, "");
    w.ok(&format!("prune {there}"));
    // The repository as it was before: what was forgotten is there again.
    replace(&w.path("before"), &w.path("repo"));
    for state in ["", there] {
        let said = w.run(&format!("snapshots {state}")).expect(0).err;
        says(&said, &["2 snapshots that had been forgotten came back", &first[..8]]);
        let said = &noticed(w.run(&format!("ls latest --json {state}")).expect(0))[0];
        assert_eq!(said["snapshots_put_back"].as_array().unwrap().len(), 2);
        says(&w.fails(1, &format!("prune {state}")), &["nothing was removed"]);
    }
}

#[test]
fn a_password_that_comes_back() {
    let w = world();
    write(w.path("second"), "another password");
    let added = w.json("key add --new-password-file second");
    let id = added["id"].as_str().unwrap();
    replace(&w.path("repo"), &w.path("before"));
    w.ok(&format!("key remove {id}"));
    assert_eq!(w.run("key list").expect(0).err, "");
    replace(&w.path("before"), &w.path("repo"));
    for words in ["key list", "snapshots", "key list -p second"] {
        says(&w.run(words).expect(0).err, &["key slot", &id[..8], "old password", "key remove"]);
    }
    says(&w.run("check").expect(1).out, &[&format!("keys/{id}"), "removed", "password"]);
    w.ok(&format!("key remove {id}"));
    assert_eq!(w.run("check").expect(0).err, "");
    // Changing the password, too.
    replace(&w.path("repo"), &w.path("before"));
    w.ok("key passwd --new-password-file second");
    replace(&w.path("before"), &w.path("repo"));
    says(&w.run("snapshots").expect(0).err, &["came back", "gone that nobody has removed"]);
}

#[test]
fn the_state_file() {
    let w = world();
    let folder = w.path("home/.local/state/tresor");
    let state = names(&folder).into_iter().find(|name| name.len() == 32).unwrap();
    let state = folder.join(state);
    for file in names(&folder) {
        let mode = folder.join(&file).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    // Wherever it is said to be.
    let mut command = w.command("snapshots");
    ran(command.env("XDG_STATE_HOME", w.path("xdg"))).expect(0);
    assert!(w.path("xdg/tresor").is_dir());
    ran(w.command("snapshots").env("TRESOR_STATE_DIR", w.path("variable"))).expect(0);
    assert!(w.path("variable").is_dir());
    // Not the cache: that may go at any time.
    fs::remove_dir_all(w.path("cache")).unwrap();
    replace(&w.path("old"), &w.path("repo"));
    says(&w.run("snapshots --no-cache").expect(0).err, &WORDS);
    fs::write(&state, &fs::read(&state).unwrap()[..100]).unwrap();
    says(
        &w.run("snapshots").expect(0).err,
        &[&state.display().to_string(), "damaged", "not noticed"],
    );
    assert_eq!(w.run("snapshots").expect(0).err, "");
    fs::write(&state, "").unwrap();
    let said = w.run("snapshots --json").expect(0).err;
    assert_eq!(lines(&said)[0]["message_type"], "no_state");
    // That it can't be kept stops nothing.
    fs::write(w.path("file"), "").unwrap();
    let said = w.run("backup -q src --state-dir file/below").expect(0).err;
    says(&said, &["file/below", "can't be kept", "--state-dir"]);
    assert_eq!(said.lines().count(), 1, "{said}");
}

/// The warnings of a drive in the background can only be read at the drive.
fn warnings(drive: &Drive) -> u64 {
    drive.status("older_state")
}

#[test]
fn a_drive_notices() {
    if !can_mount() {
        return;
    }
    let w = world();
    let drive = w.mount("", "mnt");
    assert_eq!((names(drive.at("snapshots")).len(), warnings(&drive)), (4, 0));
    // While it is mounted one goes as it should, and another one doesn't.
    w.ok("forget latest~2 --state-dir elsewhere");
    wait_until("it is gone", || names(drive.at("snapshots")).len() == 3);
    assert_eq!(warnings(&drive), 0);
    let newest = w.json("snapshots latest")[0]["id"].as_str().unwrap().to_owned();
    fs::remove_file(w.path("repo/snapshots").join(&newest)).unwrap();
    wait_until("it is gone, too", || names(drive.at("snapshots")).len() == 2);
    assert_eq!(warnings(&drive), 1);
    says(&w.ok("mount --status mnt"), &["older state", "tresor check"]);
    let said = drive.unmount().err;
    says(&said, &WORDS);
    w.ok("mount --background mnt");
    says(&w.ok("mount --status mnt"), &["older state"]);
    w.ok("umount mnt");
}
