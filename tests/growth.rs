//! What a repository grows by is what is new.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use common::files::*;
use common::*;
use rustix::process::Signal;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// What a command adds to the repository, in bytes.
fn growth(w: &World, words: &str) -> u64 {
    let before = w.stored();
    w.ok(words);
    w.stored() - before
}

#[track_caller]
fn assert_below(bytes: u64, limit: u64) {
    assert!(bytes < limit, "{bytes} bytes, not below {limit}");
}

fn snapshots(w: &World) -> usize {
    w.objects("snapshots").len()
}

#[test]
fn the_unchanged_is_not_stored_again() {
    let w = World::new();
    let large = w.path("src/large");
    write(&large, noise(1, 256 << 20));
    for n in 0..2000 {
        write(w.path(format!("src/{}/file {n}", n % 20)), format!("{n}").repeat(100));
    }
    assert_below(growth(&w, "backup -q src"), 230 * MIB);
    assert_below(growth(&w, "backup -q src"), 50 * KIB);
    assert_below(growth(&w, "backup -q src --force"), 50 * KIB);

    flip(&large, 100_000_001);
    assert_below(growth(&w, "backup -q src"), 5 * MIB);
    let shifted = [&[7], fs::read(&large).unwrap().as_slice()].concat();
    fs::write(&large, shifted).unwrap();
    assert_below(growth(&w, "backup -q src"), 5 * MIB);

    fs::rename(w.path("src"), w.path("elsewhere")).unwrap();
    assert_below(growth(&w, "backup -q elsewhere"), 200 * KIB);
    assert_eq!(w.json("check")["problems"].as_array().unwrap().len(), 0);
}

#[test]
fn a_dry_run_stores_nothing() {
    let w = World::new();
    write(w.path("src/file"), noise(2, 3 << 20));
    let before = w.stored();
    let told = w.json("backup src --dry-run");
    assert_eq!((&told["dry_run"], &told["snapshot_id"]), (&true.into(), &().into()));
    assert!(told["bytes_added"].as_u64().unwrap() >= 3 * MIB);
    assert_eq!((w.stored(), snapshots(&w)), (before, 0));
}

/// Interrupts a backup when some of its data has arrived.
fn interrupted(with: Signal) -> (World, Ran) {
    let w = World::new();
    for n in 0..32 {
        write(w.path(format!("src/file {n}")), noise(1000 + n, 6 << 20));
    }
    let mut command = w.command("backup -q src");
    let child = start(&mut command);
    wait_until("packs arrive", || w.objects("packs").len() >= 2);
    signal(&child, with);
    let ran = ended(&command, child);
    assert_eq!(snapshots(&w), 0);
    (w, ran)
}

/// What the whole of it takes at most.
const WHOLE: u64 = 32 * 6 * MIB * 4 / 5;

/// Also if it was killed, and nobody was left to tell the index of the last packs.
#[test]
fn what_had_arrived_is_not_sent_again() {
    for (with, exit) in [(Signal::INT, 130), (Signal::TERM, 130), (Signal::KILL, -9)] {
        let (w, ran) = interrupted(with);
        ran.expect(exit);
        let arrived: u64 = w.objects("packs").iter().map(|p| p.metadata().unwrap().len()).sum();
        assert!(arrived > 16 * MIB);
        assert_below(w.stored(), WHOLE - 20 * MIB);
        let told = w.json("backup src")["bytes_stored"].as_u64().unwrap();
        assert_below(arrived + told, WHOLE);
        let checked = w.json("check --read-data");
        assert_eq!(checked["problems"].as_array().unwrap().len(), 0);
        assert_eq!(checked["unused_packs"], 0);
    }
}

#[test]
fn streams_are_saved_whole_or_not_at_all() {
    let w = World::new();
    let data = noise(3, 5 << 20);
    let mut command = w.command("backup -q --stdin --stdin-filename data.bin --tag stream");
    let mut child = start(command.stdin(Stdio::piped()));
    child.stdin.take().unwrap().write_all(&data).unwrap();
    ended(&command, child).expect(0);
    w.ok("restore latest:/data.bin -t out");
    assert!(fs::read(w.path("out/data.bin")).unwrap() == data);

    w.ok("backup -q --stdin-from-command --stdin-filename said -- echo hello");
    assert_eq!(w.ok("cat latest:/said"), "hello\n");

    fs::write(w.path("fails.sh"), "echo some of it; exit 3").unwrap();
    let said = w.fails(1, "backup --stdin-from-command -- sh fails.sh");
    says(&said, &["sh failed", "exit status: 3", "no snapshot"]);
    says(&w.fails(1, "backup --stdin-from-command -- no-such-program"), &["no-such-program"]);
    assert_eq!(snapshots(&w), 2);
}

#[test]
fn a_command_is_ended_with_the_backup() {
    let w = World::new();
    let mut command = w.command("backup -q --stdin-from-command -- sleep 1000");
    let child = start(&mut command);
    // It has begun when the cache is there.
    wait_until("it begins", || w.path("cache").exists());
    std::thread::sleep(Duration::from_millis(200));
    signal(&child, Signal::INT);
    ended(&command, child).expect(130);
    assert_eq!(snapshots(&w), 0);
}
