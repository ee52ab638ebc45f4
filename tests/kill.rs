//! Commands that are killed (SIGKILL) at random moments, on a real disk: whatever was
//! reported as saved stays whole. TRESOR_TEST_ROUNDS=500 does that many rounds.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::files::*;
use common::*;
use rustix::process::Signal;

/// Files of the source; those that change are chosen among them.
const FILES: u64 = 60;

struct History {
    w: World,
    rng: fastrand::Rng,
    /// Snapshots that are known to be saved, and copies of what they hold.
    saved: BTreeMap<String, PathBuf>,
    copies: u64,
    killed: u64,
}

impl History {
    fn new() -> Self {
        let seed = fastrand::u64(..);
        eprintln!("seed {seed}");
        let rng = fastrand::Rng::with_seed(seed);
        let mut history =
            Self { w: World::new(), rng, saved: BTreeMap::new(), copies: 0, killed: 0 };
        (0..FILES).for_each(|n| history.write_file(n));
        history
    }

    fn write_file(&mut self, number: u64) {
        let len = if self.rng.u8(..20) == 0 { 3 << 20 } else { self.rng.usize(0..200_000) };
        let path = self.w.path(format!("src/{}/{number}", number % 7));
        write(path, noise(self.rng.u64(..), len));
    }

    fn change_source(&mut self) {
        for _ in 0..8 {
            let number = self.rng.u64(..FILES);
            if self.rng.bool() {
                self.write_file(number);
            } else {
                let _ = fs::remove_file(self.w.path(format!("src/{}/{number}", number % 7)));
            }
        }
    }

    /// Runs a command that is killed after a while, unless it ends before; whether it did.
    fn run(&mut self, words: &str, most: Duration) -> bool {
        let mut command = self.w.command(words);
        let mut child = start(&mut command);
        let until = Instant::now() + most.mul_f64(self.rng.f64());
        while Instant::now() < until && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        if child.try_wait().unwrap().is_some() {
            ended(&command, child).expect(0);
            return true;
        }
        signal(&child, Signal::KILL);
        child.wait().unwrap();
        self.killed += 1;
        false
    }

    fn listed(&self) -> Vec<String> {
        let snapshots = self.w.json("snapshots");
        let id = |s: &serde_json::Value| s["id"].as_str().unwrap().to_owned();
        snapshots.as_array().unwrap().iter().map(id).collect()
    }

    fn backup(&mut self) {
        self.change_source();
        self.copies += 1;
        let copy = self.w.path(format!("copy-{}", self.copies));
        sh("cp", &[&"-a", &self.w.path("src"), &copy]);
        let done = self.run("backup -q src", Duration::from_millis(140));
        let listed = self.listed();
        let new: Vec<_> = listed.iter().filter(|id| !self.saved.contains_key(*id)).collect();
        assert!(new.len() <= 1 && (!done || new.len() == 1), "{done} {new:?}");
        match new[..] {
            [id] => drop(self.saved.insert(id.clone(), copy)),
            _ => fs::remove_dir_all(copy).unwrap(),
        }
    }

    fn forget(&mut self) {
        let done = self.run("forget -q --keep-last 3", Duration::from_millis(60));
        let listed = self.listed();
        assert!(!done || listed.len() <= 3);
        // Snapshots that were to stay did: ids are listed oldest first.
        let gone = self.saved.len() - listed.iter().filter(|i| self.saved.contains_key(*i)).count();
        assert!(gone <= self.saved.len().saturating_sub(3), "{gone} of {}", self.saved.len());
        self.saved.retain(|id, _| listed.contains(id));
    }

    fn prune(&mut self) {
        let grace = if self.rng.bool() { "--grace 0" } else { "" };
        self.run(&format!("prune -q --max-unused 0 {grace}"), Duration::from_millis(120));
    }

    fn restore(&mut self) {
        let Some((id, copy)) = self.any() else { return };
        let _ = fs::remove_dir_all(self.w.path("out"));
        let words = format!("restore {id} -t out -q --overwrite");
        self.run(&words, Duration::from_millis(100));
        self.w.ok(&words);
        let out = self.w.path("out").join(self.w.inside("src"));
        // Files that were being written when it was killed have names of their own.
        let is_temporary = |p: &PathBuf| {
            p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(".tresor-"))
        };
        let left = below(&out).into_iter().filter(is_temporary);
        left.for_each(|path| fs::remove_file(out.join(path)).unwrap());
        // To remove them has changed their folders.
        self.w.ok(&words);
        assert_same(&copy, &out);
    }

    fn mount(&mut self) {
        let (true, Some((id, copy))) = (can_mount(), self.any()) else { return };
        let mut drive = self.w.mount(&id, "mnt");
        let top = drive.at(self.w.inside("src"));
        let mut reader = Command::new("grep")
            .arg("-rq")
            .arg("nothing")
            .arg(top)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(self.rng.u64(..60)));
        drive.signal(Signal::KILL);
        drive.wait();
        reader.wait().unwrap();
        self.killed += 1;
        // The dead drive is cleared by the next one.
        let drive = self.w.mount(&id, "mnt");
        assert_same(&copy, &drive.at(self.w.inside("src")));
        drive.unmount().expect(0);
    }

    fn any(&mut self) -> Option<(String, PathBuf)> {
        let n = self.rng.usize(..self.saved.len().max(1));
        self.saved.iter().nth(n).map(|(id, copy)| (id.clone(), copy.clone()))
    }

    fn assert_whole(&mut self) {
        let listed = self.listed();
        assert!(self.saved.keys().all(|id| listed.contains(id)), "{listed:?} {:?}", self.saved);
        let checked = self.w.json("check --read-data");
        assert_eq!(checked["problems"], serde_json::json!([]), "{checked}");
    }

    fn assert_restores(&self, id: &str, copy: &std::path::Path) {
        let _ = fs::remove_dir_all(self.w.path("out"));
        self.w.ok(&format!("restore {id} -t out -q"));
        assert_same(copy, &self.w.path("out").join(self.w.inside("src")));
    }
}

#[test]
fn killed_commands_lose_nothing_that_was_saved() {
    let rounds = std::env::var("TRESOR_TEST_ROUNDS").ok();
    let rounds: u64 = rounds.map_or(24, |n| n.parse().expect("TRESOR_TEST_ROUNDS is a number"));
    let mut history = History::new();
    for _ in 0..rounds {
        match history.rng.u8(..10) {
            0..5 => history.backup(),
            5 => history.forget(),
            6 | 7 => history.prune(),
            8 => history.restore(),
            _ => history.mount(),
        }
        history.assert_whole();
        if let Some((id, copy)) = history.any() {
            history.assert_restores(&id, &copy);
        }
    }
    eprintln!("{} of {rounds} killed", history.killed);
    assert!(history.killed * 5 >= rounds, "only {} of {rounds} killed", history.killed);
    // What they left behind goes, and nothing else.
    history.w.assert_prune_clears_up();
    history.assert_whole();
    for (id, copy) in &history.saved {
        history.assert_restores(id, copy);
    }
}

/// The next restore into the same folder removes what a killed one has left there.
#[test]
fn a_killed_restore_is_tidied_up_by_the_next() {
    let w = World::new();
    write(w.path("src/sub/large"), noise(1, 120 << 20));
    write(w.path("src/small"), "small");
    w.ok("backup -q src");
    let left = || {
        let out = w.path("out").join(w.inside("src"));
        let is_passing = |p: &PathBuf| p.to_string_lossy().contains("/.tresor-");
        if out.exists() { below(&out).into_iter().filter(is_passing).collect() } else { Vec::new() }
    };
    let mut command = w.command("restore latest -t out -q");
    let mut child = start(&mut command);
    wait_until("a file is half written", || {
        !left().is_empty() || child.try_wait().unwrap().is_some()
    });
    signal(&child, Signal::KILL);
    child.wait().unwrap();
    assert_eq!(left().len(), 1, "it had ended already");
    std::thread::sleep(Duration::from_millis(3100));
    w.ok("restore latest -t out -q --overwrite");
    assert_same(&w.path("src"), &w.path("out").join(w.inside("src")));
}
