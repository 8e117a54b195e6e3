//! The outbox on a connection: what is heard, from where to go on, and what is sent next.

use std::time::{Duration, Instant};

use super::super::message::{Ack, Code, Hello, Message, Nack, Reject, Sequences, VERSION, WaitFor, Welcome};
use super::super::payload::{PayloadBuilder, header_bytes};
use super::{Agreed, Held, LOST_MAX, Link, Lost, Outbox, OutboxError, OutboxOutput, RECORD_BYTES_MAX, cost};
use crate::types::{Seq, SourceEpoch};

/// What is left behind a SEND and is no longer than this part of it goes with it.
const REST_PART: u64 = 8;

impl Outbox {
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
            told_durable: if is_sequenced { self.positions.told_durable } else { Seq::ZERO },
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
            self.positions.received = self.positions.told_durable;
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
            if welcome.durable < self.positions.told_durable {
                let (told, durable) = (self.positions.told_durable, welcome.durable);
                let text = "it resumes before them".to_owned();
                return self.fail(OutboxError::AckedLoss { told, durable, text });
            }
            if !self.is_welcomed_once {
                self.welcomed_at = welcome.durable;
                if self.held.is_empty() {
                    self.positions.pushed = self.positions.pushed.max(welcome.durable);
                }
            }
            if self.is_somebody_else_s(welcome.durable) {
                return;
            }
            self.positions.received = welcome.durable;
            self.note_durable(welcome.durable, welcome.committed);
            self.positions.durable_lsn = welcome.durable_lsn;
        }
        self.epoch = welcome.epoch;
        self.is_welcomed_once = true;
        self.record_bytes_max = RECORD_BYTES_MAX.min(welcome.record_bytes_max.into());
        let base = self.held.front().map_or(self.positions.pushed, |held| held.previous);
        self.link = Link::Up(Agreed {
            credit_bytes: welcome.credit_bytes,
            sent_bytes: 0,
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
        } else {
            // What is held no more had come as far as the source waits for: nothing will be said of it again.
            self.positions.received = self.positions.received.max(base);
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
        if self.is_somebody_else_s(received.max(durable)) {
            return;
        }
        self.positions.received = self.positions.received.max(received);
        // A session that counts from `offset` says nothing about what an earlier one left behind.
        let is_behind_a_gap = offset > self.positions.durable.get();
        self.note_durable(if is_behind_a_gap { Seq::ZERO } else { durable }, ack.committed);
        self.positions.durable_lsn = self.positions.durable_lsn.max(ack.durable_lsn);
        self.note_rejects(&ack.rejects);
        self.let_go();
    }

    /// Whether the receiver has records up to `reached` that this outbox did not send: then it goes on no more, as those it
    /// holds are not the ones of that sequence. In an epoch that was given to it nobody else may send anything; in one that is
    /// gone on with, records of the life before may still have been on their way.
    fn is_somebody_else_s(&mut self, reached: Seq) -> bool {
        let sent = self.sent_max.max(self.welcomed_at);
        let is_beyond = self.config.epoch == SourceEpoch::ZERO && reached > sent;
        if is_beyond {
            self.fail(OutboxError::Protocol(format!(
                "records up to {reached} have come, and only those up to {sent} were sent: somebody else sends under this \
                 source's name, in its epoch"
            )));
        }
        is_beyond
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
                self.fail(OutboxError::AckedLoss { told: self.positions.told_durable, durable: expected, text });
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
            // Those records were let go because they had reached the watermark this source waits for.
            if self.config.wait_for == WaitFor::Received {
                // At most once: what was in the receiver's memory when it went is lost, and that was agreed to.
                self.note_lost(expected, first_held);
                self.bridge(expected, first_held);
            } else {
                return self.fail(OutboxError::Missing { resume: expected, first_held });
            }
        }
        let again = self.held.partition_point(|held| held.seq <= expected);
        // Nothing of this source lies between: an earlier life skipped, or sent, what this one leaves out.
        self.resume_behind = expected;
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

    /// Takes over how far the receiver says to be, short of what was lost: the watermarks pass its SKIP.
    fn note_durable(&mut self, durable: Seq, committed: Seq) {
        let positions = &mut self.positions;
        let lost = positions.lost;
        let whole = |told: Seq| lost.map_or(told, |lost| told.min(lost.previous));
        positions.told_durable = positions.told_durable.max(durable);
        positions.durable = positions.durable.max(whole(durable));
        positions.committed = positions.committed.max(whole(committed));
    }

    /// Remembers what was let go of and did not stay there; a passage that was skipped twice is lost once.
    fn note_lost(&mut self, expected: Seq, to: Seq) {
        let told = self.positions.lost.map_or(Seq::ZERO, |lost| lost.to);
        let previous = expected.max(self.positions.told_durable).max(told);
        if previous >= to {
            return;
        }
        self.positions.lost.get_or_insert(Lost { previous, to }).to = to;
        let is_full = self.lost.len() == LOST_MAX;
        match self.lost.last_mut() {
            Some(last) if last.to == previous || is_full => last.to = to,
            _ => self.lost.push(Lost { previous, to }),
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
    pub(super) fn let_go(&mut self) {
        let done = self.positions.of(self.config.wait_for);
        while self.held.front().is_some_and(|held| held.seq <= done) {
            let held = self.held.pop_front().expect("there is one");
            self.held_bytes -= cost(held.record.map_or(0, |record| record.len() as u64));
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
        // A record that the receiver says to have passed already is sent as it is: it is found to be there, or refused.
        let previous =
            if self.resume_behind < first.seq { first.previous.max(self.resume_behind) } else { first.previous };
        let Some(record) = &first.record else {
            self.sent += 1;
            self.sent_max = self.sent_max.max(first.seq);
            return Some(Message::Skip { previous, to: first.seq });
        };
        let header = header_bytes(self.config.sequences) as u64;
        let credit = agreed.credit_bytes.saturating_sub(agreed.sent_bytes);
        // A record that the receiver will not hold needs no room there: it goes alone.
        let passes_by = header + record.len() as u64 > agreed.frame_bytes_max;
        if header + record.len() as u64 > credit && !passes_by {
            return None;
        }
        let limit = self.config.send_bytes.min(agreed.frame_bytes_max).min(credit);
        // A short rest goes along: by itself it would be a block of its own, and cost the device a write.
        let with_rest = (limit + limit / REST_PART).min(agreed.frame_bytes_max).min(credit);
        let mut payload = PayloadBuilder::new(self.config.sequences, own(previous));
        let (mut fitting, mut all) = ((0, 0), (0, 0));
        let mut is_more = false;
        for record in self.held.range(self.sent..).map_while(|held| held.record.as_ref()) {
            let (records, bytes) = (all.0 + 1, all.1 + header + record.len() as u64);
            is_more = records > 1 && (bytes > with_rest || records > agreed.frame_records_max as usize);
            if is_more {
                break;
            }
            all = (records, bytes);
            if records == 1 || bytes <= limit {
                fitting = all;
            }
        }
        let (records, bytes) = if is_more { fitting } else { all };
        payload.reserve(bytes as usize);
        for held in self.held.range(self.sent..).take(records) {
            let Some(record) = &held.record else { break };
            if payload.push(own(held.seq), record).is_err() {
                break;
            }
            self.sent_max = self.sent_max.max(held.seq);
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
