//! How a drive comes and goes.
#![cfg(target_os = "linux")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::{Duration, Instant};

use common::drive::{Drive, is_mounted, mounts_below};
use common::files::*;
use common::*;
use rustix::process::Signal;

/// A world with one file of this length saved.
fn world(len: usize) -> World {
    let w = World::new();
    write(w.path("src/file"), noise(1, len));
    w.ok("backup -q src");
    w
}

#[test]
fn in_the_background() {
    if !can_mount() {
        return;
    }
    let w = world(100_000);
    fs::create_dir(w.path("mnt")).unwrap();
    let said = w.ok("mount --background mnt --cache-size 16M");
    says(&said, &["The drive is at mnt", "tresor umount mnt"]);
    let file = w.path("mnt/snapshots/latest").join(w.inside("src/file"));
    assert_same(&w.path("src"), file.parent().unwrap());
    says(&w.fails(1, "mount mnt"), &["mnt already", "tresor umount "]);

    let open = File::open(&file).unwrap();
    says(&w.fails(1, "umount mnt"), &["in use", "--lazy"]);
    drop(open);
    w.ok("umount mnt");
    assert!(!is_mounted(&w.path("mnt")) && names(w.path("mnt")).is_empty());
    says(&w.fails(1, "umount mnt"), &["no drive is mounted on mnt"]);

    // What goes wrong is said by the command that was started.
    says(&w.fails(1, "mount --background nowhere"), &["nowhere doesn't exist", "mkdir"]);
    fs::write(w.path("password"), "wrong").unwrap();
    says(&w.fails(12, "mount --background mnt"), &["wrong password"]);
}

/// The process in the background leaves the folder that it was started in.
#[test]
fn a_relative_repository() {
    if !can_mount() {
        return;
    }
    let w = world(300_000);
    fs::create_dir(w.path("mnt")).unwrap();
    let mut command = w.command("-r repo --cache-dir cache mount --background latest mnt");
    let status = command.env_remove("TRESOR_REPOSITORY").env_remove("TRESOR_CACHE_DIR").status();
    assert!(status.unwrap().success());
    let inside = w.path("mnt").join(w.inside("src"));
    assert_same(&w.path("src"), &inside);
    w.ok("umount mnt");
}

#[test]
fn signals_remove_it_though_a_file_is_open() {
    if !can_mount() {
        return;
    }
    let w = world(100_000);
    let all = [("int", Signal::INT), ("term", Signal::TERM), ("hup", Signal::HUP)];
    let drives: Vec<_> = all.map(|(point, _)| w.mount("", point)).into();
    let file = |drive: &Drive| drive.at("snapshots/latest").join(w.inside("src/file"));
    let open: Vec<_> = drives.iter().map(|drive| File::open(file(drive)).unwrap()).collect();
    let start = Instant::now();
    drives.iter().zip(all).for_each(|(drive, (_, with))| drive.signal(with));
    for drive in drives {
        let point = drive.point.clone();
        drive.ended().expect(0);
        assert!(!is_mounted(&point) && names(&point).is_empty());
    }
    assert!(start.elapsed() < Duration::from_secs(10));
    drop(open);
}

#[test]
fn other_programs_may_unmount_it() {
    if !can_mount() {
        return;
    }
    let w = world(1000);
    for program in ["umount", "fusermount3"] {
        let drive = w.mount("", "mnt");
        let point = drive.point.clone();
        if program == "umount" {
            sh(program, &[&point]);
        } else {
            sh(program, &[&"-u", &point]);
        }
        drive.ended().expect(0);
    }
}

/// It is cut off from the kernel then, though what is in use stays mounted: it must not stay there
/// dead.
#[test]
fn a_drive_that_is_forced_off_while_it_is_in_use_goes_and_says_so() {
    if !can_mount() {
        return;
    }
    let w = world(1000);
    let drive = w.mount("", "mnt");
    let point = drive.point.clone();
    let open = File::open(drive.at("snapshots/latest").join(w.inside("src/file"))).unwrap();
    let forced = Command::new("umount").arg("-f").arg(&point).output().unwrap();
    assert!(!forced.status.success(), "a file on it is open");
    says(&drive.ended().expect(1).err, &["the drive ended", "umount -f"]);
    assert!(!is_mounted(&point) && names(&point).is_empty());
    drop(open);
    // One that nobody uses goes as with any other way.
    let drive = w.mount("", "mnt");
    sh("umount", &[&"-f", &point]);
    drive.ended().expect(0);
    assert!(!is_mounted(&point));
}

/// Its process ends then, and unmounts nothing more: below there may be an automount, and
/// above it a new drive.
#[test]
fn only_the_drive_is_unmounted() {
    if !can_mount() {
        return;
    }
    let w = world(1000);
    fs::create_dir(w.path("mnt")).unwrap();
    sh("mount", &[&"-t", &"tmpfs", &"none", &w.path("mnt")]);
    let drive = w.mount("", "mnt");
    sh("umount", &[&w.path("mnt")]);
    drive.ended().expect(0);
    assert!(is_mounted(&w.path("mnt")), "what was below is gone, too");
    sh("umount", &[&w.path("mnt")]);
}

#[test]
fn a_dead_drive_is_cleared() {
    if !can_mount() {
        return;
    }
    let w = world(1000);
    let kill = || {
        let drive = w.mount("", "mnt");
        drive.signal(Signal::KILL);
        drive.ended();
        assert!(is_mounted(&w.path("mnt")) && fs::read_dir(w.path("mnt")).is_err());
    };
    kill();
    w.ok("umount mnt");
    assert!(names(w.path("mnt")).is_empty());
    kill();
    let drive = w.mount("", "mnt");
    assert_eq!(names(drive.at("snapshots")).len(), 2);
    drive.unmount();
    assert!(!is_mounted(&w.path("mnt")));
}

/// Another drive lies where it was, which is in use still.
fn taken_over(w: &World, words: &str) -> (Drive, File, Drive) {
    let old = w.mount(words, "mnt");
    let open = File::open(old.at("snapshots/latest").join(w.inside("src/file"))).unwrap();
    sh("umount", &[&"-l", &old.point]);
    (old, open, w.mount("", "mnt"))
}

#[test]
fn a_signal_unmounts_no_other_drive() {
    if !can_mount() {
        return;
    }
    let w = world(1000);
    let (old, open, new) = taken_over(&w, "");
    old.signal(Signal::TERM);
    old.ended().expect(0);
    drop(open);
    assert!(is_mounted(&new.point), "the signal was for another drive");
    new.unmount();
}

#[test]
fn a_drive_that_nobody_uses_leaves_others_alone() {
    if !can_mount() {
        return;
    }
    let w = world(1000);
    let (old, open, new) = taken_over(&w, "--idle-exit 1s");
    std::thread::sleep(Duration::from_secs(3));
    assert!(is_mounted(&new.point), "another drive was idle");
    drop(open);
    old.ended().expect(0);
    new.unmount();
}

/// Below something else it can't be unmounted, and goes as soon as that has gone.
#[test]
fn a_signal_unmounts_nothing_that_covers_it() {
    if !can_mount() {
        return;
    }
    let w = world(1000);
    let old = w.mount("", "mnt");
    sh("mount", &[&"-t", &"tmpfs", &"none", &old.point]);
    let new = w.mount("", "mnt");
    let point = new.point.clone();
    old.signal(Signal::TERM);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(mounts_below(&point).len(), 3, "what covers it is gone");
    new.unmount();
    sh("umount", &[&point]);
    says(&old.ended().expect(0).err, &["mounted over", "mnt"]);
    assert!(!is_mounted(&point));
}

#[test]
fn what_cannot_be_mounted_says_why() {
    if !can_mount() {
        return;
    }
    let w = world(1000);
    write(w.path("full/file"), "");
    fs::create_dir_all(w.path("mnt")).unwrap();
    fs::create_dir(w.path("repo/inside")).unwrap();
    symlink(w.path("repo"), w.path("link to the repository")).unwrap();
    let cases: [(&str, &[&str]); 8] = [
        ("nowhere", &["nowhere doesn't exist", "mkdir "]),
        ("src/file", &["src/file is not a folder"]),
        ("full", &["full is not empty"]),
        ("repo/inside", &["repo/inside holds the repository, or lies in it"]),
        ("repo", &["holds the repository"]),
        (".", &["holds the repository"]),
        ("0123abcd mnt", &["0123abcd"]),
        ("latest:/tmp mnt", &["whole snapshots"]),
    ];
    for (words, said) in cases {
        says(&w.fails(1, &format!("mount {words}")), said);
    }
    assert!(!is_mounted(&w.path("mnt")));
    says(&w.fails(10, "mount mnt --repo nothing"), &["no repository at", "nothing", "tresor init"]);
    says(&w.fails(1, "umount nowhere"), &["nowhere"]);

    let first = w.mount("", "mnt");
    says(&w.fails(1, "mount mnt"), &["mnt already"]);
    let second = w.mount("latest", "second");
    assert_same(&first.at("snapshots/latest").join(w.inside("src")), &second.at(w.inside("src")));
    first.unmount();
    assert_eq!(fs::read(second.at(w.inside("src/file"))).unwrap().len(), 1000);
}

#[test]
fn a_drive_that_nobody_uses_goes_by_itself() {
    if !can_mount() {
        return;
    }
    let w = world(1000);
    let drive = w.mount("--idle-exit 2s", "mnt");
    let open = File::open(drive.at("snapshots/latest").join(w.inside("src/file"))).unwrap();
    std::thread::sleep(Duration::from_secs(5));
    assert!(is_mounted(&drive.point), "though a file is open");
    drop(open);
    let point = drive.point.clone();
    drive.ended().expect(0);
    assert!(!is_mounted(&point));
}

#[test]
fn what_a_drive_has_done() {
    if !can_mount() {
        return;
    }
    let w = world(300_000);
    let drive = w.mount("latest", "mnt");
    fs::read(drive.at(w.inside("src/file"))).unwrap();
    says(&w.ok("mount --status mnt"), &["blocks:", "fetched", "errors:   0"]);
    let json: serde_json::Value = serde_json::from_str(&w.ok("--json mount --status mnt")).unwrap();
    assert!(json["blocks_fetched"].as_u64() > Some(0) && json["last_error"].is_null(), "{json}");
    says(&w.fails(1, "mount --status src"), &["no drive is mounted on src"]);
}

/// `mount` and /etc/fstab call the program by another name.
#[test]
fn as_a_helper_of_mount() {
    if !can_mount() {
        return;
    }
    let w = world(1000);
    let helper = w.path("mount.fuse.tresor");
    symlink(env!("CARGO_BIN_EXE_tresor"), &helper).unwrap();
    fs::create_dir(w.path("mnt")).unwrap();
    let call = |options: &str| {
        let mut command = w.plain(&helper);
        command.env_remove("TRESOR_PASSWORD_FILE").env_remove("TRESOR_REPOSITORY");
        let source = format!("tresor:{}", w.path("repo").display());
        command.arg(source).arg(w.path("mnt")).args(["-o", options]);
        ran(&mut command)
    };
    let password = w.path("password").display().to_string();
    call(&format!("rw,nofail,x-systemd.automount,snapshot=latest,password-file={password}"))
        .expect(0);
    assert_eq!(fs::read(w.path("mnt").join(w.inside("src/file"))).unwrap().len(), 1000);
    says(&call(&format!("password-file={password}")).expect(32).err, &["mounted on", "already"]);
    w.ok("umount mnt");
    says(&call("nonsense").expect(32).err, &["nonsense", "password-file="]);
}

/// The kernel keeps listings of virtual folders, but not old ones.
#[test]
fn snapshots_come_and_go_while_it_is_mounted() {
    if !can_mount() {
        return;
    }
    let w = world(1000);
    let drive = w.mount("", "mnt");
    let listed = || names(drive.at("ids"));
    let first = listed();
    assert_eq!((first.len(), listed()), (2, first.clone()));
    w.ok("backup -q --tag second src");
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(listed().len(), 3);
    assert_eq!(names(drive.at("tags")), ["second"]);
    w.ok(&format!("forget -q {}", first[0]));
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!((listed().len(), listed().contains(&first[0])), (2, false));
}
