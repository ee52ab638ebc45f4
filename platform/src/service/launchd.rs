//! Agents and daemons of launchd. Nobody has run this on a Mac yet.

use std::io;
use std::path::{Path, PathBuf};

use crate::process::{cache_folder, folders_of_root, state_folder};

use super::plist::{PREFIX, properties};
use super::secret::{Secrets, check_program, is_secret};
use super::{
    Result, Service, ServiceError, Services, installed, io_error, is_ours, make_whole, run,
};

const SUFFIX: &str = ".plist";
const SYSTEM: &str = "system";

pub(super) struct Launchd {
    account: u32,
    /// `gui/501` or `system`.
    domain: String,
    /// Where its lists of properties are.
    folder: PathBuf,
    logs: PathBuf,
    secrets: Secrets,
}

impl Launchd {
    pub fn new(for_user: bool) -> Result<Self> {
        let account = if for_user { rustix::process::geteuid().as_raw() } else { 0 };
        let home = if for_user { std::env::home_dir().unwrap_or_default() } else { "/".into() };
        if !home.is_absolute() {
            let no_home = io::Error::new(io::ErrorKind::NotFound, "this user has none");
            return Err(ServiceError::Io("home folder".into(), no_home));
        }
        let library = home.join("Library");
        Ok(Self {
            account,
            domain: if for_user { format!("gui/{account}") } else { SYSTEM.into() },
            folder: library.join(if for_user { "LaunchAgents" } else { "LaunchDaemons" }),
            logs: library.join("Logs/tresor"),
            secrets: Secrets(library.join("Application Support/tresor/services")),
        })
    }

    fn list_of(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{PREFIX}{name}{SUFFIX}"))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.logs.join(name).with_extension("log")
    }

    fn target(&self, name: &str) -> String {
        format!("{}/{PREFIX}{name}", self.domain)
    }

    fn erase(&self, name: &str) -> Result<()> {
        let list = self.list_of(name);
        std::fs::remove_file(&list).map_err(io_error(&list))
    }
}

impl Services for Launchd {
    fn install(&self, service: &Service) -> Result<()> {
        check_program(&service.program, self.account)?;
        let (name, list) = (service.name.as_str(), self.list_of(&service.name));
        let text = properties(service, &self.log(name))?;
        for folder in [&self.folder, &self.logs] {
            std::fs::create_dir_all(folder).map_err(io_error(folder))?;
        }
        if !make_whole(&list, &text)? {
            return Err(ServiceError::Exists(name.into()));
        }
        let path = list.display().to_string();
        let started = run("launchctl", &["bootstrap", &self.domain, &path]);
        started.map(drop).map_err(|e| {
            let _ = self.erase(name);
            match e {
                ServiceError::Command { said, .. } => {
                    let look = format!("{} may tell more", self.log(name).display());
                    ServiceError::Start { name: name.into(), said, look }
                }
                other => other,
            }
        })
    }

    fn remove(&self, name: &str) -> Result<()> {
        if !is_ours(&self.list_of(name)) {
            return Err(ServiceError::Unknown(name.into()));
        }
        let left = run("launchctl", &["bootout", &self.target(name)]);
        // One that isn't loaded need not be.
        let is_loaded = || run("launchctl", &["print", &self.target(name)]).is_ok();
        match left {
            Err(e) if is_loaded() => Err(e),
            _ => self.erase(name),
        }
    }

    fn list(&self) -> Result<Vec<(String, bool)>> {
        let names = installed(&self.folder, PREFIX, SUFFIX)?;
        let runs = |name: &str| {
            run("launchctl", &["print", &self.target(name)])
                .is_ok_and(|said| said.contains("state = running"))
        };
        Ok(names.into_iter().map(|name| (name.clone(), runs(&name))).collect())
    }

    fn keep_secret(&self, name: &str, secret: &[u8]) -> Result<PathBuf> {
        self.secrets.keep(name, secret)
    }

    fn forget_secret(&self, name: &str) -> Result<bool> {
        self.secrets.forget(name)
    }

    fn folders(&self) -> (Option<PathBuf>, Option<PathBuf>) {
        // launchd's domain of the system is root's.
        if self.domain == SYSTEM { folders_of_root() } else { (cache_folder(), state_folder()) }
    }

    fn is_secret(&self, file: &Path) -> Result<bool> {
        is_secret(file, self.account)
    }

    fn hint(&self, name: &str) -> String {
        format!("What it says is in {}.", self.log(name).display())
    }
}
