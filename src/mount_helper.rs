//! `mount -t fuse.tresor` and /etc/fstab: this program under the name that
//! `mount` looks for, with the command line that `mount` gives it:
//!
//! ```text
//! mount.fuse.tresor REPOSITORY MOUNTPOINT [-sfnv] [-t TYPE] [-o OPTION,…]
//! ```

use std::ffi::{OsStr, OsString};
use std::path::Path;

use anyhow::{Result, bail};

/// Names under which the program is the helper.
const NAMES: [&str; 2] = ["mount.fuse.tresor", "mount.tresor"];
/// What `mount` wants to hear when there is no drive.
pub const FAILED: u8 = 32;
/// So that `mount -a` finds the line of fstab among what is mounted.
const SOURCE_PREFIX: &str = "tresor:";
/// Where root keeps caches if no home folder is known, as when the system starts.
const SYSTEM_CACHE: &str = "/var/cache/tresor";
/// The same for what was seen of repositories.
const SYSTEM_STATE: &str = "/var/lib/tresor";

/// Options of `mount` that every file system has, and that are no concern of a
/// read-only drive without devices and setuid.
const GENERAL: [&str; 26] = [
    "ro",
    "rw",
    "defaults",
    "auto",
    "noauto",
    "nofail",
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "exec",
    "atime",
    "noatime",
    "relatime",
    "diratime",
    "nodiratime",
    "sync",
    "async",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "_netdev",
    "silent",
    "loud",
];
/// Options that stand for those of `tresor mount` or for global ones.
const SWITCHES: [&str; 2] = ["allow-other", "no-cache"];
const VALUES: [&str; 10] = [
    "password-file",
    "password-command",
    "cache-dir",
    "cache-size",
    "layout",
    "host",
    "tag",
    "path",
    "idle-exit",
    "state-dir",
];

/// What `mount` asks for, as a command line of this program.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    Mount(Vec<OsString>),
    /// `mount -f`: go through the motions.
    Nothing,
}

/// The request, if the program was called by `mount`.
pub fn request(mut words: impl Iterator<Item = OsString>) -> Option<Result<Request>> {
    let name = words.next()?;
    let name = Path::new(&name).file_name()?.to_str()?;
    NAMES.contains(&name).then(|| translate(words))
}

fn translate(mut words: impl Iterator<Item = OsString>) -> Result<Request> {
    let mut line: Vec<OsString> = vec!["tresor".into(), "mount".into(), "--background".into()];
    let (mut places, mut options, mut fake) = (Vec::new(), Vec::new(), false);
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("-o") => options.push(text(words.next())?),
            // The type and a namespace that `mount` has changed to already.
            Some("-t" | "-N") => drop(words.next()),
            Some("-f") => fake = true,
            Some("-s" | "-n" | "-v" | "-w" | "-r") => {}
            Some(flag) if flag.starts_with('-') => bail!("mount's flag {flag} is not known"),
            _ => places.push(word),
        }
    }
    let [source, point] = places.as_slice() else {
        bail!("a repository and a mount point are needed; this is for `mount -t fuse.tresor`");
    };
    let mut snapshot = None;
    for option in options.iter().flat_map(|list| list.split(',')).filter(|o| !o.is_empty()) {
        match option.split_once('=') {
            Some(("snapshot", name)) => snapshot = Some(name.to_owned()),
            _ => line.extend(translate_option(option)?),
        }
    }
    let has = |option: &str| {
        line.iter().any(|word| word.to_str().is_some_and(|word| word.starts_with(option)))
    };
    let (has_cache, has_state) = (has("--no-cache") || has("--cache-dir="), has("--state-dir="));
    if std::env::var_os("HOME").is_none() {
        let cache = (!has_cache).then(|| format!("--cache-dir={SYSTEM_CACHE}"));
        let state = (!has_state).then(|| format!("--state-dir={SYSTEM_STATE}"));
        line.extend(cache.into_iter().chain(state).map(OsString::from));
    }
    let repository = source.to_str().and_then(|s| s.strip_prefix(SOURCE_PREFIX));
    line.extend([OsStr::new("--quiet"), OsStr::new("--repo")].map(OsString::from));
    line.push(repository.map_or_else(|| source.clone(), OsString::from));
    line.push("--".into());
    line.extend(snapshot.map(OsString::from));
    line.push(point.clone());
    Ok(if fake { Request::Nothing } else { Request::Mount(line) })
}

fn text(word: Option<OsString>) -> Result<String> {
    match word.map(OsString::into_string) {
        Some(Ok(text)) => Ok(text),
        _ => bail!("-o needs options, as text"),
    }
}

/// One of mount's options as one of ours; none if it is of no concern.
fn translate_option(option: &str) -> Result<Option<OsString>> {
    let (name, value) = option.split_once('=').map_or((option, None), |(n, v)| (n, Some(v)));
    let ours = name.replace('_', "-");
    let ignored = name.to_ascii_lowercase().starts_with("x-") || name == "comment";
    match value {
        _ if ignored => Ok(None),
        None if GENERAL.contains(&name) => Ok(None),
        None if SWITCHES.contains(&ours.as_str()) => Ok(Some(format!("--{ours}").into())),
        Some(value) if VALUES.contains(&ours.as_str()) => {
            Ok(Some(format!("--{ours}={value}").into()))
        }
        _ => bail!(
            "the mount option {option:?} is not known; tresor has snapshot=, {}=, {}",
            VALUES.join("=, "),
            SWITCHES.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(words: &str) -> Option<Result<Request>> {
        request(words.split_whitespace().map(OsString::from))
    }

    fn line(words: &str) -> String {
        match asked(words).unwrap().unwrap() {
            Request::Mount(line) => line.join(OsStr::new(" ")).into_string().unwrap(),
            Request::Nothing => "nothing".into(),
        }
    }

    #[test]
    fn what_mount_says_becomes_a_command_line() {
        assert!(asked("/usr/bin/tresor snapshots").is_none() && asked("").is_none());
        let home = std::env::var_os("HOME").is_some();
        let state = if home { "" } else { " --state-dir=/var/lib/tresor" };
        let cache =
            if home { "" } else { " --cache-dir=/var/cache/tresor --state-dir=/var/lib/tresor" };
        assert_eq!(
            line(
                "/sbin/mount.fuse.tresor tresor:/srv/repo /mnt -o rw,nosuid,_netdev,x-systemd.automount,allow_other"
            ),
            format!(
                "tresor mount --background --allow-other{cache} --quiet --repo /srv/repo -- /mnt"
            )
        );
        assert_eq!(
            line(
                "mount.tresor /r /m -n -s -t fuse.tresor -o password-file=/etc/pw,snapshot=latest,cache_dir=/c,idle-exit=5m"
            ),
            format!(
                "tresor mount --background --password-file=/etc/pw --cache-dir=/c --idle-exit=5m{state} --quiet --repo /r -- latest /m"
            )
        );
        assert_eq!(line("mount.tresor /r /m -f"), "nothing");
        for wrong in
            ["/r", "/r /m /x", "/r /m -o uid=3", "/r /m -o allow_other=1", "/r /m -o", "/r /m -q"]
        {
            assert!(asked(&format!("mount.tresor {wrong}")).unwrap().is_err(), "{wrong}");
        }
    }
}
