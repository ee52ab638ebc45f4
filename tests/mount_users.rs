//! Who may mount, and who may read.
#![cfg(target_os = "linux")]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use common::drive::is_mounted;
use common::files::*;
use common::*;

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A world with files for everybody and for few saved by root.
fn world() -> World {
    let w = World::new();
    for (name, bits) in [("open", 0o644), ("closed", 0o600), ("acl", 0o600), ("hidden/file", 0o644)]
    {
        write(w.path("src").join(name), name);
        mode(&w.path("src").join(name), bits);
    }
    mode(&w.path("src/hidden"), 0o700);
    sh("setfacl", &[&"-m", &format!("u:{NOBODY}:r"), &w.path("src/acl")]);
    w.ok("backup -q src");
    w
}

/// Whether nobody can read a file, and if not, why.
fn read_by_nobody(w: &World, file: &Path) -> Result<String, String> {
    run_by_nobody(w, "cat", file)
}

fn listed_by_nobody(w: &World, folder: &Path) -> Result<String, String> {
    run_by_nobody(w, "ls", folder)
}

fn run_by_nobody(w: &World, program: &str, path: &Path) -> Result<String, String> {
    let ran = ran(w.as_nobody(program).arg(path).env("LC_ALL", "C"));
    if ran.code == 0 { Ok(ran.out) } else { Err(ran.err) }
}

#[track_caller]
fn denied(result: Result<String, String>) {
    says(&result.expect_err("nobody could read this"), &["Permission denied"]);
}

#[test]
fn a_drive_is_for_who_mounted_it() {
    if !can_mount() {
        return;
    }
    let w = world();
    let drive = w.mount("latest", "mnt");
    denied(read_by_nobody(&w, &drive.at(w.inside("src/open"))));
    assert_eq!(fs::read(drive.at(w.inside("src/hidden/file"))).unwrap(), b"hidden/file");
}

#[test]
fn permissions_count_for_others() {
    if !can_mount() {
        return;
    }
    let w = world();
    let drive = w.mount("--allow-other", "mnt");
    let at = |name: &str| drive.at("snapshots/latest").join(w.inside("src")).join(name);
    assert_eq!(read_by_nobody(&w, &at("open")), Ok("open".into()));
    assert_eq!(read_by_nobody(&w, &at("acl")), Ok("acl".into()));
    denied(read_by_nobody(&w, &at("closed")));
    denied(read_by_nobody(&w, &at("hidden/file")));
    assert_eq!(fs::read(at("closed")).unwrap(), b"closed");
}

#[test]
fn versions_are_for_who_may_read_them_where_they_were() {
    if !can_mount() {
        return;
    }
    let w = world();
    let src = w.path("src");
    for (folder, bits) in [("names", 0o711), ("shared", 0o700)] {
        write(src.join(folder).join("file"), folder);
        mode(&src.join(folder), bits);
    }
    sh("setfacl", &[&"-m", &format!("u:{NOBODY}:rx"), &src.join("shared")]);
    w.ok("backup -q src");
    fs::remove_file(src.join("hidden/file")).unwrap();
    write(src.join("hidden/new"), "new");
    mode(&src.join("hidden"), 0o755);
    w.ok("backup -q src");

    let drive = w.mount("--allow-other", "mnt");
    let oldest = names(drive.at("snapshots")).remove(0);
    let at = |name: &str| drive.at("snapshots/latest").join(w.inside("src")).join(name);
    // Who may not list a folder doesn't learn its names from its versions; by name he gets at them.
    for folder in ["names", "names/.versions", "names/.versions/file"] {
        denied(listed_by_nobody(&w, &at(folder)));
    }
    let versions = at("names/.versions/file");
    let version = versions.join(names(&versions).remove(0));
    assert_eq!(read_by_nobody(&w, &version), Ok("names".into()));
    assert_eq!(listed_by_nobody(&w, &at("shared/.versions")), Ok("file\n".into()));
    // What lay where he couldn't go isn't gathered where he can.
    let there = drive.at("snapshots").join(&oldest).join(w.inside("src/hidden/file"));
    denied(read_by_nobody(&w, &there));
    let here = at("hidden/.versions/file").join(&oldest);
    assert!(read_by_nobody(&w, &here).is_err());
    assert_eq!(listed_by_nobody(&w, &at("hidden/.versions")), Ok("new\n".into()));
    drop(drive);
    // On a drive of one's own nothing is left out.
    let drive = w.mount("", "mnt");
    let at = drive.at("snapshots/latest").join(w.inside("src/hidden/.versions/file"));
    assert_eq!(fs::read(at.join(&oldest)).unwrap(), b"hidden/file");
}

#[test]
fn an_ordinary_user_mounts_what_is_his() {
    if !can_mount() {
        return;
    }
    if !Path::new("/usr/bin/fusermount3").exists() {
        return eprintln!("skipped: this needs fusermount3");
    }
    // As it is on any machine that has udev.
    mode(Path::new("/dev/fuse"), 0o666);
    let w = world();
    sh("chown", &[&"-R", &"65534:65534", &w.path("repo"), &w.path("src")]);
    for folder in ["mnt", "not his"] {
        fs::create_dir(w.path(folder)).unwrap();
    }
    chown(w.path("mnt"), Some(NOBODY), Some(NOBODY)).unwrap();

    let drive = w.mount_with(w.command_of_nobody("mount mnt"), "mnt");
    let file = drive.at("snapshots/latest").join(w.inside("src/closed"));
    // He sees all that he could restore, whatever root's permissions were.
    assert_eq!(read_by_nobody(&w, &file), Ok("closed".into()));
    assert!(fs::read(&file).is_err(), "not even root is let in");
    ran(&mut w.command_of_nobody("umount mnt")).expect(0);
    drive.ended().expect(0);

    ran(&mut w.command_of_nobody("mount --background mnt")).expect(0);
    assert!(is_mounted(&w.path("mnt")));
    assert_eq!(read_by_nobody(&w, &file), Ok("closed".into()));
    ran(&mut w.command_of_nobody("umount mnt")).expect(0);
    assert!(!is_mounted(&w.path("mnt")));

    let mut elsewhere = w.command_of_nobody("mount");
    let said = ran(elsewhere.arg("not his")).expect(1).err;
    says(&said, &["not his"]);
    if !fs::read_to_string("/etc/fuse.conf").unwrap_or_default().contains("\nuser_allow_other") {
        let said = ran(&mut w.command_of_nobody("mount --allow-other mnt")).expect(1).err;
        says(&said, &["user_allow_other", "/etc/fuse.conf"]);
    }
}
