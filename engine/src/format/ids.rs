//! Names of things: objects in the store and blobs in the repository.

use std::fmt;
use std::str::FromStr;

use minicbor::bytes::ByteArray;
use minicbor::{Decode, Decoder, Encode, Encoder};

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// The first eight hexadecimal digits, for people.
            pub fn short(&self) -> String {
                self.to_string()[..8].to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;

            /// Exactly 64 lower-case hexadecimal digits.
            fn from_str(s: &str) -> Result<Self, NotAnId> {
                if s.len() != 64 || s.bytes().any(|b| !matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                    return Err(NotAnId);
                }
                let mut id = [0; 32];
                for (i, byte) in id.iter_mut().enumerate() {
                    *byte = u8::from_str_radix(&s[2 * i..2 * i + 2], 16).map_err(|_| NotAnId)?;
                }
                Ok(Self(id))
            }
        }

        impl<C> Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                e.bytes(&self.0)?.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut Decoder<'b>, c: &mut C) -> Result<Self, minicbor::decode::Error> {
                let bytes: ByteArray<32> = d.decode_with(c)?;
                Ok(Self(*bytes))
            }
        }
    };
}

id_type!(
    /// Name of an object: BLAKE3 of its bytes as they lie in the store.
    ObjectId
);
id_type!(
    /// Name of a blob: keyed BLAKE3 of its plaintext.
    BlobId
);

impl ObjectId {
    /// The id of an object with these bytes: of all but the config and parity.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

/// The text is not a 64-digit hexadecimal id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id of 64 hexadecimal digits")]
pub struct NotAnId;

/// The kinds of object a repository consists of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ObjectKind {
    Config,
    Key,
    Pack,
    Index,
    Snapshot,
    Forgotten,
    /// What other objects are mended with. Named by the object that it is for.
    Parity,
}

impl ObjectKind {
    pub const ALL: [ObjectKind; 7] = [
        Self::Config,
        Self::Key,
        Self::Pack,
        Self::Index,
        Self::Snapshot,
        Self::Forgotten,
        Self::Parity,
    ];

    /// The folder that holds objects of this kind; empty for the config.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Config => "",
            Self::Key => "keys",
            Self::Pack => "packs",
            Self::Index => "index",
            Self::Snapshot => "snapshots",
            Self::Forgotten => "forgotten",
            Self::Parity => "parity",
        }
    }

    /// Whether its objects are spread over folders by the first two digits of their ids.
    pub fn is_spread(self) -> bool {
        matches!(self, Self::Pack | Self::Parity)
    }

    /// Longest object of this kind that a reader accepts, in bytes.
    pub fn max_len(self) -> u64 {
        match self {
            Self::Config | Self::Key => 1 << 20,
            Self::Pack => super::MAX_PACK,
            Self::Index | Self::Snapshot | Self::Forgotten => super::sealed::MAX_OBJECT,
            Self::Parity => 2 * super::MAX_PROTECTED,
        }
    }

    /// The word used in messages.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Key => "key slot",
            Self::Pack => "pack",
            Self::Index => "index",
            Self::Snapshot => "snapshot",
            Self::Forgotten => "record of what was forgotten",
            Self::Parity => "parity",
        }
    }
}

/// Where an object lies: its kind and id. The config has no id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    pub kind: ObjectKind,
    pub id: ObjectId,
}

impl ObjectName {
    pub const CONFIG: ObjectName = ObjectName { kind: ObjectKind::Config, id: ObjectId([0; 32]) };

    pub fn new(kind: ObjectKind, id: ObjectId) -> Self {
        Self { kind, id }
    }

    /// The parity of this object. The config's has its id, 64 zeros.
    pub fn parity(&self) -> Self {
        Self { kind: ObjectKind::Parity, id: self.id }
    }

    /// Path relative to the repository, with `/`: `config`, `keys/<id>`,
    /// `packs/<first two digits>/<id>`, `index/<id>`, `snapshots/<id>`, `forgotten/<id>`,
    /// `parity/<first two digits>/<id>`.
    pub fn path(&self) -> String {
        let id = self.id;
        match self.kind {
            ObjectKind::Config => "config".to_owned(),
            kind if kind.is_spread() => format!("{}/{:02x}/{id}", kind.folder(), id.0[0]),
            kind => format!("{}/{id}", kind.folder()),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path())
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_as_text() {
        let id = ObjectId([0xa5; 32]);
        assert_eq!(id.to_string().parse::<ObjectId>(), Ok(id));
        assert!("A5".repeat(32).parse::<ObjectId>().is_err());
        assert!("é".repeat(32).parse::<ObjectId>().is_err());
    }

    #[test]
    fn packs_are_spread_over_folders() {
        let name = ObjectName::new(ObjectKind::Pack, ObjectId([0xab; 32]));
        assert!(name.path().starts_with("packs/ab/abab"));
        assert_eq!(ObjectName::CONFIG.path(), "config");
    }
}
