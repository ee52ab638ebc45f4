//! What files consist of: chunk lists, and their pages when they are long.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::format::{BlobId, Content, ContentPage, Extent, ExtentPage, Node, NodeKind};
use crate::repo::Repository;
use crate::tree::BlobSink;

/// Longer lists are paged.
const INLINE_EXTENTS: usize = 256;
const PAGE_MIN: usize = 256;
const PAGE_MAX: usize = 2048;

/// Collects the extents of one file and writes long lists in pages.
#[derive(Default)]
pub struct ContentBuilder {
    extents: Vec<Extent>,
    pages: Vec<ExtentPage>,
}

/// Lengths that somebody has made up may have no sum; readers refuse the file then.
fn total(lengths: impl Iterator<Item = u64>) -> u64 {
    lengths.fold(0, u64::saturating_add)
}

impl ContentBuilder {
    /// Adds a run; neighbouring holes become one.
    pub fn push(&mut self, extent: Extent, sink: &mut dyn BlobSink) -> Result<()> {
        if extent.len == 0 {
            return Ok(());
        }
        if let (None, Some(last)) = (extent.id, self.extents.last_mut())
            && last.id.is_none()
        {
            last.len = last.len.saturating_add(extent.len);
            return Ok(());
        }
        self.extents.push(extent);
        let n = self.extents.len();
        // Cut where a chunk's id says so: inserting a chunk changes one page.
        let cut = extent.id.is_some_and(|id| id.0[31].is_multiple_of(128) && id.0[30] < 128);
        if n > INLINE_EXTENTS && (n >= PAGE_MAX || (n >= PAGE_MIN && cut)) {
            self.flush(sink)
        } else {
            Ok(())
        }
    }

    fn flush(&mut self, sink: &mut dyn BlobSink) -> Result<()> {
        let extents = std::mem::take(&mut self.extents);
        let len = total(extents.iter().map(|e| e.len));
        let id = sink.put(&ContentPage::Extents(extents).encode())?;
        self.pages.push(ExtentPage { len, id });
        Ok(())
    }

    pub fn finish(mut self, sink: &mut dyn BlobSink) -> Result<Content> {
        if self.pages.is_empty() && self.extents.len() <= INLINE_EXTENTS {
            return Ok(Content::Extents(self.extents));
        }
        if !self.extents.is_empty() {
            self.flush(sink)?;
        }
        let (mut pages, mut level) = (self.pages, 1);
        while pages.len() > INLINE_EXTENTS {
            let mut above = Vec::new();
            for group in pages.chunks(PAGE_MAX) {
                let len = total(group.iter().map(|p| p.len));
                above.push(ExtentPage {
                    len,
                    id: sink.put(&ContentPage::Pages(group.to_vec()).encode())?,
                });
            }
            (pages, level) = (above, level + 1);
        }
        Ok(Content::Pages { level, pages })
    }
}

/// Refuses an entry that doesn't say what it is: a directory without a tree, a symlink without a
/// target, a file whose content isn't known, or isn't as long as the file.
pub fn check(node: &Node) -> Result<()> {
    let reason = match (node.kind, &node.content) {
        (NodeKind::Directory, _) if node.tree.is_none() => {
            "the snapshot doesn't tell what is in it"
        }
        (NodeKind::Symlink, _) if node.target.is_none() => {
            "the snapshot doesn't tell where it leads"
        }
        (NodeKind::File, None) => {
            "its content is of a kind that this version of tresor doesn't know; use a newer one"
        }
        (NodeKind::File, Some(_)) if !node.has_whole_content() => {
            "what it consists of doesn't add up to its length"
        }
        _ => return Ok(()),
    };
    Err(Error::Invalid(reason.into()))
}

/// The length of a stream; refuses one whose parts don't add up.
pub fn size_of(stream: &Content) -> Result<u64> {
    let malformed = || Error::Invalid("what it consists of doesn't add up".into());
    stream.size().ok_or_else(malformed)
}

/// The extents that overlap a range, each with its offset in the file. Pages
/// of long lists are read only where needed. Inline content has no extents.
pub fn extents_in(
    repo: &Repository,
    content: &Content,
    range: Range<u64>,
) -> Result<Vec<(u64, Extent)>> {
    let mut out = Vec::new();
    match content {
        Content::Inline(_) => {}
        Content::Extents(extents) => overlap(extents, 0, &range, &mut out),
        Content::Pages { level, pages } => walk(repo, *level, pages, 0, &range, &mut out)?,
    }
    Ok(out)
}

fn overlap(extents: &[Extent], mut at: u64, range: &Range<u64>, out: &mut Vec<(u64, Extent)>) {
    for extent in extents {
        let end = at.saturating_add(extent.len);
        if end > range.start && at < range.end {
            out.push((at, *extent));
        }
        if end >= range.end {
            break;
        }
        at = end;
    }
}

fn walk(
    repo: &Repository,
    level: u8,
    pages: &[ExtentPage],
    mut at: u64,
    range: &Range<u64>,
    out: &mut Vec<(u64, Extent)>,
) -> Result<()> {
    for page in pages {
        let end = at.saturating_add(page.len);
        if end > range.start && at < range.end {
            let read = repo.content_page(&page.id)?;
            // Whatever is read of the file, it is the same as a restore makes of it.
            if read.size() != Some(page.len) {
                let id = page.id.short();
                return Err(Error::Invalid(format!("chunk list page {id} doesn't add up")));
            }
            match &*read {
                ContentPage::Extents(extents) if level == 1 => overlap(extents, at, range, out),
                ContentPage::Pages(below) if level > 1 => {
                    walk(repo, level - 1, below, at, range, out)?;
                }
                _ => return Err(wrong_page(&page.id)),
            }
        }
        if end >= range.end {
            break;
        }
        at = end;
    }
    Ok(())
}

/// What a walk over all that a file, or stream, consists of comes across.
pub trait Parts {
    /// A page of its chunk list is needed; says whether to look inside.
    fn page(&mut self, page: &ExtentPage, level: u8) -> Result<bool>;

    /// What is in a page that was looked into. One that isn't as long as the list above says is
    /// looked into all the same.
    fn holds(&mut self, page: &ExtentPage, level: u8, read: &ContentPage) -> Result<()> {
        let _ = (page, level, read);
        Ok(())
    }

    /// A chunk is needed, and must be as long as this.
    fn chunk(&mut self, id: &BlobId, len: u64) -> Result<()>;

    /// A page can't be read, or isn't one of its level. An error ends the walk.
    fn unreadable(&mut self, id: &BlobId, error: Error) -> Result<()> {
        let _ = id;
        Err(error)
    }
}

/// Visits every blob that a file, or stream, needs.
pub fn walk_parts(repo: &Repository, content: &Content, parts: &mut dyn Parts) -> Result<()> {
    fn chunks(extents: &[Extent], parts: &mut dyn Parts) -> Result<()> {
        let chunks = extents.iter().filter_map(|e| Some((e.id?, e.len)));
        chunks.into_iter().try_for_each(|(id, len)| parts.chunk(&id, len))
    }
    let (mut level, mut pending) = match content {
        Content::Inline(_) => return Ok(()),
        Content::Extents(extents) => return chunks(extents, parts),
        Content::Pages { level, pages } => (*level, pages.clone()),
    };
    // Level by level: the lists are short, a page describes megabytes.
    while !pending.is_empty() {
        let mut below = Vec::new();
        for entry in pending {
            if !parts.page(&entry, level)? {
                continue;
            }
            let read = match repo.content_page(&entry.id) {
                Ok(read) => read,
                Err(e) => {
                    parts.unreadable(&entry.id, e)?;
                    continue;
                }
            };
            match &*read {
                ContentPage::Extents(extents) if level == 1 => {
                    parts.holds(&entry, level, &read)?;
                    chunks(extents, parts)?;
                }
                ContentPage::Pages(pages) if level > 1 => {
                    parts.holds(&entry, level, &read)?;
                    below.extend_from_slice(pages);
                }
                _ => parts.unreadable(&entry.id, wrong_page(&entry.id))?,
            }
        }
        pending = below;
        level = level.saturating_sub(1);
    }
    Ok(())
}

fn wrong_page(id: &BlobId) -> Error {
    Error::Invalid(format!("chunk list page {} is of the wrong level", id.short()))
}
