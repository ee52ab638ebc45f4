//! Everything that Linux keeps about a file comes back: in a restore, and on the drive.
#![cfg(target_os = "linux")]

mod common;

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::files::*;
use common::*;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, makedev, mknodat};

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn names_and_links(top: &Path) {
    for name in ["plain", "empty", "tab\tand\nnewline", "äöü €", "-rf", &"n".repeat(255)] {
        write(top.join(name), if name == "empty" { "" } else { name });
    }
    write(top.join(OsStr::from_bytes(b"\xff\xfe no UTF-8")), b"\xff");
    write(top.join("folder/large"), noise(1, 3 << 20));
    fs::create_dir_all(top.join("empty folder/another")).unwrap();
    fs::hard_link(top.join("plain"), top.join("folder/hard link")).unwrap();
    fs::hard_link(top.join("plain"), top.join("another hard link")).unwrap();
    symlink("plain", top.join("link")).unwrap();
    symlink("/no/such\nplace", top.join("dangling")).unwrap();
    symlink(OsStr::from_bytes(b"\xfe\xff"), top.join("odd link")).unwrap();
}

fn special_files(top: &Path) {
    let kinds = [
        ("fifo", FileType::Fifo, 0),
        ("socket", FileType::Socket, 0),
        ("char", FileType::CharacterDevice, makedev(1, 3)),
        ("block", FileType::BlockDevice, makedev(259, 70_000)),
    ];
    for (name, kind, device) in kinds {
        mknodat(CWD, top.join(name), kind, Mode::from_raw_mode(0o640), device).unwrap();
        chown(top.join(name), Some(12_345), Some(54_321)).unwrap();
    }
}

fn modes_and_attributes(top: &Path) {
    for bits in [0o4755, 0o2711, 0o000, 0o444, 0o7777] {
        let path = top.join(format!("mode {bits:o}"));
        write(&path, "#!");
        chown(&path, Some(bits), Some(4_000_000_000)).unwrap();
        mode(&path, bits);
    }
    for (name, bits) in [("sticky", 0o1777), ("setgid", 0o2770), ("closed", 0o000)] {
        fs::create_dir(top.join(name)).unwrap();
        mode(&top.join(name), bits);
    }
    for name in ["attributes", "shared", "capable"] {
        write(top.join(name), name);
    }
    set_xattr(&top.join("attributes"), "user.empty", b"");
    set_xattr(&top.join("attributes"), "user.binary", b"\0\xff\n");
    set_xattr(&top.join("attributes"), "user.large", &[7; 3000]);
    set_xattr(&top.join("folder"), "user.of a folder", b"yes");
    set_xattr(&top.join("link"), "trusted.of a link", b"yes");
    sh("setfacl", &[&"-m", &"u:12345:rw,g:nogroup:r", &top.join("shared")]);
    sh("setfacl", &[&"-d", &"-m", &"u:12345:rwx", &top.join("folder")]);
    sh("setcap", &[&"cap_net_bind_service=ep", &top.join("capable")]);
}

fn sparse(path: &Path, size: u64, data: &[(u64, usize)]) {
    let file = File::create(path).unwrap();
    for (at, len) in data {
        file.write_all_at(&noise(*at, *len), *at).unwrap();
    }
    file.set_len(size).unwrap();
}

/// Folders in each other, until the path is longer than any call takes.
fn deep(top: &Path) {
    fs::create_dir(top).unwrap();
    let open = |dir: &File, name: &str| {
        File::from(rustix::fs::openat(dir, name, OFlags::DIRECTORY, Mode::empty()).unwrap())
    };
    let (mut dir, name) = (File::open(top).unwrap(), "d".repeat(200));
    for _ in 0..25 {
        rustix::fs::mkdirat(&dir, &name, Mode::from_raw_mode(0o750)).unwrap();
        dir = open(&dir, &name);
    }
    let flags = OFlags::CREATE | OFlags::WRONLY;
    let bottom = rustix::fs::openat(&dir, "bottom", flags, Mode::from_raw_mode(0o640)).unwrap();
    rustix::io::write(bottom, b"as deep as it goes").unwrap();
}

fn make_tree(top: &Path) {
    let rich = top.join("rich");
    names_and_links(&rich);
    special_files(&rich);
    modes_and_attributes(&rich);
    sparse(&rich.join("sparse"), 100 << 20, &[(0, 4096), (50 << 20, 1 << 20)]);
    sparse(&rich.join("only a hole"), 3 << 20, &[]);
    sparse(&top.join("huge"), 5 << 30, &[(1 << 20, 5000), ((5 << 30) - 3, 3)]);
    deep(&top.join("deep"));
}

/// Paths of everything below a folder, the folder itself at the end, as `find` sees it.
fn everything(top: &Path) -> Vec<PathBuf> {
    let list = ran(Command::new("find")
        .arg(top)
        .args(["-depth", "-not", "-path", "*/ddd*", "-printf", "%P\\0"]));
    // A name that is no UTF-8 is not found again, and left to rsync.
    list.expect(0).out.split_terminator('\0').map(PathBuf::from).collect()
}

/// Gives each entry times of its own in the past.
fn set_times(top: &Path, all: &[PathBuf]) {
    for (seconds, path) in (1_000_000_000..).zip(all) {
        let times = Timestamps {
            last_modification: Timespec { tv_sec: seconds, tv_nsec: 123_456_789 },
            last_access: Timespec { tv_sec: seconds + 50_000_000, tv_nsec: 987_654_321 },
        };
        let _ = rustix::fs::utimensat(CWD, top.join(path), &times, AtFlags::SYMLINK_NOFOLLOW);
    }
}

/// What `stat` says of each entry.
fn stats(top: &Path, all: &[PathBuf]) -> Vec<String> {
    let stat = |path: &PathBuf| {
        let Ok(m) = fs::symlink_metadata(top.join(path)) else { return format!("no {path:?}") };
        let (modified, read) = ((m.mtime(), m.mtime_nsec()), (m.atime(), m.atime_nsec()));
        let links = if m.is_dir() { 0 } else { m.nlink() };
        let size = if m.is_dir() { 0 } else { m.size() };
        format!(
            "{path:?} mode {:o} of {}:{}, {size} bytes, device {}, {links} links, {modified:?}, {read:?}",
            m.mode(),
            m.uid(),
            m.gid(),
            m.rdev()
        )
    };
    all.iter().map(stat).collect()
}

fn differences(one: &[String], other: &[String]) -> Vec<String> {
    let differ = one.iter().zip(other).filter(|(one, other)| one != other);
    differ.map(|(one, other)| format!("{one} instead of {other}")).collect()
}

/// What is in `deep`: rsync can't go there.
fn look_deep(top: &Path) -> String {
    let told = sh("find", &[&top.join("deep"), &"-printf", &"%f %m %U %s %T@\\n"]);
    let bottom: [&dyn AsRef<OsStr>; 7] =
        [&top.join("deep"), &"-name", &"bottom", &"-execdir", &"cat", &"{}", &"+"];
    // The lengths of folders are up to the file system.
    let lines = told.lines().map(|l| l.replace(" 4096 ", " 0 "));
    lines.collect::<Vec<_>>().join("\n") + &sh("find", &bottom)
}

#[track_caller]
fn assert_all_there(source: &Path, copy: &Path) {
    assert_same(&source.join("rich"), &copy.join("rich"));
    assert_eq!(look_deep(copy), look_deep(source));
    for name in ["huge", "rich/sparse", "rich/only a hole"] {
        let (one, other) = (source.join(name), copy.join(name));
        assert_eq!(one.metadata().unwrap().size(), other.metadata().unwrap().size());
        assert!(data_runs(&one) == data_runs(&other), "{name} has other data");
        assert!(allocated(&other) <= allocated(&one) + 8192, "{name} takes more");
    }
}

#[test]
fn everything_comes_back() {
    if !can_mount() {
        return;
    }
    let w = World::new();
    let source = w.path("source");
    make_tree(&source);
    let all = everything(&source);
    assert!(all.len() > 35, "{all:?}");
    set_times(&source, &all);
    let before = stats(&source, &all);

    let saved = w.json("backup source --tag rich");
    assert_eq!(saved["errors"], 0);
    // Reading a symlink leaves a trace, and nothing can be done about it.
    let traces = differences(&stats(&source, &all), &before);
    assert_eq!(traces.iter().filter(|t| !t.contains("mode 120")).count(), 0, "{traces:?}");
    let restored = w.json("restore latest --target out");
    assert_eq!((&restored["errors"], &restored["files"]), (&0.into(), &saved["files"]));
    let copy = w.path("out").join(w.inside("source"));
    assert_eq!(differences(&stats(&copy, &all), &before), [""; 0]);

    let one = w.mount("latest", "one");
    let every = w.mount("", "every");
    for on_drive in
        [one.at(w.inside("source")), every.at("tags/rich/latest").join(w.inside("source"))]
    {
        assert_eq!(differences(&stats(&on_drive, &all), &before), [""; 0]);
        assert_all_there(&source, &on_drive);
    }
    assert_all_there(&source, &copy);
    one.unmount();
    every.unmount();

    let again = w.json("restore latest --target out --overwrite");
    assert_eq!((&again["bytes_written"], &again["files_restored"]), (&0.into(), &0.into()));
    assert_eq!(again["files_unchanged"], again["files"]);
    assert_same(&source.join("rich"), &copy.join("rich"));
}

/// A world with a few files saved, and their folder as it is in the snapshot.
fn small_world() -> (World, String) {
    let w = World::new();
    for name in ["docs/a.txt", "docs/b.tmp", "docs/deep/d.txt", "pics/c.jpg"] {
        write(w.path("src").join(name), name);
    }
    w.ok("backup src -q");
    let src = w.path("src").to_str().unwrap().to_owned();
    (w, src)
}

#[test]
fn a_part_comes_back() {
    let (w, src) = small_world();
    let restored = |words: &str, target: &str| {
        w.ok(&format!("restore {words} --target {target}"));
        let top = w.path(target);
        let found = below(&top).into_iter();
        found
            .map(|p| p.strip_prefix(&top).unwrap().to_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(restored(&format!("latest:{src}/docs"), "one"), ["a.txt", "b.tmp", "deep/d.txt"]);
    assert_eq!(restored(&format!("latest:{src}/pics/c.jpg"), "two"), ["c.jpg"]);
    let below_src = format!("latest:{src}");
    assert_eq!(
        restored(&format!("{below_src} --include *.txt"), "three"),
        ["docs/a.txt", "docs/deep/d.txt"]
    );
    assert_eq!(
        restored(&format!("{below_src} --exclude *.tmp --exclude {src}/pics"), "four"),
        ["docs/a.txt", "docs/deep/d.txt"]
    );
    assert_eq!(
        restored(&format!("{below_src} -i docs -e deep"), "five"),
        ["docs/a.txt", "docs/b.tmp"]
    );
    w.ok("restore latest --target six --dry-run");
    assert!(!w.path("six").exists());
}

#[test]
fn what_differs_is_replaced() {
    let (w, src) = small_world();
    let (again, docs) = (format!("restore latest:{src} -t out --overwrite"), w.path("out/docs"));
    w.ok(&format!("restore latest:{src} -t out"));
    write(docs.join("a.txt"), "something else");
    write(docs.join("new"), "not in the snapshot");
    // Damage that neither length nor time shows.
    let (silent, modified) =
        (docs.join("b.tmp"), docs.join("b.tmp").metadata().unwrap().modified());
    write(&silent, "docs/B.tmp");
    File::options().write(true).open(&silent).unwrap().set_modified(modified.unwrap()).unwrap();

    let plan = w.json_lines(&format!("{again} --dry-run -v"));
    let entries = plan.iter().filter(|m| m["message_type"] == "entry" && m["action"] == "restored");
    assert_eq!(entries.count(), 1);
    assert_eq!(fs::read(docs.join("a.txt")).unwrap(), b"something else");

    assert_eq!(w.json(&again)["files_restored"], 1);
    assert_eq!(fs::read(docs.join("a.txt")).unwrap(), b"docs/a.txt");
    assert_eq!(fs::read(&silent).unwrap(), b"docs/B.tmp");
    let verified = w.json(&format!("{again} --verify --delete"));
    assert_eq!((&verified["verified"], &verified["files_restored"]), (&4.into(), &1.into()));
    assert_eq!((&verified["deleted"], &verified["errors"]), (&1.into(), &0.into()));
    assert_same(&w.path("src/docs"), &docs);
}
