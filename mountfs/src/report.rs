//! Tells of what failed, aside: whoever is told may take as long as he likes, as a terminal does
//! that is held, and answers must not wait for him.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::OnError;

/// Lines that wait to be told; more are only counted.
const MOST: usize = 256;
/// How long the end of the drive waits for the last of them.
const PATIENCE: Duration = Duration::from_secs(1);

pub(crate) struct Reporter {
    lines: Option<Sender<String>>,
    missed: Arc<AtomicU64>,
    ended: Receiver<()>,
}

impl Reporter {
    pub fn new(on_error: OnError) -> Self {
        let (lines, waiting) = bounded::<String>(MOST);
        let (end, ended) = bounded::<()>(0);
        let missed = Arc::<AtomicU64>::default();
        let counted = missed.clone();
        std::thread::spawn(move || {
            let _end = end;
            for line in waiting {
                on_error(&line);
                match counted.swap(0, Relaxed) {
                    0 => {}
                    missed => on_error(&format!("{missed} more errors, too many to be told")),
                }
            }
        });
        Self { lines: Some(lines), missed, ended }
    }

    /// Returns at once.
    pub fn tell(&self, line: String) {
        let told = self.lines.as_ref().is_some_and(|lines| lines.try_send(line).is_ok());
        if !told {
            self.missed.fetch_add(1, Relaxed);
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.lines = None;
        let _ = self.ended.recv_timeout(PATIENCE);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Instant;

    use super::*;

    #[test]
    fn what_finds_no_room_is_counted_and_the_rest_is_told_before_the_end() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let (hold, held) = bounded::<()>(0);
        let to = told.clone();
        let reporter = Reporter::new(Arc::new(move |line| {
            let _ = held.recv();
            to.lock().unwrap().push(line.to_owned());
        }));
        (0..MOST + 10).for_each(|n| reporter.tell(format!("{n}")));
        drop(hold);
        drop(reporter);
        let told = told.lock().unwrap();
        let missed: u64 =
            told.iter().filter_map(|line| line.split_once(" more ")?.0.parse::<u64>().ok()).sum();
        let lines = told.iter().filter(|line| line.parse::<usize>().is_ok()).count();
        // The thread may have taken the first one before the others came.
        assert!(lines >= MOST && lines as u64 + missed == MOST as u64 + 10, "{lines} {missed}");
    }

    #[test]
    fn the_end_does_not_wait_for_who_never_returns() {
        let (_hold, held) = bounded::<()>(0);
        let reporter = Reporter::new(Arc::new(move |_| {
            let _ = held.recv();
        }));
        reporter.tell("x".into());
        let start = Instant::now();
        drop(reporter);
        assert!(start.elapsed() < PATIENCE * 10);
    }
}
