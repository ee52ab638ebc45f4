//! What tells whether an entry has changed.

use tresor_engine::format::Time;

/// When an entry was last changed. Some file systems don't know: FAT on Windows says 1601, some
/// that go through FUSE 1970. Then it is when its content was.
pub(crate) fn change_time(changed: Time, written: Time) -> Time {
    if changed.seconds > 0 { changed } else { written }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_is_no_change_time_the_time_of_writing_counts() {
        let [time, written] = [Time::new(1_700_000_000, 5), Time::new(1_600_000_000, 0)];
        assert_eq!(change_time(time, written), time);
        assert_eq!(change_time(Time::new(0, 0), written), written);
        assert_eq!(change_time(Time::from_filetime(0), written), written);
    }
}
