//! Reading what a client sent. The crate's own decoders reserve what a length field asks
//! for, so nothing of a client's goes through them; these give parts of what has arrived.

/// It is not what it should be, or cut off.
#[derive(Debug, PartialEq, Eq)]
pub struct Garbage;

/// The rest of a message.
pub struct Args<'a>(pub &'a [u8]);

impl<'a> Args<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Garbage> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Garbage)?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn u32(&mut self) -> Result<u32, Garbage> {
        let bytes = self.take(4)?.try_into().map_err(|_| Garbage)?;
        Ok(u32::from_be_bytes(bytes))
    }

    pub fn u64(&mut self) -> Result<u64, Garbage> {
        let bytes = self.take(8)?.try_into().map_err(|_| Garbage)?;
        Ok(u64::from_be_bytes(bytes))
    }

    /// Bytes with their length before them, and filled up to a multiple of four.
    pub fn opaque(&mut self, most: usize) -> Result<&'a [u8], Garbage> {
        let len = self.u32()? as usize;
        if len > most {
            return Err(Garbage);
        }
        let bytes = self.take(len)?;
        self.take(len.next_multiple_of(4) - len)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_not_believed() {
        assert_eq!(Args(&[0, 0, 0, 3, 1, 2, 3, 0, 9]).opaque(4), Ok(&[1u8, 2, 3][..]));
        assert_eq!(Args(&[0, 0, 0, 3, 1, 2, 3]).opaque(4), Err(Garbage), "not filled up");
        assert_eq!(Args(&[0, 0, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0]).opaque(4), Err(Garbage));
        assert_eq!(Args(&[0xff; 64]).opaque(usize::MAX), Err(Garbage));
        assert_eq!(Args(&[1, 2, 3]).u32(), Err(Garbage));
        assert_eq!(Args(&[0, 0, 0, 0, 0, 0, 1]).u64(), Err(Garbage));
    }
}
