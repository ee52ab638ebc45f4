//! Commands that are killed (SIGKILL) at random moments, on a real disk: whatever was
//! reported as saved stays whole. TRESOR_TEST_ROUNDS=500 does that many rounds of each test.
#![cfg(target_os = "linux")]

mod common;
#[path = "kill/mounting.rs"]
mod mounting;
#[path = "kill/repairs.rs"]
mod repairs;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::files::*;
use common::*;
use rustix::process::Signal;
use tresor_engine::format::ParityShare;

/// Files of the source; those that change are chosen among them.
const FILES: u64 = 60;

struct History {
    w: World,
    has_parity: bool,
    rng: fastrand::Rng,
    /// Snapshots that are known to be saved, and copies of what they hold.
    saved: BTreeMap<String, PathBuf>,
    copies: u64,
    /// Of each command.
    counts: BTreeMap<String, Count>,
}

#[derive(Debug)]
struct Count {
    run: u64,
    killed: u64,
    /// It is killed within so many milliseconds: as many as make it end about every other time, on
    /// a machine that has nothing else to do and on one that has.
    window: f64,
}

/// What is run and killed.
type Step = fn(&mut History);

const STEPS: [Step; 13] = [
    History::backup,
    History::backup,
    History::backup,
    History::backup,
    History::forget,
    History::prune,
    History::prune,
    History::restore,
    History::mount,
    History::repair_index,
    History::repair_snapshots,
    History::add_and_remove_a_key,
    History::check,
];

impl History {
    fn new(parity: Option<ParityShare>) -> Self {
        let seed = fastrand::u64(..);
        eprintln!("seed {seed}");
        let rng = fastrand::Rng::with_seed(seed);
        let w = World::bare_for(Duration::from_secs(20 * rounds()));
        w.init_with(parity);
        let (saved, counts) = (BTreeMap::new(), BTreeMap::new());
        let has_parity = parity.is_some();
        let mut history = Self { w, has_parity, rng, saved, copies: 0, counts };
        (0..FILES).for_each(|n| history.write_file(n));
        history
    }

    /// Every step comes as often as it stands there, in any order.
    fn go_on(&mut self, steps: &[Step]) {
        while self.saved.is_empty() {
            self.backup();
        }
        let mut left: Vec<Step> = Vec::new();
        for _ in 0..rounds() {
            if left.is_empty() {
                left.extend(steps);
                self.rng.shuffle(&mut left);
            }
            left.pop().unwrap()(self);
            self.assert_whole();
            if let Some((id, copy)) = self.any() {
                self.assert_restores(&id, &copy);
            }
        }
        self.counts.iter().for_each(|(words, count)| eprintln!("{words}: {count:?}"));
        let runs = self.counts.values().map(|c| c.run).sum::<u64>();
        let killed = self.counts.values().map(|c| c.killed).sum::<u64>();
        eprintln!("{killed} of {runs} killed, in {} rounds", rounds());
        // Of a few it says nothing.
        assert!(runs < 100 || killed * 5 >= runs, "only {killed} of {runs} killed");
        // What they left behind goes, and nothing else.
        self.w.assert_prune_clears_up();
        self.assert_whole();
        for (id, copy) in &self.saved {
            self.assert_restores(id, copy);
        }
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

    /// Runs a command that is killed after a while, unless it ends before, with one of these
    /// codes; whether it did.
    fn run(&mut self, words: &str, codes: &[i32]) -> bool {
        let mut command = self.w.command(words);
        let mut child = start(&mut command);
        let window = self.count(words).window;
        let until = Instant::now() + Duration::from_millis(window as u64).mul_f64(self.rng.f64());
        while Instant::now() < until && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let ends = child.try_wait().unwrap().is_some();
        let count = self.count(words);
        count.run += 1;
        if ends {
            count.window = window / 1.3;
            let ran = ended(&command, child).expect_no_panic();
            assert!(codes.contains(&ran.code), "{words}: {} {}", ran.code, ran.err);
            return true;
        }
        count.window = window * 1.3;
        count.killed += 1;
        signal(&child, Signal::KILL);
        child.wait().unwrap();
        false
    }

    fn count(&mut self, words: &str) -> &mut Count {
        let is_name = |word: &&str| word.bytes().all(|b| b.is_ascii_lowercase());
        let words: Vec<_> = words.split(' ').take(2).take_while(is_name).collect();
        let at_first = Count { run: 0, killed: 0, window: 100.0 };
        self.counts.entry(words.join(" ")).or_insert(at_first)
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
        let done = self.run("backup -q src", &[0]);
        let listed = self.listed();
        let new: Vec<_> = listed.iter().filter(|id| !self.saved.contains_key(*id)).collect();
        assert!(new.len() <= 1 && (!done || new.len() == 1), "{done} {new:?}");
        match new[..] {
            [id] => drop(self.saved.insert(id.clone(), copy)),
            _ => fs::remove_dir_all(copy).unwrap(),
        }
    }

    fn forget(&mut self) {
        let done = self.run("forget -q --keep-last 3", &[0]);
        let listed = self.listed();
        assert!(!done || listed.len() <= 3);
        // Snapshots that were to stay did: ids are listed oldest first.
        let gone = self.saved.len() - listed.iter().filter(|i| self.saved.contains_key(*i)).count();
        assert!(gone <= self.saved.len().saturating_sub(3), "{gone} of {}", self.saved.len());
        self.saved.retain(|id, _| listed.contains(id));
    }

    fn prune(&mut self) {
        let grace = if self.rng.bool() { "--grace 0" } else { "" };
        self.run(&format!("prune -q --max-unused 0 {grace}"), &[0]);
    }

    fn restore(&mut self) {
        let Some((id, copy)) = self.any() else { return };
        let _ = fs::remove_dir_all(self.w.path("out"));
        let words = format!("restore {id} -t out -q --overwrite");
        self.run(&words, &[0]);
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
        let drive = self.w.mount(&id, "mnt");
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
        drive.ended();
        reader.wait().unwrap();
        let count = self.count("mount");
        (count.run, count.killed) = (count.run + 1, count.killed + 1);
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
        if self.has_parity {
            // Who was killed before anything was reported may have left an object without.
            self.w.ok("repair objects -q");
        }
        let checked = self.w.json("check --read-data");
        assert_eq!(checked["problems"], serde_json::json!([]), "{checked}");
    }

    fn assert_restores(&self, id: &str, copy: &std::path::Path) {
        let _ = fs::remove_dir_all(self.w.path("out"));
        self.w.ok(&format!("restore {id} -t out -q"));
        assert_same(copy, &self.w.path("out").join(self.w.inside("src")));
    }
}

/// The steps of each test.
fn rounds() -> u64 {
    let rounds = std::env::var("TRESOR_TEST_ROUNDS").ok();
    rounds.map_or(13, |n| n.parse().expect("TRESOR_TEST_ROUNDS is a number"))
}

#[test]
fn killed_commands_lose_nothing_that_was_saved() {
    History::new(None).go_on(&STEPS);
}

#[test]
fn nor_do_they_with_parity() {
    let mut steps = STEPS.to_vec();
    // Those that say most of parity.
    steps.drain(..2);
    steps.extend([History::repair_objects as Step; 2]);
    History::new(ParityShare::new(50)).go_on(&steps);
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
