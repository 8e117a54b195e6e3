//! Records of all sources, grouped into blocks: one block is one frame of the log.
//!
//! A block leaves when the log can take one, or when it is full. There is no timer: a block that waits does so because
//! enough others are on their way to the device, and one more behind them would not be durable any sooner.

use std::collections::VecDeque;

use super::block::{RANGES_MAX, Range, RangeKind, encode_head, range_bytes};
use super::intake::SessionKey;
use crate::codec::Checksummed;
use crate::types::Lsn;

/// One source's part of a block, and who is to be told.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) range: Range,
    pub(crate) session: Option<SessionKey>,
    /// Bytes of the budget that come back when the block is durable.
    pub(crate) charged: u64,
    /// Bytes of the session's credit that come back then.
    pub(crate) credit: u64,
}

/// A block before the log has it.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    pub(crate) parts: Vec<Part>,
    payloads: Vec<Vec<Checksummed>>,
    bytes: usize,
    /// The last part of the snapshot that begins here.
    pub(crate) ends_snapshot: Option<Lsn>,
}

impl Draft {
    /// How long the frame's payload will be, but for the block's own head.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The frame's payload in pieces.
    pub(crate) fn pieces(&self, replay_from: Lsn) -> Vec<Checksummed> {
        let lengths = self.payloads.iter().map(|pieces| pieces.iter().map(|piece| piece.len()).sum());
        let ranges: Vec<(&Range, usize)> = self.parts.iter().map(|part| &part.range).zip(lengths).collect();
        let head = encode_head(self.ends_snapshot.unwrap_or(replay_from), ranges.into_iter());
        std::iter::once(head.into()).chain(self.payloads.iter().flatten().cloned()).collect()
    }

    pub(crate) fn push(&mut self, part: Part, payload: impl Into<Checksummed>) {
        let payload = payload.into();
        self.bytes += payload.len();
        if let Some(last) = self.parts.last_mut()
            && continues(&last.range, &part.range)
            && last.session == part.session
        {
            last.range.last = part.range.last;
            last.range.records += part.range.records;
            last.charged += part.charged;
            last.credit += part.credit;
            self.payloads.last_mut().expect("one per part").push(payload);
            return;
        }
        self.bytes += range_bytes(&part.range);
        self.parts.push(part);
        self.payloads.push(if payload.is_empty() { Vec::new() } else { vec![payload] });
    }
}

/// Records right behind those of `range`.
fn continues(range: &Range, next: &Range) -> bool {
    range.kind == RangeKind::Records
        && next.kind == RangeKind::Records
        && range.last == next.previous
        && range.source == next.source
        && range.epoch == next.epoch
        && range.sequences == next.sequences
        && range.records.checked_add(next.records).is_some()
}

/// Blocks that wait for the log.
#[derive(Debug)]
pub(crate) struct Builder {
    block_bytes_max: usize,
    /// Full ones, oldest first.
    full: VecDeque<Draft>,
    open: Draft,
}

impl Builder {
    pub(crate) fn new(block_bytes_max: usize) -> Builder {
        Builder { block_bytes_max, full: VecDeque::new(), open: Draft::default() }
    }

    /// Adds one source's part. A payload is never split: a block may be longer than its limit by one SEND.
    pub(crate) fn push(&mut self, part: Part, payload: impl Into<Checksummed>) {
        let payload = payload.into();
        let more = payload.len() + range_bytes(&part.range);
        let is_full = self.open.bytes + more > self.block_bytes_max || self.open.parts.len() == RANGES_MAX;
        if is_full && !self.open.parts.is_empty() {
            self.full.push_back(std::mem::take(&mut self.open));
        }
        self.open.push(part, payload);
    }

    /// The oldest block.
    pub(crate) fn take(&mut self) -> Option<Draft> {
        if let Some(full) = self.full.pop_front() {
            return Some(full);
        }
        (!self.open.parts.is_empty()).then(|| std::mem::take(&mut self.open))
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.full.is_empty() && self.open.parts.is_empty()
    }
}
