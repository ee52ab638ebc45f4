//! Reading ahead: on sequential reads the blocks that will follow are fetched
//! by other threads; the further, the longer the sequence. Random reads stop it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crossbeam_channel::{Sender, TrySendError, bounded};
use tresor_engine::format::BlobId;
use tresor_engine::repo::without_fetching;

use super::blocks::BlockCache;
use super::file::FileReader;

const FIRST_WINDOW: u64 = 512 << 10;
const MOST: u64 = 8 << 20;
/// Kernels deliver the requests of one sequential reader slightly out of order.
const SLACK: u64 = 1 << 20;
/// Blocks waiting to be fetched; more are not worth remembering.
const QUEUE: usize = 256;
const WORKERS: usize = 4;

/// Sequences of one file that are told apart.
const STREAMS: usize = 8;

/// How a file has been read so far, by several readers perhaps.
#[derive(Debug, Default)]
pub struct Streams {
    /// The one that was used last comes first.
    recent: VecDeque<Sequence>,
}

impl Streams {
    /// Takes note of a read; says what to fetch now. `most` bounds how far ahead.
    pub fn advance(&mut self, offset: u64, len: u64, most: u64) -> Option<Range<u64>> {
        let known = self.recent.iter().position(|s| s.is_followed_by(offset));
        let mut sequence = match known {
            Some(at) => self.recent.remove(at).unwrap_or_default(),
            None => Sequence::default(),
        };
        let ahead = sequence.advance(offset, len, most);
        self.recent.push_front(sequence);
        self.recent.truncate(STREAMS);
        ahead
    }
}

/// How one reader goes on.
#[derive(Debug, Default)]
struct Sequence {
    /// Where the next read begins if it is sequential.
    next: u64,
    /// Up to where blocks have been asked for.
    ahead: u64,
    window: u64,
}

impl Sequence {
    fn is_followed_by(&self, offset: u64) -> bool {
        // One read is no sequence yet; random ones must not fall near it by chance.
        let slack = if self.window == 0 { SLACK / 16 } else { SLACK };
        self.next > 0 && offset.abs_diff(self.next) <= slack
    }

    fn advance(&mut self, offset: u64, len: u64, most: u64) -> Option<Range<u64>> {
        let end = offset.saturating_add(len);
        if !self.is_followed_by(offset) {
            *self = Self { next: end, ahead: end, window: 0 };
            return None;
        }
        if end <= self.next {
            // Late, or tried for the second time.
            return None;
        }
        self.next = end;
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
    queue: Sender<Wanted>,
    most: u64,
}

enum Wanted {
    Block(BlobId),
    /// Which blocks it has must be read first.
    Range(Arc<FileReader>, Range<u64>),
    Work(Box<dyn FnOnce(&BlockCache) + Send>),
}

impl Prefetcher {
    /// `cache` in bytes: reading ahead never takes more than a quarter of it.
    pub fn new(blocks: Arc<BlockCache>, cache: u64) -> Self {
        let (queue, wanted) = bounded::<Wanted>(QUEUE);
        for _ in 0..WORKERS {
            let (blocks, wanted) = (blocks.clone(), wanted.clone());
            std::thread::spawn(move || {
                for what in wanted {
                    // Whoever reads the block gets the error.
                    let _ = what.fetch(&blocks);
                }
            });
        }
        Self { blocks, queue, most: MOST.min(cache / 4) }
    }

    pub fn most(&self) -> u64 {
        self.most
    }

    /// Asks for the blocks of a range; those that find too many waiting are left out.
    pub fn want(&self, file: Arc<FileReader>, range: Range<u64>) {
        match without_fetching(|| file.chunks(self.blocks.repo(), range.clone())) {
            Ok(ids) => ids.into_iter().for_each(|id| self.send(Wanted::Block(id))),
            Err(_) => self.send(Wanted::Range(file, range)),
        }
    }

    /// Does work of another kind on these threads, if they aren't busy for long.
    pub fn run(&self, work: impl FnOnce(&BlockCache) + Send + 'static) {
        self.send(Wanted::Work(Box::new(work)));
    }

    fn send(&self, what: Wanted) {
        if let Wanted::Block(id) = &what
            && self.blocks.holds(id)
        {
            return;
        }
        match self.queue.try_send(what) {
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}

impl Wanted {
    fn fetch(self, blocks: &BlockCache) -> tresor_engine::Result<()> {
        match self {
            Self::Block(id) => blocks.get(&id).map(drop),
            Self::Work(work) => {
                work(blocks);
                Ok(())
            }
            Self::Range(file, range) => {
                let mut ids = file.chunks(blocks.repo(), range)?.into_iter();
                ids.try_for_each(|id| blocks.get(&id).map(drop))
            }
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

    #[test]
    fn readers_of_one_file_dont_disturb_each_other() {
        let mut streams = Streams::default();
        let mut fetched = [0; STREAMS];
        for step in 0..100 {
            for (reader, ahead) in fetched.iter_mut().enumerate() {
                let at = ((reader as u64) << 30) + step * (128 << 10);
                if let Some(range) = streams.advance(at, 128 << 10, MOST) {
                    assert!(range.start >= at && range.end - at <= MOST + (128 << 10));
                    *ahead = range.end - ((reader as u64) << 30);
                }
            }
        }
        assert!(fetched.iter().all(|ahead| *ahead > 100 * (128 << 10)), "{fetched:?}");
    }
}
