//! A piece of a listing in the making.

use super::protocol::{Answer, LONGEST_LISTED};
use crate::core::{Entry, FsError, FsResult, Ino, LookUp, SnapshotFs};
use crate::fuse::drive::valid;

pub struct Piece {
    pub answer: Answer,
    room: usize,
    with_attributes: bool,
    /// How many of its entries the kernel is told nothing of but what is in every listing.
    pub bare: u64,
    /// How many are left out, since the kernel would refuse all of it with one of them.
    pub left_out: u64,
}

impl Piece {
    pub fn new(room: u32, with_attributes: bool) -> Self {
        let (answer, room) = (Answer::for_listing(), room as usize);
        Self { answer, room, with_attributes, bare: 0, left_out: 0 }
    }

    /// Takes entries of a directory from `offset` on. An empty one means the end to the kernel.
    pub fn fill(
        &mut self,
        fs: &SnapshotFs,
        dir: Ino,
        mut offset: u64,
        look_up: LookUp,
    ) -> FsResult<()> {
        // It may have been tried before, without fetching.
        self.left_out = 0;
        let mut too_long = 0;
        loop {
            let (mut next, mut is_full) = (None, false);
            fs.read_dir(dir, offset, look_up, &mut |entry| {
                if entry.name.len() > LONGEST_LISTED {
                    if entry.looked_up {
                        fs.forget(entry.attr.ino, 1);
                    }
                    too_long += 1;
                    next = Some(entry.next);
                    return true;
                }
                is_full = !self.add(&entry);
                if !is_full {
                    // Those behind the last one are for the next piece, which begins there.
                    self.left_out += std::mem::take(&mut too_long);
                }
                !is_full
            })?;
            if !self.answer.as_bytes().is_empty() {
                return Ok(());
            }
            if is_full {
                return Err(FsError::Io("there is no room to list an entry".into()));
            }
            match next {
                // What comes behind them may be an error.
                Some(next) => offset = next,
                None => break,
            }
        }
        self.left_out = too_long;
        Ok(())
    }

    fn add(&mut self, entry: &Entry<'_>) -> bool {
        if !self.with_attributes {
            return self.answer.listed(entry, self.room);
        }
        let known = entry.looked_up.then(|| valid(&entry.attr));
        let fits = self.answer.listed_with(entry, known, self.room);
        self.bare += u64::from(fits && !entry.looked_up);
        fits
    }

    /// What to say of those that are left out.
    pub fn complaint(&self) -> Option<FsError> {
        let Self { left_out, .. } = self;
        (*left_out > 0).then(|| {
            FsError::Io(format!(
                "{left_out} of its entries not listed: the kernel takes no names of more than {LONGEST_LISTED} bytes"
            ))
        })
    }
}
