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
