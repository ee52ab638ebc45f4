//! What goes wrong says so: the right exit code, and a message that names the thing and the way out.
#![cfg(target_os = "linux")]

mod common;
#[path = "errors/midway.rs"]
mod midway;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use common::files::*;
use common::*;

#[test]
fn passwords_and_repositories() {
    let w = World::bare();
    says(&w.fails(10, "snapshots"), &["no repository", "repo", "tresor init"]);
    says(&w.fails(10, "backup ."), &["no repository"]);
    w.ok("init");
    says(&w.fails(1, "init"), &["repository at", "already", "nothing was changed"]);
    write(w.path("wrong"), "not it");
    write(w.path("empty"), "");
    for command in ["snapshots", "backup .", "restore latest -t out", "check", "mount mnt"] {
        let said = w.fails(12, &format!("{command} -p wrong"));
        says(&said, &["wrong password", "can't be reset", "--password-file"]);
    }
    assert!(!w.path("out").exists());
    says(&w.fails(1, "snapshots -p nowhere"), &["password", "nowhere"]);
    says(&w.fails(1, "snapshots -p empty"), &["password file empty is empty"]);
    says(&w.fails(1, "snapshots -r sftp:host:/path"), &["sftp:host:/path", "local folders"]);
    let mut without = w.command("snapshots");
    let said = ran(without.env_remove("TRESOR_PASSWORD_FILE")).expect(1).err;
    says(&said, &["no password", "--password-file", "TRESOR_PASSWORD"]);
    let said = ran(w.command("snapshots").env_remove("TRESOR_REPOSITORY")).expect(1).err;
    says(&said, &["no repository given", "-r FOLDER", "TRESOR_REPOSITORY"]);
}

#[test]
fn words_that_lead_nowhere() {
    let w = World::new();
    says(&w.fails(1, "restore latest -t out"), &["no snapshot"]);
    write(w.path("src/file"), "content");
    w.ok("backup -q src");
    let file = format!("latest:{}", w.path("src/file").display());
    let cases: [(&str, &[&str]); 14] = [
        ("ls 0123abcd", &["0123abcd"]),
        ("restore latest~5 -t out", &["latest~5"]),
        ("diff latest 2001-02-03", &["2001-02-03"]),
        ("cat nonsense:/file", &["nonsense"]),
        ("forget fedcba98", &["fedcba98"]),
        ("snapshots latest --host elsewhere", &["host elsewhere"]),
        ("ls latest:/nowhere", &["/nowhere", "tresor ls"]),
        ("restore latest:/nowhere -t out", &["/nowhere", "tresor ls"]),
        ("cat latest", &["which file"]),
        ("backup", &["nothing to save", "tresor backup"]),
        ("backup nowhere", &["none of the paths", "nowhere", "no snapshot"]),
        ("backup --use-fs-snapshot src", &["--use-fs-snapshot=on", "on this system"]),
        ("backup --system-state", &["--system-state", "on this system"]),
        ("frobnicate", &["frobnicate", "--help"]),
    ];
    for (words, said) in cases {
        says(&w.fails(1, words), said);
    }
    assert!(!w.path("out").exists());
    let said = w.fails(3, "backup src nowhere");
    says(&said, &["nowhere"]);
    write(w.path("full/other"), "");
    says(&w.fails(1, &format!("restore {file} -t full")), &["full is not empty", "--overwrite"]);
    says(&w.fails(1, &format!("restore {file} -t src/file")), &["src/file"]);
    assert_eq!(names(w.path("full")), ["other"]);
}

#[test]
fn what_cannot_be_read_is_named() {
    if !can_be_root() {
        return;
    }
    let w = World::new();
    for (name, mode) in [("open", 0o644), ("closed", 0o600), ("folder/file", 0o644)] {
        write(w.path("src").join(name), name);
        fs::set_permissions(w.path("src").join(name), Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(w.path("src/folder"), Permissions::from_mode(0o700)).unwrap();
    sh("chown", &[&"-R", &"65534:65534", &w.path("repo")]);
    let ran = ran(&mut w.command_of_nobody("backup src --json")).expect(3);
    let messages = lines(&ran.out);
    let told = |m: &&serde_json::Value| m["message_type"] == "error";
    let told: Vec<_> = messages.iter().filter(told).map(|m| m.to_string()).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    let told = told.join("\n");
    says(&told, &["src/closed", "src/folder", "Permission denied"]);
    assert_eq!(messages.last().unwrap()["errors"], 2);
    assert_eq!(w.ok(&format!("cat latest:{}", w.path("src/open").display())), "open");
    w.ok("check -q");
}

#[test]
fn what_vanishes_does_no_harm() {
    let w = World::new();
    write(w.path("src/a large file"), noise(1, 100 << 20));
    for n in 0..2000 {
        write(w.path(format!("src/folder {}/{n}", n % 50)), format!("{n}").repeat(1000));
    }
    let mut command = w.command("backup -q src");
    let child = start(&mut command);
    wait_until("it has begun", || w.stored() > 1 << 20);
    for n in 0..50 {
        fs::remove_dir_all(w.path(format!("src/folder {n}"))).unwrap();
    }
    let ran = ended(&command, child);
    assert!(ran.code == 0 || ran.code == 3 && ran.err.contains("src/folder"), "{}", ran.err);
    ran.expect_no_panic();
    w.ok("check -q --read-data");
}

#[test]
fn a_full_disk_loses_nothing() {
    if !can_be_root() {
        return;
    }
    let w = World::on_small_disk("8M");
    write(w.path("src/first"), noise(1, 2 << 20));
    w.ok("backup -q src");
    write(w.path("src/second"), noise(2, 20 << 20));
    let said = w.fails(1, "backup -q src");
    says(&said, &[w.path("repo").to_str().unwrap(), "full", "space"]);
    assert_eq!(w.json("snapshots").as_array().unwrap().len(), 1);
    w.ok("check -q --read-data");
    w.ok("restore latest -t out -q");

    w.remount("size=64M");
    w.ok("backup -q src");
    w.ok("check -q --read-data");
    w.ok("restore latest -t out -q --overwrite");
    assert_same(&w.path("src"), &w.path("out").join(w.inside("src")));
}

/// Notepad of Windows puts a mark at the beginning, and can write UTF-16.
#[test]
fn text_files_of_other_systems() {
    let w = World::new();
    for name in ["skip", "keep"] {
        write(w.path("src").join(name), "text");
    }
    let wide = |text: &str| -> Vec<u8> {
        format!("\u{feff}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect()
    };
    write(w.path("exclude"), "\u{feff}skip\r\nnothing\r\n");
    write(w.path("list"), format!("\u{feff}{}\n", w.path("src/keep").display()));
    for words in ["src --exclude-file exclude", "--files-from list"] {
        w.ok(&format!("backup -q {words}"));
        let listed = w.ok("ls latest");
        assert!(listed.contains("keep") && !listed.contains("skip"), "{words}: {listed}");
    }
    write(w.path("password.txt"), format!("\u{feff}{PASSWORD}\r\n"));
    w.ok("snapshots -p password.txt");
    for name in ["exclude", "list", "password.txt"] {
        write(w.path(name), wide("text\r\n"));
    }
    for (words, name) in [
        ("backup src --exclude-file exclude", "exclude"),
        ("backup --files-from list", "list"),
        ("snapshots -p password.txt", "password.txt"),
    ] {
        says(&w.fails(1, words), &[name, "UTF-16", "UTF-8"]);
    }
}

/// The program that is backed up takes it away.
#[test]
fn a_repository_that_vanishes_during_a_backup() {
    let gone = |w: &World, away: &str| {
        let noise = |megabytes: u32| format!("head -c {megabytes}000000 /dev/urandom");
        write(w.path("away"), format!("{}; {away}; {}", noise(1), noise(60)));
        let said = w.fails(1, "backup -q --stdin-from-command -- sh away");
        let repo = w.path("repo");
        says(&said, &[&format!("there is no repository in {} any more", repo.display())]);
        says(&said, &["isn't lost", "bring it back"]);
        assert!(said.lines().count() < 3, "{said}");
    };
    let w = World::new();
    write(w.path("src/file"), noise(1, 1 << 20));
    w.ok("backup -q src");
    gone(&w, "mv repo elsewhere");
    says(&w.fails(10, "snapshots"), &["no repository"]);
    fs::rename(w.path("elsewhere"), w.path("repo")).unwrap();
    w.ok("backup -q src");
    w.ok("check -q --read-data");
    if can_be_root() {
        let w = World::on_small_disk("300M");
        // The folder below it is there, and empty.
        gone(&w, "umount -l repo");
        assert_eq!(names(w.path("repo")), [""; 0]);
    }
}

#[test]
fn a_repository_that_vanishes_during_a_restore() {
    let w = World::new();
    for n in 0..30 {
        write(w.path(format!("src/{n}")), noise(n, 4 << 20));
    }
    w.ok("backup -q src");
    let mut command = w.command("restore -q latest -t out");
    let child = start(&mut command);
    let restored = w.path("out").join(w.inside("src"));
    wait_until("it has begun", || restored.exists() && !names(&restored).is_empty());
    signal(&child, rustix::process::Signal::STOP);
    fs::rename(w.path("repo"), w.path("elsewhere")).unwrap();
    signal(&child, rustix::process::Signal::CONT);
    let ran = ended(&command, child).expect_no_panic();
    assert!([1, 3].contains(&ran.code), "{}", ran.err);
    says(&ran.err, &["there is no repository in", "isn't lost", "bring it back"]);
    fs::rename(w.path("elsewhere"), w.path("repo")).unwrap();
    w.ok("restore -q latest -t out --overwrite");
    assert_same(&w.path("src"), &restored);
}

#[test]
fn a_full_target_is_named() {
    if !can_be_root() {
        return;
    }
    let w = World::new();
    write(w.path("src/file"), noise(1, 10 << 20));
    w.ok("backup -q src");
    fs::create_dir(w.path("out")).unwrap();
    sh("mount", &[&"-t", &"tmpfs", &"-o", &"size=4M", &"tmpfs", &w.path("out")]);
    let said = w.fails(1, "restore latest -t out");
    says(&said, &["target is full", "src/file", "--overwrite"]);
    // Nothing half-restored lies there under its name.
    assert!(!w.path("out").join(w.inside("src/file")).exists());
}

#[test]
fn a_repository_that_is_read_only_can_be_read() {
    if !can_be_root() {
        return;
    }
    let w = World::on_small_disk("64M");
    write(w.path("src/file"), noise(1, 1 << 20));
    w.ok("backup -q src");
    w.remount("ro");
    for words in ["snapshots", "ls latest", "restore latest -t out", "check", "stats"] {
        w.ok(words);
    }
    write(w.path("src/file"), noise(2, 1 << 20));
    for words in ["backup src", "forget latest", "key add --new-password-file password"] {
        let said = w.fails(1, words);
        assert!(said.contains("read-only") || said.contains("Read-only"), "{words}: {said}");
        says(&said, &[w.path("repo").to_str().unwrap()]);
    }
    // Who may not write to a folder is told so.
    sh("umount", &[&w.path("repo")]);
    w.init();
    says(&ran(&mut w.command_of_nobody("backup src")).expect(1).err, &["repo", "ermission denied"]);
}

#[test]
fn without_a_cache_it_works_too() {
    let w = World::new();
    write(w.path("src/file"), noise(1, 1 << 20));
    w.ok("backup -q src --no-cache");
    assert!(!w.path("cache").exists());
    // It can't be made.
    write(w.path("cache"), "a file");
    w.ok("restore latest -t out");
    fs::remove_file(w.path("cache")).unwrap();
    w.ok("ls latest");
    // Nor is it trusted.
    for file in below(&w.path("cache")) {
        fs::write(file, "not what was written").unwrap();
    }
    w.ok("restore latest -t again");
    let src = w.inside("src");
    assert_same(&w.path("out").join(&src), &w.path("again").join(&src));
}

#[test]
fn output_that_nobody_reads() {
    let w = World::new();
    for n in 0..3000 {
        write(w.path(format!("src/{}{n}", "long name ".repeat(10))), "");
    }
    w.ok("backup -q src");
    let mut shell = w.plain("bash");
    shell.args([
        "-c",
        "\"$0\" ls latest | head -1; exit ${PIPESTATUS[0]}",
        env!("CARGO_BIN_EXE_tresor"),
    ]);
    let ran = ran(&mut shell).expect(141);
    assert_eq!(ran.err, "");
}

/// The limit is no fault of the files: they would be missing from the snapshot.
#[test]
fn with_too_few_descriptors_no_backup_is_made() {
    let w = World::new();
    for n in 0..60 {
        write(w.path(format!("src/{n}/file")), "text");
    }
    let mut shell = w.plain("sh");
    let line = "ulimit -n 12 && exec \"$0\" backup src";
    shell.args(["-c", line, env!("CARGO_BIN_EXE_tresor")]);
    let said = ran(&mut shell).expect(1).err;
    says(&said, &["given up", "ulimit -n", "Too many open files"]);
    assert!(said.lines().count() < 4, "{said}");
    assert_eq!(w.json("snapshots"), serde_json::json!([]));
    w.ok("backup -q src");
}
