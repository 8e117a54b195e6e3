//! Walks a segment's bytes and says what stands where. It decides nothing and repairs nothing.

use super::frame::{FRAME_ALIGN, FrameHeader, HEADER_BYTES};
use super::{Salt, round_up};
use crate::codec::crc32c;

/// Where the scanner gets bytes from: a slice, or a window over a file.
pub(crate) trait ByteSource {
    type Error;

    /// Bytes in all.
    fn len(&self) -> u64;

    /// `count` bytes at `offset`; the scanner never asks beyond `len()`.
    fn bytes(&mut self, offset: u64, count: usize) -> Result<&[u8], Self::Error>;
}

impl<B: ByteSource> ByteSource for &mut B {
    type Error = B::Error;

    fn len(&self) -> u64 {
        (**self).len()
    }

    fn bytes(&mut self, offset: u64, count: usize) -> Result<&[u8], Self::Error> {
        (**self).bytes(offset, count)
    }
}

impl ByteSource for &[u8] {
    type Error = std::convert::Infallible;

    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn bytes(&mut self, offset: u64, count: usize) -> Result<&[u8], Self::Error> {
        Ok(&self[offset as usize..offset as usize + count])
    }
}

/// What stands at an offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    /// A frame whose header and payload are valid.
    Frame { offset: u64, header: FrameHeader },
    /// A valid header whose payload is not what it was.
    BadPayload { offset: u64, header: FrameHeader },
    /// No valid header between here and `end`, where a device block starts. `zero` when all of it is zeros.
    Nothing { offset: u64, end: u64, zero: bool },
}

/// Scans `offset..end`, group by group; scanning resumes at every device block, so what lies behind a broken header is
/// found. Payloads are skipped by their length, never searched: what they contain changes nothing.
pub(crate) struct Scanner<B> {
    source: B,
    salt: Salt,
    block_bytes: u64,
    offset: u64,
    end: u64,
}

impl<B: ByteSource> Scanner<B> {
    /// Starts at `offset`, a group's start, and ends at `end` or the source's end.
    pub(crate) fn new(source: B, salt: Salt, block_bytes: u32, offset: u64, end: u64) -> Scanner<B> {
        let end = end.min(source.len());
        Scanner { source, salt, block_bytes: u64::from(block_bytes), offset, end }
    }

    /// Goes on at `offset`, a multiple of 8 ahead.
    pub(crate) fn skip_to(&mut self, offset: u64) {
        self.offset = offset;
    }

    /// The payload of a frame that was found.
    pub(crate) fn payload(&mut self, offset: u64, header: &FrameHeader) -> Result<&[u8], B::Error> {
        self.source.bytes(offset + HEADER_BYTES as u64, header.payload_bytes as usize)
    }

    /// Where the padding behind a found frame's payload is not zero, up to where the next frame would start.
    pub(crate) fn dirt_behind(&mut self, offset: u64, header: &FrameHeader) -> Result<Option<u64>, B::Error> {
        let from = offset + HEADER_BYTES as u64 + u64::from(header.payload_bytes);
        let to = (offset + header.frame_bytes()).min(self.end);
        Ok((from < to && !is_zero(self.source.bytes(from, (to - from) as usize)?)).then_some(from))
    }

    /// The next thing, or `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Found>, B::Error> {
        let offset = self.offset;
        if offset >= self.end {
            return Ok(None);
        }
        if self.end - offset >= HEADER_BYTES as u64 {
            let header = FrameHeader::decode(self.salt.at(offset), self.source.bytes(offset, HEADER_BYTES)?);
            if let Some(header) = header
                && header.frame_bytes() <= round_up(self.end, FRAME_ALIGN) - offset
                && offset + HEADER_BYTES as u64 + u64::from(header.payload_bytes) <= self.end
            {
                self.offset = offset + header.frame_bytes();
                let valid = crc32c(self.payload(offset, &header)?) == header.payload_crc;
                return Ok(Some(if valid {
                    Found::Frame { offset, header }
                } else {
                    Found::BadPayload { offset, header }
                }));
            }
        }
        let end = (offset / self.block_bytes + 1).saturating_mul(self.block_bytes).min(self.end);
        let zero = is_zero(self.source.bytes(offset, (end - offset) as usize)?);
        self.offset = end;
        Ok(Some(Found::Nothing { offset, end, zero }))
    }
}

/// Folds pieces instead of stopping at the first byte: that vectorises, and most of what is looked at is zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(256).all(|piece| piece.iter().fold(0, |any, byte| any | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Chain;
    use crate::segment::Kind;
    use crate::types::{Incarnation, LogId, Lsn, SegmentNumber};

    const BLOCK: u32 = 512;

    fn salt() -> Salt {
        Salt::new(LogId::new(1), Incarnation::new(2), SegmentNumber::new(3))
    }

    fn put(bytes: &mut Vec<u8>, at: usize, lsn: u64, payload: &[u8]) -> usize {
        let header = FrameHeader {
            kind: Kind::Data,
            flags: 0,
            payload_bytes: payload.len() as u32,
            stream: 0,
            lsn: Lsn::new(lsn),
            time_micros: 0,
            payload_crc: crc32c(payload),
            raw_bytes: payload.len() as u32,
            chain: Chain::new(lsn),
            flushed_through: Lsn::ZERO,
        };
        let end = at + header.frame_bytes() as usize;
        bytes.resize(bytes.len().max(end), 0);
        header.encode(salt().at(at as u64), &mut bytes[at..]);
        bytes[at + HEADER_BYTES..at + HEADER_BYTES + payload.len()].copy_from_slice(payload);
        end
    }

    fn scan(bytes: &[u8]) -> Vec<Found> {
        let mut scanner = Scanner::new(bytes, salt(), BLOCK, 0, u64::MAX);
        let mut all = Vec::new();
        while let Ok(Some(found)) = scanner.next() {
            all.push(found);
        }
        all
    }

    fn lsns(bytes: &[u8]) -> Vec<u64> {
        scan(bytes)
            .iter()
            .filter_map(|f| match f {
                Found::Frame { header, .. } => Some(header.lsn.get()),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn finds_groups_behind_a_broken_header() {
        let mut bytes = Vec::new();
        let end = put(&mut bytes, 0, 1, b"one");
        put(&mut bytes, end, 2, b"two");
        put(&mut bytes, 512, 3, b"three");
        bytes.resize(1024, 0);
        assert_eq!(lsns(&bytes), [1, 2, 3]);
        bytes[3] ^= 1;
        assert_eq!(lsns(&bytes), [3], "the rest of the group is unreachable, the next group is not");
        bytes[3] ^= 1;
        bytes[HEADER_BYTES] ^= 1;
        assert_eq!(lsns(&bytes), [2, 3], "a bad payload costs its own frame only");
    }

    #[test]
    fn a_payload_of_our_own_frames_changes_nothing() {
        let mut inner = Vec::new();
        for i in 0..8 {
            put(&mut inner, i * 512, 100 + i as u64, b"inner");
        }
        let mut bytes = Vec::new();
        put(&mut bytes, 0, 1, &inner);
        bytes.resize(8192, 0);
        put(&mut bytes, 8192, 2, b"after");
        bytes.resize(8704, 0);
        assert_eq!(lsns(&bytes), [1, 2]);
    }

    #[test]
    fn a_length_beyond_the_end_is_nothing() {
        let mut bytes = Vec::new();
        put(&mut bytes, 0, 1, &[7; 600]);
        bytes.truncate(512);
        assert_eq!(scan(&bytes), [Found::Nothing { offset: 0, end: 512, zero: false }]);
    }
}
