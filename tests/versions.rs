//! Every version of a file, by the command line.

mod common;

use common::files::*;
use common::*;

#[test]
fn each_version_once_with_the_snapshots_that_hold_it() {
    let w = World::new();
    write(w.path("src/letter.txt"), b"first");
    w.ok("backup -q src");
    w.ok("backup -q src");
    write(w.path("src/letter.txt"), b"the second");
    w.ok("backup -q --host \u{1b}[31mred src");
    for command in ["versions --json src/letter.txt", "find --json letter.*"] {
        let text = w.ok(command);
        let versions: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let sizes: Vec<_> = versions.iter().map(|v| v["size"].as_u64().unwrap()).collect();
        assert_eq!(sizes, [5, 10], "{command}");
        assert_eq!(versions[0]["snapshots"].as_array().unwrap().len(), 2);
    }
    // Gone from the disk, not from the snapshots.
    std::fs::remove_file(w.path("src/letter.txt")).unwrap();
    let text = w.ok("versions --long src/letter.txt");
    says(&text, &["letter.txt", "5 B", "10 B"]);
    // What a client calls itself doesn't drive the terminal of whoever looks.
    for text in [text, w.ok("snapshots")] {
        assert!(!text.contains('\u{1b}') && text.contains("\\x1b[31mred"), "{text}");
    }
}

#[test]
fn damage_in_one_snapshot_leaves_the_versions_of_others() {
    let w = World::new();
    write(w.path("src/letter.txt"), b"first");
    w.ok("backup -q src");
    let packs = w.objects("packs");
    let oldest = w.json("snapshots")[0]["short_id"].as_str().unwrap().to_owned();
    write(w.path("src/letter.txt"), b"the second");
    w.ok("backup -q src");
    packs.iter().for_each(|pack| std::fs::remove_file(pack).unwrap());
    for command in ["versions --json src/letter.txt", "find --json letter.*"] {
        let ran = w.run(command).expect(3);
        let versions = lines(&ran.out);
        assert_eq!(versions.len(), 1, "{command}");
        assert_eq!(versions[0]["size"], 10, "{command}");
        says(&ran.err, &["can't look into /", &oldest, "packs/"]);
        assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    }
    // Nothing is found, and that doesn't mean that there is nothing.
    for command in ["versions src/other.txt", "find other.*"] {
        let said = w.fails(3, command);
        assert!(said.contains(&oldest) && !said.contains("nothing found"), "{said}");
    }
}
