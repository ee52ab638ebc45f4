//! From a password to the key that wraps the master key: Argon2id.

use std::time::Instant;

use argon2::{Algorithm, Argon2, Params, Version};
use zeroize::Zeroizing;

use crate::{Error, Result};

/// A password, wiped from memory when dropped.
pub type Password = Zeroizing<Vec<u8>>;

/// Cost of one guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KdfCost {
    /// KiB of memory.
    pub memory: u32,
    pub passes: u32,
    pub lanes: u32,
}

impl KdfCost {
    /// The least that is ever used: 64 MiB, three passes (RFC 9106, second choice).
    pub const FLOOR: KdfCost = KdfCost { memory: 64 * 1024, passes: 3, lanes: 4 };
    const MOST_PASSES: u32 = 24;
    /// KiB times passes that a slot may ask for at most: 8 GiB, some seconds.
    const MOST_WORK: u64 = 8 << 20;

    /// As many passes over 64 MiB as this machine does in about `seconds`, at least the floor.
    pub fn calibrated(seconds: f64) -> Self {
        let start = Instant::now();
        let one = KdfCost { passes: 1, ..Self::FLOOR };
        if derive_slot_key(&Zeroizing::new(b"calibration".to_vec()), &[0; 32], one).is_err() {
            return Self::FLOOR;
        }
        let passes = seconds / start.elapsed().as_secs_f64().max(1e-3);
        KdfCost {
            passes: (passes as u32).clamp(Self::FLOOR.passes, Self::MOST_PASSES),
            ..Self::FLOOR
        }
    }

    /// Whether a slot may ask for this: neither trivially cheap nor an attack on our memory or time.
    pub fn is_sane(&self) -> bool {
        (8 * 1024..=1024 * 1024).contains(&self.memory)
            && (1..=64).contains(&self.passes)
            && (1..=64).contains(&self.lanes)
            && self.work() <= Self::MOST_WORK
    }

    /// How long it takes, in KiB times passes.
    pub fn work(&self) -> u64 {
        u64::from(self.memory) * u64::from(self.passes)
    }
}

/// Argon2id version 0x13, 32 bytes of output. `salt` is the slot's own.
pub fn derive_slot_key(
    password: &Password,
    salt: &[u8; 32],
    cost: KdfCost,
) -> Result<Zeroizing<[u8; 32]>> {
    #[cfg(fuzzing)]
    return remembered::derive(password, salt, cost);
    #[cfg(not(fuzzing))]
    hash(password, salt, cost)
}

fn hash(password: &Password, salt: &[u8; 32], cost: KdfCost) -> Result<Zeroizing<[u8; 32]>> {
    let bad = |e: argon2::Error| Error::Invalid(format!("password hashing failed: {e}"));
    let params = Params::new(cost.memory, cost.passes, cost.lanes, Some(32)).map_err(bad)?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(password, salt, &mut *key)
        .map_err(bad)?;
    Ok(key)
}

/// A fuzzer opens the same few slots all day. In no other program is anything kept.
#[cfg(fuzzing)]
mod remembered {
    use std::collections::HashMap;
    use std::sync::{LazyLock, Mutex};

    use super::{KdfCost, Password, Result, Zeroizing, hash};

    type Question = (Vec<u8>, [u8; 32], [u32; 3]);

    static KNOWN: LazyLock<Mutex<HashMap<Question, [u8; 32]>>> = LazyLock::new(Mutex::default);
    const MOST: usize = 64;

    pub fn derive(
        password: &Password,
        salt: &[u8; 32],
        cost: KdfCost,
    ) -> Result<Zeroizing<[u8; 32]>> {
        let question = (password.to_vec(), *salt, [cost.memory, cost.passes, cost.lanes]);
        let known = || KNOWN.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(key) = known().get(&question) {
            return Ok(Zeroizing::new(*key));
        }
        let key = hash(password, salt, cost)?;
        let mut known = known();
        if known.len() < MOST {
            known.insert(question, *key);
        }
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::KdfCost;

    /// However little time it shall take, and however fast the machine: never under the floor.
    #[test]
    fn calibration_has_a_floor_and_a_ceiling() {
        assert_eq!(KdfCost::FLOOR, KdfCost { memory: 64 * 1024, passes: 3, lanes: 4 });
        for seconds in [0.0, 1e-9, -1.0, f64::NAN] {
            assert_eq!(KdfCost::calibrated(seconds), KdfCost::FLOOR, "{seconds}");
        }
        let most = KdfCost::calibrated(1e9);
        assert!(most.is_sane() && most.passes > KdfCost::FLOOR.passes, "{most:?}");
    }

    #[test]
    fn what_a_slot_may_ask_for() {
        let sane = |memory, passes, lanes| KdfCost { memory, passes, lanes }.is_sane();
        assert!(KdfCost::FLOOR.is_sane() && sane(8192, 1, 1) && sane(1 << 20, 8, 64));
        assert!(sane(64 << 10, KdfCost::MOST_PASSES, 4) && sane(128 << 10, 64, 1));
        // Too little, too much of one thing, too much together.
        assert!(!sane(8191, 1, 1) && !sane(8192, 0, 1) && !sane(8192, 1, 0));
        assert!(!sane((1 << 20) + 1, 1, 1) && !sane(8192, 65, 1) && !sane(8192, 1, 65));
        assert!(!sane(1 << 20, 9, 1) && !sane(u32::MAX, u32::MAX, 1));
    }
}
