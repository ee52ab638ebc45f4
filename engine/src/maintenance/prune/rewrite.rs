//! The index without what a prune drops: new index objects in place of others.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::damaged::{self, left_alone};
use super::{PruneOutcome, read_pack};
use crate::error::Result;
use crate::format::{DOOMED, IndexData, ObjectId, ObjectKind, ObjectName, PackEntry, Time};
use crate::index::read_object;
use crate::maintenance::index_writer::{IndexWriter, delete_index};
use crate::maintenance::plan::{PruneOptions, PrunePlan, refuse_damaged_index};
use crate::maintenance::used::Packs;
use crate::maintenance::workers::BYTES;
use crate::monitor::Monitor;
use crate::pack::fetch_table;
use crate::repo::Repository;
use crate::workers::{Room, map, sizes};

/// Index objects with fewer blobs are joined when there are many.
const SMALL_INDEX: usize = 20_000;
const MANY_SMALL: usize = 32;
/// Index objects read at once: each may be tens of megabytes when it is decoded.
const READS: usize = 4;

/// Reads a whole pack, if its table looks as if it were one.
fn read_unindexed(repo: &Repository, id: &ObjectId) -> Result<PackEntry> {
    let size = repo.store().size(&ObjectName::new(ObjectKind::Pack, *id))?;
    fetch_table(repo.store(), repo.keys(), *id, size)?;
    Ok(read_pack(repo, id)?.0)
}

/// Packs to be deleted, and the index objects that name nothing else.
#[derive(Default)]
pub(super) struct Doomed {
    /// With their lengths.
    pub packs: BTreeMap<ObjectId, u64>,
    pub objects: Vec<ObjectId>,
    /// Packs that no index object names, and that look damaged.
    pub damaged: Vec<ObjectId>,
}

/// What becomes of a pack in an index object that is rewritten.
enum Fate {
    Stay,
    Mark,
    Recover,
    Doom,
    /// Doomed, but there is nothing to delete.
    Lost,
    /// As its own table says.
    Correct,
}

/// The index as it is when it is rewritten.
struct View {
    objects: BTreeSet<ObjectId>,
    replaced: HashSet<ObjectId>,
    packs: Packs,
}

impl View {
    fn new(repo: &Repository) -> Self {
        let runs = repo.index().runs();
        Self {
            objects: runs.iter().flat_map(|r| r.covered()).copied().collect(),
            replaced: repo.index().replaced().into_keys().collect(),
            packs: Packs::new(&runs),
        }
    }

    fn fate(&self, plan: &PrunePlan, id: &ObjectId) -> Fate {
        if plan.delete.contains(id) {
            let marked = |packs: &Packs| packs.get(id).is_some_and(|p| p.marked != 0);
            // Taken for garbage once, and now a backup has published it.
            let claimed =
                !marked(&self.packs) && plan.used.as_ref().is_some_and(|u| marked(u.packs()));
            if claimed { Fate::Stay } else { Fate::Doom }
        } else if plan.lost.contains(id) {
            Fate::Lost
        } else if plan.wrong.contains(id) {
            Fate::Correct
        } else if plan.mark.contains(id) {
            Fate::Mark
        } else if plan.recover.contains(id) {
            Fate::Recover
        } else {
            Fate::Stay
        }
    }
}

/// What other prunes have done to the index while this one ran.
#[derive(Default)]
struct Others {
    /// Index objects in the store.
    listed: HashSet<ObjectId>,
    /// Whether there are objects by another prune, and what they replace.
    any: bool,
    replaces: HashSet<ObjectId>,
}

impl Others {
    /// Backups write index objects, but only prunes, and backups that mend the index,
    /// write some that replace others. `own` are the objects written by this one.
    fn look(repo: &Repository, view: &View, own: &HashSet<ObjectId>) -> Result<Self> {
        let listed = repo.store().list(ObjectKind::Index)?;
        let listed: HashSet<_> = listed.into_iter().map(|(name, _)| name.id).collect();
        let mut others = Self { listed, ..Self::default() };
        let known = |id: &ObjectId| {
            own.contains(id) || view.objects.contains(id) || view.replaced.contains(id)
        };
        for id in others.listed.iter().filter(|id| !known(id)) {
            match read_object(repo.store(), repo.keys(), id) {
                Ok(data) => others.replaces.extend(data.replaces),
                // It has vanished, or can't be known.
                Err(e) if e.is_damage() => others.any = true,
                Err(e) => return Err(e),
            }
        }
        others.any |= !others.replaces.is_empty();
        Ok(others)
    }
}

/// Whether another prune has changed the index since the plan was made.
pub(super) fn is_outdated(repo: &Repository, plan: &PrunePlan) -> Result<bool> {
    let objects = repo.index().objects();
    if !plan.objects.is_subset(&objects) {
        return Ok(true);
    }
    for id in objects.difference(&plan.objects) {
        if !read_object(repo.store(), repo.keys(), id)?.replaces.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Rewrites the index objects that the plan changes, which then goes by the new ones. `None` if
/// another prune has changed the index at the same time: then this one goes no further.
pub(super) fn publish(
    repo: &Repository,
    options: &PruneOptions,
    plan: &mut PrunePlan,
    outcome: &mut PruneOutcome,
    monitor: &dyn Monitor,
) -> Result<Option<Doomed>> {
    repo.refresh_index()?;
    refuse_damaged_index(repo)?;
    if is_outdated(repo, plan)? {
        return Ok(None);
    }
    let view = View::new(repo);
    let mut rewrite = Rewrite {
        repo,
        plan,
        view,
        kept: IndexWriter::new(repo),
        dooms: IndexWriter::new(repo),
        replaces: Vec::new(),
        doomed: Doomed::default(),
        outcome,
    };
    rewrite.indexed(monitor)?;
    rewrite.unindexed(options, monitor)?;
    let Some(Written { doomed, kept, replaced }) = rewrite.finish()? else { return Ok(None) };
    plan.objects.retain(|id| !replaced.contains(id));
    plan.replaced.extend(replaced);
    plan.objects.extend(kept.iter().chain(&doomed.objects));
    Ok(Some(doomed))
}

/// What has been changed in the index.
struct Written {
    doomed: Doomed,
    /// The new objects beside those of doomed packs.
    kept: Vec<ObjectId>,
    replaced: Vec<ObjectId>,
}

fn blob_count(data: &IndexData) -> usize {
    data.packs.iter().flat_map(|p| &p.segments).map(|s| s.blob_count()).sum()
}

fn count_small(repo: &Repository) -> Result<usize> {
    // About 40 bytes a blob.
    let listed = repo.store().list(ObjectKind::Index)?;
    Ok(listed.iter().filter(|(_, size)| *size < SMALL_INDEX as u64 * 40).count())
}

/// Index objects being replaced by new ones.
struct Rewrite<'a> {
    repo: &'a Repository,
    plan: &'a PrunePlan,
    view: View,
    kept: IndexWriter<'a>,
    dooms: IndexWriter<'a>,
    replaces: Vec<ObjectId>,
    doomed: Doomed,
    outcome: &'a mut PruneOutcome,
}

impl Rewrite<'_> {
    fn indexed(&mut self, monitor: &dyn Monitor) -> Result<()> {
        // Who mends the index changes nothing else: a prune may be deleting what it has doomed.
        let mends = !self.plan.lost.is_empty() || !self.plan.wrong.is_empty();
        let join_small = !mends && count_small(self.repo)? >= MANY_SMALL;
        let mut empty = Vec::new();
        let objects: Vec<_> = self.view.objects.iter().copied().collect();
        let size = sizes(self.repo.store(), ObjectKind::Index)?;
        for some in objects.chunks(READS) {
            monitor.progress().check()?;
            let (store, keys) = (self.repo.store(), self.repo.keys());
            let read = |id: &ObjectId| Ok((*id, read_object(store, keys, id)?));
            let read = map(some, READS, Room { bytes: BYTES, of: &size }, read)?;
            self.rewrite(read, join_small, &mut empty)?;
        }
        if !self.replaces.is_empty() || empty.len() >= MANY_SMALL {
            empty.into_iter().for_each(|(id, replaces)| self.replace(id, replaces));
        }
        Ok(())
    }

    /// Replaces those of these objects that change. `empty` gets those that name no packs.
    fn rewrite(
        &mut self,
        read: Vec<(ObjectId, IndexData)>,
        join_small: bool,
        empty: &mut Vec<(ObjectId, Vec<ObjectId>)>,
    ) -> Result<()> {
        for (id, data) in read {
            let changes = |p: &PackEntry| match self.view.fate(self.plan, &p.id) {
                Fate::Stay => false,
                Fate::Lost => !p.is_doomed(),
                _ => true,
            };
            let small = join_small && blob_count(&data) < SMALL_INDEX;
            if data.packs.is_empty() {
                empty.push((id, data.replaces));
            } else if small || data.packs.iter().any(changes) {
                data.packs.into_iter().try_for_each(|pack| self.add(pack))?;
                self.replace(id, data.replaces);
            }
        }
        Ok(())
    }

    /// What an object kept out of force must stay so without it.
    fn replace(&mut self, id: ObjectId, replaces: Vec<ObjectId>) {
        self.replaces.push(id);
        self.replaces.extend(replaces.into_iter().filter(|r| self.view.replaced.contains(r)));
    }

    fn add(&mut self, mut pack: PackEntry) -> Result<()> {
        let fate = self.view.fate(self.plan, &pack.id);
        if let Fate::Correct = fate {
            let name = ObjectName::new(ObjectKind::Pack, pack.id);
            let size = self.repo.store().size(&name)?;
            let table = fetch_table(self.repo.store(), self.repo.keys(), pack.id, size)?;
            pack = PackEntry { marked: pack.marked, ..table };
        }
        match fate {
            Fate::Doom => return self.doom(pack),
            Fate::Mark => {
                pack.marked = Some(self.mark());
                let size = pack.size;
                if self.kept.add(pack)? {
                    self.outcome.bytes_marked += size;
                }
                return Ok(());
            }
            Fate::Recover => pack.marked = None,
            Fate::Lost => pack.marked = Some(DOOMED),
            // Of several entries one is left, and speaks for all of them.
            Fate::Stay | Fate::Correct => match self.view.packs.get(&pack.id).map(|p| p.marked) {
                Some(0) => pack.marked = None,
                Some(since) if pack.marked.is_none_or(|t| t.seconds < since) => {
                    pack.marked = Some(Time::new(since, 0));
                }
                _ => {}
            },
        }
        self.kept.add(pack).map(drop)
    }

    /// Now, by the clock of the plan: copying may have taken longer than the grace.
    fn mark(&self) -> Time {
        let passed = self.plan.made.map_or(0, |made| made.elapsed().as_secs() as i64);
        Time::new(self.plan.now.seconds.saturating_add(passed).max(DOOMED.seconds + 1), 0)
    }

    fn doom(&mut self, mut pack: PackEntry) -> Result<()> {
        pack.marked = Some(DOOMED);
        self.doomed.packs.insert(pack.id, pack.size);
        self.dooms.add(pack).map(drop)
    }

    /// Packs that no index object names: what an interrupted backup left, or one
    /// that is running is about to name.
    fn unindexed(&mut self, options: &PruneOptions, monitor: &dyn Monitor) -> Result<()> {
        let mut recent = None;
        for id in &self.plan.unindexed {
            monitor.progress().check()?;
            // It was published since.
            if self.view.packs.get(id).is_some() {
                continue;
            }
            match read_unindexed(self.repo, id) {
                Ok(pack) if options.grace.is_zero() => self.doom(pack)?,
                Ok(mut pack) => {
                    pack.marked = Some(self.mark());
                    self.outcome.bytes_marked += pack.size;
                    self.kept.add(pack)?;
                }
                Err(e) if e.is_not_found() => {}
                Err(e) if e.is_damage() => {
                    let recent = match &mut recent {
                        Some(recent) => recent,
                        none => none.insert(damaged::recent(self.repo, options, self.plan)?),
                    };
                    if recent.contains(id) || e.is_unreadable_now() {
                        left_alone(&ObjectName::new(ObjectKind::Pack, *id), &e, monitor);
                    } else {
                        self.doomed.damaged.push(*id);
                    }
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// The last object says what all of them replace: it takes effect when it is there.
    fn finish(mut self) -> Result<Option<Written>> {
        let repo = self.repo;
        self.dooms.flush(Vec::new())?;
        let mut replaces = self.replaces.clone();
        if !replaces.is_empty() {
            // Another prune that has read the index before the first batch must see that it is too late.
            replaces.extend(&self.plan.replaced);
        }
        self.kept.flush(replaces)?;
        repo.store().settle()?;
        if !self.replaces.is_empty() && self.gives_way()? {
            return Ok(None);
        }
        delete_index(repo, self.replaces.iter().copied())?;
        let doomed = Doomed { objects: self.dooms.objects, ..self.doomed };
        Ok(Some(Written { doomed, kept: self.kept.objects, replaced: self.replaces }))
    }

    /// Only one prune shall run at a time. If two did, what this one wrote may
    /// not be true any more: takes it back, as long as nothing rests on it, and
    /// returns true.
    fn gives_way(&self) -> Result<bool> {
        let own: HashSet<_> =
            self.kept.objects.iter().chain(&self.dooms.objects).copied().collect();
        let others = Others::look(self.repo, &self.view, &own)?;
        // It took effect, and another one has gone on from there.
        let Some(last) = self.kept.objects.last().filter(|id| others.listed.contains(id)) else {
            return Ok(true);
        };
        let missing: Vec<_> =
            self.view.objects.iter().filter(|id| !others.listed.contains(id)).collect();
        // Ours may be lost, too: the last one must not take effect without the others.
        let complete = own.iter().all(|id| others.listed.contains(id));
        // The next one may have removed what ours replaces; nothing else may be gone.
        if complete && !others.any && missing.iter().all(|id| self.replaces.contains(id)) {
            return Ok(false);
        }
        if missing.iter().all(|id| others.replaces.contains(id)) {
            delete_index(self.repo, [*last])?;
            delete_index(self.repo, own.into_iter().filter(|id| id != last))?;
        }
        Ok(true)
    }
}
