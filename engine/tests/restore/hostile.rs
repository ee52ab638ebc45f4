//! Trees that nobody saved: nothing gets out of the target, and nothing hangs.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::time::{Duration, Instant};

use tresor_engine::format::{
    BlobKind, Branch, Content, ContentPage, ExtentPage, IndexData, Node, NodeKind, ObjectKind,
    PackEntry, Purpose, SegmentEntry, TreePage, sealed,
};
use tresor_engine::index::Location;
use tresor_engine::restorer::RestoreOptions;
use tresor_engine::tree;

use crate::kit::*;

#[test]
fn impossible_names() {
    let maker = Maker::new();
    for name in ["", ".", "..", "../out", "a/b", "/tmp/out", "a\0b"] {
        let evil = maker.page(vec![maker.file(name, b"evil")]);
        let evil_dir = maker.page(vec![dir(name, maker.page(vec![maker.file("out", b"evil")]))]);
        let mut link = node(name, NodeKind::Symlink);
        link.target = Some(b"x".to_vec());
        let evil_link = maker.page(vec![link]);
        let root = maker.dir(vec![
            dir("1", evil),
            dir("2", evil_dir),
            dir("3", evil_link),
            maker.file("good", b"good"),
        ]);
        let mut outer = Target::new();
        let mut target = Target::new();
        // The target is in the outer folder, so that what gets out is seen.
        target.folder = tempfile::tempdir_in(outer.folder.path()).unwrap();
        let options = RestoreOptions { delete: true, ..Default::default() };
        let (restored, problems) = target.try_restore(&maker.open(), &root, &options);
        assert_eq!((restored.files_restored, problems.len()), (1, 3), "{name:?} {problems:?}");
        assert_eq!(fs::read_dir(outer.folder.path()).unwrap().count(), 1);
        assert_eq!(fs::read_dir(target.folder.path()).unwrap().count(), 4);
        assert_eq!(target.read("good"), b"good");
        drop(target);
        outer.progress = (0, 0);
    }
}

/// A symlink in the target, or one that the snapshot itself brings, leads nowhere.
#[test]
fn symlinks_on_the_way() {
    let maker = Maker::new();
    let below = maker.dir(vec![maker.file("f", b"new")]);
    let root = maker.dir(vec![dir("home", maker.dir(vec![dir("u", below)]))]);
    let repo = maker.open();
    let outside = Target::new();
    outside.write("u/f", b"outside");
    let mut target = Target::new();
    symlink(outside.folder.path(), target.path("home")).unwrap();
    let before = outside.listing();

    // Only on the way to what was asked for, it isn't ours to remove.
    let include = patterns(&["/home/u/f"]);
    let options = RestoreOptions { include, ..Default::default() };
    let (restored, problems) = target.try_restore(&repo, &root, &options);
    assert_eq!((restored.files_restored, problems.len()), (0, 1), "{problems:?}");
    assert!(problems[0].starts_with("/home: can't be made"), "{problems:?}");
    assert!(target.path("home").is_symlink());

    target.restore(&repo, &root);
    assert!(!target.path("home").is_symlink());
    assert_eq!(target.read("home/u/f"), b"new");
    assert_eq!(outside.listing(), before);
}

/// A node that claims to be a file and has entries, and the other way round.
#[test]
fn nodes_that_are_two_things() {
    let maker = Maker::new();
    let below = maker.dir(vec![maker.file("x", b"x")]);
    let mut both = maker.file("both", b"both");
    both.tree = Some(below);
    let neither = node("neither", NodeKind::Directory);
    let root = maker.dir(vec![both, neither]);
    let mut target = Target::new();
    let (restored, problems) = target.try_restore(&maker.open(), &root, &Default::default());
    assert_eq!((restored.files_restored, problems.len()), (1, 1), "{problems:?}");
    assert!(problems[0].starts_with("/neither: "), "{problems:?}");
    assert_eq!(target.read("both"), b"both");
}

fn quickly<T>(work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = work();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    done
}

const TIB: u64 = 1 << 40;

#[test]
fn a_huge_sparse_file() {
    let maker = Maker::new();
    let chunk = maker.chunk(&[5; 4096]);
    let page = |extents| maker.content_page(&ContentPage::Extents(extents));
    let half = TIB / 2;
    let pages = vec![
        ExtentPage { len: half, id: page(vec![hole(half - 4096), chunk]) },
        ExtentPage { len: half, id: page(vec![chunk, hole(half - 8192), chunk]) },
    ];
    let root = maker.dir(vec![
        file("a", TIB, Content::Extents(vec![hole(TIB)])),
        file("b", TIB, Content::Pages { level: 1, pages }),
    ]);
    let repo = maker.open();
    let mut target = Target::new();
    let options = RestoreOptions { verify: true, ..Default::default() };
    let restored = quickly(|| target.restore_with(&repo, &root, &options));
    assert_eq!((restored.bytes_written, restored.verified), (3 * 4096, 2));
    assert_eq!(target.progress, (2, 2 * TIB));
    for name in ["a", "b"] {
        let m = fs::metadata(target.path(name)).unwrap();
        assert_eq!(m.len(), TIB);
        assert!(m.blocks() < 1000, "{name} has {} blocks", m.blocks());
    }
    let again = quickly(|| target.restore_with(&repo, &root, &options));
    assert_eq!((again.files_unchanged, again.verified), (2, 2));
    // One that is compared with what lies there.
    fs::write(target.path("b"), b"short").unwrap();
    quickly(|| target.restore_with(&repo, &root, &options));
}

#[test]
fn sizes_that_no_file_has() {
    let maker = Maker::new();
    let chunk = maker.chunk(&[5; 4096]);
    let sizes = [1 << 63, u64::MAX, i64::MAX as u64];
    let mut nodes: Vec<Node> = Vec::new();
    for (i, size) in sizes.into_iter().enumerate() {
        let extents = |rest| Content::Extents(vec![hole(size - rest), chunk]);
        nodes.push(file(&format!("hole{i}"), size, Content::Extents(vec![hole(size)])));
        nodes.push(file(&format!("data{i}"), size, extents(4096)));
    }
    let names: Vec<_> = nodes.iter().map(|n| n.name.clone()).collect();
    let root = maker.dir(nodes);
    for verify in [false, true] {
        let options = RestoreOptions { verify, ..Default::default() };
        let mut target = Target::new();
        let repo = maker.open();
        let (restored, problems) = quickly(|| target.try_restore(&repo, &root, &options));
        // The largest possible ones may work on some file systems.
        assert!(problems.len() >= 4, "{problems:?}");
        assert_eq!(restored.files_restored + restored.errors, names.len() as u64);
    }
}

/// Listings go by the counts in the pages above; what lies in them must not be endless
/// or show an entry twice.
#[test]
fn pages_that_lie_about_their_entries() {
    let maker = Maker::new();
    let leaf = |names: &[&str]| maker.page(names.iter().map(|n| maker.file(n, b"x")).collect());
    let (a, b) = (leaf(&["a1", "a2"]), leaf(&["b1", "b2"]));
    for (of_a, of_b) in [(1000, 2), (0, 0), (1, 2), (2, u64::MAX), (2, 2)] {
        let branch = |first: &str, entries, id| Branch { first: first.into(), entries, id };
        let page = TreePage::Branch(vec![branch("a1", of_a, a), branch("b1", of_b, b)]);
        let root = maker.put(BlobKind::Tree, &page.encode());
        let repo = maker.open();
        let honest = (of_a, of_b) == (2, 2);
        for skip in 0..6 {
            let listed: Vec<_> = tree::entries_from(&repo, &root, skip).take(50).collect();
            assert!(listed.len() <= 4, "{of_a} {of_b}: {} from {skip}", listed.len());
            assert!(
                !honest
                    || listed.iter().all(Result::is_ok)
                        && listed.len() as u64 == 4u64.saturating_sub(skip)
            );
        }
        let last = tree::position(&repo, &root, b"b2").ok().flatten();
        assert!(!honest || last.is_some_and(|(index, node)| index == 3 && node.name == b"b2"));
    }
}

/// A name is found where lookups look for it, or nowhere; and nothing comes twice.
#[test]
fn pages_that_hold_other_names_than_told() {
    let maker = Maker::new();
    let leaf = |names: &[&str]| maker.page(names.iter().map(|n| maker.file(n, b"x")).collect());
    let branch = |first: &str, entries, id| Branch { first: first.into(), entries, id };
    let put = |pages| maker.put(BlobKind::Tree, &TreePage::Branch(pages).encode());
    let (a, b) = (leaf(&["a1", "a2"]), leaf(&["b1", "b2"]));
    let wide = leaf(&["a1", "b1"]);
    let inner = put(vec![branch("b1", 2, b), branch("c1", 1, leaf(&["c1"]))]);
    let cases = [
        (true, put(vec![branch("a1", 2, a), branch("b1", 2, b)])),
        (true, put(vec![branch("a1", 2, a), branch("b1", 3, inner), branch("d", 1, leaf(&["d"]))])),
        (false, put(vec![branch("a0", 2, a), branch("b1", 2, b)])),
        (false, put(vec![branch("a1", 2, a), branch("a2", 2, a)])),
        (false, put(vec![branch("a1", 2, wide), branch("b1", 2, b)])),
        (
            false,
            put(vec![branch("a1", 2, a), branch("b1", 3, inner), branch("c1", 1, leaf(&["c1"]))]),
        ),
    ];
    let repo = maker.open();
    for (case, (honest, root)) in cases.into_iter().enumerate() {
        let listed: Vec<_> = tree::entries(&repo, &root).collect();
        assert_eq!(listed.iter().all(Result::is_ok), honest, "{case}");
        let names: Vec<_> = listed.into_iter().flatten().map(|n| n.name).collect();
        assert!(names.is_sorted_by(|a, b| a < b), "{case}: {names:?}");
        for name in &names {
            let found = tree::lookup(&repo, &root, name);
            assert!(!honest || found.unwrap().is_some_and(|n| n.name == *name), "{case}");
        }
        let lost = tree::lookup(&repo, &root, if case == 2 { b"a1" } else { b"zz" });
        assert!(lost.map_or(true, |found| found.is_none() || case != 2), "{case}");
    }
}

/// Who has the key can say in the index that a blob lies where another one does. That
/// the other one was read from there makes it no other.
#[test]
fn a_false_index_entry_shows_no_other_blob() {
    let maker = Maker::new();
    let (one, other) = (maker.file("one", b"right"), maker.file("other", b"wrong"));
    let root = maker.dir(vec![one.clone(), other.clone()]);
    let repo = maker.open();
    let [one, other] = [one, other].map(|node| chunk_of(&node));
    let at = |id| repo.index().find(id).unwrap().location;
    let (place, true_place) = (at(&one), at(&other));
    let segment = repo.read_segment(&place.segment).unwrap();
    assert_eq!(segment.blob(BlobKind::Data, &one, &place).unwrap(), b"right");
    for _ in 0..2 {
        assert!(segment.blob(BlobKind::Data, &other, &place).is_err());
        assert!(segment.blob(BlobKind::Tree, &one, &place).is_err());
        let shorter = Location { len: 4, ..place };
        assert!(segment.blob(BlobKind::Data, &one, &shorter).is_err());
        assert_eq!(segment.blob(BlobKind::Data, &one, &place).unwrap(), b"right");
    }
    // The same with an index object that says so, before the one that is right.
    let mut data = IndexData::default();
    let mut false_segment = SegmentEntry::new(BlobKind::Data);
    false_segment.sealed_len = place.segment.sealed_len;
    false_segment.push(&other, place.len);
    data.packs.push(PackEntry {
        id: place.segment.pack,
        salt: place.segment.salt,
        size: 1 << 20,
        segments: vec![false_segment],
        marked: None,
    });
    assert_eq!((place.segment.offset, true_place.len), (40, place.len));
    let object = sealed::seal(repo.keys(), Purpose::Index, &data).unwrap();
    repo.put_object(ObjectKind::Index, &object).unwrap();
    let repo = maker.open();
    assert_eq!(repo.index().find_all(&other).len(), 2);
    for _ in 0..2 {
        assert_eq!(repo.read_blob(BlobKind::Data, &one).unwrap(), b"right");
        assert_eq!(repo.read_blob(BlobKind::Data, &other).unwrap(), b"wrong");
    }
    let mut target = Target::new();
    target.restore(&repo, &root);
    assert_eq!((target.read("one"), target.read("other")), (b"right".to_vec(), b"wrong".to_vec()));
}
