//! What people write: patterns, snapshots, sizes, times, options of `mount`.

use std::ffi::OsString;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use jiff::tz::TimeZone;
use tresor_engine::exclude::Patterns;
use tresor_engine::format::{BlobId, ObjectId, SnapshotData, Time};
use tresor_engine::maintenance::Subset;
use tresor_engine::maintenance::retention::{Age, GroupBy, UNLIMITED, parse_count};
use tresor_engine::repo::Snapshot;
use tresor_engine::select::{SnapshotFilter, SnapshotSpec, select, split_path, time_name};

use crate::mount_helper::{Request, request};
use crate::parse;

/// A file of patterns. The last one that says something about a path decides.
pub fn patterns(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut all = Patterns::default();
    let added = all.add_file(text);
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    let lines: Vec<_> =
        lines.into_iter().filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
    // Without the `!` that takes back; a second one is part of the name.
    let one = |line: &str| match line.strip_prefix('!') {
        Some(rest) if rest.starts_with('!') => Patterns::new([format!("\\{rest}")]),
        rest => Patterns::new([rest.unwrap_or(line).to_owned()]),
    };
    let Ok(each) = lines.iter().map(|l| one(l)).collect::<Result<Vec<_>, _>>() else {
        assert!(added.is_err());
        return;
    };
    assert!(added.is_ok());
    let as_path = [b"/", input].concat();
    let paths: [&[u8]; 6] = [b"/", b"/a/b.o", b"/tmp/x\xff\n", b"/a/b/c/d/e", &as_path, input];
    for path in paths {
        for is_dir in [false, true] {
            let last = lines.iter().zip(&each).rev().find(|(_, p)| p.matches(path, is_dir));
            let expected = last.is_some_and(|(line, _)| !line.starts_with('!'));
            assert_eq!(all.matches(path, is_dir), expected, "{path:?}");
        }
    }
}

const NOW: Time = Time { seconds: 1_800_000_000, nanos: 0 };

static SNAPSHOTS: LazyLock<Vec<Snapshot>> = LazyLock::new(|| {
    let times =
        [-62_135_596_800, -1, 0, 1_700_000_000, 1_795_436_405, 1_795_436_406, 253_402_000_000];
    times.iter().map(|t| snapshot(*t)).collect()
});

fn snapshot(seconds: i64) -> Snapshot {
    let time = Time::new(seconds, 999_999_999);
    let data = SnapshotData { host: "host".into(), ..SnapshotData::new(time, BlobId([0; 32])) };
    let id = ObjectId::of(&seconds.to_le_bytes());
    Snapshot { id, data: Arc::new(data) }
}

/// `SPEC[:PATH]`.
pub fn snapshot_spec(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (spec, path) = split_path(&text);
    match path {
        Some(path) => assert_eq!(format!("{spec}:{path}"), text),
        None => assert_eq!(spec, text),
    }
    for zone in [TimeZone::UTC, TimeZone::get("Europe/Berlin").unwrap_or(TimeZone::UTC)] {
        let Ok(parsed) = SnapshotSpec::parse(spec, &zone) else { continue };
        let found = select(&SNAPSHOTS, &SnapshotFilter::default(), &parsed, NOW);
        let found = found.map(|selected| selected.snapshot);
        match &parsed {
            SnapshotSpec::Latest(back) => {
                assert!(spec.starts_with("latest"));
                // The last one lies ahead.
                let place = SNAPSHOTS.len().checked_sub(2 + *back as usize);
                assert_eq!(found.ok().map(|s| s.id), place.map(|p| SNAPSHOTS[p].id));
            }
            SnapshotSpec::Prefix(prefix) => {
                assert_eq!(prefix, spec);
                let found = found.ok().map(|s| s.id.to_string());
                assert!(found.is_none_or(|id| id.starts_with(spec)));
            }
            SnapshotSpec::Date(_) if spec.starts_with(|c: char| c.is_ascii_digit()) => {
                assert_eq!(found.ok().map(|s| s.id), last_up_to(spec, &zone));
            }
            SnapshotSpec::Date(_) => assert!(matches!(spec, "today" | "yesterday")),
        }
    }
}

/// Times written with all digits come in the order of their letters.
fn last_up_to(spec: &str, zone: &TimeZone) -> Option<ObjectId> {
    let spec = spec.replace('T', " ").replace(':', ".");
    let mut of_zone = SNAPSHOTS.iter().map(|s| (s, time_name(s.data.time, zone))).rev();
    let found = of_zone.find(|(_, name)| name.as_bytes()[..spec.len()] <= *spec.as_bytes());
    found.map(|(s, _)| s.id)
}

/// Whatever an option takes, one after the other.
pub fn arguments(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Ok(size) = parse::size(&text) {
        check_size(&text, size);
    }
    if let Ok(percent) = parse::percent(&text) {
        assert!((0.0..=100.0).contains(&percent));
    }
    match parse::subset(&text) {
        Ok(Subset::Part { part, of }) => assert!((1..=of).contains(&part)),
        Ok(Subset::Percent(percent)) => assert!((0.0..=100.0).contains(&percent)),
        Ok(Subset::Bytes(bytes)) => assert_eq!(parse::size(&text), Ok(bytes)),
        Err(_) => {}
    }
    if let Ok(length) = parse::length(&text) {
        assert_eq!(length.subsec_nanos(), 0);
        assert_eq!(parse::length(&format!("{}s", length.as_secs())), Ok(length));
        assert!(text == "0" || length >= Duration::ZERO && text.is_ascii());
    }
    if let Ok(time) = parse::local_time(&text) {
        crate::objects::check_time(parse::engine_time(&time));
    }
    for tag in parse::tags(&[text.to_string()]) {
        assert!(!tag.is_empty() && !tag.contains(',') && tag.trim() == tag);
    }
    assert_eq!(parse::tag_lists(&[text.to_string()]).len(), 1);
    if let Ok(age) = text.parse::<Age>() {
        assert_eq!(age.to_string().parse::<Age>().unwrap(), age);
    }
    let _ = text.parse::<GroupBy>();
    if let Ok(count) = parse_count(&text) {
        assert!(
            count.to_string() == text.trim_start_matches(['+', '0'])
                || count == 0
                || count == UNLIMITED
        );
    }
    if let Ok(id) = text.parse::<ObjectId>() {
        assert_eq!(id.to_string(), text);
    }
}

/// A size is what it says, and not the most that a number holds.
fn check_size(text: &str, size: u64) {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c.is_whitespace());
    let unit = text[digits.len()..].trim().to_ascii_lowercase();
    let power = ["k", "m", "g", "t"].iter().position(|u| unit.starts_with(u)).map_or(0, |p| p + 1);
    let bytes: f64 = digits.parse::<f64>().unwrap() * 1024f64.powi(power as i32);
    assert!(bytes < 2f64.powi(64), "{text:?} is more than there can be, and not {size}");
    assert!((bytes - size as f64).abs() <= 1.0 + bytes / 1e15, "{text:?} is {size}");
}

/// The words of `mount.fuse.tresor`, with zeros between them.
pub fn mount_options(input: &[u8]) {
    let words = input.split(|b| *b == 0).map(word);
    let asked = request(std::iter::once("/sbin/mount.fuse.tresor".into()).chain(words));
    let Some(Ok(Request::Mount(line))) = asked else { return };
    // What isn't ours to say stands where nobody takes it for an option.
    let end = line.iter().position(|w| w == "--").unwrap();
    assert!((2..=3).contains(&(line.len() - end)));
    assert_eq!(line[..3], ["tresor", "mount", "--background"].map(OsString::from));
    let repo = line.iter().position(|w| w == "--repo").unwrap();
    assert_eq!(repo + 2, end);
    assert!(line[3..repo].iter().all(|w| w.as_encoded_bytes().starts_with(b"--")));
}

#[cfg(unix)]
fn word(bytes: &[u8]) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(bytes.to_vec())
}

#[cfg(not(unix))]
fn word(bytes: &[u8]) -> OsString {
    String::from_utf8_lossy(bytes).into_owned().into()
}
