//! Small files that are given to a kernel before it asks for them.

mod kit;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tresor_mountfs::{Ino, SnapshotFs};
use tresor_testkit::{Item, backup, options, repository};

type Given = Arc<Mutex<BTreeMap<u64, Vec<u8>>>>;

fn content(dir: usize, file: usize) -> Vec<u8> {
    format!("{dir}/{file} ").repeat(600).into_bytes()
}

/// Two directories of 40 files, all of them known to the kernel; and what it was given.
fn drive() -> (Arc<SnapshotFs>, [Vec<Ino>; 2], Given) {
    let repo = repository();
    let dir = |d: usize| {
        (0..40).fold(Item::dir(), |dir, f| dir.with(format!("{f:03}"), Item::file(content(d, f))))
    };
    let tree = Item::dir().with("0", dir(0)).with("1", dir(1));
    let (snapshot, _) = backup(&repo, &tree, &options(None));
    let fs = kit::drive(&repo, Some(snapshot), 4 << 20);
    let given = Given::default();
    let keep = given.clone();
    fs.give_ahead(Box::new(move |ino, bytes| {
        keep.lock().unwrap().insert(ino.0, bytes.to_vec());
    }));
    let files = ["0", "1"].map(|name| {
        let dir = fs.lookup(Ino::ROOT, name.as_bytes()).unwrap().ino;
        (0..40).map(|f| fs.lookup(dir, format!("{f:03}").as_bytes()).unwrap().ino).collect()
    });
    (fs, files, given)
}

fn read(fs: &SnapshotFs, ino: Ino) {
    fs.read_ahead(ino, 0, 128 << 10);
    fs.read_at(ino, 0, 128 << 10).unwrap();
}

/// Waits until as many files as that were given.
fn wait_for(given: &Given, count: usize) -> BTreeMap<u64, Vec<u8>> {
    kit::wait_until("files are given", || given.lock().unwrap().len() >= count);
    given.lock().unwrap().clone()
}

#[test]
fn what_follows_is_given_whole_and_right_and_in_the_next_directory_too() {
    let (fs, files, given) = drive();
    read(&fs, files[0][0]);
    read(&fs, files[0][1]);
    let first = wait_for(&given, 30);
    for (f, ino) in files[0].iter().enumerate() {
        if let Some(bytes) = first.get(&ino.0) {
            assert!(f > 1 && *bytes == content(0, f), "{f}");
        }
    }
    // The kernel asks for the first one that it wasn't given, then for the next directory's.
    if let Some(next) = files[0][2..].iter().find(|ino| !first.contains_key(&ino.0)) {
        read(&fs, *next);
    }
    read(&fs, files[1][0]);
    let all = wait_for(&given, 60);
    assert!(files[1][1..20].iter().enumerate().all(|(f, i)| all[&i.0] == content(1, f + 1)));
}

#[test]
fn nothing_is_given_that_the_kernel_has_forgotten_or_that_is_read_in_no_order() {
    let (fs, files, given) = drive();
    for f in [30, 3, 25, 8] {
        read(&fs, files[0][f]);
    }
    fs.forget(files[1][3], 1);
    for ino in &files[1][..2] {
        read(&fs, *ino);
    }
    let given = wait_for(&given, 10);
    assert!(!given.contains_key(&files[1][3].0));
    assert!(files[0].iter().all(|ino| !given.contains_key(&ino.0)));
}
