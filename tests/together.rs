//! Several commands at work on one repository.
#![cfg(target_os = "linux")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command};

use common::files::*;
use common::*;

fn started(w: &World, words: &str) -> (Command, Child) {
    let mut command = w.command(words);
    let child = start(&mut command);
    (command, child)
}

fn assert_whole(w: &World) {
    let checked = w.json("check --read-data");
    assert_eq!(checked["problems"], serde_json::json!([]), "{checked}");
}

#[test]
fn two_backups_at_once() {
    let w = World::new();
    for n in 0..8 {
        write(w.path(format!("one/file {n}")), noise(n, 4 << 20));
        // Half of it is the same.
        write(w.path(format!("two/file {n}")), noise(n + 4, 4 << 20));
    }
    let both = ["backup -q one", "backup -q two"].map(|words| started(&w, words));
    for (command, child) in both {
        ended(&command, child).expect(0);
    }
    assert_whole(&w);
    for name in ["one", "two"] {
        w.ok(&format!("restore latest --path {name} -t out-{name}"));
        assert_same(&w.path(name), &w.path(format!("out-{name}")).join(w.inside(name)));
    }
}

#[test]
fn prunes_while_a_backup_runs() {
    let w = World::new();
    // Data that is not needed any more, and needed again by the backup.
    write(w.path("src/old"), noise(1, 20 << 20));
    w.ok("backup -q src");
    w.ok("forget -q latest");
    write(w.path("src/new"), noise(2, 150 << 20));
    w.ok("prune -q");
    let (command, mut child) = started(&w, "backup -q src");
    let mut prunes = 0;
    while child.try_wait().unwrap().is_none() {
        w.ok("prune -q --max-unused 0");
        prunes += 1;
    }
    ended(&command, child).expect(0);
    assert!(prunes > 0);
    assert_whole(&w);
    w.ok("prune -q --grace 0 --max-unused 0");
    assert_whole(&w);
    w.ok("restore latest -t out");
    assert_same(&w.path("src"), &w.path("out").join(w.inside("src")));
}

#[test]
fn a_drive_stays_readable_while_packs_are_rewritten() {
    if !can_mount() {
        return;
    }
    let w = World::new();
    let data = noise(3, 6 << 20);
    write(w.path("src/file"), &data);
    write(w.path("src/other"), noise(4, 6 << 20));
    w.ok("backup -q src");
    let drive = w.mount("", "mnt");
    let top = drive.at("ids").join(names(drive.at("ids"))[0].as_str()).join(w.inside("src"));
    let open = File::open(top.join("file")).unwrap();
    fs::remove_file(w.path("src/other")).unwrap();
    w.ok("backup -q src");
    w.ok("forget -q latest~1");
    w.ok("prune -q --max-unused 0");
    let mut read = vec![0; data.len()];
    open.read_exact_at(&mut read, 0).unwrap();
    assert!(read == data);
    let newest = drive.at("snapshots/latest").join(w.inside("src"));
    // At every time, whatever is the latest can be listed.
    wait_until("the new one is the latest", || names(&newest) == ["file"]);
    assert!(fs::read(newest.join("file")).unwrap() == data);
    assert_whole(&w);
}

#[test]
fn commands_while_a_backup_runs() {
    let w = World::new();
    write(w.path("src/first"), noise(1, 1 << 20));
    w.ok("backup -q src");
    write(w.path("src/large"), noise(2, 100 << 20));
    let before = w.stored();
    let (command, mut child) = started(&w, "backup -q src");
    wait_until("packs arrive", || w.stored() > before + (5 << 20));
    let mut rounds = 0;
    while child.try_wait().unwrap().is_none() && rounds < 3 {
        assert!(!w.json("snapshots").as_array().unwrap().is_empty());
        w.ok("check -q");
        w.ok("restore latest -t out -q --overwrite");
        rounds += 1;
    }
    ended(&command, child).expect(0);
    assert_eq!(w.json("snapshots").as_array().unwrap().len(), 2);
}
