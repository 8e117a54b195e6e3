//! Records come in: which are new, which may be taken, and into which block's part they go.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;

use super::super::block::{Range, RangeKind};
use super::super::builder::Part;
use super::super::config::Poison;
use super::super::message::{Code, RejectReason, Send, Sequences, WaitFor};
use super::super::payload::{self, Placed, Walk};
use super::super::reject::{self, Passing};
use super::super::wire::Preview;
use super::session::Peer;
use super::{Charge, Intake, SessionKey, nack};
use crate::codec::Checksummed;
use crate::types::Seq;

/// What a receiver's user asks of records: an error is why one is refused.
#[derive(Clone)]
pub struct RecordCheck(Arc<Check>);

type Check = dyn Fn(&[u8]) -> Result<(), String> + Sync + std::marker::Send;

impl RecordCheck {
    /// Asks this of every record. A check that panics has refused the record.
    pub fn new(check: impl Fn(&[u8]) -> Result<(), String> + Sync + std::marker::Send + 'static) -> RecordCheck {
        RecordCheck(Arc::new(check))
    }

    /// Its panic is an answer too: beyond it, nobody would give back what was charged for the message.
    fn ask(&self, record: &[u8]) -> Result<(), String> {
        catch_unwind(AssertUnwindSafe(|| (self.0)(record))).unwrap_or_else(|_| Err("the check panicked".to_owned()))
    }
}

impl fmt::Debug for RecordCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecordCheck")
    }
}

/// A SEND whose one record is too long to be kept, as it passes by.
pub struct Oversized {
    previous: Seq,
    sequences: Sequences,
    header: Vec<u8>,
    record_bytes: u64,
    passing: Passing,
}

impl Oversized {
    /// What is held of such a record at most.
    pub const COST_BYTES: u64 = (reject::KEPT_BYTES as u64) + 2048 + PART_COST_BYTES;

    /// How long the record is.
    #[must_use]
    pub fn record_bytes(&self) -> u64 {
        self.record_bytes
    }

    /// Takes the next piece of the payload.
    pub fn update(&mut self, mut piece: &[u8]) {
        let missing = payload::header_bytes(self.sequences) - self.header.len();
        if missing > 0 {
            let (head, rest) = piece.split_at(piece.len().min(missing));
            self.header.extend_from_slice(head);
            piece = rest;
        }
        self.passing.update(piece);
    }

    /// The record's sequence, if its header fits the payload that has passed.
    fn seq(&self) -> Option<Seq> {
        let (length, step) = self.header.split_first_chunk::<4>()?;
        let step = match (self.sequences, step) {
            (Sequences::Sparse, &[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]),
            (Sequences::Sparse, _) => return None,
            _ => 1,
        };
        let fits = u64::from(u32::from_le_bytes(*length)) == self.passing.bytes() && step > 0;
        self.previous.checked_add(step.into()).filter(|_| fits)
    }
}

impl fmt::Debug for Oversized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Oversized").field("previous", &self.previous).field("bytes", &self.record_bytes).finish()
    }
}

/// What a part costs besides its payload.
const PART_COST_BYTES: u64 = 256;
/// A source that has not taken note of its rejects tries again after this.
const RETRY_REJECTS_MILLIS: u32 = 100;

/// Records of one SEND that go into one part.
#[derive(Clone, Copy)]
struct Run {
    from: usize,
    to: usize,
    records: u32,
    previous: Seq,
    last: Seq,
}

/// A record that cannot be taken.
struct Refused<'a> {
    previous: Seq,
    seq: Seq,
    reason: RejectReason,
    bytes: u64,
    text: String,
    /// What the stream keeps of it.
    kept: Box<dyn FnOnce(&str) -> Bytes + 'a>,
}

/// Where a source is to go on, and why.
struct Rewind {
    code: Code,
    at: Seq,
    expected: Seq,
    retry_after_millis: u32,
    text: String,
}

/// What stops a SEND in its middle.
struct Stop {
    code: Code,
    at: Seq,
    fatal: bool,
    text: String,
}

impl Intake {
    pub(super) fn send(&mut self, key: SessionKey, peer: &Peer, send: Send, charge: &mut Charge) {
        let bytes = send.payload.len() as u64;
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.said_bye {
            return self.refuse(key, Code::Protocol, Seq::ZERO, "a SEND behind a BYE".to_owned());
        }
        session.sent_bytes += bytes;
        if session.sent_bytes > session.credit_told {
            let text = format!("{} bytes were sent, the credit is {}", session.sent_bytes, session.credit_told);
            return self.refuse(key, Code::Credit, Seq::ZERO, text);
        }
        if send.records == 0 || send.records > self.config.frame_records_max {
            let text = format!("{} records in a SEND; 1 to {} are taken", send.records, self.config.frame_records_max);
            return self.refuse(key, Code::Limit, Seq::ZERO, text);
        }
        if bytes > self.config.payload_bytes_max() {
            let text = format!("a SEND of {bytes} bytes; {} are taken", self.config.payload_bytes_max());
            return self.refuse(key, Code::Limit, Seq::ZERO, text);
        }
        let previous = if peer.sequences == Sequences::None { session.received } else { send.previous };
        let last = match payload::check(peer.sequences, previous, send.records, &send.payload) {
            Ok(last) => last,
            Err(error) => return self.refuse(key, Code::Protocol, send.previous, error.to_string()),
        };
        let mut credit = Charge { bytes };
        if self.continues(key, peer, previous, last, &send) {
            self.take_records(key, peer, previous, &send, charge, &mut credit);
        }
        if let Some(session) = self.sessions.get_mut(key) {
            session.released_bytes += credit.bytes;
            self.credit_news(key);
        }
    }

    /// Whether a SEND follows what was received, or repeats some of it; if not, the source is told where to go on.
    fn continues(&mut self, key: SessionKey, peer: &Peer, previous: Seq, last: Seq, send: &Send) -> bool {
        let Some(at) = peer.source else { return true };
        let accepted = self.sources[at].accepted;
        let meets = || Walk::new(peer.sequences, previous, &send.payload).flatten().any(|p| p.seq == accepted);
        let (code, text) = if previous > accepted {
            (Code::Gap, format!("sequences behind {accepted} are missing, the SEND begins behind {previous}"))
        } else if peer.sequences == Sequences::Sparse && previous < accepted && accepted < last && !meets() {
            (Code::Mismatch, format!("{accepted} was received, but is none of the sequences sent again"))
        } else {
            return true;
        };
        self.rewind(key, Rewind { code, at: previous, expected: accepted, retry_after_millis: 0, text }, previous);
        false
    }

    /// Tells the source where to go on: once for all that it had sent before it heard, and again when what it then sent
    /// from there, behind `previous`, is refused as well.
    fn rewind(&mut self, key: SessionKey, rewind: Rewind, previous: Seq) {
        let Rewind { code, at, expected, retry_after_millis, text } = rewind;
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.rewinding_to != Some(expected) || previous <= expected {
            session.rewinding_to = Some(expected);
            self.stats.gaps += 1;
            session.nack = Some(nack(code, at, expected, retry_after_millis, text));
            self.list(key);
        }
    }

    fn take_records(
        &mut self,
        key: SessionKey,
        peer: &Peer,
        previous: Seq,
        send: &Send,
        charge: &mut Charge,
        credit: &mut Charge,
    ) {
        let accepted = peer.source.map_or(previous, |at| self.sources[at].accepted);
        let mut parts: Vec<(Part, Checksummed)> = Vec::new();
        let mut run: Option<Run> = None;
        let mut stop = None;
        let (mut reached, mut new, mut duplicates) = (accepted, 0, 0);
        let has_room_besides = !self.budget.is_beyond_without(charge.bytes);
        for placed in Walk::new(peer.sequences, previous, &send.payload).flatten() {
            if placed.seq <= accepted {
                duplicates += 1;
                continue;
            }
            match self.judge_record(placed.record) {
                Ok(()) => {
                    let Placed { seq, at, end, .. } = placed;
                    let run = run.get_or_insert(Run { from: at, to: at, records: 0, previous: reached, last: reached });
                    run.to = end;
                    run.records += 1;
                    run.last = seq;
                    new += 1;
                }
                Err((reason, text)) => {
                    parts.extend(run.take().map(|run| records_part(key, peer, send, run)));
                    let limit = usize::try_from(self.config.record_bytes_max).unwrap_or(usize::MAX);
                    let bytes = placed.record.len() as u64;
                    let kept = Box::new(|text: &str| reject::whole(placed.record, limit, text));
                    let refused = Refused { previous: reached, seq: placed.seq, reason, bytes, text, kept };
                    match self.dispose(key, peer, refused, has_room_besides) {
                        Ok(part) => parts.extend(part),
                        Err(halt) => {
                            stop = Some(halt);
                            break;
                        }
                    }
                }
            }
            reached = placed.seq;
        }
        parts.extend(run.map(|run| records_part(key, peer, send, run)));
        self.stats.records += new;
        self.stats.duplicates += duplicates;
        // Many small parts of one SEND, and copies of what is refused, are more than what was read.
        for (part, payload) in &mut parts {
            let copied = if matches!(part.range.kind, RangeKind::Reject { .. }) { payload.len() as u64 } else { 0 };
            part.charged = PART_COST_BYTES + copied;
            self.budget.charge_besides(part.charged);
        }
        // Who does not know the length before reserves more than comes; a buffer that grew has room for twice what it holds.
        let held = 2 * send.payload.len() as u64 + PART_COST_BYTES;
        self.budget.refund(charge.bytes.saturating_sub(held));
        charge.bytes = charge.bytes.min(held);
        // The payload is held as long as its last part is; what was charged for reading it covers that part.
        if let Some((part, _)) = parts.last_mut() {
            let covered = charge.bytes.min(PART_COST_BYTES);
            self.budget.release(covered);
            part.charged += charge.take() - covered;
            part.credit = credit.take();
        }
        for (part, payload) in parts {
            self.stats.payload_bytes += payload.len() as u64;
            self.builder.push(part, payload);
        }
        self.note_received(key, peer, reached, duplicates);
        if let Some(Stop { code, at, fatal, text }) = stop {
            if fatal {
                self.refuse(key, code, at, text);
            } else {
                let rewind = Rewind { code, at, expected: reached, retry_after_millis: RETRY_REJECTS_MILLIS, text };
                self.rewind(key, rewind, reached);
            }
        }
    }

    /// The source has come up to `reached`.
    fn note_received(&mut self, key: SessionKey, peer: &Peer, reached: Seq, duplicates: u64) {
        let mut is_durable = false;
        let mut moved = true;
        if let Some(at) = peer.source {
            let source = &mut self.sources[at];
            moved = reached > source.accepted;
            source.accepted = source.accepted.max(reached);
            is_durable = source.durable >= source.accepted;
        }
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.received = session.received.max(reached);
        session.duplicates += duplicates;
        if moved {
            session.rewinding_to = None;
        }
        // What was durable before is acknowledged at once; what is on its way, when it is.
        if peer.wait_for == WaitFor::Received || (duplicates > 0 && is_durable) {
            session.ack_due = true;
            self.list(key);
        }
    }

    fn judge_record(&self, record: &[u8]) -> Result<(), (RejectReason, String)> {
        if record.len() as u64 > self.config.record_bytes_max {
            let limit = self.config.record_bytes_max;
            return Err((RejectReason::Oversized, format!("a record of {} bytes; {limit} are taken", record.len())));
        }
        match &self.check {
            Some(check) => check.ask(record).map_err(|text| (RejectReason::Poison, text)),
            None => Ok(()),
        }
    }

    /// What becomes of a record that cannot be taken: a part of its own, which takes room besides what was read, nothing, or
    /// the end of the session.
    fn dispose(
        &mut self,
        key: SessionKey,
        peer: &Peer,
        refused: Refused<'_>,
        has_room_besides: bool,
    ) -> Result<Option<(Part, Checksummed)>, Stop> {
        let Refused { previous, seq, reason, bytes, text, kept } = refused;
        let run = Run { from: 0, to: 0, records: 0, previous, last: seq };
        let has_room = || {
            let text = "more is held than may be; no more is recorded about records that are refused before".to_owned();
            let stop = Stop { code: Code::RejectsUnseen, at: seq, fatal: false, text };
            if has_room_besides { Ok(()) } else { Err(stop) }
        };
        match self.config.poison {
            Poison::DeadLetter if peer.source.is_some() => {
                has_room()?;
                let Some(source) = peer.source.map(|at| &mut self.sources[at]) else { return Ok(None) };
                let unseen = source.unseen().len();
                if unseen + source.rejects_in_flight as usize >= self.config.rejects_unseen_max as usize {
                    let text = format!("{unseen} rejects are not taken note of; no more are recorded before");
                    return Err(Stop { code: Code::RejectsUnseen, at: seq, fatal: false, text });
                }
                source.rejects_in_flight += 1;
                self.stats.rejected += 1;
                let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                Ok(Some((part_of(key, peer, RangeKind::Reject { reason, bytes }, run), kept(&text).into())))
            }
            Poison::Drop if peer.wait_for == WaitFor::Received => {
                peer.source.map_or(Ok(()), |_| has_room())?;
                self.stats.dropped += 1;
                Ok(peer.source.map(|_| (part_of(key, peer, RangeKind::Skipped, run), Checksummed::default())))
            }
            _ => {
                let code = match reason {
                    RejectReason::Oversized => Code::Oversized,
                    RejectReason::Poison => Code::Poison,
                };
                Err(Stop { code, at: seq, fatal: true, text })
            }
        }
    }

    // --- records too long to be held -------------------------------------------------------------------------------

    /// A SEND is too long to be read whole; `head` is the fixed part of its body, `payload_bytes` what follows. If its
    /// one record is to be recorded as a reject, the payload is to be fed to what is returned; otherwise the session has
    /// ended.
    ///
    /// Such a payload needs no credit and uses none: it is not held. What is kept of it is charged when it ends; who
    /// wants it charged before reserves [`Oversized::COST_BYTES`].
    pub fn begin_oversized(&mut self, key: SessionKey, head: Preview, payload_bytes: u64) -> Option<Oversized> {
        if self.ending.is_some() {
            self.refuse_more(key);
            return None;
        }
        let session = self.sessions.get(key)?;
        let Some(peer) = session.open_peer().filter(|_| !session.said_bye).cloned() else {
            let text = "a SEND does not belong here".to_owned();
            self.refuse(key, Code::Protocol, head.previous, text);
            return None;
        };
        let record_bytes = payload_bytes.saturating_sub(payload::header_bytes(peer.sequences) as u64);
        let keeps = match self.config.poison {
            Poison::Stop => false,
            Poison::DeadLetter => peer.source.is_some(),
            Poison::Drop => peer.wait_for == WaitFor::Received,
        };
        if head.records != 1 || record_bytes > self.config.oversized_bytes_max || !keeps {
            let limit = self.config.record_bytes_max;
            let text = format!("a SEND of {payload_bytes} bytes; records of up to {limit} are taken");
            self.refuse(key, Code::Oversized, head.previous, text);
            return None;
        }
        let sequences = peer.sequences;
        let previous = match peer.source {
            Some(_) => head.previous,
            None => self.sessions.get(key)?.received,
        };
        Some(Oversized { previous, sequences, header: Vec::new(), record_bytes, passing: Passing::default() })
    }

    /// The record has passed whole, and its checksum was right.
    pub fn end_oversized(&mut self, key: SessionKey, oversized: Oversized) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let mut charge = Charge { bytes: std::mem::take(&mut session.reserved) };
        if let Some(peer) = session.open_peer().cloned() {
            self.take_oversized(key, &peer, oversized, &mut charge);
        }
        self.budget.refund(charge.bytes);
        self.admit_again();
    }

    fn take_oversized(&mut self, key: SessionKey, peer: &Peer, oversized: Oversized, charge: &mut Charge) {
        let Some(seq) = oversized.seq() else {
            return self.refuse(key, Code::Protocol, oversized.previous, "lengths do not add up".to_owned());
        };
        let accepted = peer.source.map_or(oversized.previous, |at| self.sources[at].accepted);
        if seq <= accepted {
            return self.note_received(key, peer, accepted, 1);
        }
        if oversized.previous > accepted || (peer.sequences == Sequences::Sparse && oversized.previous != accepted) {
            let text = format!("sequences behind {accepted} are missing");
            let (code, at) = (Code::Gap, oversized.previous);
            return self.rewind(key, Rewind { code, at, expected: accepted, retry_after_millis: 0, text }, at);
        }
        let Oversized { passing, record_bytes: bytes, .. } = oversized;
        let text = format!("a record of {bytes} bytes; {} are taken", self.config.record_bytes_max);
        let kept = Box::new(|text: &str| passing.finish(text));
        let reason = RejectReason::Oversized;
        // What is kept of it was reserved before it passed.
        match self.dispose(key, peer, Refused { previous: accepted, seq, reason, bytes, text, kept }, true) {
            Ok(part) => {
                if let Some((mut part, payload)) = part {
                    let cost = PART_COST_BYTES + payload.len() as u64;
                    self.budget.charge_besides(cost.saturating_sub(charge.bytes));
                    charge.bytes = charge.bytes.saturating_sub(cost);
                    part.charged = cost;
                    self.builder.push(part, payload);
                }
                self.note_received(key, peer, seq, 0);
            }
            Err(Stop { code, at, fatal: true, text }) => self.refuse(key, code, at, text),
            Err(Stop { code, at, text, .. }) => {
                let rewind = Rewind { code, at, expected: accepted, retry_after_millis: RETRY_REJECTS_MILLIS, text };
                self.rewind(key, rewind, accepted);
            }
        }
    }

    // --- sequences that never come ---------------------------------------------------------------------------------

    pub(super) fn skip(&mut self, key: SessionKey, peer: &Peer, previous: Seq, to: Seq, charge: &mut Charge) {
        if self.sessions.get(key).is_some_and(|session| session.said_bye) {
            return self.refuse(key, Code::Protocol, previous, "a SKIP behind a BYE".to_owned());
        }
        let Some(at) = peer.source else {
            return self.refuse(key, Code::Protocol, previous, "a SKIP without sequences".to_owned());
        };
        if to < previous {
            return self.refuse(key, Code::Protocol, previous, format!("a SKIP back from {previous} to {to}"));
        }
        let accepted = self.sources[at].accepted;
        if previous > accepted {
            let text = format!("sequences behind {accepted} are missing, the SKIP begins behind {previous}");
            let rewind = Rewind { code: Code::Gap, at: previous, expected: accepted, retry_after_millis: 0, text };
            return self.rewind(key, rewind, previous);
        }
        if to > accepted {
            let run = Run { from: 0, to: 0, records: 0, previous: accepted, last: to };
            let mut part = part_of(key, peer, RangeKind::Skipped, run);
            part.charged = charge.take();
            self.builder.push(part, Bytes::new());
        }
        self.note_received(key, peer, to.max(accepted), u64::from(to <= accepted));
    }
}

fn records_part(key: SessionKey, peer: &Peer, send: &Send, run: Run) -> (Part, Checksummed) {
    (part_of(key, peer, RangeKind::Records, run), send.payload.slice(run.from, run.to))
}

fn part_of(key: SessionKey, peer: &Peer, kind: RangeKind, run: Run) -> Part {
    let Run { records, previous, last, .. } = run;
    let Peer { id, epoch, sequences, .. } = peer.clone();
    let range = Range { kind, source: id, epoch, sequences, records, previous, last };
    Part { range, session: Some(key), charged: 0, credit: 0 }
}
