//! Backups as a whole: what is stored, what is not stored again, and what goes wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tresor_engine::archiver::{backup as run_backup, backup_stream};
use tresor_engine::format::{Content, Node, ObjectId, ObjectKind, ObjectName, PathBytes, Xattr};
use tresor_engine::history;
use tresor_engine::maintenance::{CheckOptions, check};
use tresor_engine::monitor::{Monitor, Quiet};
use tresor_engine::repo::{Repository, Snapshot};
use tresor_engine::restorer::read_file;
use tresor_engine::store::{MemoryStore, Store};
use tresor_engine::tree;
use tresor_testkit::{
    Body, Call, HookedStore, Item, add_streams, attributes, backup, init, open, options,
    random_bytes, random_tree, repository,
};

/// Fails if the snapshot isn't exactly the tree.
fn assert_holds(repo: &Repository, snapshot: &Snapshot, tree: &Item) {
    let mut count = 0;
    history::walk(repo, &snapshot.data.tree, &mut |path, node| {
        count += 1;
        let mut item = tree;
        for name in path.split(|b| *b == b'/').skip(1) {
            item = &item.entries()[name];
        }
        let (have, want) = (node, &item.node);
        assert_eq!(have.kind, want.kind);
        assert_eq!((have.mode, have.uid, have.gid), (want.mode, want.uid, want.gid));
        assert_eq!((have.mtime, have.size), (want.mtime, want.size), "{path:?}");
        assert_eq!(have.target, want.target);
        assert!(attributes(repo, have).unwrap() == sorted(want), "{path:?}");
        assert_eq!((have.device, have.link), (want.device, want.link));
        if let Body::File(bytes, _) = &item.body {
            let mut out = Vec::new();
            read_file(repo, node, &mut out).unwrap();
            assert!(out == **bytes, "{path:?} differs");
        }
        Ok(true)
    })
    .unwrap();
    assert_eq!(count, tree.count());
}

fn sorted(node: &Node) -> Vec<Xattr> {
    let mut all = node.xattrs().to_vec();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn stored(store: &dyn tresor_engine::store::ObjectStore) -> u64 {
    let kinds = [ObjectKind::Pack, ObjectKind::Index, ObjectKind::Snapshot];
    kinds.iter().flat_map(|k| store.list(*k).unwrap()).map(|(_, size)| size).sum()
}

#[test]
fn random_trees_come_back_exactly() {
    let repo = repository();
    for seed in 0..6 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut tree = random_tree(&mut rng, 150);
        add_streams(&mut rng, &mut tree);
        let (snapshot, outcome) = backup(&repo, &tree, &options(None));
        assert_holds(&repo, &snapshot, &tree);
        let s = outcome.data.summary;
        assert_eq!(s.files + s.directories + s.others, tree.count());
        assert_eq!(s.errors, 0);
    }
    let report =
        check(&repo, &CheckOptions { read_data: true, ..Default::default() }, &Quiet::default());
    assert!(report.unwrap().problems.is_empty());
}

#[test]
fn an_unchanged_backup_stores_next_to_nothing_and_reads_no_file() {
    let repo = repository();
    let mut rng = fastrand::Rng::with_seed(1);
    let mut tree = random_tree(&mut rng, 400);
    tree.entries_mut().insert(b"big".to_vec(), Item::file(random_bytes(&mut rng, 40 << 20)));
    let (first, _) = backup(&repo, &tree, &options(None));
    let before = stored(&**repo.store());
    let (second, outcome) = backup(&repo, &tree, &options(Some(first.clone())));
    assert_eq!(outcome.data.summary.files_unchanged, outcome.data.summary.files);
    assert_eq!((outcome.data.tree, outcome.data.summary.blobs_added), (first.data.tree, 0));
    assert!(stored(&**repo.store()) - before < 2000);
    // One byte of the large file.
    let mut bytes = tree.entries()[b"big".as_slice()].bytes().to_vec();
    bytes[20 << 20] ^= 1;
    tree.entries_mut().get_mut(b"big".as_slice()).unwrap().write(bytes);
    let (third, outcome) = backup(&repo, &tree, &options(Some(second)));
    assert_eq!(outcome.data.summary.files_changed, 1);
    assert!(outcome.data.summary.bytes_added < 2 << 20, "{:?}", outcome.data.summary);
    assert_holds(&repo, &third, &tree);
}

#[test]
fn the_same_tree_elsewhere_adds_only_pages() {
    let repo = repository();
    let tree = random_tree(&mut fastrand::Rng::with_seed(2), 300);
    backup(&repo, &tree, &options(None));
    let before = stored(&**repo.store());
    let moved = Item::dir().with("elsewhere", tree);
    let (snapshot, _) = backup(&repo, &moved, &options(None));
    assert!(stored(&**repo.store()) - before < 20_000);
    assert_holds(&repo, &snapshot, &moved);
}

/// One entry to be read before very many that need no reading: the tree builder
/// waits for it while the walk runs ahead.
#[test]
fn a_changed_file_before_many_unchanged_ones_is_no_deadlock() {
    let repo = repository();
    let mut tree = Item::dir().with("a", Item::file("first"));
    for i in 0..20_000 {
        tree.entries_mut().insert(format!("b{i:05}").into_bytes(), Item::file("same"));
    }
    let (first, _) = backup(&repo, &tree, &options(None));
    tree.entries_mut().get_mut(b"a".as_slice()).unwrap().write("second");
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (snapshot, outcome) = backup(&repo, &tree, &options(Some(first)));
        assert_holds(&repo, &snapshot, &tree);
        done.send(outcome.data.summary).unwrap();
    });
    let summary = wait.recv_timeout(Duration::from_secs(60)).expect("the backup hangs");
    assert_eq!((summary.files_changed, summary.files_unchanged), (1, 20_000));
}

#[test]
fn a_directory_of_many_entries_has_pages() {
    let repo = repository();
    let mut tree = Item::dir();
    for i in 0..30_000 {
        tree.entries_mut().insert(format!("{i}").into_bytes(), Item::file(format!("file {i}")));
    }
    let (first, _) = backup(&repo, &tree, &options(None));
    assert_holds(&repo, &first, &tree);
    let reads = || repo.counters().bytes_decoded.load(Relaxed);
    // A fresh repository has nothing cached.
    let fresh = open(repo.store());
    assert!(tree::lookup(&fresh, &first.data.tree, b"12345").unwrap().is_some());
    assert!(fresh.counters().bytes_decoded.load(Relaxed) < 2 << 20, "{}", reads());
    // One more entry changes a few pages, not all.
    tree.entries_mut().insert(b"5000x".to_vec(), Item::file("new"));
    let (_, outcome) = backup(&repo, &tree, &options(Some(first)));
    assert!(outcome.data.summary.bytes_added < 300_000, "{:?}", outcome.data.summary);
}

#[test]
fn chunk_lists_of_long_files_have_pages() {
    let repo = repository();
    let bytes = random_bytes(&mut fastrand::Rng::with_seed(3), 80 << 20);
    let tree = Item::dir().with("long", Item::file(bytes));
    let (snapshot, _) = backup(&repo, &tree, &options(None));
    let node = tree::lookup(&repo, &snapshot.data.tree, b"long").unwrap().unwrap();
    assert!(matches!(node.content, Some(Content::Pages { .. })));
    assert_holds(&repo, &snapshot, &tree);
}

#[test]
fn names_that_are_given_twice_or_impossible_don_t_spoil_the_tree() {
    let repo = repository();
    let stream = || -> Box<dyn tresor_engine::source::SourceFile> {
        Item::dir().with("x", Item::file("text")).source().open_file(b"x").unwrap()
    };
    for name in [&b"a/b"[..], b"", b"..", b"a\0"] {
        let monitor = Arc::new(Quiet::default());
        assert!(backup_stream(&repo, name, stream(), &options(None), monitor).is_err());
    }
    assert!(repo.snapshots().unwrap().is_empty());
}

/// A million tiny files that all look alike: packs must stay readable.
#[test]
fn packs_of_very_many_small_blobs_are_accepted_by_readers() {
    let repo = repository();
    let mut tree = Item::dir();
    for i in 0..130_000u32 {
        let text = format!("{i:>120}");
        tree.entries_mut()
            .insert(i.to_be_bytes().map(|b| b'a' + b % 26).to_vec(), Item::file(text));
        tree.entries_mut().insert(format!("{i}").into_bytes(), Item::file(format!("{i:>110}x")));
    }
    let (snapshot, _) = backup(&repo, &tree, &options(None));
    let fresh = open(repo.store());
    let options = CheckOptions { read_data: true, ..Default::default() };
    let report = check(&fresh, &options, &Quiet::default()).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert_eq!(fresh.snapshots().unwrap()[0].id, snapshot.id);
}

#[test]
fn a_lost_pack_is_healed_by_the_next_backup() {
    let store: Store = Arc::new(MemoryStore::new());
    init(&store);
    let tree = random_tree(&mut fastrand::Rng::with_seed(5), 200);
    let repo = open(&store);
    let (first, _) = backup(&repo, &tree, &options(None));
    // All packs and the index are lost; the snapshot is not.
    for kind in [ObjectKind::Pack, ObjectKind::Index] {
        for (name, _) in store.list(kind).unwrap() {
            store.delete(&name).unwrap();
        }
    }
    let repo = open(&store);
    let (_, outcome) = backup(&repo, &tree, &options(Some(first.clone())));
    assert!(outcome.data.summary.blobs_added > 100);
    let fresh = open(&store);
    // Both snapshots: they have the same tree.
    assert_holds(&fresh, &first, &tree);
}

fn problems(store: &Store) -> Vec<tresor_engine::maintenance::CheckProblem> {
    let options = CheckOptions { read_data: true, ..Default::default() };
    check(&open(store), &options, &Quiet::default()).unwrap().problems
}

/// A backup that tells of lost packs. Also returns how many blobs it added.
fn healing_backup(store: &Store, tree: &Item, parent: Option<Snapshot>) -> (Snapshot, u64) {
    let monitor = Arc::new(Quiet::default());
    let outcome =
        run_backup(&open(store), tree.source(), &options(parent), monitor.clone()).unwrap();
    let told = monitor.problems.lock().unwrap();
    assert!(told.len() == 1 && told[0].1.starts_with("missing or cut off: 1;"), "{told:?}");
    let blobs = outcome.data.summary.blobs_added;
    (Snapshot { id: outcome.snapshot.unwrap(), data: Arc::new(outcome.data) }, blobs)
}

/// The index still names a pack that is gone or cut off.
#[test]
fn a_lost_pack_that_the_index_names_is_healed_by_the_next_backup() {
    let base: Store = Arc::new(MemoryStore::new());
    init(&base);
    let mut rng = fastrand::Rng::with_seed(8);
    let long = Item::file(random_bytes(&mut rng, 42 << 20));
    let tree = random_tree(&mut rng, 100).with("long", long);
    let (first, _) = backup(&open(&base), &tree, &options(None));
    let node = tree::lookup(&open(&base), &first.data.tree, b"long").unwrap().unwrap();
    assert!(matches!(node.content, Some(Content::Pages { .. })));
    let names = |kind| base.list(kind).unwrap().into_iter().map(|(name, _)| name);
    for pack in names(ObjectKind::Pack) {
        for (parent, cut) in [(Some(&first), false), (None, false), (Some(&first), true)] {
            let store: Store = Arc::new(MemoryStore::new());
            for name in ObjectKind::ALL.into_iter().flat_map(names) {
                let bytes = base.get(&name).unwrap();
                match name == pack {
                    true if cut => store.put(&name, &bytes[..bytes.len() / 2]).unwrap(),
                    true => {}
                    false => store.put(&name, &bytes).unwrap(),
                }
            }
            let (second, blobs_added) = healing_backup(&store, &tree, parent.cloned());
            assert!(blobs_added > 0);
            // What is left of a pack that was cut off is told of until prune removes it.
            let left = problems(&store);
            assert!(left.iter().all(|p| cut && p.object == pack.path()), "{left:#?}");
            assert!(left.iter().all(|p| p.files.is_empty()), "{left:#?}");
            for snapshot in [&first, &second] {
                assert_holds(&open(&store), snapshot, &tree);
            }
            let (_, outcome) = backup(&open(&store), &tree, &options(Some(second)));
            assert_eq!(outcome.data.summary.blobs_added, 0);
        }
    }
}

/// Packs are listed once, to see which are lost; nothing else is asked of the store
/// about them.
#[test]
fn an_unchanged_backup_lists_packs_once() {
    let store: Store = Arc::new(MemoryStore::new());
    init(&store);
    let tree = random_tree(&mut fastrand::Rng::with_seed(9), 50);
    let (first, _) = backup(&open(&store), &tree, &options(None));
    let calls = Arc::new(std::sync::Mutex::new(Vec::new()));
    let noted = calls.clone();
    let hooked: Store = Arc::new(HookedStore::new(store, move |call: &Call| {
        noted.lock().unwrap().push(*call);
        Ok(())
    }));
    let repo = open(&hooked);
    calls.lock().unwrap().clear();
    backup(&repo, &tree, &options(Some(first)));
    let calls = calls.lock().unwrap();
    let about = |wanted: fn(&Call) -> bool| calls.iter().filter(|c| wanted(c)).count();
    assert_eq!(about(|c| matches!(c, Call::List(ObjectKind::Pack))), 1);
    assert_eq!(about(|c| matches!(c, Call::Size(name) if name.kind == ObjectKind::Pack)), 0);
}

/// Full packs have all the same length, table and all, and are padded by less than a segment.
#[test]
fn full_packs_are_hardly_padded() {
    let store: Store = Arc::new(MemoryStore::new());
    init(&store);
    let mut rng = fastrand::Rng::with_seed(17);
    let tree = (0..8_000).fold(Item::dir(), |tree, i| {
        let mut noise = vec![0; rng.usize(1000..20_000)];
        rng.fill(&mut noise);
        tree.with(format!("{i:05}"), Item::file(noise))
    });
    backup(&open(&store), &tree, &options(None));
    let packs = store.list(ObjectKind::Pack).unwrap();
    let full = packs.iter().filter(|(_, len)| *len == 16 << 20).count();
    assert!(full >= 3 && packs.iter().all(|(_, len)| *len <= 16 << 20), "{packs:?}");
}

/// A monitor that asks to stop after some bytes.
struct StopAfter(Quiet, u64);

impl Monitor for StopAfter {
    fn progress(&self) -> &tresor_engine::monitor::Progress {
        let progress = self.0.progress();
        if progress.bytes.load(Relaxed) > self.1 {
            progress.stop.store(true, Relaxed);
        }
        progress
    }

    fn problem(&self, path: &str, message: &str) {
        self.0.problem(path, message);
    }
}

#[test]
fn an_interrupted_first_backup_is_not_sent_again() {
    let store: Store = Arc::new(MemoryStore::new());
    init(&store);
    let mut rng = fastrand::Rng::with_seed(6);
    let mut tree = Item::dir();
    for i in 0..60 {
        let bytes = random_bytes(&mut rng, 3 << 20);
        tree.entries_mut().insert(format!("{i:03}").into_bytes(), Item::file(bytes));
    }
    let monitor = Arc::new(StopAfter(Quiet::default(), 120 << 20));
    let repo = open(&store);
    let result = run_backup(&repo, tree.source(), &options(None), monitor);
    assert!(matches!(result, Err(tresor_engine::Error::Interrupted)));
    assert!(repo.snapshots().unwrap().is_empty());
    let arrived: u64 = store.list(ObjectKind::Pack).unwrap().iter().map(|(_, size)| size).sum();
    assert!(arrived > 16 << 20, "{arrived}");
    let (snapshot, outcome) = backup(&open(&store), &tree, &options(None));
    let whole = stored(&*store);
    assert!(outcome.data.summary.bytes_stored + arrived < whole + whole / 50);
    assert_holds(&open(&store), &snapshot, &tree);
}

/// Whatever was being done when everything stopped: what is in a pack in the store is not
/// stored again, though no index object names the pack.
#[test]
fn what_a_dead_backup_has_stored_is_taken_up() {
    let mut rng = fastrand::Rng::with_seed(8);
    let mut tree = Item::dir();
    for i in 0..20 {
        let bytes = random_bytes(&mut rng, 3 << 20);
        tree.entries_mut().insert(format!("{i:03}").into_bytes(), Item::file(bytes));
    }
    for (packs, rots) in [(1, false), (2, false), (2, true)] {
        let store: Store = Arc::new(MemoryStore::new());
        init(&store);
        let count = AtomicU64::new(0);
        let dying = HookedStore::new(store.clone(), move |call: &Call| {
            let is_pack = matches!(call, Call::Put(name) if name.kind == ObjectKind::Pack);
            let is_other = matches!(call, Call::Put(_) | Call::Delete(_));
            match count.fetch_add(is_pack.into(), Relaxed) {
                before if before < packs && (is_pack || !is_other) => Ok(()),
                _ => Err(HookedStore::broken()),
            }
        });
        let repo = open(&(Arc::new(dying) as Store));
        assert!(
            run_backup(&repo, tree.source(), &options(None), Arc::new(Quiet::default())).is_err()
        );
        let there = store.list(ObjectKind::Pack).unwrap();
        assert_eq!((there.len() as u64, store.list(ObjectKind::Index).unwrap().len()), (packs, 0));
        let arrived: u64 = there.iter().map(|(_, size)| size).sum();
        // One that is cut off is of no use, and no hindrance.
        let cut = ObjectName::new(ObjectKind::Pack, ObjectId([9; 32]));
        let bytes = store.get(&there[0].0).unwrap();
        store.put(&cut, &bytes[..bytes.len() / 2]).unwrap();

        if rots {
            let mut rotten = bytes.clone();
            rotten[5000] ^= 1;
            store.replace(&there[0].0, &rotten).unwrap();
            let (snapshot, _) = backup(&open(&store), &tree, &options(None));
            assert_holds(&open(&store), &snapshot, &tree);
            continue;
        }

        let (snapshot, outcome) = backup(&open(&store), &tree, &options(None));
        let whole = stored(&*store) - bytes.len() as u64 / 2;
        let again = (outcome.data.summary.bytes_stored + arrived).saturating_sub(whole);
        assert!(again < 100_000, "{again} bytes were sent again");
        assert_holds(&open(&store), &snapshot, &tree);
        let report = check(&open(&store), &CheckOptions::default(), &Quiet::default()).unwrap();
        assert!(report.problems.is_empty() && report.unused_packs == 1, "{report:?}");
    }
}

/// Every call of the store fails once; what was saved before stays whole, and
/// the next backup succeeds.
#[test]
fn every_call_may_fail() {
    let inner: Store = Arc::new(MemoryStore::new());
    init(&inner);
    let mut rng = fastrand::Rng::with_seed(7);
    let mut tree = random_tree(&mut rng, 60);
    let (first, _) = backup(&open(&inner), &tree, &options(None));
    let old = tree.clone();
    let (calls, fail_at) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(u64::MAX)));
    let armed = Arc::new(AtomicBool::new(false));
    let hooked: Store = {
        let (calls, fail_at, armed) = (calls.clone(), fail_at.clone(), armed.clone());
        Arc::new(HookedStore::new(inner.clone(), move |_: &Call| {
            let n = calls.fetch_add(1, Relaxed);
            if armed.load(Relaxed) && n == fail_at.load(Relaxed) {
                return Err(HookedStore::broken());
            }
            Ok(())
        }))
    };
    let repo = open(&hooked);
    armed.store(true, Relaxed);
    let mut failures = 0;
    for n in 0.. {
        tree.entries_mut()
            .insert(format!("new{n}").into_bytes(), Item::file(random_bytes(&mut rng, 5000)));
        calls.store(0, Relaxed);
        fail_at.store(n, Relaxed);
        let result = run_backup(
            &repo,
            tree.source(),
            &options(Some(first.clone())),
            Arc::new(Quiet::default()),
        );
        if calls.load(Relaxed) <= n {
            result.unwrap();
            break;
        }
        failures += u32::from(result.is_err());
        let count = repo.snapshots().unwrap().len();
        assert!(count as u64 <= n + 2);
    }
    assert!(failures >= 5, "{failures}");
    fail_at.store(u64::MAX, Relaxed);
    let fresh = open(&inner);
    let report =
        check(&fresh, &CheckOptions { read_data: true, ..Default::default() }, &Quiet::default());
    assert!(report.as_ref().unwrap().problems.is_empty(), "{report:?}");
    assert_holds(&fresh, &first, &old);
    let newest = fresh.snapshots().unwrap().pop().unwrap();
    assert_holds(&fresh, &newest, &tree);
}

/// Keeps what is left out.
#[derive(Default)]
struct LeftOut {
    quiet: Quiet,
    all: std::sync::Mutex<Vec<(String, Option<String>)>>,
}

impl Monitor for LeftOut {
    fn progress(&self) -> &tresor_engine::monitor::Progress {
        self.quiet.progress()
    }

    fn problem(&self, path: &str, message: &str) {
        self.quiet.problem(path, message);
    }

    fn left_out(&self, path: &dyn Fn() -> String, why: Option<&str>) {
        self.all.lock().unwrap().push((path(), why.map(str::to_owned)));
    }
}

#[test]
fn what_is_left_out_is_told_with_the_systems_reason() {
    let repo = repository();
    let names = ["Page.sys", "notes.txt", "keep.txt"];
    let tree = names.iter().fold(Item::dir(), |tree, name| tree.with(*name, Item::file(b"x")));
    let mut options = options(None);
    let rule = tresor_engine::exclude::SystemRule {
        patterns: vec!["/page.SYS".into()],
        files_only: false,
        why: "list, entry".into(),
    };
    options.exclude.add_system(&rule).unwrap();
    options.exclude.add("notes.*").unwrap();
    let monitor = Arc::new(LeftOut::default());
    let outcome = run_backup(&repo, tree.source(), &options, monitor.clone()).unwrap();
    assert_eq!(outcome.data.summary.files, 1);
    let told = [("/Page.sys", Some("list, entry")), ("/notes.txt", None)];
    let told = told.map(|(path, why)| (path.to_owned(), why.map(str::to_owned)));
    assert_eq!(*monitor.all.lock().unwrap(), told);
}

/// As `--files-from` may give them.
#[test]
fn very_many_paths_are_soon_sorted_out() {
    let tree = Item::dir()
        .with("a", Item::dir().with("b", Item::file("b")).with("c", Item::file("c")))
        .with("a-b", Item::file("a-b"))
        .with("x", Item::dir().with("y", Item::file("y")).with("z", Item::file("z")));
    let mut options = options(None);
    // `-` comes before `/`.
    let some = ["/a/b", "/a-b", "/a", "/x/y", "/a/b/c", "/x//y/"].map(str::to_owned);
    let many = (0..200_000).map(|n| format!("/gone/{n}"));
    options.paths = some.into_iter().chain(many).map(|p| PathBytes(p.into_bytes())).collect();
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (repo, monitor) = (repository(), Arc::new(Quiet::default()));
        let outcome = run_backup(&repo, tree.source(), &options, monitor.clone()).unwrap();
        let problems = monitor.problems.lock().unwrap().clone();
        done.send((outcome.data.summary.files, problems)).unwrap();
    });
    let (files, problems) = wait.recv_timeout(Duration::from_secs(60)).expect("it takes too long");
    assert_eq!(files, 4);
    let of = problems.iter().map(|problem| problem.0.as_str());
    assert_eq!(of.collect::<Vec<_>>(), ["/a/b", "/gone"], "{problems:?}");
}
