//! AES-256-GCM. A key is derived from a fresh random salt for each object and
//! used for that object only; the nonce is the offset of the sealed piece in
//! the object, so it can't repeat under one key.

use aws_lc_rs::aead::{self, AES_256_GCM, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

/// Bytes that sealing adds.
pub const TAG_LEN: usize = 16;

/// The key of one object; wiped when dropped.
pub struct Aead(LessSafeKey);

/// The bytes were not sealed with this key at this place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forged;

impl Aead {
    /// # Panics
    /// Never: the only failure is a key of another length.
    pub fn new(key: &Zeroizing<[u8; 32]>) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, &**key).expect("a key of AES-256 has 32 bytes");
        Self(LessSafeKey::new(key))
    }

    /// Encrypts `buf[from..]` in place and appends the tag.
    ///
    /// # Panics
    /// Never: the only failure of AES-GCM is a message over 64 GiB, and pieces are under 4 GiB.
    pub fn seal(&self, offset: u64, aad: &[u8], buf: &mut Vec<u8>, from: usize) {
        let tag = self.seal_in_place(offset, aad, &mut buf[from..]);
        buf.extend_from_slice(&tag);
    }

    /// Encrypts a piece in place; the tag belongs behind it.
    ///
    /// # Panics
    /// Never, as above.
    pub fn seal_in_place(&self, offset: u64, aad: &[u8], piece: &mut [u8]) -> [u8; TAG_LEN] {
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce(offset), aead::Aad::from(aad), piece)
            .expect("pieces are shorter than 64 GiB");
        let mut bytes = [0; TAG_LEN];
        bytes.copy_from_slice(tag.as_ref());
        bytes
    }

    /// Checks and decrypts a sealed piece in place; returns its plaintext.
    pub fn open<'a>(
        &self,
        offset: u64,
        aad: &[u8],
        piece: &'a mut [u8],
    ) -> Result<&'a mut [u8], Forged> {
        self.0.open_in_place(nonce(offset), aead::Aad::from(aad), piece).map_err(|_| Forged)
    }
}

fn nonce(offset: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[4..].copy_from_slice(&offset.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
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
