//! Lengths of time as restic writes them: `2y5m7d3h`.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use jiff::{Span, Timestamp, Zoned};

use crate::error::{Error, Result};

/// A length of time by the calendar, as in `2y5m7d3h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Age {
    pub years: u32,
    pub months: u32,
    pub days: u32,
    pub hours: u32,
}

impl Age {
    /// So long before a moment; `None` if no calendar reaches so far back. A day
    /// that a month doesn't have becomes its last.
    pub(super) fn before(&self, moment: &Zoned) -> Option<Timestamp> {
        let span = Span::new().try_years(self.years).ok()?.try_months(self.months).ok()?;
        let span = span.try_days(self.days).ok()?.try_hours(self.hours).ok()?;
        moment.checked_sub(span).ok().map(|m| m.timestamp())
    }

    fn part(&mut self, unit: char) -> Option<&mut u32> {
        match unit {
            'y' => Some(&mut self.years),
            'm' => Some(&mut self.months),
            'd' => Some(&mut self.days),
            'h' => Some(&mut self.hours),
            _ => None,
        }
    }
}

impl FromStr for Age {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::Invalid(format!(
                "{text:?} is no length of time: write years, months, days and hours like 2y5m7d3h (a week is 7d)"
            ))
        };
        let mut age = Self::default();
        let mut units = HashSet::new();
        let mut rest = text;
        while let Some(end) = rest.find(|c: char| !c.is_ascii_digit()) {
            let number = rest[..end].parse().map_err(|_| wrong())?;
            let unit = rest[end..].chars().next().filter(|u| units.insert(*u));
            *unit.and_then(|u| age.part(u)).ok_or_else(wrong)? = number;
            rest = &rest[end + 1..];
        }
        if units.is_empty() || !rest.is_empty() { Err(wrong()) } else { Ok(age) }
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { years, months, days, hours } = *self;
        if *self == Self::default() {
            return f.write_str("0h");
        }
        let parts = [(years, 'y'), (months, 'm'), (days, 'd'), (hours, 'h')];
        parts.iter().filter(|(n, _)| *n > 0).try_for_each(|(n, unit)| write!(f, "{n}{unit}"))
    }
}
