//! What has become of the writers: programs that hold their files still.

use std::collections::BTreeMap;

use windows_sys::core::HRESULT;

use super::error;
use super::session::Writer;
use crate::snapshot::Problem;

/// What `VSS_WRITER_STATE` says of one that failed.
fn moment(state: i32) -> Option<&'static str> {
    Some(match state {
        6 => "when it was asked what it has",
        7 => "when it was to prepare for the backup",
        8 => "when it was to prepare for the shadow copy",
        9 => "when it was to hold its files still",
        10 => "when it was to go on with its work",
        11 => "when the shadow copy had been made",
        12 => "when the backup was complete",
        13..=15 => "in an earlier backup or restore",
        _ => return None,
    })
}

/// Writers that failed. One goes on being in that state, so the first time counts.
#[derive(Default)]
pub(super) struct Failures(BTreeMap<String, String>);

impl Failures {
    pub fn add(&mut self, writers: Vec<Writer>) {
        for writer in writers {
            if let Some(message) = message(writer.state, writer.failure) {
                self.0.entry(writer.name).or_insert(message);
            }
        }
    }

    pub fn into_problems(self) -> impl Iterator<Item = Problem> {
        self.0
            .into_iter()
            .map(|(name, message)| Problem { what: format!("VSS writer {name}"), message })
    }
}

fn message(state: i32, failure: HRESULT) -> Option<String> {
    let moment = moment(state);
    if moment.is_none() && failure >= 0 {
        return None;
    }
    let moment = moment.map_or(String::new(), |m| format!(" {m}"));
    let why = if failure < 0 { format!(": {}", error::describe(failure)) } else { String::new() };
    Some(format!("failed{moment}{why}; its files are saved as a power cut would have left them"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(name: &str, state: i32, failure: u32) -> Writer {
        Writer { name: name.into(), state, failure: failure as HRESULT }
    }

    #[test]
    fn the_first_failure_of_each_counts() {
        let mut failures = Failures::default();
        failures.add(vec![writer("fine", 1, 0), writer("SQL", 9, 0x8004_23f2)]);
        failures.add(vec![
            writer("fine", 5, 0),
            writer("SQL", 12, 0),
            writer("odd", 5, 0x8004_23f4),
        ]);
        let problems: Vec<_> = failures.into_problems().collect();
        assert_eq!(problems.len(), 2);
        assert_eq!(problems[0].what, "VSS writer SQL");
        assert!(
            problems[0].message.starts_with("failed when it was to hold its files still: it took")
        );
        assert!(problems[1].message.contains("0x800423f4"));
    }
}
