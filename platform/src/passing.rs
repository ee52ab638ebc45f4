//! Names for what isn't ready yet: `.tresor-`, eight random digits, and eight that follow
//! from those and the directory. So what a killed run has left can be told from anything
//! that somebody has given such a name, or has copied here.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

/// Tries to find a name that is free; one is enough unless somebody plays tricks.
pub(crate) const TRIES: usize = 16;

const PREFIX: &str = ".tresor-";
/// A leftover is not younger: who makes a file locks it a moment later.
pub(crate) const YOUNGEST: Duration = Duration::from_secs(2);

/// A name that is likely to be free in the directory of this number.
pub(crate) fn new_name(number: u64) -> Vec<u8> {
    passing_name(random(), number)
}

/// The hasher's seed is random; it need not be secret, since making the entry
/// fails if the name exists.
fn random() -> u32 {
    RandomState::new().build_hasher().finish() as u32
}

fn passing_name(random: u32, number: u64) -> Vec<u8> {
    coded_name(random, number, 0x811c_9dc5)
}

/// The name of the note that a restore is under way in the directory of this number.
#[cfg(any(unix, test))]
pub(crate) fn note_name(job: u32, number: u64) -> Vec<u8> {
    coded_name(job, number, !0x811c_9dc5)
}

/// The code is FNV-1a, from `start` on.
fn coded_name(first: u32, number: u64, start: u32) -> Vec<u8> {
    let bytes = first.to_le_bytes().into_iter().chain(number.to_le_bytes());
    let code = bytes.fold(start, |code, byte| (code ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{PREFIX}{first:08x}{code:08x}").into_bytes()
}

/// Whether a name was made here, in the directory of this number.
pub(crate) fn is_passing_name(name: &[u8], number: u64) -> bool {
    first(name).is_some_and(|random| passing_name(random, number) == name)
}

/// Whether a name is that of a note.
#[cfg(any(unix, test))]
pub(crate) fn is_note_name(name: &[u8], number: u64) -> bool {
    first(name).is_some_and(|job| note_name(job, number) == name)
}

/// The number that a name begins with.
fn first(name: &[u8]) -> Option<u32> {
    let digits = name.strip_prefix(PREFIX.as_bytes())?.get(..8)?;
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
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
