//! What it takes to bring this Windows back: the volumes that its state lies on.
//!
//! Microsoft's "Backing Up and Restoring System State" recommends to save the system and boot
//! volumes whole, and with them what the writers of the system state name.

use std::collections::BTreeSet;

use tresor_engine::format::PathBytes;

use super::session;
use crate::snapshot::{NoSnapshot, SystemState};

/// Asks the writers. Nothing is made or begun by that.
pub fn system_state() -> Result<SystemState, NoSnapshot> {
    crate::windows::privileges::take();
    let session = session::Session::create()?;
    session.initialize(true)?;
    session.gather_metadata(&|| false)?;
    let mut folders = session.state_folders()?;
    // The writer of the system's own files names them all, but is it there?
    folders.push("%SystemRoot%".into());
    Ok(sort_out(&folders, &|name| std::env::var(name).ok()))
}

fn sort_out(folders: &[String], variable: &dyn Fn(&str) -> Option<String>) -> SystemState {
    let (mut letters, mut elsewhere) = (BTreeSet::new(), BTreeSet::new());
    for folder in folders {
        let path = expanded(folder, variable);
        let plain = path.strip_prefix(r"\\?\").unwrap_or(&path);
        match plain.as_bytes() {
            [letter, b':', ..] if letter.is_ascii_alphabetic() => {
                letters.insert(letter.to_ascii_uppercase());
            }
            _ => {
                elsewhere.insert(path);
            }
        }
    }
    let volumes = letters.into_iter().map(|letter| PathBytes(vec![b'/', letter])).collect();
    SystemState { volumes, elsewhere: elsewhere.into_iter().collect() }
}

/// Writers put variables at the beginning: `%SystemRoot%\\System32`.
fn expanded(path: &str, variable: &dyn Fn(&str) -> Option<String>) -> String {
    let value = path
        .strip_prefix('%')
        .and_then(|rest| rest.split_once('%'))
        .and_then(|(name, rest)| Some(variable(name)? + rest));
    value.unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_of_folders() {
        let variable = |name: &str| (name == "SystemRoot").then(|| "c:\\Windows".to_owned());
        let folders = [
            "%SystemRoot%\\System32",
            "D:\\NTDS",
            r"\\?\D:\x",
            r"\\?\GLOBALROOT\Device\HarddiskVolume1\EFI",
            "%none%\\x",
        ];
        let state = sort_out(&folders.map(String::from), &variable);
        assert_eq!(state.volumes, [PathBytes(b"/C".to_vec()), PathBytes(b"/D".to_vec())]);
        assert_eq!(state.elsewhere, ["%none%\\x", r"\\?\GLOBALROOT\Device\HarddiskVolume1\EFI"]);
    }
}
