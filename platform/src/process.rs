//! Facts about this machine and user, and settings of this process.

use std::path::{Path, PathBuf};

/// The machine's name, as snapshots record it.
pub fn host_name() -> String {
    #[cfg(unix)]
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    #[cfg(not(unix))]
    let name = std::env::var("COMPUTERNAME").unwrap_or_default();
    if name.is_empty() { "localhost".into() } else { name }
}

/// The name of the user this process runs as; his number if he has none.
pub fn user_name() -> String {
    #[cfg(unix)]
    {
        let id = rustix::process::geteuid().as_raw();
        crate::unix::user(id).unwrap_or_else(|| id.to_string())
    }
    #[cfg(not(unix))]
    std::env::var("USERNAME").unwrap_or_default()
}

/// Where tresor may keep what it can fetch or compute again. `None` if this
/// user has no place for that.
pub fn cache_folder() -> Option<PathBuf> {
    CACHE.here()
}

/// Where tresor may keep what it can't find out again. `None` if this user has no
/// place for that.
pub fn state_folder() -> Option<PathBuf> {
    STATE.here()
}

/// Both folders of root: after `sudo -E` the environment is another user's, and so are the folders
/// that it names.
#[cfg(unix)]
pub(crate) fn folders_of_root() -> (Option<PathBuf>, Option<PathBuf>) {
    let home = crate::unix::home(0);
    let of = |kind: Kind| home.as_ref().map(|home| kind.below(home));
    (of(CACHE), of(STATE))
}

/// A folder of each user: on macOS and elsewhere below the user's home, if no variable names it.
struct Kind {
    windows: &'static str,
    macos: &'static str,
    variable: &'static str,
    unix: &'static str,
}

const CACHE: Kind =
    Kind { windows: "tresor", macos: "Library/Caches", variable: "XDG_CACHE_HOME", unix: ".cache" };
const STATE: Kind = Kind {
    windows: "tresor\\state",
    macos: "Library/Application Support",
    variable: "XDG_STATE_HOME",
    unix: ".local/state",
};

impl Kind {
    fn here(&self) -> Option<PathBuf> {
        // A relative path there is to be ignored (XDG base directory specification).
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        if cfg!(windows) {
            return absolute("LOCALAPPDATA").map(|base| base.join(self.windows));
        }
        let given = absolute(self.variable).filter(|_| !cfg!(target_os = "macos"));
        let home = || std::env::home_dir().filter(|home| home.is_absolute());
        given.map(|base| base.join("tresor")).or_else(|| home().map(|home| self.below(&home)))
    }

    fn below(&self, home: &Path) -> PathBuf {
        let base = if cfg!(target_os = "macos") { self.macos } else { self.unix };
        home.join(base).join("tresor")
    }
}

/// Lets this process have as many files open as the system allows it. Walks
/// keep a directory open for each level, and a tree can be thousands deep.
pub fn raise_file_limit() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Nofile);
        let raise = |to| setrlimit(Resource::Nofile, Rlimit { current: to, ..limit });
        if raise(limit.maximum).is_err() {
            // macOS names no limit as the maximum and then refuses more than this.
            let _ = raise(Some(10_240));
        }
    }
}

/// Keeps keys in memory from other processes of this user and from core dumps.
/// Best effort: a system that can't do it is no reason not to back up.
pub fn harden_process() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
    #[cfg(all(unix, not(target_os = "linux")))]
    {
        use rustix::process::{Resource, Rlimit, setrlimit};
        let none = Rlimit { current: Some(0), maximum: Some(0) };
        let _ = setrlimit(Resource::Core, none);
    }
}

/// Stays when the terminal of whoever started this process goes. On Windows whoever
/// starts it says so.
pub fn leave_terminal() {
    #[cfg(unix)]
    let _ = rustix::process::setsid();
}

/// Whether this process was started by `nohup`, which must stay in force.
#[cfg(unix)]
pub fn hangup_is_ignored() -> bool {
    let mut now = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: only asks, and what it fills in lives; zeroes are a valid value of it.
    let now = unsafe {
        libc::sigaction(libc::SIGHUP, std::ptr::null(), now.as_mut_ptr());
        now.assume_init()
    };
    now.sa_sigaction == libc::SIG_IGN
}

/// Lets go of the streams of whoever started this process, who may wait for their end.
pub fn leave_streams() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
    }
    #[cfg(windows)]
    crate::windows::close_streams();
    Ok(())
}

/// A command that goes on without the console of this one.
pub fn detach(command: &mut std::process::Command) -> &mut std::process::Command {
    #[cfg(windows)]
    {
        use windows_sys::Win32::System::Threading::{CREATE_NEW_PROCESS_GROUP, DETACHED_PROCESS};
        let flags = DETACHED_PROCESS | CREATE_NEW_PROCESS_GROUP;
        std::os::windows::process::CommandExt::creation_flags(command, flags);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_there() {
        assert!(!host_name().is_empty());
        assert!(!user_name().is_empty());
    }

    #[test]
    fn folders_are_ours() {
        for folder in [cache_folder(), state_folder()].into_iter().flatten() {
            assert!(folder.is_absolute() && folder.to_string_lossy().contains("tresor"));
        }
        assert!(cache_folder().is_none() || cache_folder() != state_folder());
    }

    #[cfg(unix)]
    #[test]
    fn nohup_is_noticed() {
        for (disposition, ignored) in [(libc::SIG_IGN, true), (libc::SIG_DFL, false)] {
            // SAFETY: both are dispositions; no other test here gets or wants this signal.
            unsafe { libc::signal(libc::SIGHUP, disposition) };
            assert_eq!(hangup_is_ignored(), ignored);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn hardened_process_leaves_no_core() {
        use rustix::process::{DumpableBehavior, dumpable_behavior};
        harden_process();
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    }
}
