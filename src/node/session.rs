//! One connection's face of a receiver, for transports.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::error::ReceiverError;
use super::receiver::Inner;
use crate::io::{Disk, Storage};
use crate::receiver::{Code, Intake, Message, Oversized, Preview, Reservation, SessionKey, SessionOutput, WireError};
use crate::types::Seq;

/// One connection. The transport reads messages and gives them to [`Session::handle`], sends what
/// [`Session::next_output`] says, and calls [`Session::tick`] when [`Session::next_deadline`] has come. Dropping it ends
/// the session; what it had sent goes on to the log.
pub struct Session<S: Storage = Disk> {
    inner: Arc<Inner<S>>,
    key: SessionKey,
}

impl<S: Storage> Session<S> {
    pub(super) fn new(inner: Arc<Inner<S>>, key: SessionKey) -> Session<S> {
        Session { inner, key }
    }

    /// As [`Intake::become_gateways`].
    #[cfg(feature = "http")]
    pub(super) fn become_gateways(&mut self) {
        self.inner.state.lock().intake.become_gateways(self.key);
    }

    /// A number for diagnostics.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.key.number()
    }

    /// Waits for room for a HELLO, SEND or SKIP with a body of this length, before the body is read. The room belongs to the
    /// next of these that is handled; other messages need none, and leave it. Cancel safe: asked again, it goes on waiting in
    /// the same place. At once, and with nothing charged, when the session [is over](Session::is_over).
    pub async fn reserve(&mut self, body_bytes: u32) {
        poll_fn(|context| self.poll_reserve(body_bytes, context)).await
    }

    /// As [`Session::reserve`].
    pub fn poll_reserve(&mut self, body_bytes: u32, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.inner.state.lock();
        let cost = Intake::cost_bytes(body_bytes);
        let is_granted = match state.intake.reservation(self.key) {
            Some(Reservation::Granted) => true,
            Some(Reservation::Waiting) => false,
            None => state.intake.reserve(Instant::now(), self.key, cost) == Reservation::Granted,
        };
        if is_granted {
            return Poll::Ready(());
        }
        state.listen(self.key, context.waker());
        let next = state.intake.next_admission();
        drop(state);
        if let Some(at) = next {
            self.inner.wake_driver_at(at);
        }
        Poll::Pending
    }

    /// No message comes after all: gives back the room it was given, or its place among those who wait.
    pub fn give_up_room(&mut self) {
        let key = self.key;
        self.inner.with(|intake, now| intake.give_up_room(now, key));
    }

    /// Whether the session takes nothing any more: what its peer sends is not to be read, as nothing is charged for it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.inner.state.lock().intake.is_over(self.key)
    }

    /// Whether other sessions wait for room: then one that has some and does not use it is to be ended.
    #[must_use]
    pub fn is_contended(&self) -> bool {
        self.inner.state.lock().intake.is_contended()
    }

    /// A message was received.
    pub fn handle(&mut self, message: Message) {
        let key = self.key;
        self.inner.with(|intake, now| intake.handle(now, key, message));
    }

    /// The same, for who asks behind it what the session has to say: nobody is woken for what this call itself has caused.
    pub(super) fn handle_and_ask(&mut self, message: Message) {
        // A task that wakes itself is run once more, and has tokio wake another worker for it.
        self.inner.state.lock().forget(self.key);
        self.handle(message);
    }

    /// Some of a message came at this moment: its end may be long in coming, and that is no silence. How long it may be is
    /// for the transport to say.
    pub fn heard(&mut self, at: Instant) {
        self.inner.state.lock().intake.heard(at, self.key);
    }

    /// What was received is no message.
    pub fn garbled(&mut self, error: &WireError) {
        let key = self.key;
        self.inner.with(|intake, now| intake.garbled(now, key, error));
    }

    /// Ends the session for a reason the transport found.
    pub fn refuse(&mut self, code: Code, text: impl Into<String>) {
        let key = self.key;
        self.inner.with(|intake, now| intake.refuse_session(now, key, code, text));
    }

    /// A SEND is too long to be read whole; see [`Intake::begin_oversized`].
    pub fn begin_oversized(&mut self, head: Preview, payload_bytes: u64) -> Option<Oversized> {
        let key = self.key;
        self.inner.with(|intake, _| intake.begin_oversized(key, head, payload_bytes))
    }

    /// It has passed whole, and its checksum was right.
    pub fn end_oversized(&mut self, oversized: Oversized) {
        let key = self.key;
        self.inner.with(|intake, _| intake.end_oversized(key, oversized));
    }

    /// Waits for the next thing to do on this connection. Cancel safe.
    pub async fn next_output(&mut self) -> SessionOutput {
        poll_fn(|context| self.poll_output(context)).await
    }

    /// The next thing to do on this connection.
    pub fn poll_output(&mut self, context: &mut Context<'_>) -> Poll<SessionOutput> {
        let output = {
            let mut state = self.inner.state.lock();
            let output = state.intake.poll_output(self.key);
            if output.is_none() {
                state.listen(self.key, context.waker());
            }
            output
        };
        self.note_end(output.as_ref());
        output.map_or(Poll::Pending, Poll::Ready)
    }

    /// The next thing to do, if there is something now.
    pub fn try_output(&mut self) -> Option<SessionOutput> {
        let output = self.inner.state.lock().intake.poll_output(self.key);
        self.note_end(output.as_ref());
        output
    }

    /// Behind a BYE nothing is read: others have the room that was kept for it.
    fn note_end(&self, output: Option<&SessionOutput>) {
        if matches!(output, Some(SessionOutput::Message(Message::Bye))) {
            self.inner.with(|_, _| ());
        }
    }

    /// When [`Session::tick`] is to be called. Changes with every call of anything else.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.inner.state.lock().intake.next_deadline(self.key)
    }

    /// Time has passed.
    pub fn tick(&mut self) {
        let key = self.key;
        self.inner.with(|intake, now| intake.tick(now, key));
    }

    /// Whether the source was welcomed.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.inner.state.lock().intake.is_open(self.key)
    }

    /// Received and durable, as an ACK would say it now; `None` before the WELCOME and after the end.
    #[must_use]
    pub fn positions(&self) -> Option<(Seq, Seq)> {
        self.inner.state.lock().intake.positions(self.key)
    }

    /// Why nothing is acknowledged any more.
    #[must_use]
    pub fn failure(&self) -> Option<ReceiverError> {
        self.inner.state.lock().failure()
    }
}

impl<S: Storage> Drop for Session<S> {
    fn drop(&mut self) {
        let key = self.key;
        self.inner.state.lock().forget(key);
        self.inner.with(|intake, now| intake.disconnect(now, key));
    }
}

impl<S: Storage> std::fmt::Debug for Session<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("number", &self.number()).finish_non_exhaustive()
    }
}
