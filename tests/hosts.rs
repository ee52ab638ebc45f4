//! Several hosts at work on one repository for a while: backups of trees that change, a
//! drive that is read, checks, prunes, forgets, repairs and changes of passwords.
//! `TRESOR_TEST_SECONDS=300` does each for so long.
#![cfg(target_os = "linux")]

mod common;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use common::files::*;
use common::*;
use tresor_engine::crypto::Password;
use tresor_engine::format::Time;
use tresor_engine::maintenance::{MaxUnused, PruneOptions, PrunePlan, prune};
use tresor_engine::monitor::Quiet;
use tresor_engine::repo::{OpenOptions, Repository, now};
use tresor_engine::store::{LocalStore, Store};

const HOSTS: u64 = 3;
/// Snapshots that are kept of each host, at least.
const KEPT: usize = 4;
/// What commands say that have to give way to others: nothing was lost, do it again.
const GIVE_WAY: [&str; 4] =
    ["run the backup again", "another prune has changed", "a prune has changed", "keep vanishing"];

/// What is saved, and what it held: a copy.
#[derive(Default)]
struct Saved {
    by_id: BTreeMap<String, PathBuf>,
    of_host: BTreeMap<u64, Vec<String>>,
    copies: usize,
}

#[derive(Default)]
struct Work {
    saved: Mutex<Saved>,
    /// How often something was done, and how often it gave way.
    counts: Mutex<BTreeMap<&'static str, Count>>,
    over: AtomicBool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    times: u64,
    gave_way: u64,
}

impl Work {
    fn saved(&self) -> MutexGuard<'_, Saved> {
        self.saved.lock().unwrap()
    }

    fn count(&self, what: &'static str, gave_way: bool) {
        let mut counts = self.counts.lock().unwrap();
        let count = counts.entry(what).or_default();
        count.times += 1;
        count.gave_way += u64::from(gave_way);
    }

    /// Everything that may give way was done, and at most so many times in a hundred it did.
    fn assert_gave_way(&self, most_percent: u64) {
        let counts = self.counts.lock().unwrap();
        for what in ["backup", "check", "forget", "key", "prune", "repair index"] {
            assert!(counts.contains_key(what), "no {what}");
        }
        for (what, Count { times, gave_way }) in counts.iter() {
            eprintln!("{what}: {times}, of which {gave_way} gave way");
            let most = (times * most_percent).div_ceil(100);
            assert!(*gave_way <= most, "{gave_way} of {times} gave way: {what}");
        }
    }

    /// Runs a command of some host; `None` if it had to give way.
    fn run(&self, w: &World, what: &'static str, host: &str, words: &str) -> Option<Ran> {
        let mut command = w.command(words);
        command.env("TRESOR_CACHE_DIR", w.path(format!("cache-{host}")));
        let ran = ran(&mut command).expect_no_panic();
        let gave_way = ran.code == 1 && GIVE_WAY.iter().any(|g| ran.err.contains(g));
        self.count(what, gave_way);
        if gave_way { None } else { Some(ran.expect(0)) }
    }
}

/// Repeats `work` until it is over; should it panic, it is over for all.
fn repeat(work: &Work, mut step: impl FnMut(&mut fastrand::Rng, u64), seed: u64) {
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                self.0.store(true, SeqCst);
            }
        }
    }
    let _over = Over(&work.over);
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut round = 0;
    while !work.over.load(SeqCst) {
        step(&mut rng, round);
        round += 1;
    }
}

fn change(rng: &mut fastrand::Rng, src: &Path) {
    for _ in 0..10 {
        let number = rng.u64(..30);
        let path = src.join(format!("{}/{number}", number % 4));
        match rng.u8(..4) {
            0 => drop(fs::remove_file(path)),
            // Of few contents: what was forgotten comes back, also from another host.
            _ => write(path, noise(rng.u64(..60), rng.usize(1..6) * 40_000)),
        }
    }
}

fn back_up(work: &Work, w: &World, host: u64, rng: &mut fastrand::Rng) {
    let src = w.path(format!("src-{host}"));
    change(rng, &src);
    let number = {
        let mut saved = work.saved();
        saved.copies += 1;
        saved.copies
    };
    let copy = w.path(format!("copy-{number}"));
    sh("cp", &[&"-a", &src, &copy]);
    let words = format!("backup src-{host} --host h{host} --json");
    match work.run(w, "backup", &format!("h{host}"), &words) {
        Some(ran) => {
            let summary = lines(&ran.out).pop().unwrap();
            let id = summary["snapshot_id"].as_str().unwrap_or_else(|| panic!("{summary}"));
            let mut saved = work.saved();
            saved.by_id.insert(id.to_owned(), copy);
            saved.of_host.entry(host).or_default().push(id.to_owned());
        }
        None => fs::remove_dir_all(copy).unwrap(),
    }
}

fn forget(work: &Work, w: &World, rng: &mut fastrand::Rng) {
    let (id, copy) = {
        let mut saved = work.saved();
        let host = rng.u64(..HOSTS);
        let of_host = saved.of_host.entry(host).or_default();
        if of_host.len() <= KEPT {
            drop(saved);
            return std::thread::sleep(Duration::from_millis(50));
        }
        let at = rng.usize(..of_host.len());
        let id = of_host.remove(at);
        let copy = saved.by_id.remove(&id).unwrap();
        (id, copy)
    };
    work.run(w, "forget", "forget", &format!("forget -q {id}")).unwrap();
    fs::remove_dir_all(copy).unwrap();
}

fn open(w: &World) -> Arc<Repository> {
    let store: Store = Arc::new(LocalStore::new(w.path("repo")));
    let options = OpenOptions { cache: Some(w.path("cache-fake")), ..Default::default() };
    Repository::open(store, &Password::new(PASSWORD.into()), &options).unwrap()
}

/// Marks as a prune does that ran three hours ago: the next one may delete at once.
fn mark(work: &Work, w: &World) {
    let grace = Duration::from_secs(7200);
    let options =
        PruneOptions { max_unused: MaxUnused::Percent(0.0), grace, ..PruneOptions::default() };
    let repo = open(w);
    let time = Time::new(now().seconds - 3 * 3600, 0);
    let plan = PrunePlan::at(&repo, &options, time, &Quiet::default());
    let done = plan.and_then(|plan| prune(&repo, &options, plan, &Quiet::default()));
    let gave_way = |e: &tresor_engine::Error| GIVE_WAY.iter().any(|g| e.to_string().contains(g));
    if let Err(e) = &done {
        assert!(gave_way(e), "{e}");
    }
    work.count("prune three hours ago", done.is_err());
}

fn check(work: &Work, w: &World, words: &str) {
    let ran = work.run(w, "check", "check", &format!("check {words} --json")).unwrap();
    let checked = lines(&ran.out).pop().unwrap();
    assert_eq!(checked["problems"], serde_json::json!([]), "{checked}");
}

/// A password of its own comes, is changed twice, and goes.
fn change_keys(work: &Work, w: &World) {
    let run = |words: &str| work.run(w, "key", "key", words).unwrap();
    for name in ["a", "b"] {
        fs::write(w.path(format!("password-{name}")), name.repeat(20)).unwrap();
    }
    run("key add --new-password-file password-a --label a");
    for (old, new) in [("a", "b"), ("b", "a")] {
        run(&format!(
            "--password-file password-{old} key passwd --new-password-file password-{new}"
        ));
    }
    let slots = lines(&run("key list --json").out).pop().unwrap();
    for slot in slots.as_array().unwrap() {
        if slot["current"] != true {
            run(&format!("key remove {}", slot["id"].as_str().unwrap()));
        }
    }
}

/// Everything in a saved snapshot is what was backed up.
fn read_drive(work: &Work, w: &World, drive: &drive::Drive, rng: &mut fastrand::Rng) {
    let chosen = {
        let saved = work.saved();
        let all: Vec<_> = saved.by_id.iter().map(|(id, copy)| (id.clone(), copy.clone())).collect();
        rng.choice(all)
    };
    let Some((id, copy)) = chosen else { return };
    let is_kept = || work.saved().by_id.contains_key(&id);
    let Some(top) = top_of(w, drive, &id, &is_kept) else { return };
    for file in below(&copy) {
        let inside = top.join(file.strip_prefix(&copy).unwrap());
        // The copy goes when the snapshot is forgotten, and then nothing is promised.
        let (expected, read) = (fs::read(&file), fs::read(&inside));
        if !is_kept() {
            return;
        }
        assert!(
            expected.unwrap() == read.unwrap_or_else(|e| panic!("{inside:?}: {e}")),
            "{inside:?}"
        );
        work.count("file read through the drive", false);
    }
}

fn top_of(
    w: &World,
    drive: &drive::Drive,
    id: &str,
    is_kept: &dyn Fn() -> bool,
) -> Option<PathBuf> {
    let host = (0..HOSTS).map(|h| w.inside(&format!("src-{h}")));
    let top = drive.at("ids").join(&id[..8]);
    let start = Instant::now();
    loop {
        if let Some(top) = host.clone().map(|h| top.join(h)).find(|top| top.exists()) {
            return Some(top);
        }
        if !is_kept() {
            return None;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{id} doesn't appear on the drive");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn hosts_at_work_for_a_while() {
    if let Some(work) = at_work(false) {
        work.assert_gave_way(0);
    }
}

/// Every second prune leaves marks that are older than the next one's grace, which deletes
/// at once what a backup that runs may rely on.
#[test]
fn hosts_at_work_while_prunes_delete() {
    if let Some(work) = at_work(true) {
        work.assert_gave_way(5);
    }
}

/// What was done; nothing where no drive can be mounted.
fn at_work(marks_are_old: bool) -> Option<Work> {
    if !can_mount() {
        return None;
    }
    let seconds = std::env::var("TRESOR_TEST_SECONDS").ok().and_then(|n| n.parse().ok());
    let seconds = Duration::from_secs(seconds.unwrap_or(5));
    let w = World::lasting(seconds);
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let work = Work::default();
    let drive = w.mount("", "mnt");
    std::thread::scope(|scope| {
        let (w, work, drive) = (&w, &work, &drive);
        for host in 0..HOSTS {
            let step = move |rng: &mut _, _| back_up(work, w, host, rng);
            scope.spawn(move || repeat(work, step, seed ^ host));
        }
        let run = move |what, words: &str| drop(work.run(w, what, what, words));
        let pruned = move |_: &mut _, round| match round % 2 {
            0 if marks_are_old => mark(work, w),
            _ => run("prune", "prune -q --grace 2h --max-unused 0"),
        };
        scope.spawn(move || repeat(work, pruned, seed));
        scope.spawn(move || repeat(work, |rng, _| forget(work, w, rng), seed ^ 10));
        let looked = move |_: &mut _, round| match round % 3 {
            0 => check(work, w, "--read-data"),
            1 => check(work, w, "--since 1h --read-data-subset 50%"),
            _ => run("repair index", "repair index -q"),
        };
        scope.spawn(move || repeat(work, looked, seed));
        scope.spawn(move || repeat(work, |_, _| change_keys(work, w), seed));
        scope.spawn(move || repeat(work, |rng, _| read_drive(work, w, drive, rng), seed ^ 11));
        let end = Instant::now() + seconds;
        while Instant::now() < end && !work.over.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(50));
        }
        work.over.store(true, SeqCst);
    });
    afterwards(&work, &w, &drive);
    Some(work)
}

/// Exactly what was saved and not forgotten is there, and whole; with all that isn't needed
/// removed, too.
fn afterwards(work: &Work, w: &World, drive: &drive::Drive) {
    let saved = work.saved();
    assert!(saved.by_id.len() >= HOSTS as usize, "hardly anything was saved");
    let listed = w.json("snapshots");
    let id = |s: &serde_json::Value| s["id"].as_str().unwrap().to_owned();
    let listed: HashSet<_> = listed.as_array().unwrap().iter().map(id).collect();
    assert_eq!(listed, saved.by_id.keys().cloned().collect());
    assert_eq!(w.json("check --read-data")["problems"], serde_json::json!([]));
    w.ok("prune -q --grace 0 --max-unused 0");
    assert_eq!(w.json("check --read-data")["problems"], serde_json::json!([]));
    for (id, copy) in &saved.by_id {
        assert_same(copy, &top_of(w, drive, id, &|| true).unwrap());
    }
    eprintln!("{} snapshots are as they were backed up", saved.by_id.len());
}
