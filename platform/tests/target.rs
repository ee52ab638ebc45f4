//! What a restore does to a target, and what it must never do.
#![cfg(target_os = "linux")]

mod common;

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use common::*;
use tresor_engine::format::{NodeKind, Time};
use tresor_engine::sink::NoStreams;
use tresor_engine::source::Room;
use tresor_platform::{open_sink, open_source};

#[test]
fn names_that_lead_out_are_refused() {
    let (outer, folder) = sink_and_folder();
    fs::write(folder.path().join("outside"), b"safe").unwrap();
    let sink = outer.make_dir(b"inside").unwrap();
    let source = open_source(&folder.path().join("inside")).unwrap();
    for name in ["..", ".", "", "../outside", "a/b", "/etc/passwd", "nul\0", "/"] {
        let bytes = name.as_bytes();
        let refused = |result: Option<std::io::Error>| {
            assert_eq!(result.map(|e| e.kind()), Some(ErrorKind::InvalidInput), "{name:?}");
        };
        refused(sink.stat(bytes).err());
        refused(sink.make_dir(bytes).err());
        refused(sink.open_dir(bytes).err());
        refused(sink.open_file(bytes).err());
        refused(sink.create_file(&node(name, NodeKind::File)).err());
        refused(sink.make_special(&node(name, NodeKind::Symlink), &mut NoStreams).err());
        refused(sink.make_special(&node(name, NodeKind::Fifo), &mut NoStreams).err());
        refused(sink.set_metadata(&node(name, NodeKind::Directory), &mut NoStreams).err());
        refused(sink.remove(bytes).err());
        refused(sink.remove_dir_all(bytes).err());
        refused(sink.link(bytes, &*outer, b"outside").err());
        refused(sink.link(b"link", &*sink, bytes).err());
        refused(source.stat(bytes).err());
        refused(source.details(&mut node(name, NodeKind::File), &mut Room::with_streams()).err());
        refused(source.open_dir(bytes).err());
        refused(source.open_file(bytes).err());
        // Neither a name that changes on the way.
        let file = sink.create_file(&node("good", NodeKind::File)).unwrap();
        refused(file.finish(&node(name, NodeKind::File), &mut NoStreams).err());
    }
    assert_eq!(listing(folder.path()), ["inside", "outside"]);
    assert_eq!(listing(&folder.path().join("inside")), [""; 0]);
    assert_eq!(fs::read(folder.path().join("outside")).unwrap(), b"safe");
}

#[test]
fn symlinks_in_the_target_are_never_followed() {
    let (sink, folder) = sink_and_folder();
    let away = common::folder();
    fs::write(away.path().join("file"), b"untouched").unwrap();
    fs::set_permissions(away.path().join("file"), Permissions::from_mode(0o600)).unwrap();
    fs::create_dir(away.path().join("dir")).unwrap();
    for (link, to) in [("dir", "dir"), ("file", "file"), ("special", "file"), ("hard", "file")] {
        symlink(away.path().join(to), folder.path().join(link)).unwrap();
    }
    let before = listing(away.path());
    assert_eq!(sink.make_dir(b"dir").err().unwrap().kind(), ErrorKind::AlreadyExists);
    assert!(sink.open_dir(b"dir").is_err());
    assert!(sink.remove_dir_all(b"dir").is_err());
    assert!(sink.open_file(b"file").is_err());
    assert_eq!(sink.stat(b"file").unwrap().unwrap().kind, NodeKind::Symlink);
    assert!(sink.set_metadata(&node("file", NodeKind::File), &mut NoStreams).is_err());
    // What replaces a link replaces the link.
    write(&*sink, &node("file", NodeKind::File), b"new").unwrap();
    sink.make_special(&node("special", NodeKind::Fifo), &mut NoStreams).unwrap();
    sink.link(b"hard", &*sink, b"file").unwrap();
    assert!(fs::symlink_metadata(folder.path().join("file")).unwrap().is_file());
    assert_eq!(fs::read(folder.path().join("hard")).unwrap(), b"new");
    // Metadata of a link is the link's own.
    let mut link = node("dir", NodeKind::Symlink);
    add_xattr(&mut link, "trusted.x", b"1");
    let problems = sink.set_metadata(&link, &mut NoStreams).unwrap();
    assert_eq!(problems.is_empty(), is_root());
    assert_eq!(fs::symlink_metadata(folder.path().join("dir")).unwrap().mtime(), 1_000_000_000);
    sink.remove(b"dir").unwrap();

    assert_eq!(listing(away.path()), before);
    let file = away.path().join("file");
    assert_eq!(fs::read(&file).unwrap(), b"untouched");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
    assert!(fs::metadata(&file).unwrap().mtime() > 1_000_000_000);
    assert!(fs::metadata(away.path().join("dir")).unwrap().mtime() > 1_000_000_000);
    assert_eq!(get_xattr(&away.path().join("dir"), "trusted.x"), None);
}

#[test]
fn unfinished_files_leave_nothing() {
    let (sink, folder) = sink_and_folder();
    fs::write(folder.path().join("f"), b"old").unwrap();
    let mut file = sink.create_file(&node("f", NodeKind::File)).unwrap();
    file.write_at(b"half", 0).unwrap();
    let there = listing(folder.path());
    let temp = there.iter().find(|n| n.starts_with(".tresor-")).expect("a passing name");
    assert_eq!(temp.len(), 24);
    let mode = fs::metadata(folder.path().join(temp)).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o600, "others must not read what isn't restored yet");
    drop(file);
    assert_eq!(listing(folder.path()), ["f"]);
    assert_eq!(fs::read(folder.path().join("f")).unwrap(), b"old");
}

#[test]
fn failures_leave_nothing() {
    let (sink, folder) = sink_and_folder();
    fs::create_dir_all(folder.path().join("dir/full")).unwrap();
    fs::write(folder.path().join("dir/full/f"), b"x").unwrap();
    for kind in [NodeKind::Symlink, NodeKind::Fifo, NodeKind::Socket] {
        let error = sink.make_special(&node("dir", kind), &mut NoStreams).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::IsADirectory);
    }
    assert!(write(&*sink, &node("dir", NodeKind::File), b"x").is_err());
    assert!(
        sink.link(b"dir", &*sink.open_dir(b"dir").unwrap().open_dir(b"full").unwrap(), b"f")
            .is_err()
    );
    assert!(sink.link(b"x", &*sink, b"missing").is_err());
    let mut link = node("x", NodeKind::Symlink);
    for target in [None, Some(Vec::new()), Some(b"nul\0".to_vec())] {
        link.target = target;
        assert_eq!(
            sink.make_special(&link, &mut NoStreams).unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
    }
    link.target = Some(vec![b'x'; 5000]);
    assert!(sink.make_special(&link, &mut NoStreams).is_err());
    for kind in [NodeKind::CharDevice, NodeKind::BlockDevice] {
        let mut device = node("x", kind);
        for number in [None, Some(1 << 40)] {
            device.device = number;
            assert_eq!(
                sink.make_special(&device, &mut NoStreams).unwrap_err().kind(),
                ErrorKind::InvalidInput
            );
        }
    }
    assert!(sink.make_special(&node("x", NodeKind::File), &mut NoStreams).is_err());
    assert!(sink.make_special(&node("x", NodeKind::Directory), &mut NoStreams).is_err());
    let mut huge = node("x", NodeKind::File);
    huge.size = u64::MAX;
    assert!(sink.create_file(&huge).unwrap().finish(&huge, &mut NoStreams).is_err());
    assert!(sink.create_file(&huge).unwrap().write_at(b"x", u64::MAX).is_err());
    assert_eq!(listing(folder.path()), ["dir"]);
    assert_eq!(fs::read(folder.path().join("dir/full/f")).unwrap(), b"x");
}

#[test]
fn everything_but_a_directory_is_replaced() {
    let (sink, folder) = sink_and_folder();
    let path = folder.path().join("x");
    for kind in [NodeKind::Symlink, NodeKind::Fifo, NodeKind::Socket, NodeKind::Symlink] {
        write(&*sink, &node("x", NodeKind::File), b"a file").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"a file");
        sink.make_special(&node("x", kind), &mut NoStreams).unwrap();
        assert_eq!(look_in(folder.path(), "x").kind, kind);
        assert_eq!(sink.make_dir(b"x").err().unwrap().kind(), ErrorKind::AlreadyExists);
    }
    assert_eq!(listing(folder.path()), ["x"]);
    sink.remove(b"x").unwrap();
    let made = sink.make_dir(b"x").unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
    write(&*made, &node("inner", NodeKind::File), b"1").unwrap();
    let again = sink.make_dir(b"x").unwrap();
    assert_eq!(again.names().unwrap(), [b"inner"]);
    assert!(sink.remove(b"x").is_err(), "only remove_dir_all removes directories");
}

#[test]
fn special_files_have_times_of_their_own() {
    let (sink, folder) = sink_and_folder();
    for kind in [NodeKind::Symlink, NodeKind::Fifo, NodeKind::Socket] {
        let mut special = node("x", kind);
        (special.mtime, special.atime) = (Time::new(1_000_000_000, 17), Time::new(-5, 999_999_999));
        assert_eq!(told(&sink.make_special(&special, &mut NoStreams).unwrap()), [""; 0]);
        let meta = fs::symlink_metadata(folder.path().join("x")).unwrap();
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_000_000_000, 17));
        assert_eq!((meta.atime(), meta.atime_nsec()), (-5, 999_999_999));
    }
}

#[test]
fn links_to_the_same_file_leave_no_passing_name() {
    let (sink, folder) = sink_and_folder();
    write(&*sink, &node("a", NodeKind::File), b"data").unwrap();
    let below = sink.make_dir(b"dir").unwrap();
    for _ in 0..2 {
        below.link(b"b", &*sink, b"a").unwrap();
        sink.link(b"c", &*below, b"b").unwrap();
        sink.link(b"a", &*sink, b"a").unwrap();
        assert_eq!(listing(folder.path()), ["a", "c", "dir"]);
        assert_eq!(listing(&folder.path().join("dir")), ["b"]);
        assert_eq!(fs::metadata(folder.path().join("a")).unwrap().nlink(), 3);
    }
    write(&*sink, &node("other", NodeKind::File), b"else").unwrap();
    sink.link(b"c", &*sink, b"other").unwrap();
    assert_eq!(fs::read(folder.path().join("c")).unwrap(), b"else");
}

#[test]
fn what_is_not_written_is_a_hole() {
    let (sink, folder) = sink_and_folder();
    let mut sparse = node("sparse", NodeKind::File);
    sparse.size = 10 << 30;
    let mut file = sink.create_file(&sparse).unwrap();
    file.write_at(b"end", (5 << 30) - 3).unwrap();
    file.write_at(b"begin", 0).unwrap();
    file.write_at(b"", 7 << 30).unwrap();
    assert_eq!(told(&file.finish(&sparse, &mut NoStreams).unwrap()), [""; 0]);
    let meta = fs::metadata(folder.path().join("sparse")).unwrap();
    assert_eq!(meta.len(), 10 << 30);
    assert!(meta.blocks() * 512 <= 64 << 10, "{} blocks", meta.blocks());
    let mut read = sink.open_file(b"sparse").unwrap();
    let runs = data_runs(&mut *read, sparse.size);
    assert_eq!(runs.iter().map(|r| r.start).collect::<Vec<_>>(), [0, (5 << 30) - 4096]);
}

#[test]
fn removing_a_directory_removes_it_all_and_nothing_else() {
    let (sink, folder) = sink_and_folder();
    let away = common::folder();
    fs::write(away.path().join("kept"), b"x").unwrap();
    let dir = folder.path().join("dir");
    fs::create_dir_all(dir.join("a/b/c")).unwrap();
    fs::create_dir_all(dir.join("empty")).unwrap();
    fs::write(dir.join("a/b/f"), b"x").unwrap();
    symlink(away.path(), dir.join("a/link")).unwrap();
    symlink("dangling", dir.join("a/b/link")).unwrap();
    fs::set_permissions(dir.join("a/b"), Permissions::from_mode(0o000)).unwrap();
    fs::write(folder.path().join("file"), b"x").unwrap();
    assert!(sink.remove_dir_all(b"file").is_err());
    sink.remove_dir_all(b"dir").unwrap();
    assert_eq!(listing(folder.path()), ["file"]);
    assert_eq!(listing(away.path()), ["kept"]);
    assert_eq!(sink.remove_dir_all(b"dir").unwrap_err().kind(), ErrorKind::NotFound);
}

/// In a mount namespace of this thread's own, which ends with it.
#[test]
fn removing_a_directory_stops_at_what_is_mounted_in_it() {
    let (sink, folder) = sink_and_folder();
    let mounted = folder.path().join("dir/mounted");
    fs::create_dir_all(&mounted).unwrap();
    // SAFETY: changes nothing but which mounts this thread sees.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return;
    }
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    mount("none", &mounted, "tmpfs", MountFlags::empty(), None).unwrap();
    fs::write(mounted.join("kept"), b"x").unwrap();
    // The open target still sees the mounts from before, where all is one file system.
    let sink_here = open_sink(folder.path()).unwrap();
    assert_eq!(sink_here.remove_dir_all(b"dir").unwrap_err().kind(), ErrorKind::ResourceBusy);
    assert_eq!(listing(&mounted), ["kept"]);
    rustix::mount::unmount(&mounted, rustix::mount::UnmountFlags::DETACH).unwrap();
    sink_here.remove_dir_all(b"dir").unwrap();
    assert_eq!(sink.names().unwrap(), [b""; 0]);
}

/// What a killed run has left half written goes; what is being written, and whatever somebody
/// has called so himself or brought from elsewhere, stays.
#[test]
fn only_what_dead_runs_have_left_is_removed() {
    let (sink, folder) = sink_and_folder();
    let passing = || listing(folder.path()).into_iter().find(|name| name.starts_with(".tresor-"));
    let file = sink.create_file(&node("file", NodeKind::File)).unwrap();
    let name = passing().unwrap();
    drop(file);
    assert_eq!(passing(), None);
    // As if the run had been killed.
    fs::write(folder.path().join(&name), b"half").unwrap();
    fs::create_dir(folder.path().join("elsewhere")).unwrap();
    let theirs =
        [format!("elsewhere/{name}"), ".tresor-0123456789abcdef".into(), ".tresor-x".into()];
    theirs.iter().for_each(|file| fs::write(folder.path().join(file), b"theirs").unwrap());
    let mut alive = sink.create_file(&node("alive", NodeKind::File)).unwrap();
    alive.write_at(b"is being written", 0).unwrap();
    // It may be a moment old only.
    assert_eq!(sink.remove_leftovers().unwrap(), 0);
    std::thread::sleep(std::time::Duration::from_millis(3100));
    assert_eq!(sink.remove_leftovers().unwrap(), 1);
    assert!(!folder.path().join(&name).exists());
    assert_eq!(sink.open_dir(b"elsewhere").unwrap().remove_leftovers().unwrap(), 0);
    for file in theirs {
        assert_eq!(fs::read(folder.path().join(file)).unwrap(), b"theirs");
    }
    let mut whole = node("alive", NodeKind::File);
    whole.size = 16;
    alive.finish(&whole, &mut NoStreams).unwrap();
    assert_eq!(fs::read(folder.path().join("alive")).unwrap(), b"is being written");
}

/// A note lies there as long as a restore hasn't ended, and nobody takes it for anything else.
#[test]
fn a_restore_that_is_under_way_is_noted() {
    let (sink, folder) = sink_and_folder();
    let below = sink.make_dir(b"below").unwrap();
    assert!(!sink.begin(1).unwrap());
    assert!(sink.begin(1).unwrap() && sink.begin(2).unwrap());
    assert!(below.begin(1).unwrap(), "the one above is of all that lies below");
    let lower = below.make_dir(b"lower").unwrap();
    assert!(lower.begin(9).unwrap(), "and farther below");
    lower.end(9).unwrap();
    sink.remove_dir_all(b"below").unwrap();
    let below = sink.make_dir(b"below").unwrap();
    sink.end(1).unwrap();
    sink.end(2).unwrap();
    assert!(!below.begin(1).unwrap());
    assert!(!sink.begin(1).unwrap(), "what is below is another target");
    assert!(sink.begin(2).unwrap());
    let noted = |folder: &std::path::Path| {
        listing(folder).iter().filter(|name| name.starts_with(".tresor-")).count()
    };
    assert_eq!((noted(folder.path()), noted(&folder.path().join("below"))), (2, 1));
    assert_eq!(sink.names().unwrap(), [b"below"]);
    assert_eq!(below.names().unwrap(), [b""; 0]);
    // Notes don't age.
    std::thread::sleep(std::time::Duration::from_millis(3100));
    assert_eq!(sink.remove_leftovers().unwrap(), 0);
    sink.force().unwrap();
    sink.end(1).unwrap();
    assert_eq!(sink.end(1).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(sink.begin(1).unwrap(), "the other one hasn't ended");
    sink.end(1).unwrap();
    sink.end(2).unwrap();
    assert!(!sink.begin(3).unwrap());
    // What somebody has put there under a note's name is neither followed nor written to.
    let outside = common::folder();
    fs::write(outside.path().join("file"), b"untouched").unwrap();
    let note = listing(folder.path()).into_iter().find(|name| name.starts_with(".tresor-"));
    let note = folder.path().join(note.unwrap());
    sink.end(3).unwrap();
    symlink(outside.path().join("file"), &note).unwrap();
    assert!(sink.begin(3).unwrap());
    sink.end(3).unwrap();
    assert!(!note.exists());
    assert_eq!(fs::read(outside.path().join("file")).unwrap(), b"untouched");
}
