//! Plain lines.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use seawall::node::{LineNames, LinesConfig, LinesGateway, LinesWatch, ReceiverError};
use seawall::receiver::{Poison, ReceiverConfig, RecordCheck};
use seawall::{Config, SourceId};
use tokio::sync::oneshot;

use crate::{World, epochs_written, records, until};

struct Lines {
    address: SocketAddr,
    watch: LinesWatch,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl World {
    fn serve_lines(&self, config: LinesConfig) -> Lines {
        let (listener, address) = self.listen();
        let gateway = LinesGateway::new(self.receiver.clone(), config).unwrap();
        let watch = gateway.watch();
        let (stop, stopped) = oneshot::channel();
        let task = self.runtime.spawn(gateway.serve(listener, async { drop(stopped.await) }));
        Lines { address, watch, stop, task }
    }

    fn texts(&self) -> Vec<String> {
        records(&self.log).into_iter().map(|(_, _, text)| text).collect()
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Everything that is answered until the end.
fn rest(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    match stream.read_to_string(&mut text) {
        Ok(_) => text,
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => text,
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn lines_are_records_in_their_order_and_the_last_one_needs_no_end() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig { frame_records_max: 7, ..Default::default() });
    let lines = world.serve_lines(LinesConfig::default());
    let mut sender = connect(lines.address);
    let mut expected = Vec::new();
    let mut text = String::new();
    for number in 0..2000 {
        expected.push(format!("line {number}"));
        text += &format!("line {number}{}", if number % 2 == 0 { "\n" } else { "\r\n" });
    }
    expected.extend(["".to_owned(), "the last one".to_owned()]);
    text += "\nthe last one";
    for piece in text.as_bytes().chunks(777) {
        sender.write_all(piece).unwrap();
    }
    sender.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut sender), "", "nothing is answered");
    until("all are durable", || world.texts().len() == expected.len());
    assert_eq!(world.texts(), expected);
    assert_eq!(lines.watch.stats().lines, 2002);
    until("the connection is counted out", || lines.watch.stats().connections == 0);
    assert_eq!(world.receiver.stats().intake.charged_bytes, 0);
    world.close();
}

#[test]
fn a_line_is_there_although_its_connection_stays_open() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    let lines = world.serve_lines(LinesConfig::default());
    let mut sender = connect(lines.address);
    sender.write_all(b"one\ntwo\nthr").unwrap();
    until("two are durable", || world.texts() == ["one", "two"]);
    sender.write_all(b"ee\n").unwrap();
    until("the third too", || world.texts() == ["one", "two", "three"]);
    world.close();
}

#[test]
fn names_are_the_listeners_or_the_peers() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    let fixed = LineNames::Fixed(SourceId::new("syslog").unwrap());
    for names in [LineNames::None, fixed, LineNames::Peer] {
        let lines = world.serve_lines(LinesConfig { names, ack: true, ..Default::default() });
        let mut sender = connect(lines.address);
        sender.write_all(b"x\n").unwrap();
        sender.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rest(&mut sender), "OK 1\n");
    }
    let names: Vec<_> = records(&world.log).into_iter().map(|(name, _, _)| name).collect();
    assert_eq!(names, ["", "syslog", "127.0.0.1"]);
    assert_eq!(epochs_written(&world.log), 0);
    world.close();
}

#[test]
fn ok_is_said_of_durable_lines_only() {
    let dir = tempfile::tempdir().unwrap();
    let (mut world, driver) = World::without_driver(dir.path(), Config::default(), ReceiverConfig::default(), None);
    let lines = world.serve_lines(LinesConfig { ack: true, ..Default::default() });
    let sender = connect(lines.address);
    (&sender).write_all(b"one\ntwo\n").unwrap();
    until("they were taken", || lines.watch.stats().lines == 2);
    sender.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!((&sender).read(&mut [0; 10]).is_err(), "nothing is said before");
    sender.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    world.thread = Some(driver.unwrap().spawn().unwrap());
    let mut answers = BufReader::new(&sender);
    let mut told = 0;
    let mut sent = 2;
    while told < 20 {
        let mut answer = String::new();
        answers.read_line(&mut answer).unwrap();
        let count: usize = answer.trim_end().strip_prefix("OK ").expect("an OK").parse().unwrap();
        assert!(count > told && count <= sent, "{count} of {sent}, {told} before");
        assert!(world.texts().len() >= count, "told and not in the log");
        told = count;
        if told == sent && sent < 20 {
            (&sender).write_all(b"more\nmore\n").unwrap();
            sent += 2;
        }
    }
    (&sender).write_all(b"the last").unwrap();
    sender.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    answers.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "OK 21\n");
    world.close();
}

#[test]
fn what_did_not_become_durable_is_not_said_to_be_when_the_connection_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    let (mut world, driver) = World::without_driver(dir.path(), Config::default(), ReceiverConfig::default(), None);
    let drain = Duration::from_millis(300);
    let lines = world.serve_lines(LinesConfig { ack: true, drain, ..Default::default() });
    let mut sender = connect(lines.address);
    sender.write_all(b"one\ntwo\n").unwrap();
    until("they were taken", || lines.watch.stats().lines == 2);
    world.receiver.drain(Duration::from_secs(5), "maintenance");
    assert_eq!(rest(&mut sender), "ERR what is not answered did not become durable in time\n");
    world.thread = Some(driver.unwrap().spawn().unwrap());
    world.close();
}

#[test]
fn a_long_line_ends_its_connection_and_what_was_before_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    for ack in [false, true] {
        let lines = world.serve_lines(LinesConfig { line_bytes_max: 10, ack, ..Default::default() });
        let mut sender = connect(lines.address);
        // Known before its end has come: it may never.
        sender.write_all(b"0123456789\nok\n0123456789ab").unwrap();
        let answer = rest(&mut sender);
        let said = if ack { "OK 2\nERR line 3 is longer than 10 bytes\n" } else { "" };
        assert_eq!(answer, said);
        assert_eq!(lines.watch.stats().refused, 1);
    }
    until("the others are durable", || world.texts().len() == 4);
    assert_eq!(world.texts(), ["0123456789", "ok"].repeat(2));
    world.close();
}

#[test]
fn long_lines_are_dropped_and_counted_if_that_is_what_is_done_with_poison() {
    let dir = tempfile::tempdir().unwrap();
    let check = Some(RecordCheck::new(|record| if record == b"bad" { Err("bad".into()) } else { Ok(()) }));
    let config = ReceiverConfig { poison: Poison::Drop, ..Default::default() };
    let world = World::open_with(dir.path(), Config::default(), config, check);
    let lines = world.serve_lines(LinesConfig { line_bytes_max: 10, ..Default::default() });
    let mut sender = connect(lines.address);
    let long = "x".repeat(100_000);
    sender.write_all(format!("one\n{long}\nbad\ntwo\n{long}").as_bytes()).unwrap();
    sender.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut sender), "");
    until("the others are durable", || world.texts() == ["one", "two"]);
    assert_eq!((lines.watch.stats().dropped, world.receiver.stats().intake.dropped), (2, 1));
    // What is to be answered is not dropped.
    let lines = world.serve_lines(LinesConfig { line_bytes_max: 10, ack: true, ..Default::default() });
    let mut sender = connect(lines.address);
    sender.write_all(format!("three\n{long}\nfour\n").as_bytes()).unwrap();
    assert_eq!(rest(&mut sender), "OK 1\nERR line 2 is longer than 10 bytes\n");
    let mut sender = connect(lines.address);
    sender.write_all(b"bad\n").unwrap();
    assert_eq!(rest(&mut sender), "ERR bad\n");
    world.close();
}

#[test]
fn without_room_nothing_is_read_and_the_sender_waits() {
    let dir = tempfile::tempdir().unwrap();
    let config = ReceiverConfig { in_flight_bytes_max: 64 << 10, ..Default::default() };
    let (mut world, driver) = World::without_driver(dir.path(), Config::default(), config, None);
    let lines = world.serve_lines(LinesConfig::default());
    let mut sender = connect(lines.address);
    sender.set_nonblocking(true).unwrap();
    let line = [&[b'x'; 999][..], b"\n"].concat();
    let (mut sent, mut at, mut blocked_since) = (0usize, 0usize, Instant::now());
    while blocked_since.elapsed() < Duration::from_millis(500) {
        match sender.write(&line[at..]) {
            Ok(bytes) => {
                at = (at + bytes) % line.len();
                sent += bytes;
                blocked_since = Instant::now();
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(5)),
            Err(e) => panic!("{e}"),
        }
        assert!(sent < 64 << 20, "it is never held up");
    }
    let stats = world.receiver.stats().intake;
    assert!(stats.charged_bytes <= 64 << 10 && stats.records < 70, "{stats:?}");
    world.thread = Some(driver.unwrap().spawn().unwrap());
    sender.set_nonblocking(false).unwrap();
    sender.write_all(&line[at..]).unwrap();
    sender.shutdown(Shutdown::Write).unwrap();
    let total = sent.div_ceil(line.len()) + usize::from(at == 0);
    until("all of it came", || lines.watch.stats().lines == total as u64);
    until("all of it is durable", || world.receiver.stats().intake.charged_bytes == 0);
    assert_eq!(world.texts().len(), total);
    world.close();
}

#[test]
fn a_rate_holds_lines_back_and_lets_them_in_again() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    let lines = world.serve_lines(LinesConfig { ack: true, ..Default::default() });
    world.receiver.set_rate(Some(10_000.0));
    let mut sender = connect(lines.address);
    let began = Instant::now();
    sender.write_all(format!("{}\n", "x".repeat(999)).repeat(20).as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    sender.write_all(b"end").unwrap();
    sender.shutdown(Shutdown::Write).unwrap();
    let answer = rest(&mut sender);
    assert!(answer.ends_with("OK 21\n"), "{answer}");
    assert!(began.elapsed() > Duration::from_millis(300), "{:?}", began.elapsed());
    world.close();
}

#[test]
fn one_who_is_silent_or_does_not_go_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    let idle = Duration::from_millis(300);
    let lines = world.serve_lines(LinesConfig { ack: true, idle, connections_max: 1, ..Default::default() });
    let mut silent = connect(lines.address);
    silent.write_all(b"one\nunfinished").unwrap();
    // Beyond the limit: it has its turn when the other one was given up.
    let mut second = connect(lines.address);
    second.write_all(b"two\n").unwrap();
    assert_eq!(rest(&mut silent), "OK 1\nERR nothing came for 300ms\n");
    let mut ok = [0; 5];
    second.read_exact(&mut ok).unwrap();
    assert_eq!(&ok, b"OK 1\n");
    lines.stop.send(()).unwrap();
    assert_eq!(rest(&mut second), "ERR the receiver goes away\n");
    world.runtime.block_on(lines.task).unwrap();
    assert_eq!(world.texts(), ["one", "two"], "what was unfinished is no line");
    // A receiver that drains says so itself.
    let lines = world.serve_lines(LinesConfig { ack: true, ..Default::default() });
    let mut sender = connect(lines.address);
    sender.write_all(b"three\n").unwrap();
    until("it came", || lines.watch.stats().lines == 1);
    world.receiver.drain(Duration::from_secs(5), "maintenance");
    assert_eq!(rest(&mut sender), "OK 1\nERR the receiver goes away\n");
    world.close();
}

#[test]
fn a_connection_that_breaks_leaves_no_half_line() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    let lines = world.serve_lines(LinesConfig { ack: true, ..Default::default() });
    let sender = connect(lines.address);
    (&sender).write_all(b"whole\nha").unwrap();
    until("the whole one is durable", || world.texts() == ["whole"]);
    // Closed with an answer unread: a reset.
    until("the answer is there", || sender.peek(&mut [0; 5]).is_ok_and(|bytes| bytes == 5));
    drop(sender);
    until("the connection has ended", || lines.watch.stats().connections == 0);
    assert_eq!(world.texts(), ["whole"]);
    world.close();
}

#[test]
fn a_receiver_that_fails_ends_the_connections() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    let lines = world.serve_lines(LinesConfig { ack: true, ..Default::default() });
    let mut sender = connect(lines.address);
    sender.write_all(b"one\n").unwrap();
    until("it is durable", || world.texts() == ["one"]);
    world.log.clone().close(Duration::from_secs(10)).unwrap();
    sender.write_all(b"two\n").unwrap();
    let answer = rest(&mut sender);
    assert_eq!(answer, "OK 1\nERR the log is closed\n");
}

#[test]
fn what_is_not_usable_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig { record_bytes_max: 1000, ..Default::default() });
    type Spoil = fn(&mut LinesConfig);
    let cases: [(&str, Spoil); 4] = [
        ("line_bytes_max", |c| c.line_bytes_max = 1001),
        ("line_bytes_max", |c| c.line_bytes_max = 0),
        ("connections_max", |c| c.connections_max = 0),
        ("idle", |c| c.idle = Duration::ZERO),
    ];
    for (expected, spoil) in cases {
        let mut config = LinesConfig { line_bytes_max: 1000, ..LinesConfig::default() };
        spoil(&mut config);
        let refused = LinesGateway::new(world.receiver.clone(), config).unwrap_err();
        assert!(matches!(refused, ReceiverError::Config { field, .. } if field == expected), "{refused}");
    }
    world.close();
}
