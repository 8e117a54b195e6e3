//! What happens in a ledger, and how it is written down: one event is one frame of the ledger's stream.
//!
//! ```text
//!  0 magic      4   "SWL1"
//!  4 kind       1
//!  5 zero       3
//!  8 ballot    16   round, proposer: of the driver who wrote it
//! 24 time       8   of the driver's clock, µs since the Unix epoch
//! 32 body           by kind; numbers are little-endian, texts and keys have their length before them
//! ```
//!
//! | kind | event | body |
//! |---|---|---|
//! | 1 | `LedgerCreated` | ledger 16 |
//! | 2 | `DriverBegan` | |
//! | 3 | `InputAdded` | input 4, kind 1, identity 16, name 2+n, start 8, digest 8 |
//! | 4 | `InputRemoved` | input 4 |
//! | 5 | `PartsForgotten` | input 4, count 4, keys 1+n each |
//! | 6 | `BatchAllocated` | batch 8, count 4, ranges |
//! | 7 | `BatchCommitted` | batch 8, token 4+n |
//! | 8 | `BatchAbandoned` | batch 8, reason 2+n |
//! | 9 | `RangeDropped` | range, reason 2+n |
//! | 10 | `Trimmed` | input 4, upto 8 |
//! | 11 | `Checkpoint` | index 4, count 4, piece 4+n |
//! | 12 | `InputAdopted` | input 4, identity 16 |
//!
//! A range: input 4, part 1+n, opens 1 (0 or 1) and then 2+n, from 8, to 8, digest 8, records 8, bytes 8.
//!
//! Kinds from 32 on are kept for members, configurations and the assignment of receivers and sources.

use bytes::{BufMut, Bytes, BytesMut};

use super::range::{Identity, InputKind, PartKey, Range};
use crate::codec::{Reader, Truncated};
use crate::types::{Ballot, BatchId, InputId, LedgerId};

const MAGIC: u32 = u32::from_le_bytes(*b"SWL1");
const HEAD_BYTES: usize = 32;

/// Names and reasons are cut at this many bytes.
pub(crate) const TEXT_BYTES_MAX: usize = 1024;

/// No range is longer.
const RANGE_BYTES_MAX: usize = 4 + 1 + PartKey::BYTES_MAX + 1 + 2 + TEXT_BYTES_MAX + 5 * 8;

/// So many ranges of one batch have room in an event of so many bytes, whatever they are.
pub(crate) fn ranges_max(event_bytes: u64) -> usize {
    (event_bytes as usize).saturating_sub(HEAD_BYTES + 8 + 4) / RANGE_BYTES_MAX
}

/// What happens.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The ledger's first event.
    LedgerCreated {
        /// Its log's own identity, drawn at random.
        ledger: LedgerId,
    },
    /// A driver has taken over: what one with a lower ballot writes from here on does not count.
    DriverBegan,
    /// Records of this input go into batches from now on.
    InputAdded {
        /// The next number.
        input: InputId,
        /// What it is.
        kind: InputKind,
        /// What it is recognized by.
        identity: Identity,
        /// What people call it: one input of a ledger has a name.
        name: Bytes,
        /// Of a stream, the first Lsn that will be allocated.
        start: u64,
        /// Of a stream, the chain before it.
        digest: u64,
    },
    /// What is there now under this name is the input: although it is not what was there before, by an operator's word; or
    /// again, after it was removed.
    InputAdopted {
        /// Which.
        input: InputId,
        /// What it is recognized by from now on.
        identity: Identity,
    },
    /// Records of this input go into batches no more, until it is adopted again; its positions are kept. Nothing of it is
    /// pending.
    InputRemoved {
        /// Which.
        input: InputId,
    },
    /// Parts that will never come again: what is known of them is forgotten. Nothing of them is pending.
    PartsForgotten {
        /// Of which input.
        input: InputId,
        /// Which.
        parts: Vec<PartKey>,
    },
    /// The ranges are in this batch, for ever.
    BatchAllocated {
        /// The next number.
        batch: BatchId,
        /// Its content, in order.
        ranges: Vec<Range>,
    },
    /// The batch's output is there.
    BatchCommitted {
        /// Which.
        batch: BatchId,
        /// What the output said of it.
        token: Bytes,
    },
    /// An operator has given the batch up: its records are in no output.
    BatchAbandoned {
        /// Which.
        batch: BatchId,
        /// Why.
        reason: Bytes,
    },
    /// An operator has given positions up that were not allocated: they are in no batch.
    RangeDropped {
        /// Which.
        range: Range,
        /// Why.
        reason: Bytes,
    },
    /// Everything of the input up to this position may be gone. Written before it goes.
    Trimmed {
        /// Which input.
        input: InputId,
        /// The last position given up.
        upto: u64,
    },
    /// A piece of the state as it is before this event.
    Checkpoint {
        /// Which piece, from 0.
        index: u32,
        /// How many there are.
        count: u32,
        /// Its bytes.
        piece: Bytes,
    },
}

/// An event as it stands in the ledger's stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// Of the driver who wrote it.
    pub ballot: Ballot,
    /// Of that driver's clock, µs since the Unix epoch.
    pub time_micros: u64,
    /// What happened.
    pub event: Event,
}

/// Why a frame holds no event.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// It was not written by a ledger.
    #[error("the frame holds no ledger event: the log was written by something else")]
    Magic,
    /// Lengths do not add up.
    #[error("the event's lengths do not add up")]
    Length,
    /// A field has a value that means nothing.
    #[error("the event has a field that means nothing to this version")]
    Field,
    /// A later version's event.
    #[error("kind {0} is not known to this version: use a newer one")]
    Kind(u8),
}

impl From<Truncated> for EventError {
    fn from(_: Truncated) -> EventError {
        EventError::Length
    }
}

impl Event {
    fn kind(&self) -> u8 {
        match self {
            Event::LedgerCreated { .. } => 1,
            Event::DriverBegan => 2,
            Event::InputAdded { .. } => 3,
            Event::InputRemoved { .. } => 4,
            Event::PartsForgotten { .. } => 5,
            Event::BatchAllocated { .. } => 6,
            Event::BatchCommitted { .. } => 7,
            Event::BatchAbandoned { .. } => 8,
            Event::RangeDropped { .. } => 9,
            Event::Trimmed { .. } => 10,
            Event::Checkpoint { .. } => 11,
            Event::InputAdopted { .. } => 12,
        }
    }
}

impl Envelope {
    /// The frame's bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEAD_BYTES + 64);
        out.put_u32_le(MAGIC);
        out.put_slice(&[self.event.kind(), 0, 0, 0]);
        out.put_u64_le(self.ballot.round);
        out.put_u64_le(self.ballot.proposer);
        out.put_u64_le(self.time_micros);
        match &self.event {
            Event::LedgerCreated { ledger } => out.put_u128_le(ledger.get()),
            Event::DriverBegan => {}
            Event::InputAdded { input, kind, identity, name, start, digest } => {
                out.put_u32_le(input.get());
                out.put_u8(*kind as u8);
                out.put_u128_le(identity.0);
                put_text(&mut out, name);
                out.put_u64_le(*start);
                out.put_u64_le(*digest);
            }
            Event::InputAdopted { input, identity } => {
                out.put_u32_le(input.get());
                out.put_u128_le(identity.0);
            }
            Event::InputRemoved { input } => out.put_u32_le(input.get()),
            Event::PartsForgotten { input, parts } => {
                out.put_u32_le(input.get());
                out.put_u32_le(parts.len() as u32);
                parts.iter().for_each(|part| put_key(&mut out, part));
            }
            Event::BatchAllocated { batch, ranges } => {
                out.put_u64_le(batch.get());
                put_ranges(&mut out, ranges);
            }
            Event::BatchCommitted { batch, token } => {
                out.put_u64_le(batch.get());
                put_bytes(&mut out, token);
            }
            Event::BatchAbandoned { batch, reason } => {
                out.put_u64_le(batch.get());
                put_text(&mut out, reason);
            }
            Event::RangeDropped { range, reason } => {
                put_range(&mut out, range);
                put_text(&mut out, reason);
            }
            Event::Trimmed { input, upto } => {
                out.put_u32_le(input.get());
                out.put_u64_le(*upto);
            }
            Event::Checkpoint { index, count, piece } => {
                out.put_u32_le(*index);
                out.put_u32_le(*count);
                put_bytes(&mut out, piece);
            }
        }
        out.freeze()
    }

    /// Reads what [`Envelope::encode`] wrote.
    ///
    /// # Errors
    /// [`EventError`].
    pub fn decode(frame: &Bytes) -> Result<Envelope, EventError> {
        let mut r = Reader::new(frame);
        if r.u32() != Ok(MAGIC) {
            return Err(EventError::Magic);
        }
        let kind = r.u8()?;
        if r.bytes(3)? != [0; 3] {
            return Err(EventError::Field);
        }
        let ballot = Ballot { round: r.u64()?, proposer: r.u64()? };
        let time_micros = r.u64()?;
        let event = match kind {
            1 => Event::LedgerCreated { ledger: LedgerId::new(r.u128()?) },
            2 => Event::DriverBegan,
            3 => Event::InputAdded {
                input: InputId::new(r.u32()?),
                kind: input_kind(r.u8()?)?,
                identity: Identity(r.u128()?),
                name: text(&mut r)?,
                start: r.u64()?,
                digest: r.u64()?,
            },
            4 => Event::InputRemoved { input: InputId::new(r.u32()?) },
            5 => {
                let input = InputId::new(r.u32()?);
                let count = r.u32()? as usize;
                let mut parts = Vec::with_capacity(count.min(r.remaining()));
                for _ in 0..count {
                    parts.push(key(&mut r)?);
                }
                Event::PartsForgotten { input, parts }
            }
            6 => Event::BatchAllocated { batch: BatchId::new(r.u64()?), ranges: ranges(&mut r)? },
            7 => Event::BatchCommitted { batch: BatchId::new(r.u64()?), token: sized(&mut r)? },
            8 => Event::BatchAbandoned { batch: BatchId::new(r.u64()?), reason: text(&mut r)? },
            9 => Event::RangeDropped { range: range(&mut r)?, reason: text(&mut r)? },
            10 => Event::Trimmed { input: InputId::new(r.u32()?), upto: r.u64()? },
            11 => Event::Checkpoint { index: r.u32()?, count: r.u32()?, piece: sized(&mut r)? },
            12 => Event::InputAdopted { input: InputId::new(r.u32()?), identity: Identity(r.u128()?) },
            other => return Err(EventError::Kind(other)),
        };
        r.finish()?;
        Ok(Envelope { ballot, time_micros, event })
    }
}

// --- pieces, also of checkpoints -----------------------------------------------------------------------------------

pub(super) fn put_text(out: &mut BytesMut, text: &[u8]) {
    let text = &text[..text.len().min(TEXT_BYTES_MAX)];
    out.put_u16_le(text.len() as u16);
    out.put_slice(text);
}

pub(super) fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32_le(bytes.len() as u32);
    out.put_slice(bytes);
}

pub(super) fn put_key(out: &mut BytesMut, key: &PartKey) {
    out.put_u8(key.as_bytes().len() as u8);
    out.put_slice(key.as_bytes());
}

pub(super) fn put_ranges(out: &mut BytesMut, ranges: &[Range]) {
    out.put_u32_le(ranges.len() as u32);
    ranges.iter().for_each(|range| put_range(out, range));
}

fn put_range(out: &mut BytesMut, range: &Range) {
    out.put_u32_le(range.input.get());
    put_key(out, &range.part);
    out.put_u8(u8::from(range.opens.is_some()));
    if let Some(label) = &range.opens {
        put_text(out, label);
    }
    [range.from, range.to, range.digest, range.records, range.bytes].into_iter().for_each(|n| out.put_u64_le(n));
}

pub(super) fn text(r: &mut Reader<'_>) -> Result<Bytes, EventError> {
    let length = usize::from(r.u16()?);
    if length > TEXT_BYTES_MAX {
        return Err(EventError::Field);
    }
    Ok(Bytes::copy_from_slice(r.bytes(length)?))
}

pub(super) fn sized(r: &mut Reader<'_>) -> Result<Bytes, EventError> {
    let length = r.u32()? as usize;
    Ok(Bytes::copy_from_slice(r.bytes(length)?))
}

pub(super) fn key(r: &mut Reader<'_>) -> Result<PartKey, EventError> {
    let length = usize::from(r.u8()?);
    PartKey::new(Bytes::copy_from_slice(r.bytes(length)?)).ok_or(EventError::Field)
}

pub(super) fn input_kind(number: u8) -> Result<InputKind, EventError> {
    match number {
        1 => Ok(InputKind::Stream),
        2 => Ok(InputKind::Replayable),
        _ => Err(EventError::Field),
    }
}

pub(super) fn ranges(r: &mut Reader<'_>) -> Result<Vec<Range>, EventError> {
    let count = r.u32()? as usize;
    // A claim is not believed before the bytes are there.
    let mut all = Vec::with_capacity(count.min(r.remaining() / 46));
    for _ in 0..count {
        all.push(range(r)?);
    }
    Ok(all)
}

fn range(r: &mut Reader<'_>) -> Result<Range, EventError> {
    let input = InputId::new(r.u32()?);
    let part = key(r)?;
    let opens = match r.u8()? {
        0 => None,
        1 => Some(text(r)?),
        _ => return Err(EventError::Field),
    };
    let [from, to, digest, records, bytes] = [r.u64()?, r.u64()?, r.u64()?, r.u64()?, r.u64()?];
    Ok(Range { input, part, opens, from, to, digest, records, bytes })
}

#[cfg(test)]
#[path = "event/tests.rs"]
mod tests;
