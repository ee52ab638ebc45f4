//! Reed–Solomon over the shards of one object. A shard's bytes at one place depend on
//! the bytes at the same place of the others only, so the work is done strip by strip:
//! that needs a fraction of the memory, and stays in the processor's cache.

use reed_solomon_simd::Error;
use reed_solomon_simd::engine::DefaultEngine;
use reed_solomon_simd::rate::{HighRateDecoder, HighRateEncoder, RateDecoder, RateEncoder};

use crate::format::ParityShape;

/// Bytes of each shard that are worked on at once.
const STRIP: usize = 512;

fn strips(shape: &ParityShape) -> impl Iterator<Item = (usize, usize)> + use<> {
    let shard = shape.shard;
    (0..shard).step_by(STRIP).map(move |at| (at, STRIP.min(shard - at)))
}

/// Writes the parity shards of these shards, all in one piece.
pub(super) fn encode(shape: &ParityShape, object: &[u8]) -> Result<Vec<u8>, Error> {
    let (originals, shard) = (shape.originals(), shape.shard);
    let mut parity = vec![0; shape.parity * shard];
    let mut last = vec![0; shard];
    let whole = (originals - 1) * shard;
    last[..object.len() - whole].copy_from_slice(&object[whole..]);
    let mut encoder = None;
    for (at, len) in strips(shape) {
        let encoder = match &mut encoder {
            None => encoder.insert(HighRateEncoder::new(
                originals,
                shape.parity,
                len,
                DefaultEngine::new(),
                None,
            )?),
            Some(encoder) => {
                encoder.reset(originals, shape.parity, len)?;
                encoder
            }
        };
        for bytes in object[..whole].chunks(shard).chain([&last[..]]) {
            encoder.add_original_shard(&bytes[at..at + len])?;
        }
        for (bytes, strip) in parity.chunks_mut(shard).zip(encoder.encode()?.recovery_iter()) {
            bytes[at..at + len].copy_from_slice(strip);
        }
    }
    Ok(parity)
}

/// Puts right the shards that are `wrong`, with as many parity shards, given by number
/// and bytes. `object` holds all shards whole.
pub(super) fn decode(
    shape: &ParityShape,
    object: &mut [u8],
    wrong: &[usize],
    parity: &[(usize, &[u8])],
) -> Result<(), Error> {
    let (originals, shard) = (shape.originals(), shape.shard);
    let mut is_wrong = vec![false; originals];
    wrong.iter().for_each(|&number| is_wrong[number] = true);
    let mut decoder = None;
    for (at, len) in strips(shape) {
        let decoder = match &mut decoder {
            None => decoder.insert(HighRateDecoder::new(
                originals,
                shape.parity,
                len,
                DefaultEngine::new(),
                None,
            )?),
            Some(decoder) => {
                decoder.reset(originals, shape.parity, len)?;
                decoder
            }
        };
        for (number, bytes) in object.chunks(shard).enumerate().filter(|(n, _)| !is_wrong[*n]) {
            decoder.add_original_shard(number, &bytes[at..at + len])?;
        }
        for (number, bytes) in parity {
            decoder.add_recovery_shard(*number, &bytes[at..at + len])?;
        }
        let restored = decoder.decode()?;
        for (number, strip) in restored.restored_original_iter() {
            let start = number * shard + at;
            object[start..start + len].copy_from_slice(strip);
        }
    }
    Ok(())
}
