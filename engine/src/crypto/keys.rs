//! The master key and all that is derived from it.

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::Aead;
use crate::format::{BlobId, BlobKind};

/// The repository's one secret; the key slots wrap it.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MasterKey(pub [u8; 32]);

impl MasterKey {
    pub fn generate() -> crate::Result<Self> {
        Ok(Self(super::random()?))
    }

    /// `BLAKE3.derive_key("tresor format 1 " + purpose, master || salt)`.
    fn derive(&self, purpose: &str, salt: &[u8]) -> Zeroizing<[u8; 32]> {
        let mut hasher = blake3::Hasher::new_derive_key(&format!("tresor format 1 {purpose}"));
        hasher.update(&self.0).update(salt);
        let key = Zeroizing::new(*hasher.finalize().as_bytes());
        hasher.zeroize();
        key
    }
}

/// Keys of an open repository.
pub struct Keys {
    master: MasterKey,
    data_id: Zeroizing<[u8; 32]>,
    tree_id: Zeroizing<[u8; 32]>,
    /// Seed of the chunker's table.
    pub chunker_seed: u64,
}

impl Keys {
    pub fn new(master: MasterKey) -> Self {
        let seed = master.derive("chunker seed", &[]);
        let mut first = [0; 8];
        first.copy_from_slice(&seed[..8]);
        Self {
            data_id: master.derive("data blob id", &[]),
            tree_id: master.derive("tree blob id", &[]),
            // Seed 0 would mean "no seed" to the chunker.
            chunker_seed: u64::from_le_bytes(first).max(1),
            master,
        }
    }

    pub fn master(&self) -> &MasterKey {
        &self.master
    }

    /// The cipher of one object. `purpose` is one of the words in docs/format.md;
    /// `salt` is fresh for each object.
    pub fn object_cipher(&self, purpose: &str, salt: &[u8; 32]) -> Aead {
        Aead::new(&self.master.derive(purpose, salt))
    }

    /// Keyed BLAKE3 of the plaintext, with a key per kind.
    pub fn blob_id(&self, kind: BlobKind, plaintext: &[u8]) -> BlobId {
        let key = match kind {
            BlobKind::Data => &self.data_id,
            BlobKind::Tree => &self.tree_id,
        };
        BlobId(*blake3::keyed_hash(key, plaintext).as_bytes())
    }
}
