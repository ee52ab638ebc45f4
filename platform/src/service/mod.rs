//! Commands that the system starts by itself and keeps running: systemd, launchd, Windows'
//! service manager. Each of them is a [`Services`].

#[cfg(target_os = "macos")]
mod launchd;
#[cfg(any(target_os = "macos", test))]
mod plist;
#[cfg(unix)]
mod secret;
#[cfg(all(unix, not(target_os = "macos")))]
mod systemd;
#[cfg(windows)]
mod windows;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

#[cfg(windows)]
pub(crate) use windows::is_service;
#[cfg(windows)]
pub use windows::serve;

/// Before the name of each, so that it is known among those of others.
#[cfg(not(target_os = "macos"))]
const PREFIX: &str = "tresor-";
const MOST_NAME: usize = 40;

/// A command that is to be started by the system.
pub struct Service {
    pub name: String,
    /// A line for people.
    pub about: String,
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    /// A folder that must be there before it is started, where that can be said.
    pub needs: PathBuf,
}

/// Why a service could not be installed or removed, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error(
        "{0:?} can't be the name of a service; take up to {MOST_NAME} of the letters a to z, digits and -, and begin with a letter or digit"
    )]
    Name(String),
    #[error("there is a service {0} already; `tresor service remove {0}` removes it")]
    Exists(String),
    #[error("there is no service {0}; `tresor service list` names those that are there")]
    Unknown(String),
    #[error(
        "there is no `{0}` here, which starts services; have whatever starts programs on this system run `tresor mount`, or write the drive into /etc/fstab (docs/drive.md)"
    )]
    NoManager(String),
    #[error("services for one user are not known on Windows; leave --user out")]
    NoUsers,
    #[error("services take an administrator: run this from a prompt that was opened as one")]
    NotAdministrator,
    #[error(
        "{program} would be run by the system, but {culprit} can be changed by others, who could put another program there; install tresor where only {owner} can write, such as {better}"
    )]
    Program { program: String, culprit: String, owner: String, better: &'static str },
    #[error("the service {name} doesn't start, so nothing was installed: {said}\n{look}")]
    Start { name: String, said: String, look: String },
    #[error("`{command}` failed: {said}")]
    Command { command: String, said: String },
    #[error("{0} is no text, which a service's command line must be")]
    NoText(String),
    #[error("{0}: {1}")]
    Io(String, io::Error),
}

pub type Result<T> = std::result::Result<T, ServiceError>;

/// What starts services on this system.
pub trait Services {
    /// Registers a service and starts it. If it doesn't start, nothing stays registered.
    fn install(&self, service: &Service) -> Result<()>;

    /// Stops a service, which has time to end by itself, and forgets it.
    fn remove(&self, name: &str) -> Result<()>;

    /// Names of those that are there, and whether each is running.
    fn list(&self) -> Result<Vec<(String, bool)>>;

    /// Keeps something in a file that nobody but the account of services can read.
    fn keep_secret(&self, name: &str, secret: &[u8]) -> Result<PathBuf>;

    /// Removes that again; whether it was there.
    fn forget_secret(&self, name: &str) -> Result<bool>;

    /// Where the account of services keeps caches, and what was seen of repositories.
    #[cfg(unix)]
    fn folders(&self) -> (Option<PathBuf>, Option<PathBuf>);

    /// Whether others can read a file that holds a secret.
    fn is_secret(&self, file: &Path) -> Result<bool>;

    /// Tells people how one is stopped and where its messages are.
    fn hint(&self, name: &str) -> String;
}

/// Those of the system; or, `for_user`, those that come and go with this user's session.
pub fn services(for_user: bool) -> Result<Box<dyn Services>> {
    #[cfg(windows)]
    return match for_user {
        false => Ok(Box::new(windows::Manager)),
        true => Err(ServiceError::NoUsers),
    };
    #[cfg(target_os = "macos")]
    return Ok(Box::new(launchd::Launchd::new(for_user)?));
    #[cfg(all(unix, not(target_os = "macos")))]
    Ok(Box::new(systemd::Systemd::new(for_user)?))
}

/// Whether this user can install services of the system at all.
pub fn is_administrator() -> bool {
    #[cfg(unix)]
    return rustix::process::geteuid().is_root();
    // Whoever can't is told so by the manager.
    #[cfg(windows)]
    true
}

/// Whoever has started this as a service is told that it does now what it is there for.
pub fn ready() {
    #[cfg(windows)]
    windows::ready();
    #[cfg(target_os = "linux")]
    systemd::ready();
}

/// The same for one that has ended with this exit code: its process may end then.
pub fn ended(code: u8) {
    #[cfg(windows)]
    windows::ended(code);
    #[cfg(not(windows))]
    let _ = code;
}

/// Writes an error where a service that nobody can see says such things. Elsewhere that is
/// standard error.
pub fn report(error: &str) {
    #[cfg(windows)]
    if is_service() {
        windows::report(error);
    }
    #[cfg(not(windows))]
    let _ = error;
}

/// Refuses what could mean something else to a system, or lead out of a folder.
pub fn check_name(name: &str) -> Result<()> {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = name.as_bytes();
    let valid = bytes.first().is_some_and(|b| is_plain(*b))
        && bytes.len() <= MOST_NAME
        && bytes.iter().all(|b| is_plain(*b) || *b == b'-');
    if valid { Ok(()) } else { Err(ServiceError::Name(name.into())) }
}

#[cfg(unix)]
fn io_error(path: &Path) -> impl Fn(io::Error) -> ServiceError {
    move |e| ServiceError::Io(path.display().to_string(), e)
}

/// Runs one of the system's programs; what it says.
#[cfg(unix)]
fn run(program: &str, words: &[&str]) -> Result<String> {
    use std::process::{Command, Stdio};

    let command = || [&[program], words].concat().join(" ");
    let mut child = Command::new(program);
    let output = child.args(words).stdin(Stdio::null()).output();
    let output = output.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => ServiceError::NoManager(program.into()),
        _ => ServiceError::Command { command: command(), said: e.to_string() },
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(ServiceError::Command { command: command(), said });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Stands in each file that `install` makes.
#[cfg(unix)]
const MADE_BY: &[u8] = b"Made by `tresor service install`";

/// Makes a file for everybody to read, with all of its text or not at all; false if there is one.
#[cfg(unix)]
fn make_whole(file: &Path, text: &str) -> Result<bool> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;

    if file.symlink_metadata().is_ok() {
        return Ok(false);
    }
    // With a suffix that nobody looks for.
    let mut passing = file.as_os_str().to_owned();
    passing.push(".new");
    let passing = Path::new(&passing);
    let write = || {
        match std::fs::remove_file(passing) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut options = std::fs::OpenOptions::new();
        let mut made = options.write(true).create_new(true).mode(0o644).open(passing)?;
        made.write_all(text.as_bytes())?;
        std::fs::rename(passing, file)
    };
    write().map_err(io_error(file)).map(|()| true)
}

/// Whether a file was made by `install`, and not by somebody who found the same name.
#[cfg(unix)]
fn is_ours(file: &Path) -> bool {
    std::fs::read(file).is_ok_and(|text| text.windows(MADE_BY.len()).any(|some| some == MADE_BY))
}

/// What stands between these in the names of files in a folder.
#[cfg(unix)]
fn installed(folder: &Path, prefix: &str, suffix: &str) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io_error(folder)(e)),
    };
    let name = |entry: io::Result<std::fs::DirEntry>| {
        let file = entry.ok()?.file_name().into_string().ok()?;
        let name = file.strip_prefix(prefix)?.strip_suffix(suffix)?.to_owned();
        (check_name(&name).is_ok() && is_ours(&folder.join(prefix.to_owned() + &name + suffix)))
            .then_some(name)
    };
    let mut names: Vec<String> = entries.filter_map(name).collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        for name in ["r", "restore", "drive-2", "0", &"x".repeat(MOST_NAME)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "-x", "A", "a b", "a/b", "..", "a.b", "ä", "a\n", "%i", &"x".repeat(41)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
