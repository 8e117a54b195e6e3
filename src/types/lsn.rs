//! Positions of frames in a stream.

use std::fmt;

/// The number of a frame in its stream: dense, from 1.
///
/// `Lsn::ZERO` is the position before the first frame; as a watermark it reads "nothing yet".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct Lsn(u64);

impl Lsn {
    /// The position before the first frame.
    pub const ZERO: Lsn = Lsn(0);
    /// The first frame of every stream.
    pub const FIRST: Lsn = Lsn(1);
    /// Above every frame that can exist.
    pub const MAX: Lsn = Lsn(u64::MAX);

    /// The position with this number.
    #[must_use]
    pub const fn new(number: u64) -> Lsn {
        Lsn(number)
    }

    /// The number itself.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The next position. Saturates: 2^64 frames cannot be written.
    #[must_use]
    pub const fn next(self) -> Lsn {
        Lsn(self.0.saturating_add(1))
    }

    /// The position before this one; `ZERO` stays `ZERO`.
    #[must_use]
    pub const fn previous(self) -> Lsn {
        Lsn(self.0.saturating_sub(1))
    }

    /// The position `frames` further on.
    #[must_use]
    pub const fn advance(self, frames: u64) -> Lsn {
        Lsn(self.0.saturating_add(frames))
    }

    /// How many frames lie in `earlier+1 ..= self`; 0 when `earlier` is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lsn({})", self.0)
    }
}

/// A half-open interval of frames, `start..end`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct LsnRange {
    /// The first frame of the range.
    pub start: Lsn,
    /// The first frame after the range.
    pub end: Lsn,
}

impl LsnRange {
    /// No frames: what is told concerns none.
    pub const NONE: LsnRange = LsnRange { start: Lsn::ZERO, end: Lsn::ZERO };

    /// `start..end`; a range that ends before it starts is empty.
    #[must_use]
    pub fn new(start: Lsn, end: Lsn) -> LsnRange {
        LsnRange { start, end: end.max(start) }
    }

    /// `first..=last`.
    #[must_use]
    pub fn inclusive(first: Lsn, last: Lsn) -> LsnRange {
        LsnRange::new(first, last.next())
    }

    /// The smallest range that holds both.
    #[must_use]
    pub(crate) fn spanning(self, other: LsnRange) -> LsnRange {
        LsnRange::new(self.start.min(other.start), self.end.max(other.end))
    }

    /// True when no frame lies in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start >= self.end
    }

    /// How many frames lie in it.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.end.since(self.start)
    }

    /// True when the frame lies in it.
    #[must_use]
    pub fn contains(&self, lsn: Lsn) -> bool {
        self.start <= lsn && lsn < self.end
    }
}

impl fmt::Display for LsnRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.end == Lsn::MAX { write!(f, "{}..", self.start) } else { write!(f, "{}..{}", self.start, self.end) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_count_their_frames() {
        let range = LsnRange::inclusive(Lsn::new(3), Lsn::new(5));
        assert_eq!(range.frames(), 3);
        assert!(range.contains(Lsn::new(5)) && !range.contains(Lsn::new(6)));
        assert!(LsnRange::new(Lsn::new(5), Lsn::new(3)).is_empty());
    }
}
