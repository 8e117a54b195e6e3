//! How much one batch takes, and of whom.

/// What one batch holds at most. It always takes the smallest piece there is (a block, a record of a file), whatever the
/// limits: a limit can delay records, never keep them out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
pub struct BatchLimits {
    /// Records. Default: no limit.
    pub records_max: u64,
    /// Bytes of records. Default 256 MiB.
    pub bytes_max: u64,
    /// Ranges: of streams one each, of directories one for each file. Default 10 000. No more than surely have room in one record
    /// of the ledger's log, 1327 bytes each.
    pub ranges_max: usize,
    /// An empty batch when there is nothing new, instead of none. Default: none.
    pub allow_empty: bool,
}

impl Default for BatchLimits {
    fn default() -> BatchLimits {
        BatchLimits { records_max: u64::MAX, bytes_max: 256 << 20, ranges_max: 10_000, allow_empty: false }
    }
}

impl BatchLimits {
    /// Up to so many records.
    #[must_use]
    pub fn records(records_max: u64) -> BatchLimits {
        BatchLimits { records_max, ..BatchLimits::default() }
    }

    /// Up to so many bytes.
    #[must_use]
    pub fn bytes(bytes_max: u64) -> BatchLimits {
        BatchLimits { bytes_max, ..BatchLimits::default() }
    }
}

/// What is left of a batch's limits, for one input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// Records.
    pub records: u64,
    /// Bytes of records.
    pub bytes: u64,
    /// Ranges.
    pub ranges: usize,
    /// The smallest piece is to be taken even if it does not fit: otherwise one that is larger than every share would
    /// never come.
    pub takes_one: bool,
}

impl Share {
    /// All of the limits.
    #[must_use]
    pub fn of(limits: &BatchLimits) -> Share {
        Share { records: limits.records_max, bytes: limits.bytes_max, ranges: limits.ranges_max, takes_one: true }
    }

    /// Nothing more fits.
    #[must_use]
    pub fn is_used_up(&self) -> bool {
        self.records == 0 || self.bytes == 0 || self.ranges == 0
    }

    /// What one of so many inputs may take first, so that none starves another.
    #[must_use]
    pub fn fair(&self, inputs: usize) -> Share {
        let n = inputs.max(1) as u64;
        let part = |whole: u64| if whole == u64::MAX { whole } else { whole.div_ceil(n) };
        Share {
            records: part(self.records),
            bytes: part(self.bytes),
            ranges: self.ranges.div_ceil(inputs.max(1)),
            takes_one: false,
        }
    }

    /// Takes what a range uses; more than there was leaves nothing.
    pub fn take(&mut self, records: u64, bytes: u64) {
        self.takes_one = false;
        let less = |whole: u64, used| if whole == u64::MAX { whole } else { whole.saturating_sub(used) };
        self.records = less(self.records, records);
        self.bytes = less(self.bytes, bytes);
        self.ranges = self.ranges.saturating_sub(1);
    }

    /// Whether a piece of this size still fits.
    #[must_use]
    pub fn has_room(&self, records: u64, bytes: u64) -> bool {
        self.takes_one || (self.ranges > 0 && self.records >= records && self.bytes >= bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_fair_and_never_nothing() {
        let all = Share::of(&BatchLimits { records_max: 10, bytes_max: 100, ranges_max: 2, allow_empty: false });
        assert_eq!(all.fair(3), Share { records: 4, bytes: 34, ranges: 1, takes_one: false });
        assert_eq!(all.fair(0), Share { takes_one: false, ..all });
        assert!(all.has_room(11, 1_000), "the first piece fits always");
        let mut left = all;
        left.take(9, 100);
        assert!(left.is_used_up());
        assert!(!left.has_room(1, 1));
        let mut unlimited = Share::of(&BatchLimits { bytes_max: u64::MAX, ..BatchLimits::default() });
        unlimited.take(1 << 40, 1 << 50);
        assert!(!unlimited.is_used_up());
        assert_eq!(unlimited.fair(7).bytes, u64::MAX);
    }
}
