//! Reading ahead: on sequential reads the blocks that will follow are fetched
//! by other threads; the further, the longer the sequence. Random reads stop it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Once, Weak};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use tresor_engine::format::BlobId;
use tresor_engine::index::SegmentAddr;
use tresor_engine::repo::without_fetching;

use super::blocks::BlockCache;
use super::file::FileReader;
use crate::follow;

/// How far ahead of a reader is fetched: at first, and after it went on for long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    pub first: u64,
    pub most: u64,
}

const NEAR: Reach = Reach { first: 512 << 10, most: 8 << 20 };
/// From a store that is far: what a line of 1 Gbit/s carries until it answers after 0.2 s.
const FAR: Reach = Reach { first: 2 << 20, most: 32 << 20 };
/// Kernels deliver the requests of one sequential reader slightly out of order.
const SLACK: u64 = 1 << 20;
/// Blocks waiting to be fetched; more are not worth remembering.
const QUEUE: usize = 256;
const WORKERS: usize = 4;
/// More of them where most wait for a store that is far. Each reads 2 MiB at most.
const FAR_WORKERS: usize = 8;

/// Sequences of one file that are told apart.
const STREAMS: usize = 8;

/// How a file has been read so far, by several readers perhaps.
#[derive(Debug, Default)]
pub struct Streams {
    /// The one that was used last comes first.
    recent: VecDeque<Sequence>,
}

impl Streams {
    /// Takes note of a read; says what to fetch now. `reach` is asked about those in sequence.
    pub fn advance(
        &mut self,
        offset: u64,
        len: u64,
        reach: impl FnOnce(&mut Share) -> Reach,
    ) -> Option<Range<u64>> {
        let known = self.recent.iter().position(|s| s.is_followed_by(offset));
        let mut sequence = match known {
            Some(at) => self.recent.remove(at).unwrap_or_default(),
            None => Sequence::default(),
        };
        let ahead = sequence.advance(offset, len, reach);
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
    share: Share,
}

impl Sequence {
    fn is_followed_by(&self, offset: u64) -> bool {
        // One read is no sequence yet; random ones must not fall near it by chance.
        let slack = if self.window == 0 { SLACK / 16 } else { SLACK };
        self.next > 0 && offset.abs_diff(self.next) <= slack
    }

    fn advance(
        &mut self,
        offset: u64,
        len: u64,
        reach: impl FnOnce(&mut Share) -> Reach,
    ) -> Option<Range<u64>> {
        let end = offset.saturating_add(len);
        if !self.is_followed_by(offset) {
            *self = Self { next: end, ahead: end, ..Self::default() };
            return None;
        }
        if end <= self.next {
            // Late, or tried for the second time.
            return None;
        }
        self.next = end;
        let reach = reach(&mut self.share);
        self.window = (self.window * 2).clamp(reach.first.min(reach.most), reach.most);
        let wanted = self.next.saturating_add(self.window);
        // Few large steps rather than one block at each read.
        let from = self.ahead.max(self.next);
        if wanted.saturating_sub(from) < self.window / 4 {
            return None;
        }
        self.ahead = wanted;
        Some(from..wanted)
    }
}

/// In which second a sequence was counted last, if ever.
#[derive(Debug, Default)]
pub struct Share(u64);

/// How many sequences are read side by side, as counted second by second.
struct Sharers {
    began: Instant,
    /// Of the last even second and the last odd one: which one that is, and how many.
    counts: [AtomicU64; 2],
}

/// Bits of a count, below those of its second.
const COUNT: u32 = 24;

impl Sharers {
    fn new() -> Self {
        Self { began: Instant::now(), counts: Default::default() }
    }

    /// Takes note of one of them; all that are read now or were so a second ago.
    fn note(&self, share: &mut Share) -> u64 {
        // None was ever counted in second 0.
        self.note_in(share, self.began.elapsed().as_secs() + 2)
    }

    fn note_in(&self, share: &mut Share, second: u64) -> u64 {
        let [this, last] = [second, second - 1].map(|n| &self.counts[(n % 2) as usize]);
        let of = |second: u64, count: u64| {
            if count >> COUNT == second { count & ((1 << COUNT) - 1) } else { 0 }
        };
        if share.0 != second {
            share.0 = second;
            let more = |count| Some((second << COUNT) + of(second, count) + 1);
            let _ = this.fetch_update(Relaxed, Relaxed, more);
        }
        of(second, this.load(Relaxed)).max(of(second - 1, last.load(Relaxed)))
    }
}

/// Threads that fetch blocks into the cache. They end when it is dropped.
pub struct Prefetcher {
    blocks: Arc<BlockCache>,
    /// The only one that stays: workers borrow it for a moment.
    queue: Arc<Sender<Wanted>>,
    wanted: Receiver<Wanted>,
    more: Once,
    cache: u64,
    sharers: Sharers,
}

enum Wanted {
    Block(BlobId),
    Together(Vec<SegmentAddr>),
    /// Which ones must be found out first, and may take reading.
    Those(Box<Find>),
}

type Find = dyn FnOnce(&BlockCache) -> Vec<BlobId> + Send;

impl Prefetcher {
    /// `cache` in bytes: reading ahead never takes more than a quarter of it for one sequence, nor
    /// more than a third for all of them. Before a block is read, as much is read of what was fetched
    /// before it and fetched for what follows, and both are newer in the cache.
    pub fn new(blocks: Arc<BlockCache>, cache: u64) -> Self {
        let (queue, wanted) = bounded::<Wanted>(QUEUE);
        let (queue, more, sharers) = (Arc::new(queue), Once::new(), Sharers::new());
        let made = Self { blocks, queue, wanted, more, cache, sharers };
        made.add_workers(WORKERS);
        made
    }

    fn add_workers(&self, count: usize) {
        follow::free();
        for _ in 0..count {
            let (wanted, queue) = (self.wanted.clone(), Arc::downgrade(&self.queue));
            let worker = Worker { blocks: self.blocks.clone(), queue };
            std::thread::spawn(move || wanted.iter().for_each(|what| worker.fetch(what)));
        }
    }

    pub fn reach(&self) -> Reach {
        let reach = if self.blocks.repo().is_far() { FAR } else { NEAR };
        Reach { most: reach.most.min(self.cache / 4), ..reach }
    }

    /// The same for one of all sequences that are read.
    pub fn reach_of(&self, share: &mut Share) -> Reach {
        let (reach, sharers) = (self.reach(), self.sharers.note(share).max(1));
        Reach { most: reach.most.min(self.cache / 3 / sharers), ..reach }
    }

    /// Asks for the blocks of a range; those that find too many waiting are left out.
    pub fn want(&self, file: Arc<FileReader>, range: Range<u64>) {
        match without_fetching(|| file.chunks(self.blocks.repo(), range.clone())) {
            Ok(ids) => {
                self.prepare();
                send(&self.blocks, &self.queue, ids);
            }
            Err(_) => self.want_those(move |blocks| {
                // Whoever reads the file gets the error.
                file.chunks(blocks.repo(), range).unwrap_or_default()
            }),
        }
    }

    /// Asks for blocks that have to be found out first.
    pub fn want_those(&self, which: impl FnOnce(&BlockCache) -> Vec<BlobId> + Send + 'static) {
        self.prepare();
        try_send(&self.queue, Wanted::Those(Box::new(which)));
    }

    fn prepare(&self) {
        if self.blocks.repo().is_far() {
            self.more.call_once(|| self.add_workers(FAR_WORKERS));
        }
    }
}

/// One by one from a store that is near; from one that is far, neighbours together.
fn send(blocks: &BlockCache, queue: &Sender<Wanted>, ids: Vec<BlobId>) {
    if blocks.repo().is_far() {
        let runs = blocks.lacking(&ids).into_iter();
        runs.for_each(|run| try_send(queue, Wanted::Together(run)));
    } else {
        let lacking = ids.into_iter().filter(|id| !blocks.holds(id));
        lacking.for_each(|id| try_send(queue, Wanted::Block(id)));
    }
}

fn try_send(queue: &Sender<Wanted>, what: Wanted) {
    match queue.try_send(what) {
        Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
    }
}

struct Worker {
    blocks: Arc<BlockCache>,
    queue: Weak<Sender<Wanted>>,
}

impl Worker {
    fn fetch(&self, what: Wanted) {
        let blocks = &self.blocks;
        match what {
            Wanted::Block(id) => blocks.bring(&id),
            Wanted::Together(run) => blocks.bring_together(run),
            Wanted::Those(which) => {
                let ids = which(blocks);
                match self.queue.upgrade().filter(|_| blocks.repo().is_far()) {
                    Some(queue) => send(blocks, &queue, ids),
                    None => ids.iter().for_each(|id| blocks.bring(id)),
                }
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
            if let Some(range) = sequence.advance(at, 128 << 10, |_| NEAR) {
                assert!(range.start >= at && range.end - at <= NEAR.most + (128 << 10));
                assert!(range.start >= ahead, "nothing is asked for twice");
                ahead = range.end;
            }
            at += 128 << 10;
        }
        assert_eq!(sequence.window, NEAR.most);
        assert!(ahead > at);
        for offset in [900 << 20, 40 << 20, 500 << 20, 77 << 20] {
            assert_eq!(sequence.advance(offset, 4096, |_| NEAR), None);
        }
    }

    #[test]
    fn reads_at_the_end_of_all_numbers() {
        let mut streams = Streams::default();
        for offset in (u64::MAX - (3 << 20)..u64::MAX).step_by(64 << 10).chain([u64::MAX; 3]) {
            if let Some(range) = streams.advance(offset, 128 << 10, |_| NEAR) {
                assert!(range.start < range.end);
            }
        }
    }

    #[test]
    fn who_reads_side_by_side_is_counted_for_a_second_or_two() {
        let sharers = Sharers::new();
        let mut all: Vec<Share> = (0..5).map(|_| Share::default()).collect();
        for (n, share) in all.iter_mut().enumerate() {
            assert_eq!(sharers.note_in(share, 7), n as u64 + 1);
            assert_eq!(sharers.note_in(share, 7), n as u64 + 1, "once");
        }
        // Two go on.
        assert_eq!(sharers.note_in(&mut all[0], 8), 5);
        assert_eq!(sharers.note_in(&mut all[1], 8), 5);
        assert_eq!(sharers.note_in(&mut all[0], 9), 2);
        assert_eq!(sharers.note_in(&mut all[0], 12), 1);
    }

    #[test]
    fn readers_of_one_file_dont_disturb_each_other() {
        let mut streams = Streams::default();
        let mut fetched = [0; STREAMS];
        for step in 0..100 {
            for (reader, ahead) in fetched.iter_mut().enumerate() {
                let at = ((reader as u64) << 30) + step * (128 << 10);
                if let Some(range) = streams.advance(at, 128 << 10, |_| NEAR) {
                    assert!(range.start >= at && range.end - at <= NEAR.most + (128 << 10));
                    *ahead = range.end - ((reader as u64) << 30);
                }
            }
        }
        assert!(fetched.iter().all(|ahead| *ahead > 100 * (128 << 10)), "{fetched:?}");
    }
}
