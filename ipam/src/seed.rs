//! Deterministic spreading of seeds: equal seeds give equal places, near seeds give far places.
//!
//! Used only so that rivals begin to search at different places. Nothing secret may depend on it.

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): a bijection in which each input bit
/// changes about half of the output bits.
pub(crate) fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A place in `0..count`; `count` must not be zero.
pub(crate) fn place(seed: u64, count: u128) -> u128 {
    let high = mix(seed);
    let low = mix(high);
    ((u128::from(high) << 64) | u128::from(low)) % count
}

/// A number from arbitrary bytes: FNV-1a (64 bits), then mixed.
pub(crate) fn from_bytes(bytes: &[u8]) -> u64 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mix(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_seeds_start_far_apart() {
        let count = 2048;
        let mut starts: Vec<u128> = (0..64).map(|seed| place(seed, count)).collect();
        starts.sort_unstable();
        starts.dedup();

        assert!(starts.len() > 58, "only {} places", starts.len());
        assert!(starts.iter().all(|place| *place < count));
        assert!(starts[0] < 256 && starts[starts.len() - 1] > 1792);
    }
}
