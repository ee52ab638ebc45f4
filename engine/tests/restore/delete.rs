//! What a restore removes, and what it must not.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tresor_engine::format::Content;
use tresor_engine::restorer::RestoreOptions;

use crate::kit::*;

fn delete() -> RestoreOptions {
    RestoreOptions { delete: true, ..Default::default() }
}

#[test]
fn what_is_superfluous_goes() {
    let maker = Maker::new();
    let sub = maker.dir(vec![maker.file("f", b"f")]);
    let root =
        maker.dir(vec![maker.file("a", b"a"), maker.file("skipped", b"new"), dir("sub", sub)]);
    let mut target = Target::new();
    for path in
        ["sub/extra", "sub/more/deep/x", "extra", ".tresor-0123", "skipped", "x.keep", "sub/y.keep"]
    {
        target.write(path, b"old");
    }
    let exclude = patterns(&["skipped", "*.keep"]);
    let options = RestoreOptions { exclude, ..delete() };
    let restored = target.restore_with(&maker.open(), &root, &options);
    assert_eq!(restored.deleted, 4);
    let names = |path: &str| {
        let entries = fs::read_dir(target.path(path)).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(""), ["a", "skipped", "sub", "x.keep"]);
    assert_eq!(names("sub"), ["f", "y.keep"]);
    assert_eq!(target.read("skipped"), b"old");
}

#[test]
fn only_in_what_was_asked_for() {
    let maker = Maker::new();
    let sub = maker.dir(vec![maker.file("f", b"f")]);
    let root = maker.dir(vec![dir("other", sub), dir("sub", sub)]);
    let mut target = Target::new();
    for path in ["sub/extra", "other/extra", "extra"] {
        target.write(path, b"old");
    }
    let options = RestoreOptions { include: patterns(&["/sub"]), ..delete() };
    assert_eq!(target.restore_with(&maker.open(), &root, &options).deleted, 1);
    assert!(target.path("other/extra").exists() && target.path("extra").exists());
    assert!(!target.path("sub/extra").exists());
}

/// What the target lists under another spelling is not superfluous.
#[test]
fn a_target_that_folds_case() {
    let maker = Maker::new();
    let sub = maker.dir(vec![maker.file("File", b"file")]);
    let root = maker.dir(vec![maker.file("README", b"new"), dir("Sub", sub)]);
    let mut target = Target::new();
    target.write("readme", b"old");
    target.write("sub/extra", b"extra");
    target.write("extra", b"extra");
    let sink = Quirks::folding(target.sink());
    let (restored, problems) = target.run(&maker.open(), &root, &[], sink, &delete());
    assert_eq!((restored.unwrap().deleted, problems), (2, vec![]));
    assert_eq!(target.read("readme"), b"new");
    assert_eq!(target.read("sub/file"), b"file");
    assert!(!target.path("extra").exists() && !target.path("sub/extra").exists());
}

/// Two entries become one there, which must not pass unseen, nor cost more.
#[test]
fn names_that_the_target_cannot_tell_apart() {
    let maker = Maker::new();
    let upper =
        maker.dir(vec![maker.file("a", b"a"), dir("deep", maker.dir(vec![maker.file("x", b"x")]))]);
    let lower =
        maker.dir(vec![maker.file("b", b"b"), dir("deep", maker.dir(vec![maker.file("y", b"y")]))]);
    let root = maker.dir(vec![
        maker.file("Makefile", b"one"),
        maker.file("makefile", b"another"),
        dir("Sub", upper),
        dir("sub", lower),
    ]);
    let mut target = Target::new();
    let sink = Quirks::folding(target.sink());
    let (restored, problems) = target.run(&maker.open(), &root, &[], sink, &delete());
    assert_eq!((restored.unwrap().deleted, problems.len()), (0, 2), "{problems:?}");
    assert!(problems.iter().any(|p| p.starts_with("/makefile: ")), "{problems:?}");
    assert!(problems.iter().any(|p| p.starts_with("/sub: ")), "{problems:?}");
    for path in ["sub/a", "sub/b", "sub/deep/x", "sub/deep/y"] {
        assert!(target.path(path).exists(), "{path}");
    }
    // Nothing is mixed up where only one of them was asked for.
    for (include, exclude) in
        [(vec![], vec!["makefile", "Sub"]), (vec!["Makefile", "/sub/b"], vec![])]
    {
        let mut target = Target::new();
        let (include, exclude) = (patterns(&include), patterns(&exclude));
        let options = RestoreOptions { include, exclude, ..delete() };
        let sink = Quirks::folding(target.sink());
        let (_, problems) = target.run(&maker.open(), &root, &[], sink, &options);
        assert_eq!(problems, [""; 0]);
        assert_eq!(target.read("makefile"), b"one");
        assert_eq!(target.read("sub/b"), b"b");
    }
    // A target that can tell them apart has nothing to report.
    let mut target = Target::new();
    target.restore_with(&maker.open(), &root, &delete());
    assert_eq!(target.read("Makefile"), b"one");
    assert_eq!(target.read("makefile"), b"another");
}

/// Each is looked at a few times, not once for each of the others.
#[test]
fn many_names_that_differ_in_case_only() {
    let maker = Maker::new();
    let spelling = |number: u32| {
        let upper = |(at, letter): (u32, char)| {
            if number >> at & 1 == 1 { letter.to_ascii_uppercase() } else { letter }
        };
        (0..).zip("abcdefghi".chars()).map(upper).collect::<String>()
    };
    let content = |number: u32| Content::Inline(number.to_string().into_bytes());
    let node = |number: u32| {
        let size = number.to_string().len() as u64;
        file(&spelling(number), size, content(number))
    };
    let root = maker.dir((0..512).map(node).collect());
    let repo = maker.open();
    for (folds, expected) in [(false, 0), (true, 511)] {
        let mut target = Target::new();
        let quirks = Quirks { folds, ..Quirks::new(target.sink()) };
        let stats = quirks.stats.clone();
        let (_, problems) = target.run(&repo, &root, &[], Arc::new(quirks), &Default::default());
        assert_eq!(problems.len(), expected);
        let stats = stats.load(Relaxed);
        assert!(stats < 5 * 512, "{stats} looks at 512 names");
    }
}
