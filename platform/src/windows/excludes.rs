//! What this Windows says is not to be backed up.

use std::io;

use tresor_engine::exclude::SystemRule;

use super::registry::Key;
use crate::not_to_backup::{Names, rule};
use crate::snapshot::Problem;

const LISTS: &str = r"SYSTEM\CurrentControlSet\Control\BackupRestore";
const PROFILES: &str = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion\ProfileList";

/// The rules, and what of the lists can't be understood.
pub fn system_rules() -> io::Result<(Vec<SystemRule>, Vec<Problem>)> {
    let (mut rules, mut odd) = (Vec::new(), Vec::new());
    let variable = |name: &str| std::env::var(name).ok();
    let profiles = there(profiles())?;
    let names = Names { variable: &variable, profiles: &profiles };
    for list in ["FilesNotToBackup", "FilesNotToSnapshot"] {
        let entries = there(Key::open(&format!("{LISTS}\\{list}")).and_then(|key| key.texts()))?;
        for (entry, line) in entries.iter().flat_map(|(e, lines)| lines.iter().map(move |l| (e, l)))
        {
            let why = format!("{list}, {entry}");
            match rule(line, &why, &names) {
                Ok(rule) => rules.push(rule),
                Err(reason) => {
                    odd.push(Problem { what: why, message: format!("{line}: {reason}") })
                }
            }
        }
    }
    Ok((rules, odd))
}

/// A list that isn't there has nothing in it.
fn there<T>(list: io::Result<Vec<T>>) -> io::Result<Vec<T>> {
    match list {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        list => list,
    }
}

/// The folders of all users.
fn profiles() -> io::Result<Vec<String>> {
    let key = Key::open(PROFILES)?;
    let path = |user: &String| key.open_below(user)?.text("ProfileImagePath");
    // Of a profile that is closed to this user, more is saved than need be; that is no harm.
    let paths = key.keys()?.iter().filter_map(|user| path(user).ok().flatten()).collect::<Vec<_>>();
    Ok(paths.iter().map(|path| expanded(path)).collect())
}

/// `%SystemDrive%\Users\Anna`: paths of profiles have no other variables.
fn expanded(path: &str) -> String {
    let known = ["SystemRoot", "SystemDrive"];
    known.iter().fold(path.to_owned(), |path, name| {
        let (Some(start), Ok(value)) = (path.get(..name.len() + 2), std::env::var(name)) else {
            return path;
        };
        if start.eq_ignore_ascii_case(&format!("%{name}%")) {
            value + &path[name.len() + 2..]
        } else {
            path
        }
    })
}
