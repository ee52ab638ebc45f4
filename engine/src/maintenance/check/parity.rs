//! What parity had to make up for, what has none, and parity that is damaged itself.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use super::packs::PacksRead;
use super::{CheckProblem, CheckReport, View};
use crate::error::{Error, Result};
use crate::format::{ObjectId, ObjectKind, ObjectName};
use crate::maintenance::workers::{for_each, reason, size_of, stops};
use crate::parity::{Guarded, len_for, verify};
use crate::repo::Repository;
use crate::store::Store;

/// Enters objects that were read with the help of their parity, those without parity, and parity
/// that is damaged, after the problems that are there: what is lost is known by their places.
pub(super) fn check_parity(
    repo: &Repository,
    view: &View,
    read: &PacksRead,
    report: &mut CheckReport,
) -> Result<()> {
    let Some(guard) = repo.guard() else { return Ok(()) };
    for name in repo.mended() {
        let message =
            "it is damaged; its parity makes up for that, and `tresor repair objects` mends it";
        report.problems.push(CheckProblem::new(name, message));
    }
    // What the view holds was stored before this listing, and its parity with it.
    let parity = lengths(repo.store())?;
    let mut doubtful = Vec::new();
    for (name, size) in objects(repo, view)? {
        match parity.get(&name.id) {
            None => {
                // It may have been deleted meanwhile, or its parity stored.
                let is_there = |name: &ObjectName| repo.store().size(name).is_ok();
                if is_there(&name) && !is_there(&name.parity()) {
                    let message = "it has no parity; `tresor repair objects` makes it";
                    report.problems.push(CheckProblem::new(name, message));
                }
            }
            Some(len) if is_doubtful(guard, view, read, (&name, size), *len) => {
                doubtful.push((name, *len));
            }
            Some(_) => {}
        }
    }
    verify_all(repo, &doubtful, report)
}

/// The lengths of all parity objects, by the objects that they are for.
pub(super) fn lengths(store: &Store) -> Result<HashMap<ObjectId, u64>> {
    let listed = store.list(ObjectKind::Parity)?;
    Ok(listed.into_iter().map(|(name, size)| (name.id, size)).collect())
}

/// What must have parity, with its length. Packs that no index object names may be of a backup
/// that is running.
fn objects(repo: &Repository, view: &View) -> Result<HashSet<(ObjectName, u64)>> {
    let store = repo.store();
    let config = match store.size(&ObjectName::CONFIG) {
        // Then it was opened with what its parity says.
        Err(e) if e.is_not_found() => 0,
        other => other?,
    };
    let mut all = HashSet::from([(ObjectName::CONFIG, config)]);
    for pack in view.packs.iter() {
        let size = view.listed.get(&pack.id).copied();
        all.extend(size.map(|size| (ObjectName::new(ObjectKind::Pack, pack.id), size)));
    }
    let snapshots: HashSet<_> = view.snapshots.iter().map(|s| s.id).collect();
    let listed = |kind| Ok::<_, Error>(store.list(kind)?.into_iter());
    all.extend(listed(ObjectKind::Snapshot)?.filter(|(name, _)| snapshots.contains(&name.id)));
    all.extend(listed(ObjectKind::Index)?.filter(|(name, _)| view.objects.contains(&name.id)));
    all.extend(listed(ObjectKind::Key)?);
    all.extend(listed(ObjectKind::Forgotten)?);
    Ok(all)
}

/// Whether the parity of an object must be read: all of it shall be, or what is known of it is
/// not what this program would make. Another one may make more of it, or less.
fn is_doubtful(
    guard: &Guarded,
    view: &View,
    read: &PacksRead,
    (name, size): (&ObjectName, u64),
    len: u64,
) -> bool {
    let shall_be_read = match name.kind {
        ObjectKind::Pack => read.bad_parity.contains(&name.id),
        ObjectKind::Snapshot | ObjectKind::Index => read.any && view.wants(name.kind, name.id),
        _ => read.any,
    };
    shall_be_read || len_for(size, guard.share()) != Some(len)
}

fn verify_all(
    repo: &Repository,
    objects: &[(ObjectName, u64)],
    report: &mut CheckReport,
) -> Result<()> {
    let (store, config) = (repo.store(), hash_of_config(repo)?);
    let found = Mutex::new(Vec::new());
    for_each(objects, size_of, |(name, _)| {
        let object = if *name == ObjectName::CONFIG { config } else { Some(name.id) };
        if let Some(reason) = problem_of_parity(store, name, object)?
            && store.size(name).is_ok()
        {
            let message =
                format!("this parity is damaged: {reason}; `tresor repair objects` makes it anew");
            let problem = CheckProblem::new(name.parity(), message);
            found.lock().unwrap_or_else(|e| e.into_inner()).push(problem);
        }
        Ok(())
    })?;
    let mut found = found.into_inner().unwrap_or_else(|e| e.into_inner());
    found.sort_by(|a, b| a.object.cmp(&b.object));
    report.problems.extend(found);
    Ok(())
}

/// It has no hash in its name. `None` if it is damaged, which is told of elsewhere.
fn hash_of_config(repo: &Repository) -> Result<Option<ObjectId>> {
    if repo.mended().contains(&ObjectName::CONFIG) {
        return Ok(None);
    }
    match repo.store().get(&ObjectName::CONFIG).map_err(Error::from) {
        Ok(bytes) => Ok(Some(ObjectId::of(&bytes))),
        Err(e) if stops(&e) => Err(e),
        Err(_) => Ok(None),
    }
}

/// What is wrong with the parity of an object, if there is any. It must be of these bytes, if
/// that is known.
pub(in crate::maintenance) fn problem_of_parity(
    store: &Store,
    name: &ObjectName,
    object: Option<ObjectId>,
) -> Result<Option<String>> {
    match store.get(&name.parity()) {
        Ok(bytes) => Ok(verify(&bytes, object).err()),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => {
            let e = Error::from(e);
            if stops(&e) { Err(e) } else { Ok(Some(reason(e))) }
        }
    }
}
