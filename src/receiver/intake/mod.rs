//! The receiving end, for one stream: sessions in, blocks to the log, acknowledgments out. Pure: it is told the time,
//! what was received, and how far the log is durable, and it says what to send and what to append.
//!
//! ```text
//!            handle ─► hello / send ─► builder ─► take_block ─► (log) ─► placed
//! session ◄── poll_output ◄─────────── Sources::apply ◄────────────────── durable
//! ```
//!
//! Nothing is acknowledged as durable but from [`Intake::durable`], which applies the very ranges that are in the blocks.

mod hello;
mod send;
mod session;
mod snapshot;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::block::{Range, RangeKind};
use super::budget::Budget;
use super::builder::{Builder, Draft, Part};
use super::config::ReceiverConfig;
use super::message::{Ack, Code, Message, Nack, Sequences, WaitFor};
use super::sources::{SourceRef, Sources};
use super::wire::WireError;
use crate::types::{Lsn, Seq, SourceEpoch, SourceId};
pub use send::{Oversized, RecordCheck};
use session::{Farewell, Session, Sessions, State};
pub use session::{SessionKey, SessionOutput};
use snapshot::Snapshots;

/// The receiving end of one stream.
pub struct Intake {
    config: ReceiverConfig,
    stream: String,
    check: Option<RecordCheck>,
    sources: Sources,
    sessions: Sessions,
    /// Which session a source belongs to now.
    attached: HashMap<SourceRef, SessionKey>,
    /// Sessions that have something to say.
    noisy: Vec<SessionKey>,
    builder: Builder,
    /// With the log, and not yet placed.
    taken: Option<Draft>,
    /// The log had no room for it.
    returned: Option<Draft>,
    flight: VecDeque<Flight>,
    budget: Budget,
    snapshots: Snapshots,
    durable_lsn: Lsn,
    committed_lsn: Lsn,
    draining: Option<Draining>,
    /// The log failed: nothing is acknowledged any more.
    failed: Option<String>,
    is_full: bool,
    /// The last time it was told.
    clock: Option<Instant>,
    stats: IntakeStats,
}

/// A block in the log.
#[derive(Debug)]
struct Flight {
    lsn: Lsn,
    parts: Vec<Part>,
    ends_snapshot: Option<Lsn>,
}

#[derive(Debug)]
struct Draining {
    until: Instant,
    text: String,
}

/// Whether a message may be read now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reservation {
    /// Yes; its bytes are charged.
    Granted,
    /// Not before [`Intake::is_granted`]; the session is listed by [`Intake::poll_noisy`] then.
    Waiting,
}

/// Why a connection is not taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal(pub Nack);

/// What was counted since the receiver was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct IntakeStats {
    /// Sessions at this moment.
    pub sessions: u64,
    /// Sources known.
    pub sources: u64,
    /// Bytes charged at this moment: read or being read, and not durable.
    pub charged_bytes: u64,
    /// Records put into blocks.
    pub records: u64,
    /// Their payload bytes, headers included.
    pub payload_bytes: u64,
    /// Blocks given to the log.
    pub blocks: u64,
    /// Records that had been received before.
    pub duplicates: u64,
    /// SENDs that did not continue their source's sequence.
    pub gaps: u64,
    /// Sessions taken over by a newer one of the same source.
    pub replaced: u64,
    /// Sources that were told something to be durable that is not here.
    pub acked_losses: u64,
    /// Records kept as rejects.
    pub rejected: u64,
    /// Records dropped at the wish of a source that waits for nothing durable.
    pub dropped: u64,
    /// Sessions ended because of something they said.
    pub refused: u64,
    /// Sessions ended because nothing was heard.
    pub timed_out: u64,
}

/// How far a source has come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceStatus {
    /// Its name.
    pub id: SourceId,
    /// Its life.
    pub epoch: SourceEpoch,
    /// In memory.
    pub received: Seq,
    /// On the stream's devices.
    pub durable: Seq,
    /// In committed batches.
    pub committed: Seq,
    /// It may not come back.
    pub retired: bool,
    /// A session of it is open.
    pub is_connected: bool,
    /// Rejects it has not taken note of.
    pub rejects_unseen: usize,
}

impl Intake {
    /// For a stream that is durable up to `durable`, whose blocks gave `sources`, and of which `replay_from` is where
    /// its newest block says that a replay begins, `replayed_bytes` ago.
    #[must_use]
    pub fn new(
        config: ReceiverConfig,
        stream: impl Into<String>,
        sources: Sources,
        durable: Lsn,
        replay_from: Lsn,
        replayed_bytes: u64,
    ) -> Intake {
        Intake {
            stream: stream.into(),
            check: None,
            sources,
            sessions: Sessions::default(),
            attached: HashMap::new(),
            noisy: Vec::new(),
            builder: Builder::new(usize::try_from(config.block_bytes_max).unwrap_or(usize::MAX)),
            taken: None,
            returned: None,
            flight: VecDeque::new(),
            budget: Budget::new(config.in_flight_bytes_max),
            snapshots: Snapshots::new(
                config.snapshot_interval_bytes,
                config.block_bytes_max,
                replay_from,
                replayed_bytes,
            ),
            durable_lsn: durable,
            committed_lsn: Lsn::ZERO,
            draining: None,
            failed: None,
            is_full: false,
            clock: None,
            stats: IntakeStats::default(),
            config,
        }
    }

    /// Asks `check` about every record; what it refuses is poison, with its words as the reason.
    #[must_use]
    pub fn with_check(mut self, check: RecordCheck) -> Intake {
        self.check = Some(check);
        self
    }

    /// The limits.
    #[must_use]
    pub fn config(&self) -> &ReceiverConfig {
        &self.config
    }

    /// What was counted.
    #[must_use]
    pub fn stats(&self) -> IntakeStats {
        IntakeStats {
            sessions: self.sessions.len() as u64,
            sources: self.sources.len() as u64,
            charged_bytes: self.budget.charged_bytes(),
            ..self.stats
        }
    }

    /// Every source, connected or not.
    pub fn sources(&self) -> impl Iterator<Item = SourceStatus> + '_ {
        self.sources.iter().map(|source| self.status_of(source))
    }

    /// One source.
    #[must_use]
    pub fn source(&self, id: &SourceId) -> Option<SourceStatus> {
        self.sources.find(id.as_bytes()).map(|at| self.status_of(&self.sources[at]))
    }

    fn status_of(&self, source: &super::sources::Source) -> SourceStatus {
        let at = self.sources.find(source.id.as_bytes());
        SourceStatus {
            id: source.id.clone(),
            epoch: source.epoch,
            received: source.accepted,
            durable: source.durable,
            committed: source.committed,
            retired: source.retired,
            is_connected: at.is_some_and(|at| self.attached.contains_key(&at)),
            rejects_unseen: source.unseen().len(),
        }
    }

    // --- connections -----------------------------------------------------------------------------------------------

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
        if let Some(draining) = &self.draining {
            return refuse(Code::Draining, draining.text.clone());
        }
        if self.sessions.len() >= self.config.sessions_max as usize {
            return refuse(Code::TooMany, format!("{} sessions are open, no more are taken", self.sessions.len()));
        }
        Ok(self.sessions.insert(Session::new(now)))
    }

    /// The connection is gone. What it had sent goes on to the log all the same.
    pub fn disconnect(&mut self, now: Instant, key: SessionKey) {
        self.budget.leave(key);
        let Some(session) = self.sessions.remove(key) else { return };
        self.budget.release(session.reserved);
        if let Some(source) = session.peer().and_then(|peer| peer.source)
            && self.attached.get(&source) == Some(&key)
        {
            self.attached.remove(&source);
        }
        self.admit(now);
    }

    /// What reading a message costs the budget: its body, and what is held about it.
    #[must_use]
    pub fn cost_bytes(body_bytes: u32) -> u64 {
        u64::from(body_bytes) + 256
    }

    /// Asks for room for a message before its body is read.
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

    /// Whether the room asked for was given.
    #[must_use]
    pub fn is_granted(&self, key: SessionKey) -> bool {
        self.sessions.get(key).is_none_or(|session| !session.is_waiting)
    }

    /// What became of the room a session asked for; `None` when it has not asked, or has used it.
    #[must_use]
    pub fn reservation(&self, key: SessionKey) -> Option<Reservation> {
        match self.sessions.get(key) {
            // What has ended takes nothing any more, and must not wait again.
            Some(session) if matches!(session.state, State::Ending) => Some(Reservation::Granted),
            Some(session) if session.is_waiting => Some(Reservation::Waiting),
            Some(session) if session.reserved > 0 => Some(Reservation::Granted),
            Some(_) => None,
            // It is gone: nothing of it is taken any more.
            None => Some(Reservation::Granted),
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

    /// A message was received. Whatever was charged for reading it goes over to its records, or back.
    pub fn handle(&mut self, now: Instant, key: SessionKey, message: Message) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.heard = now;
        session.pinged = None;
        let reserved = std::mem::take(&mut session.reserved);
        let mut charge = Charge { bytes: reserved };
        match (&session.state, message) {
            (State::Ending, _) => {}
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
                self.note_seen(source, rejects_seen, &mut charge);
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
        self.budget.release(charge.bytes);
        self.admit(now);
    }

    /// The source has taken note of rejects. That goes into the stream, so that a replay has no more of them than there
    /// may be.
    fn note_seen(&mut self, source: Option<SourceRef>, seen: Seq, charge: &mut Charge) {
        let Some(source) = source.map(|at| &mut self.sources[at]) else { return };
        if let Some(last) = source.note_seen(seen) {
            let range = range_of(source, RangeKind::Seen, last, last);
            self.builder.push(Part { range, session: None, charged: charge.take(), credit: 0 }, Bytes::new());
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
        let is_ending = self.sessions.get(key).is_none_or(|session| matches!(session.state, State::Ending));
        if code == Code::Timeout && !is_ending {
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
        session.next_output(|session| {
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
                durable_lsn: *durable_lsn,
                credit_bytes,
                duplicates: session.duplicates,
                rejects: rejects.to_vec(),
            }
        })
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
        let drained = self.draining.as_ref().map(|draining| draining.until);
        let admitted = if session.is_waiting { self.budget.next_admission() } else { None };
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
            && now >= draining.until
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

    // --- the log ---------------------------------------------------------------------------------------------------

    /// The next block for the log, in pieces, if it is to have one now. [`Intake::placed`] or [`Intake::put_back`] must
    /// follow before another one is given.
    pub fn take_block(&mut self) -> Option<Vec<Bytes>> {
        let is_busy = self.taken.is_some() || self.flight.len() >= self.config.blocks_in_flight_max as usize;
        if is_busy || self.failed.is_some() {
            return None;
        }
        let draft = self.returned.take().or_else(|| {
            let part = self.snapshots.next_part(&self.sources, self.durable_lsn, !self.builder.is_empty());
            part.or_else(|| {
                let draft = self.builder.take()?;
                self.snapshots.note(draft.bytes());
                Some(draft)
            })
        })?;
        let pieces = draft.pieces(self.snapshots.replay_from());
        self.taken = Some(draft);
        Some(pieces)
    }

    /// The block last taken has this place in the stream.
    pub fn placed(&mut self, lsn: Lsn) {
        let draft = self.taken.take().expect("a block was taken");
        debug_assert!(self.flight.back().is_none_or(|last| last.lsn < lsn), "blocks are placed in their order");
        self.stats.blocks += 1;
        self.is_full = false;
        self.flight.push_back(Flight { lsn, parts: draft.parts, ends_snapshot: draft.ends_snapshot });
        // Whoever heard that it is durable may have been faster than who heard where it is.
        self.settle();
    }

    /// The log has no room for the block last taken; it is the next one again. With `full`, sources are told.
    pub fn put_back(&mut self, full: bool) {
        self.returned = self.taken.take();
        if full && !std::mem::replace(&mut self.is_full, true) {
            for key in self.sessions.keys() {
                let Some(session) = self.sessions.get_mut(key) else { continue };
                if matches!(session.state, State::Open(_)) {
                    let text = "the receiver's disk is full; what was received waits for room".to_owned();
                    session.full = Some(nack(Code::Full, Seq::ZERO, Seq::ZERO, 1000, text));
                    self.list(key);
                }
            }
        }
    }

    /// Whether nothing waits for the log, and nothing in it for the device.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.builder.is_empty() && self.taken.is_none() && self.returned.is_none() && self.flight.is_empty()
    }

    /// Whether a block waits that the log had no room for.
    #[must_use]
    pub fn has_returned(&self) -> bool {
        self.returned.is_some()
    }

    /// Everything in the stream up to `lsn` is durable by its policy.
    pub fn durable(&mut self, now: Instant, lsn: Lsn) {
        self.clock = Some(now);
        if lsn > self.durable_lsn {
            self.durable_lsn = lsn;
            self.settle();
        }
    }

    /// Applies the blocks that are durable: whenever a block may be taken, the sources' state is that of `durable_lsn`.
    fn settle(&mut self) {
        let lsn = self.durable_lsn;
        if self.failed.is_some() {
            return;
        }
        while self.flight.front().is_some_and(|flight| flight.lsn <= lsn) {
            let flight = self.flight.pop_front().expect("there is one");
            if let Some(begin) = flight.ends_snapshot {
                self.snapshots.become_durable(begin);
            }
            for part in flight.parts {
                self.part_is_durable(part);
            }
        }
        self.admit_again();
    }

    fn part_is_durable(&mut self, part: Part) {
        self.sources.apply(&part.range);
        self.budget.release(part.charged);
        if let Some(key) = part.session
            && let Some(session) = self.sessions.get_mut(key)
        {
            session.released_bytes += part.credit;
            if part.range.sequences == Sequences::None {
                session.durable = session.durable.max(part.range.last);
            }
            self.news(key);
        }
        // The source may have come back meanwhile, with a session that waits for what the last one left.
        let source = part.range.source.as_ref().and_then(|id| self.sources.find(id.as_bytes()));
        if let Some(at) = source
            && matches!(part.range.kind, RangeKind::Reject { .. })
        {
            let source = &mut self.sources[at];
            source.rejects_in_flight = source.rejects_in_flight.saturating_sub(1);
            // Told to whoever waits for whatever: until they are seen, there may be no room for more.
            if let Some(&key) = self.attached.get(&at) {
                self.acknowledge(key);
            }
        }
        if let Some(&key) = source.and_then(|source| self.attached.get(&source))
            && part.session != Some(key)
        {
            self.news(key);
        }
        if let Some(&key) = source.and_then(|source| self.attached.get(&source)) {
            if let Some(now) = self.clock {
                self.try_welcome(now, key);
            }
            self.finish_bye(key);
        }
        // Its session need not be the source's: without sequences a name is only a name.
        if let Some(key) = part.session {
            self.finish_bye(key);
        }
    }

    /// A session's watermarks or credit have moved: is it worth telling?
    fn news(&mut self, key: SessionKey) {
        let peer = self.sessions.get(key).and_then(Session::open_peer);
        match peer.map(|peer| peer.wait_for) {
            Some(WaitFor::Durable | WaitFor::Committed) => self.acknowledge(key),
            // Those that do not wait for the device hear about credit only.
            Some(WaitFor::Received) => self.credit_news(key),
            None => {}
        }
    }

    /// Has an ACK sent.
    fn acknowledge(&mut self, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(key)
            && session.open_peer().is_some()
        {
            session.ack_due = true;
            self.list(key);
        }
    }

    /// A session's credit has grown: told half a window at a time, and before the source has to wait with a SEND.
    fn credit_news(&mut self, key: SessionKey) {
        let (window, send) = (self.config.session_window_bytes, self.config.payload_bytes_max());
        let Some(session) = self.sessions.get_mut(key) else { return };
        let grown = (session.released_bytes + window).saturating_sub(session.credit_told);
        let left = session.credit_told.saturating_sub(session.sent_bytes);
        if grown > 0 && (grown >= window / 2 || left < send) {
            session.ack_due = true;
            self.list(key);
        }
    }

    /// Batches up to `lsn` are committed; `positions` are what their blocks hold of each source.
    pub fn committed(&mut self, lsn: Lsn, positions: impl IntoIterator<Item = (SourceId, Seq)>) {
        if self.failed.is_some() || lsn > self.durable_lsn {
            return;
        }
        self.committed_lsn = self.committed_lsn.max(lsn);
        for (id, seq) in positions {
            let Some(at) = self.sources.find(id.as_bytes()) else { continue };
            let source = &mut self.sources[at];
            let seq = seq.min(source.durable);
            if seq <= source.committed {
                continue;
            }
            source.committed = seq;
            if let Some(&key) = self.attached.get(&at)
                && let Some(session) = self.sessions.get_mut(key)
                && matches!(&session.state, State::Open(peer) if peer.wait_for == WaitFor::Committed)
            {
                session.ack_due = true;
                self.list(key);
                self.finish_bye(key);
            }
        }
    }

    /// Frames before this one are not needed to know how far sources have come; [`Lsn::ZERO`]: all are.
    #[must_use]
    pub fn trim_bound(&self) -> Lsn {
        self.snapshots.trim_bound()
    }

    /// Has all sources written down anew soon, so that the trim bound can move.
    pub fn request_snapshot(&mut self) {
        self.snapshots.request();
    }

    // --- upkeep ----------------------------------------------------------------------------------------------------

    /// Limits how many bytes a second sources may send in all; `None`: what the log takes.
    pub fn set_rate(&mut self, now: Instant, bytes_per_second: Option<f64>) {
        self.budget.set_rate(now, bytes_per_second);
        self.admit(now);
    }

    /// Tells every session to finish until then, and takes no new ones.
    pub fn drain(&mut self, now: Instant, within: Duration, text: impl Into<String>) {
        let text = text.into();
        self.draining = Some(Draining { until: now + within, text: text.clone() });
        for key in self.sessions.keys() {
            if let Some(session) = self.sessions.get_mut(key) {
                session.go_away = Some((Code::Draining, within, text.clone()));
                self.list(key);
            }
        }
    }

    /// The log failed: what is not acknowledged is unknown, and no session hears anything but that.
    pub fn fail(&mut self, cause: impl Into<String>) {
        let cause = cause.into();
        if self.failed.is_none() {
            self.failed = Some(cause.clone());
            for key in self.sessions.keys() {
                self.refuse(key, Code::Unavailable, Seq::ZERO, cause.clone());
            }
        }
    }

    /// Records that a source is gone for good: it will be refused, never silently taken as new. Durable when
    /// [`Intake::source`] says so.
    ///
    /// # Errors
    /// The source itself when it never came.
    pub fn retire(&mut self, id: &SourceId) -> Result<(), SourceId> {
        let at = self.sources.find(id.as_bytes()).ok_or_else(|| id.clone())?;
        if let Some(key) = self.attached.remove(&at) {
            self.refuse(key, Code::Retired, Seq::ZERO, "the source was retired".to_owned());
        }
        let source = &mut self.sources[at];
        source.is_retiring = true;
        let range = range_of(source, RangeKind::Retired, source.accepted, source.accepted);
        self.builder.push(Part { range, session: None, charged: 0, credit: 0 }, Bytes::new());
        Ok(())
    }

    /// The source has said that nothing more comes; answered when everything is as it wanted.
    fn finish_bye(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let State::Open(peer) = &session.state else { return };
        if !session.said_bye || session.bye_due {
            return;
        }
        let is_done = match (peer.source.map(|at| &self.sources[at]), peer.wait_for) {
            (_, WaitFor::Received) => true,
            (Some(source), WaitFor::Durable) => source.durable >= source.accepted,
            (Some(source), WaitFor::Committed) => source.committed >= source.accepted,
            (None, _) => session.durable >= session.received,
        };
        if is_done {
            session.ack_due = true;
            session.bye_due = true;
            self.list(key);
        }
    }

    /// Ends a session with an error.
    fn refuse(&mut self, key: SessionKey, code: Code, at: Seq, text: String) {
        let Some(session) = self.sessions.get(key).filter(|session| !matches!(session.state, State::Ending)) else {
            return;
        };
        let expected = session.peer().and_then(|peer| peer.source).map_or(Seq::ZERO, |at| self.sources[at].accepted);
        self.refuse_expecting(key, code, at, expected, text);
    }

    fn refuse_expecting(&mut self, key: SessionKey, code: Code, at: Seq, expected: Seq, text: String) {
        if !matches!(code, Code::Draining | Code::Replaced | Code::Timeout) {
            self.stats.refused += 1;
        }
        let retry_after_millis = match code {
            Code::Unavailable | Code::Draining | Code::TooMany => 1000,
            _ => 0,
        };
        self.end(key, Farewell::Nack(Nack { code, at, expected, retry_after_millis, fatal: true, text }));
    }

    fn end(&mut self, key: SessionKey, farewell: Farewell) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let source = session.peer().and_then(|peer| peer.source);
        session.become_ending(farewell);
        session.is_waiting = false;
        let reserved = std::mem::take(&mut session.reserved);
        self.budget.release(reserved);
        self.budget.leave(key);
        if let Some(source) = source
            && self.attached.get(&source) == Some(&key)
        {
            self.attached.remove(&source);
        }
        self.list(key);
        self.admit_again();
    }

    /// Puts a session on the list of those that have something to say.
    fn list(&mut self, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(key)
            && !std::mem::replace(&mut session.is_listed, true)
        {
            self.noisy.push(key);
        }
    }

    /// As [`Intake::admit`], where time did not pass.
    fn admit_again(&mut self) {
        if let Some(now) = self.clock {
            self.admit(now);
        }
    }

    /// Lets in those in line for whom there is room.
    fn admit(&mut self, now: Instant) {
        self.clock = Some(now);
        while let Some((key, bytes)) = self.budget.admit(now) {
            match self.sessions.get_mut(key) {
                Some(session) => {
                    session.is_waiting = false;
                    session.reserved += bytes;
                    session.heard = now;
                    session.pinged = None;
                    self.list(key);
                }
                None => self.budget.release(bytes),
            }
        }
    }
}

/// What was charged for the message at hand and belongs to nobody yet.
#[derive(Debug)]
struct Charge {
    bytes: u64,
}

impl Charge {
    fn take(&mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }
}

fn nack(code: Code, at: Seq, expected: Seq, retry_after_millis: u32, text: String) -> Nack {
    Nack { code, at, expected, retry_after_millis, fatal: false, text }
}

fn range_of(source: &super::sources::Source, kind: RangeKind, previous: Seq, last: Seq) -> Range {
    Range {
        kind,
        source: Some(source.id.clone()),
        epoch: source.epoch,
        sequences: source.sequences,
        records: 0,
        previous,
        last,
    }
}

fn name_of(message: &Message) -> &'static str {
    match message {
        Message::Hello(_) => "HELLO",
        Message::Welcome(_) => "WELCOME",
        Message::Redirect { .. } => "REDIRECT",
        Message::Send(_) => "SEND",
        Message::Skip { .. } => "SKIP",
        Message::Ack(_) => "ACK",
        Message::Nack(_) => "NACK",
        Message::Ping { .. } => "PING",
        Message::Pong { .. } => "PONG",
        Message::GoAway { .. } => "GOAWAY",
        Message::Bye => "BYE",
    }
}

impl fmt::Debug for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intake").field("stream", &self.stream).field("stats", &self.stats()).finish_non_exhaustive()
    }
}
