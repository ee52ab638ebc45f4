//! Which packs new snapshots may rely on.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, Weak};

use super::run::Run;
use crate::error::Result;
use crate::format::{ObjectId, ObjectKind};
use crate::store::Store;
use crate::workers::lock;

type Objects = Mutex<HashSet<ObjectId>>;

/// Index objects that somebody relies on: those that were in force at any time since this
/// was made. As long as it lives, each sync also looks which packs are lost.
pub struct Reliance(Arc<Objects>);

impl Reliance {
    pub fn objects(&self) -> HashSet<ObjectId> {
        lock(&self.0).clone()
    }
}

/// Those who rely on the index.
#[derive(Default)]
pub(super) struct Relying(Mutex<Vec<Weak<Objects>>>);

impl Relying {
    /// One more, who relies on what is in force now.
    pub fn add(&self, objects: HashSet<ObjectId>) -> Reliance {
        let objects = Arc::new(Mutex::new(objects));
        lock(&self.0).push(Arc::downgrade(&objects));
        Reliance(objects)
    }

    pub fn is_empty(&self) -> bool {
        self.living().is_empty()
    }

    /// Index objects come into force.
    pub fn rely_on<'a>(&self, objects: impl Iterator<Item = &'a ObjectId> + Clone) {
        self.living().iter().for_each(|one| lock(one).extend(objects.clone()));
    }

    fn living(&self) -> Vec<Arc<Objects>> {
        let mut all = lock(&self.0);
        all.retain(|one| one.strong_count() > 0);
        all.iter().filter_map(Weak::upgrade).collect()
    }
}

/// Packs that nothing new may rely on, whatever the marks of their entries say.
#[derive(Default)]
pub(super) struct Unreliable {
    /// An entry dooms them: a prune may be deleting them that has not seen the other ones.
    doomed: HashSet<ObjectId>,
    /// They are not in the store, or not as long as the index says; also such as are marked: a
    /// fresh mark alone would be no reason not to rely on them.
    missing: HashSet<ObjectId>,
    /// Something in them is not what it must be, as was seen when it was read.
    pub damaged: HashSet<ObjectId>,
    /// Those of the missing that an entry doesn't mark.
    pub lost: HashSet<ObjectId>,
    /// Packs in the store that no entry names, with their lengths: of no use but to be
    /// taken up.
    pub unnamed: Vec<(ObjectId, u64)>,
}

impl Unreliable {
    /// `runs` are what the index is now.
    pub fn doomed(runs: &[Arc<Run>]) -> Self {
        let packs = runs.iter().flat_map(|run| run.packs());
        let doomed = packs.filter(|p| p.is_doomed());
        Self { doomed: doomed.map(|p| p.id).collect(), ..Self::default() }
    }

    /// To be called after the index was read: a pack is stored before that names it.
    pub fn look_for_lost(&mut self, runs: &[Arc<Run>], store: &Store) -> Result<()> {
        let listed = store.list(ObjectKind::Pack)?;
        let mut listed: Vec<_> = listed.into_iter().map(|(name, size)| (name.id, size)).collect();
        listed.sort_unstable();
        let mut named = vec![false; listed.len()];
        for pack in runs.iter().flat_map(|run| run.packs()) {
            let at = listed.binary_search_by_key(&pack.id, |(id, _)| *id).ok();
            at.into_iter().for_each(|at| named[at] = true);
            let is_there = at.is_some_and(|at| listed[at].1 == pack.size);
            if !is_there {
                self.missing.insert(pack.id);
                if pack.marked == 0 {
                    self.lost.insert(pack.id);
                }
            }
        }
        let unnamed = listed.into_iter().zip(named).filter(|(_, named)| !named);
        self.unnamed = unnamed.map(|(pack, _)| pack).collect();
        Ok(())
    }

    pub fn contains(&self, pack: &ObjectId) -> bool {
        let sets = [&self.doomed, &self.missing, &self.damaged];
        sets.iter().any(|packs| packs.contains(pack))
    }
}
