//! What the network and the acknowledgment protocol take from the log: a client, a server and the log in one process,
//! against the log alone, in turns. Prints ratios; `-- PART ROUNDS SECONDS` for one part ("256 x 1 ", "latency", "cpu"), more or longer rounds.
//!
//! Records are 1 KiB, durable one by one. Everything shares this machine's CPUs, which a real source would not: so the third in
//! turn is the *loopback alone*, as many connections on the same two runtimes that send as many bytes and answer each read with
//! eight, and do nothing else. With one or a few records outstanding at each, no receiver can be faster than that; with many,
//! one that answers less often than after each read might. And one client whose records are all released by one
//! acknowledgment pays for both, one after the other.
//!
//! The part "busy" is one record at a time while other programs keep one CPU busy, or all of them. The server's runtime has one
//! worker; with `SEAWALL_BENCH_WORKERS=2` as many as that of `seawall receive` on two CPUs.

mod bed;

use std::collections::VecDeque;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use seawall::node::{Client, ClientConfig, Receiver, Server, ServerConfig, Ticket, run_loop};
use seawall::receiver::{OutboxConfig, ReceiverConfig};
use seawall::storage::{Driver, DriverConfig};
use seawall::{BackendChoice, Config, Log, SourceId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

use bed::KIB;

const RECORD_BYTES: usize = KIB;

/// Clients, records outstanding at each, and the ratio to the log alone that is wanted.
const CELLS: [(usize, usize, f64); 8] = [
    (1, 64, 0.8),
    (1, 256, 0.8),
    (1, 1024, 0.8),
    (1, 4096, 0.8),
    (256, 1, 0.6),
    (256, 4, 0.6),
    (256, 16, 0.6),
    (256, 64, 0.6),
];

struct Bench {
    alone: Log,
    log: Log,
    receiver: Receiver,
    address: String,
    echo: String,
    client: Runtime,
    _server: Runtime,
    _dirs: [tempfile::TempDir; 2],
    rounds: usize,
    round: Duration,
}

fn main() {
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    if let Ok(cpu) = std::env::var(BUSY_CPU) {
        keep_busy(cpu.parse().expect("a CPU's number"));
    }
    // `cargo bench` itself gives some that begin with a dash.
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-') && argument.parse::<f64>().is_err());
    let is_wanted = |name: &str| only.as_ref().is_none_or(|only| name.starts_with(only.as_str()));
    let bench = Bench::new();
    for (clients, outstanding, target) in CELLS {
        let name = format!("{clients} x {outstanding} outstanding");
        if is_wanted(&name) {
            bench.throughput(&name, clients, outstanding, target);
        }
    }
    if is_wanted("latency") {
        bench.latency();
    }
    if is_wanted("cpu") {
        bench.cpu();
    }
    if is_wanted("busy") {
        bench.busy();
    }
}

impl Bench {
    fn new() -> Bench {
        let mut numbers = std::env::args().filter_map(|argument| argument.parse::<f64>().ok());
        let rounds = numbers.next().map_or(bed::amount(5, 1), |rounds| rounds as usize);
        let round = Duration::from_secs_f64(numbers.next().unwrap_or(if bed::is_trial() { 0.05 } else { 1.0 }));
        let dirs = [bed::scratch(), bed::scratch()];
        let runtime = |name, workers| {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(workers).thread_name(name).enable_all().build().expect("threads")
        };
        let workers = std::env::var("SEAWALL_BENCH_WORKERS").map_or(1, |wanted| wanted.parse().expect("a number"));
        let (server, client) = (runtime("server", workers), runtime("client", 1));
        let open = |dir: &tempfile::TempDir, driver: &Driver| {
            Log::open_with(dir.path(), Config::default(), driver).expect("an empty directory").0
        };
        let alone = open(&dirs[0], &Driver::shared());
        let log = open(&dirs[1], &driver_of(&server));
        let config = ReceiverConfig { session_window_bytes: 32 << 20, ..ReceiverConfig::default() };
        let (receiver, driver, _) = Receiver::open(log.clone(), "bench", config).expect("an empty log");
        // As `seawall receive` does.
        receiver.set_lone_writes(true);
        server.spawn(driver.run());
        let listening = server.block_on(async {
            Server::bind(receiver.clone(), ServerConfig::new(([127, 0, 0, 1], 0).into())).expect("a port")
        });
        let address = listening.addresses()[0].to_string();
        server.spawn(listening.run(std::future::pending()));
        let echo = server.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let echo_address = echo.local_addr().expect("bound").to_string();
        server.spawn(count_for_ever(echo));
        Bench { alone, log, receiver, address, echo: echo_address, client, _server: server, _dirs: dirs, rounds, round }
    }

    fn connect(&self, name: String, send_bytes: u64) -> Client {
        let _in = self.client.enter();
        let outbox = OutboxConfig { source: SourceId::new(name), send_bytes, ..OutboxConfig::default() };
        let client = Client::connect(ClientConfig::new(self.address.clone(), outbox)).expect("a client");
        self.client.block_on(client.resume()).expect("a WELCOME");
        client
    }

    /// Keeps both logs from growing.
    fn trim(&self) {
        self.alone.trim(self.alone.flushed()).expect("a disk that works");
        self.receiver.trim(self.log.flushed()).expect("a disk that works");
    }

    fn throughput(&self, name: &str, clients: usize, outstanding: usize, target: f64) {
        let connect = |number| Arc::new(self.connect(format!("{name}-{number}"), 256 << 10));
        let clients: Vec<Arc<Client>> = (0..clients).map(connect).collect();
        let [mut alone, mut net, mut bare, mut ratios, mut of_limit, mut of_chain] = [const { Vec::new() }; 6];
        let [mut cpu, mut bare_cpu] = [const { Vec::new() }; 2];
        for _ in 0..self.rounds {
            let of_log = self.log_records(outstanding * clients.len());
            let began = cpu_seconds();
            let of_net = self.net_records(&clients, outstanding);
            cpu.push((cpu_seconds() - began) / self.round.as_secs_f64() / of_net * 1e6);
            let began = cpu_seconds();
            let of_loopback = self.loopback_records(clients.len(), outstanding);
            bare_cpu.push((cpu_seconds() - began) / self.round.as_secs_f64() / of_loopback * 1e6);
            ratios.push(of_net / of_log);
            of_limit.push(of_net / of_log.min(of_loopback));
            // What is outstanding goes over the loopback, then to the device: where all of it does at once, nothing overlaps.
            of_chain.push(of_net * (1.0 / of_log + 1.0 / of_loopback));
            alone.push(of_log);
            net.push(of_net);
            bare.push(of_loopback);
            self.trim();
        }
        println!(
            "{name}: {:.0} records/s, the log alone {:.0}; ratio {:.2} (from {:.2} to {:.2}; target {target}); {:.1} us of CPU \
             a record",
            median(&mut net),
            median(&mut alone),
            median(&mut ratios),
            ratios[0],
            ratios[ratios.len() - 1],
            median(&mut cpu),
        );
        println!(
            "    the loopback alone {:.0}, {:.1} us of CPU; ratio to the slower of both {:.2}, to one after the other {:.2}",
            median(&mut bare),
            median(&mut bare_cpu),
            median(&mut of_limit),
            median(&mut of_chain),
        );
    }

    /// Durable records a second, one thread.
    fn log_records(&self, outstanding: usize) -> f64 {
        let record = bed::record(RECORD_BYTES);
        let mut pending = VecDeque::with_capacity(outstanding);
        let (began, mut done) = (Instant::now(), 0);
        while began.elapsed() < self.round {
            while pending.len() < outstanding {
                pending.push_back(self.alone.append(&record).expect("room"));
            }
            pending.pop_front().expect("one").wait().expect("a disk that works");
            done += 1;
        }
        let took = began.elapsed();
        pending.into_iter().for_each(|pending| drop(pending.wait()));
        f64::from(done) / took.as_secs_f64()
    }

    fn net_records(&self, clients: &[Arc<Client>], outstanding: usize) -> f64 {
        let record = Bytes::from(bed::record(RECORD_BYTES));
        let round = self.round;
        let began = Instant::now();
        let tasks: Vec<_> = clients
            .iter()
            .map(|client| {
                let (client, record) = (client.clone(), record.clone());
                self.client.spawn(async move {
                    let mut tickets: VecDeque<Ticket> = VecDeque::with_capacity(outstanding);
                    let mut done = 0u32;
                    while began.elapsed() < round {
                        while tickets.len() < outstanding {
                            tickets.push_back(client.push(record.clone()).await.expect("room"));
                        }
                        tickets.pop_front().expect("one").await.expect("durable");
                        done += 1;
                    }
                    let took = began.elapsed();
                    for ticket in tickets {
                        ticket.await.expect("durable");
                    }
                    f64::from(done) / took.as_secs_f64()
                })
            })
            .collect();
        self.client.block_on(async {
            let mut all = 0.0;
            for task in tasks {
                all += task.await.expect("no panic");
            }
            all
        })
    }

    /// Records of the loopback alone, a second.
    fn loopback_records(&self, connections: usize, outstanding: usize) -> f64 {
        let round = self.round;
        let connect = |_| self.client.block_on(TcpStream::connect(&self.echo)).expect("it listens");
        let streams: Vec<TcpStream> = (0..connections).map(connect).collect();
        let began = Instant::now();
        let keep_outstanding = |mut stream: TcpStream| async move {
            stream.set_nodelay(true).expect("a socket");
            let record = bed::record(RECORD_BYTES * outstanding);
            let (mut sent, mut done, mut answers) = (0u64, 0u64, BytesMut::new());
            while began.elapsed() < round {
                let missing = outstanding - (sent - done) as usize;
                stream.write_all(&record[..missing * RECORD_BYTES]).await.expect("connected");
                sent += missing as u64;
                stream.read_buf(&mut answers).await.expect("connected");
                // Only the newest answer counts.
                let whole = answers.len() / 8 * 8;
                if let Some(bytes) = answers[..whole].last_chunk::<8>() {
                    done = u64::from_le_bytes(*bytes) / RECORD_BYTES as u64;
                }
                answers.advance(whole);
            }
            done as f64 / began.elapsed().as_secs_f64()
        };
        let tasks: Vec<_> = streams.into_iter().map(|stream| self.client.spawn(keep_outstanding(stream))).collect();
        self.client.block_on(async {
            let mut all = 0.0;
            for task in tasks {
                all += task.await.expect("no panic");
            }
            all
        })
    }

    /// One record at a time.
    fn latency(&self) {
        let (alone, net) = self.one_by_one("one by one");
        println!("1 outstanding: p50 {net:.0} us, the log alone {alone:.0}; {:.0} us more (target 60)", net - alone);
        let mut bare: Vec<f64> = (0..self.rounds).map(|_| 1e6 / self.loopback_records(1, 1)).collect();
        println!("    of these there and back over the loopback alone {:.0} us on average", median(&mut bare));
    }

    /// One record at a time beside programs that want all of a CPU.
    fn busy(&self) {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        for busy in (0..cpus).map(|cpu| vec![cpu]).chain([(0..cpus).collect()]) {
            let mut others: Vec<_> = busy.iter().map(|cpu| start_keeping_busy(*cpu)).collect();
            let (alone, net) = self.one_by_one(&format!("beside {busy:?}"));
            println!("1 outstanding, CPUs {busy:?} of {cpus} busy: p50 {net:.0} us, the log alone {alone:.0}");
            for other in &mut others {
                other.kill().and_then(|()| other.wait()).expect("our own");
            }
        }
    }

    /// The median of one record's time through the receiver, and of the log alone.
    fn one_by_one(&self, name: &str) -> (f64, f64) {
        let client = Arc::new(self.connect(name.to_owned(), 256 << 10));
        let record = Bytes::from(bed::record(RECORD_BYTES));
        let (mut alone, mut net) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            let began = Instant::now();
            while began.elapsed() < self.round {
                let sent = Instant::now();
                self.alone.append(&record).and_then(|pending| pending.wait()).expect("a disk that works");
                alone.push(sent.elapsed().as_secs_f64() * 1e6);
            }
            // On the client's own runtime, as the loopback's: a caller on another thread pays for two more wakes.
            let (client, record, round) = (client.clone(), record.clone(), self.round);
            let one_by_one = self.client.spawn(async move {
                let (began, mut took) = (Instant::now(), Vec::new());
                while began.elapsed() < round {
                    let sent = Instant::now();
                    client.push(record.clone()).await.expect("room").await.expect("durable");
                    took.push(sent.elapsed().as_secs_f64() * 1e6);
                }
                took
            });
            net.extend(self.client.block_on(one_by_one).expect("no panic"));
            self.trim();
        }
        (median(&mut alone), median(&mut net))
    }

    /// CPU time of the whole process at about 100 records a SEND, and of the log alone.
    fn cpu(&self) {
        let client = self.connect("a hundred".to_owned(), 100 * (RECORD_BYTES as u64 + 4) + 50);
        let record = Bytes::from(bed::record(RECORD_BYTES));
        let records = bed::amount(200_000, 1000);
        let (mut of_net, mut of_log) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            let began = cpu_seconds();
            self.client.block_on(async {
                let mut tickets = VecDeque::new();
                for _ in 0..records {
                    tickets.push_back(client.push(record.clone()).await.expect("room"));
                    if tickets.len() == 6400 {
                        tickets.pop_front().expect("one").await.expect("durable");
                    }
                }
                client.flush().await.expect("durable");
            });
            of_net.push((cpu_seconds() - began) * 1e6 / records as f64);
            self.trim();
            let began = cpu_seconds();
            let block = vec![7; 100 * RECORD_BYTES];
            let mut pending = VecDeque::new();
            for _ in 0..records / 100 {
                pending.push_back(self.alone.append(&block).expect("room"));
                if pending.len() == 64 {
                    pending.pop_front().expect("one").wait().expect("a disk that works");
                }
            }
            pending.into_iter().for_each(|pending| drop(pending.wait()));
            of_log.push((cpu_seconds() - began) * 1e6 / records as f64);
            self.trim();
        }
        let (net, log) = (median(&mut of_net), median(&mut of_log));
        println!("100 records a SEND: {net:.2} us of CPU a record, client, server, kernel and log (target 3)");
        println!("    of these the log with blocks of 100 records alone: {log:.2} us");
    }
}

/// As `seawall receive` has it: in the event loop of the sockets, where that works. With `SEAWALL_BENCH_DRIVER=thread` a thread of
/// its own, to compare, and with `ring` nothing but the ring.
fn driver_of(server: &Runtime) -> Driver {
    let is_ring = std::env::var("SEAWALL_BENCH_DRIVER").is_ok_and(|wanted| wanted == "ring");
    let backend = if is_ring { BackendChoice::IoUring } else { BackendChoice::Auto };
    if std::env::var("SEAWALL_BENCH_DRIVER").is_ok_and(|wanted| wanted == "thread") {
        return Driver::shared();
    }
    match Driver::in_event_loop(DriverConfig { backend, ..DriverConfig::default() }) {
        Ok((driver, driver_loop)) => {
            server.spawn(run_loop(driver_loop));
            driver
        }
        Err(e) => {
            println!("the receiver's log has a thread for its writes: {e}");
            Driver::shared()
        }
    }
}

/// Answers each read of each connection with how many bytes came in all.
async fn count_for_ever(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        stream.set_nodelay(true).expect("a socket");
        tokio::spawn(async move {
            let (mut buffer, mut total) = (BytesMut::with_capacity(64 * KIB), 0u64);
            while let Ok(bytes @ 1..) = stream.read_buf(&mut buffer).await {
                buffer.clear();
                total += bytes as u64;
                if stream.write_all(&total.to_le_bytes()).await.is_err() {
                    break;
                }
            }
        });
    }
}

/// Names the CPU which a child of this process is to keep busy.
const BUSY_CPU: &str = "SEAWALL_BENCH_BUSY_CPU";

/// Another program as far as the scheduler is concerned: a session of its own.
fn start_keeping_busy(cpu: usize) -> std::process::Child {
    let this = std::env::current_exe().expect("a path");
    let mut other = std::process::Command::new(this);
    other.env(BUSY_CPU, cpu.to_string()).stdin(std::process::Stdio::piped()).spawn().expect("a process")
}

/// Until the one that started this has ended.
fn keep_busy(cpu: usize) -> ! {
    rustix::process::setsid().expect("not a group's leader");
    let mut only = rustix::thread::CpuSet::new();
    only.set(cpu);
    rustix::thread::sched_setaffinity(None, &only).expect("a CPU that there is");
    std::thread::spawn(|| {
        _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    loop {
        std::hint::spin_loop();
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// User and system time of this process.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = stat[stat.rfind(')').expect("a name")..].split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().expect("a number");
    // The kernel's USER_HZ is 100 on every architecture this runs on.
    (ticks(12) + ticks(13)) / 100.0
}
