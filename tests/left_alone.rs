//! A restore into a folder that holds what tresor itself works with: the repository, the caches,
//! and what was seen of repositories.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::files::{below, names, noise, write};
use common::*;

const IN_PLACE: &str = "-t . --overwrite";

/// Restores the folder of the test in place, from the newest snapshot.
fn restore(w: &World, options: &str) -> Ran {
    w.run(&format!("restore latest:/{} {IN_PLACE} {options}", w.inside("")))
}

fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let read = |file: PathBuf| {
        let bytes = fs::read(&file).unwrap();
        (file, bytes)
    };
    below(folder).into_iter().map(read).collect()
}

#[test]
fn the_repository_and_all_that_tresor_keeps_stay_where_the_rest_is_removed() {
    let w = World::new();
    write(w.path("src/file"), noise(1, 100_000));
    w.ok("backup -q .");
    // The caches and the state get newer than what is saved of the state.
    w.ok("backup -q .");
    w.ok("forget -q latest");
    write(w.path("src/file"), "changed");
    write(w.path("extra/file"), "new");
    let own = ["repo", "cache", "home/.local/state"].map(|folder| w.path(folder));
    let before = own.each_ref().map(|folder| contents(folder));
    assert!(before.iter().all(|files| !files.is_empty()), "{before:#?}");

    let told = ["/repo: left alone, since it is the repository", "/cache: left alone", "state"];
    let dry = restore(&w, "--delete --dry-run --json").expect(0);
    says(&dry.out, &told);
    says(&dry.out, &["\"message_type\":\"note\"", "\"deleted\":1,"]);
    assert!(w.path("extra/file").exists());

    let done = restore(&w, "--delete").expect(0);
    says(&done.err, &told);
    says(&done.out, &["removed:            1\n"]);
    assert!(!w.path("extra").exists());
    assert_eq!(fs::read(w.path("src/file")).unwrap(), noise(1, 100_000));
    assert!(before == own.each_ref().map(|folder| contents(folder)));

    w.ok("check --read-data");
    write(w.path("again"), "new");
    says(&restore(&w, "--delete").expect(0).out, &["removed:            1\n"]);
    w.ok("check --read-data");
}

/// A folder that only the repository is in belongs to it; the rest of what is in it goes.
#[test]
fn what_the_repository_lies_in_stays() {
    let w = World::new();
    write(w.path("src/file"), "text");
    w.ok("backup -q .");
    write(w.path("new/other/file"), "text");
    write(w.path("new/deep/beside"), "text");
    fs::rename(w.path("repo"), w.path("new/deep/repo")).unwrap();
    for (option, deleted) in [("--dry-run", 2), ("", 2)] {
        let done = restore(&w, &format!("--delete -r new/deep/repo {option}")).expect(0);
        says(&done.err, &["/new/deep/repo: left alone"]);
        says(&done.out, &[&format!("removed:            {deleted}\n")]);
        assert_eq!(w.path("new/other").exists(), option == "--dry-run");
    }
    assert_eq!(names(w.path("new")), ["deep"]);
    assert_eq!(names(w.path("new/deep")), ["repo"]);
    w.ok("check --read-data -r new/deep/repo");
}

/// What a snapshot has at that place is older than the repository.
#[test]
fn a_folder_of_the_snapshot_does_not_replace_the_repository() {
    let w = World::new();
    for file in ["there/config", "there/packs/extra"] {
        write(w.path(file), "old");
    }
    w.ok("backup -q .");
    fs::remove_dir_all(w.path("there")).unwrap();
    fs::rename(w.path("repo"), w.path("there")).unwrap();
    let before = contents(&w.path("there"));
    for options in ["-r there", "-r there --delete", "-r there --include config"] {
        let done = restore(&w, options).expect(0);
        says(&done.err, &["/there: left alone, since it is the repository"]);
        assert!(before == contents(&w.path("there")), "{options}");
    }
}

#[test]
fn nothing_else_of_that_name_takes_its_place() {
    let w = World::new();
    let names = ["file", "empty", "link"];
    write(w.path("file"), "text");
    write(w.path("empty"), "");
    std::os::unix::fs::symlink("/nowhere", w.path("link")).unwrap();
    w.ok("backup -q .");
    names.iter().for_each(|name| fs::remove_file(w.path(name)).unwrap());
    let (itself, inside) = ("is the repository", "the repository is in");
    for name in names {
        for (place, what) in [(name.to_owned(), itself), (format!("{name}/a/repo"), inside)] {
            fs::create_dir_all(w.path(&place).parent().unwrap()).unwrap();
            fs::rename(w.path("repo"), w.path(&place)).unwrap();
            for option in ["--dry-run", ""] {
                let words = format!("--delete -r {place} --include {name} {option}");
                says(&restore(&w, &words).expect(3).err, &[what, &format!("/{name}: ")]);
                w.ok(&format!("check -q -r {place}"));
            }
            fs::rename(w.path(&place), w.path("repo")).unwrap();
            let _ = fs::remove_dir_all(w.path(name));
        }
    }
}

#[test]
fn a_target_in_the_repository_is_refused() {
    let w = World::new();
    write(w.path("src/file"), "text");
    w.ok("backup -q src");
    std::os::unix::fs::symlink("repo", w.path("link")).unwrap();
    for target in ["repo", "repo/packs", "repo/new/deep", "link", "link/new"] {
        for options in ["", "--delete", "--dry-run"] {
            let words = format!("restore latest -t {target} --overwrite {options}");
            says(&w.fails(1, &words), &["in, the repository"]);
        }
    }
    assert!(!w.path("repo/new").exists());
    says(&w.fails(1, "restore latest -t cache --overwrite --delete"), &["caches"]);
    w.ok("restore latest -t cache/restored");
    w.ok("check --read-data");
}

/// By a path of the target that the repository's own path says nothing of.
#[test]
fn the_repository_is_known_by_what_it_is() {
    if !can_be_root() {
        return;
    }
    let w = World::bare();
    fs::create_dir_all(w.path("data/disk")).unwrap();
    w.init();
    write(w.path("data/file"), "text");
    w.ok("backup -q data");
    fs::rename(w.path("repo"), w.path("data/disk/repo")).unwrap();
    for folder in ["data-too", "repo-too", "data/in/empty"] {
        fs::create_dir_all(w.path(folder)).unwrap();
    }
    let script = format!(
        "set -e; mount --bind data data-too; mount --bind data/disk/repo repo-too
        from=latest:/{} tresor={}
        $tresor restore $from -t data-too --overwrite --delete -r data/disk/repo
        $tresor restore $from -t data --overwrite --delete -r repo-too
        mkdir data/new; mv data/disk data/new/disk
        $tresor restore $from -t data --overwrite --delete -r repo-too",
        w.inside("data"),
        env!("CARGO_BIN_EXE_tresor"),
    );
    let mut command = w.plain("unshare");
    command.args(["--mount", "sh", "-c", &script]);
    let done = ran(&mut command);
    says(&done.err, &["/disk/repo: left alone", "the repository is in it"]);
    // By neither path it is known that it is in there, so the last one ends with a problem.
    done.expect(3);
    w.ok("check --read-data -r data/new/disk/repo");
}
