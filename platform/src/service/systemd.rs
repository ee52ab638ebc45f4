//! Units of systemd.

use std::io;
use std::path::{Path, PathBuf};

use crate::process::{cache_folder, folders_of_root, state_folder};

use super::secret::{Secrets, check_program, is_secret};
use super::{
    PREFIX, Result, Service, ServiceError, Services, installed, io_error, is_ours, make_whole, run,
};

const SUFFIX: &str = ".service";

pub(super) struct Systemd {
    /// Units of this user, not of the system.
    for_user: bool,
    units: PathBuf,
    secrets: Secrets,
}

impl Systemd {
    pub fn new(for_user: bool) -> Result<Self> {
        let (units, secrets) = if for_user {
            let base = user_config().ok_or_else(|| {
                let no_home = io::Error::new(io::ErrorKind::NotFound, "this user has none");
                ServiceError::Io("home folder".into(), no_home)
            })?;
            (base.join("systemd/user"), base.join("tresor/services"))
        } else {
            ("/etc/systemd/system".into(), "/etc/tresor/services".into())
        };
        Ok(Self { for_user, units, secrets: Secrets(secrets) })
    }

    fn account(&self) -> u32 {
        if self.for_user { rustix::process::geteuid().as_raw() } else { 0 }
    }

    fn unit(&self, name: &str) -> PathBuf {
        self.units.join(unit_name(name))
    }

    fn control(&self, words: &[&str]) -> Result<String> {
        let user: &[&str] = if self.for_user { &["--user"] } else { &[] };
        run("systemctl", &[user, words].concat())
    }

    fn journal(&self, name: &str) -> String {
        let user = if self.for_user { "--user " } else { "" };
        format!("journalctl {user}-u {}", unit_name(name))
    }

    /// Whatever is left of it; what isn't there is no error.
    fn erase(&self, name: &str) -> Result<()> {
        let unit = self.unit(name);
        match std::fs::remove_file(&unit) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_error(&unit)(e)),
            _ => {}
        }
        self.control(&["daemon-reload"]).map(drop)
    }
}

fn unit_name(name: &str) -> String {
    format!("{PREFIX}{name}{SUFFIX}")
}

fn user_config() -> Option<PathBuf> {
    let given = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let home = || std::env::home_dir().map(|home| home.join(".config"));
    given.filter(|p| p.is_absolute()).or_else(home).filter(|p| p.is_absolute())
}

impl Services for Systemd {
    fn install(&self, service: &Service) -> Result<()> {
        check_program(&service.program, self.account())?;
        let (name, unit) = (service.name.as_str(), self.unit(&service.name));
        let text = unit_text(service, self.for_user)?;
        std::fs::create_dir_all(&self.units).map_err(io_error(&unit))?;
        if !make_whole(&unit, &text)? {
            return Err(ServiceError::Exists(name.into()));
        }
        let file = unit_name(name);
        let started = self
            .control(&["daemon-reload"])
            .and_then(|_| self.control(&["enable", "--now", &file]));
        started.map(drop).map_err(|e| {
            // It may have come half of the way, and is tried again otherwise.
            let _ = self.control(&["disable", "--now", &file]);
            let _ = self.erase(name);
            match e {
                ServiceError::Command { said, .. } => {
                    let look = format!("`{}` may tell more", self.journal(name));
                    ServiceError::Start { name: name.into(), said, look }
                }
                other => other,
            }
        })
    }

    fn remove(&self, name: &str) -> Result<()> {
        if !is_ours(&self.unit(name)) {
            return Err(ServiceError::Unknown(name.into()));
        }
        self.control(&["disable", "--now", &unit_name(name)])?;
        self.erase(name)
    }

    fn list(&self) -> Result<Vec<(String, bool)>> {
        let names = installed(&self.units, PREFIX, SUFFIX)?;
        let is_active = |name: &str| self.control(&["is-active", "-q", &unit_name(name)]).is_ok();
        Ok(names.into_iter().map(|name| (name.clone(), is_active(&name))).collect())
    }

    fn keep_secret(&self, name: &str, secret: &[u8]) -> Result<PathBuf> {
        self.secrets.keep(name, secret)
    }

    fn forget_secret(&self, name: &str) -> Result<bool> {
        self.secrets.forget(name)
    }

    fn folders(&self) -> (Option<PathBuf>, Option<PathBuf>) {
        if self.for_user { (cache_folder(), state_folder()) } else { folders_of_root() }
    }

    fn is_secret(&self, file: &Path) -> Result<bool> {
        is_secret(file, self.account())
    }

    fn hint(&self, name: &str) -> String {
        let user = if self.for_user { "--user " } else { "" };
        format!(
            "`systemctl {user}stop {}` and `start` stop and start it, `{}` shows what it says.",
            unit_name(name),
            self.journal(name)
        )
    }
}

/// No sandbox is asked for: it would have mounts of its own, and nobody else would see the drive.
fn unit_text(service: &Service, for_user: bool) -> Result<String> {
    let mut line = quoted(service.program.as_os_str())?;
    for word in &service.arguments {
        line = line + " " + &quoted(word)?;
    }
    let (after, target) = match for_user {
        true => (String::new(), "default.target"),
        false => (
            format!(
                "Wants=network-online.target\nAfter=network-online.target remote-fs.target\nRequiresMountsFor={}\n",
                quoted(service.needs.as_os_str())?.replace("$$", "$")
            ),
            "multi-user.target",
        ),
    };
    // No line ends in it, and none goes on in the next.
    let plain = |c: char| if c.is_control() || c == '\\' { '?' } else { c };
    let about: String = service.about.chars().map(plain).collect();
    let (name, about) = (&service.name, about.replace('%', "%%"));
    Ok(format!(
        "# Made by `tresor service install`; `tresor service remove {name}` removes it.\n\
         [Unit]\nDescription={about}\n{after}\n\
         [Service]\nType=notify\nExecStart={line}\nRestart=on-failure\nRestartSec=30\n\
         TimeoutStopSec=60\n\n\
         [Install]\nWantedBy={target}\n"
    ))
}

/// A word as systemd reads it: what it would put variables and names in the place of is
/// doubled, and what could end the word or the line is escaped.
fn quoted(word: &std::ffi::OsStr) -> Result<String> {
    let text = word.to_str().ok_or_else(|| ServiceError::NoText(word.display().to_string()))?;
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '%' | '$' => quoted.extend([c, c]),
            c if c.is_ascii_control() => quoted += &format!("\\x{:02x}", u32::from(c)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    Ok(quoted)
}

/// Tells systemd that the service does what it is there for, if it wants to know.
#[cfg(target_os = "linux")]
pub(super) fn ready() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    let Some(place) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match place.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&place),
    };
    // Who doesn't hear it takes the service for one that doesn't start, and says so.
    if let (Ok(address), Ok(socket)) = (address, UnixDatagram::unbound()) {
        let _ = socket.send_to_addr(b"READY=1", &address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As systemd's own program reads it.
    #[test]
    fn units_of_the_system_are_sound() {
        let folder = tempfile::tempdir().unwrap();
        let unit = folder.path().join("tresor-restore.service");
        let service = Service {
            name: "restore".into(),
            about: "50% of a drive".into(),
            program: "/bin/true".into(),
            arguments: ["mount", "--tag=a\\\"$b%i", "/mnt/ä b"].map(Into::into).into(),
            needs: "/srv/$a %i \"repo".into(),
        };
        std::fs::write(&unit, unit_text(&service, false).unwrap()).unwrap();
        let mut command = std::process::Command::new("systemd-analyze");
        let Ok(done) = command.arg("verify").arg(&unit).output() else {
            return eprintln!("skipped: this needs systemd-analyze");
        };
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && !said.contains("tresor-restore"), "{said}");
    }

    #[test]
    fn words_come_through() {
        let quoted = |text: &str| quoted(text.as_ref()).unwrap();
        assert_eq!(quoted("/a b"), r#""/a b""#);
        assert_eq!(quoted("50% of $HOME"), r#""50%% of $$HOME""#);
        assert_eq!(quoted("a\"\\\nExecStart=x"), r#""a\"\\\x0aExecStart=x""#);
        assert_eq!(quoted("ä ;"), "\"ä ;\"");
    }

    #[test]
    fn no_name_adds_a_line() {
        let service = Service {
            name: "restore".into(),
            about: "Backups in /a\n[Service]\nExecStartPre=x\r as /m\\".into(),
            program: "/usr/bin/tresor".into(),
            arguments: vec!["mount".into()],
            needs: "/a\nb".into(),
        };
        let text = unit_text(&service, false).unwrap();
        let keys = |line: &str| line.split_once('=').map(|(key, _)| key.to_owned());
        let told: Vec<_> = text.lines().filter_map(keys).collect();
        let expected = "Description Wants After RequiresMountsFor Type ExecStart Restart RestartSec TimeoutStopSec WantedBy";
        assert_eq!(told.join(" "), expected, "{text}");
        assert!(
            text.contains("as /m?\n") && text.lines().filter(|l| l.starts_with('[')).count() == 3
        );
    }

    #[test]
    fn what_others_have_made_is_not_ours() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(format!("{PREFIX}{name}{SUFFIX}"));
        std::fs::write(file("backup"), "[Service]\nExecStart=/usr/bin/tresor backup /home\n")
            .unwrap();
        std::fs::write(file("restore"), "# Made by `tresor service install`; x\n[Service]\n")
            .unwrap();
        assert_eq!(installed(folder.path(), PREFIX, SUFFIX).unwrap(), ["restore"]);
        assert!(!is_ours(&file("backup")) && !is_ours(&file("gone")));
    }
}
