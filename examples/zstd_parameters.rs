//! How small and how fast zstd makes a folder's files with other parameters than a level's, in
//! segments like those of a backup: `cargo run --release --example zstd_parameters FOLDER`.
//! Processor time of one thread, the least of three rounds.

use std::fs;
use std::path::Path;

use zstd::bulk::Compressor;
use zstd::zstd_safe::{CParameter, compress_bound};

const LEVEL: i32 = 3;
const ROUNDS: usize = 3;
/// As in engine/src/archiver: files gather up to this length, longer ones are cut about so.
const SEGMENTS: [usize; 3] = [256 << 10, 384 << 10, 512 << 10];
const OWN_SEGMENT: usize = 64 << 10;
const CHUNK: usize = 128 << 10;

/// Level, table of long matches, table of short ones, least match; 0: as the level has it.
const TRIED: [(i32, u32, u32, u32); 8] = [
    (LEVEL, 0, 0, 0),
    (LEVEL, 16, 15, 0),
    (LEVEL, 15, 15, 0),
    (LEVEL, 14, 14, 0),
    (LEVEL, 16, 15, 6),
    (2, 0, 0, 0),
    (1, 0, 0, 0),
    (1, 17, 0, 6),
];

fn files(folder: &Path, out: &mut Vec<Vec<u8>>) -> std::io::Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let kind = entry.file_type()?;
        if kind.is_dir() {
            files(&entry.path(), out)?;
        } else if kind.is_file() {
            out.push(fs::read(entry.path())?);
        }
    }
    Ok(())
}

fn segments(files: &[Vec<u8>], length: usize) -> Vec<Vec<u8>> {
    let (mut segments, mut small) = (Vec::new(), Vec::new());
    for chunk in files.iter().flat_map(|file| file.chunks(CHUNK)) {
        if chunk.len() >= OWN_SEGMENT {
            segments.push(chunk.to_vec());
            continue;
        }
        small.extend_from_slice(chunk);
        if small.len() >= length {
            segments.push(std::mem::take(&mut small));
        }
    }
    segments.push(small);
    segments
}

/// Seconds that this thread has had a processor, as Linux counts them.
fn processor_time() -> std::io::Result<f64> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos = text.split_whitespace().next().and_then(|n| n.parse::<u64>().ok());
    nanos.map(|n| n as f64 / 1e9).ok_or_else(|| std::io::Error::other(text))
}

/// Seconds of processor time, and bytes.
fn compress(
    segments: &[Vec<u8>],
    (level, long, short, least): (i32, u32, u32, u32),
) -> std::io::Result<(f64, usize)> {
    let mut compressor = Compressor::new(level)?;
    let parameters =
        [CParameter::HashLog(long), CParameter::ChainLog(short), CParameter::MinMatch(least)];
    parameters.into_iter().try_for_each(|p| compressor.set_parameter(p))?;
    let longest = segments.iter().map(Vec::len).max().unwrap_or(0);
    let mut room = vec![0; compress_bound(longest)];
    let begun = processor_time()?;
    let mut bytes = 0;
    for segment in segments {
        bytes += compressor.compress_to_buffer(segment, &mut room[..])?;
    }
    Ok((processor_time()? - begun, bytes))
}

fn main() -> std::io::Result<()> {
    let Some(folder) = std::env::args_os().nth(1) else {
        return Err(std::io::Error::other("name a folder"));
    };
    let mut all = Vec::new();
    files(Path::new(&folder), &mut all)?;
    for length in SEGMENTS {
        let segments = segments(&all, length);
        println!("{} KiB, {} segments", length >> 10, segments.len());
        let mut found = [(f64::MAX, 0); TRIED.len()];
        for _ in 0..ROUNDS {
            for (best, parameters) in found.iter_mut().zip(TRIED) {
                let (seconds, bytes) = compress(&segments, parameters)?;
                *best = (best.0.min(seconds), bytes);
            }
        }
        for ((seconds, bytes), parameters) in found.into_iter().zip(TRIED) {
            let (time, size) = (seconds / found[0].0, bytes as f64 / found[0].1 as f64);
            let (time, size) = (100.0 * (time - 1.0), 100.0 * (size - 1.0));
            let megabytes = bytes as f64 / 1e6;
            println!(
                "{parameters:?}: {seconds:.2} s ({time:+.0} %), {megabytes:.1} MB ({size:+.2} %)"
            );
        }
    }
    Ok(())
}
