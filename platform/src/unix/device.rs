//! Device numbers of macOS, 8 bits major and 24 bits minor, and those that snapshots have,
//! which are Linux' (docs/format.md).

/// As snapshots have it.
pub(super) fn recorded(device: u32) -> u64 {
    let (major, minor) = (u64::from(device >> 24), u64::from(device & 0xff_ffff));
    (major << 8) | (minor & 0xff) | ((minor & !0xff) << 12)
}

/// `None` if macOS can't have it.
pub(super) fn own(recorded: u64) -> Option<u32> {
    let major = ((recorded >> 8) & 0xfff) | ((recorded >> 32) & !0xfff);
    let minor = (recorded & 0xff) | ((recorded >> 12) & !0xff);
    let (major, minor) = (u32::try_from(major).ok()?, u32::try_from(minor).ok()?);
    (major <= 0xff && minor <= 0xff_ffff).then_some((major << 24) | minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        // /dev/null and /dev/disk1s1 of a Mac.
        for (mac, linux) in
            [(0x0300_0002, 0x0302), (0x0100_0004, 0x0104), (0xff12_3456, 0x1_2340_ff56)]
        {
            assert_eq!(recorded(mac), linux, "{mac:x}");
            assert_eq!(own(linux), Some(mac), "{linux:x}");
        }
        for device in [0, 1, 0xff, 0x100, 0xff_ffff, 0x0100_0000, u32::MAX] {
            assert_eq!(own(recorded(device)), Some(device));
        }
    }

    #[test]
    fn what_macos_cannot_have_is_none() {
        // makedev(256, 0), makedev(0, 1 << 24), and the largest of each.
        for linux in [0x1_0000, 0x10_0000_0000, u64::MAX] {
            assert_eq!(own(linux), None, "{linux:x}");
        }
    }
}
