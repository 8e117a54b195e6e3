//! Connections come, are heard, and go; each is told what it is to say, and when it is to be looked at.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::block::RangeKind;
use super::super::builder::Part;
use super::super::config::ReceiverConfig;
use super::super::message::{Ack, Code, Message, Nack};
use super::super::sources::{SourceRef, Sources};
use super::super::wire::WireError;
use super::session::{Farewell, Session, State};
use super::{Charge, Intake, Refusal, Reservation, SessionKey, SessionOutput, name_of, range_of};
use crate::types::{Lsn, Seq};

impl Intake {
    /// A connection was made.
    ///
    /// # Errors
    /// The NACK to send before closing it.
    pub fn connect(&mut self, now: Instant) -> Result<SessionKey, Refusal> {
        self.clock = Some(now);
        let refuse = |code, text: String| {
            let nack = Nack { code, at: Seq::ZERO, expected: Seq::ZERO, retry_after_millis: 1000, fatal: true, text };
            Err(Refusal(nack))
        };
        if let Some(cause) = &self.failed {
            return refuse(Code::Unavailable, cause.clone());
        }
        if let Some(text) = self.ending.as_ref().or(self.draining.as_ref().map(|draining| &draining.text)) {
            return refuse(Code::Draining, text.clone());
        }
        if self.sessions.len() >= self.config.sessions_max as usize {
            return refuse(Code::TooMany, format!("{} sessions are open, no more are taken", self.sessions.len()));
        }
        Ok(self.sessions.insert(Session::new(now)))
    }

    /// A gateway's session, said before its HELLO: behind it are clients that keep nothing. Where it asks for no epoch, it goes
    /// on in the one that such a session has begun, if the source is in that; whoever else was given an epoch believes that
    /// nobody else sends in it.
    pub fn become_gateways(&mut self, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.is_gateways = true;
        }
    }

    /// The connection is gone. What it had sent goes on to the log all the same.
    pub fn disconnect(&mut self, now: Instant, key: SessionKey) {
        self.take_room_back(key);
        self.detach(key);
        self.sessions.remove(key);
        self.admit(now);
    }

    /// What reading a message costs the budget: its body, and what is held about it.
    #[must_use]
    pub fn cost_bytes(body_bytes: u32) -> u64 {
        u64::from(body_bytes) + 256
    }

    /// Asks for room for a HELLO, SEND or SKIP before its body is read; other messages need none.
    pub fn reserve(&mut self, now: Instant, key: SessionKey, cost_bytes: u64) -> Reservation {
        self.clock = Some(now);
        let Some(session) = self.sessions.get_mut(key) else { return Reservation::Granted };
        if self.budget.reserve(now, key, cost_bytes) {
            session.reserved += cost_bytes;
            return Reservation::Granted;
        }
        session.is_waiting = true;
        Reservation::Waiting
    }

    /// A session needs no room after all: neither what it has, nor its place in the line.
    pub fn give_up_room(&mut self, now: Instant, key: SessionKey) {
        self.take_room_back(key);
        self.admit(now);
    }

    /// Whether the room asked for was given.
    #[must_use]
    pub fn is_granted(&self, key: SessionKey) -> bool {
        self.sessions.get(key).is_none_or(|session| !session.is_waiting)
    }

    /// What became of the room a session asked for; `None` when it has not asked, or has used it. Granted, with nothing
    /// charged, to one that [is over](Intake::is_over).
    #[must_use]
    pub fn reservation(&self, key: SessionKey) -> Option<Reservation> {
        match self.sessions.get(key) {
            // What has ended takes nothing any more, and must not wait again.
            _ if self.is_over(key) => Some(Reservation::Granted),
            Some(session) if session.is_waiting => Some(Reservation::Waiting),
            Some(session) if session.reserved > 0 => Some(Reservation::Granted),
            Some(_) | None => None,
        }
    }

    /// The stream is durable up to here, as far as the receiver was told.
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        self.durable_lsn
    }

    /// Batches are committed up to here.
    #[must_use]
    pub fn committed_lsn(&self) -> Lsn {
        self.committed_lsn
    }

    /// When the first of those who wait for room is let in by the rate alone, if nothing else keeps it out.
    #[must_use]
    pub fn next_admission(&self) -> Option<Instant> {
        self.budget.next_admission()
    }

    /// Lets in those for whom there is room by now.
    pub fn admit_waiting(&mut self, now: Instant) {
        self.admit(now);
    }

    /// Whether sessions wait for room: then those that hold some without using it are to be ended.
    #[must_use]
    pub fn is_contended(&self) -> bool {
        self.budget.is_contended()
    }

    /// Some of a message came at this moment: its end may be long in coming, and that is no silence. How long it may be is
    /// for the transport to say.
    pub fn heard(&mut self, at: Instant, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(key)
            && at >= session.heard
        {
            session.heard = at;
            session.pinged = session.pinged.filter(|pinged| at < *pinged);
        }
    }

    /// A message was received. What was charged for reading it goes over to its records, or back; one that needs no room
    /// leaves what was reserved to the one that does.
    pub fn handle(&mut self, now: Instant, key: SessionKey, message: Message) {
        self.heard(now, key);
        let Some(session) = self.sessions.get_mut(key) else { return };
        let mut charge = Charge { bytes: if needs_room(&message) { std::mem::take(&mut session.reserved) } else { 0 } };
        match (&session.state, message) {
            (State::Ending, _) => {}
            (_, message) if self.ending.is_some() && needs_room(&message) => self.refuse_more(key),
            (State::Connected, Message::Hello(hello)) => self.hello(now, key, hello, &mut charge),
            (State::Open(peer), Message::Send(send)) => {
                let peer = peer.clone();
                self.send(key, &peer, send, &mut charge);
            }
            (State::Open(peer), Message::Skip { previous, to }) => {
                let peer = peer.clone();
                self.skip(key, &peer, previous, to, &mut charge);
            }
            (State::Attaching(_), Message::Ping { nonce, .. }) => {
                session.pong = Some(nonce);
                self.list(key);
            }
            (State::Open(peer), Message::Ping { nonce, rejects_seen }) => {
                let source = peer.source;
                session.pong = Some(nonce);
                session.ack_due = true;
                self.list(key);
                self.note_seen(source, rejects_seen);
            }
            (State::Open(_) | State::Attaching(_), Message::Pong { .. }) => {}
            // A source that is to go on somewhere else says it again once it has.
            (State::Open(_), Message::Bye) if session.rewinding_to.is_some() => {}
            (State::Open(_), Message::Bye) => {
                session.said_bye = true;
                self.finish_bye(key);
            }
            (_, message) => {
                let text = format!("a {} does not belong here", name_of(&message));
                self.refuse(key, Code::Protocol, Seq::ZERO, text);
            }
        }
        self.budget.refund(charge.bytes);
        self.admit(now);
    }

    /// The source has taken note of rejects. That goes into the stream, so that a replay has no more of them than there
    /// may be. Charged to nobody: each reject of a source, which was, is followed by one of these at most.
    fn note_seen(&mut self, source: Option<SourceRef>, seen: Seq) {
        let Some(source) = source.map(|at| &mut self.sources[at]) else { return };
        if let Some(last) = source.note_seen(seen) {
            let range = range_of(source, RangeKind::Seen, last, last);
            self.builder.push(Part { range, session: None, charged: 0, credit: 0 }, Bytes::new());
        }
    }

    /// What was received is no message, or cannot be taken.
    pub fn garbled(&mut self, now: Instant, key: SessionKey, error: &WireError) {
        let code = if matches!(error, WireError::TooLong { .. }) { Code::Limit } else { Code::Protocol };
        self.refuse(key, code, Seq::ZERO, error.to_string());
        self.admit(now);
    }

    /// Ends a session for a reason the transport found: not authorized, too slow.
    pub fn refuse_session(&mut self, now: Instant, key: SessionKey, code: Code, text: impl Into<String>) {
        if code == Code::Timeout && !self.is_over(key) {
            self.stats.timed_out += 1;
        }
        self.refuse(key, code, Seq::ZERO, text.into());
        self.admit(now);
    }

    /// Sends a source elsewhere.
    pub fn redirect(&mut self, key: SessionKey, address: impl Into<String>, retry_after: Duration) {
        let retry_after_millis = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX);
        self.end(key, Farewell::Redirect { address: address.into(), retry_after_millis });
    }

    /// The next thing to do on this connection.
    pub fn poll_output(&mut self, key: SessionKey) -> Option<SessionOutput> {
        let Intake { sessions, sources, config, durable_lsn, .. } = self;
        let session = sessions.get_mut(key)?;
        let output = session.next_output(|session| ack(session, sources, config, *durable_lsn));
        if matches!(output, Some(SessionOutput::Message(Message::Bye))) {
            self.end(key, Farewell::Close);
        }
        output
    }

    /// A session that has something to say, or may read on.
    pub fn poll_noisy(&mut self) -> Option<SessionKey> {
        while let Some(key) = self.noisy.pop() {
            if let Some(session) = self.sessions.get_mut(key) {
                session.is_listed = false;
                return Some(key);
            }
        }
        None
    }

    /// When [`Intake::tick`] wants to be called for this session.
    #[must_use]
    pub fn next_deadline(&self, key: SessionKey) -> Option<Instant> {
        let session = self.sessions.get(key)?;
        let own = match &session.state {
            State::Connected => Some(session.since + self.config.hello_timeout),
            State::Attaching(peer) => {
                let is_fenced = peer.source.is_none_or(|at| self.sources[at].epoch >= peer.epoch);
                Some(session.since + if is_fenced { self.config.welcome_wait } else { self.epoch_wait() })
            }
            State::Open(_) if session.is_waiting => {
                Some(session.pinged.unwrap_or(session.heard) + self.config.heartbeat)
            }
            State::Open(_) => Some(match session.pinged {
                None => session.heard + self.config.heartbeat,
                Some(_) => session.heard + 3 * self.config.heartbeat,
            }),
            State::Ending => return None,
        };
        let drained = self.draining.as_ref().and_then(|draining| draining.until);
        // Nobody behind the first one is let in at that moment: all would be woken for it, each time.
        let admitted = if self.budget.is_first(key) { self.budget.next_admission() } else { None };
        [own, drained, admitted].into_iter().flatten().min()
    }

    /// Time has passed for a session.
    pub fn tick(&mut self, now: Instant, key: SessionKey) {
        self.admit(now);
        let Some(session) = self.sessions.get_mut(key) else { return };
        if matches!(session.state, State::Ending) {
            return;
        }
        if let Some(draining) = &self.draining
            && draining.until.is_some_and(|until| now >= until)
        {
            let text = draining.text.clone();
            return self.refuse(key, Code::Draining, Seq::ZERO, text);
        }
        match &session.state {
            State::Connected if now >= session.since + self.config.hello_timeout => {
                self.stats.timed_out += 1;
                self.refuse(key, Code::Timeout, Seq::ZERO, format!("no HELLO within {:?}", self.config.hello_timeout));
            }
            State::Attaching(_) => self.try_welcome(now, key),
            // It is not heard because it is not read; it is to know that somebody is there all the same.
            State::Open(_) if session.is_waiting => {
                let last = session.pinged.unwrap_or(session.heard);
                if now < last + self.config.heartbeat {
                    return;
                }
                session.pinged = Some(now);
                session.ping = Some(0);
                session.ack_due = true;
                self.list(key);
            }
            State::Open(_) if now >= session.heard + 3 * self.config.heartbeat => {
                self.stats.timed_out += 1;
                let silent = 3 * self.config.heartbeat;
                self.refuse(key, Code::Timeout, Seq::ZERO, format!("nothing was heard for {silent:?}"));
            }
            State::Open(_) if session.pinged.is_none() && now >= session.heard + self.config.heartbeat => {
                session.pinged = Some(now);
                session.ping = Some(0);
                session.ack_due = true;
                self.list(key);
            }
            _ => {}
        }
    }

    /// Whether a session takes nothing any more: what its peer sends is not to be read, as nothing is charged for it.
    #[must_use]
    pub fn is_over(&self, key: SessionKey) -> bool {
        self.sessions.get(key).is_none_or(|session| matches!(session.state, State::Ending))
    }

    /// Whether a session was welcomed and is open.
    #[must_use]
    pub fn is_open(&self, key: SessionKey) -> bool {
        self.sessions.get(key).is_some_and(|session| matches!(session.state, State::Open(_)))
    }

    /// Received and durable, as an ACK to this session would say it now.
    #[must_use]
    pub fn positions(&self, key: SessionKey) -> Option<(Seq, Seq)> {
        let session = self.sessions.get(key)?;
        let source = session.peer()?.source.map(|at| &self.sources[at]);
        Some(source.map_or((session.received, session.durable), |source| (source.accepted, source.durable)))
    }
}

/// How far a session has come.
pub(super) fn ack(session: &mut Session, sources: &Sources, config: &ReceiverConfig, durable_lsn: Lsn) -> Ack {
    let credit_bytes = session.released_bytes + config.session_window_bytes;
    session.credit_told = credit_bytes;
    let own = (session.received, session.durable, Seq::ZERO, &[][..]);
    let source = session.peer().and_then(|peer| peer.source).map(|at| &sources[at]);
    let (received, durable, committed, rejects) =
        source.map_or(own, |source| (source.accepted, source.durable, source.committed, source.unseen()));
    Ack {
        received,
        durable,
        committed,
        durable_lsn,
        credit_bytes,
        duplicates: session.duplicates,
        rejects: rejects.to_vec(),
    }
}

/// Whether room is reserved for such a message: for what holds something until it is durable. The others may come while a
/// session has room for one of these, or waits for it.
fn needs_room(message: &Message) -> bool {
    matches!(message, Message::Hello(_) | Message::Send(_) | Message::Skip { .. })
}
