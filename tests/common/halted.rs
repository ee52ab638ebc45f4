//! A command that stands still in the middle, while something is done to it.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use super::{Ran, World, ended, signal, start, wait_until};

impl World {
    /// Runs a command as this user, or as root, up to the `nth` call of this kind of one of its
    /// threads. Then `harm` is done, and it goes on; a bit at a time until that could be done.
    #[track_caller]
    pub fn halted(
        &self,
        who: Who,
        words: &str,
        (call, nth): (&str, u32),
        mut harm: impl FnMut() -> bool,
    ) -> Ran {
        let log = self.path("nobody/calls");
        let _ = fs::remove_file(&log);
        let (mut tracer, traced) = match who {
            Who::Nobody => (self.as_nobody("strace"), self.command_of_nobody(words)),
            Who::Root => (self.plain("strace"), self.command(words)),
        };
        fs::create_dir_all(self.path("nobody")).unwrap();
        // The program is our child, and not strace.
        tracer.args(["-D", "-f", "-qq", "-o"]).arg(&log);
        tracer.args(["-e", &format!("trace={call}")]);
        tracer.args(["-e", &format!("inject={call}:signal=SIGSTOP:when={nth}")]);
        tracer.arg(traced.get_program()).args(traced.get_args());
        let mut child = start(&mut tracer);
        let halts = || fs::read_to_string(&log).is_ok_and(|log| log.contains("stopped by SIGSTOP"));
        wait_until("it stands still", || halts() || child.try_wait().unwrap().is_some());
        assert!(halts(), "{words} has ended before: {}", ended(&tracer, child).err);
        while !harm() {
            signal(&child, Signal::CONT);
            std::thread::sleep(Duration::from_millis(1));
            signal(&child, Signal::STOP);
            let has_ended = child.try_wait().unwrap().is_some();
            assert!(!has_ended, "{words} has ended meanwhile: {}", ended(&tracer, child).err);
        }
        // Other threads stop at theirs.
        while child.try_wait().unwrap().is_none() {
            signal(&child, Signal::CONT);
            std::thread::sleep(Duration::from_millis(5));
        }
        ended(&tracer, child).expect_no_panic()
    }
}

#[derive(Clone, Copy)]
pub enum Who {
    Root,
    /// Who may not do everything.
    Nobody,
}
