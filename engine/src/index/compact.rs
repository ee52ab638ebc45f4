//! Keeping runs few: a lookup asks each of them.

use std::cmp::Reverse;
use std::io;
use std::sync::Arc;

use super::run::Run;

/// A run is left alone if it has so many times the entries of all smaller ones.
const OUTWEIGHS: usize = 4;
/// A run with so many entries is left alone whatever comes: else the index would at times
/// be written anew as a whole, and need twice the room.
const LARGE: usize = 32 << 20;

/// Merges runs until each outweighs all smaller ones or is large. Merging costs their size,
/// so an entry is rarely merged. Failing to is no harm.
pub(super) fn compact(
    runs: &mut Vec<Arc<Run>>,
    merge: impl FnMut(&[Arc<Run>]) -> io::Result<Arc<Run>>,
) {
    compact_below(LARGE, runs, merge);
}

fn compact_below(
    large: usize,
    runs: &mut Vec<Arc<Run>>,
    mut merge: impl FnMut(&[Arc<Run>]) -> io::Result<Arc<Run>>,
) {
    runs.sort_by_key(|r| Reverse(r.len()));
    let mut left: usize = runs.iter().map(|r| r.len()).sum();
    let stays = |run: &&Arc<Run>| {
        left -= run.len();
        run.len() >= large || run.len() > OUTWEIGHS * left
    };
    let from = runs.iter().take_while(stays).count();
    let mut group = Vec::new();
    let mut close = |group: &mut Vec<Arc<Run>>, out: &mut Vec<Arc<Run>>| {
        let group = std::mem::take(group);
        match group.len() {
            0 | 1 => out.extend(group),
            _ => match merge(&group) {
                Ok(merged) => out.push(merged),
                Err(_) => out.extend(group),
            },
        }
    };
    for run in runs.split_off(from) {
        group.push(run);
        if group.iter().map(|r| r.len()).sum::<usize>() >= large {
            close(&mut group, runs);
        }
    }
    close(&mut group, runs);
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::run::tests::pack;
    use super::super::run_writer::{RunBuilder, merge};
    use super::*;

    fn run(blobs: std::ops::Range<u64>) -> Arc<Run> {
        let mut builder = RunBuilder::default();
        builder.add(&pack(1, blobs));
        Arc::new(builder.write(None).unwrap())
    }

    /// Adds so many runs of ten entries each; the lengths of those that are left, and the entries written.
    fn grown(count: u64, large: usize) -> (Vec<usize>, usize) {
        let (mut runs, mut written) = (Vec::new(), 0);
        for n in 0..count {
            runs.push(run(n * 10..n * 10 + 10));
            compact_below(large, &mut runs, |group| {
                let merged = Arc::new(merge(group, &HashSet::new(), None)?);
                written += merged.len();
                Ok(merged)
            });
        }
        (runs.iter().map(|r| r.len()).collect(), written)
    }

    #[test]
    fn runs_stay_few_and_entries_are_rarely_written() {
        let (lens, written) = grown(300, 1 << 20);
        assert_eq!(lens.iter().sum::<usize>(), 3000);
        assert!(lens.len() <= 5, "{lens:?}");
        assert!(written <= 3000 * 20, "{written}");
    }

    #[test]
    fn large_runs_are_left_alone() {
        let (lens, written) = grown(300, 400);
        assert_eq!(lens.iter().sum::<usize>(), 3000);
        assert!(lens.len() <= 12 && lens.iter().all(|len| *len < 2 * 400), "{lens:?}");
        assert!(written <= 3000 * 20, "{written}");
    }
}
