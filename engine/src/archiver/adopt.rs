//! What an interrupted backup has stored and never named in the index: it need not be
//! stored again.

use super::Shared;
use crate::error::Result;
use crate::format::{ObjectKind, ObjectName};
use crate::object;
use crate::pack::{fetch_table, read_table};
use crate::workers::{self, Room};

/// Packs read at once, and how many bytes they may have together: a store that is far away
/// answers late.
const READS: usize = 4;
const READ_BYTES: u64 = 80 << 20;

/// Takes such packs, if they are whole, for ones that this backup has stored itself: should a
/// prune have taken them for garbage, it fails as it would for its own. They may also be of a
/// backup that is running; then two index objects name them.
pub(super) fn adopt(shared: &Shared) -> Result<()> {
    let Shared { repo, writer, monitor, .. } = shared;
    // Else packs that such an object names would look as if none did.
    if !repo.index().damaged().is_empty() {
        return Ok(());
    }
    let packs = repo.index().unnamed_packs();
    if packs.is_empty() {
        return Ok(());
    }
    // Who stored them may have crashed before that was for good.
    repo.store().settle_all()?;
    let room = Room { bytes: READ_BYTES, of: &|(_, size)| *size };
    workers::for_each_within(&packs, READS, room, |(id, size)| {
        monitor.progress().check()?;
        let name = ObjectName::new(ObjectKind::Pack, *id);
        // Junk shows here, before all of it is read.
        match fetch_table(repo.store(), repo.keys(), *id, *size) {
            Err(e) if e.is_damage() => return Ok(()),
            other => drop(other?),
        }
        let bytes = match object::read(repo.store(), &name) {
            Ok(bytes) if bytes.len() as u64 == *size => bytes,
            // Of no use, or gone.
            Ok(_) => return Ok(()),
            Err(e) if e.is_damage() => return Ok(()),
            Err(e) => return Err(e),
        };
        match read_table(repo.keys(), *id, &bytes) {
            Ok(table) => {
                // It is there; its parity may not be.
                if repo.guard().is_some() {
                    object::write(repo.store(), &name, &bytes)?;
                }
                writer.adopt(table)
            }
            Err(e) if e.is_damage() => Ok(()),
            Err(e) => Err(e),
        }
    })
}
