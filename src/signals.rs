//! Ctrl-C and its kin: the first one asks what runs to stop, the second one ends the program.

use std::sync::{Mutex, MutexGuard};

use anyhow::Result;

use crate::exit::Exit;

type Hook = Box<dyn Fn() + Send>;

struct State {
    hooks: Vec<(u64, Hook)>,
    next: u64,
    asked: bool,
}

static STATE: Mutex<State> = Mutex::new(State { hooks: Vec::new(), next: 0, asked: false });

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(|e| e.into_inner())
}

/// While it lives, a signal calls the hook instead of ending the program.
pub struct Guard(u64);

impl Drop for Guard {
    fn drop(&mut self) {
        state().hooks.retain(|(number, _)| *number != self.0);
    }
}

/// Has a hook called, on another thread, when the first signal comes. It must not block.
pub fn on_stop(hook: impl Fn() + Send + 'static) -> Guard {
    let mut state = state();
    let number = state.next;
    state.next += 1;
    state.hooks.push((number, Box::new(hook)));
    Guard(number)
}

/// A signal has come, or something that stands for one.
pub fn arrived() {
    let mut state = state();
    if state.asked || state.hooks.is_empty() {
        end();
    }
    state.asked = true;
    state.hooks.iter().for_each(|(_, hook)| hook());
}

/// Without tidying up, which could wait for what a signal has interrupted.
#[cfg(unix)]
fn end() -> ! {
    signal_hook::low_level::exit(Exit::Interrupted.code().into())
}

#[cfg(not(unix))]
fn end() -> ! {
    crate::exit::now(Exit::Interrupted)
}

/// Listens from now on. Without a hook, the first signal ends the program.
#[cfg(unix)]
pub fn install() -> Result<()> {
    use anyhow::Context;
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

    let ignored = tresor_platform::hangup_is_ignored();
    let all: &[_] = if ignored { &[SIGINT, SIGTERM] } else { &[SIGINT, SIGTERM, SIGHUP] };
    let mut signals =
        signal_hook::iterator::Signals::new(all).context("can't listen to signals")?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || signals.forever().for_each(|_| arrived()))
        .context("can't start a thread")?;
    Ok(())
}

#[cfg(windows)]
pub fn install() -> Result<()> {
    Ok(tresor_platform::on_console_stop(arrived)?)
}
