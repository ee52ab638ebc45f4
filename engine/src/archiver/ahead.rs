//! The lister of a backup: it looks through the source ahead of the walk, on a thread of its own.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crossbeam_channel::Sender;

use super::list::{Listed, Listener, list};
use super::{BackupOptions, Shared};
use crate::error::{Error, Result};
use crate::exclude::Reason;
use crate::format::display_name;
use crate::source::SourceDir;

/// Handed over together: up to so many, and so many directories, each of which is held open.
const TOGETHER: usize = 128;
const DIRECTORIES: usize = 16;

struct Ahead<'a> {
    shared: &'a Shared,
    to: Sender<Vec<Listed>>,
    together: Vec<Listed>,
    /// How many of these are directories.
    directories: usize,
}

pub(super) fn list_ahead(
    shared: &Shared,
    root: Arc<dyn SourceDir>,
    options: &BackupOptions,
    to: Sender<Vec<Listed>>,
) -> Result<()> {
    let mut ahead = Ahead { shared, to, together: Vec::with_capacity(TOGETHER), directories: 0 };
    list(root, options, &mut ahead)?;
    ahead.send()
}

impl Ahead<'_> {
    fn send(&mut self) -> Result<()> {
        self.directories = 0;
        let together = std::mem::replace(&mut self.together, Vec::with_capacity(TOGETHER));
        self.to.send(together).map_err(|_| Error::Interrupted)
    }
}

impl Listener for Ahead<'_> {
    fn found(&mut self, listed: Listed) -> Result<()> {
        self.directories += usize::from(matches!(listed, Listed::Directory(..)));
        self.together.push(listed);
        if self.together.len() >= TOGETHER || self.directories >= DIRECTORIES {
            self.send()?;
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        self.shared.monitor.progress().check()
    }

    fn problem(&self, path: &[u8], message: &str) {
        self.shared.problem(path, message);
    }

    fn unreadable(&self, path: &[u8], message: &str, error: io::Error) -> Result<()> {
        self.shared.unreadable(path, message, error)
    }

    fn left_out(&self, path: &[u8], reason: Reason<'_>, asked: bool) {
        let shown = || display_name(path);
        match reason {
            Reason::System(why) => self.shared.monitor.left_out(&shown, Some(why)),
            Reason::Asked => self.shared.monitor.left_out(&shown, None),
        }
        if asked {
            self.shared.counts.asked_left_out.fetch_add(1, Relaxed);
            let why = "is one of the paths to save, and is left out: an exclusion matches it, or it is tresor's own";
            self.shared.monitor.note(&format!("{} {why}", shown()));
        }
    }
}
