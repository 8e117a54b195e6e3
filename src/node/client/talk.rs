//! One connection of a client, from HELLO to its end.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep_until};

use super::error::{ClientError, Disconnect};
use super::shared::Shared;
use super::{ClientConfig, LinkStatus};
use crate::net::{FrameReader, HEAD_BYTES, NetError, Outgoing, Stream};
use crate::receiver::{self, FrameHeader, Message, OutboxOutput, WireError};
use crate::sync::now;

/// No message of a receiver is longer: a WELCOME with all the rejects it can hold.
const MESSAGE_BYTES_MAX: u32 = 2 << 20;
/// So much is encoded before it is written.
const WRITE_BYTES: usize = 256 << 10;
/// Payloads from this length on are not copied to be written: below it the copy costs less than a piece more.
const COPIED_BYTES_MAX: usize = 4 << 10;
/// Messages handled before anything is sent.
const TURN_MESSAGES_MAX: usize = 64;

const _: () = assert!(HEAD_BYTES == receiver::HEADER_BYTES);

/// How a connection ended.
#[derive(Debug)]
pub(super) enum TalkEnd {
    /// Everything was said.
    Done,
    /// Nothing can go on.
    Failed(ClientError),
    /// Try again.
    Lost { disconnect: Disconnect, after: Duration },
}

pub(super) struct Talk<'a> {
    shared: &'a Shared,
    config: &'a ClientConfig,
    address: &'a str,
    stream: Stream,
    reader: FrameReader,
    outgoing: Outgoing,
    /// What has come, then what is to go.
    messages: Vec<Message>,
    timer: Pin<Box<Sleep>>,
    begun: Instant,
    /// When, and the heartbeat.
    welcomed: Option<(Instant, Duration)>,
    /// When bytes last went either way.
    moved: Instant,
    /// What the receiver gave as its reason to end.
    told: Option<Disconnect>,
    ending: Option<OutboxOutput>,
    is_told_up: bool,
}

impl<'a> Talk<'a> {
    pub(super) fn new(shared: &'a Shared, config: &'a ClientConfig, address: &'a str, stream: Stream) -> Talk<'a> {
        let mut outgoing = Outgoing::default();
        let hello = shared.work(|state| {
            state.outbox.connect();
            state.outbox.hello()
        });
        receiver::encode(&hello, outgoing.buffer());
        let begun = now();
        Talk {
            shared,
            config,
            address,
            stream,
            reader: FrameReader::default(),
            outgoing,
            messages: Vec::new(),
            timer: Box::pin(sleep_until((begun + config.welcome_timeout).into())),
            begun,
            welcomed: None,
            moved: begun,
            told: None,
            ending: None,
            is_told_up: false,
        }
    }

    pub(super) fn welcomed_at(&self) -> Option<Instant> {
        self.welcomed.map(|(at, _)| at)
    }

    /// Reads, writes and waits, all at once.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<TalkEnd> {
        let talked = ready!(self.poll_talk(cx));
        // A message that came before the connection broke counts for more than how it broke.
        let ending = self.ending.take();
        let (disconnect, after) = match (talked, ending) {
            (_, Some(OutboxOutput::Close)) => {
                let failure = self.shared.work(|state| state.outbox.failure().cloned());
                return Poll::Ready(failure.map_or(TalkEnd::Done, |failure| TalkEnd::Failed(failure.into())));
            }
            (_, Some(OutboxOutput::Reconnect { after, .. })) => (self.told.take().unwrap_or(Disconnect::Silent), after),
            (Err(disconnect), _) => (disconnect, Duration::ZERO),
            (Ok(()), _) => (Disconnect::Ended, Duration::ZERO),
        };
        Poll::Ready(TalkEnd::Lost { disconnect, after })
    }

    fn poll_talk(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Disconnect>> {
        loop {
            let read = self.poll_read(cx);
            let deadline = self.exchange(cx, read.is_pending());
            if let Poll::Ready(Err(disconnect)) = read {
                self.hear_last_words();
                return Poll::Ready(Err(disconnect));
            }
            let had = self.outgoing.bytes();
            let written = self.outgoing.poll_write(cx, &mut self.stream)?;
            if self.outgoing.bytes() < had {
                self.moved = now();
            }
            if self.ending.is_some() && written.is_ready() {
                return Poll::Ready(Ok(()));
            }
            if had > 0 && written.is_ready() || read.is_ready() {
                continue;
            }
            ready!(self.poll_wait(cx, deadline))?;
        }
    }

    /// Takes in what there is.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Disconnect>> {
        while self.messages.len() < TURN_MESSAGES_MAX {
            match self.poll_message(cx) {
                Poll::Ready(Ok(message)) => {
                    self.note(&message);
                    self.messages.push(message);
                }
                Poll::Ready(Err(disconnect)) => return Poll::Ready(Err(disconnect)),
                Poll::Pending if self.messages.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, Disconnect>> {
        let head = ready!(self.reader.poll_head(cx, &mut self.stream))?.ok_or(Disconnect::Ended)?;
        let header = FrameHeader::read(head)?;
        if header.body_bytes > MESSAGE_BYTES_MAX {
            let (bytes, limit_bytes) = (header.body_bytes.into(), MESSAGE_BYTES_MAX.into());
            return Poll::Ready(Err(WireError::TooLong { bytes, limit_bytes }.into()));
        }
        let frame = ready!(self.reader.poll_frame(cx, &mut self.stream, header.frame_bytes()))?;
        Poll::Ready(Ok(receiver::decode(frame)?))
    }

    /// Gives the outbox what has come, and gets what is to go. Returns when it has something to say by itself.
    fn exchange(&mut self, cx: &mut Context<'_>, is_all_read: bool) -> Option<Instant> {
        let at = now();
        if !self.messages.is_empty() {
            self.moved = at;
        }
        let Talk { shared, messages, outgoing, ending, .. } = self;
        let is_free = outgoing.bytes() == 0 && ending.is_none();
        let (deadline, is_up) = shared.work(|state| {
            messages.drain(..).for_each(|message| state.outbox.handle(at, message));
            let mut bytes = 0;
            while is_free && bytes < WRITE_BYTES {
                match state.outbox.poll_output(at) {
                    Some(OutboxOutput::Message(message)) => {
                        bytes += if let Message::Send(send) = &message { send.payload.len() } else { 64 };
                        messages.push(message);
                    }
                    Some(output) => {
                        *ending = Some(output);
                        break;
                    }
                    None => break,
                }
            }
            let sleeps = is_all_read && is_free && messages.is_empty();
            state.task = sleeps.then(|| cx.waker().clone());
            (state.outbox.next_deadline(), state.outbox.is_up())
        });
        messages.drain(..).for_each(|message| encode(message, outgoing));
        if is_up && !std::mem::replace(&mut self.is_told_up, true) {
            self.shared.tell(LinkStatus::Connected { address: self.address.to_owned() }, None);
        }
        deadline
    }

    /// The connection is over: whether the outbox wants it to be, whatever could not be written.
    fn hear_last_words(&mut self) {
        if self.ending.is_none() {
            let output = self.shared.work(|state| state.outbox.poll_output(now()));
            self.ending = output.filter(|output| !matches!(output, OutboxOutput::Message(_)));
        }
    }

    /// Remembers what a message says about the connection itself.
    fn note(&mut self, message: &Message) {
        match message {
            Message::Welcome(welcome) => {
                let heartbeat = Duration::from_millis(welcome.heartbeat_millis.max(1).into());
                self.welcomed.get_or_insert_with(|| (now(), heartbeat));
            }
            Message::Nack(nack) if nack.fatal => {
                self.told = Some(Disconnect::Told { code: nack.code, text: nack.text.clone() });
            }
            Message::Redirect { address, .. } => {
                self.told = Some(Disconnect::Redirected { address: address.clone() });
            }
            Message::Bye => self.told = Some(Disconnect::Ended),
            _ => {}
        }
    }

    /// Sleeps until something is to be said or given up.
    fn poll_wait(&mut self, cx: &mut Context<'_>, outbox: Option<Instant>) -> Poll<Result<(), Disconnect>> {
        let (until, overdue) = match self.welcomed {
            None => {
                let after = self.config.welcome_timeout;
                let what = "waiting for a WELCOME";
                (self.begun + after, NetError::TimedOut { what, after }.into())
            }
            // What cannot be written holds up the outbox's own question whether anybody is there.
            Some((_, heartbeat)) if self.outgoing.is_waiting() => (self.moved + 3 * heartbeat, Disconnect::Silent),
            Some((at, _)) => {
                let until = outbox.unwrap_or(at + self.config.welcome_timeout);
                self.arm(until);
                return self.timer.as_mut().poll(cx).map(Ok);
            }
        };
        self.arm(until);
        match self.timer.as_mut().poll(cx) {
            Poll::Ready(()) if now() >= until => Poll::Ready(Err(overdue)),
            ready => ready.map(Ok),
        }
    }

    /// The timer is set anew only when it is too late, or has passed: deadlines move away with every message.
    fn arm(&mut self, until: Instant) {
        let armed = self.timer.deadline().into_std();
        if until < armed || self.timer.is_elapsed() {
            self.timer.as_mut().reset(until.into());
        }
    }
}

/// Copies what is short; a long payload goes out as it is.
fn encode(message: Message, outgoing: &mut Outgoing) {
    match message {
        Message::Send(send) if send.payload.len() >= COPIED_BYTES_MAX => {
            let sum = receiver::encode_send_head(&send, outgoing.buffer());
            outgoing.push(send.payload.into_bytes());
            outgoing.buffer().extend_from_slice(&sum);
        }
        message => receiver::encode(&message, outgoing.buffer()),
    }
}
