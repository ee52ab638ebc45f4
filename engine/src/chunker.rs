//! Cuts files into chunks where their content says so (FastCDC), by a table
//! that is secret to each repository.

use fastcdc::v2020::{MASKS, cut_gear};
use zeroize::Zeroize;

use crate::crypto::Keys;
use crate::format::ChunkSizes;

/// Normalization level 2 of FastCDC: the masks around the average differ by two bits each way.
const NORMALIZATION: u32 = 2;

pub struct Chunker {
    sizes: ChunkSizes,
    table: Box<[u64; 256]>,
    doubled: Box<[u64; 256]>,
    mask_small: u64,
    mask_large: u64,
}

impl Chunker {
    pub fn new(keys: &Keys, sizes: ChunkSizes) -> Self {
        let table = keys.chunker_table();
        let doubled = Box::new(table.map(|n| n << 1));
        let bits = sizes.average.ilog2();
        let mask = |bits: u32| MASKS.get(bits as usize).copied().unwrap_or(u64::MAX);
        Self {
            sizes,
            table,
            doubled,
            mask_small: mask(bits + NORMALIZATION),
            mask_large: mask(bits - NORMALIZATION),
        }
    }

    /// Longest chunk in bytes; `cut` wants to see that much unless the data ends.
    pub fn max(&self) -> usize {
        self.sizes.max as usize
    }

    /// Files up to this length are one chunk.
    pub fn min(&self) -> usize {
        self.sizes.min as usize
    }

    /// Length of the first chunk of `data`; 0 only if it is empty.
    pub fn cut(&self, data: &[u8]) -> usize {
        let (min, average, max) = (self.sizes.min, self.sizes.average, self.sizes.max);
        let (_, len) = cut_gear(
            data,
            min as usize,
            average as usize,
            max as usize,
            self.mask_small,
            self.mask_large,
            self.mask_small << 1,
            self.mask_large << 1,
            &self.table,
            &self.doubled,
        );
        len
    }
}

impl Drop for Chunker {
    fn drop(&mut self) {
        self.table.zeroize();
        self.doubled.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::MasterKey;

    fn chunker(key: u8) -> Chunker {
        Chunker::new(&Keys::new(MasterKey([key; 32])), ChunkSizes::default())
    }

    fn cuts(chunker: &Chunker, mut data: &[u8]) -> Vec<usize> {
        let mut cuts = Vec::new();
        while !data.is_empty() {
            let len = chunker.cut(data);
            cuts.push(len);
            data = &data[len..];
        }
        cuts
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut out);
        out
    }

    #[test]
    fn an_insertion_changes_few_chunks() {
        let (data, chunker) = (noise(16 << 20), chunker(1));
        let mut other = data.clone();
        other.insert(1 << 20, 7);
        let (a, b) = (cuts(&chunker, &data), cuts(&chunker, &other));
        let tail = a.iter().rev().zip(b.iter().rev()).take_while(|(x, y)| x == y).count();
        assert!(a.len() - tail < 16, "{} of {} changed", a.len() - tail, a.len());
        assert!(a[..a.len() - 1].iter().all(|l| (64 << 10..=512 << 10).contains(l)));
        let average = data.len() / a.len();
        assert!((100 << 10..220 << 10).contains(&average), "{average}");
    }

    #[test]
    fn each_repository_cuts_differently() {
        let data = noise(8 << 20);
        assert_ne!(cuts(&chunker(1), &data), cuts(&chunker(2), &data));
    }
}
