//! Every key and every use of a cipher. docs/format.md section 3 is the specification.

mod aead;
mod kdf;
mod keys;

pub use aead::{Aead, Forged, TAG_LEN};
pub use kdf::{KdfCost, Password, derive_slot_key};
pub use keys::{Keys, MasterKey};

/// Bytes of stack that work with keys may use.
const STACK: usize = 16 << 10;

/// Does something with keys, and then overwrites the stack that it has used: what was moved
/// there, or put there for a moment by a cipher, would stay until something else is written
/// over it.
pub(crate) fn without_traces<T>(work: impl FnOnce() -> T) -> T {
    /// Never inlined: its stack is below the caller's, where `overwrite`'s will be.
    #[inline(never)]
    fn apart<T>(work: impl FnOnce() -> T) -> T {
        work()
    }
    #[inline(never)]
    fn overwrite() {
        std::hint::black_box(&mut [0u64; STACK / 8]);
    }
    let result = apart(work);
    overwrite();
    result
}

/// A fresh random salt. Fails only if the system has no randomness to give.
pub fn random<const N: usize>() -> crate::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|e| crate::Error::Invalid(format!("the system gives no random numbers: {e}")))?;
    Ok(bytes)
}
