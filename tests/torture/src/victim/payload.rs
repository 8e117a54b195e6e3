//! Records that say themselves what they are, so that whatever is found can be told apart from everything else.

use crate::rng::Rng;

/// Which record it is: the `counter`th that a thread appended since its process was born or last took back frames.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Identity {
    /// The process.
    pub(crate) life: u64,
    /// Truncations of that process before it.
    pub(crate) era: u32,
    pub(crate) thread: u32,
    pub(crate) counter: u64,
}

const MARK: u64 = u64::from_le_bytes(*b"torture\n");

impl Identity {
    /// The record: its identity, then bytes that follow from it.
    pub(crate) fn payload(&self) -> Vec<u8> {
        let mut rng = Rng::new(self.life << 32 | u64::from(self.era) << 8 | u64::from(self.thread), self.counter);
        let filler = match rng.below(100) {
            0 => rng.below(150_000),
            1..20 => rng.below(9_000),
            _ => rng.below(400),
        };
        let mut bytes = Vec::with_capacity(40 + filler as usize);
        for word in self.words() {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        while bytes.len() < 40 + filler as usize {
            let word = rng.next().to_le_bytes();
            let left = (40 + filler as usize - bytes.len()).min(8);
            bytes.extend_from_slice(&word[..left]);
        }
        bytes
    }

    fn words(&self) -> [u64; 5] {
        [MARK, self.life, u64::from(self.era), u64::from(self.thread), self.counter]
    }

    /// Which record this is, if it is one to the last byte.
    pub(crate) fn of(payload: &[u8]) -> Option<Identity> {
        let word = |at: usize| Some(u64::from_le_bytes(payload.get(at * 8..at * 8 + 8)?.try_into().ok()?));
        let small = |at| u32::try_from(word(at)?).ok();
        let identity = Identity { life: word(1)?, era: small(2)?, thread: small(3)?, counter: word(4)? };
        (word(0)? == MARK && payload == identity.payload()).then_some(identity)
    }
}
