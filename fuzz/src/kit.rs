//! What several targets need: keys, and objects sealed with them.

use std::sync::{Arc, LazyLock};

use arbitrary::Unstructured;
use minicbor::encode::Write;
use minicbor::{Encode, Encoder};
use tresor_engine::compress::compress_into;
use tresor_engine::crypto::{Keys, MasterKey};
use tresor_engine::format::{ObjectId, ObjectKind, ObjectName, Purpose, sealed};
use tresor_engine::store::{MemoryStore, ObjectStore, Store};

/// The same keys always.
pub fn keys() -> &'static Arc<Keys> {
    static KEYS: LazyLock<Arc<Keys>> = LazyLock::new(|| Arc::new(Keys::new(MasterKey([7; 32]))));
    &KEYS
}

/// Bytes that stand where a structure is expected.
pub struct Raw<'a>(pub &'a [u8]);

impl<C> Encode<C> for Raw<'_> {
    fn encode<W: Write>(
        &self,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.writer_mut().write_all(self.0).map_err(minicbor::encode::Error::write)
    }
}

/// Bytes as the plaintext of a sealed object.
pub fn seal(keys: &Keys, purpose: Purpose, plain: &[u8]) -> Vec<u8> {
    sealed::seal(keys, purpose, &Raw(plain)).unwrap()
}

/// A sealed object with this text: the lengths, payload and padding of format.md section 4.
pub fn sealed_text(keys: &Keys, purpose: Purpose, text: &[u8]) -> Vec<u8> {
    let (magic, word) = match purpose {
        Purpose::Config => (b"TRSRCF01", "config"),
        Purpose::SlotInfo => (b"TRSRKI01", "slot info"),
        Purpose::Index => (b"TRSRIX01", "index"),
        Purpose::Snapshot => (b"TRSRSN01", "snapshot"),
        Purpose::Forgotten => (b"TRSRFG01", "forgotten"),
    };
    let salt = [9; 32];
    let mut object = [&magic[..], &salt, text].concat();
    keys.object_cipher(word, &salt).seal(0, magic, &mut object, 40);
    object
}

/// A payload of section 5 with the length of its result before it, as a pack's table has it.
pub fn with_length(plain: &[u8]) -> Vec<u8> {
    let mut out = (plain.len() as u32).to_le_bytes().to_vec();
    compress_into(plain, &mut out);
    out
}

/// Puts bytes under the name that is right for them.
pub fn put(store: &dyn ObjectStore, kind: ObjectKind, bytes: &[u8]) -> ObjectName {
    let name = ObjectName::new(kind, ObjectId::of(bytes));
    store.put(&name, bytes).unwrap();
    name
}

/// A store that holds just this object.
pub fn store_of(kind: ObjectKind, bytes: &[u8]) -> (Store, ObjectName) {
    let store = MemoryStore::new();
    let name = put(&store, kind, bytes);
    (Arc::new(store), name)
}

/// The objects of a store, for as many more of the same.
pub struct Copies(pub Vec<(ObjectName, Vec<u8>)>);

impl Copies {
    pub fn of(store: &Store) -> Self {
        let names = ObjectKind::ALL.into_iter().flat_map(|kind| store.list(kind).unwrap());
        Self(names.map(|(name, _)| (name, store.get(&name).unwrap())).collect())
    }

    pub fn store(&self) -> Store {
        let store = MemoryStore::new();
        self.0.iter().for_each(|(name, bytes)| store.put(name, bytes).unwrap());
        Arc::new(store)
    }
}

/// What a structure is written as; what was decoded can always be written.
pub fn encoded<T: Encode<()>>(value: &T) -> Vec<u8> {
    minicbor::to_vec(value).unwrap()
}

/// Whether what was decoded is the same when it is written and read again.
pub fn assert_round_trip<T>(value: &T)
where
    T: Encode<()> + for<'b> minicbor::Decode<'b, ()>,
{
    let bytes = encoded(value);
    let again: T = minicbor::decode(&bytes).unwrap();
    // Bytes are compared, as a float may be no number.
    assert!(encoded(&again) == bytes, "written and read again it is another");
}

/// A choice of the input; 0 once that is used up.
pub fn byte(input: &mut Unstructured<'_>) -> u8 {
    input.arbitrary().unwrap_or_default()
}

/// Up to `most` bytes of the input.
pub fn bytes<'a>(input: &mut Unstructured<'a>, most: usize) -> &'a [u8] {
    let len = (byte(input) as usize * most / 255).min(input.len());
    input.bytes(len).unwrap_or_default()
}

/// No control character can reach a terminal with this text.
pub fn assert_printable(text: &str) {
    assert!(!text.chars().any(char::is_control), "{text:?}");
}
