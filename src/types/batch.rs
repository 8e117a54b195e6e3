//! Names of a ledger's things.

use std::fmt;

/// A batch of a ledger: dense, from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct BatchId(u64);

impl BatchId {
    /// Before the first batch.
    pub const ZERO: BatchId = BatchId(0);

    /// The batch with this number.
    #[must_use]
    pub const fn new(number: u64) -> BatchId {
        BatchId(number)
    }

    /// The number itself.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The batch after this one.
    #[must_use]
    pub const fn next(self) -> BatchId {
        BatchId(self.0.saturating_add(1))
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An input of a ledger: a stream, or a source whose ranges can be read again. From 1, never given twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct InputId(u32);

impl InputId {
    /// The input with this number.
    #[must_use]
    pub const fn new(number: u32) -> InputId {
        InputId(number)
    }

    /// The number itself.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The input after this one.
    #[must_use]
    pub const fn next(self) -> InputId {
        InputId(self.0.saturating_add(1))
    }
}

impl fmt::Display for InputId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
