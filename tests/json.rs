//! What `--json` says is what docs/json.md promises.
#![cfg(target_os = "linux")]

mod common;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use common::files::*;
use common::*;
use serde_json::Value;

/// The object has these fields, and no others but those that are there only if needed.
#[track_caller]
fn has(value: &Value, fields: &str, if_needed: &str) {
    let object = value.as_object().unwrap_or_else(|| panic!("no object: {value}"));
    for field in fields.split_whitespace() {
        assert!(object.contains_key(field), "no {field} in {value}");
    }
    let known = |name: &String| {
        fields.split_whitespace().chain(if_needed.split_whitespace()).any(|f| f == name)
    };
    let unknown: Vec<_> = object.keys().filter(|name| !known(name)).collect();
    assert!(unknown.is_empty(), "{unknown:?} are not documented: {value}");
}

const SUMMARY: &str = "files directories others bytes files_new files_changed files_unchanged \
    blobs_added bytes_added bytes_stored errors seconds";

#[track_caller]
fn is_snapshot(value: &Value, more: &str) {
    let fields = format!("id short_id time host user paths tags summary program {more}");
    has(value, &fields, "paths_hex");
    has(&value["summary"], SUMMARY, "");
    let id = value["id"].as_str().unwrap();
    assert!(id.len() == 64 && id.starts_with(value["short_id"].as_str().unwrap()));
    is_time(&value["time"]);
    assert!(value["paths"].is_array() && value["tags"].is_array());
}

#[track_caller]
fn is_time(value: &Value) {
    let time = value.as_str().unwrap();
    assert!(time.len() >= 25 && time.as_bytes()[10] == b'T', "{time}");
    assert!(time.ends_with("+00:00"), "{time} has no offset");
}

#[track_caller]
fn is_entry(value: &Value, more: &str) {
    let fields =
        format!("path name kind size mode permissions uid gid user group mtime links {more}");
    has(value, &fields, "path_hex target target_hex device");
    is_time(&value["mtime"]);
}

/// A world with two snapshots; the second one is changed.
fn world() -> World {
    let w = World::new();
    write(w.path("src/file"), "content");
    write(w.path("src/goes"), noise(1, 100_000));
    symlink("file", w.path("src/link")).unwrap();
    write(w.path("src").join(OsStr::from_bytes(b"\xff")), "");
    w.ok("backup -q src --time 2026-01-02T03:04:05 --host alpha --tag b,a");
    write(w.path("src/file"), "other content");
    write(w.path("src/comes/new"), "");
    std::fs::remove_file(w.path("src/goes")).unwrap();
    w.ok("backup -q src --host alpha --tag a");
    w
}

#[test]
fn init_and_keys() {
    let w = World::bare();
    let made = w.json("init --label first");
    has(&made, "message_type id repository", "");
    assert_eq!(made["message_type"], "initialized");
    assert_eq!(made["id"].as_str().unwrap().len(), 32);
    write(w.path("second"), "another password");
    let added = w.json("key add --label two --new-password-file second");
    has(&added, "message_type id", "");
    let slots = w.json("key list");
    let slots = slots.as_array().unwrap();
    assert_eq!(slots.len(), 2);
    for slot in slots {
        has(slot, "id short_id current label created memory_kib passes lanes problem", "");
        assert!(slot["memory_kib"].as_u64().unwrap() >= 64 * 1024);
    }
    let id = added["id"].as_str().unwrap();
    let removed = w.json(&format!("key remove {id}"));
    let changed = w.json("key passwd --new-password-file second");
    let types = [&added, &removed, &changed].map(|message| message["message_type"].clone());
    assert_eq!(types, ["key_added", "key_removed", "password_changed"]);
    w.fails(12, "snapshots");
    w.ok("snapshots -p second");
}

#[test]
fn backup_and_restore() {
    let w = world();
    let fields = format!(
        "message_type dry_run snapshot_id parent time older_state packs_lost index_damaged packs_damaged snapshots_damaged fs_snapshot source_problems left_out {SUMMARY}"
    );
    let messages = w.json_lines("backup src --host alpha -vv");
    let (summary, entries) = messages.split_last().unwrap();
    has(summary, &fields, "");
    is_time(&summary["time"]);
    assert_eq!(summary["message_type"], "summary");
    assert_eq!(summary["parent"], w.json("snapshots latest~1")[0]["id"]);
    let count = |field: &str| summary[field].as_u64().unwrap();
    let kinds = ["files_new", "files_changed", "files_unchanged"].map(count);
    assert_eq!((count("files"), kinds[0], kinds.iter().sum::<u64>()), (3, 0, 3));
    assert!(!entries.is_empty());
    for entry in entries.iter().filter(|m| m["message_type"] != "status") {
        has(entry, "message_type action path", "");
        assert_eq!(entry["message_type"], "entry");
    }
    let messages = lines(&w.run("backup --json src nowhere").expect(3).out);
    let error = messages.iter().find(|m| m["message_type"] == "error").unwrap();
    has(error, "message_type path message", "");

    let restored = w.json("restore latest -t out --verify");
    let fields = "message_type dry_run snapshot_id files directories others bytes files_restored \
        files_unchanged bytes_written deleted verified errors";
    has(&restored, fields, "");
    assert_eq!((&restored["verified"], &restored["dry_run"]), (&3.into(), &false.into()));
}

#[test]
fn snapshots_and_entries() {
    let w = world();
    let all = w.json("snapshots");
    let all = all.as_array().unwrap();
    all.iter().for_each(|s| is_snapshot(s, ""));
    assert_eq!(all[0]["time"], "2026-01-02T03:04:05+00:00");
    assert_eq!(
        (&all[0]["host"], &all[0]["tags"]),
        (&"alpha".into(), &serde_json::json!(["a", "b"]))
    );
    assert_eq!(all[0]["paths"][0], w.path("src").to_str().unwrap());

    let entries = w.json_lines("ls latest");
    entries.iter().for_each(|entry| is_entry(entry, ""));
    let entry = |name: &str| entries.iter().find(|e| e["name"] == name).unwrap();
    assert_eq!((&entry("file")["kind"], &entry("file")["size"]), (&"file".into(), &13.into()));
    assert_eq!(
        (&entry("link")["kind"], &entry("link")["target"]),
        (&"symlink".into(), &"file".into())
    );
    let odd = &entry("\\xff")["path_hex"];
    assert!(odd.as_str().unwrap().ends_with("2fff"), "{odd}");

    // Oldest first.
    for words in ["versions src/file", "find file"] {
        let versions = w.json_lines(words);
        versions.iter().for_each(|version| is_entry(version, "snapshots"));
        let holders: Vec<_> = versions.iter().map(|v| &v["snapshots"][0]).collect();
        assert_eq!(holders, [&all[0]["id"], &all[1]["id"]], "{words}");
    }
}

#[test]
fn diff_and_stats() {
    let w = world();
    let messages = w.json_lines("diff latest~1 latest --metadata");
    let (statistics, changes) = messages.split_last().unwrap();
    let fields = "message_type old_snapshot new_snapshot added removed modified metadata_changed \
        type_changed";
    has(statistics, fields, "");
    for side in ["added", "removed"] {
        has(&statistics[side], "files directories others bytes", "");
    }
    assert_eq!((&statistics["modified"], &statistics["removed"]["files"]), (&1.into(), &1.into()));
    let mut seen: Vec<String> = Vec::new();
    for change in changes {
        has(change, "message_type modifier path", "path_hex");
        let (modifier, path) =
            (change["modifier"].as_str().unwrap(), change["path"].as_str().unwrap());
        let name = path.trim_start_matches(w.path("src").to_str().unwrap());
        seen.push(format!("{modifier} {name}"));
    }
    for change in ["+ /comes/", "+ /comes/new", "M /file", "- /goes"] {
        assert!(seen.iter().any(|s| s == change), "no {change} in {seen:?}");
    }
    let stats = w.json("stats");
    let fields = "snapshots entries files restore_bytes blobs blob_bytes stored_bytes packs \
        index_objects parity_objects parity_bytes";
    has(&stats, fields, "");
    assert_eq!((&stats["snapshots"], &stats["files"]), (&2.into(), &6.into()));
}

#[test]
fn forget_prune_and_check() {
    let w = world();
    let plan = "dry_run snapshots blobs_used blobs_unused bytes_used bytes_unused packs_kept bytes_unused_kept \
        packs_repack bytes_repack packs_mark bytes_mark packs_delete bytes_delete packs_waiting \
        packs_recovered packs_unindexed done";
    let done = "packs_deleted bytes_deleted bytes_repacked bytes_marked";
    let would = w.json("forget --keep-last 1 --dry-run");
    has(&would, "dry_run groups removed prune", "");
    assert_eq!((&would["dry_run"], would["removed"].as_array().unwrap().len()), (&true.into(), 1));
    assert!(would["prune"].is_null());
    let foreseen = w.json("forget --keep-last 1 --dry-run --prune");
    let forgotten = w.json("forget --keep-last 1 --prune");
    let group = &forgotten["groups"][0];
    has(group, "host paths tags keep remove", "");
    assert_eq!((&group["host"], &group["tags"]), (&"alpha".into(), &Value::Null));
    is_snapshot(&group["keep"][0], "reasons");
    is_snapshot(&group["remove"][0], "reasons");
    assert_eq!(forgotten["removed"][0], group["remove"][0]["id"]);
    has(&forgotten["prune"], plan, "");
    has(&forgotten["prune"]["done"], done, "");
    // The same plan, before those snapshots are gone.
    let mut plan_alone = forgotten["prune"].clone();
    (plan_alone["done"], plan_alone["dry_run"]) = (Value::Null, true.into());
    assert_eq!(foreseen["prune"], plan_alone);
    assert_eq!(
        (&foreseen["removed"], &foreseen["groups"]),
        (&forgotten["removed"], &forgotten["groups"])
    );
    assert!(
        plan_alone["packs_mark"].as_u64().unwrap() + plan_alone["packs_repack"].as_u64().unwrap()
            > 0
    );
    let pruned = w.json("prune --dry-run");
    has(&pruned, plan, "");
    assert_eq!((&pruned["dry_run"], &pruned["done"]), (&true.into(), &Value::Null));
    has(&w.json("prune")["done"], done, "");
    assert_eq!(w.json("forget latest --dry-run")["groups"], serde_json::json!([]));

    let fields = "since problems snapshots older_snapshots packs blobs bytes_read unused_packs";
    let checked = w.json("check --read-data");
    has(&checked, fields, "");
    assert_eq!((&checked["snapshots"], &checked["problems"]), (&1.into(), &serde_json::json!([])));
    assert!(checked["since"].is_null());
    let recent = w.json("check --since 1d --read-data");
    is_time(&recent["since"]);
    assert_eq!(recent["bytes_read"], checked["bytes_read"]);
    let tomorrow = w.json("check --read-data-subset 100% --since 2222-01-01T00:00:00");
    assert_eq!((&tomorrow["bytes_read"], &tomorrow["older_snapshots"]), (&0.into(), &1.into()));
    for pack in w.objects("packs") {
        std::fs::remove_file(pack).unwrap();
    }
    let checked = lines(&w.run("check --json").expect(1).out).remove(0);
    has(&checked, fields, "");
    has(&checked["problems"][0], "object message snapshots files more_files", "");
}
