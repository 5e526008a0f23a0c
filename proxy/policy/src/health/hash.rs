//! A small keyed hash: names into slots, sessions into preferences.
//!
//! Invariants: the same for the same seed and bytes, on every machine. Deliberately absent: cryptographic strength; who knows
//! the seed can find collisions, and all that two names which collide share is their health.

/// Hashes two strings as a pair.
pub(crate) fn hash(seed: u64, first: &[u8], second: &[u8]) -> u64 {
    let between = absorb(mix(seed ^ 0x9e37_79b9_7f4a_7c15), first);
    mix(absorb(mix(between ^ first.len() as u64), second) ^ second.len() as u64)
}

/// A bijection that spreads close values over the whole range (the finaliser of SplitMix64).
pub(crate) fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn absorb(mut state: u64, bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        state = fold(state, u64::from_le_bytes(word.try_into().expect("chunks of eight")));
    }
    let rest = words
        .remainder()
        .iter()
        .rev()
        .fold(0, |word, &byte| word << 8 | u64::from(byte));
    fold(state, rest)
}

/// Multiplies to 128 bits and folds them: every bit of the input reaches every bit of the result.
fn fold(state: u64, word: u64) -> u64 {
    let product = u128::from(state ^ word) * 0xa076_1d64_78bd_642f;
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_not_its_concatenation_and_a_seed_changes_everything() {
        assert_ne!(hash(1, b"ab", b"c"), hash(1, b"a", b"bc"));
        assert_ne!(hash(1, b"a", b""), hash(1, b"", b"a"));
        assert_ne!(hash(1, b"a", b"b"), hash(2, b"a", b"b"));
        assert_ne!(hash(1, b"a\0", b""), hash(1, b"a", b""));
        assert_eq!(hash(1, b"a", b"b"), hash(1, b"a", b"b"));
    }
}
