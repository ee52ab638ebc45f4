//! What Windows keeps about an entry beyond what a node has fields for: extended
//! attributes of these names, so that other systems can carry them (see docs/format.md).

use super::attributes::Value;
use super::node::{Node, Time};
use crate::naming::{to_utf16, windows_name};

/// `FILE_ATTRIBUTE_…`, 32 bits, little-endian.
pub const ATTRIBUTES: &[u8] = b"user.win.attributes";
/// Time of creation as Windows has it, 64 bits, little-endian.
pub const CREATED: &[u8] = b"user.win.created";
/// A self-relative security descriptor.
pub const SECURITY: &[u8] = b"user.win.security";
/// The reparse data of a link, with its head.
pub const REPARSE: &[u8] = b"user.win.reparse";
/// What the name of an alternate stream follows; the value is its content.
pub const STREAM: &[u8] = b"user.win.stream.";
/// All of them begin so.
pub const PREFIX: &[u8] = b"user.win.";

/// Ticks of 100 ns from 1601 to 1970.
const EPOCH: i64 = 116_444_736_000_000_000;
const TICKS: i64 = 10_000_000;

impl Time {
    /// From ticks of 100 ns since 1601.
    pub fn from_filetime(ticks: i64) -> Self {
        let ticks = ticks.saturating_sub(EPOCH);
        Self::new(ticks.div_euclid(TICKS), ticks.rem_euclid(TICKS) as u32 * 100)
    }

    /// The nearest that Windows can have, which has no times before 1601.
    pub fn to_filetime(self) -> i64 {
        let nanos = i64::from(self.nanos.min(999_999_999) / 100);
        let ticks = self.seconds.saturating_mul(TICKS).saturating_add(nanos);
        ticks.saturating_add(EPOCH).max(0)
    }
}

/// Reparse tag of a symlink.
pub const SYMLINK_TAG: u32 = 0xa000_000c;
/// In the reparse data of a symlink whose target doesn't begin with a drive.
pub const SYMLINK_RELATIVE: u32 = 1;
/// More than this no reparse data can be, with its two names of the target.
const MOST_TARGET: u16 = 8000;

/// The reparse data of a symlink to this path, whose names are as in snapshots. `None` if
/// Windows can't have such a link.
fn symlink_data(target: &[u8]) -> Option<Vec<u8>> {
    let own = |part: &[u8]| match part {
        b"" | b"." | b".." => part.to_vec(),
        part => windows_name(part),
    };
    let path = target.split(|b| *b == b'/').map(own).collect::<Vec<_>>().join(&b'\\');
    let name: Vec<u8> = to_utf16(&path)?.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    let len = u16::try_from(name.len()).ok().filter(|len| (1..MOST_TARGET).contains(len))?;
    let mut data = SYMLINK_TAG.to_le_bytes().to_vec();
    // The length of what follows, and nothing; then where the two names are, which are the same.
    for number in [12 + 2 * len, 0, 0, len, len, len] {
        data.extend(number.to_le_bytes());
    }
    data.extend(SYMLINK_RELATIVE.to_le_bytes());
    data.extend([name.as_slice(), &name].concat());
    Some(data)
}

impl Node {
    /// The reparse data of a link: what was recorded, or for a link from another system
    /// what leads to the same place. `None` if Windows can't have such a link.
    pub fn windows_link(&self) -> Option<Vec<u8>> {
        match self.xattr(REPARSE) {
            Some(recorded) => Some(recorded.to_vec()),
            None => symlink_data(self.target.as_deref()?),
        }
    }

    /// `None` if it is from another system.
    pub fn windows_attributes(&self) -> Option<u32> {
        Some(u32::from_le_bytes(self.xattr(ATTRIBUTES)?.try_into().ok()?))
    }

    pub fn windows_created(&self) -> Option<Time> {
        let ticks = i64::from_le_bytes(self.xattr(CREATED)?.try_into().ok()?);
        Some(Time::from_filetime(ticks))
    }

    pub fn windows_security(&self) -> Option<&[u8]> {
        self.xattr(SECURITY)
    }

    /// Names (WTF-8) and contents of alternate streams.
    pub fn windows_streams(&self) -> impl Iterator<Item = (&[u8], Value<'_>)> {
        self.attributes().filter_map(|(name, value)| Some((name.strip_prefix(STREAM)?, value)))
    }
}

/// A self-relative descriptor of the first revision, and where its parts are.
const DESCRIPTOR_REVISION: u8 = 1;
const DESCRIPTOR_HEAD: usize = 20;
const SELF_RELATIVE: u16 = 0x8000;

/// How long a security descriptor is; `None` if it isn't whole.
pub fn descriptor_len(bytes: &[u8]) -> Option<usize> {
    let control = number16(bytes, 2)?;
    let is_known = bytes[0] == DESCRIPTOR_REVISION && control & SELF_RELATIVE != 0;
    if !is_known || bytes.len() < DESCRIPTOR_HEAD {
        return None;
    }
    let owners = part_end(bytes, 4, false)?.max(part_end(bytes, 8, false)?);
    Some(owners.max(part_end(bytes, 12, true)?).max(part_end(bytes, 16, true)?))
}

fn number16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn number32(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize)
}

/// Where a part of a descriptor ends, if it lies within the bytes.
fn part_end(bytes: &[u8], field: usize, is_list: bool) -> Option<usize> {
    let at = number32(bytes, field)?;
    if at == 0 {
        return Some(DESCRIPTOR_HEAD);
    }
    let part = bytes.get(at..).filter(|_| at >= DESCRIPTOR_HEAD)?;
    let len = if is_list {
        usize::from(number16(part, 2)?).max(8)
    } else {
        8 + 4 * usize::from(*part.get(1).filter(|count| **count <= 15)?)
    };
    part.get(..len).map(|_| at + len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_that_lead_outside_are_refused() {
        let mut bytes = vec![1, 0, 4, 0x80];
        bytes.extend([20u32, 0, 0, 32].iter().flat_map(|n| n.to_le_bytes()));
        // S-1-1-0, and an empty list.
        bytes.extend([1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 2, 0, 8, 0, 0, 0, 0, 0]);
        assert_eq!(descriptor_len(&bytes), Some(40));
        for len in 0..bytes.len() {
            assert_eq!(descriptor_len(&bytes[..len]), None, "{len}");
        }
        for at in [4, 8, 12, 16] {
            let mut bad = bytes.clone();
            bad[at] = 39;
            assert_eq!(descriptor_len(&bad), None, "{at}");
        }
    }

    #[test]
    fn times_of_windows_come_back() {
        let cases = [
            (116_444_736_000_000_000, Time::new(0, 0)),
            (116_444_736_000_000_001, Time::new(0, 100)),
            (116_444_735_999_999_999, Time::new(-1, 999_999_900)),
            (0, Time::new(-11_644_473_600, 0)),
        ];
        for (ticks, time) in cases {
            assert_eq!(Time::from_filetime(ticks), time);
            assert_eq!(time.to_filetime(), ticks);
        }
        assert_eq!(Time::new(i64::MIN, 0).to_filetime(), 0);
        assert_eq!(Time::new(i64::MAX, u32::MAX).to_filetime(), i64::MAX);
        assert_eq!(Time::from_filetime(i64::MIN).to_filetime(), 0);
    }
}
