//! What is written is forced to the disk, and in which order: looked at from outside, in the
//! system calls of the program.
#![cfg(target_os = "linux")]

mod common;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::files::write;
use common::*;

/// A call that succeeded, between these lines of the trace.
struct Call {
    name: String,
    began: usize,
    ended: usize,
    /// Of its arguments.
    paths: Vec<PathBuf>,
}

impl Call {
    fn is(&self, names: &[&str]) -> bool {
        names.contains(&self.name.as_str())
    }

    /// Where a file is that a call names, forces or removes: the last one it speaks of.
    fn path(&self) -> &Path {
        self.paths.last().unwrap()
    }

    fn is_temporary(&self) -> bool {
        let name = self.path().file_name();
        name.is_some_and(|name| name.to_string_lossy().starts_with(".tmp-"))
    }

    fn folder(&self) -> &Path {
        self.path().parent().unwrap()
    }
}

const FILES: [&str; 3] = ["write", "pwrite64", "fsync"];
const NAMES: [&str; 5] = ["link", "linkat", "rename", "renameat", "renameat2"];
const MAKES: [&str; 2] = ["mkdir", "mkdirat"];
const REMOVES: [&str; 2] = ["unlink", "unlinkat"];

/// Runs a command and tells what it did to the disk, in order.
fn trace(w: &World, words: &str) -> Vec<Call> {
    let mut command = w.plain("strace");
    let calls = [&FILES[..], &NAMES, &MAKES, &REMOVES].concat().join(",");
    command.args(["-f", "-qq", "-y", "-s", "0", "-e", &format!("trace={calls}"), "-o", "calls"]);
    command.arg(env!("CARGO_BIN_EXE_tresor")).args(words.split_whitespace());
    assert!(command.stdout(Stdio::null()).status().unwrap().success(), "{words}");
    let mut begun: HashMap<String, (usize, String)> = HashMap::new();
    let mut calls = Vec::new();
    for (number, line) in fs::read_to_string(w.path("calls")).unwrap().lines().enumerate() {
        let (thread, text) = line.split_once(' ').unwrap();
        let text = text.trim_start();
        if let Some(first) = text.strip_suffix(" <unfinished ...>") {
            begun.insert(thread.to_owned(), (number, first.to_owned()));
            continue;
        }
        let (began, text) = match text.split_once(" resumed>") {
            Some((_, rest)) => {
                let (began, first) = begun.remove(thread).unwrap();
                (began, first + rest)
            }
            None => (number, text.to_owned()),
        };
        let Some((call, result)) = text.rsplit_once(" = ") else { continue };
        if result.starts_with('-') {
            continue;
        }
        let (name, arguments) = call.split_once('(').unwrap();
        // Of an open file: 7</path>; else between quotes.
        let (open, close) = if FILES.contains(&name) { ('<', '>') } else { ('"', '"') };
        let parts = arguments.split(open).flat_map(|part| part.split(close));
        let paths = parts.filter(|part| part.starts_with('/')).map(PathBuf::from).collect();
        calls.push(Call { name: name.to_owned(), began, ended: number, paths });
    }
    calls
}

/// Whether a folder or file is forced to the disk between two lines.
fn is_forced(calls: &[Call], path: &Path, after: usize, before: usize) -> bool {
    let forces = |c: &&Call| c.is(&["fsync"]) && c.path() == path;
    calls.iter().filter(forces).any(|c| c.began > after && c.ended < before)
}

/// Objects get their names when all their bytes are on the disk; and what is in a folder is on
/// the disk before anything is named that rests on it.
fn assert_ordered(calls: &[Call], repository: &Path, what: &str) {
    let folder = |name: &str| repository.join(name);
    let names = |c: &&Call| c.is(&NAMES) && c.path().starts_with(repository);
    for call in calls.iter().filter(names) {
        let temp = &call.paths[call.paths.len() - 2];
        let written = calls.iter().filter(|c| c.is(&["write", "pwrite64"]) && c.path() == temp);
        let written = written.map(|c| c.ended).max();
        let written = written.unwrap_or_else(|| panic!("{what}: {temp:?} was never written"));
        assert!(is_forced(calls, temp, written, call.began), "{what}: {:?}", call.path());
    }
    // When what rests on a folder's names is done: the first time after they were changed.
    let first_after = |from: usize, folder: &Path, kinds: &[&str]| {
        let is = |c: &&Call| {
            c.is(kinds) && c.path().starts_with(folder) && !c.is_temporary() && c.began > from
        };
        calls.iter().filter(is).map(|c| c.began).min().unwrap_or(usize::MAX)
    };
    for call in calls.iter().filter(|c| c.is(&NAMES) || c.is(&MAKES) || c.is(&REMOVES)) {
        if call.is_temporary() || !call.path().starts_with(repository) {
            continue;
        }
        let within = |name: &str| call.path().starts_with(folder(name));
        let until = if call.is(&REMOVES) {
            // Packs go when nothing speaks of them any more.
            first_after(call.ended, &folder("packs"), &REMOVES)
        } else if within("packs") {
            first_after(call.ended, &folder("index"), &NAMES)
        } else if within("index") {
            let named = first_after(call.ended, &folder("snapshots"), &NAMES);
            let replaced = first_after(call.ended, &folder("index"), &REMOVES);
            named.min(replaced)
        } else {
            usize::MAX
        };
        if call.is(&REMOVES) && within("packs") {
            continue;
        }
        let path = call.path();
        assert!(is_forced(calls, call.folder(), call.ended, until), "{what}: {path:?}");
    }
}

#[test]
fn everything_is_forced_to_the_disk_in_order() {
    if !can_trace() {
        return;
    }
    let w = World::bare();
    for n in 0..50 {
        write(w.path(format!("src/{n}")), format!("{n} ").repeat(3000));
    }
    let repository = w.path("repo");
    let mut seen = HashSet::new();
    let commands = ["init -q", "backup -q src", "forget -q latest", "prune -q --grace 0"];
    for words in commands {
        let calls = trace(&w, words);
        assert_ordered(&calls, &repository, words);
        let objects = calls.iter().filter(|c| !c.is_temporary());
        let places = objects.filter_map(|c| Some((c, c.path().strip_prefix(&repository).ok()?)));
        for (call, place) in places.filter(|(_, place)| place.components().count() > 1) {
            let part = place.components().next().unwrap().as_os_str().to_string_lossy();
            seen.insert(format!("{} in {part}", call.name.replace("at", "")));
        }
    }
    // What the trace shows is what it should show.
    for change in [
        "link in keys",
        "link in packs",
        "link in index",
        "link in snapshots",
        "unlink in snapshots",
        "unlink in packs",
        "unlink in index",
    ] {
        assert!(seen.contains(change), "no {change}: {seen:?}");
    }
}

/// Else a power loss could take the whole repository with the name of a folder that it lies in.
#[test]
fn what_leads_to_a_new_repository_is_forced_to_the_disk() {
    if !can_trace() {
        return;
    }
    let w = World::bare();
    let calls = trace(&w, "init -q -r a/b/repo");
    for place in ["a", "a/b", "a/b/repo"].map(|place| w.path(place)) {
        let made = calls.iter().find(|c| c.is(&MAKES) && c.path() == place).unwrap();
        let above = place.parent().unwrap();
        assert!(is_forced(&calls, above, made.ended, usize::MAX), "{above:?}");
    }
    // The user has made them a moment ago.
    fs::create_dir_all(w.path("c/d/repo")).unwrap();
    let calls = trace(&w, "init -q -r c/d/repo");
    let repository = w.path("c/d/repo");
    for above in repository.ancestors().skip(1).take(3) {
        let is_forced = calls.iter().any(|c| c.is(&["fsync"]) && c.path() == above);
        assert!(is_forced, "{above:?}");
    }
}

/// Whoever may only pass through what his repository lies in can't force that to the disk.
#[test]
fn a_repository_may_lie_in_a_folder_that_is_closed_to_its_owner() {
    use std::os::unix::fs::{PermissionsExt, chown};
    if !can_be_root() {
        return;
    }
    let w = World::bare();
    fs::create_dir_all(w.path("closed/mine")).unwrap();
    fs::set_permissions(w.path("closed"), fs::Permissions::from_mode(0o711)).unwrap();
    chown(w.path("closed/mine"), Some(NOBODY), Some(NOBODY)).unwrap();
    write(w.path("text"), "text");
    for words in ["init -q -r closed/mine", "backup -q -r closed/mine text"] {
        ran(&mut w.command_of_nobody(words)).expect(0);
    }
}
