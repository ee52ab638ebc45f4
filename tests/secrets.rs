//! What must not be seen: by who has the repository, and by who looks at processes.
#![cfg(target_os = "linux")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use common::files::*;
use common::*;

/// A text as it may stand somewhere: in UTF-8 and in UTF-16, either way round.
fn spellings(text: &str) -> [Vec<u8>; 3] {
    let wide = |bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect();
    [text.into(), wide(u16::to_le_bytes), wide(u16::to_be_bytes)]
}

fn holds(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}

/// Files that have one of these words in their path or content.
fn files_with(folder: &Path, words: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for file in below(folder) {
        let mut all = file.as_os_str().as_encoded_bytes().to_vec();
        // Links lead nowhere.
        all.extend(fs::read(&file).unwrap_or_default());
        all.make_ascii_lowercase();
        for word in words {
            if spellings(word).iter().any(|spelling| holds(&all, spelling)) {
                found.push((file.clone(), (*word).to_owned()));
            }
        }
    }
    found
}

#[test]
fn the_repository_tells_nothing() {
    if !can_be_root() {
        return;
    }
    let words = [
        "axolotl",
        "quokka",
        "narwhal",
        "okapi",
        "walrus",
        "zebrafish",
        "pangolin",
        "meerkat",
        "nobody",
        "battery staple",
    ];
    let w = World::bare();
    let src = w.path("src/axolotl folder");
    write(src.join("quokka.txt"), "narwhal ".repeat(20));
    write(src.join("large"), "narwhal und okapi\n".repeat(20_000));
    symlink("/pangolin", src.join("link")).unwrap();
    set_xattr(&src.join("large"), "user.meerkat", b"meerkat");
    fs::create_dir(w.path("repo")).unwrap();
    sh("chown", &[&"-R", &"65534:65534", &w.path("repo"), &w.path("src")]);
    for words in [
        "init -q --label walrus-label",
        "backup -q src --host walrus-host --tag zebrafish-tag",
        "backup -q src --host walrus-host --tag zebrafish-tag --force",
        "forget -q latest",
        "prune -q --max-unused 0",
        "key add -q --new-password-file password --label walrus",
    ] {
        ran(&mut w.command_of_nobody(words)).expect(0);
    }
    assert!(files_with(&w.path("src"), &words[..3]).len() > 2, "they are not found at all");
    assert_eq!(files_with(&w.path("repo"), &words), []);
    // Nor does the cache.
    assert_eq!(files_with(&w.path("nobody/cache"), &words[..8]), []);
}

/// The processes that have this in their command line or environment; with both.
fn processes_with(text: &str) -> Vec<(String, String)> {
    let numbers = names("/proc").into_iter().filter(|n| n.bytes().all(|b| b.is_ascii_digit()));
    let read = |pid: &str, file: &str| {
        let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', "\n")
    };
    let seen = numbers.map(|pid| (read(&pid, "cmdline"), read(&pid, "environ")));
    seen.filter(|(line, environment)| line.contains(text) || environment.contains(text)).collect()
}

#[test]
fn the_background_process_shows_no_password() {
    if !can_mount() {
        return;
    }
    let w = World::new();
    fs::create_dir(w.path("mnt")).unwrap();
    write(w.path("src/file"), "content");
    w.ok("backup -q src");
    for (name, value) in
        [("TRESOR_PASSWORD", PASSWORD), ("TRESOR_PASSWORD_COMMAND", "cat password")]
    {
        let mut command = w.command("mount --background mnt");
        command.env_remove("TRESOR_PASSWORD_FILE").env(name, value);
        ran(&mut command).expect(0);
        let serving = processes_with(w.path("repo").to_str().unwrap());
        assert!(serving.iter().any(|(line, _)| line.contains("--serve")), "{serving:?}");
        for (line, environment) in serving {
            for secret in [PASSWORD, "cat password"] {
                assert!(!line.contains(secret) && !environment.contains(secret), "{line}");
            }
        }
        w.ok("umount mnt");
    }
}

const PAGE: usize = 4096;

/// Whether it stands anywhere in the memory of a process.
fn remembers(pid: u32, word: &[u8]) -> bool {
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut buffer = vec![0; 1 << 20];
    for line in maps.lines().filter(|line| line.contains(" r")) {
        let (start, rest) = line.split_once('-').unwrap();
        let end = rest.split_once(' ').unwrap().0;
        let [mut at, end] = [start, end].map(|n| u64::from_str_radix(n, 16).unwrap());
        while at < end {
            let most = (end - at).min(buffer.len() as u64) as usize;
            // What the kernel shows to nobody.
            let Ok(len @ 1..) = memory.read_at(&mut buffer[..most], at) else { break };
            let read = &buffer[..len];
            // Most pages are empty.
            let page = |from| &read[from..len.min(from + PAGE + word.len() - 1)];
            let mut pages = (0..len).step_by(PAGE).map(page);
            if pages.any(|page| page.contains(&word[0]) && holds(page, word)) {
                return true;
            }
            // Pieces overlap.
            at += if at + len as u64 == end { len } else { len.saturating_sub(word.len()).max(1) }
                as u64;
        }
    }
    false
}

/// The process that serves the drive of this world.
fn serving(w: &World) -> u32 {
    let repo = w.path("repo").to_str().unwrap().to_owned();
    let numbers = names("/proc").into_iter().filter_map(|n| n.parse().ok());
    let line = |pid: &u32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let ours = |pid: &u32| {
        let line = String::from_utf8_lossy(&line(pid)).into_owned();
        line.contains(&repo) && line.contains("--serve")
    };
    let all: Vec<_> = numbers.filter(ours).collect();
    let [pid] = all[..] else { panic!("{all:?}") };
    pid
}

#[test]
fn a_process_that_serves_a_drive_has_forgotten_the_password() {
    if !can_mount() {
        return;
    }
    let w = World::new();
    write(w.path("src/file"), "content");
    w.ok("backup -q src");
    let start = &PASSWORD.as_bytes()[..16];
    let origins = [
        ("TRESOR_PASSWORD_FILE", "password"),
        ("TRESOR_PASSWORD_COMMAND", "cat password"),
        ("TRESOR_PASSWORD", PASSWORD),
    ];
    for (name, value) in origins {
        let from = |words: &str| {
            let mut command = w.command(words);
            command.env_remove("TRESOR_PASSWORD_FILE").env(name, value);
            command
        };
        let drive = w.mount_with(from("mount mnt"), "mnt");
        assert!(drive.at("snapshots/latest").join(w.inside("src/file")).exists());
        // The environment is memory too: so this search finds what is there.
        assert_eq!(remembers(drive.pid(), start), name == "TRESOR_PASSWORD", "{name}");
        drive.unmount().expect(0);
        ran(&mut from("mount --background mnt")).expect(0);
        assert!(w.path("mnt/snapshots/latest").join(w.inside("src/file")).exists());
        assert!(!remembers(serving(&w), start), "{name}, in the background");
        w.ok("umount mnt");
        wait_until("it has ended", || {
            processes_with("--serve")
                .iter()
                .all(|(line, _)| !line.contains(w.path("repo").to_str().unwrap()))
        });
        ran(&mut from("mount --via nfs --background")).expect(0);
        let pid = serving(&w);
        assert!(!remembers(pid, start), "{name}, by NFS");
        sh("kill", &[&pid.to_string()]);
        wait_until("it has ended", || !Path::new(&format!("/proc/{pid}/mem")).exists());
    }
}

#[test]
fn programs_that_are_run_inherit_no_password() {
    let w = World::new();
    let check = |environment: &str| {
        says(environment, &["PATH="]);
        for secret in [PASSWORD, "TRESOR_PASSWORD=", "TRESOR_PASSWORD_COMMAND="] {
            assert!(!environment.contains(secret), "{environment}");
        }
    };
    let mut command = w.command("backup -q --stdin-from-command -- env");
    command.env_remove("TRESOR_PASSWORD_FILE").env("TRESOR_PASSWORD", PASSWORD);
    ran(&mut command).expect(0);
    check(&w.ok("cat latest:/stdin"));

    let mut command = w.command("backup -q --stdin-from-command -- env");
    let script = "env >environment; cat password";
    command.env_remove("TRESOR_PASSWORD_FILE").env("TRESOR_PASSWORD_COMMAND", script);
    ran(command.env("TRESOR_PASSWORD", PASSWORD)).expect(0);
    check(&w.ok("cat latest:/stdin"));
    check(&fs::read_to_string(w.path("environment")).unwrap());
}
