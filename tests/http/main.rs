//! Gateways against real connections on loopback.

mod admin;
#[cfg(feature = "net")]
#[path = "../support/authority.rs"]
mod authority;
mod client;
mod lines;
mod requests;
#[path = "../support/streams.rs"]
mod streams;
#[cfg(feature = "net")]
mod tls;
mod trouble;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use seawall::node::{DriverThread, HttpConfig, HttpGateway, HttpWatch, Receiver};
use seawall::receiver::{Block, RangeKind, ReceiverConfig, RecordCheck};
use seawall::{Config, Log, Lsn};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

/// A receiver whose driver runs on a thread, and a runtime for what stands before it.
struct World {
    log: Log,
    receiver: Receiver,
    thread: Option<DriverThread>,
    runtime: Runtime,
}

impl World {
    fn open(dir: &Path, config: ReceiverConfig) -> World {
        World::open_with(dir, Config::default(), config, None)
    }

    fn open_with(dir: &Path, of_log: Config, config: ReceiverConfig, check: Option<RecordCheck>) -> World {
        let mut world = World::without_driver(dir, of_log, config, check);
        let driver = world.1.take().expect("there is one");
        world.0.thread = Some(driver.spawn().expect("a thread"));
        world.0
    }

    /// Nothing becomes durable before the driver runs.
    fn without_driver(
        dir: &Path,
        of_log: Config,
        config: ReceiverConfig,
        check: Option<RecordCheck>,
    ) -> (World, Option<seawall::node::Driver>) {
        let log = streams::reopen(dir, &of_log);
        let (receiver, driver, replayed) =
            Receiver::open_with(log.clone(), "test", config, check, &|_, _| {}).expect("the receiver opens");
        assert!(replayed.damaged.is_empty(), "{:?}", replayed.damaged);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        (World { log, receiver, thread: None, runtime }, Some(driver))
    }

    fn listen(&self) -> (TcpListener, SocketAddr) {
        let listener = self.runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    fn serve_http(&self, config: HttpConfig) -> Http {
        let (listener, address) = self.listen();
        let gateway = HttpGateway::new(self.receiver.clone(), config).unwrap();
        let watch = gateway.watch();
        let (stop, stopped) = oneshot::channel();
        let task = self.runtime.spawn(gateway.serve(listener, async { drop(stopped.await) }));
        Http { address, watch, stop, task }
    }

    /// Ends in order.
    fn close(mut self) {
        self.receiver.shut_down();
        self.thread.take().expect("a driver").join().expect("the driver ended in order");
        self.runtime.shutdown_timeout(Duration::from_secs(5));
        self.log.close(Duration::from_secs(10)).expect("the log closes");
    }

    /// Ends as a process that was killed: what is not flushed is left to its fate.
    fn abandon(mut self) {
        self.receiver.shut_down();
        self.thread.take().expect("a driver").join().expect("the driver ended in order");
        self.runtime.shutdown_timeout(Duration::from_secs(5));
    }
}

struct Http {
    address: SocketAddr,
    watch: HttpWatch,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

/// Every record in the stream: (source, sequence, text).
fn records(log: &Log) -> Vec<(String, u64, String)> {
    let text =
        |(source, seq, bytes): (String, u64, Vec<u8>)| (source, seq, String::from_utf8_lossy(&bytes).into_owned());
    streams::records(log).into_iter().map(text).collect()
}

/// How often a source's epoch was written down.
fn epochs_written(log: &Log) -> usize {
    let frames = log.reader(log.first().max(Lsn::FIRST));
    let ranges =
        frames.flat_map(|frame| Block::read(&frame.expect("frames can be read").payload).expect("a block").ranges);
    ranges.filter(|(range, _)| range.kind == RangeKind::Session).count()
}

/// Waits until it is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(20), "still not: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
