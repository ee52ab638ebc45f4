//! Requests are answered on the processor of who asks.
//!
//! Who asks for one thing after the other waits for each answer. The kernel sees an idle processor
//! beside his and wakes us there, which takes longer than many an answer does, above all on virtual
//! machines. So a thread that the same asker comes to again and again stays with him; it is
//! free again with the first request that comes from another one, or after a pause, and before it
//! does anything long or starts threads. If nobody asks any more, it stays.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// A longer pause ends a conversation.
const PAUSE: Duration = Duration::from_millis(2);
/// Requests until it is one.
const BEGINNING: u32 = 8;
/// Requests after which is looked again where the asker is.
const AGAIN: u32 = 64;

thread_local! {
    static FOLLOW: RefCell<Follow> = RefCell::new(Follow::new());
}

/// To be told of each request before it is answered: who asks, and whether he waits for the answer.
pub fn asked(who: u32, waits: bool) {
    FOLLOW.with_borrow_mut(|follow| follow.asked(who, waits, Instant::now()));
}

/// To be called before this thread waits for the next request: going elsewhere takes a moment, in
/// which nobody should have to wait for it.
pub fn settle() {
    FOLLOW.with_borrow_mut(Follow::settle);
}

/// To be called before this thread starts others, which would have to stay where it is, or takes
/// long for one request.
pub fn free() {
    FOLLOW.with_borrow_mut(Follow::free);
}

struct Follow {
    /// Where this thread may run. Nothing if there is no choice.
    anywhere: Option<CpuSet>,
    who: u32,
    requests: u32,
    last: Instant,
    /// Where it is to stay.
    with: Option<usize>,
    stays: bool,
}

impl Follow {
    fn new() -> Self {
        let anywhere = sched_getaffinity(None).ok().filter(|all| all.count() > 1);
        Self { anywhere, who: 0, requests: 0, last: Instant::now(), with: None, stays: false }
    }

    fn asked(&mut self, who: u32, waits: bool, now: Instant) {
        let Some(anywhere) = self.anywhere else { return };
        let goes_on = waits && who == self.who && now - self.last < PAUSE;
        (self.who, self.last) = (who, now);
        if !goes_on {
            (self.requests, self.with) = (0, None);
            return self.free();
        }
        self.requests = self.requests.wrapping_add(1);
        if self.requests % AGAIN == BEGINNING {
            let with = processor_of(who).filter(|on| anywhere.is_set(*on));
            if with != self.with {
                self.free();
                self.with = with;
            }
        }
    }

    fn settle(&mut self) {
        if let (Some(on), false) = (self.with, self.stays) {
            // It may have been changed from outside.
            self.anywhere = sched_getaffinity(None).ok().or(self.anywhere);
            let mut only = CpuSet::new();
            only.set(on);
            self.stays = sched_setaffinity(None, &only).is_ok();
        }
    }

    fn free(&mut self) {
        if let Some(anywhere) = self.anywhere.filter(|_| self.stays) {
            self.stays = sched_setaffinity(None, &anywhere).is_err();
        }
    }
}

/// Where a thread ran last.
fn processor_of(thread: u32) -> Option<usize> {
    let stat = std::fs::read_to_string(format!("/proc/{thread}/stat")).ok()?;
    // The name, in brackets, may hold anything; the processor is field 39.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(36)?.parse().ok().filter(|on| *on < CpuSet::MAX_CPU)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread that answers, and when.
    struct Answering(Follow, Instant);

    impl Answering {
        fn asked(&mut self, times: u32, who: u32, waits: bool) {
            for _ in 0..times {
                self.0.asked(who, waits, self.1);
                self.0.settle();
                self.1 += PAUSE / 2;
            }
        }
    }

    /// On a thread of its own, which asks, too. With one processor there is nothing to see.
    fn apart(work: impl FnOnce(Answering, u32) + Send) {
        let own = || rustix::thread::gettid().as_raw_nonzero().get() as u32;
        let run = || work(Answering(Follow::new(), Instant::now()), own());
        if choices() > 1 {
            std::thread::scope(|scope| scope.spawn(run).join()).unwrap();
        }
    }

    fn choices() -> u32 {
        sched_getaffinity(None).unwrap().count()
    }

    #[test]
    fn stays_with_one_asker_until_another_one_comes() {
        apart(|mut thread, asker| {
            let before = choices();
            thread.asked(BEGINNING, asker, true);
            assert_eq!(choices(), before, "that is no conversation yet");
            thread.asked(1, asker, true);
            assert_eq!(choices(), 1);
            thread.asked(1, asker + 1, true);
            assert_eq!(choices(), before);
        });
    }

    #[test]
    fn is_free_for_what_takes_long_and_after_a_pause() {
        apart(|mut thread, asker| {
            let before = choices();
            thread.asked(BEGINNING + 1, asker, true);
            thread.0.free();
            assert_eq!(choices(), before);
            thread.asked(1, asker, true);
            assert_eq!(choices(), 1, "it comes back");
            thread.1 += PAUSE;
            thread.asked(1, asker, true);
            assert_eq!(choices(), before);
        });
    }

    #[test]
    fn who_does_not_wait_or_is_not_seen_is_not_followed() {
        apart(|mut thread, asker| {
            let before = choices();
            thread.asked(50, asker, false);
            thread.asked(50, 0, true);
            thread.asked(50, u32::MAX, true);
            assert_eq!(choices(), before);
        });
    }
}
