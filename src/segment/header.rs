//! The segment header: the first device block of a segment file, written when the file is prepared.
//!
//! ```text
//!  0 magic        8   "SEAWALLS"
//!  8 version      4
//! 12 block        4   device block in bytes: groups start at its multiples
//! 16 log id      16
//! 32 incarnation  8
//! 40 number       8   this segment's; a file under another number's name is not that segment
//! 48 stream       8
//! 56 zero         4
//! 60 crc          4   CRC-32C of bytes 0..60; the rest of the block is zero
//! ```

use crate::codec::{Reader, crc32c};
use crate::types::{Incarnation, LogId, SegmentNumber, StreamId};

use super::FORMAT_VERSION;

const MAGIC: [u8; 8] = *b"SEAWALLS";

/// What a segment file says it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SegmentHeader {
    pub(crate) block_bytes: u32,
    pub(crate) log: LogId,
    pub(crate) incarnation: Incarnation,
    pub(crate) number: SegmentNumber,
    pub(crate) stream: StreamId,
}

/// Why a header was not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum HeaderError {
    /// Damaged, or no header at all.
    Invalid,
    /// Written by a later version of this format.
    Future { version: u32 },
}

impl SegmentHeader {
    pub(crate) const BYTES: usize = 64;

    /// Writes the header to the first bytes of `block` and zeros to the rest.
    pub(crate) fn encode(&self, block: &mut [u8]) {
        block.fill(0);
        block[0..8].copy_from_slice(&MAGIC);
        block[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        block[12..16].copy_from_slice(&self.block_bytes.to_le_bytes());
        block[16..32].copy_from_slice(&self.log.get().to_le_bytes());
        block[32..40].copy_from_slice(&self.incarnation.get().to_le_bytes());
        block[40..48].copy_from_slice(&self.number.get().to_le_bytes());
        block[48..56].copy_from_slice(&self.stream.0.to_le_bytes());
        let crc = crc32c(&block[..60]);
        block[60..64].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads the header from the first bytes of a segment.
    pub(crate) fn decode(bytes: &[u8]) -> Result<SegmentHeader, HeaderError> {
        let head = bytes.get(..Self::BYTES).ok_or(HeaderError::Invalid)?;
        Self::decode_exact(head).ok_or(HeaderError::Invalid)?
    }

    fn decode_exact(head: &[u8]) -> Option<Result<SegmentHeader, HeaderError>> {
        let mut reader = Reader::new(head);
        if reader.bytes(8).ok()? != MAGIC {
            return None;
        }
        let version = reader.u32().ok()?;
        let header = SegmentHeader {
            block_bytes: reader.u32().ok()?,
            log: LogId::new(reader.u128().ok()?),
            incarnation: Incarnation::new(reader.u64().ok()?),
            number: SegmentNumber::new(reader.u64().ok()?),
            stream: StreamId(reader.u64().ok()?),
        };
        let zero = reader.u32().ok()?;
        let crc = reader.u32().ok()?;
        reader.finish().ok()?;
        // Every version keeps its checksum here, so a rotten version number reads as damage, not as the future.
        if crc != crc32c(&head[..60]) {
            return None;
        }
        if version != FORMAT_VERSION {
            return Some(Err(HeaderError::Future { version }));
        }
        (zero == 0 && is_block_bytes(header.block_bytes)).then_some(Ok(header))
    }
}

/// What a device's block can be.
pub(super) fn is_block_bytes(bytes: u32) -> bool {
    bytes.is_power_of_two() && (512..=65536).contains(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_every_bit_and_the_future() {
        let header = SegmentHeader {
            block_bytes: 4096,
            log: LogId::new(1 << 100),
            incarnation: Incarnation::new(9),
            number: SegmentNumber::new(4),
            stream: StreamId(2),
        };
        let mut block = vec![0xFF; 4096];
        header.encode(&mut block);
        assert_eq!(SegmentHeader::decode(&block), Ok(header));
        // What version 1 wrote must be read for ever.
        assert_eq!(crc32c(&block), 310_242_428);
        for bit in 0..SegmentHeader::BYTES * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&block), Err(HeaderError::Invalid), "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
        block[8] = 9;
        let crc = crc32c(&block[..60]);
        block[60..64].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&block), Err(HeaderError::Future { version: 9 }));
    }
}
