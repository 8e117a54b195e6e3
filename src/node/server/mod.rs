//! A receiver on sockets: listeners, and a task for each connection.

mod config;
mod connection;

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub use config::ServerConfig;
use connection::serve;

use super::listener::{Accepted, Descriptors, Listener};
use super::receiver::Receiver;
use crate::io::{Disk, Storage};
use crate::net::{NetError, listen};
use crate::receiver::ReceiverConfig;

/// Connections beyond the sessions a receiver takes: those being refused, and those that agree upon TLS.
const CONNECTIONS_BEYOND_SESSIONS_MAX: usize = 64;
/// Connections taken before others have their turn.
const TURN_ACCEPTS_MAX: usize = 32;
/// What is left behind the deadline of a drain gets so long to be told.
const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// Why a server does not begin.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// A configuration value is not usable.
    #[error("configuration: {field} {problem}")]
    Config {
        /// The field.
        field: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// An address cannot be listened on.
    #[error(transparent)]
    Net(#[from] NetError),
}

/// What a server has counted since it was bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct ServerStats {
    /// Connections at this moment.
    pub connections: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Times a listener could not accept and rested.
    pub accept_errors: u64,
    /// Connections with which TLS was not agreed upon.
    pub handshakes_failed: u64,
    /// Sources whose token or certificate did not allow what they wanted.
    pub unauthorized: u64,
    /// Connections that broke, or were cut within a message.
    pub broken: u64,
    /// Connections given up because nothing could be written to them.
    pub unread: u64,
}

/// Reads a server's counters, also while it runs.
#[derive(Clone, Debug, Default)]
pub struct ServerWatch(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    accepted: AtomicU64,
    accept_errors: AtomicU64,
    handshakes_failed: AtomicU64,
    unauthorized: AtomicU64,
    broken: AtomicU64,
    unread: AtomicU64,
}

impl ServerWatch {
    /// The counters now.
    #[must_use]
    pub fn stats(&self) -> ServerStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { connections, accepted, accept_errors, handshakes_failed, unauthorized, broken, unread } =
            &*self.0;
        ServerStats {
            connections: read(connections),
            accepted: read(accepted),
            accept_errors: read(accept_errors),
            handshakes_failed: read(handshakes_failed),
            unauthorized: read(unauthorized),
            broken: read(broken),
            unread: read(unread),
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Listens for sources, and gives each a session with the receiver. Runs on tokio.
///
/// ```
/// use seawall::node::{Client, ClientConfig, Receiver, Server, ServerConfig};
/// use seawall::receiver::{OutboxConfig, ReceiverConfig};
/// use seawall::{Config, Log, SourceId};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
/// # runtime.block_on(async {
/// let (log, _) = Log::open(dir.path(), Config::default())?;
/// let (receiver, driver, _) = Receiver::open(log, "clicks", ReceiverConfig::default())?;
/// tokio::spawn(driver.run());
/// let server = Server::bind(receiver, ServerConfig::new("127.0.0.1:0".parse()?))?;
/// let address = server.addresses()[0];
/// tokio::spawn(server.run(std::future::pending()));
///
/// let outbox = OutboxConfig { source: SourceId::new("browser"), ..OutboxConfig::default() };
/// let client = Client::connect(ClientConfig::new(address.to_string(), outbox))?;
/// client.push("a click").await?.await?;           // durable
/// client.close(std::time::Duration::from_secs(5)).await?;
/// # Ok(())
/// # })
/// # }
/// ```
#[derive(Debug)]
pub struct Server<S: Storage = Disk> {
    common: Arc<Common<S>>,
    listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
}

/// What all connections share.
#[derive(Debug)]
struct Common<S: Storage> {
    receiver: Receiver<S>,
    limits: ReceiverConfig,
    config: ServerConfig,
    counters: ServerWatch,
}

impl<S: Storage> Server<S> {
    /// Listens; nothing is accepted before [`Server::run`]. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ServerError::Config`], and [`ServerError::Net`] naming the address.
    pub fn bind(receiver: Receiver<S>, config: ServerConfig) -> Result<Server<S>, ServerError> {
        config.validate()?;
        let listeners = config.listen.iter().map(|address| listen(*address)).collect::<Result<Vec<_>, _>>()?;
        let addresses = listeners.iter().zip(&config.listen).map(|(listener, address)| {
            let failed = |e| ServerError::Net(NetError::Listen { address: address.to_string(), source: Arc::new(e) });
            listener.local_addr().map_err(failed)
        });
        let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
        let limits = receiver.config();
        let common = Arc::new(Common { receiver, limits, config, counters: ServerWatch::default() });
        Ok(Server { common, listeners, addresses })
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Its counters.
    #[must_use]
    pub fn watch(&self) -> ServerWatch {
        self.common.counters.clone()
    }

    /// Accepts connections, as many as there are sessions and file descriptors for (the others wait in the kernel), until
    /// `shutdown`; then sources are asked to finish ([`ServerConfig::drain`]), what is left is
    /// closed, and the receiver takes no more sessions. Dropped, it closes everything at once, and waits for nothing: a session
    /// that is within its turn on another thread ends behind it, and has a handle on the log until then.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Server { common, listeners, .. } = self;
        let limit = common.limits.sessions_max as usize + CONNECTIONS_BEYOND_SESSIONS_MAX;
        let descriptors = Descriptors::count(limit);
        let mut listeners: Vec<_> = listeners.into_iter().map(|it| Listener::new(it, descriptors)).collect();
        let mut tasks = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        poll_fn(|cx| {
            loop {
                while let Poll::Ready(Some(_)) = tasks.poll_join_next(cx) {}
                let had = tasks.len();
                for listener in &mut listeners {
                    while tasks.len() < limit.min(had + TURN_ACCEPTS_MAX)
                        && let Poll::Ready(accepted) =
                            listener.poll_accept(cx, || count(&common.counters.0.accept_errors))
                    {
                        let Accepted { stream, peer, descriptor } = accepted;
                        count(&common.counters.0.accepted);
                        let served = serve(common.clone(), stream, peer);
                        tasks.spawn(async move {
                            let _held = descriptor;
                            served.await;
                        });
                    }
                }
                // Once more: the end of a new task is heard of only behind its first look.
                if tasks.len() == had {
                    break;
                }
            }
            shutdown.as_mut().poll(cx)
        })
        .await;
        drop(listeners);
        let within = common.config.drain;
        common.receiver.drain(within, "the server ends");
        let drained = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(within + DRAIN_GRACE, drained).await.is_err() {
            tasks.shutdown().await;
        }
    }
}
