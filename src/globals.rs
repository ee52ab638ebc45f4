//! What every command is told: which repository, which password, how to talk.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail};
use tresor_engine::Error;
use tresor_engine::crypto::Password;
use tresor_engine::format::{ObjectKind, ObjectName};
use tresor_engine::repo::{OpenOptions, Repository, StateOptions};
use tresor_engine::store::{LocalStore, Store};

use crate::output;
use crate::password::{self, PasswordArgs};

/// Of damaged index objects, so many are named.
const MOST_DAMAGED: usize = 3;
use crate::setback;

#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// Folder of the repository [env: TRESOR_REPOSITORY]
    #[arg(short, long, global = true, value_name = "FOLDER")]
    pub repo: Option<PathBuf>,

    #[command(flatten)]
    pub password: PasswordArgs,

    /// Where to keep local caches [default: the user's cache folder] [env: TRESOR_CACHE_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,

    /// Keep no local cache between runs
    #[arg(long, global = true)]
    pub no_cache: bool,

    /// Where to keep what was seen of repositories, to notice when one is set back [default: the
    /// user's state folder] [env: TRESOR_STATE_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// Take the repository as it is, though this computer has seen a newer state of it
    #[arg(long, global = true)]
    pub accept_older_state: bool,

    /// Answer as JSON; docs/json.md describes the fields
    #[arg(long, global = true)]
    pub json: bool,

    /// Say nothing but problems, and what was asked for
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Tell more; for a backup or restore, name each file that is new or changed (-vv: every file)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

impl Globals {
    /// Whether a text for people is wanted that nobody asked for, such as a summary.
    pub fn wants_text(&self) -> bool {
        !self.quiet && !self.json
    }

    /// Folder of the repository, absolute: a drive in the background leaves the
    /// folder that it was started in.
    pub fn location(&self) -> Result<PathBuf> {
        let given = self.repo.clone().or_else(|| env_path("TRESOR_REPOSITORY"));
        let Some(folder) = given.filter(|f| !f.as_os_str().is_empty()) else {
            bail!("no repository given: use -r FOLDER or set TRESOR_REPOSITORY");
        };
        const SCHEMES: [&str; 7] = ["sftp:", "s3:", "rest:", "rclone:", "b2:", "azure:", "gs:"];
        let text = folder.to_string_lossy();
        if text.contains("://") || SCHEMES.iter().any(|s| text.starts_with(s)) {
            bail!("{text}: this version of tresor keeps repositories in local folders only");
        }
        Ok(std::path::absolute(folder)?)
    }

    pub fn store(&self) -> Result<Store> {
        Ok(Arc::new(LocalStore::new(self.location()?)))
    }

    /// The store of a repository that is there; known before anyone is asked for a password.
    pub fn existing_store(&self) -> Result<Store> {
        let store = self.store()?;
        match store.size(&ObjectName::CONFIG) {
            Ok(_) => Ok(store),
            Err(e) if e.is_not_found() => bail!(Error::NoRepository(store.describe())),
            Err(e) => bail!(e),
        }
    }

    /// Opens the repository with a password that is known.
    pub fn open_with(&self, password: &Password) -> Result<Arc<Repository>> {
        let repo = Repository::open(self.store()?, password, &self.open_options())?;
        tell_of_damaged_index(&repo);
        Ok(repo)
    }

    /// Opens the repository, asking for the password if need be.
    pub fn open(&self) -> Result<Arc<Repository>> {
        let repo = self.open_by(Repository::open)?;
        tell_of_damaged_index(&repo);
        Ok(repo)
    }

    /// Opens it in some way.
    pub fn open_by<T>(
        &self,
        open: impl Fn(Store, &Password, &OpenOptions) -> tresor_engine::Result<T>,
    ) -> Result<T> {
        let store = self.existing_store()?;
        let options = self.open_options();
        let mut asked = 0;
        loop {
            let (password, from) = password::current(&self.password, &store.describe())?;
            asked += 1;
            match open(store.clone(), &password, &options) {
                Err(Error::WrongPassword(_) | Error::UnreadableSlots { others: true, .. })
                    if from.is_prompt() && asked < password::ATTEMPTS =>
                {
                    password::try_again()?;
                }
                other => return Ok(other?),
            }
        }
    }

    fn open_options(&self) -> OpenOptions {
        let state = self.state_folder().map(|folder| StateOptions {
            folder,
            accept_older: self.accept_older_state,
            tell: setback::teller(self.json),
        });
        let on_mended = |name: &ObjectName| {
            output::complain(&format!(
                "{name} is damaged; it was read with the help of its parity (`tresor repair objects` mends it)"
            ));
        };
        OpenOptions { cache: self.cache_folder(), state, on_mended: Some(Arc::new(on_mended)) }
    }

    /// Where it is kept what was seen of all repositories.
    pub fn state_folder(&self) -> Option<PathBuf> {
        self.state_folder_or(tresor_platform::state_folder())
    }

    /// The same, with another default.
    pub fn state_folder_or(&self, default: Option<PathBuf>) -> Option<PathBuf> {
        let given = self.state_dir.clone().or_else(|| env_path("TRESOR_STATE_DIR"));
        given.or(default).and_then(|f| std::path::absolute(f).ok())
    }

    /// Where local caches of all repositories are, if they are wanted.
    pub fn cache_folder(&self) -> Option<PathBuf> {
        self.cache_folder_or(tresor_platform::cache_folder())
    }

    /// Whether nothing but caches is in that folder: nobody has chosen it.
    pub fn owns_cache_folder(&self) -> bool {
        self.cache_dir.is_none() && env_path("TRESOR_CACHE_DIR").is_none()
    }

    /// The same, with another default.
    pub fn cache_folder_or(&self, default: Option<PathBuf>) -> Option<PathBuf> {
        if self.no_cache {
            return None;
        }
        let given = self.cache_dir.clone().or_else(|| env_path("TRESOR_CACHE_DIR"));
        given.or(default).and_then(|f| std::path::absolute(f).ok())
    }
}

/// What only such an index object names can't be found, and a reader would take it for lost.
fn tell_of_damaged_index(repo: &Repository) {
    let damaged = repo.index().damaged();
    for (id, why) in damaged.iter().take(MOST_DAMAGED) {
        let name = ObjectName::new(ObjectKind::Index, *id);
        output::complain(&format!(
            "{name} is damaged: {why}; what only it names can't be found (`tresor repair index` finds it again)"
        ));
    }
    if let more @ 1.. = damaged.len().saturating_sub(MOST_DAMAGED) {
        output::complain(&format!("{more} more index objects are damaged"));
    }
}

/// An empty variable is as good as none.
fn env_path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
