//! What is said when a repository is not as it was seen before.

use std::fmt::Write;
use std::io;
use std::sync::Arc;

use jiff::tz::TimeZone;
use serde::Serialize;
use tresor_engine::format::ObjectId;
use tresor_engine::repo::{Notice, Setback};

use crate::human::{self, plural};
use crate::{json, output};

/// Ids that are named in words.
const NAMED: usize = 3;

/// Says what is noticed on standard error: in words, or with `--json` as a line of JSON.
pub fn teller(as_json: bool) -> Arc<dyn Fn(&Notice) + Send + Sync> {
    Arc::new(move |notice| {
        if as_json {
            // That it can't be said must not stop anything.
            let _ = output::json_line(&mut io::stderr().lock(), &Message::new(notice));
        } else {
            output::complain(&words(notice));
        }
    })
}

#[derive(Serialize)]
#[serde(tag = "message_type", rename_all = "snake_case")]
enum Message {
    OlderState {
        accepted: bool,
        snapshots_lost: Vec<Lost>,
        snapshots_put_back: Vec<String>,
        key_slots_lost: Vec<String>,
        key_slots_put_back: Vec<String>,
        damaged_records: usize,
        place: String,
        last_place: Option<String>,
        last_time: Option<String>,
    },
    NoState {
        path: String,
        kept: bool,
        message: String,
    },
}

#[derive(Serialize)]
struct Lost {
    id: String,
    time: String,
}

impl Message {
    fn new(notice: &Notice) -> Self {
        let (setback, accepted) = match notice {
            Notice::SetBack(setback) => (setback, false),
            Notice::Accepted(setback) => (setback, true),
            Notice::NoState(path, message) | Notice::NotKept(path, message) => {
                return Self::NoState {
                    path: json::path_text(path.as_os_str().as_encoded_bytes()),
                    kept: matches!(notice, Notice::NoState(..)),
                    message: message.clone(),
                };
            }
        };
        let ids = |ids: &[ObjectId]| ids.iter().map(ToString::to_string).collect();
        let lost = setback.snapshots.lost.iter();
        let keys_lost: Vec<_> = setback.key_slots.lost.iter().map(|l| l.0).collect();
        Self::OlderState {
            accepted,
            snapshots_lost: lost
                .map(|(id, time)| Lost { id: id.to_string(), time: human::rfc3339(*time, 0) })
                .collect(),
            snapshots_put_back: ids(&setback.snapshots.put_back),
            key_slots_lost: ids(&keys_lost),
            key_slots_put_back: ids(&setback.key_slots.put_back),
            damaged_records: setback.damaged_records,
            place: setback.place.clone(),
            last_place: setback.whole.as_ref().map(|whole| whole.place.clone()),
            last_time: setback.whole.as_ref().map(|whole| human::rfc3339(whole.at, 0)),
        }
    }
}

fn words(notice: &Notice) -> String {
    match notice {
        Notice::SetBack(setback) => {
            let mut text = facts(setback);
            explain(setback, &mut text);
            text
        }
        Notice::Accepted(setback) => {
            facts(setback) + " This is taken as it is from now on, as --accept-older-state says."
        }
        Notice::NoState(path, reason) => format!(
            "{}, where it is kept what this computer has seen of the repository, {reason}. It is made anew; if the repository was set back before now, that is not noticed",
            path.display()
        ),
        Notice::NotKept(path, reason) => format!(
            "what this computer sees of the repository can't be kept in {} ({reason}), so it would not notice if that was set back to an older state; choose another folder with --state-dir",
            path.display()
        ),
    }
}

/// What is otherwise than it was, a sentence for each thing.
fn facts(setback: &Setback) -> String {
    let Setback { snapshots, key_slots, .. } = setback;
    let mut all = Vec::new();
    if let Some((id, time)) = snapshots.lost.first() {
        let many = plural(snapshots.lost.len() as u64, "snapshot is", "snapshots are");
        let time = human::time(*time, &TimeZone::system());
        let newest = if snapshots.lost.len() == 1 { "it is" } else { "the newest is" };
        all.push(format!(
            "{many} gone that this computer has seen, and that nobody has forgotten ({newest} {} of {time}).",
            id.short()
        ));
    }
    if !snapshots.put_back.is_empty() {
        let many = plural(snapshots.put_back.len() as u64, "snapshot", "snapshots");
        all.push(format!(
            "{many} that had been forgotten came back: {}.",
            named(&snapshots.put_back)
        ));
    }
    if !key_slots.lost.is_empty() {
        let ids: Vec<_> = key_slots.lost.iter().map(|l| l.0).collect();
        let many = plural(ids.len() as u64, "key slot is", "key slots are");
        all.push(format!("{many} gone that nobody has removed: {}.", named(&ids)));
    }
    if !key_slots.put_back.is_empty() {
        let many = plural(key_slots.put_back.len() as u64, "key slot", "key slots");
        all.push(format!(
            "{many} that had been removed came back: {}; an old password opens the repository again (`tresor key remove` ends that).",
            named(&key_slots.put_back)
        ));
    }
    format!("{}: {}", setback.place, all.join(" "))
}

fn named(ids: &[ObjectId]) -> String {
    let mut text = ids.iter().take(NAMED).map(ObjectId::short).collect::<Vec<_>>().join(", ");
    if let Some(more) = ids.len().checked_sub(NAMED).filter(|more| *more > 0) {
        let _ = write!(text, " and {more} more");
    }
    text
}

/// What may have happened, and what to do.
fn explain(setback: &Setback, text: &mut String) {
    let elsewhere = setback.whole.as_ref().filter(|whole| whole.place != setback.place);
    match (elsewhere, &setback.whole) {
        (Some(whole), _) => {
            let _ = write!(
                text,
                " Nothing was missing on {} at {}, which has the same id. Is this an older copy of that one? Then use that one.",
                human::time(whole.at, &TimeZone::system()),
                whole.place
            );
        }
        (None, whole) => {
            let since = whole.as_ref().map(|whole| human::time(whole.at, &TimeZone::system()));
            let since = since.map(|at| format!(" after {at}")).unwrap_or_default();
            let _ = write!(
                text,
                " So{since} the repository was set back to an older state, or somebody has removed or put back files in it. If there is a newer copy, use that one."
            );
        }
    }
    if setback.damaged_records > 0 {
        text.push_str(
            " Records of what was forgotten are damaged, which may be the reason (`tresor check` names them).",
        );
    }
    text.push_str(
        " Until this is settled, forget and prune refuse to work here. If the repository shall be taken as it is, say so once with --accept-older-state.",
    );
}
