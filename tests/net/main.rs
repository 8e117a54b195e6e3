//! The receiver on sockets: sources that behave, sources that do not, and who is believed.
//!
//! Waits have upper bounds only.

#[path = "../support/authority.rs"]
mod authority;
mod event_loop;
mod hostile;
mod limits;
mod raw;
mod receivers;
mod security;
#[path = "../support/skip.rs"]
mod skip;
mod sources;
#[allow(dead_code)]
#[path = "../support/streams.rs"]
mod streams;

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use seawall::node::{Client, ClientConfig, Receiver, Server, ServerConfig, ServerWatch, run_loop};
use seawall::receiver::{OutboxConfig, ReceiverConfig};
use seawall::{Config, Log, SourceId, storage};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// No wait of a test is longer.
const LONG: Duration = Duration::from_secs(60);

/// In the event loop of the sockets, as `seawall receive` has it, where tests may wait for a log on another thread.
fn driver_here() -> storage::Driver {
    if Handle::current().runtime_flavor() != RuntimeFlavor::MultiThread {
        return storage::Driver::shared();
    }
    match storage::Driver::in_event_loop(storage::DriverConfig::default()) {
        Ok((driver, driver_loop)) => {
            tokio::spawn(run_loop(driver_loop));
            driver
        }
        Err(e) => {
            skip::skipped(format_args!("an event loop, which needs io_uring: {e}"));
            storage::Driver::shared()
        }
    }
}

/// A log, its receiver and a server.
struct Node {
    log: Log,
    receiver: Receiver,
    address: SocketAddr,
    watch: ServerWatch,
    shutdown: oneshot::Sender<()>,
    server: JoinHandle<()>,
    driver: JoinHandle<()>,
}

impl Node {
    fn start(dir: &Path, config: ReceiverConfig) -> Node {
        // Peers that do not listen are not waited for.
        let drain = Duration::from_millis(100);
        Node::start_with(dir, config, ServerConfig { drain, ..ServerConfig::new(([127, 0, 0, 1], 0).into()) })
    }

    fn start_with(dir: &Path, config: ReceiverConfig, server: ServerConfig) -> Node {
        Node::start_by(&driver_here(), dir, config, server)
    }

    fn start_by(io: &storage::Driver, dir: &Path, config: ReceiverConfig, server: ServerConfig) -> Node {
        let log = Log::open_with(dir, Config::default(), io).expect("the log opens").0;
        let (receiver, driver, _) = Receiver::open(log.clone(), "test", config).expect("the receiver opens");
        let driver = tokio::spawn(async move { driver.run().await.expect("the driver ends in order") });
        let server = Server::bind(receiver.clone(), server).expect("the server listens");
        let (address, watch) = (server.addresses()[0], server.watch());
        let (shutdown, ends) = oneshot::channel();
        let server = tokio::spawn(server.run(async move { ends.await.unwrap_or(()) }));
        Node { log, receiver, address, watch, shutdown, server, driver }
    }

    fn client_config(&self, source: &str) -> ClientConfig {
        let outbox = OutboxConfig { source: SourceId::new(source), ..OutboxConfig::default() };
        ClientConfig::new(self.address.to_string(), outbox)
    }

    fn client(&self, source: &str) -> Client {
        Client::connect(self.client_config(source)).expect("a client")
    }

    /// Ends in order.
    async fn stop(self) {
        let _ = self.shutdown.send(());
        soon(self.server).await.expect("the server ended in order");
        self.receiver.shut_down();
        soon(self.driver).await.expect("the driver ended in order");
        self.log.close(LONG).expect("the log closes");
    }

    /// Ends as if killed, as far as sources can tell.
    async fn kill(self, dir: &Path) {
        self.server.abort();
        let _ = self.server.await;
        self.receiver.shut_down();
        soon(self.driver).await.expect("the driver ended in order");
        self.log.close(LONG).expect("the log closes");
        drop(self.receiver);
        // Nobody waits for the sessions of a server that was dropped: one that was within its turn ends with it, and only
        // then goes its handle on the log.
        let lock = std::fs::File::open(dir.join("lock")).expect("the log's lock");
        until("the sessions let go of the log", || lock.try_lock().is_ok()).await;
    }

    /// Every record in the stream: (source, sequence, bytes).
    fn records(&self) -> Vec<(String, u64, Vec<u8>)> {
        streams::records(&self.log)
    }

    /// The sequences of one source's records, in the stream's order.
    fn seqs(&self, source: &str) -> Vec<u64> {
        self.records().into_iter().filter(|(of, _, _)| of == source).map(|(_, seq, _)| seq).collect()
    }

    /// Others are not disturbed: a source that behaves is served.
    async fn serves_others(&self) {
        let client = self.client("bystander");
        let seq = soon(client.push("x")).await.expect("room").seq();
        soon(client.flush()).await.expect("durable");
        soon(client.close(LONG)).await.expect("a goodbye");
        assert_eq!(self.seqs("bystander").last(), Some(&seq.get()));
    }
}

/// The future's output; it must come.
async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(LONG, future).await.expect("it takes too long")
}

/// Waits until it is so.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let by = std::time::Instant::now() + LONG;
    while !is_so() {
        assert!(std::time::Instant::now() < by, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
