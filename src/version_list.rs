//! Versions of entries, as `find` and `versions` list them.

use std::io::{self, IsTerminal, Write};

use anyhow::Result;
use jiff::tz::TimeZone;
use serde::Serialize;
use tresor_engine::format::{Node, display_name};
use tresor_engine::history::Missed;
use tresor_engine::repo::Snapshot;

use crate::exit::Exit;
use crate::globals::Globals;
use crate::output::{self, Out, json_line};
use crate::{human, json};

#[derive(Serialize)]
struct Version {
    #[serde(flatten)]
    entry: json::Entry,
    snapshots: Vec<String>,
}

/// Writes versions as they are found.
pub struct VersionList<'a> {
    out: Out,
    json: bool,
    long: bool,
    zone: TimeZone,
    snapshots: &'a [Snapshot],
    /// The path whose versions are being listed.
    last: Option<Vec<u8>>,
    found: u64,
}

impl<'a> VersionList<'a> {
    /// `snapshots`: those that the numbers given to `version` are of.
    pub fn new(snapshots: &'a [Snapshot], long: bool, globals: &Globals) -> Self {
        let (json, zone) = (globals.json, TimeZone::system());
        Self { out: output::out(), json, long, zone, snapshots, last: None, found: 0 }
    }

    /// Writes what is left; says so if nothing was found, and where there may be more.
    pub fn finish(mut self, missed: &[Missed], globals: &Globals) -> Result<Exit> {
        self.out.flush()?;
        for Missed { path, snapshots, error } in missed {
            let holders: Vec<_> = snapshots.iter().filter_map(|n| self.snapshots.get(*n)).collect();
            let (path, holders) = (display_name(path), named(&holders));
            output::complain(&format!("can't look into {path} in {holders}: {error}"));
        }
        if self.found == 0 && missed.is_empty() && globals.wants_text() {
            output::complain(&format!("nothing found in {}", snapshots_of(self.snapshots.len())));
        }
        Ok(Exit::unless(missed.len() as u64))
    }

    /// One version of an entry, and the numbers of the snapshots that hold it.
    pub fn version(&mut self, path: &[u8], node: &Node, holders: &[usize]) -> Result<()> {
        self.found += 1;
        let all = self.snapshots;
        let holders: Vec<&Snapshot> = holders.iter().filter_map(|n| all.get(*n)).collect();
        if self.json {
            let snapshots = holders.iter().map(|s| s.id.to_string()).collect();
            let version = Version { entry: json::Entry::new(path, node), snapshots };
            json_line(&mut self.out, &version)?;
        } else {
            self.version_text(path, node, &holders)?;
        }
        // Results are seen as they come.
        if io::stdout().is_terminal() {
            self.out.flush()?;
        }
        Ok(())
    }

    fn version_text(&mut self, path: &[u8], node: &Node, holders: &[&Snapshot]) -> Result<()> {
        if self.last.as_deref() != Some(path) {
            writeln!(self.out, "{}", display_name(path))?;
            self.last = Some(path.to_vec());
        }
        if self.long {
            writeln!(self.out, "  {}", human::facts(node, &self.zone))?;
            for s in holders {
                let time = human::time(s.data.time, &self.zone);
                writeln!(
                    self.out,
                    "      in {}  {time}  {}",
                    s.id.short(),
                    human::foreign(&s.data.host)
                )?;
            }
            return Ok(());
        }
        let size = if node.is_file() { human::size(node.size) } else { "-".into() };
        let time = human::time(node.mtime, &self.zone);
        writeln!(self.out, "  {time}  {size:>10}  in {}", named(holders))?;
        Ok(())
    }
}

/// `1a2b3c4d`, or how many snapshots, with the oldest and the newest.
fn named(holders: &[&Snapshot]) -> String {
    match holders {
        [] => "no snapshot".into(),
        [first, .., last] if holders.len() > 4 => {
            format!("{}: {} … {}", snapshots_of(holders.len()), first.id.short(), last.id.short())
        }
        few => few.iter().map(|s| s.id.short()).collect::<Vec<_>>().join(", "),
    }
}

fn snapshots_of(n: usize) -> String {
    human::plural(n as u64, "snapshot", "snapshots")
}
