//! What gateways do with a talk: everything within a time, and what a peer asks to know.

use std::time::{Duration, Instant};

use tokio::time::timeout_at;

use super::{Speaker, Talk, TalkError, body_bytes};
use crate::io::Storage;
use crate::node::receiver::Receiver;
use crate::receiver::Reject;
use crate::sync::now;
use crate::types::Seq;

/// Deadlines of the session are not looked at more often.
const TICK_MIN: Duration = Duration::from_millis(1);
/// One who waits in line looks at the time at least so often: what it waits for may change from room to the rate.
const LINE_LOOK_MAX: Duration = Duration::from_millis(50);

impl<S: Storage> Talk<S> {
    /// As [`Talk::open`], for a gateway: see [`Intake::become_gateways`](crate::receiver::Intake::become_gateways).
    pub(in crate::node) async fn open_until(
        receiver: &Receiver<S>,
        speaker: &Speaker<'_>,
        until: Instant,
    ) -> Result<Talk<S>, TalkError> {
        let mut session = receiver.connect().map_err(TalkError::Refused)?;
        session.become_gateways();
        let mut talk = Talk::begin(session, speaker);
        while !talk.is_welcomed {
            let at = talk.next_look(until);
            match timeout_at(at.into(), talk.hear()).await {
                Ok(heard) => heard?,
                Err(_) => talk.look(until)?,
            }
        }
        Ok(talk)
    }

    /// Whoever is spoken for said which epoch this is.
    pub(in crate::node) fn is_epoch_chosen(&self) -> bool {
        self.is_epoch_chosen
    }

    /// Rejects the source has not taken note of.
    pub(in crate::node) fn rejects(&self) -> &[Reject] {
        &self.rejects
    }

    /// The disk was full when it was last heard of.
    pub(in crate::node) fn is_full(&self) -> bool {
        self.is_full
    }

    /// The receiver goes away: nothing more is to be begun.
    pub(in crate::node) fn is_asked_to_go(&self) -> bool {
        self.is_asked_to_go
    }

    /// Whether others wait for room.
    pub(in crate::node) fn is_contended(&self) -> bool {
        self.session.is_contended()
    }

    /// The last sequence received from this source.
    pub(in crate::node) fn received(&mut self) -> Result<Seq, TalkError> {
        // What was said meanwhile comes first: it may have been the end.
        self.listen()?;
        match self.session.positions() {
            Some((received, _)) => Ok(received),
            None => Err(TalkError::Ended(self.session.failure())),
        }
    }

    /// As [`Talk::room`]. Given up, the talk is to be dropped: the place in the line would stay.
    pub(in crate::node) async fn room_until(&mut self, payload_bytes: u64, until: Instant) -> Result<(), TalkError> {
        while self.sent_bytes + payload_bytes > self.credit_bytes {
            self.hear_until(until).await?;
        }
        // At first only asked: before, the session does not know that it waits.
        let mut at = now();
        loop {
            match timeout_at(at.into(), self.session.reserve(body_bytes(payload_bytes))).await {
                // A session that is over has its room for nothing: its last words come before anything is read.
                Ok(()) => return self.listen(),
                // With a rate, the next one in line is let in by whoever looks at the time.
                Err(_) => self.look(until)?,
            }
            at = self.next_look(until).min(now() + LINE_LOOK_MAX);
        }
    }

    /// Waits until everything up to `last` is durable.
    pub(in crate::node) async fn settle_until(&mut self, last: Seq, until: Instant) -> Result<(), TalkError> {
        while self.durable < last {
            self.hear_until(until).await?;
        }
        Ok(())
    }

    /// As [`Talk::hear`].
    pub(in crate::node) async fn hear_until(&mut self, until: Instant) -> Result<(), TalkError> {
        timeout_at(until.into(), self.hear()).await.unwrap_or(Err(TalkError::TimedOut))
    }

    fn next_look(&self, until: Instant) -> Instant {
        let next = self.session.next_deadline().map_or(until, |at| at.max(now() + TICK_MIN));
        next.min(until)
    }

    fn look(&mut self, until: Instant) -> Result<(), TalkError> {
        if now() >= until {
            return Err(TalkError::TimedOut);
        }
        self.session.tick();
        Ok(())
    }
}
