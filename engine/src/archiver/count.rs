//! Counts what a backup will have to do, so that its progress can say how far it is. Only names
//! and lengths are looked at; errors are left to the backup.

use std::sync::Arc;

use super::BackupOptions;
use super::list::{Listed, Listener, list};
use crate::error::{Error, Result};
use crate::source::SourceDir;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub entries: u64,
    pub bytes: u64,
}

/// Counts all that is to be saved; `None` if told to stop.
pub fn count(
    root: &Arc<dyn SourceDir>,
    options: &BackupOptions,
    stop: &dyn Fn() -> bool,
) -> Option<Totals> {
    let mut counting = Counting { totals: Totals::default(), stop };
    list(root.clone(), options, &mut counting).ok().map(|()| counting.totals)
}

struct Counting<'a> {
    totals: Totals,
    stop: &'a dyn Fn() -> bool,
}

impl Listener for Counting<'_> {
    fn found(&mut self, listed: Listed) -> Result<()> {
        if let Listed::Entry(node) | Listed::Directory(node, _) = listed {
            self.totals.entries += 1;
            if node.is_file() {
                self.totals.bytes = self.totals.bytes.saturating_add(node.size);
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        if (self.stop)() { Err(Error::Interrupted) } else { Ok(()) }
    }
}
