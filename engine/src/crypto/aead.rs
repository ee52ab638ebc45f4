//! AES-256-GCM. A key is derived from a fresh random salt for each object and
//! used for that object only; the nonce is the offset of the sealed piece in
//! the object, so it can't repeat under one key.

use aes_gcm::aead::{AeadInPlace, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use zeroize::Zeroizing;

/// Bytes that sealing adds.
pub const TAG_LEN: usize = 16;

pub struct Aead(Aes256Gcm);

/// The bytes were not sealed with this key at this place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forged;

impl Aead {
    pub fn new(key: &Zeroizing<[u8; 32]>) -> Self {
        Self(Aes256Gcm::new((&**key).into()))
    }

    /// Encrypts `buf[from..]` in place and appends the tag.
    ///
    /// # Panics
    /// Never: the only failure of AES-GCM is a message over 64 GiB, and pieces are under 4 GiB.
    pub fn seal(&self, offset: u64, aad: &[u8], buf: &mut Vec<u8>, from: usize) {
        let tag = self
            .0
            .encrypt_in_place_detached(&nonce(offset), aad, &mut buf[from..])
            .expect("pieces are shorter than 64 GiB");
        buf.extend_from_slice(&tag);
    }

    /// Checks and decrypts a sealed piece in place; returns its plaintext.
    pub fn open<'a>(
        &self,
        offset: u64,
        aad: &[u8],
        piece: &'a mut [u8],
    ) -> Result<&'a mut [u8], Forged> {
        let len = piece.len().checked_sub(TAG_LEN).ok_or(Forged)?;
        let (text, tag) = piece.split_at_mut(len);
        self.0
            .decrypt_in_place_detached(&nonce(offset), aad, text, Tag::from_slice(tag))
            .map_err(|_| Forged)?;
        Ok(text)
    }
}

fn nonce(offset: u64) -> Nonce<aes_gcm::aes::cipher::consts::U12> {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&offset.to_be_bytes());
    nonce.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_opens_only_unchanged_and_in_its_place() {
        let aead = Aead::new(&Zeroizing::new([7; 32]));
        let mut sealed = b"headtext".to_vec();
        aead.seal(4, b"aad", &mut sealed, 4);
        assert_eq!(&sealed[..4], b"head");
        assert_eq!(sealed.len(), 8 + TAG_LEN);
        let piece = sealed[4..].to_vec();
        assert_eq!(aead.open(4, b"aad", &mut piece.clone()).unwrap(), b"text");
        assert_eq!(aead.open(5, b"aad", &mut piece.clone()), Err(Forged));
        assert_eq!(aead.open(4, b"", &mut piece.clone()), Err(Forged));
        assert_eq!(aead.open(4, b"aad", &mut []), Err(Forged));
        for i in 0..piece.len() {
            let mut bad = piece.clone();
            bad[i] ^= 1;
            assert_eq!(aead.open(4, b"aad", &mut bad), Err(Forged));
        }
    }
}
