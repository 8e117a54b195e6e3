//! The sending end: records that are not acknowledged yet, and from where to go on after a reconnect. Pure.
//!
//! The transport feeds it messages and sends what [`Outbox::poll_output`] gives. A connection may end at any moment: after
//! [`Outbox::disconnected`] and [`Outbox::connect`] everything that was not durable is sent again, from where the receiver
//! says. Records leave the outbox when the watermark the source waits for has passed them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::message::{Ack, Code, Hello, Message, Nack, Reject, Sequences, VERSION, WaitFor, Welcome};
use super::payload::{PayloadBuilder, header_bytes};
use crate::types::{Lsn, Secret, Seq, SourceEpoch, SourceId};

/// Who sends, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutboxConfig {
    /// The source's name; may be absent without sequences.
    pub source: Option<SourceId>,
    /// Its life; 0: take the next.
    pub epoch: SourceEpoch,
    /// The stream's name; empty: the receiver's only one.
    pub stream: String,
    /// Proof of the right to send.
    pub token: Secret,
    /// How records are numbered.
    pub sequences: Sequences,
    /// What counts as done.
    pub wait_for: WaitFor,
    /// The highest sequence this source was ever told to be durable, if it has kept that.
    pub told_durable: Seq,
    /// Bytes of records held until they are acknowledged. Default 64 MiB.
    pub held_bytes_max: u64,
    /// A SEND is at most about this long, if the receiver takes it. Default 256 KiB.
    pub send_bytes: u64,
}

impl Default for OutboxConfig {
    fn default() -> OutboxConfig {
        OutboxConfig {
            source: None,
            epoch: SourceEpoch::ZERO,
            stream: String::new(),
            token: Secret::default(),
            sequences: Sequences::Dense,
            wait_for: WaitFor::Durable,
            told_durable: Seq::ZERO,
            held_bytes_max: 64 << 20,
            send_bytes: 256 << 10,
        }
    }
}

/// How far the source's records have come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Positions {
    /// Given to the outbox.
    pub pushed: Seq,
    /// In the receiver's memory; may go back with a reconnect.
    pub received: Seq,
    /// On the stream's devices.
    pub durable: Seq,
    /// In committed batches.
    pub committed: Seq,
    /// How far the stream was durable then.
    pub durable_lsn: Lsn,
}

impl Positions {
    /// The position a source that waits for this counts.
    #[must_use]
    pub fn of(&self, wait_for: WaitFor) -> Seq {
        match wait_for {
            WaitFor::Received => self.received,
            WaitFor::Durable => self.durable,
            WaitFor::Committed => self.committed,
        }
    }
}

/// Why the outbox does not take a record, or cannot go on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutboxError {
    /// As much is held as may be; wait for acknowledgments.
    #[error("{held_bytes} bytes wait for acknowledgments, the limit is {limit_bytes}")]
    Full {
        /// What is held.
        held_bytes: u64,
        /// `held_bytes_max`.
        limit_bytes: u64,
    },
    /// Sequences must be as agreed.
    #[error("sequence {seq} does not follow {last}: dense sequences go up by one, sparse ones go up")]
    Sequence {
        /// What was given.
        seq: Seq,
        /// The last one.
        last: Seq,
    },
    /// The receiver has not said yet where to go on: a record counted from anywhere else could be taken for another.
    #[error("no WELCOME yet: what the next sequence is, the receiver says")]
    NotWelcomed,
    /// The receiver will never take it.
    #[error("a record of {bytes} bytes; the receiver takes {limit_bytes}")]
    TooLarge {
        /// Its length.
        bytes: u64,
        /// The receiver's limit.
        limit_bytes: u64,
    },
    /// The receiver has less than this source was told: acknowledged records are lost. Nothing is sent before somebody
    /// decides.
    #[error(
        "the receiver told us that records up to {told} were durable, and now has them up to {durable} only: {text}"
    )]
    AckedLoss {
        /// What we were told.
        told: Seq,
        /// What there is.
        durable: Seq,
        /// The receiver's words.
        text: String,
    },
    /// The receiver goes on behind records this outbox no longer, or not yet, holds.
    #[error("the receiver goes on behind {resume}, and the records from there to {first_held} are not held any more")]
    Missing {
        /// Where the receiver goes on.
        resume: Seq,
        /// The first record that is held.
        first_held: Seq,
    },
    /// The receiver ended the session for a reason that a reconnect does not mend.
    #[error("the receiver refuses ({code:?}): {text}")]
    Refused {
        /// Why.
        code: Code,
        /// Where.
        at: Seq,
        /// In words.
        text: String,
    },
    /// The receiver does not keep to the protocol.
    #[error("the receiver does not keep to the protocol: {0}")]
    Protocol(String),
}

/// What to do with the connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OutboxOutput {
    /// Send this.
    Message(Message),
    /// Close it and connect again, after this long and perhaps elsewhere.
    Reconnect {
        /// How long the receiver asks to wait; the transport's backoff comes on top.
        after: Duration,
        /// Where to, if not the same place.
        address: Option<String>,
    },
    /// Everything is said and done.
    Close,
}

#[derive(Debug)]
struct Held {
    /// Behind which sequence.
    previous: Seq,
    seq: Seq,
    /// `None`: skipped.
    record: Option<Bytes>,
}

#[derive(Debug)]
enum Link {
    Down,
    Greeting,
    Up(Agreed),
    /// Something was said that only a new connection can mend.
    Ending(OutboxOutput),
}

#[derive(Debug)]
struct Agreed {
    credit_bytes: u64,
    sent_bytes: u64,
    record_bytes_max: u64,
    frame_bytes_max: u64,
    frame_records_max: u32,
    heartbeat: Duration,
    heard: Instant,
    pinged: bool,
    pong: Option<u64>,
    ping_due: bool,
    is_bye_said: bool,
    /// The receiver asked for patience before anything is sent again.
    patient_until: Option<Instant>,
    /// Without sequences: the session counts from 0 at this record.
    base: Seq,
}

/// The sending end of one source.
#[derive(Debug)]
pub struct Outbox {
    config: OutboxConfig,
    link: Link,
    epoch: SourceEpoch,
    held: VecDeque<Held>,
    held_bytes: u64,
    /// How many of `held` this connection has sent.
    sent: usize,
    positions: Positions,
    rejects: Vec<Reject>,
    rejects_seen: Seq,
    is_welcomed_once: bool,
    /// How far the last WELCOME said that this source had come.
    welcomed_at: Seq,
    is_closing: bool,
    /// Done or failed: no connection would change anything.
    is_over: bool,
    failed: Option<OutboxError>,
    resent: u64,
    /// The last record that was let go.
    let_go_upto: Seq,
}

impl Outbox {
    /// Nothing sent yet. Records are taken once the first WELCOME has said where to begin.
    #[must_use]
    pub fn new(config: OutboxConfig) -> Outbox {
        Outbox {
            epoch: config.epoch,
            positions: Positions { durable: config.told_durable, ..Positions::default() },
            config,
            link: Link::Down,
            held: VecDeque::new(),
            held_bytes: 0,
            sent: 0,
            rejects: Vec::new(),
            rejects_seen: Seq::ZERO,
            is_welcomed_once: false,
            welcomed_at: Seq::ZERO,
            is_closing: false,
            is_over: false,
            failed: None,
            resent: 0,
            let_go_upto: Seq::ZERO,
        }
    }

    /// How far the records have come.
    #[must_use]
    pub fn positions(&self) -> Positions {
        self.positions
    }

    /// What counts as done.
    #[must_use]
    pub fn wait_for(&self) -> WaitFor {
        self.config.wait_for
    }

    /// The source's life, once the receiver has said it.
    #[must_use]
    pub fn epoch(&self) -> SourceEpoch {
        self.epoch
    }

    /// Whether a WELCOME has ever said where to begin.
    #[must_use]
    pub fn is_welcomed(&self) -> bool {
        self.is_welcomed_once
    }

    /// Whether messages can be sent now.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.link, Link::Up(_))
    }

    /// Bytes of records that are not acknowledged.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// Records that were sent more than once.
    #[must_use]
    pub fn resent(&self) -> u64 {
        self.resent
    }

    /// Why nothing goes on any more.
    #[must_use]
    pub fn failure(&self) -> Option<&OutboxError> {
        self.failed.as_ref()
    }

    /// Records the receiver keeps as rejects that were not taken yet.
    #[must_use]
    pub fn rejects(&self) -> &[Reject] {
        &self.rejects
    }

    /// Records the receiver keeps as rejects, told once each. They are not told again once the receiver knows that
    /// they were seen.
    pub fn take_rejects(&mut self) -> Vec<Reject> {
        let rejects = std::mem::take(&mut self.rejects);
        if let Some(last) = rejects.iter().map(|reject| reject.seq).max() {
            self.rejects_seen = self.rejects_seen.max(last);
            if let Link::Up(agreed) = &mut self.link {
                agreed.ping_due = true;
            }
        }
        rejects
    }

    // --- records ---------------------------------------------------------------------------------------------------

    /// Takes the next record and returns its sequence (dense, or none: the outbox counts).
    ///
    /// # Errors
    /// See [`OutboxError`]; [`OutboxError::Full`] passes, the others do not.
    pub fn push(&mut self, record: Bytes) -> Result<Seq, OutboxError> {
        if !self.is_welcomed_once && self.config.sequences != Sequences::None {
            return Err(self.failed.clone().unwrap_or(OutboxError::NotWelcomed));
        }
        let last = self.positions.pushed;
        let next = last.checked_add(1).ok_or(OutboxError::Sequence { seq: last, last })?;
        self.push_at(next, record)
    }

    /// Takes a record with its sequence.
    ///
    /// # Errors
    /// As [`Outbox::push`].
    pub fn push_at(&mut self, seq: Seq, record: Bytes) -> Result<Seq, OutboxError> {
        let step = seq.since(self.positions.pushed);
        let fits = match self.config.sequences {
            Sequences::Dense | Sequences::None => step == 1,
            Sequences::Sparse => step > 0,
        };
        if !fits {
            return Err(OutboxError::Sequence { seq, last: self.positions.pushed });
        }
        if let Link::Up(agreed) = &self.link
            && record.len() as u64 > agreed.record_bytes_max
        {
            let (bytes, limit_bytes) = (record.len() as u64, agreed.record_bytes_max);
            return Err(OutboxError::TooLarge { bytes, limit_bytes });
        }
        self.check_room(record.len() as u64)?;
        // A step that a record cannot carry is told as a SKIP before it.
        if self.config.sequences == Sequences::Sparse && step > u64::from(u32::MAX) {
            self.hold(Seq::new(seq.get() - 1), None);
        }
        self.hold(seq, Some(record));
        // The receiver may have it from an earlier life.
        self.let_go();
        Ok(seq)
    }

    /// The sequences up to `to` will never come.
    ///
    /// # Errors
    /// [`OutboxError::Sequence`] without sequences or when records up to there were given already.
    pub fn skip(&mut self, to: Seq) -> Result<(), OutboxError> {
        if self.config.sequences == Sequences::None || to <= self.positions.pushed {
            return Err(OutboxError::Sequence { seq: to, last: self.positions.pushed });
        }
        self.check_room(0)?;
        self.hold(to, None);
        self.let_go();
        Ok(())
    }

    fn check_room(&self, bytes: u64) -> Result<(), OutboxError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let (held_bytes, limit_bytes) = (self.held_bytes, self.config.held_bytes_max);
        if held_bytes > 0 && held_bytes + cost(bytes) > limit_bytes {
            return Err(OutboxError::Full { held_bytes, limit_bytes });
        }
        Ok(())
    }

    fn hold(&mut self, seq: Seq, record: Option<Bytes>) {
        self.held_bytes += cost(record.as_ref().map_or(0, |record| record.len() as u64));
        self.held.push_back(Held { previous: self.positions.pushed, seq, record });
        self.positions.pushed = seq;
    }

    /// Says goodbye once everything is acknowledged.
    pub fn close(&mut self) {
        self.is_closing = true;
    }

    // --- the connection --------------------------------------------------------------------------------------------

    /// A connection was made: send [`Outbox::hello`] first.
    pub fn connect(&mut self) {
        self.sent = 0;
        self.link = Link::Greeting;
    }

    /// The HELLO that opens a connection.
    #[must_use]
    pub fn hello(&self) -> Message {
        let config = &self.config;
        let is_sequenced = config.sequences != Sequences::None;
        Message::Hello(Hello {
            version_min: VERSION,
            version_max: VERSION,
            features: 0,
            sequences: config.sequences,
            wait_for: config.wait_for,
            // A reconnect goes on in the life it had; only the first one takes the next.
            epoch: self.epoch,
            told_durable: if is_sequenced { self.positions.durable } else { Seq::ZERO },
            token: config.token.reveal().to_vec(),
            stream: config.stream.clone(),
            source: config.source.as_ref().map_or_else(Vec::new, |source| source.as_bytes().to_vec()),
        })
    }

    /// The connection is gone.
    pub fn disconnected(&mut self) {
        self.link = Link::Down;
        self.sent = 0;
        if !self.is_over {
            self.positions.received = self.positions.durable;
        }
    }

    /// A message was received.
    pub fn handle(&mut self, now: Instant, message: Message) {
        if let Link::Up(agreed) = &mut self.link {
            agreed.heard = now;
            agreed.pinged = false;
        }
        match (&mut self.link, message) {
            (Link::Greeting, Message::Welcome(welcome)) => self.welcome(now, welcome),
            (Link::Greeting | Link::Up(_), Message::Nack(nack)) => self.nack(now, nack),
            (Link::Greeting | Link::Up(_), Message::Redirect { address, retry_after_millis }) => {
                let after = Duration::from_millis(retry_after_millis.into());
                self.link = Link::Ending(OutboxOutput::Reconnect { after, address: Some(address) });
            }
            (Link::Up(_), Message::Ack(ack)) => self.ack(ack),
            (Link::Up(agreed), Message::Ping { nonce, .. }) => agreed.pong = Some(nonce),
            (Link::Up(_), Message::Pong { .. }) | (Link::Greeting | Link::Up(_), Message::GoAway { .. }) => {}
            (Link::Up(agreed), Message::Bye) => {
                let is_done = agreed.is_bye_said && self.held.is_empty();
                self.is_over |= is_done;
                self.link = Link::Ending(match is_done {
                    true => OutboxOutput::Close,
                    false => OutboxOutput::Reconnect { after: Duration::ZERO, address: None },
                });
            }
            (Link::Down | Link::Ending(_), _) => {}
            (_, message) => self.fail(OutboxError::Protocol(format!("{message:?} does not belong here"))),
        }
    }

    fn welcome(&mut self, now: Instant, welcome: Welcome) {
        if welcome.version != VERSION {
            return self.fail(OutboxError::Protocol(format!("version {} was not offered", welcome.version)));
        }
        let is_sequenced = self.config.sequences != Sequences::None;
        if is_sequenced {
            if welcome.durable < self.positions.durable {
                let (told, durable) = (self.positions.durable, welcome.durable);
                let text = "it resumes before them".to_owned();
                return self.fail(OutboxError::AckedLoss { told, durable, text });
            }
            if !self.is_welcomed_once && self.held.is_empty() {
                self.positions.pushed = self.positions.pushed.max(welcome.durable);
            }
            self.positions.durable = welcome.durable;
            self.positions.received = welcome.durable;
            self.positions.committed = self.positions.committed.max(welcome.committed);
            self.positions.durable_lsn = welcome.durable_lsn;
        }
        self.epoch = welcome.epoch;
        self.welcomed_at = welcome.durable;
        self.is_welcomed_once = true;
        let base = self.held.front().map_or(self.positions.pushed, |held| held.previous);
        self.link = Link::Up(Agreed {
            credit_bytes: welcome.credit_bytes,
            sent_bytes: 0,
            record_bytes_max: welcome.record_bytes_max.into(),
            frame_bytes_max: welcome.frame_bytes_max.into(),
            frame_records_max: welcome.frame_records_max,
            heartbeat: Duration::from_millis(welcome.heartbeat_millis.max(1).into()),
            heard: now,
            pinged: false,
            pong: None,
            ping_due: false,
            is_bye_said: false,
            patient_until: None,
            base,
        });
        self.note_rejects(&welcome.rejects);
        if is_sequenced {
            self.rewind_to(welcome.durable);
        }
        self.let_go();
    }

    fn ack(&mut self, ack: Ack) {
        let Link::Up(agreed) = &mut self.link else { return };
        agreed.credit_bytes = agreed.credit_bytes.max(ack.credit_bytes);
        // Without sequences the receiver counts the session's records.
        let offset = if self.config.sequences == Sequences::None { agreed.base.get() } else { 0 };
        let shift = |seq: Seq| Seq::new(seq.get().saturating_add(offset));
        let (received, durable) = (shift(ack.received), shift(ack.durable));
        // In an epoch that was given to this outbox nobody else has sent anything. In one that is gone on with, records of
        // the life before may still have been on their way.
        let pushed = self.positions.pushed.max(self.welcomed_at);
        if self.config.epoch == SourceEpoch::ZERO && (received > pushed || durable > pushed) {
            let text = format!("{received} received, {durable} durable, but only those up to {pushed} exist");
            return self.fail(OutboxError::Protocol(text));
        }
        self.positions.received = self.positions.received.max(received);
        // A session that counts from `offset` says nothing about what an earlier one left behind.
        if offset <= self.positions.durable.get() {
            self.positions.durable = self.positions.durable.max(durable);
        }
        self.positions.committed = self.positions.committed.max(ack.committed);
        self.positions.durable_lsn = self.positions.durable_lsn.max(ack.durable_lsn);
        self.note_rejects(&ack.rejects);
        self.let_go();
    }

    fn nack(&mut self, now: Instant, nack: Nack) {
        let Nack { code, at, expected, retry_after_millis, fatal, text } = nack;
        let after = Duration::from_millis(retry_after_millis.into());
        if !fatal {
            if matches!(code, Code::Gap | Code::Mismatch | Code::RejectsUnseen) {
                if let Link::Up(agreed) = &mut self.link {
                    agreed.patient_until = Some(now + after);
                    agreed.is_bye_said = false;
                }
                self.rewind_to(expected);
            }
            return;
        }
        match code {
            Code::AckedLoss => {
                self.fail(OutboxError::AckedLoss { told: self.positions.durable, durable: expected, text });
            }
            // What the next connection may find mended.
            Code::Unavailable | Code::Draining | Code::TooMany | Code::Timeout | Code::Full => {
                self.link = Link::Ending(OutboxOutput::Reconnect { after, address: None });
            }
            _ => self.fail(OutboxError::Refused { code, at, text }),
        }
    }

    /// Sends again what lies behind `expected`.
    fn rewind_to(&mut self, expected: Seq) {
        let first_held = self.held.front().map_or(self.positions.pushed, |held| held.previous);
        if self.is_welcomed_once && expected < first_held {
            // Records that are not held were let go because they had reached the watermark this source waits for.
            if self.config.sequences == Sequences::Sparse && expected >= self.let_go_upto && !self.held.is_empty() {
                // An earlier life's records lay between, and went with the receiver's memory: none of this one's.
                self.held[0].previous = expected;
            } else if self.config.wait_for == WaitFor::Received {
                // At most once: what was in the receiver's memory when it went is lost, and that was agreed to.
                self.bridge(expected, first_held);
            } else {
                return self.fail(OutboxError::Missing { resume: expected, first_held });
            }
        }
        let again = self.held.partition_point(|held| held.seq <= expected);
        // Nothing of this source lies between: an earlier life skipped, or sent, what this one leaves out.
        if let Some(next) = self.held.get_mut(again) {
            next.previous = next.previous.max(expected);
        }
        self.resent += self.sent.saturating_sub(again) as u64;
        self.sent = again;
    }

    /// Tells the receiver that the sequences between will not come.
    fn bridge(&mut self, previous: Seq, to: Seq) {
        if previous < to {
            self.held_bytes += cost(0);
            self.held.push_front(Held { previous, seq: to, record: None });
        }
    }

    fn note_rejects(&mut self, rejects: &[Reject]) {
        for reject in rejects {
            let is_new = reject.seq > self.rejects_seen && self.rejects.iter().all(|known| known.seq != reject.seq);
            if is_new {
                self.rejects.push(*reject);
            }
            // The word that it was seen was lost with a connection.
            if reject.seq <= self.rejects_seen
                && let Link::Up(agreed) = &mut self.link
            {
                agreed.ping_due = true;
            }
        }
    }

    /// Records that have come as far as the source waits for are not held any longer.
    fn let_go(&mut self) {
        let done = self.positions.of(self.config.wait_for);
        while self.held.front().is_some_and(|held| held.seq <= done) {
            let held = self.held.pop_front().expect("there is one");
            self.held_bytes -= cost(held.record.map_or(0, |record| record.len() as u64));
            self.let_go_upto = held.seq;
            self.sent = self.sent.saturating_sub(1);
        }
    }

    fn fail(&mut self, error: OutboxError) {
        self.failed.get_or_insert(error);
        self.is_over = true;
        self.link = Link::Ending(OutboxOutput::Close);
    }

    /// The next thing to do on the connection.
    pub fn poll_output(&mut self, now: Instant) -> Option<OutboxOutput> {
        let agreed = match &mut self.link {
            // Also when the connection was gone before anybody asked.
            _ if self.is_over => return Some(OutboxOutput::Close),
            Link::Down | Link::Greeting => return None,
            Link::Ending(output) => return Some(output.clone()),
            Link::Up(agreed) => agreed,
        };
        let message = |message| Some(OutboxOutput::Message(message));
        if let Some(nonce) = agreed.pong.take() {
            return message(Message::Pong { nonce });
        }
        if std::mem::take(&mut agreed.ping_due) {
            return message(Message::Ping { nonce: 1, rejects_seen: self.rejects_seen });
        }
        agreed.patient_until = agreed.patient_until.filter(|until| now < *until);
        let is_patient = agreed.patient_until.is_some();
        if !is_patient && let Some(next) = self.next_send() {
            return message(next);
        }
        let Link::Up(agreed) = &mut self.link else { return None };
        let is_all_sent = self.sent == self.held.len();
        if self.is_closing && is_all_sent && !agreed.is_bye_said {
            agreed.is_bye_said = true;
            return message(Message::Bye);
        }
        if now >= agreed.heard + 3 * agreed.heartbeat {
            return Some(OutboxOutput::Reconnect { after: Duration::ZERO, address: None });
        }
        if !agreed.pinged && now >= agreed.heard + agreed.heartbeat {
            agreed.pinged = true;
            return message(Message::Ping { nonce: 0, rejects_seen: self.rejects_seen });
        }
        None
    }

    /// As many records as fit a SEND, the receiver's limits and its credit.
    fn next_send(&mut self) -> Option<Message> {
        let Link::Up(agreed) = &mut self.link else { return None };
        let first = self.held.get(self.sent)?;
        let base = if self.config.sequences == Sequences::None { agreed.base.get() } else { 0 };
        let own = |seq: Seq| Seq::new(seq.get() - base);
        let Some(record) = &first.record else {
            self.sent += 1;
            return Some(Message::Skip { previous: first.previous, to: first.seq });
        };
        let header = header_bytes(self.config.sequences) as u64;
        let credit = agreed.credit_bytes.saturating_sub(agreed.sent_bytes);
        // A record that the receiver will not hold needs no room there: it goes alone.
        let passes_by = header + record.len() as u64 > agreed.frame_bytes_max;
        if header + record.len() as u64 > credit && !passes_by {
            return None;
        }
        let limit = self.config.send_bytes.min(agreed.frame_bytes_max).min(credit);
        let mut payload = PayloadBuilder::new(self.config.sequences, own(first.previous));
        for held in self.held.range(self.sent..) {
            let Some(record) = &held.record else { break };
            let is_full = payload.bytes() as u64 + header + record.len() as u64 > limit;
            if payload.records() > 0 && (is_full || payload.records() == agreed.frame_records_max) {
                break;
            }
            if payload.push(own(held.seq), record).is_err() {
                break;
            }
        }
        self.sent += payload.records() as usize;
        if !passes_by {
            agreed.sent_bytes += payload.bytes() as u64;
        }
        Some(Message::Send(payload.finish()))
    }

    /// When [`Outbox::poll_output`] has something to say although nothing happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let Link::Up(agreed) = &self.link else { return None };
        let silent = agreed.heard + if agreed.pinged { 3 } else { 1 } * agreed.heartbeat;
        Some(agreed.patient_until.map_or(silent, |until| until.min(silent)))
    }
}

/// What holding a record costs.
fn cost(bytes: u64) -> u64 {
    bytes + 64
}
