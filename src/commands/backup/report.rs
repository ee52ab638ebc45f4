//! What a backup says at its end.

use std::fmt::Write;
use std::io::ErrorKind;

use anyhow::Result;
use serde::Serialize;
use tresor_engine::archiver::{BackupOptions, Outcome};
use tresor_engine::repo::Repository;

use super::source;
use crate::exit::Exit;
use crate::globals::Globals;
use crate::human::{self, plural, size};
use crate::{json, output};

#[derive(Serialize)]
struct Summary<'a> {
    message_type: &'static str,
    dry_run: bool,
    snapshot_id: Option<String>,
    parent: Option<String>,
    time: String,
    older_state: bool,
    packs_lost: u64,
    index_damaged: u64,
    packs_damaged: u64,
    snapshots_damaged: u64,
    fs_snapshot: &'a [String],
    source_problems: u64,
    left_out: u64,
    #[serde(flatten)]
    summary: json::Summary,
}

/// What there is to say.
pub(super) struct Report<'a> {
    pub outcome: &'a Outcome,
    pub options: &'a BackupOptions,
    pub source: source::Report,
    /// How many entries the system says are not to be backed up.
    pub left_out: u64,
    /// Snapshots that can't be read.
    pub snapshots_damaged: u64,
}

pub(super) fn print(repo: &Repository, report: &Report, globals: &Globals) -> Result<Exit> {
    let Report { outcome, options, source, left_out, snapshots_damaged } = report;
    let older_state = !repo.setback().is_empty();
    let printed = if globals.json {
        let data = &outcome.data;
        output::print_json(&Summary {
            message_type: "summary",
            dry_run: options.dry_run,
            snapshot_id: outcome.snapshot.map(|id| id.to_string()),
            parent: options.parent.as_ref().map(|p| p.id.to_string()),
            time: human::rfc3339(data.time, data.utc_offset),
            older_state,
            packs_lost: outcome.damage.packs_lost,
            index_damaged: outcome.damage.index_damaged,
            packs_damaged: outcome.damage.packs_damaged,
            snapshots_damaged: *snapshots_damaged,
            fs_snapshot: &source.held,
            source_problems: source.problems,
            left_out: *left_out,
            summary: json::Summary::new(&data.summary),
        })
    } else if globals.wants_text() {
        output::print(&text(report, older_state))
    } else {
        Ok(())
    };
    match printed {
        // What was saved is saved, whoever hears of it.
        Err(e) if outcome.snapshot.is_some() && e.kind() != ErrorKind::BrokenPipe => {
            output::complain(&format!(
                "the snapshot is saved, but its summary can't be printed: {e}"
            ));
        }
        printed => printed?,
    }
    let damaged = outcome.damage.count() + snapshots_damaged;
    let errors = outcome.data.summary.errors + damaged + source.problems;
    Ok(Exit::unless(errors + u64::from(older_state)))
}

fn text(report: &Report, older_state: bool) -> String {
    let Report { outcome, options, source, left_out, snapshots_damaged } = report;
    let s = &outcome.data.summary;
    let [new, changed, same] = [s.files_new, s.files_changed, s.files_unchanged].map(human::count);
    let mut text = String::new();
    let parent = match &options.parent {
        Some(parent) => format!("compared with {}", parent.id.short()),
        None => "every file was read".into(),
    };
    let added = if options.dry_run { "would be added" } else { "added" };
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{:<16}{value}", format!("{name}:"));
    };
    line("files", format!("{new} new, {changed} changed, {same} unchanged ({parent})"));
    line("directories", human::count(s.directories));
    if s.others > 0 {
        line("others", format!("{} (links, sockets, devices)", human::count(s.others)));
    }
    let files = plural(s.files, "file", "files");
    line("processed", format!("{files}, {} in {}", size(s.bytes), human::duration(s.seconds)));
    line(added, format!("{}, {} stored", size(s.bytes_added), size(s.bytes_stored)));
    if !source.held.is_empty() {
        line("read from", format!("a snapshot of {}", source.held.join(", ")));
    }
    if *left_out > 0 {
        let what = plural(*left_out, "entry", "entries");
        line("left out", format!("{what}, as the system says (-v names them)"));
    }
    if s.errors > 0 {
        let what = plural(s.errors, "problem", "problems");
        line("not all saved", format!("{what}, named above; everything else is in the snapshot"));
    }
    if source.problems > 0 {
        let what = plural(source.problems, "problem", "problems");
        line("source", format!("{what} with holding it still, named above"));
    }
    if outcome.damage.count() + snapshots_damaged > 0 {
        line(
            "warning",
            "the repository is damaged, see above; what this backup needs is there".into(),
        );
    }
    if older_state {
        line("warning", "the repository was set back to an older state, see above".into());
    }
    let _ = match outcome.snapshot {
        Some(id) => writeln!(text, "snapshot {} saved", id.short()),
        None => writeln!(text, "dry run: nothing was stored"),
    };
    text
}
