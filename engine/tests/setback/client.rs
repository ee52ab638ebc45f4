//! A computer that keeps what it has seen of repositories.

use std::sync::{Arc, Mutex};

use tresor_engine::Result;
use tresor_engine::crypto::Password;
use tresor_engine::repo::{Notice, OpenOptions, Repository, Setback, StateOptions};
use tresor_engine::store::Store;
use tresor_testkit::password;

/// Somebody who keeps what he has seen of repositories.
pub struct Client {
    pub folder: tempfile::TempDir,
    notices: Arc<Mutex<Vec<Notice>>>,
    pub password: fn() -> Password,
}

impl Client {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, notices: Arc::default(), password }
    }

    /// Another one who has seen the same.
    pub fn twin(&self) -> Self {
        let twin = Self::new();
        for entry in std::fs::read_dir(self.folder.path()).unwrap().flatten() {
            std::fs::copy(entry.path(), twin.folder.path().join(entry.file_name())).unwrap();
        }
        twin
    }

    pub fn try_open(&self, store: &Store, accept_older: bool) -> Result<Arc<Repository>> {
        let notices = self.notices.clone();
        let state = StateOptions {
            folder: self.folder.path().to_owned(),
            accept_older,
            tell: Arc::new(move |notice| notices.lock().unwrap().push(notice.clone())),
        };
        let options = OpenOptions { state: Some(state), ..OpenOptions::default() };
        Repository::open(store.clone(), &(self.password)(), &options)
    }

    pub fn open(&self, store: &Store) -> Arc<Repository> {
        self.try_open(store, false).unwrap()
    }

    /// What was told since this was asked last.
    pub fn told(&self) -> Vec<Notice> {
        std::mem::take(&mut *self.notices.lock().unwrap())
    }

    /// Opens the repository anew, lists snapshots and says what is wrong.
    pub fn look(&self, store: &Store) -> Setback {
        let repo = self.open(store);
        repo.snapshots().unwrap();
        repo.setback()
    }

    /// Nothing is wrong, and nothing was told.
    #[track_caller]
    pub fn is_content(&self, store: &Store, what: &str) {
        let setback = self.look(store);
        assert!(setback.is_empty(), "{what}: {setback:#?}");
        assert_eq!(self.told(), [], "{what}");
    }
}
