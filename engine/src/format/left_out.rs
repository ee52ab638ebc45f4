//! What a directory held and isn't saved: so that nobody takes it for something that was never there.

use minicbor::{Decode, Encode};

use super::snapshot::PathBytes;

/// Names written down; with more it counts as unknown.
const MOST_NAMES: usize = 256;
/// The same of their length together, in bytes.
const MOST_BYTES: usize = 16 << 10;

/// Entries of a directory that were not saved.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum LeftOut {
    /// Nobody knows which: the directory couldn't be listed, another file system lay there, it was only on the
    /// way to what was asked for, or they are too many.
    #[n(0)]
    Unknown,
    /// These, sorted: excluded, or not readable.
    #[n(1)]
    Names(#[n(0)] Vec<PathBytes>),
}

impl LeftOut {
    /// Adds an entry to what a directory has left out.
    pub fn add(to: &mut Option<Self>, name: &[u8]) {
        let left_out = to.get_or_insert_with(|| Self::Names(Vec::new()));
        let Self::Names(names) = left_out else { return };
        let Err(at) = names.binary_search_by(|n| n.0.as_slice().cmp(name)) else { return };
        names.insert(at, PathBytes(name.to_vec()));
        let bytes: usize = names.iter().map(|n| n.0.len()).sum();
        if names.len() > MOST_NAMES || bytes > MOST_BYTES {
            *left_out = Self::Unknown;
        }
    }

    /// Whether an entry of this name may have been there.
    pub fn may_have(&self, name: &[u8]) -> bool {
        match self {
            Self::Unknown => true,
            // Readers don't rely on the order.
            Self::Names(names) => names.iter().any(|n| n.0 == name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kept_in_order_and_once() {
        let mut left_out = None;
        for name in ["b", "a", "b", "c"] {
            LeftOut::add(&mut left_out, name.as_bytes());
        }
        let names = ["a", "b", "c"].map(|n| PathBytes(n.into())).to_vec();
        assert_eq!(left_out, Some(LeftOut::Names(names)));
        assert!(left_out.as_ref().unwrap().may_have(b"a"));
        assert!(!left_out.as_ref().unwrap().may_have(b"d"));
    }

    #[test]
    fn too_many_names_are_none() {
        for (count, len) in [(MOST_NAMES, 8), (MOST_BYTES / 4000, 4000)] {
            let mut left_out = None;
            for i in 0..=count {
                assert_ne!(left_out, Some(LeftOut::Unknown), "{i} of {count}");
                LeftOut::add(&mut left_out, format!("{i:0len$}").as_bytes());
            }
            assert_eq!(left_out, Some(LeftOut::Unknown));
            LeftOut::add(&mut left_out, b"another");
            assert!(left_out.unwrap().may_have(b"anything"));
        }
    }
}
