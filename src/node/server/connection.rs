//! One connection: reads messages for its session, and writes what the session says, both at once in one task.
//!
//! ```text
//! Head ─► Room ─► Body ─► Head …          a SEND too long to be held:  Head ─► Room ─► Preview ─► Passing ─► Head
//! any ─► Deaf: something was wrong, or the session is over; only its last words are written
//! ```
//!
//! While a session waits for room, and while its peer does not read, it costs what is in its read-ahead and one write
//! buffer: what it has to say is not encoded before it can be written.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep_until, timeout};

use super::{Common, count};
use crate::codec::Crc32c;
use crate::events::event;
use crate::io::Storage;
use crate::net::{FrameReader, HEAD_BYTES, NetError, Outgoing, Stream};
use crate::node::session::Session;
use crate::node::tokens::Identity;
use crate::receiver::{self, Code, FrameHeader, Message, Nack, Oversized, Preview, SessionOutput, WireError};
use crate::sync::now;

/// No message but HELLO and SEND is longer.
const CONTROL_BYTES_MAX: u32 = 64;
/// A HELLO up to this length is read without waiting for room: nobody is kept out by the load of others.
const SMALL_HELLO_BYTES: u32 = 1024;
/// So much is encoded before it is written.
const WRITE_BYTES: usize = 64 << 10;
/// Messages read before anything is written.
const TURN_MESSAGES_MAX: usize = 64;
/// While others wait for room, a message must come this fast, once it has had its grace.
const CONTENDED_BYTES_PER_SECOND: u64 = 64 << 10;
const CONTENDED_GRACE: Duration = Duration::from_secs(1);
/// Deadlines are not looked at more often.
const TICK_MIN: Duration = Duration::from_millis(1);
/// A session's last words are written within this; then its peer has a while to read them before the connection is cut,
/// which would take them away.
const FAREWELL: Duration = Duration::from_secs(5);
const LINGER: Duration = Duration::from_secs(1);

/// Takes a connection from its first byte to its last.
pub(super) async fn serve<S: Storage>(common: Arc<Common<S>>, stream: TcpStream, peer: SocketAddr) {
    common.counters.0.connections.fetch_add(1, Ordering::Relaxed);
    let _counted = Counted(&common);
    let ended = serve_counted(&common, stream, peer).await;
    if let Err(_error) = ended {
        event!(debug, %peer, error = %_error, "a connection ended");
    }
}

struct Counted<'a, S: Storage>(&'a Common<S>);

impl<S: Storage> Drop for Counted<'_, S> {
    fn drop(&mut self) {
        self.0.counters.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve_counted<S: Storage>(common: &Common<S>, stream: TcpStream, peer: SocketAddr) -> Result<(), NetError> {
    let counters = &common.counters.0;
    stream.set_nodelay(true).map_err(|e| NetError::io("set TCP_NODELAY", e))?;
    let mut stream = match &common.config.tls {
        None => Stream::Plain(stream),
        // On the heap: the handshake is large and short, the connection small and long.
        Some(tls) => Box::pin(tls.accept(stream, &peer.to_string(), common.config.handshake_timeout))
            .await
            .inspect_err(|_| count(&counters.handshakes_failed))?,
    };
    let session = match common.receiver.connect() {
        Ok(session) => session,
        Err(nack) => return refuse(stream, nack).await,
    };
    let mut connection = Connection::new(common, session, &mut stream);
    let ended = poll_fn(|cx| connection.poll(cx)).await;
    drop(connection);
    match ended {
        Ok(()) => linger(&mut stream).await,
        Err(error) => {
            let is_unread = matches!(error, NetError::TimedOut { .. });
            count(if is_unread { &counters.unread } else { &counters.broken });
            Err(error)
        }
    }
}

/// Says why there is no session.
async fn refuse(mut stream: Stream, nack: Nack) -> Result<(), NetError> {
    let mut outgoing = Outgoing::default();
    receiver::encode(&Message::Nack(nack), outgoing.buffer());
    let written = timeout(FAREWELL, poll_fn(|cx| outgoing.poll_write(cx, &mut stream)));
    written.await.map_err(|_| NetError::TimedOut { what: "writing", after: FAREWELL })??;
    linger(&mut stream).await
}

/// Closes after the peer has, or a while: what it still sends is read and forgotten, for a connection that is closed with
/// unread bytes is reset, and what was written to it may be lost.
async fn linger(stream: &mut Stream) -> Result<(), NetError> {
    let close = async {
        stream.shutdown().await?;
        let mut forgotten = [0; 1024];
        while stream.read(&mut forgotten).await? > 0 {}
        Ok(())
    };
    match timeout(LINGER, close).await {
        Ok(closed) => closed.map_err(|e| NetError::io("close", e)),
        Err(_) => Ok(()),
    }
}

enum Phase {
    Head,
    Room(FrameHeader),
    Body(FrameHeader),
    Preview(FrameHeader),
    Passing(Box<Passing>),
    Deaf,
}

struct Passing {
    oversized: Oversized,
    sum: Crc32c,
    left: usize,
}

/// What reading came to.
enum Read {
    /// More may be there.
    More,
    /// The peer sends nothing any more.
    End,
}

struct Connection<'a, S: Storage> {
    common: &'a Common<S>,
    session: Session<S>,
    stream: &'a mut Stream,
    identity: Identity,
    reader: FrameReader,
    outgoing: Outgoing,
    phase: Phase,
    is_greeted: bool,
    said_bye: bool,
    /// Behind what is in `outgoing` the connection is over.
    is_closing: bool,
    timer: Pin<Box<Sleep>>,
    /// The timer may be set too late.
    must_arm: bool,
    /// Since when nothing could be written.
    stuck: Option<Instant>,
}

impl<'a, S: Storage> Connection<'a, S> {
    fn new(common: &'a Common<S>, session: Session<S>, stream: &'a mut Stream) -> Connection<'a, S> {
        Connection {
            common,
            session,
            identity: common.config.tls.as_ref().map_or_else(Identity::default, |tls| Identity::of(tls, stream)),
            stream,
            reader: FrameReader::default(),
            outgoing: Outgoing::default(),
            phase: Phase::Head,
            is_greeted: false,
            said_bye: false,
            is_closing: false,
            timer: Box::pin(sleep_until((now() + common.limits.hello_timeout).into())),
            must_arm: true,
            stuck: None,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), NetError>> {
        loop {
            let read = self.poll_read(cx);
            if self.outgoing.bytes() == 0 {
                self.gather(cx);
            }
            let had = self.outgoing.bytes();
            let written = self.outgoing.poll_write(cx, self.stream)?;
            self.note_progress(had, written.is_ready());
            if self.is_closing && written.is_ready() {
                return Poll::Ready(Ok(()));
            }
            match read {
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(Read::End)) if self.said_bye => self.phase = Phase::Deaf,
                Poll::Ready(Ok(Read::End)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(Read::More)) => _ = self.poll_wait(cx)?,
                Poll::Pending if had > 0 && written.is_ready() => {}
                Poll::Pending => ready!(self.poll_wait(cx))?,
            }
        }
    }

    // --- in --------------------------------------------------------------------------------------------------------

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Read, NetError>> {
        let mut messages = 0;
        while messages < TURN_MESSAGES_MAX {
            self.phase = match std::mem::replace(&mut self.phase, Phase::Head) {
                Phase::Head => match ready!(self.reader.poll_head(cx, self.stream))? {
                    None => return Poll::Ready(Ok(Read::End)),
                    Some(head) => match FrameHeader::read(head) {
                        Ok(header) => self.admit(header),
                        Err(error) => self.garbled(&error),
                    },
                },
                Phase::Room(header) => match self.session.poll_reserve(self.held_bytes(header), cx) {
                    Poll::Ready(()) if self.session.is_over() => self.become_deaf(),
                    Poll::Ready(()) if self.is_oversized(header) => Phase::Preview(header),
                    Poll::Ready(()) => Phase::Body(header),
                    Poll::Pending => {
                        self.reader.restart();
                        self.must_arm = true;
                        self.phase = Phase::Room(header);
                        return Poll::Pending;
                    }
                },
                Phase::Body(header) => match self.reader.poll_frame(cx, self.stream, header.frame_bytes())? {
                    Poll::Ready(frame) => {
                        messages += 1;
                        match receiver::decode(frame) {
                            Ok(message) => self.handle(message),
                            Err(error) => self.garbled(&error),
                        }
                    }
                    // It may have ended while its message came: what was charged for that has gone back.
                    Poll::Pending if self.session.is_over() => self.become_deaf(),
                    Poll::Pending => {
                        self.phase = Phase::Body(header);
                        return Poll::Pending;
                    }
                },
                Phase::Preview(header) => match self.reader.poll_part(cx, self.stream, HEAD_BYTES + Preview::BYTES)? {
                    Poll::Ready(head) => self.begin_oversized(header, &head),
                    Poll::Pending => {
                        self.phase = Phase::Preview(header);
                        return Poll::Pending;
                    }
                },
                Phase::Passing(mut passing) => match self.poll_passing(cx, &mut passing)? {
                    Poll::Ready(sum) => {
                        messages += 1;
                        self.end_oversized(*passing, sum)
                    }
                    Poll::Pending => {
                        self.phase = Phase::Passing(passing);
                        return Poll::Pending;
                    }
                },
                Phase::Deaf => {
                    self.phase = Phase::Deaf;
                    return Poll::Pending;
                }
            };
        }
        Poll::Ready(Ok(Read::More))
    }

    /// Whether a message may be read, from its head alone.
    fn admit(&mut self, header: FrameHeader) -> Phase {
        let limits = &self.common.limits;
        let body_bytes = u64::from(header.body_bytes);
        let (limit_bytes, needs_room) = match (self.is_greeted, header.is_hello()) {
            (false, false) => return self.refuse(Code::Protocol, "a session begins with a HELLO"),
            (true, true) => return self.refuse(Code::Protocol, "a HELLO does not belong here"),
            (false, true) => (limits.hello_bytes_max, header.body_bytes > SMALL_HELLO_BYTES),
            (true, false) if header.is_send() => (u64::MAX, true),
            (true, false) => (CONTROL_BYTES_MAX.into(), header.is_skip()),
        };
        if body_bytes > limit_bytes {
            return self.garbled(&WireError::TooLong { bytes: body_bytes, limit_bytes });
        }
        if needs_room { Phase::Room(header) } else { Phase::Body(header) }
    }

    /// Whether a message is too long to be read whole.
    fn is_oversized(&self, header: FrameHeader) -> bool {
        header.is_send()
            && u64::from(header.body_bytes) > self.common.limits.payload_bytes_max() + Preview::BYTES as u64
    }

    /// How much of a message's body is held in memory.
    fn held_bytes(&self, header: FrameHeader) -> u32 {
        if self.is_oversized(header) { Oversized::COST_BYTES as u32 } else { header.body_bytes }
    }

    fn handle(&mut self, message: Message) -> Phase {
        match &message {
            Message::Hello(hello) => {
                if let Err(why) = self.common.config.authorize(hello, &self.identity) {
                    count(&self.common.counters.0.unauthorized);
                    return self.refuse(Code::Unauthorized, &why.to_string());
                }
                self.is_greeted = true;
                self.must_arm = true;
            }
            Message::Bye => self.said_bye = true,
            // The next PING is due before the end that was armed for the last one.
            Message::Pong { .. } => self.must_arm = true,
            _ => {}
        }
        self.session.handle_and_ask(message);
        Phase::Head
    }

    fn garbled(&mut self, error: &WireError) -> Phase {
        self.session.garbled(error);
        self.become_deaf()
    }

    fn refuse(&mut self, code: Code, text: &str) -> Phase {
        self.session.refuse(code, text);
        self.become_deaf()
    }

    /// Nothing is read any more, and nothing that was is held.
    fn become_deaf(&mut self) -> Phase {
        self.reader = FrameReader::default();
        self.must_arm = true;
        Phase::Deaf
    }

    // --- records too long to be held -------------------------------------------------------------------------------

    fn begin_oversized(&mut self, header: FrameHeader, head: &[u8]) -> Phase {
        let mut sum = Crc32c::default();
        sum.update(head);
        let preview = head[HEAD_BYTES..].try_into().expect("so much was read");
        let preview = match receiver::preview(preview) {
            Ok(preview) => preview,
            Err(error) => return self.garbled(&error),
        };
        let left = header.body_bytes as usize - Preview::BYTES;
        match self.session.begin_oversized(preview, left as u64) {
            Some(oversized) => Phase::Passing(Box::new(Passing { oversized, sum, left })),
            // The session has ended, and says why.
            None => self.become_deaf(),
        }
    }

    /// Lets a record pass; returns the checksum that stands behind it.
    fn poll_passing(&mut self, cx: &mut Context<'_>, passing: &mut Passing) -> Poll<Result<u32, NetError>> {
        while passing.left > 0 {
            let piece = ready!(self.reader.poll_piece(cx, self.stream, passing.left))?;
            passing.sum.update(&piece);
            passing.oversized.update(&piece);
            passing.left -= piece.len();
        }
        let sum = ready!(self.reader.poll_frame(cx, self.stream, 4))?;
        Poll::Ready(Ok(u32::from_le_bytes(sum[..].try_into().expect("4 bytes were read"))))
    }

    fn end_oversized(&mut self, passing: Passing, sum: u32) -> Phase {
        if passing.sum.finish() != sum {
            return self.garbled(&WireError::Checksum);
        }
        self.session.end_oversized(passing.oversized);
        Phase::Head
    }

    // --- out -------------------------------------------------------------------------------------------------------

    /// Encodes what the session has to say: all of it goes out in one write.
    fn gather(&mut self, cx: &mut Context<'_>) {
        while !self.is_closing && self.outgoing.bytes() < WRITE_BYTES {
            match self.session.poll_output(cx) {
                Poll::Ready(SessionOutput::Message(message)) => {
                    self.must_arm |= matches!(message, Message::Welcome(_) | Message::GoAway { .. });
                    receiver::encode(&message, self.outgoing.buffer());
                }
                Poll::Ready(SessionOutput::Close) => {
                    self.is_closing = true;
                    self.phase = self.become_deaf();
                }
                Poll::Pending => break,
            }
        }
    }

    /// What TLS has taken and not passed on is not written.
    fn note_progress(&mut self, had: usize, is_written: bool) {
        if is_written {
            self.stuck = None;
        } else if self.outgoing.bytes() < had || self.stuck.is_none() {
            self.stuck = Some(now());
            self.must_arm = true;
        }
    }

    // --- time ------------------------------------------------------------------------------------------------------

    /// Waits for the next deadline, and looks at all of them then. Asked also while there is no need to wait: a peer that
    /// sends without a pause must not keep its deadlines away.
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), NetError>> {
        // By the clock: with its share of the thread used up, a task's timers say nothing.
        let is_due = self.timer.as_mut().poll(cx).is_ready() || now() >= self.timer.deadline().into_std();
        if is_due {
            // A message may take longer than a silence.
            if let Some(at) = self.reader.last_read() {
                self.session.heard(at);
            }
            self.session.tick();
            self.check_message();
            self.check_stuck()?;
        }
        let mid_message = self.next_look();
        let armed = self.timer.deadline().into_std();
        let is_late = mid_message.is_some_and(|at| at < armed);
        if is_due || is_late || std::mem::take(&mut self.must_arm) {
            let stuck = self.stuck.map(|since| since + self.patience());
            let deadlines = [self.session.next_deadline(), mid_message, stuck];
            let until = deadlines.into_iter().flatten().min().unwrap_or_else(|| now() + FAREWELL);
            if is_due || until < armed {
                // Not at once again: what is overdue now was just looked at.
                let until = until.max(now() + TICK_MIN);
                self.timer.as_mut().reset(until.into());
                let _registered = self.timer.as_mut().poll(cx);
            }
        }
        // Behind a tick the session may have something to say.
        if is_due { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// When a message that is being read is looked at again.
    fn next_look(&self) -> Option<Instant> {
        let is_reading = !matches!(self.phase, Phase::Room(_) | Phase::Deaf);
        let begun = self.reader.begun().filter(|_| is_reading)?;
        let limits = &self.common.limits;
        Some((begun + limits.message_timeout).min(now() + CONTENDED_GRACE))
    }

    fn check_message(&mut self) {
        let Some(begun) = self.reader.begun() else { return };
        if matches!(self.phase, Phase::Room(_) | Phase::Deaf) {
            return;
        }
        let (at, within) = (now(), self.common.limits.message_timeout);
        if at >= begun + within {
            self.phase = self.refuse(Code::Timeout, &format!("a message was not complete within {within:?}"));
        } else if self.reader.is_slower_than(CONTENDED_BYTES_PER_SECOND, CONTENDED_GRACE, at)
            && self.session.is_contended()
        {
            let text = format!("others wait for room, and a message came slower than {CONTENDED_BYTES_PER_SECOND} B/s");
            self.phase = self.refuse(Code::Timeout, &text);
        }
    }

    fn check_stuck(&self) -> Result<(), NetError> {
        let after = self.patience();
        match self.stuck {
            Some(since) if now() >= since + after => Err(NetError::TimedOut { what: "writing", after }),
            _ => Ok(()),
        }
    }

    /// How long a peer may not read.
    fn patience(&self) -> Duration {
        let is_ending = self.is_closing || matches!(self.phase, Phase::Deaf);
        if is_ending { FAREWELL } else { 3 * self.common.limits.heartbeat }
    }
}
