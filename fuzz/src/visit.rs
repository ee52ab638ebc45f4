//! Everything that reads a repository, and what must hold between the ways to read it.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::tz::TimeZone;
use tresor_engine::format::{Node, NodeKind, is_valid_name};
use tresor_engine::history;
use tresor_engine::maintenance::{CheckOptions, CheckReport, check, stats};
use tresor_engine::monitor::Quiet;
use tresor_engine::repo::{Repository, Snapshot};
use tresor_engine::restorer::{RestoreOptions, restore};
use tresor_engine::select::SnapshotFilter;
use tresor_mountfs::{Attr, DriveOptions, FsError, Ino, Layout, LookUp, SnapshotFs};

use crate::kit::encoded;
use crate::sink::{MemorySink, Restored, part};

/// Longest file that is compared byte by byte.
const COMPARED: u64 = 4 << 20;
/// Entries of a drive that are looked at.
const ENTRIES: usize = 4000;

pub type Digest = [u8; 32];

/// What a restore of a snapshot has made of each path.
pub struct Shown {
    pub entries: BTreeMap<Vec<u8>, Digest>,
    /// Whether nothing was reported.
    pub whole: bool,
}

/// Restores a snapshot, and looks at it on a drive: both show the same.
pub fn look_at(repo: &Arc<Repository>, snapshot: &Snapshot) -> Shown {
    let sink = MemorySink::default();
    let monitor = Arc::new(Quiet::default());
    let target = Arc::new(sink.clone());
    let options = RestoreOptions::default();
    let done = restore(repo, &snapshot.data.tree, &[], target, &options, monitor.clone());
    let whole = done.is_ok() && monitor.problems.lock().unwrap().is_empty();
    let drive = drive(repo, Some(snapshot.clone()), Layout::Folders);
    if let Some(drive) = &drive {
        compare(drive, &sink, done.is_ok());
    }
    let mut entries = BTreeMap::new();
    collect(&sink, &mut Vec::new(), &mut entries);
    Shown { entries, whole }
}

fn digest(node: &Node, bytes: &BTreeMap<u64, Vec<u8>>) -> Digest {
    // The inode is the sink's own.
    let mut hasher = blake3::Hasher::new();
    hasher.update(&encoded(&Node { inode: 0, ..node.clone() }));
    for (at, run) in bytes {
        hasher.update(&at.to_le_bytes()).update(run);
    }
    *hasher.finalize().as_bytes()
}

fn collect(dir: &MemorySink, path: &mut Vec<u8>, out: &mut BTreeMap<Vec<u8>, Digest>) {
    for (name, what) in dir.entries().iter() {
        let len = path.len();
        path.push(b'/');
        path.extend(name);
        let digest = match what {
            Restored::Dir(below) => {
                collect(below, path, out);
                [0; 32]
            }
            Restored::File(node, bytes) => digest(node, bytes),
            Restored::Other(node) => digest(node, &BTreeMap::new()),
        };
        out.insert(path.clone(), digest);
        path.truncate(len);
    }
}

pub fn drive(
    repo: &Arc<Repository>,
    snapshot: Option<Snapshot>,
    layout: Layout,
) -> Option<SnapshotFs> {
    let options = DriveOptions {
        snapshot,
        filter: SnapshotFilter::default(),
        time_zone: TimeZone::UTC,
        layout,
        cache_size: 16 << 20,
    };
    SnapshotFs::new(repo.clone(), options).ok()
}

/// A name, and what the listing says of it.
type Listed = (Vec<u8>, Attr);

/// The entries of a directory with what the drive says of them, and whether that is all.
fn list(fs: &SnapshotFs, dir: Ino) -> (Vec<Listed>, Result<(), FsError>) {
    let mut out: Vec<Listed> = Vec::new();
    let mut offset = 0;
    loop {
        let before = out.len();
        let (mut given, mut next) = (false, offset);
        let listed = fs.read_dir(dir, offset, LookUp::Nothing, &mut |entry| {
            given = true;
            next = entry.next;
            if !matches!(entry.name, b"." | b"..") {
                out.push((entry.name.to_vec(), entry.attr));
            }
            out.len() < before + 64
        });
        assert!(next > offset || !given, "a listing doesn't get on");
        assert!(out.len() <= ENTRIES * 4, "a listing without an end");
        match listed {
            Ok(()) if given => offset = next,
            other => return (out, other),
        }
    }
}

/// Goes through a drive and what was restored of the same snapshot side by side.
fn compare(fs: &SnapshotFs, sink: &MemorySink, restored: bool) {
    let mut pending = vec![(Ino::ROOT, sink.clone())];
    let mut left = ENTRIES;
    // All are in use at the same time, as a kernel may have them.
    let mut used = Vec::new();
    while let Some((dir, sink)) = pending.pop() {
        let (entries, _) = list(fs, dir);
        for (name, listed) in entries {
            left = match left.checked_sub(1) {
                Some(left) => left,
                None => return,
            };
            assert!(is_valid_name(&name));
            let there = sink.entries().get(&name).cloned();
            // A page that can't be read makes an error of either.
            let Ok(attr) = fs.lookup(dir, &name) else { continue };
            assert_eq!((attr.ino, attr.size, attr.kind), (listed.ino, listed.size, listed.kind));
            look(fs, &attr);
            match (attr.kind, there) {
                (NodeKind::Directory, Some(Restored::Dir(below))) => {
                    pending.push((attr.ino, below))
                }
                (NodeKind::File, there) => {
                    let read = read(fs, &attr);
                    match (&there, read) {
                        (Some(Restored::File(node, bytes)), Ok(read)) if !read.is_empty() => {
                            let len = read.len();
                            assert!(read == part(node, bytes, 0, len), "{name:?} reads otherwise");
                        }
                        (Some(Restored::File(..)), Ok(_)) => {}
                        (Some(Restored::File(..)), Err(e)) => {
                            panic!("{} was restored, but the drive: {e}", name.escape_ascii())
                        }
                        (_, Ok(_)) if restored && attr.size <= COMPARED => {
                            panic!("{} is shown, but can't be restored", name.escape_ascii())
                        }
                        _ => {}
                    }
                }
                (NodeKind::Symlink, Some(Restored::Other(node))) => {
                    assert_eq!(fs.readlink(attr.ino).ok(), node.target);
                }
                _ => {}
            }
            used.push(attr.ino);
        }
    }
    used.into_iter().for_each(|ino| fs.forget(ino, 1));
}

/// Attributes are asked for that have at most so many bytes.
const MOST_XATTR: u64 = 64 << 10;

/// Whatever else can be asked of an entry.
fn look(fs: &SnapshotFs, attr: &Attr) {
    assert_eq!(fs.attr(attr.ino).map(|a| a.size).ok(), Some(attr.size));
    let _ = fs.readlink(attr.ino);
    for name in fs.xattr_names(attr.ino, MOST_XATTR).unwrap_or_default() {
        // What is stored as contents are may be lost.
        match fs.xattr(attr.ino, &name, MOST_XATTR) {
            Ok(value) => assert!(value.len() as u64 <= MOST_XATTR),
            Err(e) => assert!(matches!(e, FsError::Io(_)), "{e}"),
        }
    }
    for (name, size) in fs.windows_streams(attr.ino).unwrap_or_default() {
        if let Ok(Some(stream)) = fs.windows_stream(attr, &name) {
            assert!(stream.attr.size == size || name.is_empty());
            let _ = fs.read_stream(&stream.content, size.saturating_sub(10), 100);
        }
    }
    for hole in [false, true] {
        if let Ok(Some(at)) = fs.seek(attr.ino, 0, hole) {
            assert!(at <= attr.size);
        }
    }
    let _ = fs.read_at(attr.ino, attr.size.saturating_sub(10), 100);
    let _ = fs.read_at(attr.ino, u64::MAX, 100);
    let _ = fs.path(attr.ino);
}

/// The whole file, or the error; of long ones a piece.
fn read(fs: &SnapshotFs, attr: &Attr) -> Result<Vec<u8>, FsError> {
    let len = attr.size.min(COMPARED);
    let mut out = Vec::new();
    while (out.len() as u64) < len {
        let want = (len as usize - out.len()).min(100_000);
        let read = fs.read_at(attr.ino, out.len() as u64, want)?;
        assert_eq!(read.len(), want, "a read is short");
        out.extend(read);
    }
    // Also where nothing is left, it is known whether the file is what it says.
    fs.read_at(attr.ino, len, 1)?;
    Ok(out)
}

/// The folders above the snapshots: names come from clients.
pub fn folders(repo: &Arc<Repository>) {
    for layout in [Layout::Folders, Layout::PreviousVersions] {
        let Some(fs) = drive(repo, None, layout) else { continue };
        let mut pending = vec![(Ino::ROOT, 0)];
        while let Some((dir, depth)) = pending.pop() {
            let (entries, listed) = list(&fs, dir);
            // Those of snapshots are another matter.
            assert!(listed.is_ok() || depth > 0);
            for (name, _) in entries {
                assert!(is_valid_name(&name), "{} on the drive", name.escape_ascii());
                let Ok(attr) = fs.lookup(dir, &name) else { continue };
                if attr.kind == NodeKind::Directory && depth < 2 {
                    pending.push((attr.ino, depth + 1));
                }
            }
        }
        fs.volume();
        let _ = fs.lookup(Ino::ROOT, b"latest~1").map(|attr| fs.attr(attr.ino));
    }
}

/// What commands do that read; says what `check` has found.
pub fn commands(repo: &Arc<Repository>, snapshots: &[Snapshot]) -> Option<CheckReport> {
    let _ = stats(repo, snapshots);
    let mut left = ENTRIES;
    let _ = history::find(repo, snapshots, &|_, node| node.is_file(), &mut |_, _, numbers| {
        assert!(!numbers.is_empty());
        left = left.saturating_sub(1);
        Ok(())
    });
    for pair in snapshots.windows(2) {
        let _ =
            history::diff(repo, &pair[0].data.tree, &pair[1].data.tree, &mut |_, _, _, _| Ok(()));
    }
    let options = CheckOptions { read_data: true, ..Default::default() };
    check(repo, &options, &Quiet::default()).ok()
}
