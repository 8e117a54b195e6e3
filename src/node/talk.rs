//! A session driven from within this process: what a source on a wire would say, said for it by a gateway.

use std::time::{Duration, Instant};

use tokio::time::timeout_at;

use super::error::ReceiverError;
use super::receiver::Receiver;
use super::session::Session;
use crate::io::Storage;
use crate::receiver::{Code, Hello, Message, Nack, Reject, Send, Sequences, SessionOutput, WaitFor};
use crate::sync::now;
use crate::types::{Lsn, Seq, SourceEpoch};

/// Deadlines of the session are not looked at more often.
const TICK_MIN: Duration = Duration::from_millis(1);
/// One who waits in line looks at the time at least so often: what it waits for may change from room to the rate.
const LINE_LOOK_MAX: Duration = Duration::from_millis(50);

/// An open session, used by one task at a time.
pub(super) struct Talk<S: Storage> {
    session: Session<S>,
    epoch: SourceEpoch,
    durable: Seq,
    durable_lsn: Lsn,
    sent_bytes: u64,
    credit_bytes: u64,
    rejects: Vec<Reject>,
    is_full: bool,
    is_asked_to_go: bool,
}

/// Why a talk does not begin or go on. But for `TimedOut`, it has ended.
#[derive(Debug)]
pub(super) enum TalkError {
    Refused(Nack),
    /// The receiver's failure, if that is why.
    Ended(Option<ReceiverError>),
    TimedOut,
}

/// Who is spoken for, and how.
pub(super) struct Speaker<'a> {
    /// May be empty without sequences.
    pub(super) source: &'a [u8],
    pub(super) sequences: Sequences,
    pub(super) wait_for: WaitFor,
    /// [`SourceEpoch::ZERO`]: the next.
    pub(super) epoch: SourceEpoch,
}

impl<S: Storage> Talk<S> {
    /// Says HELLO and waits for the WELCOME: a new epoch is durable behind it.
    pub(super) async fn open(
        receiver: &Receiver<S>,
        speaker: &Speaker<'_>,
        until: Instant,
    ) -> Result<Talk<S>, TalkError> {
        let mut session = receiver.connect().map_err(TalkError::Refused)?;
        session.handle(Message::Hello(Hello {
            version_min: 1,
            version_max: 1,
            sequences: speaker.sequences,
            wait_for: speaker.wait_for,
            epoch: speaker.epoch,
            source: speaker.source.to_vec(),
            ..Hello::default()
        }));
        let mut talk = Talk {
            session,
            epoch: SourceEpoch::ZERO,
            durable: Seq::ZERO,
            durable_lsn: Lsn::ZERO,
            sent_bytes: 0,
            credit_bytes: 0,
            rejects: Vec::new(),
            is_full: false,
            is_asked_to_go: false,
        };
        while !talk.session.is_open() || talk.credit_bytes == 0 {
            let at = talk.next_look(until);
            match timeout_at(at.into(), talk.session.next_output()).await {
                Ok(output) => talk.take(output)?,
                Err(_) => talk.look(until)?,
            }
        }
        Ok(talk)
    }

    pub(super) fn epoch(&self) -> SourceEpoch {
        self.epoch
    }

    /// As far as it was told.
    pub(super) fn durable(&self) -> Seq {
        self.durable
    }

    pub(super) fn durable_lsn(&self) -> Lsn {
        self.durable_lsn
    }

    /// Rejects the source has not taken note of.
    pub(super) fn rejects(&self) -> &[Reject] {
        &self.rejects
    }

    /// The disk was full when it was last heard of.
    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }

    /// The receiver goes away: nothing more is to be begun.
    pub(super) fn is_asked_to_go(&self) -> bool {
        self.is_asked_to_go
    }

    /// Whether others wait for room.
    pub(super) fn is_contended(&self) -> bool {
        self.session.is_contended()
    }

    /// The last sequence received from this source.
    pub(super) fn received(&mut self) -> Result<Seq, TalkError> {
        // What was said meanwhile comes first: it may have been the end.
        self.listen()?;
        match self.session.positions() {
            Some((received, _)) => Ok(received),
            None => Err(TalkError::Ended(self.session.failure())),
        }
    }

    /// Waits for room for a payload of this length, in the receiver's memory and in the session's window. Given up, the
    /// talk is to be dropped: the place in the line would stay.
    pub(super) async fn reserve(&mut self, payload_bytes: u64, until: Instant) -> Result<(), TalkError> {
        while self.sent_bytes + payload_bytes > self.credit_bytes {
            self.hear(until).await?;
        }
        let body_bytes = u32::try_from(payload_bytes).unwrap_or(u32::MAX);
        // At first only asked: before, the session does not know that it waits.
        let mut at = now();
        loop {
            match timeout_at(at.into(), self.session.reserve(body_bytes)).await {
                Ok(()) => return Ok(()),
                // With a rate, the next one in line is let in by whoever looks at the time.
                Err(_) => self.look(until)?,
            }
            at = self.next_look(until).min(now() + LINE_LOOK_MAX);
        }
    }

    /// Hands over records, which take the room that was reserved.
    pub(super) fn send(&mut self, send: Send) -> Result<(), TalkError> {
        self.sent_bytes += send.payload.len() as u64;
        self.session.handle(Message::Send(send));
        self.listen()
    }

    /// The source has taken note of rejects up to here. Not between [`Talk::reserve`] and [`Talk::send`]: it would give
    /// the room back.
    pub(super) fn note_rejects_seen(&mut self, seen: Seq) -> Result<(), TalkError> {
        self.session.handle(Message::Ping { nonce: 0, rejects_seen: seen });
        self.listen()
    }

    /// Waits until everything up to `last` is durable.
    pub(super) async fn settle(&mut self, last: Seq, until: Instant) -> Result<(), TalkError> {
        while self.durable < last {
            self.hear(until).await?;
        }
        Ok(())
    }

    /// Waits for the next thing the receiver has to say. Cancel safe.
    pub(super) async fn hear(&mut self, until: Instant) -> Result<(), TalkError> {
        match timeout_at(until.into(), self.session.next_output()).await {
            Ok(output) => self.take(output),
            Err(_) => Err(TalkError::TimedOut),
        }
    }

    fn listen(&mut self) -> Result<(), TalkError> {
        while let Some(output) = self.session.try_output() {
            self.take(output)?;
        }
        Ok(())
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

    fn take(&mut self, output: SessionOutput) -> Result<(), TalkError> {
        match output {
            SessionOutput::Message(Message::Welcome(welcome)) => {
                self.epoch = welcome.epoch;
                self.durable = welcome.durable;
                self.durable_lsn = welcome.durable_lsn;
                self.credit_bytes = welcome.credit_bytes;
                self.rejects = welcome.rejects;
            }
            SessionOutput::Message(Message::Ack(ack)) => {
                self.is_full &= ack.durable_lsn <= self.durable_lsn;
                self.durable = self.durable.max(ack.durable);
                self.durable_lsn = self.durable_lsn.max(ack.durable_lsn);
                self.credit_bytes = self.credit_bytes.max(ack.credit_bytes);
                self.rejects = ack.rejects;
            }
            SessionOutput::Message(Message::Ping { nonce, .. }) => self.session.handle(Message::Pong { nonce }),
            SessionOutput::Message(Message::Nack(nack)) if nack.code == Code::Full => self.is_full = true,
            SessionOutput::Message(Message::Nack(nack)) => {
                return Err(match self.session.failure() {
                    Some(failure) => TalkError::Ended(Some(failure)),
                    None => TalkError::Refused(nack),
                });
            }
            SessionOutput::Message(Message::GoAway { .. }) => self.is_asked_to_go = true,
            SessionOutput::Message(_) => {}
            SessionOutput::Close => return Err(TalkError::Ended(self.session.failure())),
        }
        Ok(())
    }
}
