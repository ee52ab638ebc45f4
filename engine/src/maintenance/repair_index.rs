//! Repair of the index, out of the tables that packs carry.
//!
//! Nothing is taken away before what stands in for it is in the store for good. Like a
//! backup it only adds entries, so that backups and prunes may run meanwhile, and it
//! looks in the end whether a prune has taken one of its packs for garbage.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use super::index_writer::{IndexWriter, delete_index, disown};
use super::prune::mark_lost;
use super::repair_objects::tidy_parity;
use super::used::Packs;
use super::workers::{for_each, reason, stops};
use crate::error::{Error, Result};
use crate::format::{ObjectId, ObjectKind, ObjectName, PackEntry};
use crate::index::read_object;
use crate::monitor::Monitor;
use crate::pack::{fetch_table, read_table};
use crate::repo::Repository;

#[derive(Clone, Copy, Debug, Default)]
pub struct RepairIndexOptions {
    /// Read the tables also of packs that the index knows, and correct what it says of them.
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
    /// Index objects that could not be read, and were removed.
    pub removed: Vec<ObjectId>,
    /// Packs whose table can't be read, and why: path and message.
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
    monitor.phase("reading tables of packs");
    let tables = read_tables(repo, &wanted, &mut report, monitor)?;

    let mut missing: HashSet<_> = known
        .iter()
        .filter(|p| p.marked == 0 && !listed.contains_key(&p.id))
        .map(|p| p.id)
        .collect();
    report.packs_missing = missing.len() as u64;
    let corrections = wrong_objects(repo, &tables)?;
    report.packs_corrected = corrections.wrong.len() as u64;
    let added = tables.values().filter(|t| known.get(&t.id).is_none());
    for table in added.clone() {
        report.packs_added += 1;
        report.blobs_added += table.segments.iter().map(|s| s.blob_count() as u64).sum::<u64>();
    }
    report.removed = damaged.iter().map(|d| d.0).collect();
    if options.dry_run {
        return Ok(report);
    }

    monitor.phase("writing the index");
    // Who stored these packs may have crashed before that was for good.
    repo.store().settle_all()?;
    let mut writer = IndexWriter::new(repo);
    for table in added.map(|t| t.id).collect::<BTreeSet<_>>() {
        writer.add(tables[&table].clone())?;
    }
    writer.flush(Vec::new())?;
    repo.store().settle()?;
    disown_garbage(repo, &writer.objects)?;
    correct(repo, &corrections, &tables)?;
    // What is good has replaced it, for good.
    let still_damaged: HashSet<_> = repo.index().damaged().into_iter().map(|d| d.0).collect();
    report.removed.retain(|id| still_damaged.contains(id));
    delete_index(repo, report.removed.iter().copied())?;
    // Reading tables may have taken hours, and they may have been put back.
    for id in missing.clone() {
        match repo.store().size(&ObjectName::new(ObjectKind::Pack, id)) {
            Err(e) if e.is_not_found() => {}
            other => drop((other?, missing.remove(&id))),
        }
    }
    if !missing.is_empty() {
        mark_lost(repo, missing, monitor)?;
    }
    // A pack that was entered may lack it, and others that were interrupted left more.
    tidy_parity(repo, monitor)?;
    repo.refresh_index()?;
    Ok(report)
}

fn read_tables(
    repo: &Repository,
    packs: &[(ObjectId, u64)],
    report: &mut RepairIndexReport,
    monitor: &dyn Monitor,
) -> Result<HashMap<ObjectId, PackEntry>> {
    monitor.progress().expect(packs.len() as u64, 0);
    let found = Mutex::new((HashMap::new(), Vec::new()));
    for_each(packs, |(id, size)| {
        monitor.progress().check()?;
        let table = fetch_table(repo.store(), repo.keys(), *id, *size);
        let mut found = found.lock().unwrap_or_else(|e| e.into_inner());
        match table {
            Ok(table) => drop(found.0.insert(*id, table)),
            Err(e) if stops(&e) => return Err(e),
            // Deleted meanwhile.
            Err(e) if e.is_not_found() => {}
            Err(e) => {
                found.1.push((ObjectName::new(ObjectKind::Pack, *id).path(), reason(e)));
            }
        }
        monitor.progress().add(1, 0);
        Ok(())
    })?;
    let (tables, mut unreadable) = found.into_inner().unwrap_or_else(|e| e.into_inner());
    unreadable.sort();
    report.tables_read = tables.len() as u64;
    report.unreadable = unreadable;
    Ok(tables)
}

/// Index objects that say of packs what their tables don't.
#[derive(Default)]
struct Corrections {
    objects: Vec<ObjectId>,
    wrong: HashSet<ObjectId>,
}

fn agrees(entry: &PackEntry, table: &PackEntry) -> bool {
    entry.salt == table.salt && entry.size == table.size && entry.segments == table.segments
}

fn wrong_objects(repo: &Repository, tables: &HashMap<ObjectId, PackEntry>) -> Result<Corrections> {
    let mut found = Corrections::default();
    let runs = repo.index().runs();
    let packs = Packs::new(&runs);
    if !tables.keys().any(|id| packs.get(id).is_some()) {
        return Ok(found);
    }
    let mut of_objects = Vec::new();
    for id in repo.index().objects() {
        let data = match read_object(repo.store(), repo.keys(), &id) {
            // A prune has replaced it.
            Err(e) if e.is_not_found() => continue,
            other => other?,
        };
        let is_wrong = |p: &&PackEntry| tables.get(&p.id).is_some_and(|table| !agrees(p, table));
        let wrong: Vec<_> = data.packs.iter().filter(is_wrong).map(|p| p.id).collect();
        found.wrong.extend(&wrong);
        of_objects.push((id, wrong));
    }
    // If other bytes lie there, it is the pack that is wrong, and may be put back.
    let mut whole = HashSet::new();
    for id in &found.wrong {
        match repo.store().get(&ObjectName::new(ObjectKind::Pack, *id)).map_err(Error::from) {
            Ok(bytes) if says(repo, &tables[id], &bytes) => drop(whole.insert(*id)),
            Err(e) if stops(&e) => return Err(e),
            _ => {}
        }
    }
    found.wrong = whole;
    of_objects.retain(|(_, wrong)| wrong.iter().any(|id| found.wrong.contains(id)));
    found.objects = of_objects.into_iter().map(|(id, _)| id).collect();
    found.objects.sort();
    Ok(found)
}

/// Whether these are the bytes of a pack, and its table is this one: it may have been read
/// from other bytes, if those that are there are damaged.
fn says(repo: &Repository, table: &PackEntry, bytes: &[u8]) -> bool {
    blake3::hash(bytes).as_bytes() == &table.id.0
        && read_table(repo.keys(), table.id, bytes).is_ok_and(|own| agrees(&own, table))
}

/// Writes those index objects anew, with the tables in place of what is wrong.
fn correct(
    repo: &Repository,
    corrections: &Corrections,
    tables: &HashMap<ObjectId, PackEntry>,
) -> Result<()> {
    for &id in &corrections.objects {
        let data = match read_object(repo.store(), repo.keys(), &id) {
            Err(e) if e.is_not_found() => return Err(other_at_work()),
            other => other?,
        };
        let replaced = repo.index().replaced();
        let mut replaces = vec![id];
        // What it kept out of force must stay so.
        replaces.extend(data.replaces.into_iter().filter(|r| replaced.contains_key(r)));
        let mut writer = IndexWriter::new(repo);
        for pack in data.packs {
            let table = tables.get(&pack.id).filter(|_| corrections.wrong.contains(&pack.id));
            let entry = table.map(|t| PackEntry { marked: pack.marked, ..t.clone() });
            writer.add(entry.unwrap_or(pack))?;
        }
        writer.flush(replaces)?;
        repo.store().settle()?;
        delete_index(repo, [id])?;
    }
    Ok(())
}

fn other_at_work() -> Error {
    Error::Invalid(
        "a prune has changed the index meanwhile; no entry was removed, run the repair again"
            .into(),
    )
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
