//! The progress line: numbers in, text out.

use serde::Serialize;

use crate::human;

/// Where an operation stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Numbers {
    /// Seconds since the start.
    pub elapsed: f64,
    pub entries: u64,
    pub bytes: u64,
    /// What is expected; 0 if not known.
    pub entries_total: u64,
    pub bytes_total: u64,
    /// Whether that is only a guess.
    pub estimated: bool,
    /// Bytes in a second, of late.
    pub rate: f64,
}

/// What dealing with an entry costs, in bytes of content.
const ENTRY_COST: f64 = 16384.0;
/// Before this much is done, the time left can't be told.
const EARLY: f64 = 0.005;

impl Numbers {
    /// Which part is done, if it is known what is to do.
    pub fn fraction(&self) -> Option<f64> {
        let work = |entries: u64, bytes: u64| entries as f64 * ENTRY_COST + bytes as f64;
        let total = work(self.entries_total, self.bytes_total);
        let part = work(self.entries, self.bytes) / total;
        (total > 0.0).then_some(part).filter(|part| *part < 1.0)
    }

    /// Seconds left, if that can be told.
    pub fn remaining(&self) -> Option<f64> {
        let done = self.fraction().filter(|done| *done > EARLY)?;
        Some(self.elapsed / done * (1.0 - done))
    }

    /// One line of at most `width` characters. What matters least goes first if it doesn't fit.
    pub fn render(&self, noun: (&str, &str), phase: &str, width: usize) -> String {
        let line = [(true, true), (false, true), (false, false)]
            .map(|(rate, total)| self.parts(noun, phase, rate, total).join("  "));
        let fits = line.iter().find(|line| line.chars().count() <= width);
        human::fit(fits.unwrap_or(&line[2]), width)
    }

    fn parts(&self, noun: (&str, &str), phase: &str, rate: bool, total: bool) -> Vec<String> {
        let about = if self.estimated { "~" } else { "" };
        let mut parts = vec![format!("[{}]", human::clock(self.elapsed as u64))];
        if let Some(done) = self.fraction() {
            parts.push(format!("{about}{:.0}%", (done * 100.0).floor()));
        }
        if self.entries > 0 {
            parts.push(human::plural(self.entries, noun.0, noun.1));
        }
        if self.bytes > 0 {
            let all = self.fraction().map(|_| self.bytes_total).filter(|all| total && *all > 0);
            let of = all.map(|all| format!(" of {about}{}", human::size(all)));
            parts.push(human::size(self.bytes) + &of.unwrap_or_default());
        }
        if self.bytes > 0 && rate {
            parts.push(format!("{}/s", human::size(self.rate as u64)));
        }
        if let Some(left) = self.remaining() {
            parts.push(format!("{about}{} left", human::clock(left.ceil() as u64)));
        }
        if !phase.is_empty() {
            parts.push(phase.to_owned());
        }
        parts
    }

    pub fn status<'a>(&self, phase: &'a str) -> Status<'a> {
        let known = |n: u64| (n > 0).then_some(n);
        Status {
            message_type: "status",
            seconds_elapsed: self.elapsed,
            seconds_remaining: self.remaining(),
            percent_done: self.fraction().map(|f| f * 100.0),
            entries_done: self.entries,
            bytes_done: self.bytes,
            entries_total: known(self.entries_total),
            bytes_total: known(self.bytes_total),
            totals_are_estimates: self.estimated,
            phase,
        }
    }
}

#[derive(Serialize)]
pub struct Status<'a> {
    message_type: &'static str,
    seconds_elapsed: f64,
    seconds_remaining: Option<f64>,
    percent_done: Option<f64>,
    entries_done: u64,
    bytes_done: u64,
    entries_total: Option<u64>,
    bytes_total: Option<u64>,
    totals_are_estimates: bool,
    phase: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: (&str, &str) = ("file", "files");

    #[test]
    fn the_line_tells_what_is_known_and_fits() {
        let mut n = Numbers { elapsed: 65.2, ..Numbers::default() };
        assert_eq!(n.render(FILES, "listing", 80), "[1:05]  listing");
        (n.entries, n.bytes, n.rate) = (1, 3 << 20, 1024.0);
        assert_eq!(n.render(FILES, "", 80), "[1:05]  1 file  3.0 MiB  1.0 KiB/s");
        (n.entries_total, n.bytes_total, n.estimated) = (2, 6 << 20, true);
        let all = "[1:05]  ~50%  1 file  3.0 MiB of ~6.0 MiB  1.0 KiB/s  ~1:06 left";
        assert_eq!(n.render(FILES, "", 80), all);
        let less = "[1:05]  ~50%  1 file  3.0 MiB of ~6.0 MiB  ~1:06 left";
        assert_eq!(n.render(FILES, "", all.len() - 1), less);
        let least = "[1:05]  ~50%  1 file  3.0 MiB  ~1:06 left";
        assert_eq!(n.render(FILES, "", less.len() - 1), least);
        assert_eq!(n.render(FILES, "", 20).chars().count(), 20);
    }

    #[test]
    fn more_than_expected_is_no_percentage() {
        let n = Numbers { elapsed: 9.0, bytes: 200, bytes_total: 100, ..Numbers::default() };
        assert_eq!((n.fraction(), n.remaining()), (None, None));
        assert_eq!(n.render(FILES, "", 80), "[0:09]  200 B  0 B/s");
    }
}
