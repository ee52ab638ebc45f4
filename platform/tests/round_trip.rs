//! Everything that Linux keeps about a file comes back.
#![cfg(target_os = "linux")]

mod common;

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use common::*;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, makedev, mknodat};
use tresor_engine::format::{NodeKind, Time};
use tresor_engine::sink::NoStreams;
use tresor_engine::source::Room;
use tresor_platform::{open_sink, open_source};

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Times in the past and to the nanosecond, also of symlinks and special files.
fn set_times(path: &Path, mtime: i64, atime: i64) {
    let times = Timestamps {
        last_modification: Timespec { tv_sec: mtime, tv_nsec: 123_456_789 },
        last_access: Timespec { tv_sec: atime, tv_nsec: 987_654_321 },
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn special(path: &Path, kind: FileType, device: u64) {
    mknodat(CWD, path, kind, Mode::from_raw_mode(0o640), device).unwrap();
}

fn plain_entries(top: &Path) {
    fs::write(top.join("file"), b"hello").unwrap();
    fs::write(top.join("empty"), b"").unwrap();
    fs::write(top.join(OsStr::from_bytes(b"\xff\xfe not UTF-8 \n")), b"x").unwrap();
    fs::write(top.join("n".repeat(255)), b"longest name").unwrap();
    fs::create_dir_all(top.join("dir/empty dir")).unwrap();
    fs::write(top.join("dir/inner"), vec![7; 300_000]).unwrap();
    symlink("file", top.join("link")).unwrap();
    symlink("/no/such/place", top.join("dangling")).unwrap();
    symlink(OsStr::from_bytes(b"\xff/\xfe"), top.join("odd link")).unwrap();
    symlink("t".repeat(4000), top.join("long link")).unwrap();
    special(&top.join("fifo"), FileType::Fifo, 0);
    special(&top.join("socket"), FileType::Socket, 0);
    fs::write(top.join("one"), b"several names").unwrap();
    fs::hard_link(top.join("one"), top.join("two")).unwrap();
    fs::hard_link(top.join("one"), top.join("dir/three")).unwrap();
    fs::hard_link(top.join("fifo"), top.join("fifo too")).unwrap();
    fs::hard_link(top.join("dangling"), top.join("dangling too")).unwrap();
}

fn sparse_entries(top: &Path) {
    let sparse = File::create(top.join("sparse")).unwrap();
    sparse.write_all_at(&[1; 5000], 1 << 20).unwrap();
    sparse.write_all_at(&[2; 100], (5 << 30) + 12345).unwrap();
    sparse.set_len(6 << 30).unwrap();
    File::create(top.join("only a hole")).unwrap().set_len(1 << 22).unwrap();
    File::create(top.join("zeros")).unwrap().write_all(&vec![0; 1 << 20]).unwrap();
}

fn modes(top: &Path) {
    for mode in [0o4755, 0o2755, 0o6711, 0o1644, 0o000, 0o7777, 0o444] {
        let path = top.join(format!("mode {mode:o}"));
        fs::write(&path, b"#!").unwrap();
        set_xattr(&path, "user.mode", format!("{mode:o}").as_bytes());
        set_mode(&path, mode);
    }
    for (name, mode) in [("sticky", 0o1777), ("setgid", 0o2770), ("closed", 0o000)] {
        fs::create_dir(top.join(name)).unwrap();
        set_mode(&top.join(name), mode);
    }
}

fn attributes(top: &Path) {
    let path = top.join("attributes");
    fs::write(&path, b"x").unwrap();
    for i in 0..100 {
        set_xattr(&path, &format!("user.number {i}"), format!("value {i}").as_bytes());
    }
    set_xattr(&path, "user.empty", b"");
    set_xattr(&path, "user.binary", b"\0\xff\0");
    let big = top.join("big attribute");
    fs::write(&big, b"x").unwrap();
    set_xattr(&big, "user.big", &[9; 3000]);
    set_xattr(&top.join("dir"), "user.on a directory", b"yes");

    let shared = top.join("shared");
    fs::write(&shared, b"x").unwrap();
    set_mode(&shared, 0o640);
    set_xattr(&shared, ACCESS, &acl(6, (1234, 7), 4, 5, 0));
    set_xattr(&top.join("dir"), DEFAULT, &acl(7, (1234, 7), 5, 7, 0));
    fs::write(top.join("dir/made under a default ACL"), b"x").unwrap();
}

fn what_only_root_can_make(top: &Path) {
    special(&top.join("char"), FileType::CharacterDevice, makedev(1, 3));
    special(&top.join("block"), FileType::BlockDevice, makedev(259, 70_000));
    for name in ["link", "char", "fifo", "dangling", "dir", "attributes"] {
        set_xattr(&top.join(name), "trusted.t", b"only root sees it");
    }
    let capable = top.join("capable");
    fs::write(&capable, b"#!").unwrap();
    for name in ["capable", "mode 6711", "link", "dangling", "fifo", "socket", "char", "dir"] {
        std::os::unix::fs::lchown(top.join(name), Some(12_345), Some(54_321)).unwrap();
    }
    set_xattr(&capable, "security.capability", &capability());
    set_mode(&top.join("mode 6711"), 0o6711);
}

/// Must come last, and the innermost first.
fn times(folder: &Path) {
    for (i, entry) in fs::read_dir(folder).unwrap().enumerate() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() && entry.file_name() != "closed" {
            times(&entry.path());
        }
        set_times(&entry.path(), 1_000_000_000 + i as i64, 1_100_000_000 + i as i64);
    }
}

fn rich_tree(top: &Path) {
    plain_entries(top);
    sparse_entries(top);
    modes(top);
    attributes(top);
    if is_root() {
        what_only_root_can_make(top);
    } else {
        // Others can't read these back.
        for name in ["mode 0", "closed"] {
            set_mode(&top.join(name), 0o700);
        }
    }
    times(top);
    set_times(&top.join("before 1970"), -1_000_000, -5);
}

fn make_rich_tree(top: &Path) {
    fs::write(top.join("before 1970"), b"x").unwrap();
    rich_tree(top);
}

#[test]
fn everything_comes_back() {
    let (from, to) = (folder(), folder());
    make_rich_tree(from.path());
    assert_eq!(copy(from.path(), to.path()), [""; 0]);
    let (a, b) = (open_source(from.path()).unwrap(), open_source(to.path()).unwrap());
    assert_eq!(differences(&*a, &*b), [""; 0]);
    check_by_other_means(from.path(), to.path());
    // Once more over what is there: nothing changes.
    assert_eq!(copy(from.path(), to.path()), [""; 0]);
    assert_eq!(differences(&*a, &*b), [""; 0]);
}

/// So that a mistake made both in reading and in comparing would show.
fn check_by_other_means(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let name = entry.unwrap().file_name();
        let a = fs::symlink_metadata(from.join(&name)).unwrap();
        let b = fs::symlink_metadata(to.join(&name)).unwrap();
        let facts = |m: &fs::Metadata| {
            let atime = if m.is_symlink() { (0, 0) } else { (m.atime(), m.atime_nsec()) };
            let times = (m.mtime(), m.mtime_nsec(), atime);
            let size = if m.is_dir() { 0 } else { m.size() };
            (m.mode(), m.uid(), m.gid(), m.rdev(), size, times)
        };
        assert_eq!(facts(&a), facts(&b), "{name:?}");
        assert!(a.is_dir() || a.nlink() == b.nlink(), "{name:?}");
    }
    assert_eq!(fs::read(to.join("dir/inner")).unwrap(), vec![7; 300_000]);
    assert_eq!(fs::read_link(to.join("dangling")).unwrap(), Path::new("/no/such/place"));
    assert_eq!(fs::read_link(to.join("long link")).unwrap().as_os_str().len(), 4000);
    assert_eq!(fs::metadata(to.join("before 1970")).unwrap().mtime(), -1_000_000);
    let id = |name: &str| fs::metadata(to.join(name)).unwrap().ino();
    assert!(id("one") == id("two") && id("one") == id("dir/three"));
    assert_eq!(get_xattr(&to.join("attributes"), "user.number 42").unwrap(), b"value 42");
    assert_eq!(get_xattr(&to.join("attributes"), "user.empty").unwrap(), b"");
    assert_eq!(get_xattr(&to.join("shared"), ACCESS).unwrap(), acl(6, (1234, 7), 4, 5, 0));
    assert_eq!(fs::metadata(to.join("shared")).unwrap().mode() & 0o7777, 0o650);
    assert_eq!(get_xattr(&to.join("dir"), DEFAULT).unwrap(), acl(7, (1234, 7), 5, 7, 0));
    assert!(fs::metadata(to.join("sparse")).unwrap().blocks() * 512 < 1 << 20);
    assert!(fs::metadata(to.join("zeros")).unwrap().blocks() * 512 >= 1 << 20);
    if is_root() {
        assert_eq!(get_xattr(&to.join("link"), "trusted.t").unwrap(), b"only root sees it");
        assert_eq!(get_xattr(&to.join("fifo"), "trusted.t").unwrap(), b"only root sees it");
        assert_eq!(get_xattr(&to.join("capable"), "security.capability").unwrap(), capability());
        assert_eq!(fs::metadata(to.join("mode 6711")).unwrap().mode() & 0o7777, 0o6711);
        assert_eq!(fs::symlink_metadata(to.join("block")).unwrap().rdev(), makedev(259, 70_000));
    }
}

#[test]
fn nodes_tell_what_is_there() {
    let top = folder();
    fs::write(top.path().join("file"), b"12345").unwrap();
    fs::create_dir(top.path().join("dir")).unwrap();
    symlink("to", top.path().join("link")).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, 42);
    let file = File::options().write(true).open(top.path().join("file")).unwrap();
    file.set_times(FileTimes::new().set_modified(time).set_accessed(time)).unwrap();
    let node = look_in(top.path(), "file");
    assert_eq!((node.kind, node.size, &*node.name), (NodeKind::File, 5, &b"file"[..]));
    assert_eq!(
        (node.mtime, node.atime),
        (Time::new(1_234_567_890, 42), Time::new(1_234_567_890, 42))
    );
    assert_eq!((node.link, node.xattrs, node.device), (None, None, None));
    assert_eq!(node.user, Some(tresor_platform::user_name()));
    let meta = file.metadata().unwrap();
    assert_eq!((node.uid, node.gid, node.inode), (meta.uid(), meta.gid(), meta.ino()));
    assert_eq!(node.ctime, Time::new(meta.ctime(), meta.ctime_nsec() as u32));
    let source = open_source(top.path()).unwrap();
    assert_eq!(source.stat(b"file").unwrap().1, meta.dev());
    assert_eq!(source.open_file(b"file").unwrap().stat().unwrap().size, 5);
    let dir = look_in(top.path(), "dir");
    assert_eq!((dir.kind, dir.size, dir.link), (NodeKind::Directory, 0, None));
    let link = look_in(top.path(), "link");
    assert_eq!((link.kind, link.size, link.target), (NodeKind::Symlink, 2, Some(b"to".to_vec())));
}

#[test]
fn attributes_come_in_order() {
    let top = folder();
    let path = top.path().join("file");
    fs::write(&path, b"x").unwrap();
    for name in ["user.c", "user.a", "user.b"] {
        set_xattr(&path, name, b"1");
    }
    let names: Vec<_> =
        look_in(top.path(), "file").xattrs().iter().map(|x| x.name.clone()).collect();
    assert_eq!(names, [b"user.a", b"user.b", b"user.c"]);
}

#[test]
fn reading_leaves_no_trace() {
    let top = folder();
    fs::create_dir(top.path().join("dir")).unwrap();
    fs::write(top.path().join("dir/file"), b"x").unwrap();
    // An access time this old is renewed by any read that isn't careful.
    for name in ["dir/file", "dir"] {
        set_times(&top.path().join(name), 1_000_000_000, 900_000_000);
    }
    let dir = open_source(top.path()).unwrap().open_dir(b"dir").unwrap();
    assert_eq!(dir.names().unwrap(), [b"file"]);
    assert_eq!(dir.names().unwrap(), [b"file"], "names can be read again");
    assert_eq!(dir.open_file(b"file").unwrap().read_at(&mut [0], 0).unwrap(), 1);
    for name in ["dir/file", "dir"] {
        assert_eq!(fs::metadata(top.path().join(name)).unwrap().atime(), 900_000_000, "{name}");
    }
}

#[test]
fn many_names_are_all_read() {
    let top = folder();
    for i in 0..5000 {
        fs::write(top.path().join(format!("a rather long name to fill buffers {i:05}")), b"")
            .unwrap();
    }
    let names = sorted_names(&*open_source(top.path()).unwrap());
    assert_eq!(names.len(), 5000);
    assert!(names.last().unwrap().ends_with(b"04999"));
}

#[test]
fn holes_are_told_from_data() {
    let top = folder();
    let file = File::create(top.path().join("f")).unwrap();
    file.write_all_at(&[1; 4096], 1 << 20).unwrap();
    file.set_len(1 << 22).unwrap();
    let source = open_source(top.path()).unwrap();
    let mut file = source.open_file(b"f").unwrap();
    assert_eq!(file.next_data(0).unwrap(), Some(1 << 20..(1 << 20) + 4096));
    assert_eq!(file.next_data((1 << 20) + 5).unwrap(), Some((1 << 20) + 5..(1 << 20) + 4096));
    for past in [(1 << 20) + 4096, 1 << 22, 1 << 40, i64::MAX as u64, u64::MAX] {
        assert_eq!(file.next_data(past).unwrap(), None, "{past}");
    }
    assert_eq!(file.read_at(&mut [0; 10], 1 << 22).unwrap(), 0);
}

#[test]
fn what_has_no_holes_is_all_data() {
    // sysfs can't tell where data is, or calls all of it data.
    let source = open_source(Path::new("/sys/kernel")).unwrap();
    let Ok(mut file) = source.open_file(b"notes") else { return };
    assert_eq!(file.next_data(0).unwrap().map(|run| run.start), Some(0));
}

#[test]
fn a_lease_delays_and_does_not_fail() {
    use std::os::fd::AsRawFd;
    let top = folder();
    let path = top.path().join("leased");
    fs::write(&path, b"served").unwrap();
    let holder = File::options().write(true).open(&path).unwrap();
    // SAFETY: plain calls on an open file; the notice of a break is ignored.
    let leased = unsafe {
        libc::signal(libc::SIGIO, libc::SIG_IGN);
        libc::fcntl(holder.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK)
    };
    assert_eq!(leased, 0, "{}", io::Error::last_os_error());
    let server = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        drop(holder);
    });
    let mut file = open_source(top.path()).unwrap().open_file(b"leased").unwrap();
    let mut buffer = [0; 6];
    assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 6);
    assert_eq!(&buffer, b"served");
    server.join().unwrap();
}

#[test]
fn what_vanished_is_not_found() {
    let (top, target) = (folder(), folder());
    fs::write(top.path().join("f"), b"x").unwrap();
    let source = open_source(top.path()).unwrap();
    let mut node = look(&*source, b"f");
    fs::remove_file(top.path().join("f")).unwrap();
    let missing = io::ErrorKind::NotFound;
    assert_eq!(source.stat(b"f").unwrap_err().kind(), missing);
    assert_eq!(source.details(&mut node, &mut Room::with_streams()).unwrap_err().kind(), missing);
    assert_eq!(source.open_file(b"f").err().unwrap().kind(), missing);
    assert_eq!(source.open_dir(b"f").err().unwrap().kind(), missing);
    let sink = open_sink(target.path()).unwrap();
    assert!(sink.stat(b"f").unwrap().is_none());
    assert_eq!(sink.set_metadata(&node, &mut NoStreams).unwrap_err().kind(), missing);
    let error = open_source(&top.path().join("gone")).err().unwrap();
    assert!(error.kind() == missing && error.to_string().contains("gone"), "{error}");
}

#[test]
fn only_regular_files_are_opened() {
    let top = folder();
    special(&top.path().join("fifo"), FileType::Fifo, 0);
    special(&top.path().join("socket"), FileType::Socket, 0);
    fs::write(top.path().join("file"), b"x").unwrap();
    fs::create_dir(top.path().join("dir")).unwrap();
    symlink("file", top.path().join("link")).unwrap();
    symlink("dir", top.path().join("dir link")).unwrap();
    let source = open_source(top.path()).unwrap();
    // Would wait forever if opened as usual.
    for name in ["fifo", "socket", "dir", "link"] {
        assert!(source.open_file(name.as_bytes()).is_err(), "{name}");
    }
    for name in ["file", "link", "dir link"] {
        assert!(source.open_dir(name.as_bytes()).is_err(), "{name}");
    }
    assert!(source.open_file(b"file").is_ok() && source.open_dir(b"dir").is_ok());
}

#[test]
fn a_directory_knows_its_file_system() {
    for path in ["/", "/proc", "/tmp"] {
        let device = open_source(Path::new(path)).unwrap().device().unwrap();
        // As the directory above tells it; that of `/` is `/`.
        let name = Path::new(path).file_name().unwrap_or(OsStr::new("."));
        let above = fs::metadata(Path::new("/").join(name)).unwrap();
        assert_eq!(device, Some(above.dev()), "{path}");
    }
}
