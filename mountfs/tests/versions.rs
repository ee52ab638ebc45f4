//! Every version of a file, from any folder of the drive.

use std::sync::{Arc, Mutex};

use jiff::tz::TimeZone;
use tresor_engine::format::{LinkId, ObjectKind, Time};
use tresor_engine::repo::{Repository, without_fetching};
use tresor_engine::select::SnapshotFilter;
use tresor_engine::store::{MemoryStore, Store};
use tresor_mountfs::{DriveOptions, FsError, Ino, Layout, LookUp, SnapshotFs};
use tresor_testkit::{Item, backup, init, open, options, repository};

fn drive(repo: &Arc<Repository>) -> SnapshotFs {
    let (filter, layout) = (SnapshotFilter::default(), Layout::Folders);
    let time_zone = TimeZone::UTC;
    let options = DriveOptions { snapshot: None, filter, time_zone, layout, cache_size: 1 << 20 };
    SnapshotFs::new(repo.clone(), options).unwrap()
}

/// One snapshot an hour from 2026-11-23 00:00 on.
fn snapshot(repo: &Arc<Repository>, hour: i64, tree: &Item) {
    let time = Some(Time::new(1_795_392_000 + hour * 3600, 0));
    backup(repo, tree, &tresor_engine::archiver::BackupOptions { time, ..options(None) });
}

fn go(fs: &SnapshotFs, path: &str) -> Result<Ino, FsError> {
    path.split('/').try_fold(Ino::ROOT, |at, name| Ok(fs.lookup(at, name.as_bytes())?.ino))
}

fn list(fs: &SnapshotFs, path: &str) -> Vec<String> {
    let ino = go(fs, path).unwrap();
    let mut names = Vec::new();
    fs.read_dir(ino, 2, LookUp::Nothing, &mut |e| {
        names.push(String::from_utf8_lossy(e.name).into_owned());
        true
    })
    .unwrap();
    names
}

fn read(fs: &SnapshotFs, path: &str) -> String {
    let ino = go(fs, path).unwrap();
    String::from_utf8(fs.read_at(ino, 0, 1000).unwrap()).unwrap()
}

#[test]
fn each_distinct_version_once() {
    let repo = repository();
    let first = Item::file("first");
    let dir = |item: &Item| Item::dir().with("letter.txt", item.clone()).with("x", Item::file("x"));
    let tree = |item: &Item| Item::dir().with("d", dir(item));
    let second = Item::file("second");
    for (hour, item) in [&first, &first, &second, &first, &second].into_iter().enumerate() {
        snapshot(&repo, hour as i64, &tree(item));
    }
    let gone = Item::dir().with("d", Item::dir().with("new", Item::file("new")));
    snapshot(&repo, 9, &gone);
    let fs = drive(&repo);
    assert_eq!(list(&fs, "@latest/d"), ["new"]);
    // Also what this snapshot doesn't have any more.
    assert_eq!(list(&fs, "@latest/d/.versions"), ["letter.txt", "new", "x"]);
    let versions = ["2026-11-23 00.00.00.txt", "2026-11-23 02.00.00.txt"];
    assert_eq!(list(&fs, "@latest/d/.versions/letter.txt"), versions);
    assert_eq!(read(&fs, "@latest/d/.versions/letter.txt/2026-11-23 00.00.00.txt"), "first");
    assert_eq!(read(&fs, "@latest/d/.versions/letter.txt/2026-11-23 02.00.00.txt"), "second");
    let attr = fs.attr(go(&fs, "@latest/d/.versions/letter.txt/2026-11-23 02.00.00.txt").unwrap());
    assert_eq!(attr.unwrap().mtime, second.node.mtime);
    assert_eq!(list(&fs, "@latest/.versions"), ["d"]);
    assert_eq!(go(&fs, "@latest/d/.versions/none"), Err(FsError::NotFound));
    assert_eq!(go(&fs, "snapshots/.versions"), Err(FsError::NotFound));
    // A version that appears while the drive is mounted.
    snapshot(&repo, 10, &tree(&Item::file("third")));
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(list(&fs, "@latest/d/.versions/letter.txt").len(), 3);
}

#[test]
fn a_real_entry_goes_first_and_other_hosts_don_t_count() {
    let repo = repository();
    snapshot(&repo, 0, &Item::dir().with(".versions", Item::dir().with("real", Item::file("r"))));
    let other = tresor_engine::archiver::BackupOptions { host: "other".into(), ..options(None) };
    backup(&repo, &Item::dir().with("f", Item::file("theirs")), &other);
    snapshot(&repo, 1, &Item::dir().with("f", Item::file("ours")));
    let fs = drive(&repo);
    assert_eq!(list(&fs, "@2026-11-23T00.30/.versions"), ["real"]);
    assert_eq!(list(&fs, "@2026-11-23T01.30/.versions/f").len(), 1);
}

/// A damaged directory of one snapshot hides nothing of the others.
#[test]
fn damage_in_one_snapshot_leaves_the_versions_of_others() {
    let store: Store = Arc::new(MemoryStore::new());
    init(&store);
    let dir = |name: &str, text: &str| {
        let dir = Item::dir().with("f", Item::file(text)).with(name, Item::file("x"));
        Item::dir().with("d", dir)
    };
    snapshot(&open(&store), 0, &dir("gone", "first"));
    let packs = store.list(ObjectKind::Pack).unwrap();
    snapshot(&open(&store), 1, &dir("there", "second"));
    let lost: Vec<_> = packs.iter().map(|(name, _)| (name, store.get(name).unwrap())).collect();
    packs.iter().for_each(|(name, _)| store.delete(name).unwrap());
    let repo = open(&store);
    let fs = drive(&repo);
    let told = Arc::<Mutex<Vec<String>>>::default();
    let to = told.clone();
    fs.open_to(false, Arc::new(move |text| to.lock().unwrap().push(text.into())));
    let versions = go(&fs, "@latest/d/.versions").unwrap();
    let listing = without_fetching(|| fs.lookup(versions, b"f").map(|_| ()));
    assert_eq!(listing, Err(FsError::WouldFetch), "nothing is passed over for that");
    for _ in 0..2 {
        assert_eq!(list(&fs, "@latest/d/.versions"), ["f", "there"]);
        assert_eq!(list(&fs, "@latest/d/.versions/f"), ["2026-11-23 01.00.00"]);
        assert_eq!(read(&fs, "@latest/d/.versions/f/2026-11-23 01.00.00"), "second");
    }
    let oldest = repo.snapshots().unwrap()[0].id.short();
    let told = told.lock().unwrap();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains(&oldest) && told[0].contains("pack"), "{told:?}");
    assert!(String::from_utf8(fs.status()).unwrap().contains(&oldest));
    // Of what is in no other snapshot nobody knows whether it was there.
    let gone = go(&fs, "@latest/d/.versions/gone");
    assert!(matches!(gone, Err(FsError::Io(_))), "{gone:?}");
    // Put back from another copy.
    lost.iter().for_each(|(name, bytes)| store.put(name, bytes).unwrap());
    std::thread::sleep(std::time::Duration::from_millis(2100));
    assert_eq!(list(&fs, "@latest/d/.versions"), ["f", "gone", "there"]);
    assert_eq!(list(&fs, "@latest/d/.versions/f").len(), 2);
}

/// The same inode on the source, in two snapshots, with different contents.
#[test]
fn hard_links_in_versions_of_a_folder_are_not_mixed_up() {
    let repo = repository();
    let tree = |text: &str| {
        let mut file = Item::file(text);
        file.node.link = Some(LinkId { device: 1, inode: 7, names: 2 });
        Item::dir().with("d", Item::dir().with("a", file.clone()).with("b", file))
    };
    snapshot(&repo, 0, &tree("old"));
    snapshot(&repo, 1, &tree("new"));
    let fs = drive(&repo);
    assert_eq!(read(&fs, "@latest/d/a"), "new");
    let versions = list(&fs, "@latest/.versions/d");
    assert_eq!(versions.len(), 2);
    assert_eq!(read(&fs, &format!("@latest/.versions/d/{}/a", versions[0])), "old");
    assert_eq!(read(&fs, &format!("@latest/.versions/d/{}/b", versions[1])), "new");
    let nested = format!("@latest/.versions/d/{}/.versions", versions[0]);
    assert_eq!(go(&fs, &nested), Err(FsError::NotFound));
}
