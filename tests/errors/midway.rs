//! What a command needs is taken from it in the middle: permission, a disk that can be written
//! to, room. It says so, nothing is lost, and the next run carries on.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use crate::common::files::*;
use crate::common::halted::Who;
use crate::common::*;

/// The first object that is stored gets its name.
const PUT: (&str, u32) = ("linkat", 1);
/// Without a cache, whose files come and go, too, the second one removes the first snapshot.
const FORGET: &str = "forget -q --no-cache --keep-last 1";
const REMOVE: (&str, u32) = ("unlink", 2);

fn can_halt() -> bool {
    can_be_root() && can_trace()
}

const SMALL: usize = 300_000;

/// Three snapshots, whose packs hold what only they need beside what the last one needs, too: a prune
/// has something to copy as soon as they are forgotten.
fn fill(w: &World, who: Who, size: usize) {
    for n in 0..2 {
        for part in 0..10 {
            write(w.path(format!("src/{n}/{part} kept")), noise(n * 20 + part, size));
            write(w.path(format!("src/{n}/{part} not")), noise(n * 20 + 10 + part, size));
        }
        does(w, who, "backup -q src", 0);
        for part in 0..10 {
            fs::remove_file(w.path(format!("src/{n}/{part} not"))).unwrap();
        }
    }
    does(w, who, "backup -q src", 0);
}

fn does(w: &World, who: Who, words: &str, code: i32) -> String {
    let mut command = match who {
        Who::Root => w.command(words),
        Who::Nobody => w.command_of_nobody(words),
    };
    let ran = ran(&mut command).expect(code);
    ran.out + &ran.err
}

fn listed(w: &World) -> usize {
    w.json("snapshots").as_array().unwrap().len()
}

#[track_caller]
fn is_whole(w: &World, snapshots: usize) {
    assert_eq!(listed(w), snapshots);
    w.ok("check -q --read-data");
}

fn restores(w: &World) {
    w.ok("restore -q latest -t out");
    assert_same(&w.path("src"), &w.path("out").join(w.inside("src")));
}

/// It has failed, and said what it was in the repository, in few words.
#[track_caller]
fn told(w: &World, ran: Ran, words: &[&str]) {
    // A restore goes on with other files.
    assert!([1, 3].contains(&ran.code), "{} {}", ran.code, ran.err);
    let said = ran.err;
    says(&said, words);
    says(&said, &[w.path("repo").to_str().unwrap()]);
    assert!(said.lines().count() < 4, "{said}");
}

/// A prune has done all it wanted to.
fn has_nothing_to_copy(w: &World) {
    let plan = w.json("prune --dry-run --max-unused 0");
    assert_eq!((&plan["packs_repack"], &plan["packs_unindexed"]), (&0.into(), &0.into()), "{plan}");
}

/// Without permission for a folder of the repository from then on.
#[track_caller]
fn denied(w: &World, folder: &str, words: &str, at: (&str, u32)) {
    let folder = w.path("repo").join(folder);
    let mode = |mode| fs::set_permissions(&folder, Permissions::from_mode(mode)).unwrap();
    let ran = w.halted(Who::Nobody, words, at, || {
        mode(0);
        true
    });
    told(w, ran, &["ermission denied", "check who owns the repository's files"]);
    mode(0o700);
}

/// What a user has backed up to who isn't root.
fn of_nobody() -> World {
    let w = World::new();
    sh("chown", &[&"-R", &"65534:65534", &w.path("repo")]);
    w
}

#[test]
fn permission_is_lost_during_a_backup() {
    if !can_halt() {
        return;
    }
    let w = of_nobody();
    write(w.path("src/0"), noise(0, 1 << 20));
    does(&w, Who::Nobody, "backup -q src", 0);
    for (n, folder) in ["packs", "index", "snapshots"].into_iter().enumerate() {
        // Of packs there must be another one.
        let size = if folder == "packs" { 24 << 20 } else { 1 << 20 };
        write(w.path(format!("src/{n}")), noise(n as u64 + 1, size));
        denied(&w, folder, "backup -q src", PUT);
        is_whole(&w, n + 1);
        does(&w, Who::Nobody, "backup -q src", 0);
    }
    is_whole(&w, 4);
    restores(&w);
}

#[test]
fn permission_is_lost_during_a_forget_and_a_prune() {
    if !can_halt() {
        return;
    }
    let w = of_nobody();
    fill(&w, Who::Nobody, SMALL);
    denied(&w, "snapshots", FORGET, REMOVE);
    is_whole(&w, 2);
    does(&w, Who::Nobody, FORGET, 0);
    for folder in ["packs", "index", "snapshots"] {
        denied(&w, folder, "prune -q --max-unused 0", PUT);
        is_whole(&w, 1);
    }
    does(&w, Who::Nobody, "prune -q --max-unused 0", 0);
    has_nothing_to_copy(&w);
    // When they are doomed, and not yet deleted.
    denied(&w, "packs", "prune -q --grace 0", PUT);
    is_whole(&w, 1);
    does(&w, Who::Nobody, "prune -q --grace 0", 0);
    w.assert_prune_clears_up();
    is_whole(&w, 1);
    restores(&w);
}

#[test]
fn permission_is_lost_during_a_restore() {
    if !can_halt() {
        return;
    }
    let w = of_nobody();
    fill(&w, Who::Nobody, SMALL);
    for part in 0..40 {
        write(w.path(format!("src/more/{part}")), noise(100 + part, 1_200_000));
    }
    does(&w, Who::Nobody, "backup -q src", 0);
    // It has restored a file by then.
    denied(&w, "packs", "restore -q latest -t nobody/out", ("renameat", 1));
    is_whole(&w, 4);
    does(&w, Who::Nobody, "restore -q latest -t nobody/out --overwrite", 0);
    // Who isn't root gives no files away.
    sh("chown", &[&"-R", &"65534:65534", &w.path("src")]);
    assert_same(&w.path("src"), &w.path("nobody/out").join(w.inside("src")));
}

/// As a disk becomes when the kernel finds something wrong on it.
#[test]
fn the_disk_becomes_read_only() {
    if !can_halt() {
        return;
    }
    let w = World::on_small_disk("150M");
    fill(&w, Who::Root, SMALL);
    let fails = |words: &str, at: (&str, u32)| {
        let ran = w.halted(Who::Root, words, at, || w.becomes_read_only());
        told(&w, ran, &["ead-only file system", "is mounted read-only"]);
        w.remount("rw");
    };
    write(w.path("src/more"), noise(9, 24 << 20));
    fails("backup -q src", PUT);
    is_whole(&w, 3);
    w.ok("backup -q src");
    fails(FORGET, REMOVE);
    is_whole(&w, 3);
    w.ok(FORGET);
    fails("prune -q --max-unused 0", PUT);
    is_whole(&w, 1);
    w.ok("prune -q --max-unused 0");
    has_nothing_to_copy(&w);
    fails("prune -q --grace 0", PUT);
    is_whole(&w, 1);
    w.assert_prune_clears_up();
    is_whole(&w, 1);
    restores(&w);
}

/// Fills a disk to the last byte.
fn use_up(w: &World) -> bool {
    let mut file = File::create(w.path("repo/of others")).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    true
}

#[test]
fn the_disk_fills_up_during_a_forget_and_a_prune() {
    if !can_halt() {
        return;
    }
    let w = World::on_small_disk("150M");
    // Copies fill two packs.
    fill(&w, Who::Root, 4 * SMALL);
    let full = ["disk is full", "Nothing already saved is lost"];
    assert!(use_up(&w));
    told(&w, w.run(FORGET), &full);
    is_whole(&w, 3);
    fs::remove_file(w.path("repo/of others")).unwrap();
    // What is to be forgotten is written down before; to remove it takes no room.
    w.halted(Who::Root, FORGET, REMOVE, || use_up(&w)).expect(0);
    told(&w, w.run("prune -q --max-unused 0"), &full);
    is_whole(&w, 1);
    fs::remove_file(w.path("repo/of others")).unwrap();
    let ran = w.halted(Who::Root, "prune -q --max-unused 0", PUT, || use_up(&w));
    told(&w, ran, &full);
    is_whole(&w, 1);
    fs::remove_file(w.path("repo/of others")).unwrap();
    w.ok("prune -q --max-unused 0");
    has_nothing_to_copy(&w);
    w.assert_prune_clears_up();
    is_whole(&w, 1);
    restores(&w);
}
