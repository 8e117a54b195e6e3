//! The byte format as a stranger reads it: written from the drawings, sharing nothing with the code under test.

use seawall::{Incarnation, LogId};

pub const BLOCK: usize = 4096;
pub const HEADER: usize = 64;

pub const DATA: u8 = 1;
pub const SEAL: u8 = 129;
pub const MARKER: u8 = 130;
pub const INDEX: u8 = 131;
pub const BLANK: u8 = 132;

/// A frame and where it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameAt {
    pub kind: u8,
    pub offset: usize,
    pub payload: usize,
    pub lsn: u64,
    pub flushed_through: u64,
}

impl FrameAt {
    /// Behind the payload.
    pub fn end(&self) -> usize {
        self.offset + HEADER + self.payload
    }

    /// Where the next frame of the group would start.
    pub fn next(&self) -> usize {
        self.end().next_multiple_of(8)
    }
}

pub fn segment_name(number: u64) -> String {
    format!("{number:020}.seg")
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// Every frame of an undamaged segment whose unused part is zeros, in blocks of `block`.
pub fn frames_in_blocks(bytes: &[u8], block: usize) -> Vec<FrameAt> {
    let mut all = Vec::new();
    let mut at = block;
    while at + HEADER <= bytes.len() {
        let kind = bytes[at];
        if kind == 0 {
            if at.is_multiple_of(block) {
                break;
            }
            at = at.next_multiple_of(block);
            continue;
        }
        let frame = FrameAt {
            kind,
            offset: at,
            payload: u32_at(bytes, at + 4) as usize,
            lsn: u64_at(bytes, at + 16),
            flushed_through: u64_at(bytes, at + 48),
        };
        assert!(frame.end() <= bytes.len(), "not a frame: {frame:?}");
        all.push(frame);
        at = frame.next();
    }
    all
}

pub fn frames(bytes: &[u8]) -> Vec<FrameAt> {
    frames_in_blocks(bytes, BLOCK)
}

pub fn data_frames(bytes: &[u8]) -> Vec<FrameAt> {
    frames(bytes).into_iter().filter(|frame| frame.kind == DATA).collect()
}

/// The seed of a header's checksum, as salt.rs states it.
pub fn seed(log: LogId, incarnation: Incarnation, segment: u64, offset: usize) -> u32 {
    let log = log.get();
    let mut x = (log as u64) ^ ((log >> 64) as u64).rotate_left(29) ^ incarnation.get().rotate_left(47);
    for _ in 0..2 {
        x = (x ^ (x >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    }
    x ^= x >> 32;
    let segment = (segment as u32).wrapping_mul(0x9E37_79B1);
    let offset = ((offset >> 3) as u32).wrapping_mul(0x85EB_CA6B);
    (x as u32).wrapping_add(segment).wrapping_add(offset)
}

/// States another `flushed_through` in a frame's header, with a checksum to match.
pub fn state_flushed(segment: &mut [u8], offset: usize, flushed_through: u64, seed: u32) {
    restate(segment, offset, 48, flushed_through, seed);
}

/// States another chain likewise.
pub fn state_chain(segment: &mut [u8], offset: usize, chain: u64, seed: u32) {
    restate(segment, offset, 40, chain, seed);
}

fn restate(segment: &mut [u8], offset: usize, field: usize, word: u64, seed: u32) {
    let header = &mut segment[offset..offset + HEADER];
    assert_eq!(u32_at(header, 60), crc32c::crc32c_append(seed, &header[..60]), "this frame is not where it belongs");
    header[field..field + 8].copy_from_slice(&word.to_le_bytes());
    let crc = crc32c::crc32c_append(seed, &header[..60]);
    header[60..64].copy_from_slice(&crc.to_le_bytes());
}

/// Makes a segment header, or a control slot that covers `length` bytes, say another version, with a checksum to match.
pub fn set_version(bytes: &mut [u8], version: u32, length: usize) {
    bytes[8..12].copy_from_slice(&version.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..length]);
    bytes[length..length + 4].copy_from_slice(&crc.to_le_bytes());
}
