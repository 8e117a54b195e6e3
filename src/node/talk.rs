//! A session driven from within this process: what a source on a wire would say, said for it by a gateway or a connector.

#[cfg(feature = "http")]
mod timed;

use super::error::ReceiverError;
use super::receiver::Receiver;
use super::session::Session;
use crate::io::Storage;
use crate::receiver::{
    Code, Hello, Message, Nack, Oversized, Preview, Reject, Send, Sequences, SessionOutput, WaitFor,
};
use crate::types::{Lsn, Seq, SourceEpoch};

/// An open session, used by one task at a time. Its calls wait for as long as it takes; `timed` has those that do not.
pub(super) struct Talk<S: Storage> {
    session: Session<S>,
    is_welcomed: bool,
    epoch: SourceEpoch,
    #[cfg(feature = "http")]
    is_epoch_chosen: bool,
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
    #[cfg(feature = "http")]
    TimedOut,
}

impl From<TalkError> for ReceiverError {
    fn from(error: TalkError) -> ReceiverError {
        match error {
            TalkError::Refused(Nack { code, at, expected, text, .. }) => {
                ReceiverError::Refused { code, at, expected, text }
            }
            TalkError::Ended(failure) => failure.unwrap_or(ReceiverError::Ended),
            #[cfg(feature = "http")]
            TalkError::TimedOut => ReceiverError::Ended,
        }
    }
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
    pub(super) async fn open(receiver: &Receiver<S>, speaker: &Speaker<'_>) -> Result<Talk<S>, TalkError> {
        let mut talk = Talk::begin(receiver.connect().map_err(TalkError::Refused)?, speaker);
        while !talk.is_welcomed {
            talk.hear().await?;
        }
        Ok(talk)
    }

    fn begin(mut session: Session<S>, speaker: &Speaker<'_>) -> Talk<S> {
        session.handle(Message::Hello(Hello {
            version_min: 1,
            version_max: 1,
            sequences: speaker.sequences,
            wait_for: speaker.wait_for,
            epoch: speaker.epoch,
            source: speaker.source.to_vec(),
            ..Hello::default()
        }));
        Talk {
            session,
            is_welcomed: false,
            epoch: SourceEpoch::ZERO,
            #[cfg(feature = "http")]
            is_epoch_chosen: speaker.epoch != SourceEpoch::ZERO,
            durable: Seq::ZERO,
            durable_lsn: Lsn::ZERO,
            sent_bytes: 0,
            credit_bytes: 0,
            rejects: Vec::new(),
            is_full: false,
            is_asked_to_go: false,
        }
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

    /// Rejects the source has not taken note of, as far as they were told since the last call.
    pub(super) fn take_rejects(&mut self) -> Vec<Reject> {
        std::mem::take(&mut self.rejects)
    }

    /// Waits for room for a payload of this length, in the session's window and in the receiver's memory.
    pub(super) async fn room(&mut self, payload_bytes: u64) -> Result<(), TalkError> {
        while self.sent_bytes + payload_bytes > self.credit_bytes {
            self.hear().await?;
        }
        self.reserve(body_bytes(payload_bytes)).await;
        Ok(())
    }

    /// Dropped before it ends, it holds nobody up.
    async fn reserve(&mut self, body_bytes: u32) {
        let mut asking = Asking { session: &mut self.session, has_room: false };
        asking.session.reserve(body_bytes).await;
        asking.has_room = true;
    }

    /// Hands over records, which take the room that was reserved.
    pub(super) fn send(&mut self, send: Send) -> Result<(), TalkError> {
        self.sent_bytes += send.payload.len() as u64;
        self.session.handle_and_ask(Message::Send(send));
        self.listen()
    }

    /// One record that is longer than any that is taken: rejected, dropped, or the session's end, as the receiver is configured.
    /// It needs no credit, as it is not held.
    pub(super) async fn pass_by(&mut self, send: Send) -> Result<(), TalkError> {
        self.reserve(Oversized::COST_BYTES as u32).await;
        let head = Preview { previous: send.previous, records: send.records };
        if let Some(mut oversized) = self.session.begin_oversized(head, send.payload.len() as u64) {
            oversized.update(&send.payload);
            self.session.end_oversized(oversized);
        }
        self.listen()
    }

    /// The source has taken note of rejects up to here.
    pub(super) fn note_rejects_seen(&mut self, seen: Seq) -> Result<(), TalkError> {
        self.session.handle_and_ask(Message::Ping { nonce: 0, rejects_seen: seen });
        self.listen()
    }

    /// Waits for the next thing the receiver has to say. Cancel safe.
    pub(super) async fn hear(&mut self) -> Result<(), TalkError> {
        let output = self.session.next_output().await;
        self.take(output)
    }

    /// Hears what is there.
    pub(super) fn listen(&mut self) -> Result<(), TalkError> {
        while let Some(output) = self.session.try_output() {
            self.take(output)?;
        }
        Ok(())
    }

    fn take(&mut self, output: SessionOutput) -> Result<(), TalkError> {
        match output {
            SessionOutput::Message(Message::Welcome(welcome)) => {
                self.is_welcomed = true;
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

/// Whoever waits for room, until it is there.
struct Asking<'a, S: Storage> {
    session: &'a mut Session<S>,
    has_room: bool,
}

impl<S: Storage> Drop for Asking<'_, S> {
    fn drop(&mut self) {
        if !self.has_room {
            self.session.give_up_room();
        }
    }
}

fn body_bytes(payload_bytes: u64) -> u32 {
    u32::try_from(payload_bytes).unwrap_or(u32::MAX)
}
