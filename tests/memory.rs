//! No command takes more memory for having more to do.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use common::files::write;
use common::*;

const LIMIT: u64 = 200 << 20;

/// The most memory a command has had, in bytes. It must succeed.
fn peak(w: &World, words: &str) -> u64 {
    let mut command = w.command(words);
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let code = loop {
        // The kernel keeps the maximum; what it is at the end is seen shortly before.
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let kib = line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok());
        peak = kib.map_or(peak, |kib| kib << 10);
        if let Some(status) = child.try_wait().unwrap() {
            break status.code();
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    assert_eq!(code, Some(0), "{words}");
    eprintln!("{words}: {} MiB", peak >> 20);
    peak
}

#[test]
fn many_tiny_files() {
    // A real one: trying its password takes memory too.
    let w = World::bare();
    w.ok("init -q");
    for folder in 0..120 {
        for n in 0..500 {
            let name = format!("src/folder {folder}/file with a name that is not short {n}");
            write(w.path(name), format!("{folder} {n}"));
        }
    }
    let first = peak(&w, "backup src");
    write(w.path("src/one more"), "");
    let all = [
        "backup src",
        "restore latest -t out",
        "check --read-data",
        "ls -l latest",
        "find *1*",
        "diff latest~1 latest",
        "stats",
        "forget latest~1",
        "prune --max-unused 0",
    ];
    let mut peaks: Vec<_> = all.iter().map(|words| (peak(&w, words), *words)).collect();
    peaks.push((first, "the first backup"));
    peaks.sort();
    let (most, words) = peaks.last().unwrap();
    assert!(*most < LIMIT, "{words}: {} MiB", most >> 20);
}
