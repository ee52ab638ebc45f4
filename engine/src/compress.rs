//! zstd, skipped where it doesn't pay, and bounded when undone.

use std::cell::RefCell;

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::CParameter;

/// How bytes are written: the first byte of every sealed piece that may be compressed.
pub const RAW: u8 = 0;
pub const ZSTD: u8 = 1;

const LEVEL: i32 = 3;
/// Smaller tables than the level has (2¹⁷ and 2¹⁶ entries): they stay in a core's cache. A tenth
/// less time for a quarter of a percent more bytes (docs/performance.md).
const TABLES: [CParameter; 2] = [CParameter::HashLog(15), CParameter::ChainLog(15)];
/// Of the room for what is compressed.
const MOST_KEPT: usize = 1 << 20;
/// zstd makes at most 128 KiB out of a block, which takes at least four bytes. So
/// nobody makes us reserve room for more than there can be.
const MAX_RATIO: usize = (128 << 10) / 4;

thread_local! {
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    /// Room for the worst case, kept: what comes out is mostly much shorter.
    static COMPRESSED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static SAMPLER: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Appends the method byte and the bytes, compressed where that saves at least 3 %.
pub fn compress_into(data: &[u8], out: &mut Vec<u8>) {
    let mut append = |method, bytes: &[u8]| {
        out.reserve(1 + bytes.len());
        out.push(method);
        out.extend_from_slice(bytes);
    };
    if data.len() < 64 || !looks_compressible(data) {
        return append(RAW, data);
    }
    COMPRESSED.with_borrow_mut(|room| {
        room.clear();
        room.reserve(zstd::zstd_safe::compress_bound(data.len()));
        let compress = |c: &mut Compressor| c.compress_to_buffer(data, room);
        match with(&COMPRESSOR, compressor, compress) {
            Some(len) if len < data.len() - data.len() / 32 => append(ZSTD, room),
            _ => append(RAW, data),
        }
        room.shrink_to(MOST_KEPT);
    });
}

fn compressor() -> std::io::Result<Compressor<'static>> {
    let mut compressor = Compressor::new(LEVEL)?;
    TABLES.into_iter().try_for_each(|table| compressor.set_parameter(table))?;
    Ok(compressor)
}

/// Undoes `compress_into`. `len` is the exact length expected; anything else is `None`.
pub fn decompress(bytes: &[u8], len: usize) -> Option<Vec<u8>> {
    let (method, bytes) = bytes.split_first()?;
    match *method {
        RAW => (bytes.len() == len).then(|| bytes.to_vec()),
        ZSTD if len / MAX_RATIO <= bytes.len() => {
            // Not zeroed first: that costs a tenth of the whole.
            let mut out = Vec::with_capacity(len);
            let done =
                with(&DECOMPRESSOR, Decompressor::new, |d| d.decompress_to_buffer(bytes, &mut out));
            (done == Some(len)).then_some(out)
        }
        _ => None,
    }
}

/// Tries a few samples at the fastest level: most of what doesn't compress is
/// told for a twentieth of the cost of trying.
fn looks_compressible(data: &[u8]) -> bool {
    const SAMPLE: usize = 4096;
    if data.len() < 8 * SAMPLE {
        return true;
    }
    let mut room = [0; SAMPLE + 512];
    (0..4).any(|i| {
        let at = (data.len() - SAMPLE) / 3 * i;
        let sample = &data[at..at + SAMPLE];
        with(&SAMPLER, || Compressor::new(1), |c| c.compress_to_buffer(sample, &mut room[..]))
            .is_some_and(|len| len < SAMPLE - SAMPLE / 32)
    })
}

/// Runs `work` with this thread's own (de)compressor; `None` if it fails.
fn with<T, R>(
    slot: &'static std::thread::LocalKey<RefCell<Option<T>>>,
    make: impl Fn() -> std::io::Result<T>,
    work: impl FnOnce(&mut T) -> std::io::Result<R>,
) -> Option<R> {
    slot.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = make().ok();
        }
        work(slot.as_mut()?).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut out);
        out
    }

    #[test]
    fn round_trip_and_bound() {
        for data in [vec![], b"x".to_vec(), vec![7; 1 << 20], noise(200_000), b"abc".repeat(999)] {
            let mut out = vec![9];
            compress_into(&data, &mut out);
            assert_eq!(out[0], 9);
            assert!(out.len() <= data.len() + 2);
            assert_eq!(decompress(&out[1..], data.len()).as_ref(), Some(&data));
            if !data.is_empty() {
                assert_eq!(decompress(&out[1..], data.len() - 1), None);
            }
            assert_eq!(decompress(&out[1..], data.len() + 1), None);
        }
        assert_eq!(decompress(&[], 0), None);
        assert_eq!(decompress(&[2, 1], 1), None);
    }

    #[test]
    fn what_compresses_best_is_still_taken() {
        let data = vec![0; 64 << 20];
        let mut out = Vec::new();
        compress_into(&data, &mut out);
        assert!(data.len() / MAX_RATIO < out.len(), "{} bytes", out.len());
        assert!(decompress(&out, data.len()).as_ref() == Some(&data));
    }

    #[test]
    fn a_compressible_part_is_found() {
        let mut data = noise(100_000);
        data.extend(vec![0; 100_000]);
        let mut out = Vec::new();
        compress_into(&data, &mut out);
        assert!(out.len() < 110_000);
    }
}
