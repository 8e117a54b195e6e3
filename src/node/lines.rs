//! Plain lines over TCP, as syslog and `nc` send them: each line is a record, and nothing else is said.
//!
//! What is promised: a line counts when it is durable, and nobody is told. Lines of a connection are stored in their
//! order. What was in flight when either side dies is lost or, if the sender repeats it, there twice: nothing tells a
//! repetition. While there is no room, nothing is read, and the sender waits. A last line without an end counts when the
//! sender closes, and not when the connection breaks: within TLS, when it closes without a `close_notify`.
//!
//! With [`LinesConfig::ack`] the connection answers `OK <count>`: the first `<count>` lines of this connection are
//! durable; and `ERR <why>` before it ends for a reason of its own. A sender that repeats only what is behind the last
//! `OK` it has seen loses nothing, and may store some lines twice.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

#[cfg(feature = "net")]
use super::accept::within_tls;
use super::accept::{Closing, accept};
use super::error::ReceiverError;
use super::impatient::Impatient;
use super::listener::{Descriptors, Listener};
use super::receiver::Receiver;
use super::split::{Line, Splitter};
use super::talk::{Speaker, Talk, TalkError};
use crate::config::{Unusable, spans, within};
use crate::events::event;
use crate::io::{Disk, Storage};
#[cfg(feature = "net")]
use crate::net::ServerTls;
use crate::receiver::{PayloadBuilder, Poison, ReceiverConfig, Send, Sequences, WaitFor};
use crate::sync::now;
use crate::types::{Seq, SourceEpoch, SourceId};

/// Read at once, for each connection. Besides, a connection holds the line at hand and what it makes of both.
const READ_BYTES: usize = 16 << 10;
/// A sender that does not read its answers is given up behind this.
const PATIENCE: Duration = Duration::from_secs(30);
/// A session for a new connection is there within this.
const OPEN_WAIT: Duration = Duration::from_secs(5);
/// What a sender still sends is read and forgotten so long: else it would not get to the last answer.
const LINGER: Duration = Duration::from_secs(1);
/// As good as for ever.
const LONG: Duration = Duration::from_secs(24 * 3600);

/// How records that come as lines are named.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum LineNames {
    /// Not at all.
    #[default]
    None,
    /// All the same.
    Fixed(SourceId),
    /// By the sender's address, without its port.
    Peer,
}

/// Limits of a listener for lines, and what it answers.
///
/// A line longer than `line_bytes_max` is poison, and so is one that the receiver's check refuses. With
/// [`Poison::Drop`] it is counted and gone, unless `ack` is set; else its connection ends there. There are no dead
/// letters: without sequences nobody can be told of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinesConfig {
    /// Names of the records. Default none.
    pub names: LineNames,
    /// Answers `OK <count>` for lines that are durable. Default no.
    pub ack: bool,
    /// A line may be this long, its end not counted: 1 byte to the receiver's `record_bytes_max`. Default 64 KiB.
    pub line_bytes_max: u64,
    /// Connections at once: 1 to 1 million. More wait in the kernel. Default 256.
    pub connections_max: u32,
    /// A connection that is silent so long is closed: 1 ms to 7 days. Default 1 h.
    pub idle: Duration,
    /// Before it closes, a connection with `ack` waits so long for what is not durable yet, and connections that are
    /// there when the listener is asked to end have so long: 0 to 1 h. Default 10 s.
    pub drain: Duration,
}

impl Default for LinesConfig {
    fn default() -> LinesConfig {
        LinesConfig {
            names: LineNames::None,
            ack: false,
            line_bytes_max: 64 << 10,
            connections_max: 256,
            idle: Duration::from_secs(3600),
            drain: Duration::from_secs(10),
        }
    }
}

impl LinesConfig {
    fn validate(&self, limits: &ReceiverConfig) -> Result<(), ReceiverError> {
        self.check(limits).map_err(|Unusable { field, problem }| ReceiverError::Config { field, problem })
    }

    fn check(&self, limits: &ReceiverConfig) -> Result<(), Unusable> {
        const HOUR: Duration = Duration::from_secs(3600);
        let longest = limits.record_bytes_max.min(1 << 30);
        within("line_bytes_max", self.line_bytes_max, 1, longest)?;
        within("connections_max", self.connections_max.into(), 1, 1_000_000)?;
        spans("idle", self.idle, Duration::from_millis(1), 7 * 24 * HOUR)?;
        spans("drain", self.drain, Duration::ZERO, HOUR)
    }
}

/// What a listener for lines has counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct LinesStats {
    /// Connections at this moment.
    pub connections: u64,
    /// Lines handed to the receiver.
    pub lines: u64,
    /// Lines that were too long and dropped.
    pub dropped: u64,
    /// Connections ended because of what they sent, or because the receiver would not take it.
    pub refused: u64,
}

/// Reads a listener's counters, also while it runs.
#[derive(Clone, Debug, Default)]
pub struct LinesWatch(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    lines: AtomicU64,
    dropped: AtomicU64,
    refused: AtomicU64,
}

impl LinesWatch {
    /// The counters now.
    #[must_use]
    pub fn stats(&self) -> LinesStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { connections, lines, dropped, refused } = &*self.0;
        LinesStats {
            connections: read(connections),
            lines: read(lines),
            dropped: read(dropped),
            refused: read(refused),
        }
    }
}

/// A receiver behind plain lines. Cheap to clone.
pub struct LinesGateway<S: Storage = Disk> {
    common: Arc<Common<S>>,
}

struct Common<S: Storage> {
    receiver: Receiver<S>,
    limits: ReceiverConfig,
    config: LinesConfig,
    watch: LinesWatch,
}

impl<S: Storage> Clone for LinesGateway<S> {
    fn clone(&self) -> Self {
        LinesGateway { common: self.common.clone() }
    }
}

impl<S: Storage> LinesGateway<S> {
    /// A gateway to this receiver.
    ///
    /// # Errors
    /// [`ReceiverError::Config`].
    pub fn new(receiver: Receiver<S>, config: LinesConfig) -> Result<LinesGateway<S>, ReceiverError> {
        let limits = receiver.config();
        config.validate(&limits)?;
        let watch = LinesWatch::default();
        Ok(LinesGateway { common: Arc::new(Common { receiver, limits, config, watch }) })
    }

    /// Its counters.
    #[must_use]
    pub fn watch(&self) -> LinesWatch {
        self.common.watch.clone()
    }

    /// Serves plain TCP until `shutdown`; then nothing more is read. Whoever binds the listener sees to it that it is on
    /// loopback, or means it: anybody who can connect can write.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()> + std::marker::Send) {
        let common = self.common.clone();
        self.serve_by(listener, shutdown, |stream, peer, closing| serve(common.clone(), stream, peer.ip(), closing))
            .await;
    }

    /// As [`LinesGateway::serve`], within TLS 1.3, which is agreed upon within `handshake_timeout`. Where certificates are asked for,
    /// a peer without one is cut, also where other ways in would believe a token; they name no source.
    #[cfg(feature = "net")]
    pub async fn serve_tls(
        self,
        listener: TcpListener,
        tls: ServerTls,
        handshake_timeout: Duration,
        shutdown: impl Future<Output = ()> + std::marker::Send,
    ) {
        let common = self.common.clone();
        self.serve_by(listener, shutdown, |stream, peer, mut closing| {
            let (common, tls) = (common.clone(), tls.clone());
            async move {
                let Some(stream) = within_tls(&tls, stream, peer, handshake_timeout, &mut closing).await else {
                    return;
                };
                if tls.asks && stream.peer_certificate().is_none() {
                    event!(warn, %peer, "a connection for lines without a certificate is ended");
                    return;
                }
                serve(common, stream, peer.ip(), closing).await;
            }
        })
        .await;
    }

    async fn serve_by<F, Fut>(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + std::marker::Send,
        serve: F,
    ) where
        F: Fn(TcpStream, SocketAddr, Closing) -> Fut,
        Fut: Future<Output = ()> + std::marker::Send + 'static,
    {
        let LinesConfig { connections_max, drain, .. } = self.common.config;
        let listener = Listener::new(listener, Descriptors::count(connections_max as usize));
        accept(listener, connections_max, drain, shutdown, serve).await;
    }

    /// Serves one connection, of whatever kind. Returns when it is closed.
    pub async fn serve_connection<I>(self, io: I, peer: IpAddr)
    where
        I: AsyncRead + AsyncWrite + Unpin + std::marker::Send + 'static,
    {
        serve(self.common, io, peer, Closing::never()).await;
    }
}

impl<S: Storage> std::fmt::Debug for LinesGateway<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinesGateway").field("config", &self.common.config).finish_non_exhaustive()
    }
}

struct Counted<'a>(&'a Counters);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a connection ends before its sender has closed it.
enum Ended {
    /// The connection itself.
    Broken(std::io::Error),
    Refused(TalkError),
    TooLong {
        number: u64,
    },
    Idle,
    /// The listener or the receiver is asked to end.
    Closing,
}

async fn serve<S, I>(common: Arc<Common<S>>, io: I, peer: IpAddr, mut closing: Closing)
where
    S: Storage,
    I: AsyncRead + AsyncWrite + Unpin,
{
    let counters = &common.watch.0;
    counters.connections.fetch_add(1, Ordering::Relaxed);
    let _counted = Counted(counters);
    let mut io = Impatient::new(io, PATIENCE);
    let ended = match Connection::open(&common, &mut io, peer).await {
        Ok(mut connection) => {
            let read = connection.read_to_end(&mut closing).await;
            connection.finish(read).await
        }
        Err(error) => Err(Ended::Refused(error)),
    };
    let Err(why) = ended else {
        // Within TLS an end that is not said is none.
        let _said_or_not = timeout(LINGER, io.shutdown()).await;
        return;
    };
    let text = match why {
        Ended::Broken(_error) => {
            event!(debug, %peer, error = %_error, "a connection for lines broke");
            return;
        }
        Ended::Closing => "the receiver goes away".to_owned(),
        Ended::Idle => format!("nothing came for {:?}", common.config.idle),
        Ended::TooLong { number } => {
            format!("line {number} is longer than {} bytes", common.config.line_bytes_max)
        }
        Ended::Refused(TalkError::Refused(nack)) => nack.text,
        Ended::Refused(TalkError::Ended(Some(failure))) => failure.to_string(),
        Ended::Refused(TalkError::Ended(None)) => "the session has ended".to_owned(),
        Ended::Refused(TalkError::TimedOut) => "what is not answered did not become durable in time".to_owned(),
    };
    counters.refused.fetch_add(1, Ordering::Relaxed);
    event!(warn, %peer, why = %text, "a connection for lines is ended");
    let last_words = async {
        if common.config.ack {
            io.write_all(format!("ERR {}\n", text.replace('\n', " ")).as_bytes()).await?;
        }
        io.shutdown().await?;
        let mut forgotten = [0; 1024];
        while io.read(&mut forgotten).await? > 0 {}
        Ok::<(), std::io::Error>(())
    };
    let _told_or_not = timeout(LINGER, last_words).await;
}

struct Connection<'a, S: Storage, I> {
    common: &'a Common<S>,
    io: &'a mut Impatient<I>,
    talk: Talk<S>,
    splitter: Splitter,
    /// Lines handed over, and those answered.
    sent: Seq,
    told: Seq,
}

impl<'a, S: Storage, I: AsyncRead + AsyncWrite + Unpin> Connection<'a, S, I> {
    async fn open(
        common: &'a Common<S>,
        io: &'a mut Impatient<I>,
        peer: IpAddr,
    ) -> Result<Connection<'a, S, I>, TalkError> {
        let address = peer.to_canonical().to_string();
        let source = match &common.config.names {
            LineNames::None => &[],
            LineNames::Fixed(id) => id.as_bytes(),
            LineNames::Peer => address.as_bytes(),
        };
        let wait_for = if common.config.ack { WaitFor::Durable } else { WaitFor::Received };
        let speaker = Speaker { source, sequences: Sequences::None, wait_for, epoch: SourceEpoch::ZERO };
        let talk = Talk::open_until(&common.receiver, &speaker, now() + OPEN_WAIT).await?;
        let splitter = Splitter::new(usize::try_from(common.config.line_bytes_max).unwrap_or(usize::MAX - 1));
        Ok(Connection { common, io, talk, splitter, sent: Seq::ZERO, told: Seq::ZERO })
    }

    async fn read_to_end(&mut self, closing: &mut Closing) -> Result<(), Ended> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let bytes = tokio::select! {
                biased;
                () = closing.wait() => return Err(Ended::Closing),
                heard = self.talk.hear_until(now() + LONG) => {
                    match heard {
                        Ok(()) | Err(TalkError::TimedOut) => self.tell().await?,
                        Err(error) => return Err(Ended::Refused(error)),
                    }
                    if self.talk.is_asked_to_go() {
                        return Err(Ended::Closing);
                    }
                    continue;
                }
                read = timeout(self.common.config.idle, self.io.read(&mut buffer)) => match read {
                    Ok(read) => read.map_err(Ended::Broken)?,
                    Err(_) => return Err(Ended::Idle),
                },
            };
            if bytes == 0 {
                return Ok(());
            }
            self.take(|splitter, lines| splitter.feed(&buffer[..bytes], |line| lines.push(line))).await?;
            // Handing over may have heard what nobody will say again.
            self.tell().await?;
        }
    }

    /// What was begun is a line if the sender has closed; what was handed over is answered.
    async fn finish(&mut self, read: Result<(), Ended>) -> Result<(), Ended> {
        let ended = match read {
            Ok(()) => self.take(|splitter, lines| splitter.finish(|line| lines.push(line))).await,
            // Nothing can be answered any more.
            Err(Ended::Broken(_) | Ended::Refused(_)) => return read,
            ended => ended,
        };
        if self.common.config.ack {
            let settled = self.talk.settle_until(self.sent, now() + self.common.config.drain).await;
            self.tell().await?;
            settled.map_err(Ended::Refused)?;
        }
        ended
    }

    /// Hands over the lines that `find` finds, and reads nothing meanwhile.
    async fn take(
        &mut self,
        find: impl FnOnce(&mut Splitter, &mut Lines<'_>) -> Result<(), Ended>,
    ) -> Result<(), Ended> {
        let mut lines = Lines::new(self.common, self.sent);
        let found = find(&mut self.splitter, &mut lines);
        let begun_too_long = self.splitter.is_too_long() && !lines.drops;
        let number = lines.last.get() + 1;
        self.sent = lines.last;
        for send in lines.finish() {
            let records = u64::from(send.records);
            self.talk.room_until(send.payload.len() as u64, now() + LONG).await.map_err(Ended::Refused)?;
            self.talk.send(send).map_err(Ended::Refused)?;
            self.common.watch.0.lines.fetch_add(records, Ordering::Relaxed);
        }
        found?;
        if begun_too_long { Err(Ended::TooLong { number }) } else { Ok(()) }
    }

    async fn tell(&mut self) -> Result<(), Ended> {
        let durable = self.talk.durable();
        if self.common.config.ack && durable > self.told {
            self.told = durable;
            self.io.write_all(format!("OK {durable}\n").as_bytes()).await.map_err(Ended::Broken)?;
            // TLS may have kept it.
            self.io.flush().await.map_err(Ended::Broken)?;
        }
        Ok(())
    }
}

/// Lines as SENDs, none longer than the receiver takes.
struct Lines<'a> {
    limits: &'a ReceiverConfig,
    counters: &'a Counters,
    /// Lines that are too long are dropped.
    drops: bool,
    last: Seq,
    builder: PayloadBuilder,
    full: Vec<Send>,
}

impl<'a> Lines<'a> {
    fn new<S: Storage>(common: &'a Common<S>, last: Seq) -> Lines<'a> {
        let drops = common.limits.poison == Poison::Drop && !common.config.ack;
        let builder = PayloadBuilder::new(Sequences::None, last);
        Lines { limits: &common.limits, counters: &common.watch.0, drops, last, builder, full: Vec::new() }
    }

    fn push(&mut self, line: Line<'_>) -> Result<(), Ended> {
        let line = match line {
            Line::Whole(line) => line,
            Line::TooLong(_) if self.drops => {
                self.counters.dropped.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            Line::TooLong(_) => return Err(Ended::TooLong { number: self.last.get() + 1 }),
        };
        let is_full = self.builder.records() >= self.limits.frame_records_max
            || self.builder.bytes() as u64 + line.len() as u64 + 4 > self.limits.payload_bytes_max();
        if is_full && self.builder.records() > 0 {
            let next = PayloadBuilder::new(Sequences::None, self.last);
            self.full.push(std::mem::replace(&mut self.builder, next).finish());
        }
        // Sequences of one connection end behind 2^64 lines.
        let ended = || Ended::Refused(TalkError::Ended(None));
        let seq = self.last.checked_add(1).ok_or_else(ended)?;
        self.builder.push(seq, line).map_err(|_| ended())?;
        self.last = seq;
        Ok(())
    }

    fn finish(mut self) -> Vec<Send> {
        if self.builder.records() > 0 {
            self.full.push(self.builder.finish());
        }
        self.full
    }
}
