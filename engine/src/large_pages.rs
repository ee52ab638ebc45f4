//! Memory straight from the system and back to it, in large pages where it has them: to get
//! 16 MiB page by page takes longer than to hash them.

use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

use crate::error::{Error, Result};

/// The beginning is in small pages: for a few kilobytes, a large one would be much to clear.
#[cfg(target_os = "linux")]
const IN_SMALL: usize = 2 << 20;

/// Bytes that are added at the end.
pub struct LargePages {
    map: MmapMut,
    len: usize,
}

impl LargePages {
    /// What isn't used of the room takes no memory.
    pub fn new(room: usize) -> Result<Self> {
        let map = MmapMut::map_anon(room).map_err(|e| {
            let what = format!("the system has no {room} bytes of memory to give");
            Error::io(what, e)
        })?;
        // Where there are no large pages, small ones do.
        #[cfg(target_os = "linux")]
        if room > IN_SMALL {
            let _ = map.advise_range(memmap2::Advice::HugePage, IN_SMALL, room - IN_SMALL);
        }
        Ok(Self { map, len: 0 })
    }

    pub fn extend(&mut self, bytes: &[u8]) -> Result<()> {
        let end = self.len + bytes.len();
        if end > self.map.len() {
            let mut longer = Self::new(end.next_power_of_two())?;
            longer.map[..self.len].copy_from_slice(self);
            self.map = longer.map;
        }
        self.map[self.len..end].copy_from_slice(bytes);
        self.len = end;
        Ok(())
    }
}

impl Deref for LargePages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map[..self.len]
    }
}

impl DerefMut for LargePages {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.map[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_when_there_is_no_room() {
        let mut all = LargePages::new(1).unwrap();
        assert!(all.is_empty());
        let mut expected = Vec::new();
        for n in 0..200 {
            let more = vec![n; usize::from(n) * 100];
            all.extend(&more).unwrap();
            expected.extend(more);
            assert!(*all == *expected, "{n}");
        }
        all[0] = 7;
        assert_eq!(all[..2], [7, expected[1]]);
    }
}
