//! What was asked for is saved, whatever becomes of what lies around it.

use std::io;
use std::sync::Arc;

use tresor_engine::archiver::{BackupOptions, Outcome, Totals, backup, count};
use tresor_engine::exclude::Patterns;
use tresor_engine::format::{Node, PathBytes};
use tresor_engine::history;
use tresor_engine::monitor::Quiet;
use tresor_engine::source::{Room, SourceDir, SourceFile};
use tresor_testkit::{Item, options, repository};

/// A source in which whatever is called `mnt` is a file system of its own.
struct Mounted {
    dir: Arc<dyn SourceDir>,
    device: u64,
}

impl SourceDir for Mounted {
    fn names(&self) -> io::Result<Vec<Vec<u8>>> {
        self.dir.names()
    }

    fn stat(&self, name: &[u8]) -> io::Result<(Node, u64)> {
        let (node, _) = self.dir.stat(name)?;
        Ok((node, self.device + u64::from(name == b"mnt")))
    }

    fn device(&self) -> io::Result<Option<u64>> {
        Ok(Some(self.device))
    }

    fn details(&self, node: &mut Node, room: &mut Room) -> io::Result<()> {
        self.dir.details(node, room)
    }

    fn open_dir(&self, name: &[u8]) -> io::Result<Arc<dyn SourceDir>> {
        let device = self.device + u64::from(name == b"mnt");
        Ok(Arc::new(Self { dir: self.dir.open_dir(name)?, device }))
    }

    fn open_file(&self, name: &[u8]) -> io::Result<Box<dyn SourceFile>> {
        self.dir.open_file(name)
    }
}

const TAG: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

fn source() -> Arc<dyn SourceDir> {
    let file = || Item::file("x");
    let dir = |name: &str| Item::dir().with(name, file());
    let inner = dir("f").with("mnt", dir("g"));
    let cache = dir("cached").with("CACHEDIR.TAG", Item::file(TAG)).with("keep", dir("k"));
    let tree = Item::dir()
        .with("cache", cache)
        .with("home", Item::dir().with("mnt", inner).with("note", file()))
        .with("mnt", dir("h"))
        .with("out", dir("o").with("keep", dir("k")));
    Arc::new(Mounted { dir: tree.source(), device: 1 })
}

fn asking(paths: &[&str], exclude: &[&str]) -> BackupOptions {
    BackupOptions {
        paths: paths.iter().map(|path| PathBytes(path.as_bytes().to_vec())).collect(),
        exclude: Patterns::new(exclude).unwrap(),
        one_file_system: true,
        exclude_caches: true,
        ..options(None)
    }
}

fn run(options: &BackupOptions) -> (Vec<String>, Vec<String>, Outcome) {
    let (repo, monitor) = (repository(), Arc::new(Quiet::default()));
    let outcome = backup(&repo, source(), options, monitor.clone()).unwrap();
    let mut files = Vec::new();
    history::walk(&repo, &outcome.data.tree, &mut |path, node| {
        if node.is_file() {
            files.push(String::from_utf8(path.to_vec()).unwrap());
        }
        Ok(true)
    })
    .unwrap();
    let problems = monitor.problems.lock().unwrap().iter().map(|p| p.0.clone()).collect();
    (files, problems, outcome)
}

#[test]
fn what_was_asked_for_is_saved() {
    let tag = "/cache/CACHEDIR.TAG";
    let cases: &[(&[&str], &[&str], &[&str])] = &[
        // Each path's own file system.
        (&["/"], &[], &[tag, "/home/note", "/out/keep/k", "/out/o"]),
        (&["/", "/mnt"], &[], &[tag, "/home/note", "/mnt/h", "/out/keep/k", "/out/o"]),
        (&["/home", "/home/mnt"], &[], &["/home/mnt/f", "/home/note"]),
        (&["/home", "/home/mnt/mnt"], &[], &["/home/mnt/mnt/g", "/home/note"]),
        (&["/home/mnt/mnt", "/home/mnt"], &[], &["/home/mnt/f", "/home/mnt/mnt/g"]),
        // What lies in something that is left out.
        (&["/out", "/out/keep"], &["/out"], &["/out/keep/k"]),
        (&["/", "/out/keep"], &["out", "home", "cache"], &["/out/keep/k"]),
        (&["/cache", "/cache/keep"], &[], &[tag, "/cache/keep/k"]),
        // What is left out itself is, though its name is typed.
        (&["/out", "/home"], &["out"], &["/home/note"]),
        // Once is enough.
        (&["/home", "/home", "/home/note", "//home/"], &[], &["/home/note"]),
    ];
    for (paths, exclude, expected) in cases {
        let options = asking(paths, exclude);
        let (files, problems, outcome) = run(&options);
        assert_eq!(files, *expected, "{paths:?} without {exclude:?}");
        assert!(problems.is_empty(), "{paths:?}: {problems:?}");
        // What is counted beforehand is what is saved.
        let summary = &outcome.data.summary;
        let Totals { entries, bytes } = count(&source(), &options, &|| false).unwrap();
        assert_eq!((entries, bytes), (summary.entries(), summary.bytes), "{paths:?}");
    }
}

#[test]
fn what_is_not_there_is_missed_wherever_it_is() {
    for paths in [&["/home", "/home/gone"][..], &["/", "/home/gone"], &["/mnt", "/home/gone"]] {
        let (_, problems, outcome) = run(&asking(paths, &[]));
        assert_eq!(problems, ["/home/gone"], "{paths:?}");
        assert_eq!(outcome.data.summary.errors, 1);
    }
}

#[test]
fn a_snapshot_of_nothing_is_not_made() {
    let monitor = Arc::new(Quiet::default());
    for (paths, exclude) in [(&["/out"][..], &["out"][..]), (&["/out", "/mnt"], &["out", "mnt/"])] {
        let repo = repository();
        let failed = backup(&repo, source(), &asking(paths, exclude), monitor.clone());
        let message = failed.err().unwrap().to_string();
        assert!(message.contains("no snapshot was made"), "{message}");
        assert!(repo.snapshots().unwrap().is_empty());
    }
}
