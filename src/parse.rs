//! Sizes, lengths of time and the like, as people type them.

use std::time::Duration;

use jiff::Zoned;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use tresor_engine::format::{ParityShare, Time};
use tresor_engine::maintenance::{MaxUnused, Subset};
use tresor_engine::select::start_of;

/// `1500`, `100K`, `1.5GiB`: units are powers of 1024.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size: write a number with K, M, G or T, like 500M");
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(wrong()),
    };
    let bytes = number * (1u64 << shift) as f64;
    // `as` would make the largest number of a larger one.
    if bytes < 2f64.powi(64) { Ok(bytes as u64) } else { Err(wrong()) }
}

/// `5%` or `5`.
pub fn percent(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.strip_suffix('%').unwrap_or(text).trim().parse().ok();
    number
        .filter(|n| (0.0..=100.0).contains(n))
        .ok_or_else(|| format!("{text:?} is no percentage: write a number from 0 to 100, like 5%"))
}

/// How much parity: `5%`.
pub fn parity(text: &str) -> Result<ParityShare, String> {
    let thousandths = (percent(text)? * 10.0).round() as u32;
    ParityShare::new(thousandths)
        .ok_or_else(|| format!("{text:?} is too little: write a percentage from 0.1% to 100%"))
}

/// As before sizes could be given: a bare number is a percentage, too.
fn is_percentage(text: &str) -> bool {
    text.contains('%') || text.parse::<f64>().is_ok()
}

/// How much may stay unused: `5%`, `10G`, `unlimited`.
pub fn max_unused(text: &str) -> Result<MaxUnused, String> {
    if text.eq_ignore_ascii_case("unlimited") {
        return Ok(MaxUnused::Unlimited);
    }
    if is_percentage(text) {
        return percent(text).map(MaxUnused::Percent);
    }
    size(text).map(MaxUnused::Bytes).map_err(|_| {
        format!("{text:?} is no amount: write a percentage like 5%, a size like 10G, or unlimited")
    })
}

/// Which packs to read: `5%`, `2/7`, `10G`.
pub fn subset(text: &str) -> Result<Subset, String> {
    let wrong = || {
        format!(
            "{text:?} names no part: write a percentage like 5%, a part like 2/7, or a size like 10G"
        )
    };
    if is_percentage(text) {
        return percent(text).map(Subset::Percent);
    }
    let Some((part, of)) = text.split_once('/') else {
        return size(text).map(Subset::Bytes).map_err(|_| wrong());
    };
    let (part, of) =
        (part.trim().parse().map_err(|_| wrong())?, of.trim().parse().map_err(|_| wrong())?);
    if part == 0 || part > of {
        return Err(format!("{text:?}: parts are counted from 1 to {of}"));
    }
    Ok(Subset::Part { part, of })
}

/// `24h`, `7d`, `1d12h`, `0`.
pub fn length(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no length of time: write it like 24h, 7d, 1d12h or 30m");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut seconds = 0u64;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..end].parse().map_err(|_| wrong())?;
        let unit = match rest.as_bytes()[end] {
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86400,
            b'w' => 7 * 86400,
            _ => return Err(wrong()),
        };
        seconds =
            number.checked_mul(unit).and_then(|s| s.checked_add(seconds)).ok_or_else(wrong)?;
        rest = &rest[end + 1..];
    }
    if text.is_empty() { Err(wrong()) } else { Ok(Duration::from_secs(seconds)) }
}

/// `2026-11-23 14:30:05` on the clock of this place.
pub fn local_time(text: &str) -> Result<Zoned, String> {
    let wrong = || format!("{text:?} is no time: write it like \"2026-11-23 14:30:05\"");
    let time = DateTime::strptime("%Y-%m-%d %H:%M:%S", text)
        .or_else(|_| DateTime::strptime("%Y-%m-%dT%H:%M:%S", text))
        .map_err(|_| wrong())?;
    time.to_zoned(TimeZone::system()).map_err(|_| wrong())
}

/// Since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    Time(Time),
    /// So many seconds before now, by whatever clock counts.
    Ago(i64),
}

impl Since {
    pub fn at(self, now: Time) -> Time {
        match self {
            Self::Time(time) => time,
            Self::Ago(seconds) => Time::new(now.seconds.saturating_sub(seconds), 0),
        }
    }
}

/// A time, or how long ago: `2d`, `2026-11-23 14:30:05`.
pub fn since(text: &str) -> Result<Since, String> {
    if let Ok(ago) = length(text) {
        return Ok(Since::Ago(i64::try_from(ago.as_secs()).unwrap_or(i64::MAX)));
    }
    let time = start_of(text, &TimeZone::system());
    time.map(Since::Time).ok_or_else(|| {
        format!("{text:?} is no time: write how long ago, like 2d or 36h, or a day or time like 2026-11-23 or 2026-11-23T14:30")
    })
}

pub fn engine_time(time: &Zoned) -> Time {
    let time = time.timestamp();
    Time::new(time.as_second(), time.subsec_nanosecond().max(0) as u32)
}

/// Comma lists of tags, joined: without doubles, in order.
pub fn tags(lists: &[String]) -> Vec<String> {
    let words = lists.iter().flat_map(|list| list.split(',')).map(str::trim);
    let mut tags: Vec<_> = words.filter(|t| !t.is_empty()).map(str::to_owned).collect();
    tags.sort_unstable();
    tags.dedup();
    tags
}

/// Each option is a list of tags that a snapshot must all have.
pub fn tag_lists(lists: &[String]) -> Vec<Vec<String>> {
    lists.iter().map(|list| list.split(',').map(|t| t.trim().to_owned()).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let good =
            [("0", 0), ("1500", 1500), ("10k", 10 << 10), ("1.5GiB", 3 << 29), ("2 M", 2 << 20)];
        for (text, bytes) in good {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "x", "-1", "1X", "1..2", "M", "99999999999999999999", "20000000T"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn subsets() {
        assert_eq!(subset("5%"), Ok(Subset::Percent(5.0)));
        assert_eq!(subset("5"), Ok(Subset::Percent(5.0)));
        assert_eq!(subset("2/7"), Ok(Subset::Part { part: 2, of: 7 }));
        assert_eq!(subset("10M"), Ok(Subset::Bytes(10 << 20)));
        for text in ["", "0/7", "8/7", "1/0", "x", "/", "101%", "-1M", "1/x"] {
            assert!(subset(text).is_err(), "{text}");
        }
    }

    #[test]
    fn amounts_that_may_stay_unused() {
        use MaxUnused::{Bytes, Percent, Unlimited};
        let good = [
            ("5%", Percent(5.0)),
            ("0", Percent(0.0)),
            ("2.5", Percent(2.5)),
            ("10G", Bytes(10 << 30)),
            ("0b", Bytes(0)),
            ("unlimited", Unlimited),
        ];
        for (text, amount) in good {
            assert_eq!(max_unused(text), Ok(amount), "{text}");
        }
        for text in ["", "101%", "200", "-1", "-1G", "x", "NaN", "inf", "unlimited%", "5/7"] {
            assert!(max_unused(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lengths_of_time() {
        let good = [("0", 0), ("24h", 86400), ("1d12h", 129_600), ("2w", 1_209_600), ("90s", 90)];
        for (text, seconds) in good {
            assert_eq!(length(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "5", "h", "1y", "1hx", "-1h", "99999999999999999999d", "1ü"] {
            assert!(length(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_since() {
        assert_eq!((since("2h"), since("0")), (Ok(Since::Ago(7200)), Ok(Since::Ago(0))));
        assert_eq!(Since::Ago(7200).at(Time::new(10_000, 5)), Time::new(2800, 0));
        let time = engine_time(&local_time("2026-11-23 14:30:05").unwrap());
        assert_eq!(since("2026-11-23 14:30:05"), Ok(Since::Time(time)));
        let day = engine_time(&local_time("2026-11-23 00:00:00").unwrap());
        assert_eq!(since("2026-11-23"), Ok(Since::Time(day)));
        let minute = engine_time(&local_time("2026-11-23 14:30:00").unwrap());
        assert_eq!(since("2026-11-23T14:30"), Ok(Since::Time(minute)));
        assert!(since("yesterday").is_ok() && since("today").is_ok());
        assert!(since("9999999999999w").is_ok());
        for text in ["", "5", "2026-11-31", "latest", "20261123", "-2d"] {
            assert!(since(text).is_err(), "{text}");
        }
    }

    #[test]
    fn percentages_times_and_tags() {
        assert_eq!((percent("5%"), percent("0"), percent("2.5 %")), (Ok(5.0), Ok(0.0), Ok(2.5)));
        let thousandths = |text| parity(text).map(ParityShare::thousandths);
        assert_eq!(
            (thousandths("5%"), thousandths("0.1"), thousandths("100%")),
            (Ok(50), Ok(1), Ok(1000))
        );
        assert!(parity("0%").is_err() && parity("0.01%").is_err() && parity("200%").is_err());
        assert!(percent("101%").is_err() && percent("x").is_err() && percent("NaN").is_err());
        assert!(local_time("2026-11-23 14:30:05").is_ok() && local_time("2026-11-23").is_err());
        assert_eq!(tags(&["b, a".into(), "a,".into()]), ["a", "b"]);
        assert_eq!(tag_lists(&["a,b".into(), "".into()]), [vec!["a", "b"], vec![""]]);
    }
}
