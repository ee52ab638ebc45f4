//! Repair of the index, out of the tables that packs carry.
//!
//! Nothing is taken away before what stands in for it is in the store for good. Like a
//! backup it only adds entries, so that backups and prunes may run meanwhile, and it
//! looks in the end whether a prune has taken one of its packs for garbage.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use super::index_writer::{IndexWriter, delete_index, disown};
use super::prune::mend;
use super::repair_objects::tidy_parity;
use super::tables::{Tables, digest};
use super::used::Packs;
use super::workers::{for_each, must_stay, reason, size_of, stops};
use crate::error::{Error, Result};
use crate::format::{DOOMED, ObjectId, ObjectKind, ObjectName, PackEntry};
use crate::index::read_object;
use crate::monitor::Monitor;
use crate::object;
use crate::pack::{fetch_table, read_table};
use crate::repo::Repository;

#[derive(Clone, Copy, Debug, Default)]
pub struct RepairIndexOptions {
    /// Read also the packs that the index knows, whole: what it says of them is corrected,
    /// and nothing new relies on damaged ones any more.
    pub read_all: bool,
    /// Tell what would be done, change nothing.
    pub dry_run: bool,
}

#[derive(Clone, Debug, Default)]
pub struct RepairIndexReport {
    pub packs: u64,
    /// Packs whose tables were read.
    pub tables_read: u64,
    /// Packs that were entered in the index.
    pub packs_added: u64,
    pub blobs_added: u64,
    /// Packs of which the index said what isn't so.
    pub packs_corrected: u64,
    /// Packs that are named and not there: nothing relies on them any more.
    pub packs_missing: u64,
    /// Packs that are there and damaged: nothing new relies on them any more.
    pub packs_damaged: u64,
    /// Index objects that could not be read, and were removed.
    pub removed: Vec<ObjectId>,
    /// Packs whose table can't be read, and index objects that the disk can't read now, and
    /// why: path and message. They are left alone.
    pub unreadable: Vec<(String, String)>,
}

pub fn repair_index(
    repo: &Arc<Repository>,
    options: &RepairIndexOptions,
    monitor: &dyn Monitor,
) -> Result<RepairIndexReport> {
    monitor.phase("reading the index");
    repo.index().reload(repo.store(), repo.keys())?;
    repo.index().sync_checked(repo.store(), repo.keys())?;
    // After the index: a pack is stored before that names it.
    let listed: HashMap<_, _> =
        repo.store().list(ObjectKind::Pack)?.into_iter().map(|(n, size)| (n.id, size)).collect();
    let damaged = repo.index().damaged();
    let known = Packs::new(&repo.index().runs());
    let mut report = RepairIndexReport { packs: listed.len() as u64, ..Default::default() };

    let suspect = |id: &ObjectId, size: u64| {
        options.read_all || known.get(id).is_none_or(|pack| pack.size != size)
    };
    let mut wanted: Vec<_> = listed.iter().map(|(id, size)| (*id, *size)).collect();
    wanted.retain(|(id, size)| suspect(id, *size));
    wanted.sort_unstable();
    if !options.dry_run {
        // Who stored these packs may have crashed before that was for good.
        repo.store().settle_all()?;
    }
    monitor.phase("reading tables of packs");
    let mut entering = Entering::new(repo, &known, *options);
    let read = entering.read_tables(&wanted, &mut report, monitor);
    let written = std::mem::take(&mut entering.writer.objects);
    let said = std::mem::take(&mut entering.said);
    let damaged_packs = std::mem::take(&mut entering.damaged);
    // Whatever has been written may name what a prune has taken for garbage.
    let disowned = disown_garbage(repo, &written);
    read.and(disowned)?;

    let missing = known.iter().filter(|p| p.marked == 0 && !listed.contains_key(&p.id));
    let missing: HashSet<_> = missing.map(|p| p.id).collect();
    report.packs_missing = missing.len() as u64;
    report.packs_damaged = damaged_packs.len() as u64;
    let wrong = wrong_entries(repo, &said)?;
    report.packs_corrected = wrong.len() as u64;
    for (id, reason) in damaged {
        let name = ObjectName::new(ObjectKind::Index, id);
        match must_stay(read_object(repo.store(), repo.keys(), &id))? {
            true => report.unreadable.push((name.path(), reason)),
            false => report.removed.push(id),
        }
    }
    // What such an object says may still be true.
    let is_complete = report.unreadable.iter().all(|(object, _)| !object.starts_with("index/"));
    if !is_complete {
        (report.packs_missing, report.packs_corrected, report.packs_damaged) = (0, 0, 0);
    }
    if options.dry_run {
        return Ok(report);
    }
    monitor.phase("writing the index");
    // What is good has replaced it, for good.
    let damaged: HashSet<_> = repo.index().damaged().into_iter().map(|d| d.0).collect();
    report.removed.retain(|id| damaged.contains(id));
    delete_index(repo, report.removed.iter().copied())?;
    let mut lost = still(repo, missing, is_missing)?;
    lost.extend(still(repo, damaged_packs, is_rotten)?);
    if is_complete && !(lost.is_empty() && wrong.is_empty()) {
        mend(repo, lost, wrong, monitor)?;
    }
    // A pack that was entered may lack it, and others that were interrupted left more.
    tidy_parity(repo, monitor)?;
    repo.refresh_index()?;
    Ok(report)
}

/// Reading tables may have taken hours, and packs may have been put back: those of which
/// it `is` still so.
fn still(
    repo: &Repository,
    mut packs: HashSet<ObjectId>,
    is: impl Fn(&Repository, &ObjectName) -> Result<bool>,
) -> Result<HashSet<ObjectId>> {
    for id in packs.clone() {
        if !is(repo, &ObjectName::new(ObjectKind::Pack, id))? {
            packs.remove(&id);
        }
    }
    Ok(packs)
}

fn is_missing(repo: &Repository, pack: &ObjectName) -> Result<bool> {
    match repo.store().size(pack) {
        Err(e) if e.is_not_found() => Ok(true),
        other => Ok(other.map(|_| false)?),
    }
}

fn is_rotten(repo: &Repository, pack: &ObjectName) -> Result<bool> {
    match object::read(repo.store(), pack) {
        Err(e) if stops(&e) => Err(e),
        other => Ok(other.is_err_and(|e| !e.is_unreadable_now())),
    }
}

/// Tables on their way into the index: none is kept in memory for long.
struct Entering<'a> {
    repo: &'a Repository,
    known: &'a Packs,
    writer: IndexWriter<'a>,
    options: RepairIndexOptions,
    /// Packs that the index knows, and whose bytes are not what their names say.
    damaged: HashSet<ObjectId>,
    /// What the tables say of packs that the index knows.
    said: Tables,
}

impl<'a> Entering<'a> {
    fn new(repo: &'a Repository, known: &'a Packs, options: RepairIndexOptions) -> Self {
        let writer = IndexWriter::new(repo);
        let (damaged, said) = (HashSet::new(), Tables::default());
        Self { repo, known, writer, options, damaged, said }
    }

    fn read_tables(
        &mut self,
        packs: &[(ObjectId, u64)],
        report: &mut RepairIndexReport,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        monitor.progress().expect(packs.len() as u64, 0);
        let (repo, known, read_all) = (self.repo, self.known, self.options.read_all);
        let shared = Mutex::new((&mut *self, &mut *report));
        for_each(packs, size_of, |(id, size)| {
            monitor.progress().check()?;
            let is_known = known.get(id).is_some();
            let table_only = || fetch_table(repo.store(), repo.keys(), *id, *size);
            let table = match read_all.then(|| read_whole(repo, id)) {
                None => table_only(),
                // What can be read of it can be read; nothing new relies on it.
                Some(Err(e)) if is_damaged(&e) && !is_known => {
                    table_only().map(|table| PackEntry { marked: Some(DOOMED), ..table })
                }
                Some(table) => table,
            };
            let mut shared = shared.lock().unwrap_or_else(|e| e.into_inner());
            let (entering, report) = &mut *shared;
            match table {
                Ok(table) => entering.enter(table, report)?,
                Err(e) if read_all && is_known && is_damaged(&e) => {
                    entering.damaged.insert(*id);
                }
                Err(e) if stops(&e) => return Err(e),
                // Deleted meanwhile.
                Err(e) if e.is_not_found() => {}
                Err(e) => {
                    let name = ObjectName::new(ObjectKind::Pack, *id);
                    report.unreadable.push((name.path(), reason(e)));
                }
            }
            monitor.progress().add(1, 0);
            Ok(())
        })?;
        report.unreadable.sort();
        self.writer.flush(Vec::new())?;
        Ok(self.repo.store().settle()?)
    }

    fn enter(&mut self, table: PackEntry, report: &mut RepairIndexReport) -> Result<()> {
        report.tables_read += 1;
        if self.known.get(&table.id).is_some() {
            self.said.insert(&table);
            return Ok(());
        }
        report.packs_added += 1;
        report.blobs_added += table.segments.iter().map(|s| s.blob_count() as u64).sum::<u64>();
        if !self.options.dry_run {
            self.writer.add(table)?;
        }
        Ok(())
    }
}

/// The table of a pack all of whose bytes are what its name says.
fn read_whole(repo: &Repository, id: &ObjectId) -> Result<PackEntry> {
    let bytes = object::read(repo.store(), &ObjectName::new(ObjectKind::Pack, *id))?;
    read_table(repo.keys(), *id, &bytes)
}

/// Whether other bytes are there than must be, as far as can be told today.
fn is_damaged(error: &Error) -> bool {
    error.is_damage() && !error.is_not_found() && !error.is_unreadable_now()
}

/// Packs of which an index object says what their tables don't.
fn wrong_entries(repo: &Repository, said: &Tables) -> Result<HashSet<ObjectId>> {
    let wrong = said.contradicted(repo)?;
    // If other bytes lie there, it is the pack that is wrong, and may be put back.
    let mut whole = HashSet::new();
    for id in wrong {
        match repo.store().get(&ObjectName::new(ObjectKind::Pack, id)).map_err(Error::from) {
            Ok(bytes) if says(repo, &id, said, &bytes) => drop(whole.insert(id)),
            Err(e) if stops(&e) => return Err(e),
            _ => {}
        }
    }
    Ok(whole)
}

/// Whether these are the bytes of a pack, and its table is this one: it may have been read
/// from other bytes, if those that are there are damaged.
fn says(repo: &Repository, id: &ObjectId, said: &Tables, bytes: &[u8]) -> bool {
    ObjectId::of(bytes) == *id
        && read_table(repo.keys(), *id, bytes).is_ok_and(|own| said.get(id) == Some(&digest(&own)))
}

/// A prune may have taken packs for garbage that no index object named: what it has
/// doomed or deleted must not look as if it were there.
fn disown_garbage(repo: &Repository, written: &[ObjectId]) -> Result<()> {
    repo.refresh_index()?;
    if written.is_empty() {
        return Ok(());
    }
    let listed: HashSet<_> =
        repo.store().list(ObjectKind::Pack)?.into_iter().map(|(name, _)| name.id).collect();
    let index = repo.index();
    disown(repo, written, |id| index.is_unreliable(id) || !listed.contains(id))?;
    repo.refresh_index()
}
