//! What macOS looks for on every volume, and what it keeps of a file (docs/drive.md).

mod kit;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kit::drive;
use tresor_engine::format::macos::{CREATED, FLAGS, created_value};
use tresor_engine::format::{Time, Xattr};
use tresor_engine::store::{MemoryStore, Store};
use tresor_mountfs::{FsError, Ino, LookUp, SnapshotFs};
use tresor_testkit::{Call, HookedStore, Item, backup, init, open, options, repository};

const CACHE: u64 = 4 << 20;
const NEVER_INDEX: &[u8] = b".metadata_never_index";

/// What Finder, Spotlight and the kernel ask for in each folder, beside `._NAME`.
const ASKED: [&[u8]; 8] = [
    b".DS_Store",
    b".Spotlight-V100",
    b".Trashes",
    b".fseventsd",
    b".hidden",
    b".localized",
    b".TemporaryItems",
    b".com.apple.timemachine.donotpresent",
];

fn names(fs: &SnapshotFs, dir: Ino) -> Vec<Vec<u8>> {
    let mut names = Vec::new();
    fs.read_dir(dir, 0, LookUp::Everything, &mut |entry| {
        names.push(entry.name.to_vec());
        true
    })
    .unwrap();
    names.retain(|name| name != b"." && name != b"..");
    names
}

#[test]
fn what_finder_looks_for_costs_nothing_in_a_folder_that_is_listed() {
    let store: Store = Arc::new(MemoryStore::new());
    init(&store);
    let files = (0..500).fold(Item::dir(), |d, n| d.with(format!("{n:03}.jpg"), Item::file("x")));
    backup(&open(&store), &Item::dir().with("photos", files), &options(None));
    let reads = Arc::new(AtomicU64::new(0));
    let counted = reads.clone();
    let hooked = HookedStore::new(store, move |call| {
        let is_read = matches!(call, Call::Get(_) | Call::GetRange(..) | Call::Size(_));
        counted.fetch_add(u64::from(is_read), Relaxed);
        Ok(())
    });
    let fs = drive(&open(&(Arc::new(hooked) as Store)), None, CACHE);
    let enter = |dir, name: &[u8]| fs.lookup(dir, name).unwrap().ino;
    let snapshots = enter(Ino::ROOT, b"snapshots");
    let snapshot = enter(snapshots, &names(&fs, snapshots)[0]);
    for dir in [Ino::ROOT, snapshots, snapshot, enter(snapshot, b"photos")] {
        let there = names(&fs, dir);
        let before = reads.load(Relaxed);
        let beside = there.iter().map(|name| [b"._", name.as_slice()].concat());
        for name in ASKED.iter().map(|name| name.to_vec()).chain(beside) {
            let found = fs.lookup(dir, &name);
            assert!(matches!(found, Err(FsError::NotFound)), "{}", name.escape_ascii());
        }
        assert_eq!(reads.load(Relaxed), before, "{}", fs.path(dir));
    }
    assert!(reads.load(Relaxed) > 0);
}

#[test]
fn what_was_backed_up_is_there() {
    let repo = repository();
    let folder = Item::dir()
        .with(".DS_Store", Item::file("view"))
        .with("._song.mp3", Item::file("fork"))
        .with("song.mp3", Item::file("music"));
    let (snapshot, _) = backup(&repo, &folder, &options(None));
    let fs = drive(&repo, Some(snapshot), CACHE);
    for (name, text) in [(".DS_Store", "view"), ("._song.mp3", "fork")] {
        let file = fs.lookup(Ino::ROOT, name.as_bytes()).unwrap();
        assert_eq!(fs.read_at(file.ino, 0, 100).unwrap(), text.as_bytes());
    }
}

#[test]
fn spotlight_is_told_to_leave_the_drive_alone() {
    let repo = repository();
    let tree = Item::dir().with("d", Item::dir());
    let (snapshot, _) = backup(&repo, &tree, &options(None));
    for shown in [None, Some(snapshot)] {
        let fs = drive(&repo, shown, CACHE);
        let mark = fs.lookup(Ino::ROOT, NEVER_INDEX).unwrap();
        assert_eq!((mark.size, fs.attr(mark.ino).unwrap()), (0, mark.clone()));
        assert_eq!(fs.read_at(mark.ino, 0, 10).unwrap(), b"");
        assert_eq!(fs.seek(mark.ino, 0, false).unwrap(), None);
        assert_eq!(fs.path(mark.ino), "/.metadata_never_index");
        assert!(!names(&fs, Ino::ROOT).iter().any(|name| name == NEVER_INDEX));
        assert!(matches!(fs.lookup(mark.ino, b"x"), Err(FsError::NotADirectory)));
        fs.forget(mark.ino, 1);
    }
    let own = Item::dir().with(NEVER_INDEX, Item::file("mine")).with("d", Item::dir());
    let (snapshot, _) = backup(&repo, &own, &options(None));
    let fs = drive(&repo, Some(snapshot), CACHE);
    let real = fs.lookup(Ino::ROOT, NEVER_INDEX).unwrap();
    assert_eq!(fs.read_at(real.ino, 0, 10).unwrap(), b"mine");
    let below = fs.lookup(Ino::ROOT, b"d").unwrap().ino;
    assert!(matches!(fs.lookup(below, NEVER_INDEX), Err(FsError::NotFound)));
}

#[test]
fn flags_and_times_of_creation_are_shown_as_recorded() {
    let repo = repository();
    let mut of_mac = Item::file("x");
    let created = Time::new(1_600_000_000, 7);
    of_mac.node.xattrs = Some(vec![
        Xattr { name: CREATED.into(), value: created_value(created) },
        // Locked and hidden; and compressed, which is the disk's own.
        Xattr { name: FLAGS.into(), value: 0x8022_u32.to_le_bytes().into() },
    ]);
    let tree = Item::dir().with("mac", of_mac).with("other", Item::file("y"));
    let (snapshot, _) = backup(&repo, &tree, &options(None));
    let fs = drive(&repo, Some(snapshot), CACHE);
    let mac = fs.lookup(Ino::ROOT, b"mac").unwrap();
    assert_eq!((mac.created, mac.flags), (created, 0x8002));
    assert_eq!(fs.windows_meta(&mac).unwrap().created, created);
    let other = fs.lookup(Ino::ROOT, b"other").unwrap();
    assert_eq!((other.created, other.flags), (other.mtime, 0));
}
