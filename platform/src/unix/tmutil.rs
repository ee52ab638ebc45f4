//! What `tmutil` says of snapshots.

/// `2026-11-29-123456`, which names what `tmutil localsnapshot` has made.
pub(super) fn date(said: &str) -> Option<&str> {
    const SHAPE: &[u8] = b"dddd-dd-dd-dddddd";
    let is_date = |word: &&str| {
        word.len() == SHAPE.len()
            && word.bytes().zip(SHAPE).all(|(byte, shape)| match shape {
                b'd' => byte.is_ascii_digit(),
                _ => byte == *shape,
            })
    };
    said.split_whitespace().find(is_date)
}

/// The snapshot of that date among those that `tmutil listlocalsnapshots` names.
pub(super) fn name<'a>(listed: &'a str, date: &str) -> Option<&'a str> {
    let is_it = |name: &&str| {
        let rest = name.strip_prefix("com.apple.TimeMachine.").and_then(|n| n.strip_prefix(date));
        matches!(rest, Some("" | ".local"))
    };
    listed.lines().map(str::trim).find(is_it)
}

/// The paths of `/usr/share/firmlinks`: folders of `/` that lie on the volume of data.
pub(super) fn firmlinks(listed: &str) -> impl Iterator<Item = &str> {
    let paths = listed.lines().filter_map(|line| line.split('\t').next());
    paths.filter(|path| path.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said() {
        let said = "NOTE: local snapshots are considered purgeable and may be removed at any time by deleted(8).\n\
                    Created local snapshot with date: 2026-11-29-123456\n";
        assert_eq!(date(said), Some("2026-11-29-123456"));
        assert_eq!(date("Failed to create local snapshot: 2026-11-29"), None);
        assert_eq!(date("2026-11-29 123456 2026-11-29-12345x"), None);

        let listed = "Snapshots for disk /System/Volumes/Data:\n\
                      com.apple.TimeMachine.2026-11-29-113456.local\n\
                      com.apple.os.update-2026-11-29-123456\n\
                      com.apple.TimeMachine.2026-11-29-123456.local\n";
        let of = |date| name(listed, date);
        let found = Some("com.apple.TimeMachine.2026-11-29-123456.local");
        assert_eq!(of("2026-11-29-123456"), found);
        assert_eq!(of("2026-11-29-123457"), None);
        assert_eq!(of("2026-11-29-12345"), None);
        assert_eq!(
            name("com.apple.TimeMachine.2018-01-02-030405", "2018-01-02-030405").map(str::len),
            Some(39)
        );
    }

    #[test]
    fn folders_on_the_volume_of_data() {
        let listed = "/Applications\tApplications\n/Users\tUsers\n\n/usr/local\tusr/local\n";
        assert_eq!(
            firmlinks(listed).collect::<Vec<_>>(),
            ["/Applications", "/Users", "/usr/local"]
        );
    }
}
