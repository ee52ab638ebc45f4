//! Owner, mode, times and attributes in a target, whatever they were before.
#![cfg(target_os = "linux")]

mod common;

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use common::*;
use tresor_engine::format::{Content, Extent, Node, NodeKind, Stream};
use tresor_engine::sink::{NoStreams, Streams};
use tresor_engine::source::{LongStream, Room, SourceFile};

#[test]
fn metadata_becomes_that_of_the_node() {
    let (sink, folder) = sink_and_folder();
    let path = folder.path().join("f");
    fs::write(&path, b"x").unwrap();
    set_xattr(&path, "user.right", b"1");
    set_xattr(&path, "user.wrong", b"old");
    set_xattr(&path, "user.too much", b"1");
    set_xattr(&path, ACCESS, &acl(6, (1, 7), 7, 7, 7));
    let mut wanted = node("f", NodeKind::File);
    wanted.mode = 0o2751;
    add_xattr(&mut wanted, "user.new", b"2");
    add_xattr(&mut wanted, "user.right", b"1");
    add_xattr(&mut wanted, "user.wrong", b"new");
    assert_eq!(told(&sink.set_metadata(&wanted, &mut NoStreams).unwrap()), [""; 0]);
    let now = look_in(folder.path(), "f");
    assert_eq!((now.mode, now.mtime), (0o2751, wanted.mtime));
    assert_eq!(now.atime, wanted.atime);
    assert_eq!(now.xattrs, wanted.xattrs);
    // Nothing to do: nothing is done.
    assert_eq!(told(&sink.set_metadata(&wanted, &mut NoStreams).unwrap()), [""; 0]);
    assert_eq!(look_in(folder.path(), "f").ctime, now.ctime);
    // Neither is a difference in the access time alone overlooked.
    wanted.atime.seconds -= 1000;
    assert_eq!(told(&sink.set_metadata(&wanted, &mut NoStreams).unwrap()), [""; 0]);
    assert_eq!(look_in(folder.path(), "f").atime, wanted.atime);
}

/// What a backup or a repair has kept of an entry may lack attributes: those that are there stay.
/// Rights are those that were recorded, all the same.
#[test]
fn what_may_have_had_more_attributes_loses_none() {
    let (sink, folder) = sink_and_folder();
    let path = folder.path().join("f");
    fs::write(&path, b"x").unwrap();
    set_xattr(&path, "user.not saved", b"1");
    set_xattr(&path, "user.saved", b"old");
    set_xattr(&path, ACCESS, &acl(6, (1, 7), 7, 7, 7));
    let mut wanted = node("f", NodeKind::File);
    wanted.ctime = Node::LOOK_AGAIN;
    add_xattr(&mut wanted, "user.saved", b"new");
    assert_eq!(told(&sink.set_metadata(&wanted, &mut NoStreams).unwrap()), [""; 0]);
    assert_eq!(get_xattr(&path, "user.not saved").as_deref(), Some(&b"1"[..]));
    assert_eq!(get_xattr(&path, "user.saved").as_deref(), Some(&b"new"[..]));
    assert_eq!(get_xattr(&path, ACCESS), None);
    assert_eq!(look_in(folder.path(), "f").mode, wanted.mode);
}

#[test]
fn a_mode_and_its_acl_are_both_right() {
    let (sink, folder) = sink_and_folder();
    // The mask is the mode's group part; the group's own part is in the ACL alone.
    for (mask, group) in [(7, 0), (0, 7), (5, 2), (4, 4)] {
        let mut file = node("f", NodeKind::File);
        file.mode = 0o604 | u32::from(mask) << 3;
        let value = acl(6, (4242, 6), group, mask, 4);
        add_xattr(&mut file, ACCESS, &value);
        write(&*sink, &file, b"x").unwrap();
        let check = || {
            let path = folder.path().join("f");
            assert_eq!(get_xattr(&path, ACCESS).unwrap(), value);
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, file.mode);
        };
        check();
        // An existing file with another mode gets them too.
        fs::set_permissions(folder.path().join("f"), Permissions::from_mode(0o777)).unwrap();
        assert_eq!(told(&sink.set_metadata(&file, &mut NoStreams).unwrap()), [""; 0]);
        check();
    }
}

#[test]
fn a_default_acl_of_the_target_adds_nothing() {
    let (outer, folder) = sink_and_folder();
    let sink = outer.make_dir(b"dir").unwrap();
    set_xattr(&folder.path().join("dir"), DEFAULT, &acl(7, (4242, 7), 7, 7, 7));
    let mut dir = node("sub", NodeKind::Directory);
    dir.mode = 0o2750;
    sink.make_dir(b"sub").unwrap();
    let sub = folder.path().join("dir/sub");
    assert!(get_xattr(&sub, ACCESS).is_some() && get_xattr(&sub, DEFAULT).is_some());
    assert_eq!(told(&sink.set_metadata(&dir, &mut NoStreams).unwrap()), [""; 0]);
    write(&*sink, &node("f", NodeKind::File), b"x").unwrap();
    assert_eq!(
        told(&sink.make_special(&node("fifo", NodeKind::Fifo), &mut NoStreams).unwrap()),
        [""; 0]
    );
    for (name, mode) in [("sub", 0o2750), ("f", 0o644), ("fifo", 0o644)] {
        let path = folder.path().join("dir").join(name);
        assert_eq!(get_xattr(&path, ACCESS), None, "{name}");
        assert_eq!(get_xattr(&path, DEFAULT), None, "{name}");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, mode, "{name}");
    }
}

#[test]
fn what_cannot_be_set_is_told_and_the_rest_is_set() {
    let (sink, folder) = sink_and_folder();
    let mut odd = node("f", NodeKind::File);
    (odd.uid, odd.mode) = (u32::MAX, 0o6755);
    odd.mtime.nanos = 0x3fff_ffff; // "now" to the system
    add_xattr(&mut odd, "no namespace", b"1");
    add_xattr(&mut odd, "user.nul\0", b"1");
    add_xattr(&mut odd, "", b"1");
    add_xattr(&mut odd, "user.good", b"1");
    add_xattr(&mut odd, "user.too long", &vec![0; 1 << 20]);
    let problems = sink.create_file(&odd).unwrap().finish(&odd, &mut NoStreams).unwrap();
    let mut what: Vec<_> = problems.iter().map(|p| p.what.as_str()).collect();
    what.sort_unstable();
    assert_eq!(
        what,
        [
            "extended attribute ",
            "extended attribute no namespace",
            "extended attribute user.nul\\x00",
            "extended attribute user.too long",
            "owner",
            "times",
        ]
    );
    let path = folder.path().join("f");
    assert_eq!(get_xattr(&path, "user.good").unwrap(), b"1");
    let mode = fs::metadata(&path).unwrap().mode() & 0o7777;
    assert_eq!(mode, 0o755, "setuid is not for an owner that it wasn't meant for");
}

#[test]
fn ownership_comes_before_setuid_and_capabilities() {
    if !is_root() {
        return;
    }
    let (sink, folder) = sink_and_folder();
    let mut file = node("f", NodeKind::File);
    (file.uid, file.gid, file.mode) = (1234, 4321, 0o6711);
    add_xattr(&mut file, "security.capability", &capability());
    write(&*sink, &file, b"x").unwrap();
    let check = |file: &Node| {
        let now = look_in(folder.path(), "f");
        assert_eq!((now.uid, now.gid, now.mode), (file.uid, file.gid, file.mode));
        assert_eq!(now.xattrs, file.xattrs);
    };
    check(&file);
    file.uid = 99;
    assert_eq!(told(&sink.set_metadata(&file, &mut NoStreams).unwrap()), [""; 0]);
    check(&file);
    file.xattrs = None;
    assert_eq!(told(&sink.set_metadata(&file, &mut NoStreams).unwrap()), [""; 0]);
    check(&file);
}

#[test]
fn what_windows_keeps_of_a_link_is_no_problem_here_and_that_of_a_file_is_kept() {
    let (sink, folder) = sink_and_folder();
    let mut link = node("l", NodeKind::Symlink);
    link.target = Some(b"f".to_vec());
    add_xattr(&mut link, "user.win.reparse", b"data");
    assert_eq!(told(&sink.make_special(&link, &mut NoStreams).unwrap()), [""; 0]);
    add_xattr(&mut link, "user.other", b"x");
    assert_eq!(sink.make_special(&link, &mut NoStreams).unwrap().len(), 1);
    // A stream is data, and that it is lost is no secret.
    add_xattr(&mut link, "user.win.stream.notes", b"x");
    let told = told(&sink.make_special(&link, &mut NoStreams).unwrap());
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.iter().any(|problem| problem.contains("user.win.stream.notes")), "{told:?}");
    let mut file = node("f", NodeKind::File);
    add_xattr(&mut file, "user.win.stream.Zone.Identifier", b"zone 3");
    write(&*sink, &file, b"x").unwrap();
    let value = get_xattr(&folder.path().join("f"), "user.win.stream.Zone.Identifier");
    assert_eq!(value.unwrap(), b"zone 3");
}

/// One value for all streams.
struct Given(Vec<u8>);

impl Streams for Given {
    fn is_right(&mut self, _: &[u8], there: &mut dyn SourceFile) -> io::Result<bool> {
        let mut bytes = vec![0; self.0.len() + 1];
        let len = there.read_at(&mut bytes, 0)?;
        Ok(bytes[..len] == self.0)
    }

    fn write(
        &mut self,
        _: &[u8],
        to: &mut (dyn FnMut(&[u8], u64) -> io::Result<()> + Send),
    ) -> io::Result<()> {
        // In any order.
        let (first, second) = self.0.split_at(self.0.len() / 2);
        to(second, first.len() as u64)?;
        to(first, 0)
    }
}

/// Not to be had from the repository.
struct Lost;

impl Streams for Lost {
    fn is_right(&mut self, _: &[u8], _: &mut dyn SourceFile) -> io::Result<bool> {
        Ok(false)
    }

    fn write(
        &mut self,
        _: &[u8],
        to: &mut (dyn FnMut(&[u8], u64) -> io::Result<()> + Send),
    ) -> io::Result<()> {
        to(b"a part", 0)?;
        Err(io::Error::other("lost"))
    }
}

#[test]
fn streams_are_attributes_as_far_as_linux_has_them() {
    let (sink, folder) = sink_and_folder();
    let path = folder.path().join("f");
    fs::write(&path, b"x").unwrap();
    set_xattr(&path, "user.other", b"old");
    let mut file = node("f", NodeKind::File);
    let stream = |len| Stream {
        name: b"user.stream".to_vec(),
        content: Content::Extents(vec![Extent { len, id: None }]),
    };
    let value: Vec<u8> = (0..2000).map(|i| i as u8).collect();
    file.streams = Some(vec![stream(2000)]);
    let set = |file: &Node, streams: &mut dyn Streams| sink.set_metadata(file, streams).unwrap();
    assert_eq!(told(&set(&file, &mut Given(value.clone()))), [""; 0]);
    assert_eq!(get_xattr(&path, "user.stream").as_deref(), Some(&value[..]));
    assert_eq!(get_xattr(&path, "user.other"), None);
    // What is right is left alone.
    let before = look_in(folder.path(), "f").ctime;
    assert_eq!(told(&set(&file, &mut Given(value.clone()))), [""; 0]);
    assert_eq!(look_in(folder.path(), "f").ctime, before);

    // A source that has little room for it gives it in parts.
    let source = tresor_platform::open_source(folder.path()).unwrap();
    let mut read = node("f", NodeKind::File);
    let mut room = Room::new(1999, 1 << 20);
    source.details(&mut read, &mut room).unwrap();
    assert_eq!(read.xattrs, None);
    let listed = LongStream { name: b"user.stream".to_vec(), len: 2000 };
    assert_eq!(room.into_streams(), [listed]);
    let mut opened = source.open_stream(&read, b"user.stream").unwrap();
    let mut part = [0; 10];
    assert_eq!((opened.stat().unwrap().size, opened.read_at(&mut part, 1995).unwrap()), (2000, 5));
    assert_eq!(part[..5], value[1995..]);
    let missing = source.open_stream(&read, b"user.none").err().unwrap();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    // With room for it, it is an attribute as any other; names count, too.
    for (together, kept) in [(2011, true), (2010, false)] {
        let mut room = Room::new(2000, together);
        source.details(&mut read, &mut room).unwrap();
        assert_eq!(
            (read.xattrs().len(), room.into_streams().len()),
            (kept as usize, !kept as usize)
        );
    }

    // One that can't be had, or that is too long for Linux, is told, and what is there stays.
    for (len, mut streams) in
        [(2000, Box::new(Lost) as Box<dyn Streams>), (65_537, Box::new(Given(value)))]
    {
        set_xattr(&path, "user.stream", b"old");
        file.streams = Some(vec![stream(len)]);
        assert_eq!(set(&file, &mut *streams).len(), 1);
        assert_eq!(get_xattr(&path, "user.stream").as_deref(), Some(&b"old"[..]));
    }
}
