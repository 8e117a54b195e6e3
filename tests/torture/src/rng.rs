//! Choices from a seed.

/// A small generator (SplitMix64): the same seed gives the same choices, and neighbouring seeds have nothing in common.
#[derive(Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    /// One of its own for each seed and each use of it.
    pub(crate) fn new(seed: u64, of: u64) -> Rng {
        let mut rng = Rng(seed ^ of.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        rng.next();
        rng
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Less than `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// True in so many cases of a hundred.
    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}
