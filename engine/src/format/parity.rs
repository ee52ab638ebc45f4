//! How parity of an object is written down: where its shards and their hashes lie.

use super::ids::ObjectId;

pub const PARITY_MAGIC: &[u8; 8] = b"TRSRPR01";
/// The feature's name in the config, for writers.
pub const PARITY_FEATURE: &str = "parity";
/// No object that has parity is longer: a sealed object with its padding.
pub const MAX_PROTECTED: u64 = 72 << 20;
/// A sector of a disk, so that a bad one costs one shard.
pub const MAX_SHARD: usize = 4096;
/// The code works on pieces of this length; blocks of hashes are found at multiples of it.
pub const SHARD_UNIT: usize = 64;
/// Objects of up to so many shards get as many shards of parity: a copy's worth.
const FEW_SHARDS: u64 = 8;
/// Number of field elements of the code.
const MOST_SHARDS: usize = 1 << 16;

/// Magic, object, length, shard length, parity shards, number of the block.
const BLOCK_HEAD: usize = 60;
const BLOCK_HASHES: usize = 500;
const BLOCK_SUM: usize = 32;
pub const SHARD_HASH: usize = 8;

/// The beginning of the BLAKE3 of a shard.
pub type ShardHash = [u8; SHARD_HASH];

pub fn shard_hash(shard: &[u8]) -> ShardHash {
    let mut hash = [0; SHARD_HASH];
    hash.copy_from_slice(&blake3::hash(shard).as_bytes()[..SHARD_HASH]);
    hash
}

/// How much parity a repository's objects get, in thousandths of their length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParityShare(u32);

impl ParityShare {
    /// `None` unless it is from 1 to 1,000.
    pub fn new(thousandths: u32) -> Option<Self> {
        (1..=1000).contains(&thousandths).then_some(Self(thousandths))
    }

    pub fn thousandths(self) -> u32 {
        self.0
    }
}

/// What everything in a parity object follows from. Each block repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ParityShape {
    /// BLAKE3 of the object that it is for.
    pub object: ObjectId,
    /// Length of that object.
    pub len: u64,
    pub shard: usize,
    /// Number of parity shards.
    pub parity: usize,
}

impl ParityShape {
    /// For an object of this length, which must not be over [`MAX_PROTECTED`].
    pub fn new(object: ObjectId, len: u64, share: ParityShare) -> Self {
        let unit = SHARD_UNIT as u64;
        let shard = len.div_ceil(FEW_SHARDS).next_multiple_of(unit).clamp(unit, MAX_SHARD as u64);
        let originals = len.div_ceil(shard).max(1);
        let wanted = (originals * u64::from(share.0)).div_ceil(1000);
        let parity = wanted.max(originals.min(FEW_SHARDS));
        Self { object, len, shard: shard as usize, parity: parity as usize }
    }

    /// Number of shards of the object; the last one is filled up with zeros.
    pub fn originals(&self) -> usize {
        (self.len.div_ceil(self.shard as u64) as usize).max(1)
    }

    fn hashes(&self) -> usize {
        self.originals() + self.parity
    }

    fn blocks(&self) -> usize {
        self.hashes().div_ceil(BLOCK_HASHES)
    }

    /// Number of hashes in a block, and the number of the first.
    fn in_block(&self, number: usize) -> (usize, usize) {
        let first = number * BLOCK_HASHES;
        (first, (self.hashes() - first).min(BLOCK_HASHES))
    }

    /// With what fills it up to whole shards.
    fn block_len(&self, number: usize) -> usize {
        let (_, count) = self.in_block(number);
        (BLOCK_HEAD + count * SHARD_HASH + BLOCK_SUM).next_multiple_of(self.shard)
    }

    fn table_len(&self) -> usize {
        (0..self.blocks()).map(|n| self.block_len(n)).sum()
    }

    /// Length of the parity object: table, shards, and the table again.
    pub fn total_len(&self) -> usize {
        2 * self.table_len() + self.parity * self.shard
    }

    /// Where the parity shards lie.
    pub fn shards_at(&self) -> usize {
        self.table_len()
    }

    fn is_sane(&self) -> bool {
        let shard = self.shard;
        let lengths = self.len <= MAX_PROTECTED
            && shard.is_multiple_of(SHARD_UNIT)
            && (SHARD_UNIT..=MAX_SHARD).contains(&shard);
        lengths
            && (1..MOST_SHARDS / 2).contains(&self.parity)
            && self.originals() + self.parity.next_power_of_two() <= MOST_SHARDS
    }

    /// The table: hashes of the object's shards, then of the parity shards.
    pub fn table(&self, hashes: &[ShardHash]) -> Vec<u8> {
        debug_assert_eq!(hashes.len(), self.hashes());
        let mut out = Vec::with_capacity(self.table_len());
        for number in 0..self.blocks() {
            let start = out.len();
            let (first, count) = self.in_block(number);
            out.extend_from_slice(PARITY_MAGIC);
            out.extend_from_slice(&self.object.0);
            out.extend_from_slice(&self.len.to_le_bytes());
            for field in [self.shard, self.parity, number] {
                out.extend_from_slice(&(field as u32).to_le_bytes());
            }
            hashes[first..first + count].iter().for_each(|hash| out.extend_from_slice(hash));
            let sum = *blake3::hash(&out[start..]).as_bytes();
            out.extend_from_slice(&sum);
            out.resize(start + self.block_len(number), 0);
        }
        out
    }

    /// Reads a block that begins here, if one does and it is whole: its shape, the number
    /// of its first hash, and its hashes.
    fn read_block(bytes: &[u8]) -> Option<(Self, usize, &[u8])> {
        let head = bytes.get(..BLOCK_HEAD).filter(|head| head.starts_with(PARITY_MAGIC))?;
        let u32_at = |at: usize| {
            u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize
        };
        let mut object = ObjectId([0; 32]);
        object.0.copy_from_slice(&head[8..40]);
        let mut len = [0; 8];
        len.copy_from_slice(&head[40..48]);
        let len = u64::from_le_bytes(len);
        let shape = Self { object, len, shard: u32_at(48), parity: u32_at(52) };
        let number = u32_at(56);
        if !shape.is_sane() || number >= shape.blocks() {
            return None;
        }
        let (first, count) = shape.in_block(number);
        let end = BLOCK_HEAD + count * SHARD_HASH;
        let sum = bytes.get(end..end + BLOCK_SUM)?;
        let whole = blake3::hash(&bytes[..end]).as_bytes() == sum;
        whole.then(|| (shape, first, &bytes[BLOCK_HEAD..end]))
    }
}

/// What is left of the table of a parity object.
pub struct ParityTable {
    pub shape: ParityShape,
    /// Of the object's shards, then of the parity shards; `None` where no block is left.
    pub hashes: Vec<Option<ShardHash>>,
}

impl ParityTable {
    /// Looks for blocks all over a parity object, of which parts may be damaged. With
    /// `object`, blocks of others are passed over.
    pub fn find(bytes: &[u8], object: Option<ObjectId>) -> Option<Self> {
        let mut table: Option<Self> = None;
        for at in (0..bytes.len()).step_by(SHARD_UNIT) {
            let Some((shape, first, found)) = ParityShape::read_block(&bytes[at..]) else {
                continue;
            };
            if object.is_some_and(|object| shape.object != object) {
                continue;
            }
            let table =
                table.get_or_insert_with(|| Self { shape, hashes: vec![None; shape.hashes()] });
            // The first block decides: blocks of two kinds are in no parity object.
            if table.shape != shape {
                continue;
            }
            for (place, hash) in table.hashes[first..].iter_mut().zip(found.chunks(SHARD_HASH)) {
                *place = hash.try_into().ok();
            }
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(len: u64) -> ParityShape {
        ParityShape::new(ObjectId([1; 32]), len, ParityShare(50))
    }

    #[test]
    fn small_objects_get_a_copys_worth_and_large_ones_their_share() {
        let counts = |len| (shape(len).shard, shape(len).originals(), shape(len).parity);
        assert_eq!(counts(0), (64, 1, 1));
        assert_eq!(counts(500), (64, 8, 8));
        assert_eq!(counts(32 << 10), (4096, 8, 8));
        assert_eq!(counts(33 << 10), (4096, 9, 8));
        assert_eq!(counts(16 << 20), (4096, 4096, 205));
        for len in [0, 1, 63, 64, 511, 513, 40_000, 1 << 20, MAX_PROTECTED] {
            for share in [1, 50, 1000] {
                let shape = ParityShape::new(ObjectId([1; 32]), len, ParityShare(share));
                assert!(shape.is_sane(), "{shape:?}");
                assert!(shape.parity * 1000 >= shape.originals() * share as usize);
            }
        }
    }

    #[test]
    fn a_table_is_found_again_from_either_copy_of_each_block() {
        let shape = shape(16 << 20);
        let hashes: Vec<_> = (0..shape.hashes()).map(|n| (n as u64).to_le_bytes()).collect();
        let table = shape.table(&hashes);
        assert_eq!(table.len(), 9 * 4096);
        let mut bytes = [table.clone(), vec![7; shape.parity * shape.shard], table].concat();
        assert_eq!(bytes.len(), shape.total_len());
        for block in 0..9 {
            let copy = if block % 2 == 0 { 0 } else { bytes.len() - 9 * 4096 };
            bytes[copy + block * 4096 + 77] ^= 1;
        }
        let found = ParityTable::find(&bytes, Some(shape.object)).unwrap();
        assert_eq!(found.shape, shape);
        assert!(found.hashes.iter().zip(&hashes).all(|(found, hash)| found.as_ref() == Some(hash)));
        assert!(ParityTable::find(&bytes, Some(ObjectId([2; 32]))).is_none());
    }
}
