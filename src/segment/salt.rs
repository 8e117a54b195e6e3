//! What ties a frame to its place: the seed of its header's checksum.
//!
//! `seed = f(log id, incarnation) + segment × odd + (offset / 8) × odd'`, modulo 2^32. Because CRC-32C is a bijection
//! of its seed for given bytes, a frame that was valid elsewhere is
//! - certainly invalid at the same offset of another segment of this log (a recycled file's old bytes), and at another
//!   offset below 32 GiB of the same segment (a misdirected write): the seeds differ;
//! - invalid but for 2^-32 when both segment and offset, or the log, differ.

use crate::types::{Incarnation, LogId, SegmentNumber};

/// The seed of one segment; the offset is added per frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Salt(u32);

const SEGMENT_ODD: u32 = 0x9E37_79B1;
const OFFSET_ODD: u32 = 0x85EB_CA6B;

impl Salt {
    pub(crate) fn new(log: LogId, incarnation: Incarnation, segment: SegmentNumber) -> Salt {
        let log = log.get();
        let mut x = (log as u64) ^ ((log >> 64) as u64).rotate_left(29) ^ incarnation.get().rotate_left(47);
        // The finisher of a 64-bit mixer: every input bit reaches every output bit.
        x = (x ^ (x >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        x = (x ^ (x >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        x ^= x >> 32;
        Salt((x as u32).wrapping_add((segment.get() as u32).wrapping_mul(SEGMENT_ODD)))
    }

    /// The seed of the header at this byte offset (a multiple of 8) of the segment.
    #[inline]
    pub(crate) fn at(self, offset: u64) -> u32 {
        self.0.wrapping_add(((offset >> 3) as u32).wrapping_mul(OFFSET_ODD))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_differ_where_they_must() {
        let (log, incarnation) = (LogId::new(77), Incarnation::new(5));
        let seed = |segment, offset| Salt::new(log, incarnation, SegmentNumber::new(segment)).at(offset);
        for i in 1..10_000 {
            assert_ne!(seed(1, 4096), seed(1 + i, 4096));
            assert_ne!(seed(1, 4096), seed(1, 4096 + 8 * i));
        }
        assert_ne!(seed(1, 0), Salt::new(log, Incarnation::new(6), SegmentNumber::new(1)).at(0));
        assert_ne!(seed(1, 0), Salt::new(LogId::new(78), incarnation, SegmentNumber::new(1)).at(0));
    }
}
