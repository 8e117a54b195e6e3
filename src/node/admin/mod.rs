//! The admin port: how a receiver is, for operators and machines. It changes nothing.
//!
//! | path | answers |
//! |---|---|
//! | `/livez` | 200 while the process answers at all |
//! | `/readyz` | 200 when a new source is taken; 503 with the reason: still opening (and how far), failed, draining, too many |
//! | `/metrics` | Prometheus text: the receiver's and the log's counters, and those of gateways that were named |
//! | `/v1/status` | the same as JSON, with a page of sources: `?from=N&sources=M`, and `next` for the page behind |
//!
//! It belongs on loopback: source names are shown to whoever asks.

mod metrics;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

use super::accept::{Closing, accept};
use super::http::HttpWatch;
use super::lines::LinesWatch;
use super::listener::{Descriptors, Listener};
use super::receiver::Receiver;
use super::requests::serve_requests;
use crate::io::{Disk, Storage};
use crate::receiver::{Code, SourceStatus};
use metrics::Exposition;

/// So few that they may take the descriptors that others must leave.
const CONNECTIONS_MAX: u32 = 16;
const READ_BUFFER_BYTES: usize = 16 << 10;
/// A request comes, and an answer is read, within this.
const PATIENCE: Duration = Duration::from_secs(10);
const DRAIN: Duration = Duration::from_secs(2);
/// Sources on a page of the status: unless asked for fewer or more, and at most.
const PAGE_SOURCES: usize = 100;
const PAGE_SOURCES_MAX: usize = 1000;

/// Answers how a receiver is, also before there is one. Cheap to clone; all clones are the same.
///
/// ```
/// use seawall::node::{Admin, Receiver};
/// use seawall::receiver::ReceiverConfig;
/// use seawall::{Config, Log};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
/// let admin = Admin::new();
/// let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
/// runtime.spawn(admin.clone().serve(listener, std::future::pending()));   // 503, opening
///
/// let (log, _) = Log::open(dir.path(), Config::default())?;
/// let watch = |done, total| admin.starting("replaying", done, total);
/// let opened = Receiver::open_with(log, "clicks", ReceiverConfig::default(), None, &watch);
/// let (receiver, driver, _) = opened.inspect_err(|error| admin.failed(error))?;
/// runtime.spawn(driver.run());
/// admin.ready(receiver);                                                  // 200
/// # Ok(())
/// # }
/// ```
pub struct Admin<S: Storage = Disk> {
    common: Arc<Common<S>>,
}

struct Common<S: Storage> {
    state: Mutex<State<S>>,
    gateways: Mutex<Gateways>,
}

enum State<S: Storage> {
    Starting { what: String, done: u64, total: u64 },
    Ready(Receiver<S>),
    Failed(String),
}

#[derive(Default)]
struct Gateways {
    http: Vec<(String, HttpWatch)>,
    lines: Vec<(String, LinesWatch)>,
}

impl<S: Storage> Clone for Admin<S> {
    fn clone(&self) -> Self {
        Admin { common: self.common.clone() }
    }
}

impl<S: Storage> Clone for State<S> {
    fn clone(&self) -> Self {
        match self {
            State::Starting { what, done, total } => State::Starting { what: what.clone(), done: *done, total: *total },
            State::Ready(receiver) => State::Ready(receiver.clone()),
            State::Failed(why) => State::Failed(why.clone()),
        }
    }
}

impl<S: Storage> Default for Admin<S> {
    fn default() -> Self {
        Admin::new()
    }
}

impl<S: Storage> Admin<S> {
    /// For a receiver that is about to be opened.
    #[must_use]
    pub fn new() -> Admin<S> {
        let state = Mutex::new(State::Starting { what: "opening".to_owned(), done: 0, total: 0 });
        Admin { common: Arc::new(Common { state, gateways: Mutex::default() }) }
    }

    /// It is being opened: `done` of `total` bytes, frames or whatever `what` counts.
    pub fn starting(&self, what: impl Into<String>, done: u64, total: u64) {
        self.become_state(State::Starting { what: what.into(), done, total });
    }

    /// It takes records.
    pub fn ready(&self, receiver: Receiver<S>) {
        self.become_state(State::Ready(receiver));
    }

    /// It could not be opened.
    pub fn failed(&self, why: impl fmt::Display) {
        self.become_state(State::Failed(why.to_string()));
    }

    /// Has a gateway's counters shown, under a name of its own.
    pub fn show_http(&self, name: impl Into<String>, watch: HttpWatch) {
        self.common.gateways.lock().http.push((name.into(), watch));
    }

    /// Has a gateway's counters shown, under a name of its own.
    pub fn show_lines(&self, name: impl Into<String>, watch: LinesWatch) {
        self.common.gateways.lock().lines.push((name.into(), watch));
    }

    /// Serves until `shutdown`. Whoever binds the listener sees to it that it is on loopback, or means it.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()> + Send) {
        let listener = Listener::new(listener, Descriptors::all());
        accept(listener, CONNECTIONS_MAX, DRAIN, shutdown, |stream, _, closing| {
            serve(self.common.clone(), stream, closing)
        })
        .await;
    }

    /// Serves one connection, of whatever kind. Returns when it is closed.
    pub async fn serve_connection<I>(self, io: I)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        serve(self.common, io, Closing::never()).await;
    }

    fn become_state(&self, state: State<S>) {
        // Dropped behind the lock: it may be the last of a receiver.
        let _before = std::mem::replace(&mut *self.common.state.lock(), state);
    }
}

impl<S: Storage> fmt::Debug for Admin<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

async fn serve<S, I>(common: Arc<Common<S>>, io: I, closing: Closing)
where
    S: Storage,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    serve_requests(io, PATIENCE, READ_BUFFER_BYTES, closing, |request| {
        let common = common.clone();
        async move { common.answer(&request) }
    })
    .await;
}

impl<S: Storage> Common<S> {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if *request.method() != Method::GET {
            let mut response = answer_json(405, &json!({ "error": "only GET is answered here" }));
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
            return response;
        }
        let state = self.state.lock().clone();
        match request.uri().path() {
            "/livez" => answer_json(200, &json!({ "status": "alive" })),
            "/readyz" => {
                let (is_ready, body) = readiness(&state);
                answer_json(if is_ready { 200 } else { 503 }, &body)
            }
            "/metrics" => answer(200, "text/plain; version=0.0.4; charset=utf-8", self.metrics(&state)),
            "/v1/status" => match page_of(request.uri().query().unwrap_or_default()) {
                Some((from, sources)) => answer_json(200, &status(&state, from, sources)),
                None => {
                    let text = format!("from=N and sources=0..{PAGE_SOURCES_MAX} are understood");
                    answer_json(400, &json!({ "error": text }))
                }
            },
            _ => answer_json(404, &json!({ "error": "there are /livez, /readyz, /metrics and /v1/status" })),
        }
    }

    fn metrics(&self, state: &State<S>) -> String {
        let mut text = Exposition::default();
        let (is_ready, _) = readiness(state);
        text.gauge("seawall_ready", "1 when a new source is taken, as /readyz says.", is_ready.into());
        if let State::Starting { done, total, .. } = state {
            text.gauge("seawall_starting_done", "How far opening has come.", *done);
            text.gauge("seawall_starting_total", "How far it has to come; 0: not known yet.", *total);
        }
        if let State::Ready(receiver) = state {
            metrics::of_receiver(&mut text, receiver);
            metrics::of_log(&mut text, receiver);
        }
        let gateways = self.gateways.lock();
        metrics::of_http(&mut text, &gateways.http);
        metrics::of_lines(&mut text, &gateways.lines);
        text.finish()
    }
}

/// Whether a new source is taken, and in words. A full disk is no reason against it: it is told to the sources, and
/// what they send waits for room.
fn readiness<S: Storage>(state: &State<S>) -> (bool, Value) {
    let not = |reason: &str, text: String| (false, json!({ "status": "not_ready", "reason": reason, "text": text }));
    match state {
        State::Starting { what, done, total } => {
            let body =
                json!({ "status": "not_ready", "reason": "starting", "text": what, "done": done, "total": total });
            (false, body)
        }
        State::Failed(why) => not("failed", why.clone()),
        State::Ready(receiver) => {
            let log = receiver.log().stats();
            if let Some(failure) = receiver.stats().failure {
                return not("failed", failure);
            }
            if log.poisoned {
                return not("poisoned", "the log acknowledges nothing any more; reopen it".to_owned());
            }
            // Asked for a session, the receiver says it best: it may be draining, or have too many.
            match receiver.connect() {
                Ok(_session) => (true, json!({ "status": "ready", "full": log.full })),
                Err(nack) if nack.code == Code::Draining => not("draining", nack.text),
                Err(nack) => not("refuses", nack.text),
            }
        }
    }
}

fn status<S: Storage>(state: &State<S>, from: usize, sources: usize) -> Value {
    let (is_ready, readiness) = readiness(state);
    let State::Ready(receiver) = state else { return json!({ "ready": is_ready, "readiness": readiness }) };
    let stats = receiver.stats();
    let log = receiver.log().stats();
    // One more than asked for tells whether there is another page. Sources keep their places for ever.
    let mut page: Vec<SourceStatus> = {
        let state = receiver.inner.state.lock();
        state.intake.sources().skip(from).take(sources + 1).collect()
    };
    let next = (page.len() > sources).then(|| from + sources);
    page.truncate(sources);
    let page: Vec<Value> = page.iter().map(of_source).collect();
    let intake = stats.intake;
    json!({
        "ready": is_ready,
        "readiness": readiness,
        "stream": receiver.stream(),
        "receiver": {
            "sessions": intake.sessions,
            "sources": intake.sources,
            "charged_bytes": intake.charged_bytes,
            "records": intake.records,
            "payload_bytes": intake.payload_bytes,
            "blocks": intake.blocks,
            "duplicates": intake.duplicates,
            "gaps": intake.gaps,
            "replaced": intake.replaced,
            "acked_losses": intake.acked_losses,
            "rejected": intake.rejected,
            "dropped": intake.dropped,
            "refused": intake.refused,
            "timed_out": intake.timed_out,
        },
        "log": {
            "appended": log.watermarks.appended.get(),
            "written": log.watermarks.written.get(),
            "durable": stats.durable.get(),
            "trimmed": log.watermarks.trimmed.get(),
            "segments": log.segments,
            "used_bytes": log.used_bytes,
            "in_flight_bytes": log.in_flight_bytes,
            "poisoned": log.poisoned,
            "full": log.full,
            "faulty_ranges": log.faulty_ranges.iter().map(ToString::to_string).collect::<Vec<_>>(),
        },
        "sources": page,
        "next": next,
    })
}

fn of_source(source: &SourceStatus) -> Value {
    json!({
        "id": source.id.to_string(),
        "epoch": source.epoch.get(),
        "received": source.received.get(),
        "durable": source.durable.get(),
        "committed": source.committed.get(),
        "retired": source.retired,
        "connected": source.is_connected,
        "rejects_unseen": source.rejects_unseen,
    })
}

/// `from` and `sources` of a query; `None` for anything else.
fn page_of(query: &str) -> Option<(usize, usize)> {
    let (mut from, mut sources) = (0, PAGE_SOURCES);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=')? {
            ("from", number) => from = number.parse().ok()?,
            ("sources", number) => sources = number.parse().ok().filter(|sources| *sources <= PAGE_SOURCES_MAX)?,
            _ => return None,
        }
    }
    Some((from, sources))
}

fn answer_json(status: u16, body: &Value) -> Response<Full<Bytes>> {
    answer(status, "application/json", format!("{body}\n"))
}

fn answer(status: u16, content_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
