//! What was once written is read for ever: the golden repository of each format.
//! `tests/format/run` reads the same one with a reader that shares no code.
#![cfg(unix)]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");

fn tresor(password: &str, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tresor"))
        .args(["--repo", &format!("{GOLDEN}/format-1"), "--no-cache"])
        .args(["--password-file", &format!("{GOLDEN}/{password}")])
        .args(args)
        .output()
        .unwrap()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn sha256(file: &Path) -> String {
    let output = Command::new("sha256sum").arg(file).output().unwrap();
    // A line with odd characters in the name begins with a backslash.
    String::from_utf8_lossy(&output.stdout).trim_start_matches('\\').chars().take(64).collect()
}

#[test]
fn every_byte_is_intact_and_either_password_opens_it() {
    let check = tresor("password2", &["check", "--read-data"]);
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    assert!(tresor("password", &["key", "list"]).status.success());
}

#[test]
fn every_snapshot_restores_as_it_was() {
    let expected = std::fs::read(format!("{GOLDEN}/format-1.json")).unwrap();
    let snapshots: Vec<Value> = serde_json::from_slice(&expected).unwrap();
    assert!(snapshots.len() >= 3);
    for snapshot in snapshots {
        let target = tempfile::tempdir().unwrap();
        let path = target.path().to_str().unwrap();
        let id = text(&snapshot, "id");
        let output = tresor("password", &["restore", id, "--target", path, "--overwrite"]);
        // Only root can make device nodes.
        let code = if rustix::process::geteuid().is_root() { 0 } else { 3 };
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        let mut files = 0;
        for entry in snapshot["entries"].as_array().unwrap() {
            let path = text(entry, "path");
            // Names that are no UTF-8 are left to the other reader.
            if path.contains("\\x") {
                continue;
            }
            let restored = target.path().join(path.trim_start_matches('/'));
            match text(entry, "kind") {
                "file" => {
                    assert_eq!(sha256(&restored), text(entry, "sha256"), "{path}");
                    files += 1;
                }
                "directory" => assert!(restored.is_dir(), "{path}"),
                "symlink" => assert!(restored.is_symlink(), "{path}"),
                _ => {}
            }
        }
        assert!(files >= 5, "{files}");
    }
}
