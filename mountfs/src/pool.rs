//! Threads for what may take long.

use crossbeam_channel::{Sender, unbounded};

/// So many requests can wait for a store at once.
const THREADS: usize = 16;

type Job = Box<dyn FnOnce() + Send>;

/// Who asks bounds how many requests are under way, and so the queue.
pub struct Pool(Sender<Job>);

impl Pool {
    pub fn new() -> Self {
        let (sender, jobs) = unbounded::<Job>();
        for _ in 0..THREADS {
            let jobs = jobs.clone();
            std::thread::spawn(move || {
                for job in jobs {
                    // A reply that is dropped by a panic answers EIO; the thread lives on.
                    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
                }
            });
        }
        Self(sender)
    }

    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        // Only fails when all threads are gone; the dropped reply answers EIO.
        let _ = self.0.send(Box::new(job));
    }
}
