//! Tells what a running operation does: a line on the terminal, or lines of JSON.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;
use tresor_engine::monitor::{Monitor, Progress};

use crate::globals::Globals;
use crate::line::Numbers;
use crate::output::{self, tidy};
use crate::signals;

/// Nothing is drawn for what is done sooner.
pub const PATIENCE: Duration = Duration::from_secs(1);
const REDRAW: Duration = Duration::from_millis(200);
const STATUS_EVERY: Duration = Duration::from_secs(1);
const CLEAR: &[u8] = b"\r\x1b[K";
const DEFAULT_WIDTH: usize = 80;

/// What the counted entries are called, one and many.
pub type Noun = (&'static str, &'static str);
pub const FILES: Noun = ("file", "files");
pub const OBJECTS: Noun = ("object", "objects");
pub const PACKS: Noun = ("pack", "packs");

/// What `--json` of the command is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Json {
    /// A message on each line, also while it runs.
    Messages,
    /// One value at the end.
    Answer,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Silent,
    Line,
    Messages,
}

/// Reports while it lives; dropped, it clears its line.
pub struct Reporter {
    shared: Arc<Shared>,
    drawer: Option<JoinHandle<()>>,
    guard: Option<signals::Guard>,
}

struct Shared {
    progress: Progress,
    style: Style,
    /// Whether problems and entries are messages of JSON.
    messages: bool,
    quiet: bool,
    verbose: u8,
    noun: Noun,
    started: Instant,
    estimated: AtomicBool,
    left_out: AtomicU64,
    phase: Mutex<String>,
    /// Whether there is a line on the screen.
    screen: Mutex<bool>,
    done: Mutex<bool>,
    wake: Condvar,
}

#[derive(Serialize)]
struct ErrorMessage<'a> {
    message_type: &'static str,
    path: &'a str,
    message: &'a str,
}

#[derive(Serialize)]
struct EntryMessage<'a> {
    message_type: &'static str,
    action: &'a str,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

#[derive(Serialize)]
struct NoteMessage<'a> {
    message_type: &'static str,
    message: &'a str,
}

/// Says something that is no problem, but good to know, before there is a reporter.
pub fn note(globals: &Globals, json: Json, message: &str) {
    if globals.quiet {
        return;
    }
    if globals.json && json == Json::Messages {
        // A message that can't be written must not end a backup.
        let _ = output::print_json(&NoteMessage { message_type: "note", message: &tidy(message) });
    } else {
        output::complain(message);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Reporter {
    /// For an operation that stops when the monitor's progress says so.
    pub fn start(globals: &Globals, noun: Noun, json: Json) -> Self {
        let mut reporter = Self::unstoppable(globals, noun, json);
        let shared = reporter.shared.clone();
        reporter.guard = Some(signals::on_stop(move || {
            shared.progress.stop.store(true, Relaxed);
            shared.above(|| output::complain("stopping (once more to stop at once)"));
        }));
        reporter
    }

    /// For an operation that ends with the program when a signal comes.
    pub fn unstoppable(globals: &Globals, noun: Noun, json: Json) -> Self {
        let messages = globals.json && json == Json::Messages;
        let shared = Arc::new(Shared {
            progress: Progress::default(),
            style: style(globals, messages),
            messages,
            quiet: globals.quiet,
            verbose: if globals.quiet { 0 } else { globals.verbose },
            noun,
            started: Instant::now(),
            estimated: AtomicBool::new(false),
            left_out: AtomicU64::new(0),
            phase: Mutex::default(),
            screen: Mutex::new(false),
            done: Mutex::new(false),
            wake: Condvar::new(),
        });
        let drawn = shared.clone();
        let drawer = match shared.style {
            Style::Silent => None,
            // Without a thread for it there is no line; that is all.
            _ => std::thread::Builder::new().spawn(move || drawn.draw()).ok(),
        };
        Self { shared, drawer, guard: None }
    }

    pub fn monitor(&self) -> Arc<dyn Monitor> {
        self.shared.clone()
    }

    /// Ends the report. What fails because it was told to stop was interrupted.
    pub fn end<T, E: Into<anyhow::Error>>(self, result: Result<T, E>) -> anyhow::Result<T> {
        let stopped = self.shared.progress.stop.load(Relaxed);
        result
            .map_err(|e| if stopped { tresor_engine::Error::Interrupted.into() } else { e.into() })
    }

    /// Whether anybody sees the progress.
    pub fn is_seen(&self) -> bool {
        self.shared.style != Style::Silent
    }

    pub fn expect(&self, entries: u64, bytes: u64, estimated: bool) {
        self.shared.estimated.store(estimated, Relaxed);
        self.shared.progress.expect(entries, bytes);
    }

    /// Says something that is no problem, but good to know.
    pub fn note(&self, message: &str) {
        self.shared.note(message);
    }

    /// How many entries were left out by rules of the system.
    pub fn left_out(&self) -> u64 {
        self.shared.left_out.load(Relaxed)
    }

    /// Waits; returns whether the operation is over.
    pub fn wait(&self, time: Duration) -> bool {
        self.shared.wait(time)
    }

    pub fn is_over(&self) -> bool {
        *lock(&self.shared.done) || self.shared.progress.stop.load(Relaxed)
    }

    /// The operation is over.
    pub fn finish(&self) {
        *lock(&self.shared.done) = true;
        self.shared.wake.notify_all();
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.guard = None;
        self.finish();
        if let Some(drawer) = self.drawer.take() {
            let _ = drawer.join();
        }
        self.shared.above(|| ());
    }
}

fn style(globals: &Globals, messages: bool) -> Style {
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    if globals.quiet {
        Style::Silent
    } else if messages {
        Style::Messages
    } else if io::stderr().is_terminal() && !dumb && !globals.json {
        Style::Line
    } else {
        Style::Silent
    }
}

impl Shared {
    fn wait(&self, time: Duration) -> bool {
        let done = lock(&self.done);
        let waited = self.wake.wait_timeout_while(done, time, |done| !*done);
        waited.map_or_else(|e| *e.into_inner().0, |(done, _)| *done)
    }

    fn draw(&self) {
        let every = if self.style == Style::Line { REDRAW } else { STATUS_EVERY };
        let mut rate = Rate::default();
        if self.wait(PATIENCE) {
            return;
        }
        loop {
            let numbers = self.numbers(&mut rate);
            let phase = lock(&self.phase).clone();
            if self.style == Style::Line {
                let line = numbers.render(self.noun, &phase, width());
                let mut drawn = lock(&self.screen);
                let _ = io::stderr().lock().write_all(&[CLEAR, line.as_bytes()].concat());
                *drawn = true;
            } else {
                self.message(&numbers.status(&phase));
            }
            if self.wait(every) {
                return;
            }
        }
    }

    fn numbers(&self, rate: &mut Rate) -> Numbers {
        let p = &self.progress;
        let elapsed = self.started.elapsed().as_secs_f64();
        let bytes = p.bytes.load(Relaxed);
        Numbers {
            elapsed,
            entries: p.entries.load(Relaxed),
            bytes,
            entries_total: p.entries_total.load(Relaxed),
            bytes_total: p.bytes_total.load(Relaxed),
            estimated: self.estimated.load(Relaxed),
            rate: rate.update(elapsed, bytes),
        }
    }

    /// Prints something where the line is now.
    fn above(&self, print: impl FnOnce()) {
        let mut drawn = lock(&self.screen);
        if std::mem::take(&mut *drawn) {
            let _ = io::stderr().lock().write_all(CLEAR);
        }
        print();
    }

    fn note(&self, message: &str) {
        if self.quiet {
            return;
        }
        if self.messages {
            self.message(&NoteMessage { message_type: "note", message: &tidy(message) });
        } else {
            self.above(|| output::complain(message));
        }
    }

    fn say_entry(&self, action: &str, path: &str, reason: Option<&str>) {
        if self.messages {
            self.message(&EntryMessage { message_type: "entry", action, path, reason });
        } else {
            let reason = reason.map_or(String::new(), |reason| format!(" ({reason})"));
            let line = format!("{action:<9}  {path}{reason}\n");
            self.above(|| drop(io::stdout().lock().write_all(line.as_bytes())));
        }
    }

    /// A message that can't be written must not end a backup.
    fn message(&self, message: &impl Serialize) {
        let _ = output::json_line(&mut io::stdout().lock(), message);
    }
}

impl Monitor for Shared {
    fn progress(&self) -> &Progress {
        &self.progress
    }

    fn problem(&self, path: &str, message: &str) {
        if self.messages {
            let message = &tidy(message);
            self.message(&ErrorMessage { message_type: "error", path, message });
        } else {
            self.above(|| output::complain(&format!("{path}: {message}")));
        }
    }

    fn entry(&self, action: &'static str, path: &dyn Fn() -> String) {
        if self.verbose == 0 || self.verbose == 1 && action == "unchanged" {
            return;
        }
        self.say_entry(action, &path(), None);
    }

    fn left_out(&self, path: &dyn Fn() -> String, why: Option<&str>) {
        self.left_out.fetch_add(u64::from(why.is_some()), Relaxed);
        if self.verbose > 0 {
            self.say_entry("left_out", &path(), why);
        }
    }

    fn note(&self, message: &str) {
        if self.quiet {
            return;
        }
        if self.messages {
            self.message(&NoteMessage { message_type: "note", message: &tidy(message) });
        } else {
            self.above(|| output::complain(message));
        }
    }

    fn left_alone(&self, path: &str, what: &str) {
        self.note(&format!("{path}: left alone, since it is {what}"));
    }

    fn wants_entries(&self) -> bool {
        self.verbose > 0
    }

    fn phase(&self, text: &str) {
        text.clone_into(&mut lock(&self.phase));
    }
}

/// Bytes in a second, smoothed.
#[derive(Default)]
struct Rate {
    at: f64,
    bytes: u64,
    rate: f64,
}

impl Rate {
    fn update(&mut self, at: f64, bytes: u64) -> f64 {
        let now = bytes.saturating_sub(self.bytes) as f64 / (at - self.at).max(1e-3);
        // The last three seconds or so count.
        let weight = if self.at == 0.0 { 1.0 } else { ((at - self.at) / 3.0).clamp(0.0, 1.0) };
        *self = Self { at, bytes, rate: self.rate + (now - self.rate) * weight };
        self.rate
    }
}

fn width() -> usize {
    let size = terminal_size::terminal_size_of(io::stderr());
    // The last column is left free: some terminals wrap once it is filled.
    size.map_or(DEFAULT_WIDTH, |(width, _)| usize::from(width.0)).saturating_sub(1).max(1)
}
