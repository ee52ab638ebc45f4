//! What is left behind in a repository.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tresor_engine::crypto::Password;
use tresor_engine::format::{ObjectKind, ObjectName};
use tresor_engine::repo::{OpenOptions, Repository};
use tresor_engine::store::{LocalStore, Store};

use super::{PASSWORD, World, files};

/// What was being written is swept away when it is a day old.
const OLD: Duration = Duration::from_secs(25 * 3600);

impl World {
    /// A prune leaves nothing but objects that snapshots and the index name, and their parity,
    /// however the repository came to be as it is.
    #[track_caller]
    pub fn assert_prune_clears_up(&self) {
        for file in files::below(&self.path("repo")) {
            if file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".tmp-")) {
                let file = File::options().write(true).open(file).unwrap();
                file.set_modified(SystemTime::now() - OLD).unwrap();
            }
        }
        self.ok("prune -q --max-unused 0 --grace 0");
        let plan = self.json("prune --dry-run --max-unused 0 --grace 0");
        for field in ["blobs_unused", "packs_unindexed", "packs_mark", "packs_waiting"] {
            assert_eq!(plan[field], 0, "{field} in {plan}");
        }
        let repo = self.path("repo");
        let there = files::below(&repo);
        let there = there.iter().map(|file| file.strip_prefix(&repo).unwrap().to_owned());
        assert_eq!(there.collect::<BTreeSet<_>>(), self.named());
    }

    /// Files of all objects that something names. Nothing names key slots and records of what
    /// was forgotten.
    fn named(&self) -> BTreeSet<PathBuf> {
        let store: Store = Arc::new(LocalStore::new(self.path("repo")));
        let password = Password::new(PASSWORD.into());
        let repo = Repository::open(store.clone(), &password, &OpenOptions::default()).unwrap();
        repo.refresh_index().unwrap();
        let mut named = vec![ObjectName::CONFIG];
        for kind in [ObjectKind::Key, ObjectKind::Forgotten] {
            named.extend(store.list(kind).unwrap().into_iter().map(|(name, _)| name));
        }
        let snapshots = repo.snapshots().unwrap();
        named.extend(snapshots.iter().map(|s| ObjectName::new(ObjectKind::Snapshot, s.id)));
        let index = repo.index();
        named.extend(index.objects().into_iter().map(|id| ObjectName::new(ObjectKind::Index, id)));
        for run in index.runs() {
            named.extend(run.packs().map(|pack| ObjectName::new(ObjectKind::Pack, pack.id)));
        }
        if repo.guard().is_some() {
            let parity: Vec<_> = named.iter().map(ObjectName::parity).collect();
            named.extend(parity);
        }
        named.iter().map(file_of).collect()
    }
}

fn file_of(name: &ObjectName) -> PathBuf {
    let id = name.id.to_string();
    match name.kind {
        ObjectKind::Config => "config".into(),
        kind if kind.is_spread() => [kind.folder(), &id[..2], &id].iter().collect(),
        kind => [kind.folder(), &id].iter().collect(),
    }
}
