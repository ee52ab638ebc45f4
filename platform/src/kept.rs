//! Folders that a restore leaves alone. They are known by what they are and not by their
//! paths: several may lead to one.

use std::collections::HashMap;
use std::io::{
    self,
    ErrorKind::{NotADirectory, NotFound},
};
use std::path::Path;

use tresor_engine::sink;

#[cfg(unix)]
use crate::unix::{Identity, identify};
#[cfg(windows)]
use crate::windows::{Identity, identify};

#[derive(Default)]
pub struct Kept {
    folders: Vec<Folder>,
    /// What they are in.
    around: HashMap<Identity, &'static str>,
}

struct Folder {
    identity: Identity,
    what: &'static str,
    /// Not every file system keeps the number of a folder that nobody has open.
    _open: std::fs::File,
}

impl Kept {
    /// These folders, and what each one is; one that isn't there is left out.
    pub fn new<'p>(
        folders: impl IntoIterator<Item = (&'p Path, &'static str)>,
    ) -> io::Result<Self> {
        let mut kept = Self::default();
        for (path, what) in folders {
            let there = path.canonicalize().and_then(|path| Ok((identify(&path)?, path)));
            let ((identity, open), path) = match there {
                Ok(there) => there,
                Err(e) if matches!(e.kind(), NotFound | NotADirectory) => continue,
                Err(e) => return Err(io::Error::new(e.kind(), format!("{}: {e}", path.display()))),
            };
            kept.folders.push(Folder { identity, what, _open: open });
            let above = path.ancestors().skip(1).filter_map(|above| identify(above).ok());
            kept.around.extend(above.map(|(above, _)| (above, what)));
        }
        Ok(kept)
    }

    /// Which of them a folder, perhaps one that isn't there yet, is or lies in.
    pub fn holds(&self, folder: &Path) -> Option<&'static str> {
        let folder = std::path::absolute(folder).ok()?;
        let there = folder.ancestors().find_map(|above| above.canonicalize().ok())?;
        there.ancestors().find_map(|above| self.find(&identify(above).ok()?.0))
    }

    pub(crate) fn find(&self, identity: &Identity) -> Option<&'static str> {
        let found = self.folders.iter().find(|folder| folder.identity == *identity);
        found.map(|folder| folder.what)
    }

    /// How a directory stands to them.
    pub(crate) fn look(&self, identity: &Identity) -> sink::Kept {
        match (self.find(identity), self.around.get(identity)) {
            (Some(what), _) => sink::Kept::Itself(what),
            (None, Some(what)) => sink::Kept::Around(what),
            (None, None) => sink::Kept::No,
        }
    }

    /// The error of removing a directory, if it is one of them.
    pub(crate) fn check(&self, identity: &Identity) -> io::Result<()> {
        match self.find(identity) {
            Some(what) => {
                let message = format!("{what} is in it");
                Err(io::Error::new(io::ErrorKind::ResourceBusy, message))
            }
            None => Ok(()),
        }
    }
}
