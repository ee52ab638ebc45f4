//! The config object and key slots: what is read before any key is known.

use minicbor::{Decode, Encode};

use super::node::Time;
use super::parity::{PARITY_FEATURE, ParityShare};
use super::sealed::{self, Purpose};
use crate::crypto::{
    Aead, KdfCost, Keys, MasterKey, Password, TAG_LEN, derive_slot_key, without_traces,
};
use crate::error::{Error, Result};
use crate::format::ObjectName;

pub const FORMAT_VERSION: u32 = 1;
/// Nodes may have streams that are stored as contents are, which a prune must know.
const STREAMS_FEATURE: &str = "streams";
const PRODUCT: &str = "tresor";

/// The plain part of a repository's config.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Config {
    /// Always `"tresor"`.
    #[n(0)]
    pub product: String,
    #[n(1)]
    pub version: u32,
    #[cbor(n(2), with = "minicbor::bytes")]
    pub repository: [u8; 16],
    /// Features a reader must know; format 1 defines none.
    #[n(3)]
    pub features: Vec<String>,
    /// Sealed [`ConfigSecret`].
    #[cbor(n(4), with = "minicbor::bytes")]
    pub secret: Vec<u8>,
    /// Features a writer must know beside those; a reader need not.
    #[n(5)]
    pub write_features: Vec<String>,
    /// How much parity objects get, in thousandths; with the feature `parity`.
    #[n(6)]
    pub parity: Option<u32>,
}

/// What every version of the config begins with.
#[derive(Decode)]
#[cbor(map)]
struct Beginning {
    #[n(0)]
    product: String,
    #[n(1)]
    version: u32,
}

/// The part of the config that only the key opens; repeats the plain part, which authenticates it.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct ConfigSecret {
    #[n(0)]
    pub version: u32,
    #[cbor(n(1), with = "minicbor::bytes")]
    pub repository: [u8; 16],
    #[n(2)]
    pub features: Vec<String>,
    #[n(3)]
    pub created: Time,
    #[n(4)]
    pub chunks: ChunkSizes,
    #[n(5)]
    pub write_features: Vec<String>,
    #[n(6)]
    pub parity: Option<u32>,
}

impl ConfigSecret {
    /// Whether extended attributes that are too long for a node are stored as contents are.
    pub fn has_streams(&self) -> bool {
        self.write_features.iter().any(|feature| feature == STREAMS_FEATURE)
    }
}

/// Parameters of the chunker, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct ChunkSizes {
    #[n(0)]
    pub min: u32,
    #[n(1)]
    pub average: u32,
    #[n(2)]
    pub max: u32,
}

impl Default for ChunkSizes {
    fn default() -> Self {
        Self { min: 64 << 10, average: 128 << 10, max: 512 << 10 }
    }
}

impl Config {
    pub fn new(
        keys: &Keys,
        created: Time,
        parity: Option<ParityShare>,
        chunks: ChunkSizes,
    ) -> Result<Self> {
        let repository = crate::crypto::random()?;
        let features = parity.map(|_| PARITY_FEATURE).into_iter().chain([STREAMS_FEATURE]);
        let write_features: Vec<_> = features.map(str::to_owned).collect();
        let parity = parity.map(ParityShare::thousandths);
        let secret = ConfigSecret {
            version: FORMAT_VERSION,
            repository,
            features: Vec::new(),
            created,
            chunks,
            write_features: write_features.clone(),
            parity,
        };
        Ok(Self {
            product: PRODUCT.into(),
            version: FORMAT_VERSION,
            repository,
            features: Vec::new(),
            secret: sealed::seal(keys, Purpose::Config, &secret)?,
            write_features,
            parity,
        })
    }

    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let damaged = |e| Error::damaged(ObjectName::CONFIG, format!("it can't be decoded: {e}"));
        let unsupported = |feature| Error::Unsupported { object: ObjectName::CONFIG, feature };
        let beginning: Beginning = minicbor::decode(bytes).map_err(damaged)?;
        if beginning.product != PRODUCT {
            return Err(Error::damaged(ObjectName::CONFIG, "it is not tresor's"));
        }
        if beginning.version != FORMAT_VERSION {
            return Err(unsupported(format!("format {}", beginning.version)));
        }
        let config: Self = minicbor::decode(bytes).map_err(damaged)?;
        // This version writes to whatever it opens, so it must know both lists.
        let known = [PARITY_FEATURE, STREAMS_FEATURE];
        let unknown = |feature: &&String| !known.contains(&feature.as_str());
        if let Some(feature) =
            config.features.iter().chain(config.write_features.iter().filter(unknown)).next()
        {
            return Err(unsupported(format!("the feature {feature:?}")));
        }
        let has_parity = config.write_features.iter().any(|feature| feature == PARITY_FEATURE);
        if has_parity != config.parity_share().is_some() || config.parity.is_some() != has_parity {
            return Err(Error::damaged(ObjectName::CONFIG, "what it says of parity is impossible"));
        }
        Ok(config)
    }

    /// How much parity writers make, if they do.
    pub fn parity_share(&self) -> Option<ParityShare> {
        self.parity.and_then(ParityShare::new)
    }

    /// Opens the secret part and checks the plain part against it.
    pub fn open_secret(&self, keys: &Keys) -> Result<ConfigSecret> {
        let secret: ConfigSecret = sealed::open(keys, Purpose::Config, self.secret.clone())
            .map_err(|e| Error::damaged(ObjectName::CONFIG, e))?;
        let same = secret.version == self.version
            && secret.repository == self.repository
            && secret.features == self.features
            && secret.write_features == self.write_features
            && secret.parity == self.parity;
        let ChunkSizes { min, average, max } = secret.chunks;
        let possible = (1 << 10..=1 << 20).contains(&min)
            && (min..=4 << 20).contains(&average)
            && (average..=8 << 20).contains(&max);
        if !same || !possible {
            return Err(Error::damaged(ObjectName::CONFIG, "its plain part was altered"));
        }
        Ok(secret)
    }
}

/// The master key, sealed with a password.
fn wrap(
    keys: &Keys,
    salt: &[u8; 32],
    repository: &[u8; 16],
    password: &Password,
    cost: KdfCost,
) -> Result<Vec<u8>> {
    // With room for the tag: who makes room later leaves the key where it was.
    let mut wrapped = Vec::with_capacity(keys.master().0.len() + TAG_LEN);
    wrapped.extend_from_slice(&keys.master().0);
    Aead::new(&derive_slot_key(password, salt, cost)?).seal(0, repository, &mut wrapped, 0);
    Ok(wrapped)
}

/// A key slot: the master key, wrapped with a password.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct KeySlot {
    /// 0: password. Other kinds (public keys) are passed over by this version.
    #[n(0)]
    pub kind: u32,
    /// Argon2id: KiB of memory, passes, lanes.
    #[n(1)]
    pub memory: u32,
    #[n(2)]
    pub passes: u32,
    #[n(3)]
    pub lanes: u32,
    #[cbor(n(4), with = "minicbor::bytes")]
    pub salt: [u8; 32],
    /// AES-256-GCM of the master key under the Argon2id output, nonce 0,
    /// additional data: the repository's id.
    #[cbor(n(5), with = "minicbor::bytes")]
    pub wrapped: Vec<u8>,
    /// Sealed [`SlotInfo`].
    #[cbor(n(6), with = "minicbor::bytes")]
    pub info: Vec<u8>,
    /// The repository's id, so that a lost config can be made anew.
    #[cbor(n(7), with = "minicbor::bytes")]
    pub repository: [u8; 16],
}

#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct SlotInfo {
    #[n(0)]
    pub created: Time,
    /// Who made it, or what it was called with `--label`.
    #[n(1)]
    pub label: String,
}

impl KeySlot {
    pub const PASSWORD: u32 = 0;

    pub fn new(
        keys: &Keys,
        repository: &[u8; 16],
        password: &Password,
        cost: KdfCost,
        info: &SlotInfo,
    ) -> Result<Self> {
        let salt = crate::crypto::random()?;
        let wrapped = without_traces(|| wrap(keys, &salt, repository, password, cost))?;
        Ok(Self {
            kind: Self::PASSWORD,
            memory: cost.memory,
            passes: cost.passes,
            lanes: cost.lanes,
            salt,
            wrapped,
            info: sealed::seal(keys, Purpose::SlotInfo, info)?,
            repository: *repository,
        })
    }

    pub fn cost(&self) -> KdfCost {
        KdfCost { memory: self.memory, passes: self.passes, lanes: self.lanes }
    }

    /// The master key, if this is a password slot and this is its password.
    pub fn unwrap(&self, repository: &[u8; 16], password: &Password) -> Result<Option<MasterKey>> {
        if self.kind != Self::PASSWORD || !self.cost().is_sane() {
            return Ok(None);
        }
        let key = derive_slot_key(password, &self.salt, self.cost())?;
        let mut wrapped = zeroize::Zeroizing::new(self.wrapped.clone());
        let opened = Aead::new(&key).open(0, repository, &mut wrapped);
        let master = opened.ok().and_then(|text| <[u8; 32]>::try_from(&*text).ok());
        Ok(master.map(MasterKey))
    }
}
