//! Records over HTTP/1.1: one request is one SEND, answered when it is durable, and taken whole or not at all; but where one of
//! its records is refused (422, and 409 `rejects_unseen`), those before it were taken.
//!
//! ```text
//! POST /v1/streams/NAME                      Content-Type  application/x-ndjson (?check=json) · text/plain: a record a line
//!                                                          application/octet-stream: the body is the record
//!                                            Source-Id     who sends; its bytes as they are
//!                                            First-Seq     the first record's sequence; the others follow without gaps
//!                                            Source-Epoch  the source's life; a higher one fences all lower ones
//!                                            Rejects-Seen  rejects up to here need not be told again
//!                                            Authorization Bearer TOKEN
//! GET  /v1/streams/NAME/sources/ID           where a source stands, and which First-Seq continues
//! ```
//!
//! | answer | what is true |
//! |---|---|
//! | 201 | every record is durable, or durably kept as one of the `rejects` that are listed |
//! | 200 | the same, and all of them had been received before |
//! | 400, 404, 405, 408, 415 | nothing was taken; the request was not understood, or did not come in time |
//! | 401, 403 | nothing was taken; no valid token or certificate, or one for other sources |
//! | 409 | go on at First-Seq `expected`; forget no record above `durable`: a gap, an old epoch, a session replaced by another one, rejects not taken note of, or more of them than may be held now (those before `at` were taken, see `outcome`; `rejects` lists them, `go_on` says how) |
//! | 410 | the source was retired by an operator; as `outcome` says: `nothing_taken`, or `unknown` where the request was under way then |
//! | 413 | the body or a record is too long; nothing was taken |
//! | 422 | a record is no JSON (nothing was taken), or the receiver's check refuses it (those before it were, see `outcome`) |
//! | 429 | nothing was taken; there was no room, or it was not the source's turn in time: again after Retry-After |
//! | 503 | as `outcome` says: `unknown`, the records may be or become durable, send the same request again; or `nothing_taken` |
//!
//! A connection that breaks before its answer is an outcome unknown as well. With a Source-Id a repetition is found and
//! answered 200: each record is in the stream once. Without, it is a new record: at least once, and the answer says so.
//!
//! A source's session is kept between its requests, and its requests take turns: they are taken in the order in which
//! their heads came. Without Source-Epoch a source goes on in the epoch that its requests began. Where another session has begun
//! one since, it goes on in the next instead, and fences that one: who was given an epoch takes what is durable in it for its
//! own. So it does behind a restart, as nobody knows then who began the last one.

mod answer;
mod body;
mod config;

mod request;
mod sessions;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{EXPECT, HeaderMap};
use hyper::{Request, Response};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout_at;

#[cfg(feature = "net")]
use super::accept::within_tls;
use super::accept::{Closing, accept};
use super::error::ReceiverError;
use super::listener::{Descriptors, Listener};
use super::receiver::Receiver;
use super::requests::serve_requests;
use super::talk::{Speaker, Talk, TalkError};
use super::tokens::{Identity, Unbelieved};
use crate::io::{Disk, Storage};
#[cfg(feature = "net")]
use crate::net::ServerTls;
use crate::receiver::{Code, Nack, Poison, ReceiverConfig, Sequences, SourceStatus, WaitFor};
use crate::sync::now;
use crate::types::{Seq, SourceEpoch, SourceId};
use answer::{Answer, next, refused, rejects};
use body::{Arriving, Kind, Terms};
pub use config::HttpConfig;

use request::{Post, Route, Sender, source_of, token_of};
use sessions::{Slot, Table};

/// Heads of requests, and what is read ahead of bodies: so much for each connection.
const READ_BUFFER_BYTES: usize = 64 << 10;
/// Kept sessions are looked through so often while a gateway serves.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Statuses that are answered, for counting them.
const STATUSES: [u16; 16] = [200, 201, 400, 401, 403, 404, 405, 408, 409, 410, 413, 415, 422, 429, 500, 503];

/// A receiver behind HTTP. Cheap to clone; clones share the sources' sessions.
///
/// ```
/// use std::io::{Read, Write};
/// use seawall::node::{HttpConfig, HttpGateway, Receiver};
/// use seawall::receiver::ReceiverConfig;
/// use seawall::{Config, Log};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
/// let (log, _) = Log::open(dir.path(), Config::default())?;
/// let (receiver, driver, _) = Receiver::open(log, "clicks", ReceiverConfig::default())?;
/// runtime.spawn(driver.run());
/// let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
/// let address = listener.local_addr()?;
/// let gateway = HttpGateway::new(receiver, HttpConfig::default())?;
/// runtime.spawn(gateway.serve(listener, std::future::pending()));
///
/// let mut client = std::net::TcpStream::connect(address)?;
/// client.write_all(b"POST /v1/streams/clicks HTTP/1.1\r\nHost: x\r\nConnection: close\r\nSource-Id: browser-7\r\n\
///     First-Seq: 1\r\nContent-Type: text/plain\r\nContent-Length: 8\r\n\r\none\ntwo\n")?;
/// let mut answer = String::new();
/// client.read_to_string(&mut answer)?;
/// assert!(answer.starts_with("HTTP/1.1 201 Created"));
/// # Ok(())
/// # }
/// ```
pub struct HttpGateway<S: Storage = Disk> {
    common: Arc<Common<S>>,
}

struct Common<S: Storage> {
    receiver: Receiver<S>,
    limits: ReceiverConfig,
    config: HttpConfig,
    table: Table<S>,
    watch: HttpWatch,
}

/// Reads a gateway's counters, also while it runs.
#[derive(Clone, Debug, Default)]
pub struct HttpWatch(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    answers: [AtomicU64; STATUSES.len()],
    sources_kept: AtomicU64,
}

impl HttpWatch {
    /// Answers by their status; those that were never given are left out.
    pub fn answers(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        let counted = STATUSES.iter().zip(&self.0.answers);
        counted.map(|(status, count)| (*status, count.load(Ordering::Relaxed))).filter(|(_, count)| *count > 0)
    }

    /// Sources whose session is kept.
    #[must_use]
    pub fn sources_kept(&self) -> u64 {
        self.0.sources_kept.load(Ordering::Relaxed)
    }

    fn count(&self, status: u16) {
        if let Some(at) = STATUSES.iter().position(|known| *known == status) {
            self.0.answers[at].fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<S: Storage> Clone for HttpGateway<S> {
    fn clone(&self) -> Self {
        HttpGateway { common: self.common.clone() }
    }
}

impl<S: Storage> HttpGateway<S> {
    /// A gateway to this receiver.
    ///
    /// # Errors
    /// [`ReceiverError::Config`].
    pub fn new(receiver: Receiver<S>, config: HttpConfig) -> Result<HttpGateway<S>, ReceiverError> {
        config.validate()?;
        let limits = receiver.config();
        // Kept sessions are the receiver's: other doors need some as well.
        let places_max = config.sources_kept_max.min(limits.sessions_max / 2).max(1);
        let table = Table::new(places_max as usize, config.source_idle);
        let watch = HttpWatch::default();
        Ok(HttpGateway { common: Arc::new(Common { receiver, limits, config, table, watch }) })
    }

    /// Its counters.
    #[must_use]
    pub fn watch(&self) -> HttpWatch {
        self.common.watch.clone()
    }

    /// Serves plain TCP until `shutdown`; then requests that have begun are answered ([`HttpConfig::drain`]), and the
    /// sources' sessions end. Whoever binds the listener sees to it that it is on loopback, or means it.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()> + Send) {
        let common = self.common.clone();
        self.serve_by(listener, shutdown, move |stream, _, closing| {
            serve(common.clone(), stream, Identity::default(), closing)
        })
        .await;
    }

    /// As [`HttpGateway::serve`], within TLS 1.3, which is agreed upon within `handshake_timeout`. Where certificates are asked for,
    /// one is believed as on the wire: it speaks for the sources named like it, and for no request without a `Source-Id`.
    #[cfg(feature = "net")]
    pub async fn serve_tls(
        self,
        listener: TcpListener,
        tls: ServerTls,
        handshake_timeout: Duration,
        shutdown: impl Future<Output = ()> + Send,
    ) {
        let common = self.common.clone();
        self.serve_by(listener, shutdown, move |stream, peer, mut closing| {
            let (common, tls) = (common.clone(), tls.clone());
            async move {
                if let Some(stream) = within_tls(&tls, stream, peer, handshake_timeout, &mut closing).await {
                    let identity = Identity::of(&tls, &stream);
                    serve(common, stream, identity, closing).await;
                }
            }
        })
        .await;
    }

    async fn serve_by<F, Fut>(self, listener: TcpListener, shutdown: impl Future<Output = ()> + Send, serve: F)
    where
        F: Fn(TcpStream, SocketAddr, Closing) -> Fut,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let common = &self.common;
        let config = &common.config;
        let listener = Listener::new(listener, Descriptors::count(config.connections_max as usize));
        let accepting = accept(listener, config.connections_max, config.drain, shutdown, serve);
        let sweeping = async {
            loop {
                tokio::time::sleep(SWEEP_INTERVAL.min(config.source_idle)).await;
                common.sweep();
            }
        };
        tokio::select! { () = accepting => {}, () = sweeping => {} }
        common.table.clear();
        common.sweep();
    }

    /// Serves one connection, of whatever kind: a Unix socket's, for one. Returns when it is closed. Tokens are asked for, and no
    /// certificates.
    pub async fn serve_connection<I>(self, io: I)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        serve(self.common, io, Identity::default(), Closing::never()).await;
    }
}

/// As [`HttpGateway::serve`], for one that is not asked for anything else.
///
/// # Errors
/// As [`HttpGateway::new`].
pub async fn serve_http<S: Storage>(
    listener: TcpListener,
    receiver: Receiver<S>,
    config: HttpConfig,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ReceiverError> {
    HttpGateway::new(receiver, config)?.serve(listener, shutdown).await;
    Ok(())
}

async fn serve<S, I>(common: Arc<Common<S>>, io: I, identity: Identity, closing: Closing)
where
    S: Storage,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    serve_requests(io, common.config.head_timeout, READ_BUFFER_BYTES, closing, |request| {
        let (common, identity) = (common.clone(), identity.clone());
        async move { common.answer(request, &identity).await }
    })
    .await;
}

impl<S: Storage> Common<S> {
    fn sweep(&self) {
        self.table.sweep(now());
        self.watch.0.sources_kept.store(self.table.len() as u64, Ordering::Relaxed);
    }

    async fn answer(&self, request: Request<Incoming>, identity: &Identity) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let mut body = Arriving::new(body);
        let answered = match Route::of(&head.method, &head.uri) {
            Ok(Route::Post { stream }) => {
                self.post(&head.headers, identity, head.uri.query(), &stream, &mut body).await
            }
            Ok(Route::Source { stream, source }) => self.source(&head.headers, identity, &stream, &source),
            Err(answer) => Err(answer),
        };
        let answer = answered.unwrap_or_else(|answer| answer);
        self.watch.count(answer.status());
        // One who is slow is not waited for.
        if answer.status() != 408 {
            body.forget(head.headers.contains_key(EXPECT));
        }
        answer.into_response()
    }

    fn authorize(&self, headers: &HeaderMap, identity: &Identity, source: &[u8]) -> Result<(), Answer> {
        let no = |status, text: String| Err(Answer::error(status, "unauthorized", text));
        match identity.authorize(&self.config.tokens, token_of(headers)?, source) {
            Ok(()) => Ok(()),
            Err(Unbelieved::NoToken) if !identity.asks => no(401, "Authorization: Bearer TOKEN is needed".to_owned()),
            Err(why @ (Unbelieved::NoToken | Unbelieved::UnknownToken | Unbelieved::NoCertificate)) => {
                no(401, why.to_string())
            }
            Err(why @ (Unbelieved::OtherSources | Unbelieved::CertificateForOthers)) => no(403, why.to_string()),
        }
    }

    fn check_stream(&self, stream: &[u8]) -> Result<(), Answer> {
        match stream == self.receiver.stream().as_bytes() {
            true => Ok(()),
            false => {
                Err(Answer::error(404, "unknown_stream", format!("the stream here is {:?}", self.receiver.stream())))
            }
        }
    }

    fn source(&self, headers: &HeaderMap, identity: &Identity, stream: &[u8], source: &[u8]) -> Result<Answer, Answer> {
        self.authorize(headers, identity, source)?;
        self.check_stream(stream)?;
        let status = SourceId::new(source).and_then(|id| self.receiver.source(&id));
        let Some(status) = status else {
            let text = "this source never came; its First-Seq is 1".to_owned();
            return Err(Answer::error(404, "unknown_source", text).with("first_seq", 1));
        };
        let SourceStatus { id, epoch, received, durable, committed, retired, rejects_unseen, .. } = status;
        Ok(Answer::new(
            200,
            json!({
                "stream": self.receiver.stream(),
                "source": id.to_string(),
                "epoch": epoch.get(),
                "received": received.get(),
                "durable": durable.get(),
                "committed": committed.get(),
                "first_seq": next(durable),
                "retired": retired,
                "rejects_unseen": rejects_unseen,
            }),
        ))
    }

    // --- records ---------------------------------------------------------------------------------------------------

    async fn post(
        &self,
        headers: &HeaderMap,
        identity: &Identity,
        query: Option<&str>,
        stream: &[u8],
        body: &mut Arriving,
    ) -> Result<Answer, Answer> {
        let source = source_of(headers)?;
        self.authorize(headers, identity, source.as_ref().map_or(&[], SourceId::as_bytes))?;
        self.check_stream(stream)?;
        let post = Post::of(headers, query)?;
        let limit_bytes = self.config.body_bytes_max.min(self.limits.payload_bytes_max());
        if post.content_length.is_some_and(|bytes| bytes > limit_bytes) {
            return Err(body::BodyError::TooLong { limit_bytes }.into_answer());
        }
        match &post.sender {
            Some(sender) => self.post_named(&post, sender, body).await,
            None => self.post_unnamed(&post, body).await,
        }
    }

    /// What is asked of the body, and how many bytes it may come to as a payload.
    fn terms(&self, post: &Post, sequences: Sequences, previous: Seq) -> (Terms, u64) {
        let limit_bytes = self.config.body_bytes_max.min(self.limits.payload_bytes_max());
        let body_bytes_max = match post.content_length {
            Some(bytes) => bytes,
            None => limit_bytes.min(self.config.unannounced_bytes_max),
        };
        let keeps_rejects = self.limits.poison == Poison::DeadLetter && sequences == Sequences::Dense;
        let record_bytes_max = if keeps_rejects { u64::MAX } else { self.limits.record_bytes_max };
        // Each record has 4 bytes for its length; lines lose as little as 1.
        let records_max = match post.kind {
            Kind::Whole => 1,
            Kind::Json | Kind::Lines => body_bytes_max.min(self.limits.frame_records_max.into()),
        };
        let payload_bytes = (body_bytes_max + 4 * records_max).min(self.limits.payload_bytes_max());
        let room_bytes = post.content_length.and_then(|_| usize::try_from(payload_bytes).ok()).unwrap_or(0);
        let (kind, check_json) = (post.kind, post.check_json);
        (Terms { kind, check_json, body_bytes_max, room_bytes, record_bytes_max, sequences, previous }, payload_bytes)
    }

    async fn post_unnamed(&self, post: &Post, body: &mut Arriving) -> Result<Answer, Answer> {
        let until = now() + self.config.room_wait;
        let speaker =
            Speaker { source: b"", sequences: Sequences::None, wait_for: WaitFor::Durable, epoch: SourceEpoch::ZERO };
        let not_sent = |error| refused(error, false);
        let mut talk = self.open(&speaker, until).await.map_err(not_sent)?;
        let (terms, payload_bytes) = self.terms(post, Sequences::None, Seq::ZERO);
        talk.room_until(payload_bytes, until).await.map_err(not_sent)?;
        let read = body::read(body, &terms, &self.limits, || talk.is_contended()).await;
        let send = read.map_err(body::BodyError::into_answer)?;
        let records = send.records;
        let settled = match talk.send(send) {
            Ok(()) => talk.settle_until(Seq::new(records.into()), now() + self.config.durable_wait).await,
            refused => refused,
        };
        settled.map_err(|error| self.failed_after_send(error, &talk))?;
        Ok(Answer::new(
            201,
            json!({
                "stream": self.receiver.stream(),
                "records": records,
                "duplicates": 0,
                "rejects": [],
                "durable_lsn": talk.durable_lsn().get(),
                "guarantee": "at_least_once",
            }),
        ))
    }

    async fn post_named(&self, post: &Post, sender: &Sender, body: &mut Arriving) -> Result<Answer, Answer> {
        let until = now() + self.config.room_wait;
        let Some(slot) = self.table.slot(&sender.id, sender.epoch, now()) else {
            return Err(Answer::busy("too_many", "all places for sources' sessions have requests going on".into()));
        };
        let Slot { talk: turn, .. } = &*slot;
        let Ok(mut kept) = timeout_at(until.into(), turn.lock()).await else {
            let text = "other requests of this source took all the time there was".to_owned();
            return Err(Answer::busy("not_its_turn", text));
        };
        // Out of its place: if this request ends anyhow but well, the talk goes with it.
        let mut talk = self.resume(kept.take(), sender, until).await?;
        slot.note_epoch(talk.epoch());
        let with_source = |answer: Answer| answer.with_source(self.receiver.source(&sender.id).as_ref());
        let not_sent = |error| with_source(refused(error, false));

        let received = talk.received().map_err(not_sent)?;
        let previous = Seq::new(sender.first.get() - 1);
        if previous > received {
            *kept = Some(talk);
            let text = format!("records {} to {previous} are missing before First-Seq", next(received));
            return Err(with_source(Answer::error(409, "gap", text)));
        }
        if let Some(seen) = sender.rejects_seen {
            talk.note_rejects_seen(seen).map_err(not_sent)?;
        }
        let (terms, payload_bytes) = self.terms(post, Sequences::Dense, previous);
        talk.room_until(payload_bytes, until).await.map_err(not_sent)?;
        let read = body::read(body, &terms, &self.limits, || talk.is_contended()).await;
        let send = read.map_err(body::BodyError::into_answer)?;

        // While it was read another session may have taken over; then nothing is taken.
        let received = talk.received().map_err(not_sent)?;
        let records = u64::from(send.records);
        let last = Seq::new(previous.get() + records);
        let duplicates = received.since(previous).min(records);
        let settled = match talk.send(send) {
            Ok(()) => talk.settle_until(last, now() + self.config.durable_wait).await,
            refused => refused,
        };
        if let Err(error) = settled {
            return Err(with_source(self.refused_of_named(error, &mut talk).await));
        }
        let status = if duplicates == records { 200 } else { 201 };
        let answer = Answer::new(
            status,
            json!({
                "stream": self.receiver.stream(),
                "source": sender.id.to_string(),
                "epoch": talk.epoch().get(),
                "first": sender.first.get(),
                "last": last.get(),
                "records": records,
                "duplicates": duplicates,
                "rejects": rejects(talk.rejects()),
                "durable_lsn": talk.durable_lsn().get(),
                "guarantee": "deduplicated",
            }),
        );
        if !talk.is_asked_to_go() {
            *kept = Some(talk);
        }
        Ok(answer)
    }

    /// The source's session, in the epoch that is asked for: the kept one, or another.
    async fn resume(
        &self,
        kept: Option<Talk<S>>,
        sender: &Sender,
        until: std::time::Instant,
    ) -> Result<Talk<S>, Answer> {
        let with_source = |answer: Answer| answer.with_source(self.receiver.source(&sender.id).as_ref());
        if let Some(mut talk) = kept
            && talk.received().is_ok()
            && !talk.is_asked_to_go()
        {
            match sender.epoch {
                None if !talk.is_epoch_chosen() => return Ok(talk),
                Some(epoch) if epoch == talk.epoch() => return Ok(talk),
                // HELLO says the same of a lower one, and takes a higher one; and says whose a chosen one was.
                _ => {}
            }
        }
        let speaker = Speaker {
            source: sender.id.as_bytes(),
            sequences: Sequences::Dense,
            wait_for: WaitFor::Durable,
            epoch: sender.epoch.unwrap_or_default(),
        };
        self.open(&speaker, until).await.map_err(|error| with_source(refused(error, false)))
    }

    /// A session. Where there are no more, those that are kept for silent sources make room.
    async fn open(&self, speaker: &Speaker<'_>, until: std::time::Instant) -> Result<Talk<S>, TalkError> {
        let are_all_taken = || self.receiver.stats().intake.sessions >= self.limits.sessions_max.into();
        loop {
            match Talk::open_until(&self.receiver, speaker, until).await {
                Err(TalkError::Refused(nack))
                    if nack.code == Code::TooMany && are_all_taken() && self.table.give_one_up() => {}
                opened => return opened,
            }
        }
    }

    /// As [`failed_after_send`](Self::failed_after_send); where rejects are to be taken note of before anything goes on, with them.
    async fn refused_of_named(&self, error: TalkError, talk: &mut Talk<S>) -> Answer {
        let TalkError::Refused(Nack { code: Code::RejectsUnseen, at, .. }) = error else {
            return self.failed_after_send(error, talk);
        };
        // Those before the record are told once they are durable; where that takes too long, they are fewer.
        let _told = talk.settle_until(Seq::new(at.get().saturating_sub(1)), now() + self.config.room_wait).await;
        let answer = self.failed_after_send(error, talk).with("rejects", rejects(talk.rejects()));
        match talk.rejects().iter().map(|reject| reject.seq).max() {
            Some(last) => answer.with("go_on", format!("Rejects-Seen: {last}, First-Seq: as `expected`")),
            None => answer.with("go_on", "First-Seq: as `expected`"),
        }
    }

    fn failed_after_send(&self, error: TalkError, talk: &Talk<S>) -> Answer {
        match error {
            TalkError::TimedOut if talk.is_full() || self.receiver.log().stats().full.is_some() => {
                let text =
                    "the receiver's disk is full, or gave no room; the records are held in memory and wait for it";
                Answer::unknown("full", text.to_owned())
            }
            error => refused(error, true),
        }
    }
}

impl<S: Storage> std::fmt::Debug for HttpGateway<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kept = self.common.table.len();
        f.debug_struct("HttpGateway").field("stream", &self.common.receiver.stream()).field("kept", &kept).finish()
    }
}
