//! Where a backup reads from: the machine as it lives on, or a snapshot that the system
//! makes of its volumes.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use tresor_engine::Error;
use tresor_engine::archiver::BackupOptions;
use tresor_engine::source::SourceDir;
use tresor_platform::{NoSnapshot, Problem, SourceSnapshot, Wanted};

use crate::progress::Reporter;

/// Whether a snapshot of the source is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum When {
    /// If it can be done; otherwise it is said why not
    Auto,
    /// Without one there is no backup
    On,
    Off,
}

/// What is asked for.
#[derive(Clone, Copy)]
pub(super) struct Wish {
    pub when: When,
    /// Whether the system is to be able to start from the backup. Its files are always in use.
    pub system_state: bool,
}

pub(super) struct Source {
    pub root: Arc<dyn SourceDir>,
    snapshot: Option<Box<dyn SourceSnapshot>>,
    report: Report,
}

/// What there is to say about the source at the end.
#[derive(Default)]
pub(super) struct Report {
    /// What was held still.
    pub held: Vec<String>,
    /// How many things went wrong that touch no single file.
    pub problems: u64,
}

impl Report {
    fn problem(&mut self, problem: &Problem, reporter: &Reporter) {
        self.problems += 1;
        reporter.monitor().problem(&problem.what, &problem.message);
    }
}

impl Source {
    pub fn open(wish: Wish, options: &BackupOptions, reporter: &Reporter) -> Result<Self> {
        let mut report = Report::default();
        let snapshot = match wish.when {
            _ if wish.system_state => Some(required("--system-state", wish, options, reporter)?),
            When::Off => None,
            When::On => Some(required("--use-fs-snapshot=on", wish, options, reporter)?),
            When::Auto => if_possible(wish, options, reporter, &mut report)?,
        };
        let root = match &snapshot {
            Some(snapshot) => {
                report.held = snapshot.held().to_vec();
                snapshot.root()
            }
            None => tresor_platform::source_root().context("can't open the file system")?,
        };
        Ok(Self { root, snapshot, report })
    }

    /// The backup is complete: the snapshot isn't needed any more.
    pub fn finish(self, reporter: &Reporter) -> Report {
        let mut report = self.report;
        for problem in self.snapshot.map(SourceSnapshot::finish).unwrap_or_default() {
            report.problem(&problem, reporter);
        }
        report
    }
}

fn hold(
    wish: Wish,
    options: &BackupOptions,
    reporter: &Reporter,
) -> Result<Box<dyn SourceSnapshot>, NoSnapshot> {
    let monitor = reporter.monitor();
    monitor.phase("making a snapshot of the source");
    let paths: Vec<&[u8]> = options.paths.iter().map(|path| path.0.as_slice()).collect();
    let held = tresor_platform::hold_source(&Wanted {
        paths: &paths,
        system_state: wish.system_state,
        one_file_system: options.one_file_system,
        required: wish.system_state || wish.when == When::On,
        stop: &|| monitor.progress().check().is_err(),
    });
    monitor.phase("");
    held
}

fn required(
    option: &str,
    wish: Wish,
    options: &BackupOptions,
    reporter: &Reporter,
) -> Result<Box<dyn SourceSnapshot>> {
    let snapshot = match hold(wish, options, reporter) {
        Ok(snapshot) => snapshot,
        Err(NoSnapshot::Stopped) => bail!(Error::Interrupted),
        Err(e) => bail!("{option}: {e}"),
    };
    if let Some(Problem { what, message }) = snapshot.not_held().first() {
        bail!("{option}: {what} {message}");
    }
    Ok(snapshot)
}

fn if_possible(
    wish: Wish,
    options: &BackupOptions,
    reporter: &Reporter,
    report: &mut Report,
) -> Result<Option<Box<dyn SourceSnapshot>>> {
    const LIVING: &str = "files are read as they are, and those in use may be missing";
    match hold(wish, options, reporter) {
        Ok(snapshot) => {
            for Problem { what, message } in snapshot.not_held() {
                reporter.note(&format!("{what} {message}; its {LIVING}"));
            }
            return Ok(Some(snapshot));
        }
        Err(NoSnapshot::Unknown) => {}
        Err(NoSnapshot::Stopped) => bail!(Error::Interrupted),
        Err(e @ NoSnapshot::Unavailable(_)) => {
            reporter.note(&format!("{e}; {LIVING} (--use-fs-snapshot=off: no more of this)"));
        }
        Err(NoSnapshot::Failed(why)) => {
            let message = format!("{why}; {LIVING}");
            report.problem(&Problem { what: "snapshot of the source".into(), message }, reporter);
        }
    }
    Ok(None)
}
