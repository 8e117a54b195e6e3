//! Doors into the formats for fuzzers, benches and the replay of corpora. Unstable: anything here may change or vanish
//! in any version.

use crate::codec::{Chain, crc32c as sum, crc32c_seeded as sum_seeded};
use crate::log::{judge, scan_segment};
use crate::segment::{
    CONTROL_FILE_BYTES, CONTROL_SLOT_BYTES, Control, FlushMarker, Found, FrameHeader, HEADER_BYTES, Kind, Salt,
    Scanner, Seal, SegmentHeader, SparseIndex, TrimPoint, frame_bytes,
};
use crate::types::{Incarnation, LogId, Lsn, LsnRange, SegmentNumber, StreamId};

/// Bytes of a frame's header.
pub const FRAME_HEADER_BYTES: usize = HEADER_BYTES;

/// Which segment of which log: what the checksums of its headers depend on.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The log.
    pub log: LogId,
    /// The disk.
    pub incarnation: Incarnation,
    /// The segment.
    pub segment: SegmentNumber,
}

impl Place {
    fn salt(self) -> Salt {
        Salt::new(self.log, self.incarnation, self.segment)
    }

    /// The seed of the header at an offset.
    #[must_use]
    pub fn seed(self, offset: u64) -> u32 {
        self.salt().at(offset)
    }
}

/// What a frame's header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts {
    /// 1: data; 129: seal; 130: flush marker; 131: index; 132: blank.
    pub kind: u8,
    /// Bit 0: the payload is compressed.
    pub flags: u8,
    /// Bytes stored behind the header.
    pub payload_bytes: u32,
    /// The stream.
    pub stream: u64,
    /// The position; zero in local records.
    pub lsn: Lsn,
    /// The writer's clock.
    pub time_micros: u64,
    /// CRC-32C of the stored payload.
    pub payload_crc: u32,
    /// Bytes before compression.
    pub raw_bytes: u32,
    /// The chain up to and including this frame.
    pub chain: Chain,
    /// What the writer knew to be flushed.
    pub flushed_through: Lsn,
}

impl Facts {
    fn of(header: &FrameHeader) -> Facts {
        Facts {
            kind: header.kind.code(),
            flags: header.flags,
            payload_bytes: header.payload_bytes,
            stream: header.stream,
            lsn: header.lsn,
            time_micros: header.time_micros,
            payload_crc: header.payload_crc,
            raw_bytes: header.raw_bytes,
            chain: header.chain,
            flushed_through: header.flushed_through,
        }
    }

    fn header(&self) -> Option<FrameHeader> {
        Some(FrameHeader {
            kind: Kind::from_code(self.kind)?,
            flags: self.flags,
            payload_bytes: self.payload_bytes,
            stream: self.stream,
            lsn: self.lsn,
            time_micros: self.time_micros,
            payload_crc: self.payload_crc,
            raw_bytes: self.raw_bytes,
            chain: self.chain,
            flushed_through: self.flushed_through,
        })
    }

    /// Bytes of the whole frame, padding included.
    #[must_use]
    pub fn frame_bytes(&self) -> u64 {
        frame_bytes(self.payload_bytes as usize)
    }

    /// The chain this frame has if the frame before it has `before`.
    #[must_use]
    pub fn chain_after(&self, before: Chain) -> Chain {
        self.header().map_or(before, |header| header.chain_after(before))
    }
}

/// CRC-32C.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    sum(bytes)
}

/// A data frame as the log would write it, without its padding, into the start of `into`; returns the chain after it.
///
/// # Panics
/// When it does not fit.
pub fn encode_data(seed: u32, lsn: Lsn, before: Chain, payload: &[u8], into: &mut [u8]) -> Chain {
    let mut header = FrameHeader {
        kind: Kind::Data,
        flags: 0,
        payload_bytes: payload.len() as u32,
        stream: 0,
        lsn,
        time_micros: lsn.get(),
        payload_crc: sum(payload),
        raw_bytes: payload.len() as u32,
        chain: before,
        flushed_through: lsn.previous(),
    };
    header.chain = header.chain_after(before);
    header.encode(seed, into);
    into[HEADER_BYTES..HEADER_BYTES + payload.len()].copy_from_slice(payload);
    header.chain
}

/// The header in the first bytes, if one that belongs there stands there.
#[must_use]
pub fn decode_frame(seed: u32, bytes: &[u8]) -> Option<Facts> {
    FrameHeader::decode(seed, bytes).as_ref().map(Facts::of)
}

/// The bytes of a header; `None` when there is no such kind.
#[must_use]
pub fn encode_header(seed: u32, facts: &Facts) -> Option<[u8; HEADER_BYTES]> {
    let mut bytes = [0; HEADER_BYTES];
    facts.header()?.encode(seed, &mut bytes);
    Some(bytes)
}

/// Gives a forged header the checksum it needs to be believed.
pub fn reseal_frame(seed: u32, header: &mut [u8]) {
    if header.len() >= HEADER_BYTES {
        let crc = sum_seeded(seed, &header[..HEADER_BYTES - 4]);
        header[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Gives a forged slot of a control file the checksum it needs to be believed.
pub fn reseal_control(slot: &mut [u8]) {
    let Some(length) = slot.get(12..16) else { return };
    let length = u32::from_le_bytes(length.try_into().expect("4 bytes")) as usize;
    if length.checked_add(4).is_some_and(|end| end <= slot.len()) {
        let crc = sum(&slot[..length]);
        slot[length..length + 4].copy_from_slice(&crc.to_le_bytes());
    }
}

/// A control file for a new log of this identity.
#[must_use]
pub fn new_control_file(log: LogId, incarnation: Incarnation, block_bytes: u32) -> Vec<u8> {
    let control = Control {
        generation: 1,
        log,
        incarnation,
        stream: StreamId(0),
        block_bytes,
        open_count: 0,
        highest_segment: SegmentNumber::NONE,
        truncation_count: 0,
        trim: TrimPoint { lsn: Lsn::ZERO, chain: Chain::start(0), first_segment: SegmentNumber::FIRST },
        clean_close: None,
        quarantined: Vec::new(),
        passed_over: Vec::new(),
        extension: Vec::new(),
    };
    let mut file = vec![0; CONTROL_FILE_BYTES];
    let at = control.slot_offset() as usize;
    file[at..at + CONTROL_SLOT_BYTES].copy_from_slice(&control.encode());
    file
}

/// Reads a control file, as the bytes of the slot that counts and where that slot belongs.
#[must_use]
pub fn decode_control(file: &[u8]) -> Option<(u64, Vec<u8>)> {
    Control::decode(file).ok().map(|control| (control.slot_offset(), control.encode()))
}

/// Reads a segment header, as its bytes.
#[must_use]
pub fn decode_segment_header(bytes: &[u8]) -> Option<[u8; SegmentHeader::BYTES]> {
    let mut again = [0; SegmentHeader::BYTES];
    SegmentHeader::decode(bytes).ok()?.encode(&mut again);
    Some(again)
}

/// Reads a seal's payload, as its bytes.
#[must_use]
pub fn decode_seal(payload: &[u8]) -> Option<Vec<u8>> {
    Seal::decode(payload).ok().map(|seal| seal.encode().to_vec())
}

/// Reads a flush marker's payload: what it says is flushed, the chain there, and its bytes.
#[must_use]
pub fn decode_marker(payload: &[u8]) -> Option<(Lsn, Chain, Vec<u8>)> {
    let marker = FlushMarker::decode(payload).ok()?;
    Some((marker.flushed_through, marker.chain, marker.encode().to_vec()))
}

/// Reads an index's payload, as its bytes.
#[must_use]
pub fn decode_index(payload: &[u8], sealed_end_offset: u64) -> Option<Vec<u8>> {
    SparseIndex::decode(payload, sealed_end_offset).map(|index| index.encode())
}

/// Something that stands in a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Where.
    pub offset: u64,
    /// Where it ends, padding left out.
    pub end: u64,
    /// The header, if it is a frame.
    pub frame: Option<Facts>,
    /// Its payload is what it was, or its bytes are all zero.
    pub sound: bool,
}

/// Everything that stands in a segment, from the first group on.
#[must_use]
pub fn walk(segment: &[u8], place: Place, block_bytes: u32) -> Vec<Standing> {
    let mut scanner = Scanner::new(segment, place.salt(), block_bytes, u64::from(block_bytes), u64::MAX);
    let frame = |offset, header: &FrameHeader, sound| {
        let end = offset + (HEADER_BYTES as u64) + u64::from(header.payload_bytes);
        Standing { offset, end, frame: Some(Facts::of(header)), sound }
    };
    let mut all = Vec::new();
    while let Ok(Some(found)) = scanner.next() {
        all.push(match found {
            Found::Frame { offset, header } => frame(offset, &header, true),
            Found::BadPayload { offset, header } => frame(offset, &header, false),
            Found::Nothing { offset, end, zero } => Standing { offset, end, frame: None, sound: zero },
        });
    }
    all
}

/// What a scan of a segment found, and what it is judged to mean for the tail of a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scanned {
    /// The last frame before this segment, by its seal.
    pub sealed_before: Option<Lsn>,
    /// The last frame in order before the first gap, and where its group ends.
    pub prefix: (Lsn, u64),
    /// Gaps: where, which frames, and the last frame and the end of what follows.
    pub gaps: Vec<(u64, LsnRange, Lsn, u64)>,
    /// Frames in order.
    pub frames: u64,
    /// Bytes of their payloads.
    pub payload_bytes: u64,
    /// What anything valid states to be flushed.
    pub claims: Lsn,
    /// Where bytes begin that are no frame.
    pub unreadable: Option<u64>,
    /// Where padding is not zero.
    pub dirty_padding: Vec<u64>,
    /// Where local records are damaged.
    pub scuffs: Vec<u64>,
    /// The index's payload.
    pub index: Vec<u8>,
    /// Where the log is judged to end: the frame, and the offset.
    pub end: (Lsn, u64),
    /// Durable frames that cannot be read.
    pub damage: Vec<LsnRange>,
    /// Frames that were never acknowledged.
    pub dropped: Option<LsnRange>,
    /// Everything up to here was proven flushed.
    pub proven: Lsn,
}

/// Scans a segment up to `end` and judges it, as of a log of which nothing was trimmed.
#[must_use]
pub fn scan(segment: &[u8], place: Place, block_bytes: u32, end: u64, index_stride_bytes: u64) -> Scanned {
    let Ok(scan) = scan_segment(segment, place.salt(), block_bytes, end, index_stride_bytes);
    let trim = TrimPoint { lsn: Lsn::ZERO, chain: Chain::default(), first_segment: SegmentNumber::FIRST };
    let verdict = judge(&scan, &trim, false);
    Scanned {
        sealed_before: scan.seal.map(|seal| seal.end),
        prefix: (scan.prefix.last, scan.prefix.end_offset),
        gaps: scan.gaps.iter().map(|gap| (gap.offset, gap.lsns, gap.next.last, gap.next.end_offset)).collect(),
        frames: scan.frames,
        payload_bytes: scan.payload_bytes,
        claims: scan.claims,
        unreadable: scan.unreadable,
        dirty_padding: scan.dirty_padding.iter().map(|(offset, _)| *offset).collect(),
        scuffs: scan.scuffs.iter().map(|(offset, _)| *offset).collect(),
        index: scan.index.encode(),
        end: (verdict.end.last, verdict.end.end_offset),
        damage: verdict.damage.iter().map(|gap| gap.lsns).collect(),
        dropped: verdict.dropped,
        proven: verdict.proven,
    }
}
