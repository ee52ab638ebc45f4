//! Every key and every use of a cipher. docs/format.md section 3 is the specification.

mod aead;
mod kdf;
mod keys;

pub use aead::{Aead, Forged, TAG_LEN};
pub use kdf::{KdfCost, Password, derive_slot_key};
pub use keys::{Keys, MasterKey};

/// A fresh random salt. Fails only if the system has no randomness to give.
pub fn random<const N: usize>() -> crate::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|e| crate::Error::Invalid(format!("the system gives no random numbers: {e}")))?;
    Ok(bytes)
}
