//! The drive: what it shows, and how it reads. docs/drive.md has the promises.
#![cfg(target_os = "linux")]

mod common;

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use common::files::*;
use common::*;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

#[test]
fn snapshots_lie_by_time_host_tag_and_id() {
    if !can_mount() {
        return;
    }
    let w = World::new();
    write(w.path("src/file"), "1");
    w.ok("backup -q src --time 2026-01-02T03:04:05 --host alpha --tag daily,a/b");
    write(w.path("src/file"), "2");
    w.ok("backup -q src --time 2026-02-03T04:05:06 --host beta:x");
    w.ok("backup -q src --time 2026-02-03T04:05:06 --host alpha --tag daily");
    let listed = w.json("snapshots");
    let id = |n: usize| listed[n]["short_id"].as_str().unwrap().to_owned();
    let last = id(2);
    let (first, second) = ("2026-01-02 03.04.05", "2026-02-03 04.05.06");
    let third = format!("{second} {last}");

    let drive = w.mount("", "mnt");
    let there = |folder: &str| names(drive.at(folder));
    assert_eq!(there(""), ["hosts", "ids", "snapshots", "tags"]);
    assert_eq!(there("snapshots"), [first, second, &third, "latest"]);
    assert_eq!(there("hosts"), ["alpha", "beta%3Ax"]);
    assert_eq!(there("tags"), ["a%2Fb", "daily"]);
    // Two of the same second may be either way round; each folder names its own.
    assert_eq!(there("hosts/alpha").len(), 3);
    assert_eq!(there("hosts/beta%3Ax").len(), 2);
    assert_eq!(there("tags/a%2Fb"), [first, "latest"]);
    let mut ids = vec![id(0), id(1), id(2), "latest".into()];
    ids.sort();
    assert_eq!(there("ids"), ids);
    assert_eq!(fs::read_link(drive.at("ids/latest")).unwrap(), Path::new(&last));
    let file = w.inside("src/file");
    let read = |folder: &str| fs::read_to_string(drive.at(folder).join(&file)).unwrap();
    assert_eq!(read("snapshots/latest"), "2");
    assert_eq!(read("tags/a%2Fb/latest"), "1");
    assert_eq!(read(&format!("ids/{}", id(0))), "1");

    // The same, but only what is asked for.
    let few = w.mount("--host alpha --tag a/b", "few");
    assert_eq!(names(few.at("snapshots")), [first, "latest"]);
    let one = w.mount("2026-01-31", "one");
    assert_eq!(fs::read_to_string(one.at(&file)).unwrap(), "1");
    assert!(drive.status("inodes") > 0 && one.at(".tresor-status").exists());
    assert!(!names(drive.at("")).contains(&".tresor-status".to_owned()));
}

#[test]
fn scattered_reads_fetch_little() {
    if !can_mount() {
        return;
    }
    let w = World::new();
    let data = noise(5, 256 << 20);
    write(w.path("src/large"), &data);
    write(w.path("src/medium"), &data[..24 << 20]);
    w.ok("backup -q src");
    let drive = w.mount("", "mnt");
    let large = File::open(drive.at("snapshots/latest").join(w.inside("src/large"))).unwrap();
    let before = ["segments_fetched", "blocks_fetched", "bytes_read"].map(|f| drive.status(f));
    for n in 0..100 {
        let at = (n * 7919 % 100 * 2_684_000 + n * 13) as usize;
        let mut piece = [0; 4096];
        large.read_exact_at(&mut piece, at as u64).unwrap();
        assert!(piece == data[at..at + 4096], "at {at}");
    }
    let after = ["segments_fetched", "blocks_fetched", "bytes_read"].map(|f| drive.status(f));
    assert!(after[0] - before[0] < 200 && after[1] > before[1], "{before:?} {after:?}");
    assert!(after[2] - before[2] < 40 << 20, "{before:?} {after:?}");

    // Eight readers of one file fetch and decrypt each block once.
    let medium = drive.at("snapshots/latest").join(w.inside("src/medium"));
    let before = drive.status("bytes_decoded");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert!(fs::read(&medium).unwrap() == data[..24 << 20]));
        }
    });
    assert!(drive.status("bytes_decoded") - before < 32 << 20);
}

#[track_caller]
fn refused<T>(result: io::Result<T>) {
    let error = result.err().expect("this must not work");
    assert_eq!(error.raw_os_error(), Some(Errno::ROFS.raw_os_error()), "{error}");
}

#[test]
fn nothing_can_be_changed() {
    if !can_mount() {
        return;
    }
    let w = World::new();
    write(w.path("src/file"), "content");
    w.ok("backup -q src");
    let drive = w.mount("", "mnt");
    let folder = drive.at("snapshots/latest").join(w.inside("src"));
    let (file, new) = (folder.join("file"), folder.join("new"));
    let now = Timestamps {
        last_access: Timespec { tv_sec: 1, tv_nsec: 0 },
        last_modification: Timespec { tv_sec: 1, tv_nsec: 0 },
    };
    refused(File::create(&new));
    refused(File::create(drive.at("new")));
    refused(File::options().append(true).open(&file));
    refused(File::options().write(true).truncate(true).open(&file));
    refused(rustix::fs::chmod(&file, Mode::from_raw_mode(0o600)).map_err(io::Error::from));
    refused(std::os::unix::fs::chown(&file, Some(1), Some(1)));
    refused(rustix::fs::utimensat(CWD, &file, &now, AtFlags::empty()).map_err(io::Error::from));
    refused(fs::remove_file(&file));
    refused(fs::remove_dir(&folder));
    refused(fs::create_dir(&new));
    refused(fs::create_dir(drive.at("snapshots/new")));
    refused(fs::rename(&file, &new));
    refused(fs::hard_link(&file, &new));
    refused(symlink("file", &new));
    let fifo = rustix::fs::mknodat(CWD, &new, FileType::Fifo, Mode::RUSR, 0);
    refused(fifo.map_err(io::Error::from));
    refused(
        rustix::fs::setxattr(&file, "user.x", b"", XattrFlags::empty()).map_err(io::Error::from),
    );
    refused(rustix::fs::removexattr(&file, "user.x").map_err(io::Error::from));
    assert_eq!(fs::read(&file).unwrap(), b"content");
}

#[test]
fn attributes_holes_and_sizes_are_shown() {
    if !can_mount() {
        return;
    }
    let w = World::new();
    write(w.path("src/file"), "content");
    fs::set_permissions(w.path("src/file"), Permissions::from_mode(0o4750)).unwrap();
    set_xattr(&w.path("src/file"), "user.note", b"a note");
    sh("setfacl", &[&"-m", &"u:12345:rx", &w.path("src/file")]);
    let sparse = File::create(w.path("src/sparse")).unwrap();
    sparse.write_all_at(&[1; 8192], 1 << 20).unwrap();
    sparse.set_len(10 << 20).unwrap();
    w.ok("backup -q src");

    let drive = w.mount("latest", "mnt");
    let (source, shown) = (w.path("src/file"), drive.at(w.inside("src/file")));
    for command in ["getfacl", "getfattr"] {
        let told = |file: &Path| {
            let mut command = std::process::Command::new(command);
            let args: &[&str] =
                if command.get_program() == "getfattr" { &["-d", "-m", "-"] } else { &[] };
            ran(command.args(args).arg("file").current_dir(file.parent().unwrap())).expect(0).out
        };
        assert_eq!(told(&shown), told(&source));
    }
    let place = format!("latest:{}", w.inside("src/file"));
    assert_eq!(w.ok(&format!("cat --attribute user.note {place}")), "a note");
    let mut value = [0; 10];
    let missing = rustix::fs::getxattr(&shown, "user.missing", &mut value[..]);
    assert_eq!(missing, Err(Errno::NODATA));
    assert_eq!(shown.metadata().unwrap().mode(), source.metadata().unwrap().mode());

    let runs = data_runs(&drive.at(w.inside("src/sparse")));
    assert_eq!(runs, [(1 << 20, vec![1; 8192])]);
    let space = rustix::fs::statvfs(&drive.point).unwrap();
    assert_eq!((space.f_bavail, space.f_bfree), (0, 0));
    let bytes = space.f_blocks * space.f_frsize;
    assert!((10 << 20..11 << 20).contains(&bytes), "{bytes}");
}

#[test]
fn snapshots_come_and_go() {
    if !can_mount() {
        return;
    }
    let w = World::new();
    let data = noise(9, 20 << 20);
    write(w.path("src/file"), &data);
    w.ok("backup -q src --time 2026-01-01T00:00:00");
    let drive = w.mount("", "mnt");
    let shown = || names(drive.at("snapshots"));
    let first = "2026-01-01 00.00.00";
    let latest = || fs::read_link(drive.at("snapshots/latest")).unwrap();
    assert_eq!(shown(), [first, "latest"]);
    assert_eq!(latest(), Path::new(first));
    let file = drive.at("snapshots").join(first).join(w.inside("src/file"));
    let open = File::open(&file).unwrap();

    w.ok("backup -q src --time 2026-01-02T00:00:00");
    wait_until("a new one appears", || shown().len() == 3);
    wait_until("it is the latest", || latest() == Path::new("2026-01-02 00.00.00"));

    w.ok("forget latest~1");
    w.ok("prune");
    wait_until("the forgotten one goes", || shown() == ["2026-01-02 00.00.00", "latest"]);
    wait_until("nothing is behind its path", || !file.exists());
    let mut read = vec![0; data.len()];
    open.read_exact_at(&mut read, 0).unwrap();
    assert!(read == data);
}
