//! Padmé: lengths are rounded up so that an observer of the store learns only
//! the order of magnitude and a few leading bits (at most 12 % more, about 1 % for packs).

/// The padded length for `len` bytes (Nikitin et al., "Reducing Metadata Leakage
/// from Encrypted Files", 2019).
pub fn padme(len: u64) -> u64 {
    if len < 2 {
        return len;
    }
    let exponent = 63 - len.leading_zeros();
    let bits = 32 - exponent.leading_zeros();
    let mask = (1u64 << (exponent - bits)) - 1;
    len.checked_add(mask).map_or(len, |l| l & !mask)
}

#[cfg(test)]
mod tests {
    use super::padme;

    #[test]
    fn pads_little_and_never_shrinks() {
        assert_eq!((padme(0), padme(1), padme(9), padme(1000)), (0, 1, 10, 1024));
        for len in (2..5_000_000).step_by(977) {
            let padded = padme(len);
            assert!(padded >= len && padded - len <= len / 8 + 1, "{len} {padded}");
            assert_eq!(padme(padded), padded);
        }
        assert!(padme(16 << 20) - (16 << 20) < 1 << 19);
    }
}
