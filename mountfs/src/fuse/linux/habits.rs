//! Which listings carry the attributes of what they list.
//!
//! With attributes the kernel makes an inode of each entry, whether somebody needs it or not, which takes
//! longer than all the rest of a listing. Without, each entry of which somebody wants to know more is a
//! request. So listings have none at first, but for directories; whoever looks up what is
//! listed, like `ls -l`, `cp -r` and file managers, gets them from then on. The kernel keeps listings: those that
//! turn out to be of the wrong kind for the next reader are taken back.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tresor_engine::format::NodeKind;

use crate::core::{Ino, LookUp};

/// A request costs as much as the attributes of so many entries.
const REQUEST: u64 = 8;
/// Entries listed without attributes, until somebody who has looked none of them up is known not to.
/// Until then large folders go on with attributes: there is much to lose.
const KNOWN: u64 = 1000;
/// Entries that a thread looks up out of listings of others, until those are taken back.
const PATIENCE: u64 = 32;
const LISTERS: u64 = 64;
/// Directories listed without attributes that are remembered.
const DIRECTORIES: usize = 1 << 16;

pub struct Habits {
    /// By thread.
    listers: Cache<u32, Arc<Lister>>,
    /// Directories listed without attributes, and to whom.
    bare: Mutex<HashMap<Ino, Arc<Lister>>>,
}

/// What came of listings without attributes.
#[derive(Default)]
struct Lister {
    bare: AtomicU64,
    looked_up: AtomicU64,
}

impl Default for Habits {
    fn default() -> Self {
        // Plain LRU: a policy that looks at frequency refuses one that has just begun.
        let lru = EvictionPolicy::lru();
        let listers = Cache::builder().max_capacity(LISTERS).eviction_policy(lru).build();
        Self { listers, bare: Mutex::default() }
    }
}

impl Habits {
    /// What a listing is to have that this thread asks for, from this place on.
    pub fn of(&self, who: u32, offset: u64) -> LookUp {
        let (bare, looked_up) = self
            .listers
            .get(&who)
            .map_or((0, 0), |lister| (lister.bare.load(Relaxed), lister.looked_up.load(Relaxed)));
        let pays = looked_up.saturating_mul(REQUEST) > bare;
        // A piece may end after `.` and `..`.
        if pays || offset > 2 && bare < KNOWN { LookUp::Everything } else { LookUp::Directories }
    }

    /// A directory was listed, so many of its entries without attributes.
    pub fn listed(&self, who: u32, dir: Ino, entries: u64) {
        let lister = self.lister(who);
        lister.bare.fetch_add(entries, Relaxed);
        let mut bare = self.bare();
        if bare.len() >= DIRECTORIES {
            bare.clear();
        }
        bare.insert(dir, lister);
    }

    /// An entry of a directory was looked up. Says which listings the kernel is not to keep any more.
    pub fn looked_up(&self, who: u32, dir: Ino, kind: NodeKind) -> Vec<Ino> {
        if kind == NodeKind::Directory {
            return Vec::new();
        }
        let Some(lister) = self.bare().get(&dir).cloned() else { return Vec::new() };
        // `find` may well look at what it has found with other programs.
        lister.looked_up.fetch_add(1, Relaxed);
        let asker = self.lister(who);
        let own = Arc::ptr_eq(&lister, &asker);
        if own || asker.looked_up.fetch_add(1, Relaxed) != PATIENCE {
            return Vec::new();
        }
        std::mem::take(&mut *self.bare()).into_keys().collect()
    }

    fn lister(&self, who: u32) -> Arc<Lister> {
        self.listers.get_with(who, Arc::default)
    }

    fn bare(&self) -> MutexGuard<'_, HashMap<Ino, Arc<Lister>>> {
        self.bare.lock().unwrap_or_else(|e| e.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: Ino = Ino(100);

    #[test]
    fn who_only_lists_gets_no_attributes() {
        let habits = Habits::default();
        for dir in 0..200 {
            assert_eq!(habits.of(1, 0), LookUp::Directories);
            habits.listed(1, Ino(100 + dir), 20);
            habits.looked_up(1, Ino(100 + dir), NodeKind::Directory);
        }
        assert_eq!(habits.of(1, 500), LookUp::Directories, "not in large folders, either");
        // Now and then one is not enough.
        habits.looked_up(1, DIR, NodeKind::File);
        assert_eq!(habits.of(1, 0), LookUp::Directories);
    }

    #[test]
    fn who_looks_up_what_he_lists_gets_them_from_then_on() {
        let habits = Habits::default();
        habits.listed(1, DIR, 20);
        (0..3).for_each(|_| drop(habits.looked_up(1, DIR, NodeKind::File)));
        assert_eq!(habits.of(1, 0), LookUp::Everything);
        assert_eq!(habits.of(2, 0), LookUp::Directories, "somebody else is not known");
        habits.looked_up(2, Ino(7), NodeKind::File);
        assert_eq!(habits.of(2, 0), LookUp::Directories, "that was never listed");
    }

    #[test]
    fn of_a_large_folder_only_the_beginning_has_none_for_who_is_not_known() {
        let habits = Habits::default();
        assert_eq!(habits.of(1, 0), LookUp::Directories);
        habits.listed(1, DIR, 180);
        assert_eq!(habits.of(1, 180), LookUp::Everything);
    }

    #[test]
    fn listings_of_others_are_taken_back_once_somebody_goes_through_them() {
        let habits = Habits::default();
        (0..100).for_each(|dir| habits.listed(1, Ino(100 + dir), 20));
        let look = |n| habits.looked_up(2, Ino(100 + n / 20), NodeKind::File);
        assert!((0..PATIENCE).all(|n| look(n).is_empty()));
        assert_eq!(look(PATIENCE).len(), 100);
        assert_eq!(habits.of(2, 0), LookUp::Everything);
        assert!((PATIENCE..100).all(|n| look(n).is_empty()), "there is nothing left to take back");
    }
}
