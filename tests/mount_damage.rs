//! Drives on damaged and unreachable repositories, and what memory they take.
#![cfg(target_os = "linux")]

mod common;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use common::files::*;
use common::*;
use rustix::io::Errno;
use tresor_engine::format::ParityShare;

#[track_caller]
fn is_eio<T>(result: io::Result<T>) {
    let error = result.err().expect("this can't be read");
    assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()), "{error}");
}

#[test]
fn damage_concerns_what_lies_in_it() {
    if !can_mount() {
        return;
    }
    let w = World::new();
    write(w.path("src/good"), noise(1, 5 << 20));
    w.ok("backup -q src");
    let before = w.objects("packs");
    write(w.path("src/bad"), noise(2, 5 << 20));
    w.ok("backup -q src");
    let added = w.objects("packs").into_iter().filter(|pack| !before.contains(pack));
    let pack = added.max_by_key(|pack| pack.metadata().unwrap().len()).unwrap();
    flip(&pack, pack.metadata().unwrap().len() / 2);

    let drive = w.mount("latest", "mnt");
    let at = |name: &str| drive.at(w.inside("src")).join(name);
    is_eio(fs::read(at("bad")));
    assert!(fs::read(at("good")).unwrap() == noise(1, 5 << 20));
    assert_eq!(names(at("")), ["bad", "good"]);
    // What lies before the damage is right.
    let mut first = vec![0; 100_000];
    File::open(at("bad")).unwrap().read_exact(&mut first).unwrap();
    assert!(first == noise(2, 100_000));
    let said = drive.unmount().err;
    let pack = pack.strip_prefix(w.path("repo")).unwrap().to_str().unwrap();
    says(&said, &["src/bad", pack, "damaged"]);
}

#[test]
fn parity_makes_up_for_damage() {
    if !can_mount() {
        return;
    }
    let w = World::bare();
    w.init_with(ParityShare::new(50));
    write(w.path("src/file"), noise(1, 3 << 20));
    w.ok("backup -q src");
    let pack = w.largest("packs");
    (0..8).for_each(|n| flip(&pack, 50_000 + n * 50_000));
    let drive = w.mount("latest", "mnt");
    assert!(fs::read(drive.at(w.inside("src")).join("file")).unwrap() == noise(1, 3 << 20));
    let said = drive.unmount().err;
    let pack = pack.strip_prefix(w.path("repo")).unwrap().to_str().unwrap();
    says(&said, &[pack, "parity", "tresor repair objects"]);
    assert_eq!(said.matches("parity").count(), 1, "{said}");
}

#[test]
fn a_store_that_comes_back_is_used_again() {
    if !can_mount() {
        return;
    }
    let w = World::new();
    // In packs of their own: one that is open stays readable.
    for (n, name) in [(1, "read"), (2, "not read")] {
        write(w.path("src").join(name), noise(n, 1 << 20));
        w.ok("backup -q src");
    }
    let drive = w.mount("", "mnt");
    let at = |name: &str| drive.at("snapshots/latest").join(w.inside("src")).join(name);
    fs::read(at("read")).unwrap();
    fs::rename(w.path("repo"), w.path("away")).unwrap();
    is_eio(fs::read(at("not read")));
    assert_eq!(names(drive.at("snapshots")).len(), 3);
    fs::rename(w.path("away"), w.path("repo")).unwrap();
    assert!(fs::read(at("not read")).unwrap() == noise(2, 1 << 20));
    drive.unmount();
}

/// The most memory a process has had, in bytes.
fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

fn read_all(folder: &Path) -> u64 {
    let read = |file| io::copy(&mut File::open(file).unwrap(), &mut io::sink()).unwrap();
    below(folder).iter().map(read).sum()
}

#[test]
fn memory_is_bounded() {
    if !can_mount() {
        return;
    }
    // A real one: trying its password takes memory too.
    let w = World::bare();
    w.ok("init -q");
    for n in 0..7 {
        write(w.path(format!("src/large {n}")), noise(n, 50 << 20));
    }
    for n in 0..3000 {
        write(w.path(format!("src/{}/small {n}", n % 30)), noise(n + 7, 1000 + n as usize * 10));
    }
    w.ok("backup -q src");
    let drive = w.mount("--cache-size 32M", "mnt");
    let top = drive.at("snapshots/latest").join(w.inside("src"));
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(read_all(&top) > 390 << 20));
        // Another one, from the end, so that there is more than one place where is read.
        scope.spawn(|| fs::read(top.join("large 6")).unwrap());
    });
    let peak = peak(drive.pid());
    assert!(peak < 132 << 20, "{} MiB", peak >> 20);
}
