//! What macOS keeps about an entry beyond what a node has fields for: extended attributes of
//! these names, so that other systems can carry them (see docs/format.md).

use super::node::{Node, Time};

/// `UF_…` and `SF_…` of `st_flags`, 32 bits, little-endian; left out if there are none.
pub const FLAGS: &[u8] = b"user.mac.flags";
/// Time of creation: seconds (64 bits, signed) and nanoseconds (32 bits), little-endian;
/// left out if it is that of modification.
pub const CREATED: &[u8] = b"user.mac.created";
/// The access control list as `acl_to_text` writes it.
pub const ACL: &[u8] = b"user.mac.acl";
/// All of them begin so.
pub const PREFIX: &[u8] = b"user.mac.";

const NODUMP: u32 = 0x1;
const IMMUTABLE: u32 = 0x2;
const APPEND: u32 = 0x4;
const OPAQUE: u32 = 0x8;
const HIDDEN: u32 = 0x8000;
const SYSTEM_IMMUTABLE: u32 = 0x2_0000;
const SYSTEM_APPEND: u32 = 0x4_0000;
const SYSTEM_NO_UNLINK: u32 = 0x10_0000;

/// The flags that a person or a program sets, and a restore sets again. Others are the file
/// system's own: compressed, not here but in the cloud, protected.
pub const KEPT_FLAGS: u32 = NODUMP | OPAQUE | HIDDEN | LOCKING_FLAGS;
/// What has one of them can't be changed, renamed or removed before it is taken away.
pub const LOCKING_FLAGS: u32 =
    IMMUTABLE | APPEND | SYSTEM_IMMUTABLE | SYSTEM_APPEND | SYSTEM_NO_UNLINK;
/// Those of them that only root may set.
pub const SYSTEM_FLAGS: u32 = SYSTEM_IMMUTABLE | SYSTEM_APPEND | SYSTEM_NO_UNLINK;

/// A time of creation as the attribute's value.
pub fn created_value(time: Time) -> Vec<u8> {
    [time.seconds.to_le_bytes().as_slice(), &time.nanos.to_le_bytes()].concat()
}

fn created(value: &[u8]) -> Option<Time> {
    let (seconds, nanos) = value.split_first_chunk::<8>()?;
    let nanos = u32::from_le_bytes(nanos.try_into().ok()?);
    (nanos < 1_000_000_000).then(|| Time::new(i64::from_le_bytes(*seconds), nanos))
}

impl Node {
    /// The flags that are kept; none if the entry is from another system.
    pub fn macos_flags(&self) -> u32 {
        let value = self.xattr(FLAGS).and_then(|value| value.try_into().ok());
        value.map_or(0, u32::from_le_bytes) & KEPT_FLAGS
    }

    pub fn macos_acl(&self) -> Option<&[u8]> {
        self.xattr(ACL)
    }

    /// The time of creation, if one was recorded, on whatever system.
    pub fn created(&self) -> Option<Time> {
        self.xattr(CREATED).and_then(created).or_else(|| self.windows_created())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{NodeKind, Xattr};

    fn node(xattrs: &[(&[u8], &[u8])]) -> Node {
        let mut node = Node::new(b"x".to_vec(), NodeKind::File);
        let xattr =
            |(name, value): &(&[u8], &[u8])| Xattr { name: name.to_vec(), value: value.to_vec() };
        node.xattrs = Some(xattrs.iter().map(xattr).collect());
        node
    }

    #[test]
    fn times_of_creation_come_back() {
        for time in [Time::new(0, 0), Time::new(-3, 999_999_999), Time::new(1_700_000_000, 1)] {
            let value = created_value(time);
            assert_eq!(value.len(), 12);
            assert_eq!(node(&[(CREATED, &value)]).created(), Some(time));
        }
        let ticks = Time::new(1_700_000_000, 100).to_filetime().to_le_bytes();
        let of_windows = (crate::format::windows::CREATED, ticks.as_slice());
        assert_eq!(node(&[of_windows]).created(), Some(Time::new(1_700_000_000, 100)));
        let both = [(CREATED, created_value(Time::new(5, 6))), (of_windows.0, ticks.to_vec())];
        let both = both.each_ref().map(|(name, value)| (*name, value.as_slice()));
        assert_eq!(node(&both).created(), Some(Time::new(5, 6)));
    }

    #[test]
    fn values_that_make_no_sense_are_none() {
        let nanos = [[0; 8].as_slice(), &1_000_000_000_u32.to_le_bytes()].concat();
        for value in [&b""[..], &[0; 8], &[0; 11], &[0; 13], &nanos] {
            assert_eq!(node(&[(CREATED, value)]).created(), None);
        }
        for value in [&b""[..], &[1], &[2; 8]] {
            assert_eq!(node(&[(FLAGS, value)]).macos_flags(), 0);
        }
        assert_eq!(node(&[]).macos_flags(), 0);
    }

    #[test]
    fn only_flags_that_can_be_set_are_kept() {
        let all = u32::MAX.to_le_bytes();
        assert_eq!(node(&[(FLAGS, &all)]).macos_flags(), KEPT_FLAGS);
        // Compressed, tracked, restricted, firm link, dataless.
        let own = 0x20 | 0x40 | 0x8_0000 | 0x80_0000 | 0x4000_0000_u32;
        assert_eq!(node(&[(FLAGS, &own.to_le_bytes())]).macos_flags(), 0);
    }
}
