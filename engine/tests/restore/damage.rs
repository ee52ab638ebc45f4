//! What can't be read keeps nothing else from being restored.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use fastrand::Rng;
use tresor_engine::format::{Content, ContentPage, Extent, ExtentPage};
use tresor_engine::restorer::{RestoreOptions, read_file};
use tresor_engine::store::{MemoryStore, Store, StoreError, StoreErrorKind};
use tresor_engine::{Error, tree};
use tresor_testkit::{Call, HookedStore, Item, backup, init, open, options, random_bytes};

use crate::kit::*;

#[test]
fn a_damaged_pack_affects_only_its_files() {
    let mut rng = Rng::with_seed(3);
    let mut tree = Item::dir();
    for i in 0..20 {
        let bytes = random_bytes(&mut rng, 100_000 + i * 1000);
        tree = tree.with(format!("{i:02}"), Item::file(bytes));
    }
    fit(&mut tree);
    let store: Store = Arc::new(MemoryStore::new());
    init(&store);
    let repo = open(&store);
    let (snapshot, _) = backup(&repo, &tree, &options(None));
    let root = snapshot.data.tree;
    let node = tree::resolve(&repo, &root, &[b"07"]).unwrap().unwrap();
    damage(&store, &repo, &chunk_of(&node));
    let mut target = Target::new();
    target.write("07", b"the old file");
    let (restored, problems) = target.try_restore(&open(&store), &root, &Default::default());
    assert_eq!((restored.files, restored.files_restored, restored.errors), (20, 19, 1));
    assert!(problems[0].starts_with("/07: not restored: "), "{problems:?}");
    assert_eq!(target.read("07"), b"the old file");
    let all = &snapshot.data.summary;
    assert_eq!(target.progress, (all.files, all.bytes));
    tree.entries_mut().remove(&b"07"[..]);
    std::fs::remove_file(target.path("07")).unwrap();
    assert_same(&*target.source(), &tree);
}

/// A store whose reads of one pack fail in this way.
fn failing(maker: &Maker, pack: tresor_engine::format::ObjectName, kind: StoreErrorKind) -> Store {
    Arc::new(HookedStore::new(maker.store.clone(), move |call| match call {
        Call::GetRange(name, ..) if *name == pack => {
            Err(StoreError::new(kind, "read", "pack", "it can't"))
        }
        _ => Ok(()),
    }))
}

#[test]
fn a_page_that_cannot_be_read_is_a_problem_of_its_directory() {
    let maker = Maker::new();
    let inside = maker.dir(vec![maker.file("x", b"x")]);
    let root = maker.dir(vec![
        maker.file("a", b"a"),
        dir("broken", inside),
        dir("whole", maker.dir(vec![maker.file("y", b"y")])),
        maker.file("z", b"z"),
    ]);
    use StoreErrorKind::{NotFound, Other, PermissionDenied, Truncated, Unreadable};
    for kind in [NotFound, Truncated, Unreadable, PermissionDenied, Other] {
        let repo = open(&failing(&maker, maker.pack_of(&inside), kind));
        let mut target = Target::new();
        target.write("broken/old", b"old");
        let options = RestoreOptions { delete: true, ..Default::default() };
        let (restored, problems) = target.try_restore(&repo, &root, &options);
        assert_eq!(problems.len(), 1, "{kind:?} {problems:?}");
        assert!(problems[0].starts_with("/broken: not whole: "), "{problems:?}");
        assert_eq!((restored.files_restored, restored.directories), (3, 2));
        // It isn't known that this is superfluous.
        assert_eq!(target.read("broken/old"), b"old");
        assert_eq!(target.read("whole/y"), b"y");
        assert_eq!(target.read("z"), b"z");
    }
}

#[test]
fn pages_that_mean_nothing_and_files_that_cannot_be_read() {
    let maker = Maker::new();
    let nonsense = maker.put(tresor_engine::format::BlobKind::Tree, b"nonsense");
    let bad = maker.file("bad", &[1; 1000]);
    let root = maker.dir(vec![bad.clone(), dir("broken", nonsense), maker.file("good", b"good")]);
    for kind in [StoreErrorKind::Unreadable, StoreErrorKind::Other] {
        let repo = open(&failing(&maker, maker.pack_of(&chunk_of(&bad)), kind));
        let mut target = Target::new();
        let (restored, mut problems) = target.try_restore(&repo, &root, &Default::default());
        problems.sort();
        assert_eq!((restored.files_restored, problems.len()), (1, 2), "{problems:?}");
        assert!(problems[0].starts_with("/bad: not restored: "), "{problems:?}");
        assert!(problems[1].starts_with("/broken: not whole: "), "{problems:?}");
        assert_eq!(target.read("good"), b"good");
    }
}

/// A million problems wouldn't help anybody.
#[test]
fn a_store_that_is_gone_ends_the_restore() {
    let maker = Maker::new();
    let files = (0..200).map(|i| maker.file(&format!("{i:03}"), &[i as u8; 500])).collect();
    let root = maker.dir(files);
    let gone = Arc::new(AtomicBool::new(false));
    let unplugged = gone.clone();
    let store = HookedStore::new(maker.store.clone(), move |_| {
        if unplugged.load(Relaxed) { Err(HookedStore::broken()) } else { Ok(()) }
    });
    let repo = open(&(Arc::new(store) as Store));
    repo.tree_page(&root).unwrap();
    gone.store(true, Relaxed);
    let mut target = Target::new();
    let sink = target.sink();
    let (restored, problems) = target.run(&repo, &root, &[], sink, &Default::default());
    assert!(matches!(restored, Err(Error::Store(_))), "{restored:?}");
    assert_eq!(problems, [""; 0]);
}

/// Lists of chunks that don't add up are never taken for files with zeros in them.
#[test]
fn contents_that_do_not_add_up() {
    let maker = Maker::new();
    let chunk = maker.chunk(&[9; 1000]);
    let wrong = Extent { len: 900, ..chunk };
    let list = |extents: &[Extent]| Content::Extents(extents.to_vec());
    let page = |extents: &[Extent]| maker.content_page(&ContentPage::Extents(extents.to_vec()));
    let pages = |level, pages: &[(u64, tresor_engine::format::BlobId)]| {
        let pages = pages.iter().map(|(len, id)| ExtentPage { len: *len, id: *id }).collect();
        Content::Pages { level, pages }
    };
    let huge = hole(u64::MAX);
    let cases = [
        // These a page of a tree may be refused for as a whole.
        ("unknown", 1000, None),
        ("short", 2000, Some(list(&[chunk]))),
        ("long", 500, Some(list(&[chunk]))),
        ("inline", 4, Some(Content::Inline(b"abc".to_vec()))),
        ("overflow", 999, Some(list(&[huge, chunk]))),
        // And these show only when the file is read.
        ("blob_is_longer", 900, Some(list(&[wrong]))),
        ("gap", 2000, Some(pages(1, &[(1500, page(&[chunk])), (500, page(&[hole(500)]))]))),
        ("gap_at_the_end", 2000, Some(pages(1, &[(2000, page(&[chunk, hole(999)]))]))),
        ("overlap", 2000, Some(pages(1, &[(500, page(&[chunk])), (1500, page(&[hole(1500)]))]))),
        ("beyond", 1000, Some(pages(1, &[(1000, page(&[chunk, chunk]))]))),
        ("wrong_level", 1000, Some(pages(2, &[(1000, page(&[chunk]))]))),
        ("level_zero", 1000, Some(pages(0, &[(1000, page(&[chunk]))]))),
        ("empty_extent", 1000, Some(pages(1, &[(1000, page(&[hole(0), chunk]))]))),
        ("overflow_below", 1000, Some(pages(1, &[(1000, page(&[chunk, huge]))]))),
    ];
    let repo = maker.open();
    for (name, size, content) in cases {
        let mut node = file(name, size, Content::empty());
        node.content = content;
        let root = maker.dir(vec![node.clone()]);
        repo.refresh_index().unwrap();
        let mut target = Target::new();
        target.write(name, b"old");
        let (restored, problems) = target.try_restore(&repo, &root, &Default::default());
        assert_eq!((restored.files_restored, problems.len()), (0, 1), "{name} {problems:?}");
        assert_eq!(target.read(name), b"old", "{name}");
        assert!(read_file(&repo, &node, &mut Vec::new()).is_err(), "{name}");
    }
    // And one that does, in pages of pages with windows in between.
    let inner = maker.content_page(&ContentPage::Pages(vec![
        ExtentPage { len: 2000, id: page(&[chunk, hole(1000)]) },
        ExtentPage { len: 1000, id: page(&[chunk]) },
    ]));
    let node = file(
        "f",
        4000,
        pages(
            2,
            &[
                (3000, inner),
                (
                    1000,
                    maker.content_page(&ContentPage::Pages(vec![ExtentPage {
                        len: 1000,
                        id: page(&[hole(1000)]),
                    }])),
                ),
            ],
        ),
    );
    let root = maker.dir(vec![node.clone()]);
    let mut target = Target::new();
    let options = RestoreOptions { verify: true, ..Default::default() };
    target.restore_with(&maker.open(), &root, &options);
    let wanted = [[9; 1000], [0; 1000], [9; 1000], [0; 1000]].concat();
    assert_eq!(target.read("f"), wanted);
    let mut read = Vec::new();
    read_file(&maker.open(), &node, &mut read).unwrap();
    assert_eq!(read, wanted);
}

/// Well compressed data doesn't make a short read an endless one.
#[test]
fn runs_are_bounded_by_what_they_become() {
    let maker = Maker::new();
    let chunks: Vec<_> = (0..64).map(|i| vec![i as u8; 1 << 20]).collect();
    let ids = maker.put_all(tresor_engine::format::BlobKind::Data, &chunks);
    let extents = ids.iter().map(|id| Extent { len: 1 << 20, id: Some(*id) }).collect();
    let root = maker.dir(vec![file("f", 64 << 20, Content::Extents(extents))]);
    let repo = maker.open();
    repo.tree_page(&root).unwrap();
    let before = repo.counters().store_reads.load(Relaxed);
    let mut target = Target::new();
    target.restore(&repo, &root);
    assert!(target.read("f").chunks(1 << 20).zip(&chunks).all(|(a, b)| a == b));
    let reads = repo.counters().store_reads.load(Relaxed) - before;
    assert!((8..=32).contains(&reads), "{reads}");
}
