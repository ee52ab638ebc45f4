//! `tresor backup` saves what its arguments say, and tells what it doesn't save.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::process::Stdio;

use common::files::*;
use common::*;

/// A password command that reads its standard input must not get the stream.
#[test]
fn a_password_command_does_not_eat_the_stream() {
    let w = World::new();
    let input = noise(3, 300_000);
    let mut command = w.command("backup -q --stdin --stdin-filename dump");
    command.env_remove("TRESOR_PASSWORD_FILE").stdin(Stdio::piped());
    let password = w.path("password");
    let eats = format!("head -c 100000 >/dev/null; cat {}", password.display());
    let mut running = start(command.env("TRESOR_PASSWORD_COMMAND", eats));
    running.stdin.take().unwrap().write_all(&input).unwrap();
    ended(&command, running).expect(0);
    w.ok("restore -q latest -t out");
    assert_eq!(fs::read(w.path("out/dump")).unwrap(), input);
}

#[test]
fn a_folder_of_caches_may_hold_something_else() {
    let w = World::new();
    write(w.path("data/file"), "content");
    w.ok("backup -q data --cache-dir data");
    let saved = w.ok("ls latest");
    assert!(saved.contains("data/file"), "{saved}");
    // But for the caches themselves.
    assert!(names(w.path("data")).len() > 1);
    assert_eq!(w.json("backup data --cache-dir data")["files"], 1);
}

#[test]
fn arguments_that_save_something_else_than_they_seem_to() {
    let w = World::new();
    write(w.path("src/keep.log"), "keep");
    write(w.path("src/other.log"), "other");
    symlink("src", w.path("link")).unwrap();
    let said = w.run("backup link").expect(0).err;
    says(&said, &["link is a symlink", "link/"]);
    assert_eq!(w.json("backup link/")["files"], 2);
    let mut command = w.command("backup src");
    let said = ran(command.arg("")).expect(1).err;
    says(&said, &["empty", "no snapshot was made"]);
    says(&w.fails(1, "backup src -e src"), &["src", "left out", "no snapshot was made"]);
    says(&w.run("backup src link -e src").expect(0).err, &["src is one of the paths", "left out"]);
    says(&w.fails(1, "backup repo"), &["repo", "tresor's own", "no snapshot was made"]);
    // Patterns of the command line can take back those of files.
    write(w.path("patterns"), "*.log\n");
    let kept = w.json("backup src --exclude-file patterns -e !keep.log");
    assert_eq!(kept["files"], 1);
    let said = w.ok("backup src -n -v -e keep.log");
    assert!(said.lines().any(|l| l.starts_with("left_out") && l.ends_with("keep.log")), "{said}");
}

/// What is saved is saved, whoever hears of it.
#[test]
fn a_summary_that_cannot_be_printed_is_no_failure() {
    let w = World::new();
    write(w.path("src/file"), "content");
    let mut command = w.plain("sh");
    let line = format!("exec {} backup src >/dev/full", env!("CARGO_BIN_EXE_tresor"));
    let said = ran(command.args(["-c", &line])).expect(0).err;
    says(&said, &["the snapshot is saved", "can't be printed"]);
    assert_eq!(w.json("snapshots").as_array().unwrap().len(), 1);
}

/// The system doesn't say how long it is.
#[test]
fn a_file_that_does_not_tell_its_length_is_saved_whole() {
    let w = World::new();
    w.ok("backup -q /proc/version");
    w.ok("restore -q latest:/proc/version -t out");
    assert_eq!(fs::read(w.path("out/version")).unwrap(), fs::read("/proc/version").unwrap());
}
