//! Numbers and times for people.

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};
use tresor_engine::format::{Node, NodeKind, Time};

/// `512 B`, `1.5 KiB`, `2.0 GiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // What would be shown as 1024.0 is 1.0 of the next unit.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `12,345`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 file`, `2 files`.
pub fn plural(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(n), if n == 1 { one } else { many })
}

/// `0:05`, `12:34`, `1:02:03`.
pub fn clock(seconds: u64) -> String {
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if h > 0 { format!("{h}:{m:02}:{s:02}") } else { format!("{m}:{s:02}") }
}

/// How long something took: `0.4 s`, `12:34`.
pub fn duration(seconds: f64) -> String {
    if seconds < 60.0 { format!("{seconds:.1} s") } else { clock(seconds as u64) }
}

/// A time for the calendar; one outside of it becomes its first or last moment.
pub fn timestamp(time: Time) -> Timestamp {
    let limit = if time.seconds < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::new(time.seconds, time.nanos.min(999_999_999) as i32).unwrap_or(limit)
}

/// `2026-11-23 14:30:05` on the clock of a place.
pub fn time(time: Time, zone: &TimeZone) -> String {
    timestamp(time).to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// RFC 3339, with the offset of the place where it was written down.
pub fn rfc3339(time: Time, utc_offset: i32) -> String {
    let offset = Offset::from_seconds(utc_offset).unwrap_or(Offset::UTC);
    timestamp(time).display_with_offset(offset).to_string()
}

/// `drwxr-xr-x`.
pub fn permissions(node: &Node) -> String {
    let kind = match node.kind {
        NodeKind::File => '-',
        NodeKind::Directory => 'd',
        NodeKind::Symlink => 'l',
        NodeKind::Fifo => 'p',
        NodeKind::Socket => 's',
        NodeKind::CharDevice => 'c',
        NodeKind::BlockDevice => 'b',
    };
    let mut text = String::from(kind);
    for (shift, special, with, without) in
        [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')]
    {
        let bits = node.mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (node.mode & special != 0, bits & 1 != 0) {
            (true, true) => with,
            (true, false) => without,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// Mode, owner, size and time.
pub fn facts(node: &Node, zone: &TimeZone) -> String {
    let name =
        |name: &Option<String>, id: u32| name.as_deref().map_or_else(|| id.to_string(), foreign);
    let length = match (node.kind, node.device) {
        (NodeKind::File, _) => size(node.size),
        (_, Some(device)) => format!("{}, {}", major(device), minor(device)),
        _ => "-".into(),
    };
    format!(
        "{}  {:<8}  {:<8}  {length:>10}  {}",
        permissions(node),
        name(&node.user, node.uid),
        name(&node.group, node.gid),
        time(node.mtime, zone),
    )
}

// As Linux' `makedev` puts them together.
fn major(device: u64) -> u64 {
    device >> 8 & 0xfff | device >> 32 & 0xffff_f000
}

fn minor(device: u64) -> u64 {
    device & 0xff | device >> 12 & 0xffff_ff00
}

/// A text that a client wrote down, such as a host or a tag, without what drives a terminal.
pub fn foreign(text: &str) -> String {
    tresor_engine::format::display_name(text.as_bytes())
}

/// Cuts a text to a width in characters.
pub fn fit(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_counts() {
        let sizes = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (1_048_570, "1.0 MiB"),
            (3 << 30, "3.0 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ];
        for (n, text) in sizes {
            assert_eq!(size(n), text);
        }
        let counts = [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")];
        for (n, text) in counts {
            assert_eq!(count(n), text);
        }
        assert_eq!(plural(1, "file", "files"), "1 file");
        assert_eq!([clock(5), clock(754), clock(3723)], ["0:05", "12:34", "1:02:03"]);
    }

    #[test]
    fn times_have_an_offset() {
        let t = Time::new(1_795_436_405, 500_000_000);
        assert_eq!(rfc3339(t, 3600), "2026-11-23T13:20:05.5+01:00");
        assert_eq!(rfc3339(t, 0), "2026-11-23T12:20:05.5+00:00");
        assert_eq!(time(t, &TimeZone::UTC), "2026-11-23 12:20:05");
        assert!(rfc3339(Time::new(i64::MAX, u32::MAX), i32::MAX).starts_with("9999-"));
    }

    #[test]
    fn modes_as_letters() {
        let mut node = Node::new("x", NodeKind::Directory);
        node.mode = 0o1777;
        assert_eq!(permissions(&node), "drwxrwxrwt");
        node.kind = NodeKind::File;
        node.mode = 0o6754;
        assert_eq!(permissions(&node), "-rwsr-sr--");
        node.mode = 0o4644;
        assert_eq!(permissions(&node), "-rwSr--r--");
    }

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(fit("äöü", 3), "äöü");
        assert_eq!(fit("äöüx", 3), "äö…");
    }
}
