//! What each file costs, in system calls: counted, so that no clock is needed. The
//! difference between two numbers of files leaves out what a command costs anyway.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::process::Stdio;

use common::files::write;
use common::*;

const FEW: usize = 500;
const MANY: usize = 2500;

/// Calls that a command makes, without those by which threads wait for each other and
/// get memory, whose number is a matter of chance.
fn calls(w: &World, words: &str) -> u64 {
    const CHANCE: [&str; 8] = [
        "futex",
        "sched_yield",
        "madvise",
        "mmap",
        "munmap",
        "mprotect",
        "clock_nanosleep",
        "poll",
    ];
    let mut command = w.plain("strace");
    command.args(["-f", "-qq", "-c", "-o", "calls", env!("CARGO_BIN_EXE_tresor")]);
    let status = command.args(words.split_whitespace()).stdout(Stdio::null()).status().unwrap();
    assert!(status.success(), "{words}");
    let table = fs::read_to_string(w.path("calls")).unwrap();
    let rows = table.lines().filter_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let name = columns.last().filter(|name| !CHANCE.contains(name) && **name != "total")?;
        let count = columns.get(3)?.parse::<u64>().ok();
        count.filter(|_| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
    });
    rows.sum()
}

fn world(files: usize) -> World {
    let w = World::new();
    for n in 0..files {
        // Too long to lie in the tree itself.
        let name = format!("src/folder {}/file {n}", n / 100);
        write(w.path(name), format!("{n} ").repeat(100));
    }
    w
}

/// Calls that one more file costs in each of these commands.
fn each(commands: &[&str]) -> Vec<f64> {
    let counted = |files| {
        let w = world(files);
        commands.iter().map(|words| calls(&w, words)).collect::<Vec<_>>()
    };
    let (few, many) = (counted(FEW), counted(MANY));
    let more = (MANY - FEW) as f64;
    few.iter().zip(&many).map(|(few, many)| many.saturating_sub(*few) as f64 / more).collect()
}

#[test]
fn system_calls_of_each_file() {
    if !can_trace() {
        return;
    }
    let commands = ["backup -q src", "backup -q src", "restore -q latest -t out"];
    let found = each(&commands);
    eprintln!("new, unchanged, restored: {found:.2?}");
    // Of a file: stat, attributes, open, stat, read, stat, close; its folder is a hundredth of it.
    assert!(found[0] < 9.0, "new: {found:.2?}");
    // Nothing but its stat.
    assert!(found[1] < 1.3, "unchanged: {found:.2?}");
    // Open, lock, write, stat, attributes, mode, times, name, close.
    assert!(found[2] < 10.5, "restored: {found:.2?}");
}

/// The way by a name goes through `/proc` and takes ten times as long.
#[test]
fn attributes_are_asked_of_open_files() {
    if !can_trace() {
        return;
    }
    let w = world(FEW);
    let mut command = w.plain("strace");
    command.args(["-f", "-qq", "-e", "trace=/.*listxattr", "-o", "calls"]);
    command.args([env!("CARGO_BIN_EXE_tresor"), "backup", "-q", "src"]);
    assert!(command.status().unwrap().success());
    let calls = fs::read_to_string(w.path("calls")).unwrap();
    let open = calls.matches(" flistxattr(").count();
    assert_eq!(open, FEW, "{calls}");
    // The folders.
    assert!(calls.matches("listxattr(").count() - open < 20, "{calls}");
}

/// Once for the file system, not for each file.
#[test]
fn a_restore_is_forced_to_the_disk() {
    if !can_trace() {
        return;
    }
    let w = world(100);
    w.ok("backup -q src");
    let mut command = w.plain("strace");
    command.args(["-f", "-qq", "-e", "trace=syncfs", "-o", "calls", env!("CARGO_BIN_EXE_tresor")]);
    assert!(command.args(["restore", "-q", "latest", "-t", "out"]).status().unwrap().success());
    let calls = fs::read_to_string(w.path("calls")).unwrap();
    assert!(calls.lines().count() == 1 && calls.trim_end().ends_with(" = 0"), "{calls}");
}
