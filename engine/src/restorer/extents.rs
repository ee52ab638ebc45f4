//! The extents of a file one after the other, and what must hold for them, so
//! that nothing is taken for zeros or written twice. Pages of long lists are
//! read as they are needed: memory doesn't grow with the file.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::{BlobId, Content, ContentPage, Extent, ExtentPage};
use crate::repo::Repository;

/// Extents with their offsets, from 0 to the file's size without a gap. Ends
/// after the first error. Inline content has none.
pub(super) struct Extents<'a> {
    repo: &'a Repository,
    /// Lists on the way to the next extent.
    stack: Vec<List<'a>>,
    /// Where the next extent begins.
    at: u64,
}

struct List<'a> {
    items: Items<'a>,
    next: usize,
    /// Offset in the file at which this list must end.
    end: u64,
}

enum Items<'a> {
    Extents(&'a [Extent]),
    /// Pages, and their level.
    Pages(u8, &'a [ExtentPage]),
    Page(u8, Arc<ContentPage>),
}

enum Item {
    Extent(Extent),
    Page(u8, ExtentPage),
}

impl Items<'_> {
    fn get(&self, at: usize) -> Option<Item> {
        let page = |level: u8, pages: &[ExtentPage]| pages.get(at).map(|p| Item::Page(level, *p));
        match self {
            Self::Extents(extents) => extents.get(at).copied().map(Item::Extent),
            Self::Pages(level, pages) => page(*level, pages),
            Self::Page(level, read) => match &**read {
                ContentPage::Extents(extents) => extents.get(at).copied().map(Item::Extent),
                ContentPage::Pages(pages) => page(*level, pages),
            },
        }
    }
}

impl<'a> Extents<'a> {
    pub fn new(repo: &'a Repository, content: &'a Content, size: u64) -> Self {
        let items = match content {
            Content::Inline(_) => None,
            Content::Extents(extents) => Some(Items::Extents(extents)),
            Content::Pages { level, pages } => Some(Items::Pages(*level, pages)),
        };
        let stack = items.map(|items| List { items, next: 0, end: size }).into_iter().collect();
        Self { repo, stack, at: 0 }
    }

    fn step(&mut self) -> Result<Option<(u64, Extent)>> {
        while let Some(list) = self.stack.last_mut() {
            let Some(item) = list.items.get(list.next) else {
                if self.at != list.end {
                    return Err(malformed("leaves a gap"));
                }
                self.stack.pop();
                continue;
            };
            list.next += 1;
            let len = match &item {
                Item::Extent(extent) => extent.len,
                Item::Page(_, page) => page.len,
            };
            let end = self.at.checked_add(len).filter(|end| len > 0 && *end <= list.end);
            let end = end.ok_or_else(|| malformed("doesn't add up"))?;
            match item {
                Item::Extent(extent) => {
                    return Ok(Some((std::mem::replace(&mut self.at, end), extent)));
                }
                Item::Page(level, page) => {
                    let items = self.page(level, &page.id)?;
                    self.stack.push(List { items, next: 0, end });
                }
            }
        }
        Ok(None)
    }

    fn page(&self, level: u8, id: &BlobId) -> Result<Items<'a>> {
        let page = self.repo.content_page(id)?;
        match &*page {
            ContentPage::Extents(_) if level == 1 => Ok(Items::Page(0, page)),
            ContentPage::Pages(_) if level > 1 => Ok(Items::Page(level - 1, page)),
            _ => Err(malformed("has a page of the wrong level")),
        }
    }
}

fn malformed(how: &str) -> Error {
    Error::Invalid(format!("the list of its chunks {how}"))
}

impl Iterator for Extents<'_> {
    type Item = Result<(u64, Extent)>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if step.is_err() {
            self.stack.clear();
        }
        step.transpose()
    }
}
