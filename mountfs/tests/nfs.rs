//! The drive through NFS, as a client sees it.

mod kit;

use std::io::Read;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use kit::nfs::{Client, Served, name};
use kit::{drive, status, wait_until};
use nfs3_types::mount;
use nfs3_types::nfs3::*;
use nfs3_types::portmap::{self, mapping};
use nfs3_types::xdr_codec::{List, Opaque, Unpack, Void};
use tresor_engine::format::{NodeKind, Xattr};
use tresor_engine::repo::Repository;
use tresor_mountfs::Ino;
use tresor_testkit::{Body, Item, backup, options, random_tree, repository};

const CACHE: u64 = 8 << 20;

fn served(repo: &Arc<Repository>, tree: &Item) -> Served {
    let (snapshot, _) = backup(repo, tree, &options(None));
    Served::new(drive(repo, Some(snapshot), CACHE))
}

fn seconds(time: tresor_engine::format::Time) -> (u32, u32) {
    match u32::try_from(time.seconds) {
        Ok(seconds) => (seconds, time.nanos),
        Err(_) if time.seconds < 0 => (0, 0),
        Err(_) => (u32::MAX, 0),
    }
}

fn check_attr(attr: &fattr3, item: &Item) {
    let node = &item.node;
    let kind = match node.kind {
        NodeKind::File => ftype3::NF3REG,
        NodeKind::Directory => ftype3::NF3DIR,
        NodeKind::Symlink => ftype3::NF3LNK,
        NodeKind::Fifo => ftype3::NF3FIFO,
        NodeKind::Socket => ftype3::NF3SOCK,
        NodeKind::CharDevice => ftype3::NF3CHR,
        NodeKind::BlockDevice => ftype3::NF3BLK,
    };
    assert_eq!((attr.type_, attr.mode), (kind, node.mode));
    assert_eq!((attr.uid, attr.gid, attr.size), (node.uid, node.gid, node.size));
    assert_eq!(attr.nlink, node.link.map_or(1, |l| l.names));
    assert_eq!((attr.mtime.seconds, attr.mtime.nseconds), seconds(node.mtime));
    assert_eq!((attr.atime.seconds, attr.atime.nseconds), seconds(node.atime));
    let device = node.device.unwrap_or(0);
    let rdev = (attr.rdev.specdata1, attr.rdev.specdata2);
    assert_eq!(rdev, (rustix::fs::major(device), rustix::fs::minor(device)));
}

fn check_file(client: &mut Client, file: &nfs_fh3, bytes: &[u8], rng: &mut Rng) {
    for _ in 0..6 {
        let (offset, len) = (rng.u64(0..bytes.len() as u64 + 10), rng.u32(0..256 << 10));
        let want = bytes.get(offset as usize..).unwrap_or_default();
        let want = &want[..want.len().min(len as usize)];
        let (read, eof) = client.read(file, offset, len).unwrap();
        assert!(read == want);
        assert_eq!(eof, offset + want.len() as u64 >= bytes.len() as u64);
    }
    assert!(client.read_all(file, 1 << 20).unwrap() == bytes);
}

/// Compares everything below a directory; returns how many directories there are.
fn check_tree(client: &mut Client, dir: &nfs_fh3, item: &Item, rng: &mut Rng) -> u64 {
    let plus = client.list_plus(dir, rng.u32(700..5000)).unwrap();
    let plain = client.list(dir, rng.u32(500..3000)).unwrap();
    let numbers = |id: u64, name: &filename3<'_>| (id, name.0.to_vec());
    let of_plus: Vec<_> = plus.iter().map(|e| numbers(e.fileid, &e.name)).collect();
    let of_plain: Vec<_> = plain.iter().map(|e| numbers(e.fileid, &e.name)).collect();
    assert_eq!(of_plus, of_plain);
    let names: Vec<_> = of_plus.iter().map(|(_, name)| name.as_slice()).collect();
    let expected = item.entries().keys().map(Vec::as_slice);
    let expected: Vec<_> = [&b"."[..], b".."].into_iter().chain(expected).collect();
    assert_eq!(names, expected);
    let mut directories = 1;
    for entry in plus.iter().skip(2) {
        let item = &item.entries()[&*entry.name.0];
        let (Nfs3Option::Some(attr), Nfs3Option::Some(handle)) =
            (&entry.name_attributes, &entry.name_handle)
        else {
            panic!("no attributes or handle");
        };
        check_attr(attr, item);
        assert_eq!(attr.fileid, entry.fileid);
        assert_eq!(client.attr(handle).unwrap().fileid, attr.fileid);
        let found = client.lookup(dir, &*entry.name.0).unwrap();
        assert_eq!((&found.handle, found.attr.fileid), (handle, attr.fileid));
        check_attr(&found.attr, item);
        match &item.body {
            Body::Dir(_) => directories += check_tree(client, handle, item, rng),
            Body::File(bytes, _) => check_file(client, handle, bytes, rng),
            Body::Other => {
                let target = client.readlink(handle);
                assert_eq!(target.ok(), item.node.target);
                assert_eq!(client.read(handle, 0, 1), Err(nfsstat3::NFS3ERR_INVAL));
            }
        }
    }
    assert_eq!(client.lookup(dir, "missing!").err(), Some(nfsstat3::NFS3ERR_NOENT));
    directories
}

#[test]
fn random_trees_look_the_same() {
    let repo = repository();
    for seed in 0..8 {
        let mut rng = Rng::with_seed(seed);
        let tree = random_tree(&mut rng, 120);
        let served = served(&repo, &tree);
        let mut client = served.client();
        let root = client.root.clone();
        let directories = check_tree(&mut client, &root, &tree, &mut rng);
        // Nothing else stays in memory, and every handle is good.
        assert_eq!(status(&served.fs, "inodes"), directories);
    }
}

/// A file that nobody remembers is found by its handle, however many others were seen since.
#[test]
fn fifty_thousand_entries_and_their_handles() {
    const MANY: u32 = 50_000;
    let repo = repository();
    let file = |n: u32| Item::file(format!("{n}"));
    let tree = (0..MANY).fold(Item::dir(), |dir, n| dir.with(format!("{n:05}"), file(n)));
    let served = served(&repo, &Item::dir().with("many", tree));
    let mut client = served.client();
    let dir = client.at("many").unwrap().handle;
    let plus = client.list_plus(&dir, 1 << 16).unwrap();
    let plain = client.list(&dir, 1 << 13).unwrap();
    assert_eq!((plus.len(), plain.len()), (MANY as usize + 2, MANY as usize + 2));
    for (n, (plus, plain)) in plus.iter().zip(&plain).skip(2).enumerate() {
        assert_eq!(&*plus.name.0, format!("{n:05}").as_bytes());
        assert_eq!((&plus.name, plus.cookie), (&plain.name, plain.cookie));
    }
    for n in [0, 1, 17, MANY / 2, MANY - 1] {
        let entry = &plus[n as usize + 2];
        let handle = match &entry.name_handle {
            Nfs3Option::Some(handle) => handle.clone(),
            Nfs3Option::None => panic!("no handle"),
        };
        assert_eq!(client.read(&handle, 0, 10), Ok((format!("{n}").into_bytes(), true)));
        // From anywhere a listing goes on.
        let part = client.list_part(&dir, entry.cookie, 4096).unwrap();
        let next = part.entries.0.first().map(|e| e.name.0.to_vec());
        assert_eq!(next, (n + 1 < MANY).then(|| format!("{:05}", n + 1).into_bytes()));
        assert_eq!(part.eof, n + 1 == MANY);
    }
    assert_eq!(client.list_part(&dir, u64::MAX, 4096).unwrap(), dirlist(true));
    assert_eq!(client.list_part(&dir, 2, 110).err(), Some(nfsstat3::NFS3ERR_TOOSMALL));
    assert_eq!(client.list_part(&dir, 2, 0).err(), Some(nfsstat3::NFS3ERR_TOOSMALL));
    assert!(status(&served.fs, "inodes") <= 2);
}

/// An entry for which there was no room is as it was for everybody else.
#[test]
fn what_is_looked_at_in_vain_stays_known_to_others() {
    let repo = repository();
    let served = served(&repo, &Item::dir().with("a", Item::file("a")).with("b", Item::file("b")));
    let mut client = served.client();
    let held = served.fs.lookup(Ino::ROOT, b"b").unwrap().ino;
    let root = client.root.clone();
    let whole = client.list_part_plus(&root, 0, 4096).unwrap();
    let room = (150..).step_by(4).find(|room| {
        client.list_part_plus(&root, 2, *room).is_ok_and(|part| part.entries.0.len() == 1)
    });
    assert!(whole.entries.0.len() == 4 && room.is_some());
    assert!(served.fs.attr(held).is_ok());
}

fn dirlist(eof: bool) -> Listed {
    Listed { names: Vec::new(), eof }
}

/// What a reply of a listing says, to compare.
#[derive(Debug, PartialEq)]
struct Listed {
    names: Vec<Vec<u8>>,
    eof: bool,
}

impl PartialEq<Listed> for dirlist3<'_> {
    fn eq(&self, other: &Listed) -> bool {
        let names: Vec<_> = self.entries.0.iter().map(|e| e.name.0.to_vec()).collect();
        names == other.names && self.eof == other.eof
    }
}

#[test]
fn every_change_is_refused() {
    let repo = repository();
    let served = served(&repo, &Item::dir().with("f", Item::file("text")));
    let mut client = served.client();
    let (dir, file) = (client.root.clone(), client.at("f").unwrap().handle);
    let new = || diropargs3 { dir: dir.clone(), name: name("new") };
    let old = || diropargs3 { dir: dir.clone(), name: name("f") };
    /// The answer has the form that it must have for this procedure.
    fn refused<T: Unpack, E: Unpack>(result: Nfs3Result<T, E>) {
        match result {
            Nfs3Result::Err((nfsstat3::NFS3ERR_ROFS, _)) => {}
            Nfs3Result::Err((other, _)) => panic!("{other}"),
            Nfs3Result::Ok(_) => panic!("it was changed"),
        }
    }
    use NFS_PROGRAM::*;
    let (new_attributes, guard) = (sattr3::default(), sattrguard3::None);
    let args = SETATTR3args { object: file.clone(), new_attributes, guard };
    refused::<SETATTR3resok, SETATTR3resfail>(client.call(NFSPROC3_SETATTR, &args));
    let data = Opaque::owned(vec![7; 64 << 10]);
    let args = WRITE3args {
        file: file.clone(),
        offset: 0,
        count: 64 << 10,
        stable: stable_how::FILE_SYNC,
        data,
    };
    refused::<WRITE3resok, WRITE3resfail>(client.call(NFSPROC3_WRITE, &args));
    let args = CREATE3args { where_: new(), how: createhow3::UNCHECKED(sattr3::default()) };
    refused::<CREATE3resok, CREATE3resfail>(client.call(NFSPROC3_CREATE, &args));
    let args = MKDIR3args { where_: new(), attributes: sattr3::default() };
    refused::<MKDIR3resok, MKDIR3resfail>(client.call(NFSPROC3_MKDIR, &args));
    let symlink =
        symlinkdata3 { symlink_attributes: sattr3::default(), symlink_data: b"f".to_vec().into() };
    let args = SYMLINK3args { where_: new(), symlink };
    refused::<SYMLINK3resok, SYMLINK3resfail>(client.call(NFSPROC3_SYMLINK, &args));
    let args = MKNOD3args { where_: new(), what: mknoddata3::NF3FIFO(sattr3::default()) };
    refused::<MKNOD3resok, MKNOD3resfail>(client.call(NFSPROC3_MKNOD, &args));
    let args = REMOVE3args { object: old() };
    refused::<REMOVE3resok, REMOVE3resfail>(client.call(NFSPROC3_REMOVE, &args));
    let args = RMDIR3args { object: old() };
    refused::<RMDIR3resok, RMDIR3resfail>(client.call(NFSPROC3_RMDIR, &args));
    let args = RENAME3args { from: old(), to: new() };
    refused::<RENAME3resok, RENAME3resfail>(client.call(NFSPROC3_RENAME, &args));
    let args = LINK3args { file: file.clone(), link: new() };
    refused::<LINK3resok, LINK3resfail>(client.call(NFSPROC3_LINK, &args));
    let args = COMMIT3args { file: file.clone(), offset: 0, count: 0 };
    refused::<COMMIT3resok, COMMIT3resfail>(client.call(NFSPROC3_COMMIT, &args));
    let asked = ACCESS3_READ | ACCESS3_MODIFY | ACCESS3_EXTEND | ACCESS3_DELETE | ACCESS3_EXECUTE;
    assert_eq!(client.access(&file, asked), Ok(ACCESS3_READ));
    assert_eq!(client.access(&dir, asked | ACCESS3_LOOKUP), Ok(ACCESS3_READ | ACCESS3_LOOKUP));
    assert_eq!(client.read(&file, 0, 9), Ok((b"text".to_vec(), true)));
}

#[test]
fn facts_about_the_file_system() {
    let repo = repository();
    let served = served(&repo, &Item::dir().with("f", Item::file(vec![1; 5000])));
    let mut client = served.client();
    let fsroot = client.root.clone();
    let args = FSSTAT3args { fsroot: fsroot.clone() };
    let stat = match client.call(NFS_PROGRAM::NFSPROC3_FSSTAT, &args) {
        FSSTAT3res::Ok(ok) => ok,
        FSSTAT3res::Err((e, _)) => panic!("{e}"),
    };
    assert_eq!((stat.tbytes, stat.fbytes, stat.abytes), (5000, 0, 0));
    assert!(stat.tfiles >= 1 && stat.ffiles == 0);
    let info = client.info();
    assert_eq!(info.properties & (FSF3_CANSETTIME | FSF3_SYMLINK), FSF3_SYMLINK);
    let file = client.at("f").unwrap();
    assert_eq!((file.attr.used, file.attr.fsid), (5000, client.attr(&fsroot).unwrap().fsid));
    let args = PATHCONF3args { object: file.handle };
    let conf = match client.call(NFS_PROGRAM::NFSPROC3_PATHCONF, &args) {
        PATHCONF3res::Ok(ok) => ok,
        PATHCONF3res::Err((e, _)) => panic!("{e}"),
    };
    assert!(conf.name_max == 255 && !conf.case_insensitive && conf.case_preserving);
    client.call::<Void>(NFS_PROGRAM::NFSPROC3_NULL, &Void);
}

#[test]
fn names_without_a_listing_and_snapshots_that_come_and_go() {
    let repo = repository();
    let tree = |text: &str| Item::dir().with("d", Item::dir().with("f", Item::file(text)));
    let (first, _) = backup(&repo, &tree("one"), &options(None));
    let served = Served::new(drive(&repo, None, CACHE));
    let mut client = served.client();
    let root = client.root.clone();
    let names = |client: &mut Client, path: &str| {
        let dir = client.at(path).unwrap().handle;
        let listed = client.list(&dir, 4096).unwrap();
        listed.into_iter().skip(2).map(|e| e.name.0.to_vec()).collect::<Vec<_>>()
    };
    assert_eq!(names(&mut client, ""), [&b"hosts"[..], b"ids", b"snapshots", b"tags"]);
    let old = client.at("@latest/d/f").unwrap();
    let text = client.at(".tresor-status").unwrap();
    let status = client.read_all(&text.handle, 1000).unwrap();
    assert!(status.len() == 4096 && status.starts_with(b"{"));
    let latest = client.at("ids/latest").unwrap();
    assert_eq!(client.readlink(&latest.handle).unwrap(), first.id.short().into_bytes());
    assert_eq!(client.read(&latest.handle, 0, 9), Err(nfsstat3::NFS3ERR_INVAL), "a link");
    assert_eq!(client.read(&root, 0, 9), Err(nfsstat3::NFS3ERR_ISDIR));
    // `..` leads back, from a snapshot too.
    let dir = client.at("@latest/d").unwrap();
    let up = client.lookup(&dir.handle, "..").unwrap();
    assert_eq!(up.attr.fileid, client.at("@latest").unwrap().attr.fileid);
    let above = client.lookup(&root, "..").unwrap();
    assert_eq!(above.attr.fileid, client.attr(&root).unwrap().fileid);

    let (second, _) = backup(&repo, &tree("two!"), &options(None));
    repo.forget(&[first.id]).unwrap();
    let ids = [second.id.short().into_bytes(), b"latest".to_vec()];
    wait_until("the new snapshot is there", || names(&mut client, "ids") == ids);
    let new = client.at("@latest/d/f").unwrap().handle;
    assert_eq!(client.read(&new, 0, 9), Ok((b"two!".to_vec(), true)));
    // What was open stays readable.
    assert_eq!(client.read(&old.handle, 0, 9), Ok((b"one".to_vec(), true)));
    assert_eq!(names(&mut client, "@latest/d/.versions"), [b"f"]);
    let version = names(&mut client, "@latest/d/.versions/f").pop().unwrap();
    let versions = client.at("@latest/d/.versions/f").unwrap().handle;
    let version = client.lookup(&versions, version).unwrap().handle;
    assert_eq!(client.read(&version, 0, 9), Ok((b"two!".to_vec(), true)));
}

/// Where a listing went on would be another entry, and one would be left out or come twice.
#[test]
fn a_listing_does_not_go_on_in_another_one() {
    let repo = repository();
    let tree = |n: u32| Item::dir().with("f", Item::file(format!("{n}")));
    for n in 0..4 {
        backup(&repo, &tree(n), &options(None));
    }
    let served = Served::new(drive(&repo, None, CACHE));
    let (mut client, mut other) = (served.client(), served.client());
    let ids = client.at("ids").unwrap().handle;
    let begun = client.list_on(&ids, (0, cookieverf3::default()), 250).unwrap();
    let begun_plus = client.list_on_plus(&ids, (0, cookieverf3::default()), 800).unwrap();
    assert!(!begun.reply.eof && begun.reply.entries.0.len() > 3);
    assert!(!begun_plus.reply.eof && begun_plus.reply.entries.0.len() > 3);
    let next = (begun.reply.entries.0.last().unwrap().cookie, begun.cookieverf);
    let next_plus = (begun_plus.reply.entries.0.last().unwrap().cookie, begun_plus.cookieverf);
    assert!(client.list_on(&ids, next, 250).is_ok() && client.list_on(&ids, next, 250).is_ok());
    backup(&repo, &tree(9), &options(None));
    wait_until("another one shows it", || other.list(&ids, 4096).unwrap().len() == 2 + 6);
    let stale = Some(nfsstat3::NFS3ERR_BAD_COOKIE);
    assert_eq!(client.list_on(&ids, next, 4096).err(), stale);
    assert_eq!(client.list_on_plus(&ids, next_plus, 4096).err(), stale);
    // What a client does then.
    assert_eq!(client.list(&ids, 250).unwrap().len(), 2 + 6);
    assert_eq!(client.list_plus(&ids, 800).unwrap().len(), 2 + 6);
}

#[test]
fn who_does_not_know_the_path_gets_nowhere() {
    let repo = repository();
    let folder = Item::dir().with("f", Item::file("text"));
    backup(&repo, &Item::dir().with("folder", folder), &options(None));
    let served = Served::new(drive(&repo, None, CACHE));
    let mut client = Client::new(served.address());
    let export = served.export().to_owned();
    assert!(export.len() == 40, "128 bits: {export}");
    let wrong = export.replace(|c: char| c.is_ascii_digit(), "a");
    for path in ["", "/", "/snapshots", &export[..39], &format!("{export}x"), &wrong, "/tresor-"] {
        assert_eq!(client.mount(path).err().as_deref(), Some("MNT3ERR_ACCES"), "{path}");
    }
    // Neither does the server tell.
    let (program, version) = (mount::PROGRAM, mount::VERSION);
    for proc in [2, 5] {
        let List(told): List<u32> = client.other((program, version), proc, &Void).unwrap();
        assert!(told.is_empty());
    }
    let root = client.mount(&export).unwrap();
    assert_eq!(client.mount(&format!("{export}//")), Ok(root.clone()));
    let below = client.mount(&format!("{export}/snapshots/latest/folder")).unwrap();
    assert_eq!(client.list(&below, 4096).unwrap().len(), 3);
    for (path, error) in [
        ("snapshots/nothing", "MNT3ERR_NOENT"),
        ("snapshots/latest/folder/f", "MNT3ERR_NOTDIR"),
        ("snapshots/latest/folder/f/x", "MNT3ERR_NOTDIR"),
    ] {
        assert_eq!(client.mount(&format!("{export}/{path}")).err().as_deref(), Some(error));
    }
    // Handles of another drive, and made ones.
    let other = Served::new(drive(&repo, None, CACHE));
    assert_eq!(other.client().attr(&root).err(), Some(nfsstat3::NFS3ERR_STALE));
    for len in [0, 1, 20, 64] {
        let data = Opaque::owned(vec![0; len]);
        assert_eq!(client.attr(&nfs_fh3 { data }).err(), Some(nfsstat3::NFS3ERR_STALE), "{len}");
    }
    served.mounted.server().close_entrance();
    assert_eq!(client.mount(&export).err().as_deref(), Some("MNT3ERR_ACCES"));
    assert!(client.attr(&root).is_ok());
}

#[test]
fn links_in_the_path_are_followed_within_the_drive() {
    let repo = repository();
    let dir = |name: &str| Item::dir().with(name, Item::file("text"));
    let tree = Item::dir()
        .with("deep", Item::dir().with("up", Item::symlink("../other")))
        .with("other", dir("f"))
        .with("circle", Item::symlink("circle"))
        .with("out", Item::symlink("/other"))
        .with("above", Item::symlink("../../../other"));
    let served = served(&repo, &tree);
    let mut client = served.client();
    let export = served.export().to_owned();
    for path in ["deep/up", "above", "./deep/./up/"] {
        let found = client.mount(&format!("{export}/{path}")).unwrap();
        assert!(client.lookup(&found, "f").is_ok(), "{path}");
    }
    for path in ["circle", "out"] {
        assert!(client.mount(&format!("{export}/{path}")).is_err(), "{path}");
    }
}

/// Set by a user for himself: recorded permissions don't count, but other users do.
#[test]
fn a_drive_is_for_who_serves_it() {
    let repo = repository();
    let mut closed = Item::file("text");
    (closed.node.mode, closed.node.uid) = (0, 4711);
    let served = served(&repo, &Item::dir().with("f", closed));
    let mut client = served.client();
    let file = client.at("f").unwrap().handle;
    assert_eq!(client.read(&file, 0, 9), Ok((b"text".to_vec(), true)));
    let mut other = client.of(4711, 4711);
    let root = client.root.clone();
    let denied = Some(nfsstat3::NFS3ERR_ACCES);
    assert_eq!(other.attr(&root).err(), denied);
    assert_eq!(other.lookup(&root, "f").err(), denied);
    assert_eq!(other.read(&file, 0, 9).err(), denied);
    assert_eq!(other.list(&root, 4096).err(), denied);
    assert_eq!(other.access(&file, ACCESS3_READ).err(), denied);
    assert_eq!(other.mount(served.export()).err().as_deref(), Some("MNT3ERR_ACCES"));
}

#[test]
fn recorded_permissions_count_for_others() {
    let item = |mut item: Item, mode, uid, gid| {
        (item.node.mode, item.node.uid, item.node.gid) = (mode, uid, gid);
        item
    };
    let file = |mode| item(Item::file("text"), mode, 10, 20);
    let mut acl = file(0o660);
    // u::rw- u:30:r-- g::--- m::rw- o::---
    let entry = |tag: u16, bits: u16, id: u32| {
        [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let none = u32::MAX;
    let entries = [(1, 6, none), (2, 4, 30), (4, 0, none), (16, 6, none), (32, 0, none)]
        .map(|(t, b, i)| entry(t, b, i));
    let value = [&2u32.to_le_bytes()[..], &entries.concat()].concat();
    acl.node.xattrs = Some(vec![Xattr { name: b"system.posix_acl_access".to_vec(), value }]);
    let tree = item(Item::dir(), 0o755, 0, 0)
        .with("all", file(0o644))
        .with("own", file(0o600))
        .with("group", file(0o640))
        .with("acl", acl)
        .with("hidden", item(Item::dir().with("f", file(0o644)), 0o700, 10, 20))
        .with("names", item(Item::dir().with("f", file(0o644)), 0o744, 10, 20));
    let repo = repository();
    let (snapshot, _) = backup(&repo, &tree, &options(None));
    let served =
        Served::with(drive(&repo, Some(snapshot), CACHE), |options| options.allow_other = true);
    let root = served.client();
    let readable = |client: &mut Client| {
        let files = ["all", "own", "group", "acl", "hidden/f", "names/f"];
        files
            .into_iter()
            .filter(|path| client.at(path).and_then(|file| client.read(&file.handle, 0, 9)).is_ok())
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(readable(&mut root.of(0, 0)), "all own group acl hidden/f names/f");
    assert_eq!(readable(&mut root.of(10, 1)), "all own group acl hidden/f names/f");
    assert_eq!(readable(&mut root.of(11, 20)), "all group", "the group has nothing by the ACL");
    assert_eq!(readable(&mut root.of(30, 30)), "all acl");
    assert_eq!(readable(&mut root.of(31, 31)), "all");
    // Who may list, but not enter, gets names and nothing more.
    let mut other = root.of(31, 31);
    let names = other.at("names").unwrap().handle;
    let listed = other.list_plus(&names, 4096).unwrap();
    assert_eq!(&*listed[2].name.0, b"f");
    assert!(listed[2].name_handle.is_none() && listed[2].name_attributes.is_none());
    let hidden = other.at("hidden").unwrap().handle;
    assert_eq!(other.list(&hidden, 4096).err(), Some(nfsstat3::NFS3ERR_ACCES));
    assert_eq!(other.access(&hidden, ACCESS3_READ | ACCESS3_LOOKUP), Ok(0));
    assert_eq!(other.access(&names, ACCESS3_READ | ACCESS3_LOOKUP), Ok(ACCESS3_READ));
    for name in ["all", "own"] {
        let file = other.at(name).unwrap().handle;
        assert_eq!(other.lookup(&file, "f").err(), Some(nfsstat3::NFS3ERR_NOTDIR), "{name}");
    }
}

/// As on a mounted drive.
#[test]
fn versions_are_for_who_may_read_them_where_they_were() {
    let item = |mut item: Item, mode| {
        (item.node.mode, item.node.uid, item.node.gid) = (mode, 10, 20);
        item
    };
    let file = || item(Item::file("text"), 0o644);
    let names = item(Item::dir().with("f", file()), 0o711);
    let tree = |hidden| Item::dir().with("names", names.clone()).with("hidden", hidden);
    let repo = repository();
    backup(&repo, &tree(item(Item::dir().with("secret", file()), 0o700)), &options(None));
    backup(&repo, &tree(item(Item::dir().with("new", file()), 0o755)), &options(None));
    let served = Served::with(drive(&repo, None, CACHE), |options| options.allow_other = true);
    let root = served.client();
    let list = |client: &mut Client, path: &str| {
        let folder = client.at(path)?.handle;
        let listed = client.list(&folder, 4096)?;
        Ok(listed[2..]
            .iter()
            .map(|e| String::from_utf8_lossy(&e.name.0).into_owned())
            .collect::<Vec<_>>())
    };
    let mut other = root.of(31, 31);
    let denied = Err(nfsstat3::NFS3ERR_ACCES);
    assert_eq!(list(&mut other, "@latest/names"), denied);
    assert_eq!(list(&mut other, "@latest/names/.versions"), denied);
    assert_eq!(list(&mut other, "@latest/names/.versions/f"), denied);
    assert_eq!(list(&mut root.of(10, 20), "@latest/names/.versions").unwrap(), ["f"]);
    assert_eq!(list(&mut other, "@latest/hidden/.versions").unwrap(), ["new"]);
    let secret = other.at("@latest/hidden/.versions/secret");
    assert_eq!(secret.err(), Some(nfsstat3::NFS3ERR_NOENT));
}

#[test]
fn other_programs_and_versions() {
    let repo = repository();
    let served = served(&repo, &Item::dir());
    let mut client = served.client();
    let port = u32::from(served.address().port());
    let asked = |prog, vers, prot| mapping { prog, vers, prot, port: 0 };
    for (what, answer) in [
        (asked(PROGRAM, 3, 6), port),
        (asked(mount::PROGRAM, 3, 6), port),
        (asked(PROGRAM, 3, 17), 0),
        (asked(PROGRAM, 4, 6), 0),
        (asked(100_021, 4, 6), 0),
    ] {
        let program = (portmap::PROGRAM, portmap::VERSION);
        assert_eq!(client.other::<u32>(program, 3, &what).unwrap(), answer);
    }
    let mut refusal = |program, version, proc| {
        client.other::<Void>((program, version), proc, &Void).unwrap_err().to_string()
    };
    assert!(refusal(PROGRAM, 4, 0).contains("PROG_MISMATCH"));
    assert!(refusal(mount::PROGRAM, 1, 0).contains("PROG_MISMATCH"));
    // NFSACL, which clients ask for.
    assert!(refusal(100_227, 3, 0).contains("PROG_UNAVAIL"));
    assert!(refusal(PROGRAM, 3, 22).contains("PROC_UNAVAIL"));
    assert!(refusal(PROGRAM, 3, 1).contains("GARBAGE_ARGS"));
}

#[test]
fn it_goes_when_nobody_asks() {
    let repo = repository();
    let (snapshot, _) = backup(&repo, &Item::dir().with("f", Item::file("text")), &options(None));
    let limit = Duration::from_millis(1500);
    let served = Served::with(drive(&repo, Some(snapshot), CACHE), |options| {
        options.idle_exit = Some(limit);
    });
    let mut client = served.client();
    let start = Instant::now();
    while start.elapsed() < 2 * limit {
        assert!(client.at("f").is_ok());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(served.mounted.server().wait_for(10 * limit));
    assert_eq!(client.stream.read(&mut [0]).unwrap(), 0, "left");
    wait_until("the port is free", || TcpStream::connect(served.address()).is_err());
}
