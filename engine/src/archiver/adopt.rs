//! What an interrupted backup has stored and never named in the index: it need not be
//! stored again.

use std::collections::HashSet;

use super::Shared;
use crate::error::Result;
use crate::format::{ObjectId, ObjectKind};
use crate::pack::fetch_table;
use crate::workers;

/// Tables read at once: a store that is far away answers late.
const READS: usize = 8;

/// Takes such packs for ones that this backup has stored itself: if it turns out that a prune
/// has taken them for garbage, it fails as it would for its own. They may also be of a backup
/// that is running; then two index objects name them.
pub(super) fn adopt(shared: &Shared) -> Result<()> {
    let Shared { repo, writer, monitor, .. } = shared;
    let indexed: HashSet<ObjectId> = repo
        .index()
        .runs()
        .iter()
        .flat_map(|run| run.packs().map(|p| p.id).collect::<Vec<_>>())
        .collect();
    let mut packs = repo.store().list(ObjectKind::Pack)?;
    packs.retain(|(name, _)| !indexed.contains(&name.id));
    if packs.is_empty() {
        return Ok(());
    }
    // Who stored them may have crashed before that was for good.
    repo.store().settle_all()?;
    workers::for_each(&packs, READS, |(name, size)| {
        monitor.progress().check()?;
        match fetch_table(repo.store(), repo.keys(), name.id, *size) {
            Ok(table) => writer.adopt(table),
            // Of no use, or gone.
            Err(e) if e.is_damage() => Ok(()),
            Err(e) => Err(e),
        }
    })
}
