//! The master key and all that is derived from it.

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{Aead, without_traces};
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
}

impl Keys {
    pub fn new(master: MasterKey) -> Self {
        Self {
            data_id: master.derive("data blob id", &[]),
            tree_id: master.derive("tree blob id", &[]),
            master,
        }
    }

    pub fn master(&self) -> &MasterKey {
        &self.master
    }

    /// The chunker's table: 256 numbers, little endian, from BLAKE3 in keyed mode as a stream.
    pub fn chunker_table(&self) -> Box<[u64; 256]> {
        let mut stream = Zeroizing::new([0; 2048]);
        without_traces(|| {
            let key = self.master.derive("chunker table", &[]);
            blake3::Hasher::new_keyed(&key).finalize_xof().fill(&mut *stream);
        });
        let mut table = Box::new([0; 256]);
        for (number, bytes) in table.iter_mut().zip(stream.chunks_exact(8)) {
            *number = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        }
        table
    }

    /// The cipher of one object. `purpose` is one of the words in docs/format.md;
    /// `salt` is fresh for each object.
    pub fn object_cipher(&self, purpose: &str, salt: &[u8; 32]) -> Aead {
        without_traces(|| Aead::new(&self.master.derive(purpose, salt)))
    }

    /// Keyed BLAKE3 of the plaintext, with a key per kind.
    pub fn blob_id(&self, kind: BlobKind, plaintext: &[u8]) -> BlobId {
        let key = match kind {
            BlobKind::Data => &self.data_id,
            BlobKind::Tree => &self.tree_id,
        };
        without_traces(|| BlobId(*blake3::keyed_hash(key, plaintext).as_bytes()))
    }
}
