//! Names for what isn't ready yet: `.tresor-`, eight random digits, and eight that follow
//! from those and the directory. So what a killed run has left can be told from anything
//! that somebody has given such a name, or has copied here.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, FileType, FlockOperation, OFlags, flock, fstat, renameat, unlinkat};
use rustix::io::Errno;

/// Tries to find a name that is free; one is enough unless somebody plays tricks.
const TRIES: usize = 16;

const PREFIX: &str = ".tresor-";
/// A leftover is not younger: who makes a file locks it a moment later.
const YOUNGEST: Duration = Duration::from_secs(2);

/// An entry under a passing name. Dropped before it got its real name, it is removed.
pub(super) struct TempName {
    dir: Arc<OwnedFd>,
    name: Vec<u8>,
    gone: bool,
}

impl TempName {
    /// Calls `make` with a name; it fails if that exists. `number`: the directory's own.
    pub fn make<T>(
        dir: &Arc<OwnedFd>,
        number: u64,
        mut make: impl FnMut(&[u8]) -> io::Result<T>,
    ) -> io::Result<(Self, T)> {
        let mut tries = 0;
        loop {
            let name = passing_name(random(), number);
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
        super::own::insist(self.dir.as_fd(), name, || {
            renameat(&*self.dir, &self.name, &*self.dir, name)
        })?;
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
fn random() -> u32 {
    RandomState::new().build_hasher().finish() as u32
}

/// A number of the directory's own.
pub(super) fn number(dir: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(fstat(dir)?.st_ino)
}

fn passing_name(random: u32, number: u64) -> Vec<u8> {
    coded_name(random, number, 0x811c_9dc5)
}

/// The name of the note that a restore is under way in the directory of this number.
pub(super) fn note_name(job: u32, number: u64) -> Vec<u8> {
    coded_name(job, number, !0x811c_9dc5)
}

/// The code is FNV-1a, from `start` on.
fn coded_name(first: u32, number: u64, start: u32) -> Vec<u8> {
    let bytes = first.to_le_bytes().into_iter().chain(number.to_le_bytes());
    let code = bytes.fold(start, |code, byte| (code ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{PREFIX}{first:08x}{code:08x}").into_bytes()
}

/// Whether a name was made here, in the directory of this number.
fn is_passing_name(name: &[u8], number: u64) -> bool {
    first(name).is_some_and(|random| passing_name(random, number) == name)
}

/// Whether a name is that of a note.
pub(super) fn is_note_name(name: &[u8], number: u64) -> bool {
    first(name).is_some_and(|job| note_name(job, number) == name)
}

/// The number that a name begins with.
fn first(name: &[u8]) -> Option<u32> {
    let digits = name.strip_prefix(PREFIX.as_bytes())?.get(..8)?;
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Says that the file is being written, until it is closed. Where that can't be said,
/// it looks like a leftover only as long as nothing is written to it.
pub(super) fn claim(file: BorrowedFd<'_>) {
    let _ = flock(file, FlockOperation::NonBlockingLockExclusive);
}

/// Removes what runs that are dead have left in a directory; how much that was.
pub(super) fn remove_leftovers(dir: BorrowedFd<'_>) -> io::Result<u64> {
    let number = number(dir)?;
    let mut removed = 0;
    for name in super::names(dir)?.into_iter().filter(|name| is_passing_name(name, number)) {
        if is_dead(dir, &name)? {
            match unlinkat(dir, &name, AtFlags::empty()) {
                Ok(()) => removed += 1,
                Err(Errno::NOENT) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(removed)
}

fn is_dead(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<bool> {
    let stat = match super::stat::stat(dir, name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    // Also of a link to another file: making the link has changed it.
    let changed = UNIX_EPOCH + Duration::from_secs(stat.st_ctime.try_into().unwrap_or(0));
    let age = SystemTime::now().duration_since(changed).unwrap_or_default();
    if age <= YOUNGEST || FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Ok(false);
    }
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(true);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags, rustix::fs::Mode::empty()) {
        Ok(file) => Ok(flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()),
        // Not to be opened by us, and so not ours to remove.
        Err(Errno::NOENT | Errno::ACCESS | Errno::LOOP) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_and_are_known_again_in_their_directory() {
        let names: Vec<_> = (0..1000).map(|_| passing_name(random(), 7)).collect();
        let different: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(different.len(), 1000);
        for name in &names {
            assert!(name.len() == 24 && is_passing_name(name, 7) && !is_passing_name(name, 8));
            assert!(!is_note_name(name, 7));
        }
        let note = note_name(5, 7);
        assert!(is_note_name(&note, 7) && !is_note_name(&note, 8) && !is_passing_name(&note, 7));
        for other in ["", ".tresor-", ".tresor-notes", ".tresor-0123456789abcdef", ".tresor-é"] {
            assert!(!is_passing_name(other.as_bytes(), 7), "{other}");
        }
    }
}
