//! Events made durable, then applied. One at a time, in the order of the ledger's stream.

use std::collections::HashSet;

use super::error::LedgerError;
use super::{Inner, now_micros};
use crate::error::Error;
use crate::io::Storage;
use crate::ledger::{Broken, Envelope, Event, ReplayError, State};
use crate::log::Log;
use crate::types::{Ballot, Lsn};

/// A checkpoint's pieces are at most this long: each is a frame.
pub(super) const PIECE_BYTES_MAX: usize = 256 * 1024;

/// A log with a byte limit has room for this many checkpoints' intervals: beside the events since the last one there are those
/// before it, in the segments it begins and ends in, and prepared segments.
const INTERVALS_IN_LIMIT: u64 = 8;

/// An event that is appended by itself takes a block of the log, however short it is.
const BLOCK_BYTES: u64 = 4096;

/// What writing knows.
#[derive(Debug, Default)]
pub(super) struct Writer {
    /// Events written.
    pub(super) events: u64,
    /// Bytes that the log took for events since the last checkpoint, also of drivers before this one.
    pub(super) bytes: u64,
    /// What it took for the last checkpoint.
    pub(super) checkpoint_bytes: u64,
    /// Why nothing is written any more.
    pub(super) failed: Option<LedgerError>,
}

impl Writer {
    /// # Errors
    /// Why nothing is written any more. To open again what another driver has taken over would be to fence that one.
    fn check(&self) -> Result<(), LedgerError> {
        match &self.failed {
            None => Ok(()),
            Some(fenced @ LedgerError::Fenced { .. }) => Err(fenced.clone()),
            Some(failed) => Err(LedgerError::Failed(Box::new(failed.clone()))),
        }
    }
}

impl<S: Storage> Inner<S> {
    /// Writes events, durable when it returns, and applies them. Refused by the rules nothing has happened; refused by a full
    /// disk, for want of a segment for now, or because one is too large, those before it have. Any other failure leaves it
    /// unknown, and ends this driver.
    pub(super) fn write(&self, events: Vec<Event>) -> Result<(), LedgerError> {
        let mut writer = self.writer.lock();
        writer.check()?;
        {
            let state = self.state.lock();
            events.iter().try_for_each(|event| state.check(event))?;
        }
        let time_micros = now_micros();
        let mut envelopes = Vec::with_capacity(events.len());
        for event in events {
            // What a replay will read: texts may be cut.
            let encoded = Envelope { ballot: self.ballot, time_micros, event }.encode();
            let decoded = Envelope::decode(&encoded);
            envelopes.push(decoded.map_err(|source| LedgerError::Replay {
                log: format!("{:?}", self.log),
                source: ReplayError::Event { lsn: self.log.flushed().next(), source },
            })?);
        }
        Self::check_together(&envelopes)?;
        let outcome = match append(&self.log, &envelopes, self.ballot) {
            Ok(Written { bytes, count, refused, .. }) => {
                writer.bytes += bytes;
                writer.events += count as u64;
                self.apply(&envelopes[..count]).map(|()| refused)
            }
            Err(error) => Err(error),
        };
        let refused = outcome.inspect_err(|error| writer.failed = Some(error.clone()))?;
        self.checkpoint_if_due(&mut writer);
        refused.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Each was checked against the state before all of them: what they do to each other is checked here.
    fn check_together(envelopes: &[Envelope]) -> Result<(), Broken> {
        let mut forgotten = HashSet::new();
        for Envelope { event, .. } in envelopes {
            match event {
                Event::PartsForgotten { input, parts } => {
                    if let Some(part) = parts.iter().find(|part| !forgotten.insert((*input, *part))) {
                        return Err(Broken::Part { input: *input, part: part.clone(), what: "is forgotten twice" });
                    }
                }
                Event::BatchAllocated { ranges, .. } => {
                    if let Some(range) = ranges.iter().find(|range| forgotten.contains(&(range.input, &range.part))) {
                        let what = "is forgotten and allocated at once";
                        return Err(Broken::Part { input: range.input, part: range.part.clone(), what });
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether this driver still drives: a look, without writing anything.
    pub(super) fn check_alive(&self) -> Result<(), LedgerError> {
        self.writer.lock().check()?;
        check_ballot(&self.log, self.ballot)
    }

    fn apply(&self, envelopes: &[Envelope]) -> Result<(), LedgerError> {
        let mut state = self.state.lock();
        for envelope in envelopes {
            state.apply(envelope)?;
        }
        Ok(())
    }

    /// A checkpoint that cannot be written now is written later: nothing depends on it but the length of a replay.
    pub(super) fn checkpoint_if_due(&self, writer: &mut Writer) {
        let limit = self.log.config().byte_limit.map_or(u64::MAX, |limit| limit / INTERVALS_IN_LIMIT);
        if writer.bytes >= self.config.checkpoint_interval_bytes.min(limit).max(writer.checkpoint_bytes) {
            let _ = self.checkpoint(writer);
        }
    }

    fn checkpoint(&self, writer: &mut Writer) -> Result<(), LedgerError> {
        let limit = (self.log.config().record_bytes_max as usize).saturating_sub(64).clamp(1, PIECE_BYTES_MAX);
        let pieces = self.state.lock().checkpoint(limit);
        let time_micros = now_micros();
        let envelopes: Vec<Envelope> =
            pieces.into_iter().map(|event| Envelope { ballot: self.ballot, time_micros, event }).collect();
        let written =
            append(&self.log, &envelopes, self.ballot).inspect_err(|error| writer.failed = Some(error.clone()))?;
        if let Some(error) = written.refused {
            // Tried again after as much more: each try takes of the room that is left.
            writer.bytes = 0;
            return Err(error.into());
        }
        (writer.bytes, writer.checkpoint_bytes) = (0, written.bytes);
        // Only what a whole, durable checkpoint stands behind goes.
        let upto = written.first.previous();
        if upto >= self.log.first() {
            self.log.trim(upto)?;
        }
        Ok(())
    }

    /// Writes the state down anew, and gives up the events before it.
    pub(super) fn checkpoint_now(&self) -> Result<(), LedgerError> {
        let mut writer = self.writer.lock();
        writer.check()?;
        self.checkpoint(&mut writer)
    }
}

/// What was written.
pub(super) struct Written {
    pub(super) first: Lsn,
    pub(super) last: Lsn,
    bytes: u64,
    /// How many of the events: those before the one that was refused.
    count: usize,
    /// Why not all of them: no room, or one is too large. Nothing of the rest was written, and the log goes on.
    pub(super) refused: Option<Error>,
}

/// Appends events and waits until they are durable: one flush for all of them. Whatever fails otherwise than by being
/// refused leaves what was written unknown.
pub(super) fn append<S: Storage>(log: &Log<S>, envelopes: &[Envelope], ballot: Ballot) -> Result<Written, LedgerError> {
    // A driver that knows that it is fenced does not even try.
    check_ballot(log, ballot)?;
    let mut written = Written { first: log.flushed(), last: log.flushed(), bytes: 0, count: 0, refused: None };
    let mut last = None;
    for envelope in envelopes {
        let frame = envelope.encode();
        match log.append(&frame) {
            Ok(pending) => {
                if last.is_none() {
                    written.first = pending.lsn();
                }
                written.bytes += log_bytes(1, frame.len() as u64);
                written.count += 1;
                last = Some(pending);
            }
            Err(error) if matches!(error, Error::RecordTooLarge { .. }) || log.is_for_now(&error) => {
                written.refused = Some(error);
                break;
            }
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(last) = last {
        written.last = last.wait()?;
    }
    // Whoever took over promised first and wrote its beginning then. While the promise is ours, these events stand before
    // any such beginning, and count; otherwise nobody can tell, and it does not matter: this driver has ended.
    check_ballot(log, ballot)?;
    Ok(written)
}

fn check_ballot<S: Storage>(log: &Log<S>, ballot: Ballot) -> Result<(), LedgerError> {
    let promised = log.promised().map_or(Ballot::ZERO, |promise| promise.ballot);
    if promised == ballot { Ok(()) } else { Err(LedgerError::Fenced { ballot, promised }) }
}

/// What the log takes for so many events with so many bytes, at most: several in one flush share blocks.
pub(super) fn log_bytes(events: u64, bytes: u64) -> u64 {
    events * BLOCK_BYTES + bytes
}

/// What the log takes for a checkpoint of this state.
pub(super) fn checkpoint_bytes(state: &State) -> u64 {
    let pieces = state.checkpoint(PIECE_BYTES_MAX);
    pieces
        .iter()
        .map(|event| if let Event::Checkpoint { piece, .. } = event { log_bytes(1, piece.len() as u64) } else { 0 })
        .sum()
}
