//! Damaged packs that no index object names: nothing that can be read needs them.

use std::collections::HashSet;

use crate::error::Result;
use crate::format::{ObjectId, ObjectKind, ObjectName, Time};
use crate::maintenance::plan::{PruneOptions, PrunePlan};
use crate::monitor::Monitor;
use crate::object;
use crate::pack::read_table;
use crate::repo::Repository;

/// Packs that have been in the store for less than the grace.
pub(super) fn recent(
    repo: &Repository,
    options: &PruneOptions,
    plan: &PrunePlan,
) -> Result<HashSet<ObjectId>> {
    if options.grace.is_zero() {
        return Ok(HashSet::new());
    }
    let added =
        repo.store().added_since(ObjectKind::Pack, Time::new(options.before(plan.now), 0))?;
    Ok(added.into_iter().map(|name| name.id).collect())
}

/// Reads a pack once more, whole. Its length if its bytes are not what its name says, and parity
/// doesn't help; of others, and of what the medium can't read now, why they stay is told.
pub(super) fn still_damaged(
    repo: &Repository,
    id: &ObjectId,
    monitor: &dyn Monitor,
) -> Result<Option<u64>> {
    let name = ObjectName::new(ObjectKind::Pack, *id);
    let bytes = match object::read(repo.store(), &name) {
        Err(e) if e.is_not_found() => return Ok(None),
        Err(e) if e.is_damage() && !e.is_unreadable_now() => {
            return Ok(repo.store().size(&name).map(Some)?);
        }
        other => other,
    };
    match bytes.and_then(|bytes| read_table(repo.keys(), *id, &bytes)) {
        Err(e) if e.is_damage() => left_alone(&name, &e, monitor),
        other => drop(other?),
    }
    Ok(None)
}

pub(super) fn left_alone(name: &ObjectName, why: &crate::Error, monitor: &dyn Monitor) {
    monitor.problem(&name.path(), &format!("no index object names it; left alone because {why}"));
}
