//! File handles: how a client names an entry. They are good as long as the server runs, and
//! nobody can make one: each carries a code that only this server can compute. So who has
//! not been given one by a lookup gets nowhere.
//!
//! A directory's handle holds its number, and the directory stays known. That of any other
//! entry of a snapshot holds all that is needed to find it: a client may hold millions.

use tresor_engine::crypto;
use tresor_engine::format::BlobId;

use super::status::Problem;
use crate::core::{Attr, FsError, FsResult, Ino, Leaf, SnapshotFs};

/// Longest handle of NFS version 3.
pub const MOST: usize = 64;
const CODE: usize = 12;
const LEAF: usize = MOST - CODE;
const KNOWN: usize = 8;

/// What a handle stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// An entry that stays known.
    Known(Ino),
    Leaf(Leaf),
}

impl Target {
    /// What stands for an entry that was looked up.
    pub fn of(fs: &SnapshotFs, attr: &Attr) -> FsResult<Self> {
        Ok(fs.leaf(attr)?.map_or(Self::Known(attr.ino), Self::Leaf))
    }

    /// The entry has been looked up, and its handle is given out: gives the lookup back if
    /// the handle does without it.
    pub fn give_out(&self, fs: &SnapshotFs) {
        if let Self::Leaf(leaf) = self {
            fs.forget(leaf.ino, 1);
        }
    }
}

/// Makes handles, and tells its own from others.
pub struct Handles([u8; 32]);

impl Handles {
    pub fn new() -> tresor_engine::Result<Self> {
        Ok(Self(crypto::random()?))
    }

    pub fn root(&self) -> Vec<u8> {
        self.seal(&Target::Known(Ino::ROOT))
    }

    pub fn seal(&self, target: &Target) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(MOST);
        match target {
            Target::Known(ino) => bytes.extend(ino.0.to_le_bytes()),
            Target::Leaf(leaf) => {
                bytes.extend(leaf.page.0);
                bytes.extend(leaf.ino.0.to_le_bytes());
                bytes.extend(leaf.parent.0.to_le_bytes());
                bytes.extend(leaf.number.to_le_bytes());
            }
        }
        let code = self.code(&bytes);
        bytes.extend(code);
        bytes
    }

    /// What a client's handle stands for; stale if it is of another server, or forged.
    pub fn open(&self, handle: &[u8]) -> Result<Target, Problem> {
        let stale = Problem::Fs(FsError::Stale);
        let (bytes, code) = match handle.split_last_chunk::<CODE>() {
            Some(parts) => parts,
            None => return Err(stale),
        };
        let target = match bytes.len() {
            KNOWN => Some(Target::Known(Ino(number(bytes)))),
            LEAF => leaf(bytes).map(Target::Leaf),
            _ => None,
        };
        target.filter(|_| same(&self.code(bytes), code)).ok_or(stale)
    }

    fn code(&self, bytes: &[u8]) -> [u8; CODE] {
        let hash = blake3::keyed_hash(&self.0, bytes);
        let mut code = [0; CODE];
        code.copy_from_slice(&hash.as_bytes()[..CODE]);
        code
    }
}

/// Whether two secrets of the same length are the same. Takes as long for any others.
pub fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

fn number(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn leaf(bytes: &[u8]) -> Option<Leaf> {
    let (page, rest) = bytes.split_first_chunk::<32>()?;
    let (ino, rest) = rest.split_first_chunk::<8>()?;
    let (parent, rest) = rest.split_first_chunk::<8>()?;
    Some(Leaf {
        page: BlobId(*page),
        ino: Ino(u64::from_le_bytes(*ino)),
        parent: Ino(u64::from_le_bytes(*parent)),
        number: u32::from_le_bytes(rest.try_into().ok()?),
    })
}

/// An entry that is known while this lives.
pub struct Held<'a> {
    fs: &'a SnapshotFs,
    pub ino: Ino,
    looked_up: bool,
}

impl<'a> Held<'a> {
    pub fn new(fs: &'a SnapshotFs, target: &Target) -> FsResult<Self> {
        Ok(match target {
            Target::Known(ino) => Self { fs, ino: *ino, looked_up: false },
            Target::Leaf(leaf) => Self { fs, ino: fs.enter_leaf(leaf)?, looked_up: true },
        })
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.looked_up {
            self.fs.forget(self.ino, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_of_others_and_forged_ones_are_stale() {
        let handles = Handles([7; 32]);
        let leaf = Leaf { ino: Ino(77), parent: Ino(88), page: BlobId([9; 32]), number: 5 };
        for target in [Target::Leaf(leaf), Target::Known(Ino(1 << 40))] {
            let handle = handles.seal(&target);
            assert!(handle.len() <= MOST);
            assert_eq!(handles.open(&handle).ok(), Some(target));
            assert!(Handles([8; 32]).open(&handle).is_err());
            for bit in 0..handle.len() * 8 {
                let mut forged = handle.clone();
                forged[bit / 8] ^= 1 << (bit % 8);
                assert!(handles.open(&forged).is_err(), "bit {bit}");
            }
            for len in 0..handle.len() {
                assert!(handles.open(&handle[..len]).is_err());
            }
        }
    }
}
