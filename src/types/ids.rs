//! Identities: which log, which disk, which file.

use std::fmt;

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $repr:ty, $width:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name($repr);

        impl $name {
            /// The identity with this number.
            #[must_use]
            pub const fn new(number: $repr) -> Self {
                Self(number)
            }
            /// The number itself.
            #[must_use]
            pub const fn get(self) -> $repr {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{:0", $width, "x}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

pub(super) use hex_id;

hex_id! {
    /// A log's random 128-bit identity: the same on every member that holds a copy of the stream.
    LogId, u128, "32"
}

hex_id! {
    /// One disk's life as a holder of the log: drawn at random when the directory is created, so that a wiped disk
    /// never passes for the one it was.
    Incarnation, u64, "16"
}

/// Which stream a frame belongs to; in every frame header, so that a journal shared by many streams stays possible.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct StreamId(pub u64);

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a segment file: from 1, given once, never given again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SegmentNumber(u64);

impl SegmentNumber {
    /// No segment: what the first segment names as its predecessor.
    pub const NONE: SegmentNumber = SegmentNumber(0);
    /// The first segment of a log.
    pub const FIRST: SegmentNumber = SegmentNumber(1);

    /// The segment with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number itself.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for SegmentNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
