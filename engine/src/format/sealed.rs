//! Small sealed objects: index, snapshot, records of what was forgotten, and the secret parts of config and key slots.
//!
//! ```text
//! magic 8 | salt 32 | AES-256-GCM of ( payload length u32 | plain length u32 | payload | zeros )
//! ```
//! The payload starts with its compression method; the zeros pad to a Padmé length.

use minicbor::{Decode, Encode};

use crate::compress;
use crate::crypto::{Aead, Keys, TAG_LEN};
use crate::padding::padme;

/// What a sealed object is; goes into the magic and into the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Config,
    SlotInfo,
    Index,
    Snapshot,
    Forgotten,
}

impl Purpose {
    fn magic(self) -> &'static [u8; 8] {
        match self {
            Self::Config => b"TRSRCF01",
            Self::SlotInfo => b"TRSRKI01",
            Self::Index => b"TRSRIX01",
            Self::Snapshot => b"TRSRSN01",
            Self::Forgotten => b"TRSRFG01",
        }
    }

    fn key_purpose(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::SlotInfo => "slot info",
            Self::Index => "index",
            Self::Snapshot => "snapshot",
            Self::Forgotten => "forgotten",
        }
    }
}

const HEADER: usize = 40;
/// Longest plaintext a reader accepts.
const MAX_PLAIN: usize = 64 << 20;
/// Longest object: the longest plaintext that doesn't compress, and what goes around
/// it, padded.
pub const MAX_OBJECT: u64 = 66 << 20;

pub fn seal<T: Encode<()>>(keys: &Keys, purpose: Purpose, value: &T) -> crate::Result<Vec<u8>> {
    let plain = minicbor::to_vec(value)
        .map_err(|e| crate::Error::Invalid(format!("can't encode {purpose:?}: {e}")))?;
    if plain.len() > MAX_PLAIN {
        let len = plain.len();
        return Err(crate::Error::Invalid(format!(
            "a {purpose:?} object of {len} bytes is longer than the format allows"
        )));
    }
    let salt = crate::crypto::random::<32>()?;
    let mut object = Vec::with_capacity(plain.len() + 512);
    object.extend_from_slice(purpose.magic());
    object.extend_from_slice(&salt);
    object.extend_from_slice(&[0; 8]);
    compress::compress_into(&plain, &mut object);
    let payload = (object.len() - HEADER - 8) as u32;
    object[HEADER..HEADER + 4].copy_from_slice(&payload.to_le_bytes());
    object[HEADER + 4..HEADER + 8].copy_from_slice(&(plain.len() as u32).to_le_bytes());
    let padded = padme((object.len() + TAG_LEN) as u64) as usize - TAG_LEN;
    object.resize(padded, 0);
    cipher(keys, purpose, &salt).seal(0, purpose.magic(), &mut object, HEADER);
    Ok(object)
}

/// Opens a sealed object; the error says in words what is wrong with it.
pub fn open<T>(keys: &Keys, purpose: Purpose, mut object: Vec<u8>) -> Result<T, String>
where
    T: for<'b> Decode<'b, ()>,
{
    let (magic, rest) = object.split_at_mut_checked(8).ok_or("it is too short")?;
    if magic != purpose.magic() {
        return Err("it doesn't begin as it must".into());
    }
    let (salt, sealed) = rest.split_first_chunk_mut::<32>().ok_or("it is too short")?;
    let text = cipher(keys, purpose, salt)
        .open(0, purpose.magic(), sealed)
        .map_err(|_| "its authentication fails")?;
    let plain = unpack(text).ok_or("its compressed part is malformed")?;
    minicbor::decode(&plain).map_err(|e| format!("its contents can't be decoded: {e}"))
}

fn unpack(text: &[u8]) -> Option<Vec<u8>> {
    let (payload, rest) = text.split_first_chunk::<4>()?;
    let (plain, rest) = rest.split_first_chunk::<4>()?;
    let plain = u32::from_le_bytes(*plain) as usize;
    if plain > MAX_PLAIN {
        return None;
    }
    compress::decompress(rest.get(..u32::from_le_bytes(*payload) as usize)?, plain)
}

fn cipher(keys: &Keys, purpose: Purpose, salt: &[u8; 32]) -> Aead {
    keys.object_cipher(purpose.key_purpose(), salt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_object_is_as_long_as_it_may_be() {
        let around = HEADER + 8 + 1 + TAG_LEN;
        assert_eq!(padme((MAX_PLAIN + around) as u64), MAX_OBJECT);
    }
}
