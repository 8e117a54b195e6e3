//! What an operator asks for, how sessions end, and who is let in when there is room.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::block::RangeKind;
use super::super::builder::Part;
use super::super::message::{Code, Nack, WaitFor};
use super::connections::ack;
use super::session::{Farewell, Session, State};
use super::{Draining, Intake, SessionKey, range_of};
use crate::types::{Ballot, Seq, SourceId};

impl Intake {
    /// Limits how many bytes a second are taken from all sources together; `None`: what the log takes. A message of
    /// which nothing is taken, as it was there before or is not its turn, does not count; one of which something is, does.
    pub fn set_rate(&mut self, now: Instant, bytes_per_second: Option<f64>) {
        self.is_rate_of_driver = false;
        self.budget.set_rate(now, bytes_per_second);
        self.admit(now);
    }

    /// As [`Intake::set_rate`], by a driver of batches. `None` lifts what a driver has set, this one or one before it that may
    /// not do so any more; a limit that somebody else has set stays.
    ///
    /// # Errors
    /// The ballot of a later driver that the stream obeys.
    pub fn set_rate_by(&mut self, now: Instant, driver: Ballot, bytes_per_second: Option<f64>) -> Result<(), Ballot> {
        if driver < self.driver {
            return Err(self.driver);
        }
        if bytes_per_second.is_some() || self.is_rate_of_driver {
            self.set_rate(now, bytes_per_second);
            self.is_rate_of_driver = bytes_per_second.is_some();
        }
        Ok(())
    }

    /// The stream obeys this driver from now on. A rate stands until it says another.
    pub fn obey(&mut self, driver: Ballot) {
        self.driver = self.driver.max(driver);
    }

    /// Tells every session to finish until then, and takes no new ones. [`Duration::MAX`]: whenever they do.
    pub fn drain(&mut self, now: Instant, within: Duration, text: impl Into<String>) {
        let text = text.into();
        self.draining = Some(Draining { until: now.checked_add(within), text: text.clone() });
        for key in self.sessions.keys() {
            if let Some(session) = self.sessions.get_mut(key) {
                session.go_away = Some((Code::Draining, within, text.clone()));
                self.list(key);
            }
        }
    }

    /// What was received becomes durable and is acknowledged; a session that brings more is ended with these words.
    pub fn take_no_more(&mut self, text: impl Into<String>) {
        self.ending = Some(text.into());
    }

    pub(super) fn refuse_more(&mut self, key: SessionKey) {
        let text = self.ending.clone().unwrap_or_default();
        self.refuse(key, Code::Draining, Seq::ZERO, text);
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

    /// The receiver ends, and the log has not failed: what is not acknowledged is unknown. What has become durable is told first,
    /// and who has said BYE and waited for no more is answered.
    pub fn end_in_order(&mut self, cause: impl Into<String>) {
        if self.failed.is_some() {
            return;
        }
        for key in self.sessions.keys() {
            let Intake { sessions, sources, config, durable_lsn, .. } = self;
            // Who was not told that it is welcome hears nothing else.
            let is_told = |session: &&mut Session| session.open_peer().is_some() && session.welcome.is_none();
            let Some(session) = sessions.get_mut(key).filter(is_told) else { continue };
            if session.ack_due {
                session.last_ack = Some(Box::new(ack(session, sources, config, *durable_lsn)));
            }
            if session.bye_due {
                self.end(key, Farewell::Bye);
            }
        }
        self.fail(cause);
    }

    /// Records that a source is gone for good: it will be refused, also without sequences, never silently taken as new. Durable when
    /// [`Intake::source`] says so.
    ///
    /// # Errors
    /// The source itself when it never came.
    pub fn retire(&mut self, id: &SourceId) -> Result<(), SourceId> {
        let at = self.sources.find(id.as_bytes()).ok_or_else(|| id.clone())?;
        for key in self.sessions.keys() {
            let peer = self.sessions.get(key).and_then(Session::peer);
            if peer.is_some_and(|peer| peer.id.as_ref() == Some(id)) {
                self.refuse(key, Code::Retired, Seq::ZERO, "the source was retired".to_owned());
            }
        }
        let source = &mut self.sources[at];
        source.is_retiring = true;
        let range = range_of(source, RangeKind::Retired, source.accepted, source.accepted);
        self.builder.push(Part { range, session: None, charged: 0, credit: 0 }, Bytes::new());
        Ok(())
    }

    /// The source has said that nothing more comes; answered when everything is as it wanted.
    pub(super) fn finish_bye(&mut self, key: SessionKey) {
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
    pub(super) fn refuse(&mut self, key: SessionKey, code: Code, at: Seq, text: String) {
        let Some(session) = self.sessions.get(key).filter(|session| !matches!(session.state, State::Ending)) else {
            return;
        };
        let source = session.peer().and_then(|peer| peer.source);
        let expected = source.map_or(session.received, |at| self.sources[at].accepted);
        self.refuse_expecting(key, code, at, expected, text);
    }

    pub(super) fn refuse_expecting(&mut self, key: SessionKey, code: Code, at: Seq, expected: Seq, text: String) {
        if !matches!(code, Code::Draining | Code::Replaced | Code::Timeout) {
            self.stats.refused += 1;
        }
        let retry_after_millis = match code {
            Code::Unavailable | Code::Draining | Code::TooMany => 1000,
            _ => 0,
        };
        self.end(key, Farewell::Nack(Nack { code, at, expected, retry_after_millis, fatal: true, text }));
    }

    pub(super) fn end(&mut self, key: SessionKey, farewell: Farewell) {
        self.detach(key);
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.become_ending(farewell);
        self.take_room_back(key);
        self.list(key);
        self.admit_again();
    }

    /// Its source is not this session's any more, if it was; before it ends, as it does not know its peer behind that.
    pub(super) fn detach(&mut self, key: SessionKey) {
        let peer = self.sessions.get(key).and_then(Session::peer);
        if let Some(source) = peer.and_then(|peer| peer.source)
            && self.attached.get(&source) == Some(&key)
        {
            self.attached.remove(&source);
        }
    }

    /// Nothing comes of what was reserved, or waited for.
    pub(super) fn take_room_back(&mut self, key: SessionKey) {
        self.budget.leave(key);
        if let Some(session) = self.sessions.get_mut(key) {
            session.is_waiting = false;
            self.budget.refund(std::mem::take(&mut session.reserved));
        }
    }

    /// Puts a session on the list of those that have something to say.
    pub(super) fn list(&mut self, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(key)
            && !std::mem::replace(&mut session.is_listed, true)
        {
            self.noisy.push(key);
        }
    }

    /// As [`Intake::admit`], where time did not pass.
    pub(super) fn admit_again(&mut self) {
        if let Some(now) = self.clock {
            self.admit(now);
        }
    }

    /// Lets in those in line for whom there is room.
    pub(super) fn admit(&mut self, now: Instant) {
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
                None => self.budget.refund(bytes),
            }
        }
    }
}
