//! Local records: what one member's files say about themselves. They have no Lsn and are not in the chain.

use super::control::{COUNTED_MAX, TrimPoint};
use super::frame::{FrameHeader, HEADER_BYTES, Kind};
use crate::codec::{Chain, Reader, Truncated, crc32c};
use crate::types::{Lsn, SegmentNumber};

/// The first record of a used segment: where the log before this segment ends.
///
/// Written only after every group up to that end is flushed, so whatever stands behind `sealed_end_offset` in the
/// sealed segment was never acknowledged or was truncated, and is never looked at again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seal {
    /// The segment this one continues; `NONE` in a log's first. Not always the number before: a suffix truncation
    /// reaches back over the segments it removes.
    pub(crate) sealed_segment: SegmentNumber,
    /// Where the sealed segment's last group that counts ends; 0 with `NONE`.
    pub(crate) sealed_end_offset: u64,
    /// The last Lsn before this segment.
    pub(crate) end: Lsn,
    /// The chain there.
    pub(crate) end_chain: Chain,
    /// The last time before this segment, µs.
    pub(crate) end_time_micros: u64,
    /// How many suffix truncations the log has seen.
    pub(crate) truncation_count: u64,
    /// The control file's generation when this was written: a control file with a lower one is older than the log.
    pub(crate) control_generation: u64,
    /// The trim point then, so that a lost control file can be rebuilt.
    pub(crate) trim: TrimPoint,
    /// How long the file was that this record stands in: shorter, it was cut, and what it held there is unknown.
    pub(crate) file_bytes: u64,
}

impl Seal {
    pub(crate) const PAYLOAD_BYTES: usize = 11 * 8;

    pub(crate) fn encode(&self) -> [u8; Seal::PAYLOAD_BYTES] {
        let words = [
            self.sealed_segment.get(),
            self.sealed_end_offset,
            self.end.get(),
            self.end_chain.get(),
            self.end_time_micros,
            self.truncation_count,
            self.control_generation,
            self.trim.lsn.get(),
            self.trim.chain.get(),
            self.trim.first_segment.get(),
            self.file_bytes,
        ];
        encode_words(words)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Seal, Truncated> {
        let mut reader = Reader::new(bytes);
        let seal = Seal {
            sealed_segment: SegmentNumber::new(reader.u64()?),
            sealed_end_offset: reader.u64()?,
            end: Lsn::new(reader.u64()?),
            end_chain: Chain::new(reader.u64()?),
            end_time_micros: reader.u64()?,
            truncation_count: reader.u64()?,
            control_generation: reader.u64()?,
            trim: TrimPoint {
                lsn: Lsn::new(reader.u64()?),
                chain: Chain::new(reader.u64()?),
                first_segment: SegmentNumber::new(reader.u64()?),
            },
            file_bytes: reader.u64()?,
        };
        reader.finish()?;
        let counted = [seal.sealed_segment.get(), seal.sealed_end_offset, seal.end.get(), seal.truncation_count];
        let told = [seal.control_generation, seal.trim.lsn.get(), seal.trim.first_segment.get(), seal.file_bytes];
        if counted.into_iter().chain(told).any(|number| number > COUNTED_MAX) {
            return Err(Truncated);
        }
        Ok(seal)
    }
}

/// Proof that everything up to a position is flushed: written behind the seal that an open writes, and when the pipeline
/// has been idle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FlushMarker {
    pub(crate) flushed_through: Lsn,
    /// The chain there: what a quarantined tail continues from.
    pub(crate) chain: Chain,
}

impl FlushMarker {
    pub(crate) const PAYLOAD_BYTES: usize = 2 * 8;

    pub(crate) fn encode(&self) -> [u8; FlushMarker::PAYLOAD_BYTES] {
        encode_words([self.flushed_through.get(), self.chain.get()])
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<FlushMarker, Truncated> {
        let mut reader = Reader::new(bytes);
        let marker = FlushMarker { flushed_through: Lsn::new(reader.u64()?), chain: Chain::new(reader.u64()?) };
        reader.finish()?;
        Ok(marker)
    }
}

fn encode_words<const WORDS: usize, const BYTES: usize>(words: [u64; WORDS]) -> [u8; BYTES] {
    const { assert!(WORDS * 8 == BYTES) };
    let mut bytes = [0u8; BYTES];
    for (into, word) in bytes.chunks_exact_mut(8).zip(words) {
        into.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// Writes a local record's header and payload to the start of `into`; returns the frame's bytes, padding included
/// (which the caller's buffer must already hold as zeros).
pub(crate) fn encode_local(
    kind: Kind,
    payload: &[u8],
    stream: u64,
    time_micros: u64,
    flushed_through: Lsn,
    seed: u32,
    into: &mut [u8],
) -> u64 {
    let header = FrameHeader {
        kind,
        flags: 0,
        payload_bytes: payload.len() as u32,
        stream,
        lsn: Lsn::ZERO,
        time_micros,
        payload_crc: crc32c(payload),
        raw_bytes: payload.len() as u32,
        chain: Chain::default(),
        flushed_through,
    };
    header.encode(seed, into);
    into[HEADER_BYTES..HEADER_BYTES + payload.len()].copy_from_slice(payload);
    header.frame_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        let seal = Seal {
            sealed_segment: SegmentNumber::new(3),
            sealed_end_offset: 8192,
            end: Lsn::new(10),
            end_chain: Chain::new(99),
            end_time_micros: 5,
            truncation_count: 1,
            control_generation: 12,
            trim: TrimPoint { lsn: Lsn::new(2), chain: Chain::new(4), first_segment: SegmentNumber::new(1) },
            file_bytes: 1 << 20,
        };
        assert_eq!(Seal::decode(&seal.encode()), Ok(seal));
        // What version 1 wrote must be read for ever.
        assert_eq!(crc32c(&seal.encode()), 2_400_451_756);
        assert!(Seal::decode(&seal.encode()[1..]).is_err());
        // A checksum can be made to match anything: what no log counts to is no seal of one.
        assert!(Seal::decode(&Seal { control_generation: u64::MAX, ..seal }.encode()).is_err());
        let marker = FlushMarker { flushed_through: Lsn::new(9), chain: Chain::new(8) };
        assert_eq!(FlushMarker::decode(&marker.encode()), Ok(marker));
        assert_eq!(crc32c(&marker.encode()), 2_074_262_761);
    }
}
