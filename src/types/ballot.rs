//! Who may write, and who may hand out batches.

use std::fmt;

use super::ids::hex_id;

hex_id! {
    /// A ledger's random 128-bit identity: half of the name of every batch, so that batch 1 of a new ledger is never
    /// taken for batch 1 of an old one.
    LedgerId, u128, "32"
}

/// Fences writers: of two, the one with the higher ballot counts, and the other one is refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Ballot {
    /// Higher with each takeover.
    pub round: u64,
    /// Drawn at random by whoever takes over: two in one round are never equal.
    pub proposer: u64,
}

impl Ballot {
    /// Below every ballot that was ever given.
    pub const ZERO: Ballot = Ballot { round: 0, proposer: 0 };

    /// A ballot above this one.
    #[must_use]
    pub fn above(self, proposer: u64) -> Ballot {
        Ballot { round: self.round.saturating_add(1), proposer }
    }
}

impl fmt::Display for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:016x}", self.round, self.proposer)
    }
}

/// What a log has promised to one driver: nobody with a lower ballot, and no other ledger, allocates or trims it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Promise {
    /// Whose batches the log's records go into.
    pub ledger: LedgerId,
    /// The highest ballot that was promised.
    pub ballot: Ballot,
}
