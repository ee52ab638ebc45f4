//! What a process leaves in its memory of a repository that it has closed: neither the
//! password nor a key. The test starts itself, and `child` looks through its own memory.
#![cfg(target_os = "linux")]

#[path = "prune/world.rs"]
#[allow(dead_code, reason = "each test binary uses a part")]
mod world;

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use fastrand::Rng;
use tresor_engine::crypto::{KdfCost, Password, derive_slot_key};
use tresor_engine::format::{KeySlot, ObjectKind};
use tresor_engine::history;
use tresor_engine::maintenance::{CheckOptions, check};
use tresor_engine::monitor::Quiet;
use tresor_engine::repo::{InitOptions, OpenOptions, Repository};
use tresor_engine::restorer::read_file;
use tresor_engine::store::{LocalStore, Store};

use world::*;

const COST: KdfCost = KdfCost { memory: 8 * 1024, passes: 1, lanes: 1 };
/// What the child does, and where.
const TASK: &str = "TRESOR_TEST_TASK";
/// Needles are kept so masked: who looks for them must not find his own copy.
const MASK: u8 = 0xa7;

fn masked(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|b| b ^ MASK).collect()
}

/// The password, made up anew each time so that no constant holds it.
fn password() -> Password {
    let letter = |i: usize| b'a' + (i * 7 + 3) as u8 % 26;
    Password::new((0..40).map(letter).collect())
}

fn derived(master: &[u8; 32], purpose: &str, salt: &[u8]) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new_derive_key(&format!("tresor format 1 {purpose}"));
    hasher.update(master).update(salt).finalize().as_bytes().to_vec()
}

/// Everything secret about a repository, with what it is. Keys count by halves.
fn secrets(store: &Store, repo: &Repository) -> Vec<(String, Vec<u8>)> {
    let master = &repo.keys().master().0;
    let mut keys = vec![("the master key".to_owned(), master.to_vec())];
    for purpose in ["data blob id", "tree blob id", "chunker table"] {
        keys.push((format!("the key of the {purpose}"), derived(master, purpose, &[])));
    }
    let kinds = [
        (ObjectKind::Pack, "pack"),
        (ObjectKind::Index, "index"),
        (ObjectKind::Snapshot, "snapshot"),
    ];
    for (kind, purpose) in kinds {
        for (name, _) in store.list(kind).unwrap() {
            let salt = store.get_range(&name, 8, 32).unwrap();
            keys.push((format!("the key of {name}"), derived(master, purpose, &salt)));
        }
    }
    for (name, _) in store.list(ObjectKind::Key).unwrap() {
        let slot: KeySlot = minicbor::decode(&store.get(&name).unwrap()).unwrap();
        let key = derive_slot_key(&password(), &slot.salt, slot.cost()).unwrap();
        keys.push((format!("the key of {name}"), key.to_vec()));
    }
    let halves = |(what, key): (String, Vec<u8>)| {
        [(what.clone(), key[..16].to_vec()), (what, key[16..].to_vec())]
    };
    let mut secrets: Vec<_> = keys.into_iter().flat_map(halves).collect();
    secrets.push(("the password".to_owned(), password()[..16].to_vec()));
    secrets
}

/// A use of everything that handles keys.
fn use_it(path: &Path) {
    let store: Store = Arc::new(LocalStore::new(path));
    let wrong = Password::new(b"not this one".to_vec());
    assert!(Repository::open(store.clone(), &wrong, &OpenOptions::default()).is_err());
    let repo = Repository::open(store, &password(), &OpenOptions::default()).unwrap();
    for snapshot in repo.snapshots().unwrap() {
        history::walk(&repo, &snapshot.data.tree, &mut |_, node| {
            read_file(&repo, node, &mut std::io::sink()).map(|_| true).or(Ok(true))
        })
        .unwrap();
    }
    let all = CheckOptions { read_data: true, ..CheckOptions::default() };
    assert!(check(&repo, &all, &Quiet::default()).unwrap().problems.is_empty());
    try_backup(&repo, &some_tree(&mut Rng::with_seed(2), 3), None).unwrap();
    repo.add_key(&password(), "another", COST).unwrap();
    assert!(repo.key_slots().unwrap().len() >= 2);
}

#[test]
#[ignore = "the other test starts it in a process of its own"]
fn child() {
    let Ok(task) = std::env::var(TASK) else { return };
    let (task, folder) = task.split_once('|').unwrap();
    let folder = Path::new(folder);
    use_it(&folder.join("repo"));
    let leak: Box<[u8]> = match task {
        "leak" => {
            let store: Store = Arc::new(LocalStore::new(folder.join("repo")));
            let repo = Repository::open(store, &password(), &OpenOptions::default()).unwrap();
            [&repo.keys().master().0[..], &password()].concat().into()
        }
        _ => Box::default(),
    };
    let leak = Box::leak(leak);
    let needles = std::fs::read_to_string(folder.join("needles")).unwrap();
    for what in found(&needles) {
        println!("found {what}");
    }
    assert!(leak.len() < 1000);
}

/// What of the needles is in the memory of this process: a line each, what it is and its
/// masked bytes.
fn found(needles: &str) -> Vec<String> {
    let mut wanted: HashMap<[u8; 16], &str> = HashMap::new();
    let mut first = vec![false; 1 << 16];
    for line in needles.lines() {
        let (hex, what) = line.split_once(' ').unwrap();
        let byte = |i: usize| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap();
        let bytes: [u8; 16] = std::array::from_fn(byte);
        first[usize::from(u16::from_le_bytes([bytes[0], bytes[1]]))] = true;
        wanted.insert(bytes, what);
    }
    let mut found = Vec::new();
    let mut buffer = vec![0; 1 << 20];
    let own = buffer.as_ptr() as u64..buffer.as_ptr() as u64 + buffer.len() as u64;
    let memory = File::open("/proc/self/mem").unwrap();
    for line in std::fs::read_to_string("/proc/self/maps").unwrap().lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let (start, end) = words[0].split_once('-').unwrap();
        let parse = |hex| u64::from_str_radix(hex, 16).unwrap();
        let (mut at, end) = (parse(start), parse(end));
        while words[1] == "rw-p" && at < end {
            // Pieces overlap by what a needle may need.
            let len = (end - at).min(buffer.len() as u64) as usize;
            let Ok(len) = memory.read_at(&mut buffer[..len], at) else { break };
            for (i, window) in buffer[..len].windows(16).enumerate() {
                let pair = u16::from_le_bytes([window[0] ^ MASK, window[1] ^ MASK]);
                // What was read before lies in the buffer.
                if !first[usize::from(pair)] || own.contains(&(at + i as u64)) {
                    continue;
                }
                let mut window: [u8; 16] = window.try_into().unwrap();
                window.iter_mut().for_each(|b| *b ^= MASK);
                if let Some(what) = wanted.get(&window) {
                    let place = words.get(5).unwrap_or(&"memory");
                    found.push(format!("{what} in {place} at {:x}", at + i as u64));
                }
            }
            at += if len < 16 || at + len as u64 >= end { end - at } else { len as u64 - 15 };
        }
    }
    found
}

fn run(task: &str, folder: &Path) -> Vec<String> {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture", "--test-threads", "1"])
        .env(TASK, format!("{task}|{}", folder.display()))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text.lines().filter_map(|l| l.strip_prefix("found ").map(str::to_owned)).collect()
}

#[test]
fn neither_keys_nor_passwords_stay_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let store: Store = Arc::new(LocalStore::new(folder.path().join("repo")));
    let options =
        InitOptions { label: "test".into(), cost: COST, parity: None, chunks: Default::default() };
    Repository::init(&store, &password(), &options).unwrap();
    let repo = Repository::open(store.clone(), &password(), &OpenOptions::default()).unwrap();
    try_backup(&repo, &some_tree(&mut Rng::with_seed(1), 3), None).unwrap();
    let hex = |bytes: &[u8]| masked(bytes).iter().map(|b| format!("{b:02x}")).collect::<String>();
    let needles = secrets(&store, &repo);
    let lines: Vec<_> =
        needles.iter().map(|(what, key)| format!("{} {what}\n", hex(key))).collect();
    std::fs::write(folder.path().join("needles"), lines.concat()).unwrap();

    let left = run("look", folder.path());
    assert!(left.is_empty(), "{left:#?}");
    // It would find them.
    let leaked = run("leak", folder.path());
    for what in ["the master key", "the password"] {
        assert!(leaked.iter().any(|found| found.starts_with(what)), "{leaked:#?}");
    }
}
