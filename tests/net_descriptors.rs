//! Few file descriptors, and none: a process of its own, because they are the whole process's.

use std::fs::File;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};
use seawall::node::{Client, ClientConfig, Receiver, Server, ServerConfig};
use seawall::receiver::{OutboxConfig, ReceiverConfig};
use seawall::{Config, Log, SourceId};

#[test]
fn connections_leave_descriptors_to_the_log_and_listeners_live_without_any() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let log = Log::open(dir.path(), Config::default()).unwrap().0;
    let (receiver, driver, _) = Receiver::open(log, "test", ReceiverConfig::default()).unwrap();
    runtime.spawn(driver.run());
    let server = runtime
        .block_on(async { Server::bind(receiver.clone(), ServerConfig::new(([127, 0, 0, 1], 0).into())).unwrap() });
    let (address, watch) = (server.addresses()[0], server.watch());
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = Some(open + 64 + 40);
    setrlimit(Resource::Nofile, limit).unwrap();
    let server = runtime.spawn(server.run(std::future::pending()));
    let serves = || {
        runtime.block_on(async {
            let outbox = OutboxConfig { source: SourceId::new("a"), ..OutboxConfig::default() };
            let client = Client::connect(ClientConfig::new(address.to_string(), outbox)).unwrap();
            let sent = async { client.push("x").await.unwrap().await.unwrap() };
            if tokio::time::timeout(Duration::from_secs(60), sent).await.is_err() {
                panic!("not served: {:?}, {:?}, {:?}", client.status(), watch.stats(), receiver.stats());
            }
        });
    };
    serves();
    wait("it has left", || watch.stats().connections == 0);

    // Each takes a second one for its own end.
    let mut peers: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(address).unwrap()).collect();
    wait("it takes what it may", || watch.stats().connections >= 35);
    std::thread::sleep(Duration::from_millis(100));
    let taken = watch.stats().connections;
    assert!(taken <= 40, "{taken} connections leave less than 64 descriptors");
    peers.truncate(20);
    wait("those that are gone make room", || watch.stats().connections == 20);
    serves();
    wait("it has left", || watch.stats().connections == 20);

    // Somebody else in this process takes all the rest but one, which is the next peer's own end.
    let mut greedy = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        greedy.push(file);
    }
    greedy.pop();
    let peer = TcpStream::connect(address).unwrap();
    wait("it cannot accept", || watch.stats().accept_errors > 0);
    let before = watch.stats().accept_errors;
    std::thread::sleep(Duration::from_millis(300));
    let more = watch.stats().accept_errors - before;
    assert!(more <= 4, "it does not rest: {more} attempts in 300 ms");
    assert!(!server.is_finished());
    drop((greedy, peer));
    serves();
}

fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let by = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < by, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
