//! The script that is meant for machines of every system, on this one.
#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::Command;

#[test]
fn a_real_drive_is_the_tree_that_was_backed_up() {
    if !Path::new("/dev/fuse").exists() {
        eprintln!("skipped: this machine has no /dev/fuse");
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let output = Command::new("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/real-mount"))
        .args(["--program", env!("CARGO_BIN_EXE_tresor")])
        .env("TMPDIR", scratch.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("the drive is the tree"), "{text}");
}
