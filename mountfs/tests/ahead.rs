//! Small files whose blocks are fetched before anybody asks for them.

mod kit;

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use kit::{drive, status, wait_until};
use tresor_engine::repo::without_fetching;
use tresor_mountfs::{Ino, SnapshotFs};
use tresor_testkit::{Item, backup, options, random_bytes, repository};

const LEN: usize = 70_000;

/// Two directories of 12 files, each of a block of its own.
fn files() -> (Arc<SnapshotFs>, [Vec<Ino>; 2]) {
    let repo = repository();
    let mut rng = Rng::with_seed(4);
    let mut dir = || {
        (0..12).fold(Item::dir(), |dir, f| {
            dir.with(format!("{f:02}"), Item::file(random_bytes(&mut rng, LEN)))
        })
    };
    let tree = Item::dir().with("0", dir()).with("1", dir());
    let (snapshot, _) = backup(&repo, &tree, &options(None));
    let fs = drive(&repo, Some(snapshot), 16 << 20);
    let numbers = ["0", "1"].map(|name| {
        let dir = fs.lookup(Ino::ROOT, name.as_bytes()).unwrap().ino;
        (0..12).map(|f| fs.lookup(dir, format!("{f:02}").as_bytes()).unwrap().ino).collect()
    });
    (fs, numbers)
}

fn read(fs: &SnapshotFs, ino: Ino) {
    fs.read_ahead(ino, 0, 128 << 10);
    assert_eq!(fs.read_at(ino, 0, 128 << 10).unwrap().len(), LEN);
}

fn is_there(fs: &SnapshotFs, ino: Ino) -> bool {
    without_fetching(|| fs.read_at(ino, 0, LEN)).is_ok()
}

#[test]
fn what_follows_is_fetched_and_in_the_next_directory_too() {
    let (fs, files) = files();
    read(&fs, files[0][0]);
    read(&fs, files[0][1]);
    wait_until("the next one is fetched", || is_there(&fs, files[0][2]));
    for ino in &files[0][2..] {
        read(&fs, *ino);
    }
    read(&fs, files[1][0]);
    wait_until("the next directory's", || (1..5).all(|f| is_there(&fs, files[1][f])));
    for ino in &files[1][1..] {
        read(&fs, *ino);
    }
    assert!(status(&fs, "blocks_fetched") <= 48, "{}", status(&fs, "blocks_fetched"));
}

#[test]
fn nothing_is_fetched_for_who_reads_in_no_order() {
    let (fs, files) = files();
    for f in [10, 3, 8, 5] {
        read(&fs, files[0][f]);
    }
    std::thread::sleep(Duration::from_millis(300));
    // Some of the four files have two.
    assert!(status(&fs, "blocks_fetched") <= 8);
}
