//! Reading ahead: on sequential reads the blocks that will follow are fetched
//! by other threads; the further, the longer the sequence. Random reads stop it.

use std::ops::Range;
use std::sync::Arc;

use crossbeam_channel::{Sender, TrySendError, bounded};
use tresor_engine::format::BlobId;
use tresor_engine::repo::Repository;

use super::blocks::BlockCache;

const FIRST_WINDOW: u64 = 512 << 10;
const MOST: u64 = 8 << 20;
/// Kernels deliver the requests of one sequential reader slightly out of order.
const SLACK: u64 = 1 << 20;
/// Blocks waiting to be fetched; more are not worth remembering.
const QUEUE: usize = 256;
const WORKERS: usize = 4;

/// How one handle has been read so far.
#[derive(Debug, Default)]
pub struct Sequence {
    /// Where the next read begins if it is sequential.
    next: u64,
    /// Up to where blocks have been asked for.
    ahead: u64,
    window: u64,
}

impl Sequence {
    /// Takes note of a read; says what to fetch now. `most` bounds how far ahead.
    pub fn advance(&mut self, offset: u64, len: u64, most: u64) -> Option<Range<u64>> {
        let end = offset.saturating_add(len);
        let follows = self.next > 0
            && offset >= self.next.saturating_sub(SLACK)
            && offset <= self.next.saturating_add(SLACK);
        if !follows {
            *self = Self { next: end, ahead: end, window: 0 };
            return None;
        }
        self.next = self.next.max(end);
        self.window = (self.window * 2).clamp(FIRST_WINDOW.min(most), most);
        let wanted = self.next.saturating_add(self.window);
        // Few large steps rather than one block at each read.
        if wanted < self.ahead.max(self.next) + self.window / 4 {
            return None;
        }
        let from = self.ahead.max(self.next);
        self.ahead = wanted;
        Some(from..wanted)
    }
}

/// Threads that fetch blocks into the cache. They end when it is dropped.
pub struct Prefetcher {
    blocks: Arc<BlockCache>,
    queue: Sender<BlobId>,
    most: u64,
}

impl Prefetcher {
    /// `cache` in bytes: reading ahead never takes more than a quarter of it.
    pub fn new(blocks: Arc<BlockCache>, cache: u64) -> Self {
        let (queue, wanted) = bounded::<BlobId>(QUEUE);
        for _ in 0..WORKERS {
            let (blocks, wanted) = (blocks.clone(), wanted.clone());
            std::thread::spawn(move || {
                for id in wanted {
                    // Whoever reads the block gets the error.
                    let _ = blocks.get(&id);
                }
            });
        }
        Self { blocks, queue, most: MOST.min(cache / 4) }
    }

    pub fn most(&self) -> u64 {
        self.most
    }

    pub fn repo(&self) -> &Repository {
        self.blocks.repo()
    }

    /// Asks for a block; forgotten if too many are waiting.
    pub fn want(&self, id: BlobId) {
        if self.blocks.holds(&id) {
            return;
        }
        match self.queue.try_send(id) {
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_on_sequential_reads_and_stops_on_random_ones() {
        let mut sequence = Sequence::default();
        let (mut at, mut ahead) = (0, 0);
        for _ in 0..200 {
            if let Some(range) = sequence.advance(at, 128 << 10, MOST) {
                assert!(range.start >= at && range.end - at <= MOST + (128 << 10));
                assert!(range.start >= ahead, "nothing is asked for twice");
                ahead = range.end;
            }
            at += 128 << 10;
        }
        assert_eq!(sequence.window, MOST);
        assert!(ahead > at);
        for offset in [900 << 20, 40 << 20, 500 << 20, 77 << 20] {
            assert_eq!(sequence.advance(offset, 4096, MOST), None);
        }
    }
}
