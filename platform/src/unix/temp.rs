//! Names for what isn't ready yet.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, renameat, unlinkat};

/// Tries to find a name that is free; one is enough unless somebody plays tricks.
const TRIES: usize = 16;

/// An entry under a passing name. Dropped before it got its real name, it is removed.
pub(super) struct TempName {
    dir: Arc<OwnedFd>,
    name: Vec<u8>,
    gone: bool,
}

impl TempName {
    /// Calls `make` with a name; it fails if that exists.
    pub fn make<T>(
        dir: &Arc<OwnedFd>,
        mut make: impl FnMut(&[u8]) -> io::Result<T>,
    ) -> io::Result<(Self, T)> {
        let mut tries = 0;
        loop {
            let name = random_name();
            match make(&name) {
                Ok(made) => return Ok((Self { dir: dir.clone(), name, gone: false }, made)),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && tries < TRIES => tries += 1,
                Err(e) => return Err(e),
            }
        }
    }

    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Gives the entry its name in place of what has it; a directory stays, and is an error.
    pub fn rename_to(mut self, name: &[u8]) -> io::Result<()> {
        renameat(&*self.dir, &self.name, &*self.dir, name)?;
        self.gone = true;
        Ok(())
    }

    /// The same for a further name of a file. If `name` is one of them already,
    /// the system does nothing and the passing name remains to be removed.
    pub fn rename_link_to(self, name: &[u8]) -> io::Result<()> {
        Ok(renameat(&*self.dir, &self.name, &*self.dir, name)?)
    }
}

impl Drop for TempName {
    fn drop(&mut self) {
        if !self.gone {
            let _ = unlinkat(&*self.dir, &self.name, AtFlags::empty());
        }
    }
}

/// The hasher's seed is random; it need not be secret, since making the entry
/// fails if the name exists.
fn random_name() -> Vec<u8> {
    format!(".tresor-{:016x}", RandomState::new().build_hasher().finish()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ() {
        let names: std::collections::HashSet<_> = (0..1000).map(|_| random_name()).collect();
        assert_eq!(names.len(), 1000);
        assert!(names.iter().all(|n| n.len() == 24 && n.starts_with(b".tresor-")));
    }
}
