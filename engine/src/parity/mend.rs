//! Making an object whole again.

use std::fmt;

use super::{code, is_damage};
use crate::format::{
    MAX_SHARD, ObjectId, ObjectKind, ObjectName, ParityShape, ParityTable, ShardHash, shard_hash,
};
use crate::store::{Store, StoreError};

/// Why an object can't be mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmendable {
    /// There is no parity of it, or nothing of that can be read.
    NoParity,
    /// More is damaged than there is parity left.
    TooMuch { damaged: usize, parity: usize, shard: usize },
    /// What comes out is not what the object's name says: the parity is of other bytes.
    Wrong,
}

impl fmt::Display for Unmendable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoParity => f.write_str("there is no parity to mend it with"),
            Self::TooMuch { damaged, parity, shard } => write!(
                f,
                "its parity can mend {parity} damaged pieces of {shard} bytes, and there are {damaged}"
            ),
            Self::Wrong => f.write_str("its parity is of other bytes"),
        }
    }
}

/// An object made whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Whole {
    pub bytes: Vec<u8>,
    /// Whether other bytes lie in the store.
    pub was_damaged: bool,
}

/// The bytes that an object must have, made from what can be read of it and of its
/// parity. A config that is gone is made anew; of other objects that are gone nobody
/// knows whether they were removed on purpose.
pub fn mend(store: &Store, name: &ObjectName) -> Result<Result<Whole, Unmendable>, StoreError> {
    let is_config = name.kind == ObjectKind::Config;
    let parity = match read_around(store, &name.parity(), ObjectKind::Parity.max_len()) {
        Err(e) if e.is_not_found() => return Ok(Err(Unmendable::NoParity)),
        other => other?,
    };
    let Some(table) = ParityTable::find(&parity, (!is_config).then_some(name.id)) else {
        return Ok(Err(Unmendable::NoParity));
    };
    // A byte more, to see whether there is one.
    let object = match read_around(store, name, table.shape.len + 1) {
        Err(e) if e.is_not_found() && is_config => Vec::new(),
        other => other?,
    };
    if ObjectId::of(&object) == table.shape.object {
        return Ok(Ok(Whole { bytes: object, was_damaged: false }));
    }
    let mended = Remains::new(table, object, &parity).mend();
    Ok(mended.map(|bytes| Whole { bytes, was_damaged: true }))
}

/// Large pieces are tried first: a bad sector answers slowly.
const PIECES: [usize; 3] = [1 << 20, 64 << 10, MAX_SHARD];

/// An object's bytes, with zeros for what can't be read; at most so many.
fn read_around(store: &Store, name: &ObjectName, most: u64) -> Result<Vec<u8>, StoreError> {
    let mut bytes = vec![0; store.size(name)?.min(most) as usize];
    let mut at = 0;
    for piece in bytes.chunks_mut(PIECES[0]) {
        read_piece(store, name, at, piece, &PIECES[1..])?;
        at += piece.len() as u64;
    }
    Ok(bytes)
}

fn read_piece(
    store: &Store,
    name: &ObjectName,
    at: u64,
    piece: &mut [u8],
    smaller: &[usize],
) -> Result<(), StoreError> {
    match store.get_range(name, at, piece.len()) {
        Ok(bytes) => piece.copy_from_slice(&bytes),
        Err(e) if !is_damage(&e) => return Err(e),
        Err(_) => {
            let Some((len, smaller)) = smaller.split_first() else { return Ok(()) };
            let mut at = at;
            for part in piece.chunks_mut(*len) {
                read_piece(store, name, at, part, smaller)?;
                at += part.len() as u64;
            }
        }
    }
    Ok(())
}

/// What is left of an object and of its parity.
struct Remains<'a> {
    shape: ParityShape,
    /// The object's shards, whole.
    object: Vec<u8>,
    states: Vec<State>,
    /// Parity shards with their numbers, those that are certainly good first.
    parity: Vec<(usize, &'a [u8])>,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Good,
    Bad,
    /// Its hash is lost.
    Unknown,
}

impl State {
    fn of(shard: &[u8], hash: Option<ShardHash>) -> Self {
        match hash {
            None => Self::Unknown,
            Some(hash) if shard_hash(shard) == hash => Self::Good,
            Some(_) => Self::Bad,
        }
    }
}

impl<'a> Remains<'a> {
    fn new(table: ParityTable, mut object: Vec<u8>, parity: &'a [u8]) -> Self {
        let ParityTable { shape, hashes } = table;
        let originals = shape.originals();
        object.truncate(shape.len as usize);
        object.resize(originals * shape.shard, 0);
        let (of_object, of_parity) = hashes.split_at(originals);
        let states = object.chunks(shape.shard).zip(of_object).map(|(s, h)| State::of(s, *h));
        let states = states.collect();
        let shards = parity.get(shape.shards_at()..).unwrap_or_default();
        let shards = shards.chunks_exact(shape.shard).zip(of_parity).enumerate();
        let with_state = shards.map(|(n, (s, h))| (State::of(s, *h), (n, s)));
        let (good, others): (Vec<_>, Vec<_>) = with_state.partition(|(s, _)| *s == State::Good);
        let unknown = others.into_iter().filter(|(s, _)| *s == State::Unknown);
        let parity = good.into_iter().chain(unknown).map(|(_, shard)| shard).collect();
        Self { shape, object, states, parity }
    }

    fn mend(mut self) -> Result<Vec<u8>, Unmendable> {
        // A shard whose hash is lost is most likely good. The hash of the whole decides.
        let certainly = self.shards_in(&[State::Bad]);
        let perhaps = self.shards_in(&[State::Bad, State::Unknown]);
        match self.attempt(&certainly) {
            Err(_) if perhaps.len() > certainly.len() => self.attempt(&perhaps),
            result => result,
        }
        .map(|()| {
            self.object.truncate(self.shape.len as usize);
            self.object
        })
    }

    fn shards_in(&self, states: &[State]) -> Vec<usize> {
        (0..self.states.len()).filter(|n| states.contains(&self.states[*n])).collect()
    }

    fn attempt(&mut self, wrong: &[usize]) -> Result<(), Unmendable> {
        if wrong.len() > self.parity.len() {
            let (damaged, parity) = (wrong.len(), self.parity.len());
            return Err(Unmendable::TooMuch { damaged, parity, shard: self.shape.shard });
        }
        let with = &self.parity[..wrong.len()];
        if !wrong.is_empty() {
            code::decode(&self.shape, &mut self.object, wrong, with)
                .map_err(|_| Unmendable::Wrong)?;
        }
        let bytes = &self.object[..self.shape.len as usize];
        let is_it = ObjectId::of(bytes) == self.shape.object;
        if is_it { Ok(()) } else { Err(Unmendable::Wrong) }
    }
}
