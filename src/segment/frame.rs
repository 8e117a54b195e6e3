//! The frame header: 64 bytes, little-endian, at a multiple of 8.
//!
//! ```text
//!  0 kind         1   1 = data; 129 seal, 130 flush marker, 131 index, 132 blank: local records
//!  1 flags        1   bit 0: the payload is an LZ4 block
//!  2 zero         2
//!  4 payload      4   bytes stored after this header
//!  8 stream       8                                        replicated part:
//! 16 lsn          8   0 in a local record                  identical on every
//! 24 time         8   writer's clock, µs, never decreasing member
//! 32 payload crc  4   CRC-32C of the stored payload, unsalted
//! 36 raw          4   bytes before compression
//! 40 chain        8   over everything up to and including this frame; 0 in a local record
//! 48 flushed      8   flushed_through of this member when the frame was encoded      local part
//! 56 zero         4
//! 60 header crc   4   CRC-32C of bytes 0..60, seeded by salt and byte offset
//! ```
//!
//! A length is believed only after the header's checksum. A header that does not belong where it stands fails it, with
//! the certainties stated in salt.rs.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::codec::{Chain, crc32c_seeded};
use crate::types::Lsn;

/// Bytes of a frame's header.
pub(crate) const HEADER_BYTES: usize = 64;
/// The code of [`Kind::Index`].
pub(crate) const INDEX_KIND: u8 = 131;
/// The payload is an LZ4 block.
pub(crate) const FLAG_LZ4: u8 = 1;

/// Frames start at multiples of this.
pub(crate) const FRAME_ALIGN: u64 = 8;

/// What a frame holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// A user's record or block; has an Lsn.
    Data,
    /// Fixes where the log before this segment ends.
    Seal,
    /// Proves what is flushed.
    FlushMarker,
    /// Where to find what in this sealed segment.
    Index,
    /// Stands at the place of the seal in a prepared segment: nothing was ever written behind it.
    Blank,
}

impl Kind {
    pub(crate) fn code(self) -> u8 {
        match self {
            Kind::Data => 1,
            Kind::Seal => 129,
            Kind::FlushMarker => 130,
            Kind::Index => INDEX_KIND,
            Kind::Blank => 132,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Kind> {
        Some(match code {
            1 => Kind::Data,
            129 => Kind::Seal,
            130 => Kind::FlushMarker,
            INDEX_KIND => Kind::Index,
            132 => Kind::Blank,
            _ => return None,
        })
    }
}

/// A decoded header. Field meanings as drawn above.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FrameHeader {
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    pub(crate) payload_bytes: u32,
    pub(crate) stream: u64,
    pub(crate) lsn: Lsn,
    pub(crate) time_micros: u64,
    pub(crate) payload_crc: u32,
    pub(crate) raw_bytes: u32,
    pub(crate) chain: Chain,
    pub(crate) flushed_through: Lsn,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout {
    kind: u8,
    flags: u8,
    zero: U16,
    payload_bytes: U32,
    stream: U64,
    lsn: U64,
    time_micros: U64,
    payload_crc: U32,
    raw_bytes: U32,
    chain: U64,
    flushed_through: U64,
    zero_local: U32,
    header_crc: U32,
}

const _: () = assert!(size_of::<Layout>() == HEADER_BYTES);
const _: () = assert!(std::mem::offset_of!(Layout, chain) == 40 && std::mem::offset_of!(Layout, header_crc) == 60);

impl FrameHeader {
    /// The chain after this frame, given the chain before it: over every replicated field but the chain itself.
    #[inline]
    pub(crate) fn chain_after(&self, before: Chain) -> Chain {
        before.extend([
            u64::from(self.kind.code()) | u64::from(self.flags) << 8 | u64::from(self.payload_bytes) << 32,
            self.stream,
            self.lsn.get(),
            self.time_micros,
            u64::from(self.payload_crc) | u64::from(self.raw_bytes) << 32,
        ])
    }

    /// Writes the header into the first 64 bytes of `into`.
    #[inline]
    pub(crate) fn encode(&self, seed: u32, into: &mut [u8]) {
        let mut layout = Layout {
            kind: self.kind.code(),
            flags: self.flags,
            zero: U16::ZERO,
            payload_bytes: self.payload_bytes.into(),
            stream: self.stream.into(),
            lsn: self.lsn.get().into(),
            time_micros: self.time_micros.into(),
            payload_crc: self.payload_crc.into(),
            raw_bytes: self.raw_bytes.into(),
            chain: self.chain.get().into(),
            flushed_through: self.flushed_through.get().into(),
            zero_local: U32::ZERO,
            header_crc: U32::ZERO,
        };
        layout.header_crc = crc32c_seeded(seed, &layout.as_bytes()[..HEADER_BYTES - 4]).into();
        into[..HEADER_BYTES].copy_from_slice(layout.as_bytes());
    }

    /// The header in the first 64 bytes of `bytes`, if one that belongs here stands there.
    #[inline]
    pub(crate) fn decode(seed: u32, bytes: &[u8]) -> Option<FrameHeader> {
        let (layout, _) = Layout::ref_from_prefix(bytes).ok()?;
        // Cheap refusals first: scanning meets far more zeros and old bytes than headers.
        let kind = Kind::from_code(layout.kind)?;
        if layout.zero != U16::ZERO || layout.zero_local != U32::ZERO || layout.flags & !FLAG_LZ4 != 0 {
            return None;
        }
        if layout.header_crc.get() != crc32c_seeded(seed, &bytes[..HEADER_BYTES - 4]) {
            return None;
        }
        let is_data = kind == Kind::Data;
        if is_data == (layout.lsn == U64::ZERO) {
            return None;
        }
        Some(FrameHeader {
            kind,
            flags: layout.flags,
            payload_bytes: layout.payload_bytes.get(),
            stream: layout.stream.get(),
            lsn: Lsn::new(layout.lsn.get()),
            time_micros: layout.time_micros.get(),
            payload_crc: layout.payload_crc.get(),
            raw_bytes: layout.raw_bytes.get(),
            chain: Chain::new(layout.chain.get()),
            flushed_through: Lsn::new(layout.flushed_through.get()),
        })
    }

    /// Bytes from this header's start to where the next frame of the group would start.
    #[inline]
    pub(crate) fn frame_bytes(&self) -> u64 {
        frame_bytes(self.payload_bytes as usize)
    }
}

/// Bytes a frame with this payload takes in its group: header, payload, padding to 8.
#[inline]
pub(crate) const fn frame_bytes(payload_bytes: usize) -> u64 {
    super::round_up((HEADER_BYTES + payload_bytes) as u64, FRAME_ALIGN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> FrameHeader {
        FrameHeader {
            kind: Kind::Data,
            flags: 0,
            payload_bytes: 1000,
            stream: 3,
            lsn: Lsn::new(42),
            time_micros: 1_700_000_000_000_000,
            payload_crc: 0xDEAD_BEEF,
            raw_bytes: 1000,
            chain: Chain::new(0x0123_4567_89AB_CDEF),
            flushed_through: Lsn::new(40),
        }
    }

    #[test]
    fn round_trip_and_every_bit_is_covered() {
        let mut bytes = [0u8; HEADER_BYTES];
        header().encode(77, &mut bytes);
        assert_eq!(FrameHeader::decode(77, &bytes), Some(header()));
        assert_eq!(FrameHeader::decode(78, &bytes), None, "another place");
        for bit in 0..HEADER_BYTES * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FrameHeader::decode(77, &bytes), None, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(FrameHeader::decode(77, &bytes[..63]), None, "too short");
    }

    #[test]
    fn golden() {
        let mut bytes = [0u8; HEADER_BYTES];
        header().encode(77, &mut bytes);
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "01000000e803000003000000000000002a0000000000000000401e18240a0600\
             efbeaddee8030000efcdab89674523012800000000000000000000001a36af59"
        );
    }
}
