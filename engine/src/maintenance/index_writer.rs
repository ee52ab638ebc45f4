//! Index objects in place of others.

use std::collections::HashSet;

use crate::error::Result;
use crate::format::{
    DOOMED, IndexData, ObjectId, ObjectKind, ObjectName, PackEntry, Purpose, sealed,
};
use crate::index::read_object;
use crate::repo::Repository;

/// Blobs in one index object.
const INDEX_BLOBS: usize = 200_000;

/// Deletes index objects for good.
pub(super) fn delete_index(
    repo: &Repository,
    ids: impl IntoIterator<Item = ObjectId>,
) -> Result<()> {
    for id in ids {
        repo.store().delete(&ObjectName::new(ObjectKind::Index, id))?;
    }
    Ok(repo.store().settle()?)
}

/// Dooms the packs that are `lost` in index objects that the caller has written: a
/// prune has taken them for garbage, and nothing may rely on them. Returns the objects that
/// stand there now; one that has vanished stays in the list.
pub(crate) fn disown(
    repo: &Repository,
    objects: &[ObjectId],
    lost: impl Fn(&ObjectId) -> bool,
) -> Result<Vec<ObjectId>> {
    let mut now = Vec::new();
    for id in objects {
        let data = match read_object(repo.store(), repo.keys(), id) {
            Err(e) if e.is_not_found() => None,
            other => Some(other?),
        };
        let Some(data) = data.filter(|d| d.packs.iter().any(|pack| lost(&pack.id))) else {
            now.push(*id);
            continue;
        };
        let mut writer = IndexWriter::new(repo);
        for pack in data.packs {
            let marked = if lost(&pack.id) { Some(DOOMED) } else { pack.marked };
            writer.add(PackEntry { marked, ..pack })?;
        }
        writer.flush(vec![*id])?;
        repo.store().settle()?;
        delete_index(repo, [*id])?;
        now.append(&mut writer.objects);
    }
    Ok(now)
}

/// Writes index objects of bounded length.
pub(super) struct IndexWriter<'a> {
    repo: &'a Repository,
    packs: Vec<PackEntry>,
    blobs: usize,
    /// Packs that were added.
    added: HashSet<ObjectId>,
    /// What was written.
    pub objects: Vec<ObjectId>,
}

impl<'a> IndexWriter<'a> {
    pub fn new(repo: &'a Repository) -> Self {
        Self { repo, packs: Vec::new(), blobs: 0, added: HashSet::new(), objects: Vec::new() }
    }

    /// False if the pack was added before.
    pub fn add(&mut self, pack: PackEntry) -> Result<bool> {
        if !self.added.insert(pack.id) {
            return Ok(false);
        }
        self.blobs += pack.segments.iter().map(|s| s.blob_count()).sum::<usize>();
        self.packs.push(pack);
        if self.blobs >= INDEX_BLOBS {
            self.flush(Vec::new())?;
        }
        Ok(true)
    }

    /// Writes what has gathered, if there is anything to say.
    pub fn flush(&mut self, replaces: Vec<ObjectId>) -> Result<()> {
        if self.packs.is_empty() && replaces.is_empty() {
            return Ok(());
        }
        self.blobs = 0;
        if !replaces.is_empty() {
            // What is replaced stays in force until all that stands in for it is there for
            // good, whoever has written that.
            self.repo.store().settle()?;
        }
        let data = IndexData { packs: std::mem::take(&mut self.packs), replaces };
        let object = sealed::seal(self.repo.keys(), Purpose::Index, &data)?;
        self.objects.push(self.repo.put_object(ObjectKind::Index, &object)?);
        Ok(())
    }
}
