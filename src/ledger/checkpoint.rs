//! A ledger's state as bytes, in pieces that fit into frames.
//!
//! ```text
//! magic 4 "SWLC" | version 4 | ledger 16 | ballot 16 | last input 4 | allocated 8 | settled 8
//! inputs: count 4, each: id 4, kind 1, identity 16, name, removed 1, trimmed 8, allocated 8, committed 8, lost 8 (records)
//!         parts: count 4, each: key, label, allocated 8, digest 8, committed 8
//! batches: count 4, each: id 8, allocated at 8, status, ranges
//! settled batches: count 4, each: id 8, allocated at 8, status, ranges 8, records 8, bytes 8
//! status: 0 | 1, at 8, token | 2, at 8, reason
//! ```

use bytes::{BufMut, Bytes, BytesMut};

use super::event::{Event, EventError, input_kind, key, put_bytes, put_key, put_ranges, put_text, ranges, sized, text};
use super::range::Identity;
use super::state::{Batch, BatchStatus, Input, PartState, RECENT_MAX, Settled, State};
use crate::codec::{Reader, Truncated};
use crate::types::{Ballot, BatchId, InputId, LedgerId};

const MAGIC: u32 = u32::from_le_bytes(*b"SWLC");
const VERSION: u32 = 1;

/// Why a checkpoint is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// It does not begin as one.
    #[error("the pieces do not begin as a checkpoint does")]
    Magic,
    /// A later version's.
    #[error("checkpoint version {0} is not known: use a newer build")]
    Version(u32),
    /// Its parts do not add up.
    #[error("the checkpoint's content: {0}")]
    Content(#[from] EventError),
}

impl From<Truncated> for CheckpointError {
    fn from(_: Truncated) -> CheckpointError {
        CheckpointError::Content(EventError::Length)
    }
}

impl State {
    /// The events that hold this state, none larger than `piece_bytes_max` and a little.
    pub fn checkpoint(&self, piece_bytes_max: usize) -> Vec<Event> {
        let whole = self.encode();
        let pieces: Vec<Bytes> = (0..whole.len().max(1))
            .step_by(piece_bytes_max.max(1))
            .map(|at| whole.slice(at..whole.len().min(at + piece_bytes_max.max(1))))
            .collect();
        let count = pieces.len() as u32;
        (0..).zip(pieces).map(|(index, piece)| Event::Checkpoint { index, count, piece }).collect()
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u32_le(MAGIC);
        out.put_u32_le(VERSION);
        out.put_u128_le(self.ledger.map_or(0, LedgerId::get));
        out.put_u64_le(self.ballot.round);
        out.put_u64_le(self.ballot.proposer);
        out.put_u32_le(self.last_input.get());
        out.put_u64_le(self.allocated.get());
        out.put_u64_le(self.settled.get());
        out.put_u32_le(self.inputs.len() as u32);
        for (id, input) in &self.inputs {
            out.put_u32_le(id.get());
            out.put_u8(input.kind as u8);
            out.put_u128_le(input.identity.0);
            put_text(&mut out, &input.name);
            out.put_u8(u8::from(input.is_removed));
            let counts = [input.trimmed, input.records_allocated, input.records_settled, input.records_lost];
            counts.into_iter().for_each(|n| out.put_u64_le(n));
            out.put_u32_le(input.parts.len() as u32);
            for (key, part) in &input.parts {
                put_key(&mut out, key);
                put_text(&mut out, &part.label);
                [part.allocated, part.digest, part.committed].into_iter().for_each(|n| out.put_u64_le(n));
            }
        }
        out.put_u32_le(self.batches.len() as u32);
        for (id, batch) in &self.batches {
            out.put_u64_le(id.get());
            out.put_u64_le(batch.allocated_micros);
            put_status(&mut out, &batch.status);
            put_ranges(&mut out, &batch.ranges);
        }
        out.put_u32_le(self.recent.len() as u32);
        for settled in &self.recent {
            out.put_u64_le(settled.batch.get());
            out.put_u64_le(settled.allocated_micros);
            put_status(&mut out, &settled.status);
            [settled.ranges, settled.records, settled.bytes].into_iter().for_each(|n| out.put_u64_le(n));
        }
        out.freeze()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<State, CheckpointError> {
        let mut r = Reader::new(bytes);
        if r.u32() != Ok(MAGIC) {
            return Err(CheckpointError::Magic);
        }
        match r.u32()? {
            VERSION => {}
            other => return Err(CheckpointError::Version(other)),
        }
        let mut state = State {
            ledger: Some(LedgerId::new(r.u128()?)),
            ballot: Ballot { round: r.u64()?, proposer: r.u64()? },
            last_input: InputId::new(r.u32()?),
            allocated: BatchId::new(r.u64()?),
            settled: BatchId::new(r.u64()?),
            ..State::default()
        };
        for _ in 0..r.u32()? {
            let id = InputId::new(r.u32()?);
            state.inputs.insert(id, read_input(&mut r)?);
        }
        for _ in 0..r.u32()? {
            let id = BatchId::new(r.u64()?);
            let allocated_micros = r.u64()?;
            let status = read_status(&mut r)?;
            let ranges = ranges(&mut r)?;
            for range in &ranges {
                let part = state.inputs.get_mut(&range.input).and_then(|input| input.parts.get_mut(&range.part));
                part.ok_or(EventError::Field)?.outstanding += 1;
            }
            state.batches.insert(id, Batch { ranges, allocated_micros, status });
        }
        let recent = r.u32()? as usize;
        if recent > RECENT_MAX {
            return Err(EventError::Field.into());
        }
        for _ in 0..recent {
            let (batch, allocated_micros) = (BatchId::new(r.u64()?), r.u64()?);
            let status = read_status(&mut r)?;
            let [ranges, records, bytes] = [r.u64()?, r.u64()?, r.u64()?];
            state.recent.push_back(Settled { batch, status, allocated_micros, ranges, records, bytes });
        }
        r.finish()?;
        Ok(state)
    }
}

fn read_input(r: &mut Reader<'_>) -> Result<Input, CheckpointError> {
    let kind = input_kind(r.u8()?)?;
    let identity = Identity(r.u128()?);
    let name = text(r)?;
    let is_removed = match r.u8()? {
        0 => false,
        1 => true,
        _ => return Err(EventError::Field.into()),
    };
    let mut input = Input::new(kind, identity, name, Default::default(), r.u64()?);
    input.is_removed = is_removed;
    [input.records_allocated, input.records_settled, input.records_lost] = [r.u64()?, r.u64()?, r.u64()?];
    for _ in 0..r.u32()? {
        let key = key(r)?;
        let mut part = PartState::new(text(r)?, r.u64()?, r.u64()?);
        part.committed = r.u64()?;
        input.parts.insert(key, part);
    }
    Ok(input)
}

fn put_status(out: &mut BytesMut, status: &BatchStatus) {
    match status {
        BatchStatus::Pending => out.put_u8(0),
        BatchStatus::Committed { token, micros } => {
            out.put_u8(1);
            out.put_u64_le(*micros);
            put_bytes(out, token);
        }
        BatchStatus::Abandoned { reason, micros } => {
            out.put_u8(2);
            out.put_u64_le(*micros);
            put_bytes(out, reason);
        }
    }
}

fn read_status(r: &mut Reader<'_>) -> Result<BatchStatus, EventError> {
    Ok(match r.u8()? {
        0 => BatchStatus::Pending,
        1 => {
            let micros = r.u64()?;
            BatchStatus::Committed { token: sized(r)?, micros }
        }
        2 => {
            let micros = r.u64()?;
            BatchStatus::Abandoned { reason: sized(r)?, micros }
        }
        _ => return Err(EventError::Field),
    })
}
