//! `mount --status`: what a drive has done, out of the hidden file at its root.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tresor_mountfs::STATUS_FILE;
use tresor_mountfs::system::{drive_root, is_drive};

use crate::exit::Exit;
use crate::globals::Globals;
use crate::human;
use crate::output;

/// The fields that people are told of; docs/drive.md describes all.
#[derive(Deserialize)]
struct Status {
    block_hits: u64,
    blocks_fetched: u64,
    store_reads: u64,
    bytes_read: u64,
    bytes_decoded: u64,
    inodes: u64,
    errors: u64,
    last_error: Option<String>,
    older_state: u64,
}

pub fn show(point: &Path, globals: &Globals) -> Result<Exit> {
    let shown = point.display();
    let root = drive_root(point).with_context(|| format!("can't look at {shown}"))?;
    if !is_drive(&root) {
        bail!("no drive is mounted on {shown}");
    }
    let text = std::fs::read(root.join(STATUS_FILE))
        .with_context(|| format!("the drive on {shown} doesn't answer"))?;
    if globals.json {
        let status: serde_json::Value = serde_json::from_slice(&text)?;
        output::print_json(&status)?;
        return Ok(Exit::Done);
    }
    let status: Status = serde_json::from_slice(&text)
        .with_context(|| format!("{shown} is a drive of another version of tresor"))?;
    output::print(&text_of(&status))?;
    Ok(Exit::Done)
}

fn text_of(status: &Status) -> String {
    let asked = status.block_hits + status.blocks_fetched;
    let share = if asked == 0 { 0.0 } else { 100.0 * status.block_hits as f64 / asked as f64 };
    let mut text = format!(
        "blocks:   {} fetched, {} found in the cache ({share:.1} %)\n\
         store:    {} reads, {}\n\
         decoded:  {}\n\
         inodes:   {} in use\n\
         errors:   {}\n",
        human::count(status.blocks_fetched),
        human::count(status.block_hits),
        human::count(status.store_reads),
        human::size(status.bytes_read),
        human::size(status.bytes_decoded),
        human::count(status.inodes),
        human::count(status.errors),
    );
    if let Some(last) = &status.last_error {
        text += &format!("the last: {last}\n");
    }
    if status.older_state > 0 {
        text += "the repository was set back to an older state; `tresor check` names what is missing or came back\n";
    }
    text
}
