//! What parity had to make up for, and what has none.

use std::collections::HashSet;

use super::{CheckProblem, CheckReport, View};
use crate::error::Result;
use crate::format::{ObjectKind, ObjectName};
use crate::repo::Repository;

/// Enters objects that were read with the help of their parity, and those without parity,
/// after the problems that are there: what is lost is known by their places.
pub(super) fn check_parity(repo: &Repository, view: &View, report: &mut CheckReport) -> Result<()> {
    if repo.guard().is_none() {
        return Ok(());
    }
    for name in repo.mended() {
        let message =
            "it is damaged; its parity makes up for that, and `tresor repair objects` mends it";
        report.problems.push(CheckProblem::new(name, message));
    }
    // What the view holds was stored before this listing, and its parity with it. Packs that
    // no index object names may be of a backup that is running.
    let parity: HashSet<_> =
        repo.store().list(ObjectKind::Parity)?.into_iter().map(|(name, _)| name.id).collect();
    let of = |kind| move |id| ObjectName::new(kind, id);
    let there = |id: &_| view.listed.contains_key(id);
    let packs = view.packs.iter().map(|p| p.id).filter(there).map(of(ObjectKind::Pack));
    let snapshots = view.snapshots.iter().map(|s| s.id).map(of(ObjectKind::Snapshot));
    let index = view.objects.iter().copied().map(of(ObjectKind::Index));
    let slots = repo.store().list(ObjectKind::Key)?.into_iter().map(|(name, _)| name);
    let records = repo.store().list(ObjectKind::Forgotten)?.into_iter().map(|(name, _)| name);
    let all = packs.chain(snapshots).chain(index).chain(slots).chain(records);
    let all = all.chain([ObjectName::CONFIG]);
    let bare: HashSet<_> = all.filter(|name| !parity.contains(&name.id)).collect();
    for name in bare {
        // It may have been deleted meanwhile, or its parity stored.
        if repo.store().size(&name).is_ok() && repo.store().size(&name.parity()).is_err() {
            let message = "it has no parity; `tresor repair objects` makes it";
            report.problems.push(CheckProblem::new(name, message));
        }
    }
    Ok(())
}
