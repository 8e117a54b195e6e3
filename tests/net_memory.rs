//! What connections cost: bytes in use by the process, which is the server and, for a small part, its peers.

#[path = "support/counting.rs"]
#[allow(dead_code)]
mod counting;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rustix::process::{Resource, getrlimit, setrlimit};
use seawall::net::{ClientCertificates, ClientTls, Pem, ServerTls};
use seawall::node::{Client, ClientConfig, Receiver, Server, ServerConfig};
use seawall::receiver::{
    FRAME_OVERHEAD_BYTES, FrameHeader, HEADER_BYTES, Hello, Message, OutboxConfig, PayloadBuilder, Poison,
    ReceiverConfig, RecordCheck, Send, Sequences, encode,
};
use seawall::{Config, Log, Seq, SourceId};
use tokio::runtime::Runtime;

use counting::{begin_peak, in_use, peak_beyond};

const MIB: usize = 1 << 20;
const LONG: Duration = Duration::from_secs(60);

/// One measurement at a time: the allocator counts for the whole process.
#[test]
fn connections_cost_little_and_claims_cost_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let log = Log::open(dir.path(), Config::default()).unwrap().0;
    let config = ReceiverConfig { in_flight_bytes_max: 16 << 20, ..ReceiverConfig::default() };
    let (receiver, driver, _) = Receiver::open(log, "test", config).unwrap();
    runtime.spawn(driver.run());
    let server = runtime
        .block_on(async { Server::bind(receiver.clone(), ServerConfig::new(([127, 0, 0, 1], 0).into())).unwrap() });
    let address = server.addresses()[0];
    runtime.spawn(server.run(std::future::pending()));
    idle(&receiver, address);
    claims(&receiver, address);
    deaf(&receiver, address);
    ended(&runtime);
    with_tls(&runtime, &receiver, address);
}

/// Both ends of idle sessions, without TLS and with it: the difference is TLS's, at two ends.
fn with_tls(runtime: &Runtime, receiver: &Receiver, plain: SocketAddr) {
    const PAIRS: usize = 300;
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let chain = Pem::Bytes(made.cert.pem().into_bytes());
    let key = Pem::Bytes(made.signing_key.serialize_pem().into_bytes());
    let tls = ServerTls::new(&chain, &key, &ClientCertificates::NotAsked).unwrap();
    let server = runtime.block_on(async {
        let config = ServerConfig { tls: Some(tls), ..ServerConfig::new(([127, 0, 0, 1], 0).into()) };
        Server::bind(receiver.clone(), config).unwrap()
    });
    let encrypted = server.addresses()[0];
    runtime.spawn(server.run(std::future::pending()));
    let trust = ClientTls::new(&chain).unwrap();
    let [without, with] = [(plain, None), (encrypted, Some(trust))].map(|(address, tls)| {
        let before = in_use();
        let clients: Vec<Client> = runtime.block_on(async {
            let mut clients = Vec::new();
            for number in 0..PAIRS {
                let outbox =
                    OutboxConfig { source: SourceId::new(format!("pair-{number}")), ..OutboxConfig::default() };
                let config = ClientConfig { tls: tls.clone(), ..ClientConfig::new(address.to_string(), outbox) };
                clients.push(Client::connect(config).unwrap());
            }
            for client in &clients {
                client.resume().await.unwrap();
            }
            clients
        });
        std::thread::sleep(Duration::from_millis(100));
        let each = (in_use() - before) / PAIRS;
        drop(clients);
        wait("all are gone", || receiver.stats().intake.sessions == 0);
        each
    });
    println!("both ends of an idle session: {without} bytes, with TLS {with}");
    assert!(with < 200 << 10, "{with} bytes");
}

/// Sessions that were welcomed and have nothing to say.
fn idle(receiver: &Receiver, address: SocketAddr) {
    let most = 9_900.min(descriptors() / 2 - 100);
    let (before, resident) = (in_use(), resident_bytes());
    let mut peers = Vec::with_capacity(most);
    for number in 0..most {
        let mut peer = TcpStream::connect(address).unwrap();
        say(&mut peer, &Message::Hello(hello(&format!("source-{number}"))));
        peers.push(peer);
    }
    peers.iter_mut().for_each(hear);
    wait("all are open", || receiver.stats().intake.sessions == most as u64);
    let (each, resident) = ((in_use() - before) / most, resident_bytes().saturating_sub(resident));
    println!("{most} idle sessions: {each} bytes each, {} MiB more resident", resident / MIB);
    assert!(each * 10_000 <= 100 * MIB, "{each} bytes each");
    assert!(resident / most * 10_000 <= 200 * MIB, "{resident} bytes resident");
    drop(peers);
    wait("all are gone", || receiver.stats().intake.sessions == 0);
}

/// Many peers that say they will send 4 MiB each, and send a little.
fn claims(receiver: &Receiver, address: SocketAddr) {
    let limit = receiver.config().in_flight_bytes_max as usize;
    let mut peers: Vec<TcpStream> = (0..200).map(|number| welcomed(address, number)).collect();
    let before = begin_peak();
    for peer in &mut peers {
        let mut claim = (4u32 << 20).to_le_bytes().to_vec();
        claim.extend([4, 0, 0, 0]);
        claim.extend([0; 100]);
        peer.write_all(&claim).unwrap();
    }
    wait("some have room, the others wait", || receiver.stats().intake.charged_bytes as usize > limit * 7 / 10);
    std::thread::sleep(Duration::from_millis(200));
    let held = in_use().saturating_sub(before);
    println!("200 claims of 4 MiB: {} KiB in use", held / 1024);
    assert!(held < MIB, "{held} bytes for claims");
    assert!(receiver.stats().intake.charged_bytes as usize <= limit);
    // The read-ahead and what is charged are all there is, however much is sent. Some are sent away for being slow.
    let junk = vec![0; MIB];
    for peer in &mut peers {
        peer.set_nonblocking(true).unwrap();
        let _ = peer.write(&junk);
    }
    std::thread::sleep(Duration::from_millis(500));
    let peak = peak_beyond(before);
    let bound = limit + 200 * (16 << 10) + 8 * MIB;
    println!("and with a MiB sent by each: {} KiB at most", peak / 1024);
    assert!(peak <= bound, "{peak} bytes, {bound} expected at most");
    drop(peers);
    wait("all are gone", || receiver.stats().intake.sessions == 0);
    assert_eq!(receiver.stats().intake.charged_bytes, 0);
}

/// A peer that asks and asks, and reads nothing.
fn deaf(receiver: &Receiver, address: SocketAddr) {
    let mut peer = welcomed(address, 0);
    let before = begin_peak();
    let mut pings = BytesMut::new();
    for nonce in 0..2000 {
        encode(&Message::Ping { nonce, rejects_seen: Seq::ZERO }, &mut pings);
    }
    (0..300).for_each(|_| peer.write_all(&pings).unwrap());
    wait("it is all read", || unread(&peer) == 0);
    let peak = peak_beyond(before);
    println!("600 000 answers nobody reads: {} KiB at most", peak / 1024);
    assert!(peak < MIB, "{peak} bytes");
    drop(peer);
    wait("it is gone", || receiver.stats().intake.sessions == 0);
}

/// Peers whose session has ended and that do not hear of it, as they read nothing: what they send then is charged to nobody.
fn ended(runtime: &Runtime) {
    const PEERS: u64 = 16;
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), Config::default()).unwrap().0;
    let config = ReceiverConfig {
        in_flight_bytes_max: 16 << 20,
        session_window_bytes: 16 << 20,
        poison: Poison::DeadLetter,
        ..ReceiverConfig::default()
    };
    // Each answer lists as many rejects as there may be: few fill whatever the kernel takes of them.
    let rejects = config.rejects_unseen_max as usize;
    let check = Some(RecordCheck::new(|_| Err("no".to_owned())));
    let (receiver, driver, _) = Receiver::open_with(log, "test", config, check, &|_, _| {}).unwrap();
    runtime.spawn(driver.run());
    let server = runtime
        .block_on(async { Server::bind(receiver.clone(), ServerConfig::new(([127, 0, 0, 1], 0).into())).unwrap() });
    let address = server.addresses()[0];
    runtime.spawn(server.run(std::future::pending()));
    let mut peers: Vec<TcpStream> = (0..PEERS).map(|number| welcomed(address, number as usize)).collect();
    let mut payload = PayloadBuilder::new(Sequences::Dense, Seq::ZERO);
    (1..=rejects).for_each(|seq| payload.push(Seq::new(seq as u64), b"x").unwrap());
    let refused = Message::Send(payload.finish());
    peers.iter_mut().for_each(|peer| say(peer, &refused));
    wait("all are rejected and durable", || {
        let stats = receiver.stats().intake;
        stats.rejected == PEERS * rejects as u64 && stats.charged_bytes == 0
    });
    let mut pings = BytesMut::new();
    (0..64).for_each(|nonce| encode(&Message::Ping { nonce, rejects_seen: Seq::ZERO }, &mut pings));
    for peer in &mut peers {
        // Until nothing more goes out, however much is asked.
        let mut last = 0;
        loop {
            (0..200).for_each(|_| {
                peer.write_all(&pings).unwrap();
                std::thread::yield_now();
            });
            wait("it is read", || unread(peer) == 0);
            let answers = on_their_way(peer).1;
            if answers == std::mem::replace(&mut last, answers) {
                break;
            }
        }
        say(peer, &Message::Send(Send { previous: Seq::new(rejects as u64), records: 0, payload: Default::default() }));
    }
    let before = begin_peak();
    let body = (4 << 20) - 1;
    for peer in &mut peers {
        let mut bytes = u32::to_le_bytes(body as u32).to_vec();
        bytes.extend([4, 0, 0, 0]);
        bytes.resize(body, 0);
        peer.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        let _ = peer.write_all(&bytes);
    }
    std::thread::sleep(Duration::from_millis(500));
    let peak = peak_beyond(before);
    println!("{PEERS} sessions that have ended, and 4 MiB sent by each: {} KiB at most", peak / 1024);
    assert!(peak < 16 * MIB, "{peak} bytes");
    drop(peers);
    wait("all are gone", || receiver.stats().intake.sessions == 0);
}

// --- peers ---------------------------------------------------------------------------------------------------------

fn hello(source: &str) -> Hello {
    Hello { version_min: 1, version_max: 1, source: source.into(), ..Hello::default() }
}

fn say(peer: &mut TcpStream, message: &Message) {
    let mut bytes = BytesMut::new();
    encode(message, &mut bytes);
    peer.write_all(&bytes).unwrap();
}

fn hear(peer: &mut TcpStream) {
    let mut head = [0; HEADER_BYTES];
    peer.read_exact(&mut head).unwrap();
    let rest = FrameHeader::read(head).unwrap().body_bytes as usize + FRAME_OVERHEAD_BYTES - HEADER_BYTES;
    peer.read_exact(&mut vec![0; rest]).unwrap();
}

fn welcomed(address: SocketAddr, number: usize) -> TcpStream {
    let mut peer = TcpStream::connect(address).unwrap();
    say(&mut peer, &Message::Hello(hello(&format!("peer-{number}"))));
    hear(&mut peer);
    peer
}

/// Bytes the kernel holds that the peer has written and the server has not read.
fn unread(peer: &TcpStream) -> u64 {
    on_their_way(peer).0
}

/// Bytes the kernel holds on their way to the server, and to the peer.
fn on_their_way(peer: &TcpStream) -> (u64, u64) {
    let lines = BufReader::new(File::open("/proc/net/tcp").unwrap()).lines().skip(1);
    let ports = (peer.peer_addr().unwrap().port(), peer.local_addr().unwrap().port());
    let port = |field: &str| u16::from_str_radix(field.split(':').nth(1).unwrap(), 16).unwrap();
    let half = |field: &str, at| u64::from_str_radix(field.split(':').nth(at).unwrap(), 16).unwrap();
    let (mut there, mut back) = (0, 0);
    for line in lines.map(Result::unwrap) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match (port(fields[1]), port(fields[2])) {
            of if of == ports => {
                there += half(fields[4], 1);
                back += half(fields[4], 0);
            }
            of if of == (ports.1, ports.0) => {
                there += half(fields[4], 0);
                back += half(fields[4], 1);
            }
            _ => {}
        }
    }
    (there, back)
}

fn descriptors() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    limit.maximum.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX))
}

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let by = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < by, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
