//! The first of the README's two commands, on this build of the program.
#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::Command;

#[test]
fn the_first_thing_a_newcomer_runs() {
    if !Path::new("/dev/fuse").exists() {
        eprintln!("skipped: this machine has no /dev/fuse");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a letter.txt"), "Dear all,\n".repeat(500)).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/try"))
        .arg(folder.path())
        .env("TRESOR", env!("CARGO_BIN_EXE_tresor"))
        .env("TMPDIR", scratch.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("Then: Call Anna") && text.contains("Now:  Call Bert"), "{text}");
    assert!(text.contains("a letter.txt on the drive is the same, byte for byte"), "{text}");
}
