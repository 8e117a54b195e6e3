//! Blocks go to the log, and come back as what is durable: the one place where anything is acknowledged as that.

use std::time::Instant;

use super::super::block::RangeKind;
use super::super::builder::Part;
use super::super::message::{Code, Sequences, WaitFor};
use super::session::{Session, State};
use super::{Charge, Flight, Intake, SessionKey, nack};
use crate::codec::Checksummed;
use crate::types::{Lsn, Seq, SourceId};

impl Intake {
    /// The next block for the log, in pieces, if it is to have one now. [`Intake::placed`] or [`Intake::put_back`] must
    /// follow before another one is given.
    pub fn take_block(&mut self) -> Option<Vec<Checksummed>> {
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
        let is_lone = self.is_waited_for_alone(&draft);
        self.lone.note(is_lone);
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
                    let text =
                        "the receiver's disk is full, or gave no room; what was received waits for it".to_owned();
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

    /// Whether a block is with the log, or behind it on its way to the device.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        self.taken.is_some() || !self.flight.is_empty()
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
        // What a snapshot says was known when it was laid out; the source may have taken note of rejects since.
        if !matches!(part.range.kind, RangeKind::Position | RangeKind::Unseen { .. }) {
            self.sources.apply(&part.range);
        }
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
            && part.range.kind == RangeKind::Session
        {
            self.sources[at].is_epoch_on_its_way = false;
            // A higher one came meanwhile.
            self.write_epoch(at, &mut Charge { bytes: 0 });
        }
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
    pub(super) fn credit_news(&mut self, key: SessionKey) {
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

    /// Has all sources written down anew soon, so that the trim bound can move beyond `upto`.
    pub fn request_snapshot(&mut self, upto: Lsn) {
        self.snapshots.request(upto);
    }
}
