//! Repair of objects with their parity, and of parity with its objects. Needs no key.

use std::collections::{HashMap, HashSet};

use super::check::problem_of_parity;
use super::scrub::{Cure, ScrubProblem, scrub};
use crate::error::{Error, Result};
use crate::format::{Config, ObjectId, ObjectKind, ObjectName, ParityShare};
use crate::monitor::Monitor;
use crate::object;
use crate::parity::{self, Guarded};
use crate::repo::Repository;
use crate::store::Store;

#[derive(Clone, Copy, Debug, Default)]
pub struct RepairObjectsOptions {
    /// Tell what would be done, change nothing.
    pub dry_run: bool,
}

#[derive(Clone, Debug, Default)]
pub struct RepairObjectsReport {
    pub objects: u64,
    pub bytes: u64,
    /// Damaged objects that were mended.
    pub mended: Vec<ScrubProblem>,
    /// Parity objects that were damaged or missing, and were made anew.
    pub parity_made: Vec<ScrubProblem>,
    /// What is still wrong.
    pub left: Vec<ScrubProblem>,
    /// Parity of objects that are gone.
    pub parity_removed: u64,
}

/// Reads everything and mends what is damaged. An object is replaced in one step, by
/// bytes that are what its name says.
pub fn repair_objects(
    store: &Store,
    options: &RepairObjectsOptions,
    monitor: &dyn Monitor,
) -> Result<RepairObjectsReport> {
    let found = scrub(store, monitor)?;
    let Some(share) = found.parity else {
        return Err(Error::Invalid(format!(
            "the repository at {} has no parity (that is chosen with `tresor init --parity`), so damaged objects can only be put back from another copy",
            store.describe()
        )));
    };
    let mut report =
        RepairObjectsReport { objects: found.objects, bytes: found.bytes, ..Default::default() };
    monitor.phase("mending");
    // First the objects: their parity is made from them.
    let (mend, others): (Vec<_>, Vec<_>) =
        found.problems.into_iter().partition(|problem| matches!(problem.cure, Cure::Mend(_)));
    for problem in mend.into_iter().chain(others) {
        monitor.progress().check()?;
        let cured = match &problem.cure {
            Cure::None => Ok(false),
            Cure::Mend(_) if options.dry_run => Ok(true),
            Cure::Mend(name) => mend_one(store, name),
            Cure::NewParity(name) if options.dry_run => is_good(store, name, &report.mended),
            Cure::NewParity(name) => new_parity(store, name, share),
        };
        let cured = match cured {
            Ok(true) => true,
            _ if is_gone(store, &problem.cure).unwrap_or(false) => continue,
            other => other?,
        };
        let list = match problem.cure {
            Cure::Mend(_) if cured => &mut report.mended,
            Cure::NewParity(_) if cured => &mut report.parity_made,
            _ => &mut report.left,
        };
        list.push(problem);
    }
    if !options.dry_run {
        report.parity_removed = remove_orphans(store)?;
        store.settle()?;
    }
    Ok(report)
}

fn mend_one(store: &Store, name: &ObjectName) -> Result<bool> {
    let Ok(whole) = parity::mend(store, name)? else { return Ok(false) };
    if whole.was_damaged {
        object::replace(store, name, &whole.bytes)?;
        // Who deletes an object deletes its parity first: it was deleted meanwhile, and
        // must not come back.
        let is_config = name.kind == ObjectKind::Config;
        if !is_config && is_deleted(store, &name.parity())? {
            store.delete(name)?;
        }
    }
    Ok(true)
}

/// Whether what is to be cured was deleted meanwhile.
fn is_gone(store: &Store, cure: &Cure) -> Result<bool> {
    match cure {
        Cure::Mend(name) | Cure::NewParity(name) => {
            Ok(*name != ObjectName::CONFIG && is_deleted(store, name)?)
        }
        Cure::None => Ok(false),
    }
}

/// Not only said to be: what follows from it can't be undone.
fn is_deleted(store: &Store, name: &ObjectName) -> Result<bool> {
    match store.size(name) {
        Err(e) if e.is_not_found() => {
            Ok(store.list(name.kind)?.iter().all(|(listed, _)| listed != name))
        }
        other => Ok(other.map(|_| false)?),
    }
}

/// The bytes of an object that is whole.
fn whole_object(store: &Store, name: &ObjectName) -> Result<Option<Vec<u8>>> {
    let bytes = match store.get(name) {
        Ok(bytes) => bytes,
        Err(e) => {
            let e = Error::from(e);
            return if e.is_damage() { Ok(None) } else { Err(e) };
        }
    };
    let is_whole = match name.kind {
        ObjectKind::Config => Config::parse(&bytes).is_ok(),
        _ => ObjectId::of(&bytes) == name.id,
    };
    Ok(is_whole.then_some(bytes))
}

/// Whether an object is whole, or was found to be mendable.
fn is_good(store: &Store, name: &ObjectName, mended: &[ScrubProblem]) -> Result<bool> {
    Ok(mended.iter().any(|p| p.cure == Cure::Mend(*name)) || whole_object(store, name)?.is_some())
}

fn new_parity(store: &Store, name: &ObjectName, share: ParityShare) -> Result<bool> {
    let Some(bytes) = whole_object(store, name)? else { return Ok(false) };
    match object::replace(store, &name.parity(), &parity::make(&bytes, share)?) {
        // It was deleted with its object.
        Err(e) if e.is_not_found() => Ok(false),
        other => Ok(other.map(|()| true)?),
    }
}

/// Makes parity that is missing or cut off, and removes what is left of objects that were
/// deleted: for those who change a repository, after others who were interrupted.
pub(super) fn tidy_parity(repo: &Repository, monitor: &dyn Monitor) -> Result<()> {
    let Some(share) = repo.guard().map(Guarded::share) else { return Ok(()) };
    monitor.phase("looking after parity");
    let store = repo.store();
    let parity: HashMap<_, _> = store.list(ObjectKind::Parity)?.into_iter().collect();
    for kind in ObjectKind::ALL.into_iter().filter(|kind| *kind != ObjectKind::Parity) {
        for (name, size) in store.list(kind)? {
            monitor.progress().check()?;
            let is_there = match parity.get(&name.parity()) {
                None => false,
                Some(len) if parity::len_for(size, share) == Some(*len) => true,
                // That one may be what is right.
                Some(_) if name == ObjectName::CONFIG => true,
                Some(_) => problem_of_parity(store, &name, Some(name.id))?.is_none(),
            };
            if !is_there {
                new_parity(store, &name, share)?;
            }
        }
    }
    remove_orphans(store)?;
    Ok(store.settle()?)
}

fn list_parity(store: &Store) -> Result<HashSet<ObjectName>> {
    Ok(store.list(ObjectKind::Parity)?.into_iter().map(|(name, _)| name).collect())
}

/// Removes parity of objects that are gone. A lost config can be made anew.
fn remove_orphans(store: &Store) -> Result<u64> {
    // In this order: an object is stored before its parity.
    let mut orphans = list_parity(store)?;
    orphans.remove(&ObjectName::CONFIG.parity());
    for kind in ObjectKind::ALL.into_iter().filter(|kind| *kind != ObjectKind::Parity) {
        match store.list(kind) {
            Ok(listed) => {
                let there: HashSet<_> = listed.iter().map(|(name, _)| name.parity()).collect();
                orphans.retain(|parity| !there.contains(parity));
            }
            // A folder is gone, and may be put back.
            Err(e) if e.is_not_found() => return Ok(0),
            Err(e) => return Err(e.into()),
        }
    }
    for name in &orphans {
        store.delete(name)?;
    }
    Ok(orphans.len() as u64)
}
