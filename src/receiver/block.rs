//! What a receiver puts into one frame of its stream.
//!
//! ```text
//! 0   u32  magic "SWB1"
//! 4   u16  how many ranges
//! 6   u16  0
//! 8   u64  Lsn from which on the sources' state can be replayed, as of this block; 0: from the stream's first frame.
//!          The last part of a snapshot is the first block that names that snapshot's beginning.
//! 16  ranges, one behind the other:
//!     0   u8   kind: 0 records, 1 skipped, 2 session, 3 reject, 4 retired, 5 position, 6 reject not yet seen,
//!              7 rejects seen, up to `last`
//!     1   u8   length of the source's name
//!     2   u8   sequences: 0 dense, 1 sparse, 2 none
//!     3   u8   reason, of a reject
//!     4   u32  how many records; of a reject, the record's length
//!     8   u64  epoch
//!     16  u64  previous sequence
//!     24  u64  last sequence
//!     32  u32  payload bytes
//!     36  the source's name
//! …   the ranges' payloads, in the same order
//! ```
//!
//! Little-endian; the frame around it has the checksum. Each block names its sources in full, so that it can be read
//! alone, whatever was trimmed or damaged before it. (References to names given earlier would save the name's length per
//! range, and make every reader depend on frames that may be gone.)

use bytes::{BufMut, Bytes, BytesMut};

use super::message::{RejectReason, Sequences};
use super::payload::{PayloadError, Walk};
use super::wire;
use crate::codec::{Reader, Truncated};
use crate::types::{Lsn, Seq, SourceEpoch, SourceId};

const MAGIC: u32 = u32::from_le_bytes(*b"SWB1");
const HEADER_BYTES: usize = 16;
const RANGE_BYTES: usize = 36;
/// In a range.
const NAME_LENGTH_AT: usize = 1;

/// A block has at most this many ranges.
pub(crate) const RANGES_MAX: usize = u16::MAX as usize;

/// Why a frame's payload is no block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// It was not written by a receiver.
    #[error("the frame holds no receiver block: the log was written by something else")]
    Magic,
    /// Lengths do not add up.
    #[error("the block's lengths do not add up")]
    Length,
    /// A field has a value that means nothing to this version.
    #[error("the block has a field this version does not know")]
    Field,
    /// A range's records are not as announced.
    #[error("a range's records: {0}")]
    Payload(#[from] PayloadError),
}

impl From<Truncated> for BlockError {
    fn from(_: Truncated) -> BlockError {
        BlockError::Length
    }
}

/// What one source's part of a block says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Range {
    /// What happened.
    pub kind: RangeKind,
    /// Whose records; `None` only for unnamed sources without sequences.
    pub source: Option<SourceId>,
    /// In which of its lives.
    pub epoch: SourceEpoch,
    /// How they are numbered.
    pub sequences: Sequences,
    /// How many records.
    pub records: u32,
    /// The sequence before the first one.
    pub previous: Seq,
    /// The last one's sequence.
    pub last: Seq,
}

/// What happened to a source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RangeKind {
    /// It sent records.
    Records,
    /// It said that sequences will never come.
    Skipped,
    /// It came with a new epoch: older sessions are fenced.
    Session,
    /// It sent one record that was refused; what was kept of it is the payload.
    Reject {
        /// Why.
        reason: RejectReason,
        /// The record's length.
        bytes: u32,
    },
    /// An operator retired it: it may not come back.
    Retired,
    /// Where it stood when a snapshot was taken.
    Position,
    /// When a snapshot was taken, it had not taken note of this reject yet.
    Unseen {
        /// Why the record was refused.
        reason: RejectReason,
        /// The record's length.
        bytes: u32,
    },
    /// It has taken note of its rejects up to `last`: it is not told of them again.
    Seen,
}

impl RangeKind {
    /// It takes its source further.
    fn moves(self) -> bool {
        matches!(self, RangeKind::Records | RangeKind::Skipped | RangeKind::Reject { .. })
    }

    /// The kind's number, a reject's reason, and the count that goes with it.
    fn numbers(self, records: u32) -> (u8, u8, u32) {
        match self {
            RangeKind::Records => (0, 0, records),
            RangeKind::Skipped => (1, 0, 0),
            RangeKind::Session => (2, 0, 0),
            RangeKind::Reject { reason, bytes } => (3, reason as u8, bytes),
            RangeKind::Retired => (4, 0, 0),
            RangeKind::Position => (5, 0, 0),
            RangeKind::Unseen { reason, bytes } => (6, reason as u8, bytes),
            RangeKind::Seen => (7, 0, 0),
        }
    }

    fn from_numbers(kind: u8, reason: u8, bytes: u32) -> Option<RangeKind> {
        let reason_given = wire::reject_reason(reason);
        match (kind, reason, bytes) {
            (0, 0, _) => Some(RangeKind::Records),
            (1, 0, 0) => Some(RangeKind::Skipped),
            (2, 0, 0) => Some(RangeKind::Session),
            (3, ..) => reason_given.map(|reason| RangeKind::Reject { reason, bytes }),
            (4, 0, 0) => Some(RangeKind::Retired),
            (5, 0, 0) => Some(RangeKind::Position),
            (6, ..) => reason_given.map(|reason| RangeKind::Unseen { reason, bytes }),
            (7, 0, 0) => Some(RangeKind::Seen),
            _ => None,
        }
    }
}

/// What a block holds, in short.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gist {
    /// How many records.
    pub records: u64,
    /// It takes sources further: it holds records, rejects, or sequences that never come.
    pub moves: bool,
}

/// A block read back: its ranges, each with its payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Block {
    /// From here on the sources' state can be replayed; [`Lsn::ZERO`]: from the stream's first frame.
    pub replay_from: Lsn,
    /// What happened, in order.
    pub ranges: Vec<(Range, Bytes)>,
}

impl Block {
    /// Reads a frame's payload. The ranges' payloads are parts of it, not copies.
    ///
    /// # Errors
    /// [`BlockError`]; the records themselves are looked at by [`Block::records`].
    pub fn read(payload: &Bytes) -> Result<Block, BlockError> {
        let mut reader = Reader::new(payload);
        let (replay_from, count) = read_head(&mut reader)?;
        let mut at = payload.len() - payload_bytes_behind(&reader, count)?;
        let mut ranges = Vec::with_capacity(count);
        for _ in 0..count {
            let (range, bytes) = read_range(&mut reader)?;
            let end = at.checked_add(bytes).filter(|end| *end <= payload.len()).ok_or(BlockError::Length)?;
            ranges.push((range, payload.slice(at..end)));
            at = end;
        }
        if at != payload.len() {
            return Err(BlockError::Length);
        }
        Ok(Block { replay_from, ranges })
    }

    /// What a frame's payload holds, by what is announced before the records.
    ///
    /// # Errors
    /// [`BlockError`].
    pub fn gist(payload: &[u8]) -> Result<Gist, BlockError> {
        let mut reader = Reader::new(payload);
        let (_, ranges) = read_head(&mut reader)?;
        let mut gist = Gist { records: 0, moves: false };
        for _ in 0..ranges {
            let (range, _) = read_range(&mut reader)?;
            gist.records += u64::from(range.records);
            gist.moves |= range.kind.moves();
        }
        Ok(gist)
    }

    /// The bytes that [`Block::read`] reads as this.
    ///
    /// # Panics
    /// With more ranges or bytes than a block may have.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        assert!(self.ranges.len() <= RANGES_MAX, "a block has at most {RANGES_MAX} ranges");
        let head = encode_head(self.replay_from, self.ranges.iter().map(|(range, bytes)| (range, bytes.len())));
        let mut whole = BytesMut::from(&head[..]);
        self.ranges.iter().for_each(|(_, bytes)| whole.put_slice(bytes));
        whole.freeze()
    }

    /// How far the block takes each source that has sequences: of records, and of what never comes or was refused. What
    /// [`super::Intake::committed`] is told when the block is in a committed batch.
    pub fn reached(&self) -> impl Iterator<Item = (&SourceId, Seq)> {
        self.sequenced().filter_map(|(range, _)| Some((range.source.as_ref()?, range.last)))
    }

    /// The ranges that take a source with sequences further.
    pub(crate) fn sequenced(&self) -> impl Iterator<Item = &(Range, Bytes)> {
        self.ranges
            .iter()
            .filter(|(range, _)| range.kind.moves() && range.source.is_some() && range.sequences != Sequences::None)
    }

    /// The records, in order, each with its source and sequence. Rejects are not among them.
    #[must_use]
    pub fn records(&self) -> BlockRecords<'_> {
        BlockRecords { block: self, cursor: RecordCursor::default() }
    }
}

/// From where a replay begins, and how many ranges follow.
fn read_head(reader: &mut Reader<'_>) -> Result<(Lsn, usize), BlockError> {
    if reader.u32() != Ok(MAGIC) {
        return Err(BlockError::Magic);
    }
    let count = usize::from(reader.u16()?);
    if reader.u16()? != 0 {
        return Err(BlockError::Field);
    }
    let replay_from = Lsn::new(reader.u64()?);
    if reader.remaining() < count * RANGE_BYTES {
        return Err(BlockError::Length);
    }
    Ok((replay_from, count))
}

/// How many bytes stand behind so many ranges: the names' lengths alone say it, and each range's payload can then be
/// taken with the range.
fn payload_bytes_behind(heads: &Reader<'_>, ranges: usize) -> Result<usize, BlockError> {
    let mut heads = heads.clone();
    for _ in 0..ranges {
        let name = heads.bytes(RANGE_BYTES)?[NAME_LENGTH_AT];
        heads.bytes(usize::from(name))?;
    }
    Ok(heads.remaining())
}

fn read_range(reader: &mut Reader<'_>) -> Result<(Range, usize), BlockError> {
    let [kind, name, sequences, reason] = [reader.u8()?, reader.u8()?, reader.u8()?, reader.u8()?];
    let count = reader.u32()?;
    let epoch = SourceEpoch::new(reader.u64()?);
    let (previous, last) = (Seq::new(reader.u64()?), Seq::new(reader.u64()?));
    let bytes = reader.u32()? as usize;
    let name = reader.bytes(usize::from(name))?;
    let kind = RangeKind::from_numbers(kind, reason, count).ok_or(BlockError::Field)?;
    let records = if kind == RangeKind::Records { count } else { 0 };
    let sequences = wire::sequences(sequences).ok_or(BlockError::Field)?;
    let source = if name.is_empty() { None } else { Some(SourceId::new(name).ok_or(BlockError::Field)?) };
    let named = source.is_some() || (kind == RangeKind::Records && sequences == Sequences::None);
    if !named || last < previous {
        return Err(BlockError::Field);
    }
    Ok((Range { kind, source, epoch, sequences, records, previous, last }, bytes))
}

/// A record with where it comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sequenced<'a> {
    /// Its range: source, epoch, numbering.
    pub range: &'a Range,
    /// Its sequence.
    pub seq: Seq,
    /// Its bytes.
    pub record: Bytes,
}

/// The records of a block. Ends after the first error.
#[derive(Debug)]
pub struct BlockRecords<'a> {
    block: &'a Block,
    cursor: RecordCursor,
}

impl<'a> Iterator for BlockRecords<'a> {
    type Item = Result<Sequenced<'a>, BlockError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.cursor.advance(self.block)? {
            Ok(found) => {
                let (range, payload) = &self.block.ranges[found.range];
                Some(Ok(Sequenced { range, seq: found.seq, record: payload.slice(found.start..found.end) }))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

/// Where a record stands in its block.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Found {
    /// In which range.
    pub(crate) range: usize,
    /// Where its bytes begin in the range's payload.
    pub(crate) start: usize,
    /// Where they end.
    pub(crate) end: usize,
    /// Its sequence.
    pub(crate) seq: Seq,
}

/// Goes through the records of a block that it does not borrow: who owns the block may keep both.
#[derive(Debug, Default)]
pub(crate) struct RecordCursor {
    range: usize,
    /// Where the range's next record begins.
    at: usize,
    /// The sequence before it; of a range that is not begun yet it is the range's own.
    previous: Option<Seq>,
    seen: u32,
}

impl RecordCursor {
    /// The next record; after an error, and after the last one, there is none. Always to be given the same block.
    #[inline]
    pub(crate) fn advance(&mut self, block: &Block) -> Option<Result<Found, BlockError>> {
        loop {
            let (range, payload) = block.ranges.get(self.range)?;
            if range.kind != RangeKind::Records {
                self.range += 1;
                continue;
            }
            let previous = self.previous.unwrap_or(range.previous);
            match Walk::resume(range.sequences, previous, payload, self.at).next() {
                Some(Ok(placed)) => {
                    (self.at, self.previous, self.seen) = (placed.end, Some(placed.seq), self.seen + 1);
                    let start = placed.end - placed.record.len();
                    return Some(Ok(Found { range: self.range, start, end: placed.end, seq: placed.seq }));
                }
                None if self.seen == range.records => {
                    *self = RecordCursor { range: self.range + 1, ..RecordCursor::default() };
                }
                wrong => {
                    self.range = block.ranges.len();
                    let what = wrong.and_then(Result::err).unwrap_or(PayloadError::Count);
                    return Some(Err(what.into()));
                }
            }
        }
    }
}

/// Lays out the bytes before a block's payloads.
pub(crate) fn encode_head<'a>(replay_from: Lsn, ranges: impl ExactSizeIterator<Item = (&'a Range, usize)>) -> Bytes {
    let count = ranges.len();
    debug_assert!(count <= RANGES_MAX, "the builder ends a block before");
    let mut head = BytesMut::with_capacity(HEADER_BYTES + count * (RANGE_BYTES + 16));
    head.put_u32_le(MAGIC);
    head.put_u16_le(count as u16);
    head.put_u16_le(0);
    head.put_u64_le(replay_from.get());
    for (range, bytes) in ranges {
        let name = range.source.as_ref().map_or(&[][..], SourceId::as_bytes);
        let (kind, reason, count) = range.kind.numbers(range.records);
        head.put_slice(&[kind, name.len() as u8, range.sequences as u8, reason]);
        head.put_u32_le(count);
        head.put_u64_le(range.epoch.get());
        head.put_u64_le(range.previous.get());
        head.put_u64_le(range.last.get());
        head.put_u32_le(u32::try_from(bytes).expect("a block is below 4 GiB: limits are u32"));
        head.put_slice(name);
    }
    head.freeze()
}

/// Bytes that a range takes besides its payload.
pub(crate) fn range_bytes(range: &Range) -> usize {
    RANGE_BYTES + range.source.as_ref().map_or(0, |source| source.as_bytes().len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receiver::PayloadBuilder;

    fn sample() -> (Vec<(Range, Bytes)>, Bytes) {
        let range = |kind, previous, last, records| Range {
            kind,
            source: SourceId::new("s"),
            epoch: SourceEpoch::new(3),
            sequences: Sequences::Dense,
            records,
            previous: Seq::new(previous),
            last: Seq::new(last),
        };
        let mut payload = PayloadBuilder::new(Sequences::Dense, Seq::new(4));
        payload.push(Seq::new(5), b"five").unwrap();
        payload.push(Seq::new(6), b"six").unwrap();
        let ranges = vec![
            (range(RangeKind::Session, 4, 4, 0), Bytes::new()),
            (range(RangeKind::Records, 4, 6, 2), payload.finish().payload.into_bytes()),
            (range(RangeKind::Reject { reason: RejectReason::Poison, bytes: 3 }, 6, 7, 0), Bytes::from_static(b"bad")),
            (range(RangeKind::Unseen { reason: RejectReason::Oversized, bytes: 9 }, 6, 7, 0), Bytes::new()),
            (range(RangeKind::Seen, 7, 7, 0), Bytes::new()),
            (range(RangeKind::Skipped, 7, 9, 0), Bytes::new()),
            (range(RangeKind::Position, 0, 9, 0), Bytes::new()),
            (range(RangeKind::Retired, 9, 9, 0), Bytes::new()),
        ];
        let bytes = Block { replay_from: Lsn::new(77), ranges: ranges.clone() }.encode();
        (ranges, bytes)
    }

    #[test]
    fn what_is_written_is_read_back() {
        let (ranges, bytes) = sample();
        let block = Block::read(&bytes).unwrap();
        assert_eq!(block.ranges, ranges);
        assert_eq!(block.replay_from, Lsn::new(77));
        let records: Vec<_> = block.records().map(Result::unwrap).map(|r| (r.seq.get(), r.record)).collect();
        assert_eq!(records, [(5, Bytes::from_static(b"five")), (6, Bytes::from_static(b"six"))]);
    }

    #[test]
    fn golden_bytes() {
        let (_, bytes) = sample();
        // The format of blocks that are on disks: these bytes may never change.
        let head = b"SWB1\x08\0\0\0\x4d\0\0\0\0\0\0\0\
            \x02\x01\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\0\0\0\0s\
            \0\x01\0\0\x02\0\0\0\x03\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\0\x0f\0\0\0s";
        assert_eq!(&bytes[..head.len()], head, "{}", bytes.escape_ascii());
        // Kind, name, numbering, reason, count of each range.
        let starts: Vec<_> = (0..8).map(|n| &bytes[16 + n * 37..16 + n * 37 + 8]).collect();
        let shown: [&[u8]; 8] = [
            b"\x02\x01\0\0\0\0\0\0",
            b"\x00\x01\0\0\x02\0\0\0",
            b"\x03\x01\0\x02\x03\0\0\0",
            b"\x06\x01\0\x01\x09\0\0\0",
            b"\x07\x01\0\0\0\0\0\0",
            b"\x01\x01\0\0\0\0\0\0",
            b"\x05\x01\0\0\0\0\0\0",
            b"\x04\x01\0\0\0\0\0\0",
        ];
        assert_eq!(starts, shown);
    }

    #[test]
    fn bytes_missing_or_too_many_are_refused() {
        let (_, bytes) = sample();
        for cut in 0..bytes.len() {
            assert!(Block::read(&bytes.slice(..cut)).is_err(), "{cut}");
        }
        let mut longer = BytesMut::from(&bytes[..]);
        longer.put_u8(0);
        assert_eq!(Block::read(&longer.freeze()), Err(BlockError::Length));
        let mut claims = BytesMut::from(&bytes[..]);
        claims[4] = 0xFF;
        claims[5] = 0xFF;
        assert_eq!(Block::read(&claims.freeze()), Err(BlockError::Length));
    }

    #[test]
    fn a_range_with_fewer_records_than_announced_is_an_error() {
        let (mut ranges, _) = sample();
        ranges[1].0.records = 3;
        let block = Block { replay_from: Lsn::ZERO, ranges };
        let found: Vec<_> = block.records().collect();
        assert_eq!(found.len(), 3);
        assert_eq!(found[2], Err(BlockError::Payload(PayloadError::Count)));
    }
}
