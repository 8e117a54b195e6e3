//! `receive` and `send`: two processes, either of which may be killed at any moment.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use seawall::receiver::{
    Ack, Code, FrameHeader, HEADER_BYTES, Message, Nack, Reject, RejectReason, Welcome, decode, encode,
};
use seawall::{Seq, SourceEpoch};
use support::{PATIENCE, Place, Random, Running, code, command, seawall, seawall_with_input, text_file};

/// Sizes that make many segments, blocks and snapshots of a small file.
const SMALL: &str = "[receiver]\nblock_bytes_max = \"64 KiB\"\nsnapshot_interval_bytes = \"128 KiB\"\n\
    [log]\nsegment_bytes_min = \"128 KiB\"\nsegment_bytes_max = \"1 MiB\"\n";

struct Receiver {
    running: Running,
    address: String,
}

fn receive(place: &Place, extra: &[&str]) -> Command {
    let log = place.arg("log");
    let config = place.write("receive.toml", SMALL);
    let mut args = vec!["receive", "--log", &log, "--config", &config, "--format", "json"];
    args.extend(extra);
    command(&args)
}

impl Receiver {
    /// On a port of the system's choice, or the one it had before.
    fn start(place: &Place, address: &str) -> Receiver {
        let mut running = Running::start(receive(place, &["--listen", address]));
        let line = running.line().expect("it says where it listens");
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["event"], "listening", "{line}");
        let address = event["addresses"][0].as_str().unwrap().to_owned();
        Receiver { running, address }
    }

    /// Ends it as Ctrl-C does.
    fn stop(mut self) {
        self.running.signal("INT");
        let status = self.running.child.wait().unwrap();
        assert_eq!(code(status), 130);
    }
}

/// A receiver that says whatever a test wants.
struct Fake {
    listener: TcpListener,
}

/// One connection to it, that was greeted.
struct Greeted(TcpStream);

impl Fake {
    fn new() -> Fake {
        Fake { listener: TcpListener::bind("127.0.0.1:0").unwrap() }
    }

    fn address(&self) -> String {
        self.listener.local_addr().unwrap().to_string()
    }

    /// The next connection, which is told to go on behind `durable`.
    fn welcome(&self, durable: u64) -> Greeted {
        let stream = self.listener.accept().unwrap().0;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut greeted = Greeted(stream);
        let Message::Hello(_) = greeted.hear() else { panic!("no HELLO") };
        greeted.say(&Message::Welcome(Welcome {
            version: 1,
            epoch: SourceEpoch::new(1),
            durable: Seq::new(durable),
            credit_bytes: 1 << 20,
            record_bytes_max: 1 << 16,
            frame_bytes_max: 1 << 17,
            frame_records_max: 1000,
            heartbeat_millis: 60_000,
            ..Welcome::default()
        }));
        greeted
    }
}

impl Greeted {
    fn say(&mut self, message: &Message) {
        let mut bytes = bytes::BytesMut::new();
        encode(message, &mut bytes);
        self.0.write_all(&bytes).unwrap();
    }

    fn ack(&mut self, received: u64, durable: u64) {
        let (received, durable) = (Seq::new(received), Seq::new(durable));
        self.say(&Message::Ack(Ack { received, durable, credit_bytes: 1 << 20, ..Ack::default() }));
    }

    fn hear(&mut self) -> Message {
        let mut frame = vec![0; HEADER_BYTES];
        self.0.read_exact(&mut frame).expect("a head");
        let header = FrameHeader::read(frame[..].try_into().unwrap()).expect("a head");
        frame.resize(header.frame_bytes(), 0);
        self.0.read_exact(&mut frame[HEADER_BYTES..]).expect("a frame");
        decode(frame.into()).expect("a message")
    }
}

/// The exit code of a run, if it ends in time.
fn ended_within(running: &mut Running, patience: Duration) -> Option<i32> {
    let began = Instant::now();
    while began.elapsed() < patience {
        if let Some(status) = running.child.try_wait().unwrap() {
            return Some(code(status));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

#[track_caller]
fn verified(place: &Place, file: &str, source: &str) {
    let log = place.arg("log");
    let ended =
        seawall(&["verify", "--log", &log, "--against", file, "--source", source, "--format", "json"]).expect(0);
    let text = ended.text();
    let report: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let length = std::fs::metadata(file).unwrap().len();
    assert_eq!(report["comparison"]["compared_bytes"], length, "{text}");
    assert_eq!(report["comparison"]["not_in_log_bytes"], 0, "{text}");
}

#[test]
fn a_file_arrives_once_and_a_second_run_sends_nothing() {
    let place = Place::new();
    let file = place.write("input.txt", text_file(3_000_000, 1));
    let receiver = Receiver::start(&place, "127.0.0.1:0");
    let args = ["send", &file, "--to", &receiver.address, "--format", "json"];
    let first = seawall(&args).expect(0).json();
    let end = first.last().unwrap();
    assert_eq!(
        (end["outcome"].as_str(), end["offset"].as_u64()),
        (Some("complete"), Some(std::fs::metadata(&file).unwrap().len()))
    );
    assert!(end["records"].as_u64().unwrap() > 1000);
    let second = seawall(&args).expect(0).json();
    assert_eq!(second[0]["offset"], end["offset"]);
    assert_eq!(second.last().unwrap()["records"], 0);
    // A file that grows is gone on with.
    let mut grown = std::fs::read(&file).unwrap();
    grown.extend_from_slice(b"\nmore\n");
    let file = place.write("input.txt", grown);
    seawall(&args).expect(0);
    receiver.stop();
    verified(&place, &file, "input.txt");
}

#[test]
fn every_file_of_a_directory_is_a_source_and_standard_input_resumes() {
    let place = Place::new();
    std::fs::create_dir_all(place.path("dir/below")).unwrap();
    let one = place.write("dir/one", text_file(50_000, 2));
    let two = place.write("dir/below/two", text_file(50_000, 3));
    let receiver = Receiver::start(&place, "127.0.0.1:0");
    let dir = place.arg("dir");
    seawall(&["send", &dir, "--to", &receiver.address, "--block", "4 KiB"]).expect(0);
    let input = text_file(40_000, 4);
    for cut in [20_000, input.len()] {
        let args = ["send", "-", "--to", &receiver.address, "--block", "1000 B"];
        seawall_with_input(&args, &input[..cut]).expect(0);
    }
    let stdin = place.write("stdin", &input);
    receiver.stop();
    verified(&place, &one, "dir/one");
    verified(&place, &two, "dir/below/two");
    verified(&place, &stdin, "stdin");
}

/// The SKIP over what was lost became durable, and the lines were said to be: exit code 0, "durable through" the end.
#[test]
fn what_was_lost_at_most_once_is_told_and_never_called_durable() {
    let receiver = Fake::new();
    let address = receiver.address();
    let fake = std::thread::spawn(move || {
        let mut first = receiver.welcome(0);
        let mut records = 0;
        while records < 2 {
            let Message::Send(send) = first.hear() else { panic!("no SEND") };
            records += send.records;
        }
        first.ack(8, 4);
        drop(first);
        let mut second = receiver.welcome(4);
        let Message::Skip { previous, to } = second.hear() else { panic!("no SKIP") };
        assert_eq!((previous.get(), to.get()), (4, 8));
        second.ack(8, 8);
        let Message::Bye = second.hear() else { panic!("no BYE") };
        second.say(&Message::Bye);
    });
    // Its input goes on until it has heard of the second connection.
    let mut send = command(&["send", "-", "--to", &address, "--wait", "received", "--format", "json"]);
    send.args(["--report-every", "1ms", "--give-up-after", "20s"]).stdin(Stdio::piped());
    let mut child = send.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"one\ntwo\n").unwrap();
    let mut said: Vec<serde_json::Value> = Vec::new();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || lines.next().map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap());
    while let Some(event) = next() {
        let is_heard = event["event"] == "lost" || event["offset"] == 8;
        said.push(event);
        if is_heard {
            break;
        }
    }
    drop(stdin);
    said.extend(std::iter::from_fn(next));
    let ended = support::ended(child.wait_with_output().unwrap());
    fake.join().unwrap();
    let lost: Vec<_> = said.iter().filter(|event| event["event"] == "lost").collect();
    assert_eq!(lost.len(), 1, "{said:?}");
    assert_eq!((lost[0]["from"].as_u64(), lost[0]["to"].as_u64()), (Some(4), Some(8)));
    assert!(said.iter().all(|event| event["offset"].as_u64().is_none_or(|offset| offset <= 4)), "{said:?}");
    assert_eq!(said.last().unwrap()["outcome"], "incomplete");
    let ended = ended.expect(3);
    assert!(ended.stderr.contains("offsets 4 to 8 were only in the receiver's memory"), "{}", ended.stderr);
}

/// The file with a reject was said to be complete, and those behind it were not sent.
#[test]
fn what_is_rejected_of_one_file_is_told_and_keeps_back_no_other() {
    let place = Place::new();
    std::fs::create_dir(place.path("dir")).unwrap();
    let one = place.write("dir/one", "a\nbad\n");
    place.write("dir/two", "b\n");
    let receiver = Fake::new();
    let address = receiver.address();
    let fake = std::thread::spawn(move || {
        let reject = Reject { seq: Seq::new(6), reason: RejectReason::Poison, bytes: 4 };
        for (end, records, rejects) in [(6, 2, vec![reject]), (2, 1, vec![])] {
            let mut connection = receiver.welcome(0);
            let mut left = records;
            loop {
                match connection.hear() {
                    Message::Send(send) => {
                        left -= send.records;
                        let (received, durable) = (Seq::new(end), Seq::new(end));
                        let rejects = rejects.clone();
                        let ack = Ack { received, durable, credit_bytes: 1 << 20, rejects, ..Ack::default() };
                        if left == 0 {
                            connection.say(&Message::Ack(ack));
                        }
                    }
                    Message::Bye => break connection.say(&Message::Bye),
                    _ => {}
                }
            }
        }
    });
    let args = ["send", &place.arg("dir"), "--to", &address, "--format", "json", "--give-up-after", "20s"];
    let ended = seawall(&args).expect(4);
    let said = ended.json();
    let outcomes = said.iter().filter(|event| event["event"] == "end").map(|event| event["outcome"].as_str().unwrap());
    assert_eq!(outcomes.collect::<Vec<_>>(), ["incomplete", "complete"], "{said:?}");
    assert!(ended.stderr.contains(&format!("1 records of {one} were rejected")), "{}", ended.stderr);
    fake.join().unwrap();
}

#[test]
fn a_record_that_is_too_long_is_named() {
    let place = Place::new();
    let file = place.write("long", ["short\n", &"x".repeat(100_000), "\n"].concat());
    let receiver = Fake::new();
    let address = receiver.address();
    let fake = std::thread::spawn(move || drop(receiver.welcome(0).0.read_to_end(&mut Vec::new())));
    let ended = seawall(&["send", &file, "--to", &address, "--give-up-after", "20s"]).expect(6);
    let told = [&file[..], "offset 6", "--block 65536"];
    assert!(told.iter().all(|what| ended.stderr.contains(what)), "{}", ended.stderr);
    fake.join().unwrap();
}

/// One file that could not be sent kept back those behind it.
#[test]
fn a_file_that_cannot_be_sent_keeps_back_no_other() {
    let place = Place::new();
    std::fs::create_dir_all(place.path("dir/nested")).unwrap();
    let one = place.write("dir/1", "another\nfile\n");
    let two = place.write("dir/2", "b\n");
    let three = place.write("dir/nested/3", "c\n");
    let receiver = Receiver::start(&place, "127.0.0.1:0");
    let args = ["send", &place.arg("dir"), "--to", &receiver.address];
    seawall(&args).expect(0);
    // The first is another file now, the others have grown.
    place.write("dir/1", "short\n");
    place.write("dir/2", "b\nmore\n");
    place.write("dir/nested/3", "c\nmore\n");
    let ended = seawall(&args).expect(4);
    assert!(ended.stderr.contains(&one) && ended.stderr.contains("not every file was sent whole"), "{}", ended.stderr);
    // One that is alone says it once.
    let ended = seawall(&["send", &one, "--source", "dir/1", "--to", &receiver.address]).expect(4);
    assert!(!ended.stderr.contains("not every file"), "{}", ended.stderr);
    receiver.stop();
    verified(&place, &two, "dir/2");
    verified(&place, &three, "dir/nested/3");
}

/// It went on waiting for input, and nobody heard that nothing would be sent any more.
#[test]
fn who_waits_for_input_hears_that_the_receiver_refuses_it() {
    let receiver = Fake::new();
    let args = ["send", "-", "--to", &receiver.address(), "--format", "json", "--report-every", "0s"];
    let mut waiting = command(&args);
    waiting.stdin(std::process::Stdio::piped());
    let mut sender = Running::start(waiting);
    let mut stdin = sender.child.stdin.take().unwrap();
    let mut connection = receiver.welcome(0);
    stdin.write_all(b"a\n").unwrap();
    let Message::Send(_) = connection.hear() else { panic!("no SEND") };
    connection.ack(2, 2);
    let text = "a newer life of this source is there".to_owned();
    let (at, expected) = (Seq::ZERO, Seq::new(2));
    connection.say(&Message::Nack(Nack {
        code: Code::OldEpoch,
        at,
        expected,
        retry_after_millis: 0,
        fatal: true,
        text,
    }));
    assert_eq!(ended_within(&mut sender, PATIENCE / 2), Some(6));
    let last = std::iter::from_fn(|| sender.line()).last().unwrap();
    let last: serde_json::Value = serde_json::from_str(&last).unwrap();
    assert_eq!((&last["event"], &last["outcome"]), (&"end".into(), &"failed".into()), "{last}");
    drop(stdin);
}

/// What was no file and no directory was left out without a word.
#[test]
fn links_to_files_are_sent_and_what_is_left_out_is_told() {
    let place = Place::new();
    std::fs::create_dir_all(place.path("dir")).unwrap();
    std::fs::create_dir_all(place.path("elsewhere")).unwrap();
    place.write("dir/own", "a\n");
    let target = place.write("elsewhere/target", "b\nc\n");
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, place.path(name)).unwrap();
    link(&target, "dir/link");
    link(&place.arg("elsewhere"), "dir/beyond");
    link("nowhere", "dir/dangling");
    assert!(Command::new("mkfifo").arg(place.path("dir/pipe")).status().unwrap().success());
    let receiver = Receiver::start(&place, "127.0.0.1:0");
    let ended = seawall(&["send", &place.arg("dir"), "--to", &receiver.address]).expect(0);
    receiver.stop();
    verified(&place, &target, "dir/link");
    for left_out in ["beyond", "dangling", "pipe"] {
        let path = place.arg(&format!("dir/{left_out}"));
        assert!(ended.stderr.contains(&format!("{path} is left out")), "{}", ended.stderr);
    }
}

/// A pipe was opened twice: what a writer that does not stay had put into it was lost, and the command waited for ever.
#[test]
fn a_named_pipe_is_read_from_its_beginning() {
    let place = Place::new();
    let receiver = Receiver::start(&place, "127.0.0.1:0");
    let pipe = place.arg("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut sender = Running::start(command(&["send", &pipe, "--to", &receiver.address, "--quiet"]));
    std::fs::write(&pipe, "a\nb\n").unwrap();
    assert_eq!(ended_within(&mut sender, PATIENCE / 3), Some(0));
    receiver.stop();
    let sent = place.write("sent", "a\nb\n");
    verified(&place, &sent, "pipe");
}

/// The signal was noted, and the command went on waiting: for a pipe's writer, or for bytes that it would have passed over.
#[test]
fn who_waits_for_input_can_be_interrupted() {
    let place = Place::new();
    let receiver = Fake::new();
    let (address, pipe) = (receiver.address(), place.arg("pipe"));
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for file in [&pipe[..], "-"] {
        let mut waiting = command(&["send", file, "--to", &address, "--quiet"]);
        waiting.stdin(Stdio::piped());
        let mut sender = Running::start(waiting);
        let mut stdin = sender.child.stdin.take().unwrap();
        stdin.write_all(b"not yet there\n").unwrap();
        let mut connection = receiver.welcome(1_000_000);
        sender.signal("INT");
        assert_eq!(ended_within(&mut sender, PATIENCE / 2), Some(130), "{file}");
        connection.0.read_to_end(&mut Vec::new()).unwrap();
    }
    let mut ingesting = Running::start(command(&["ingest", "--log", &place.arg("own"), &pipe, "--quiet"]));
    let began = Instant::now();
    while !place.path("own").exists() {
        assert!(began.elapsed() < PATIENCE, "it waits before it opens the log");
        std::thread::sleep(Duration::from_millis(5));
    }
    ingesting.signal("INT");
    assert_eq!(ended_within(&mut ingesting, PATIENCE / 2), Some(130));
}

/// The thread that said how it goes waited for whoever did not read it, and heard no signal meanwhile.
#[test]
fn a_receiver_whose_output_nobody_reads_goes_on_and_ends() {
    let place = Place::new();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut receiving = receive(&place, &["--listen", "127.0.0.1:0", "--report-every", "0s"]);
    let mut child = receiving.stdout(writer.try_clone().unwrap()).spawn().unwrap();
    drop(receiving);
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        reader.read_exact(&mut byte).unwrap();
        line.push(byte[0]);
    }
    let event: serde_json::Value = serde_json::from_slice(&line).unwrap();
    let address = event["addresses"][0].as_str().unwrap();
    // Nothing more goes into the pipe.
    fill(writer);
    let file = place.write("input.txt", text_file(100_000, 9));
    seawall(&["send", &file, "--to", address]).expect(0);
    // More lines than are kept for a reader.
    std::thread::sleep(Duration::from_secs(1));
    let stop = || Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(stop().success());
    let began = Instant::now();
    let ended = loop {
        match child.try_wait().unwrap() {
            Some(status) => break Some(code(status)),
            None if began.elapsed() > PATIENCE / 2 => break None,
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    child.kill().ok();
    assert_eq!(ended, Some(130));
    verified(&place, &file, "input.txt");
}

/// Until a pipe takes no more.
fn fill(mut pipe: std::io::PipeWriter) {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    let flags = fcntl_getfl(&pipe).unwrap();
    fcntl_setfl(&pipe, flags | OFlags::NONBLOCK).unwrap();
    while pipe.write(&[b' '; 4096]).is_ok() {}
    while pipe.write(b" ").is_ok() {}
    // The flag is one for all who hold that end.
    fcntl_setfl(&pipe, flags).unwrap();
}

/// Its end was taken for the file's, and the file for complete.
#[test]
fn a_file_that_becomes_shorter_is_refused() {
    let place = Place::new();
    let file = place.write("input.txt", text_file(1_000_000, 5));
    let receiver = Receiver::start(&place, "127.0.0.1:0");
    // Says nothing, and goes.
    let first = Fake::new();
    let to = [&first.address(), &receiver.address];
    let mut sender = Running::start(command(&["send", &file, "--to", to[0], "--to", to[1]]));
    // It has looked at the file when it connects.
    let stream = first.listener.accept().unwrap();
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(500_000).unwrap();
    drop((stream, first));
    assert_eq!(ended_within(&mut sender, PATIENCE / 2), Some(4));
    receiver.stop();
}

/// Both ends die again and again: `SEAWALL_KILLS` says how often each (default 10).
#[test]
fn killed_at_random_both_of_them_and_each_byte_is_there_once() {
    let kills: u64 = std::env::var("SEAWALL_KILLS").map_or(10, |n| n.parse().expect("SEAWALL_KILLS is a number"));
    let seed: u64 = std::env::var("SEAWALL_SEED").map_or(7, |n| n.parse().expect("SEAWALL_SEED is a number"));
    let mut random = Random::new(seed);
    let place = Place::new();
    let file = place.write("input.txt", text_file(1_000_000 + 120_000 * kills as usize, seed));
    let length = std::fs::metadata(&file).unwrap().len();
    let mut receiver = Receiver::start(&place, "127.0.0.1:0");
    let address = receiver.address.clone();
    // Slow enough to be killed in its middle.
    let send = || {
        let mut send = command(&["send", &file, "--to", &address, "--outstanding", "32 KiB", "--format", "json"]);
        send.args(["--report-every", "1ms"]).stderr(Stdio::null());
        Running::start(send)
    };
    let mut sender = send();
    let (mut told, mut done) = (0, false);
    let (mut killed_receivers, mut killed_senders) = (0, 0);
    let began = Instant::now();
    while killed_receivers < kills || killed_senders < kills {
        assert!(began.elapsed() < PATIENCE * (2 + kills as u32 / 10), "{killed_receivers} {killed_senders}");
        std::thread::sleep(Duration::from_millis(random.below(60)));
        if random.below(2) == 0 && killed_receivers < kills {
            receiver.running.signal("KILL");
            receiver.running.child.wait().unwrap();
            receiver = Receiver::start(&place, &address);
            killed_receivers += 1;
        } else if killed_senders < kills {
            sender.signal("KILL");
            sender.child.wait().unwrap();
            (told, done) = heard(&mut sender, told, done);
            sender = send();
            killed_senders += 1;
        }
    }
    // What is left to be sent now is sent in peace.
    sender.signal("KILL");
    sender.child.wait().unwrap();
    (told, done) = heard(&mut sender, told, done);
    let last = seawall(&["send", &file, "--to", &address, "--format", "json"]).expect(0).json();
    let resumed = last[0]["offset"].as_u64().unwrap();
    assert!(resumed >= told, "{told} bytes were said to be durable, the receiver goes on at {resumed}");
    assert_eq!(last.last().unwrap()["offset"], length);
    receiver.stop();
    verified(&place, &file, "input.txt");
    println!(
        "{killed_receivers} + {killed_senders} kills; {told} of {length} bytes told before the last run, done: {done}"
    );
}

/// What a sender that is gone had said to be durable: never less than before.
fn heard(sender: &mut Running, told: u64, done: bool) -> (u64, bool) {
    let (mut told, mut done) = (told, done);
    while let Some(line) = sender.line() {
        // It may have been killed in the middle of a line.
        let Ok(event) = serde_json::from_str::<serde_json::Value>(&line) else { break };
        let offset = event["offset"].as_u64().unwrap();
        assert!(offset >= told, "{told} bytes were said to be durable, later {offset}");
        told = offset;
        done |= event["event"] == "end";
    }
    (told, done)
}

#[test]
fn another_file_under_the_same_name_is_refused() {
    let place = Place::new();
    let file = place.write("input.txt", "a line\nand another\n");
    let receiver = Receiver::start(&place, "127.0.0.1:0");
    let args = ["send", &file, "--to", &receiver.address];
    seawall(&args).expect(0);
    place.write("input.txt", "short\n");
    let ended = seawall(&args).expect(4);
    assert!(ended.stderr.contains("the receiver has 19 bytes of source \"input.txt\", but"), "{}", ended.stderr);
    receiver.stop();
}

#[test]
fn what_cannot_work_is_said_and_where() {
    let place = Place::new();
    let file = place.write("input.txt", "a line\n");
    // Nobody there.
    let args = ["send", &file, "--to", "127.0.0.1:1", "--give-up-after", "300ms"];
    let ended = seawall(&args).expect(6);
    assert!(ended.stderr.contains("127.0.0.1:1"), "{}", ended.stderr);
    // No address.
    let ended = seawall(&["send", &file, "--to", "somewhere"]).expect(1);
    assert!(ended.stderr.contains("--to holds \"somewhere\", must be host:port"), "{}", ended.stderr);
    // Beyond loopback without TLS.
    let ended = support::ended(receive(&place, &["--listen", "0.0.0.0:0"]).output().unwrap()).expect(1);
    assert!(ended.stderr.contains("plaintext_beyond_loopback"), "{}", ended.stderr);
    // A field that does not exist.
    let config = place.write("wrong.toml", "[receiver]\nrecord_byte_max = 7\n");
    let ended = seawall(&["receive", "--log", &place.arg("log"), "--config", &config]).expect(1);
    assert!(ended.stderr.contains("record_byte_max") && ended.stderr.contains("wrong.toml"), "{}", ended.stderr);
    // A value that is none.
    let config = place.write("wrong.toml", "[receiver]\nframe_records_max = 0\n");
    let ended = seawall(&["receive", "--log", &place.arg("log"), "--config", &config]).expect(1);
    assert!(ended.stderr.contains("frame_records_max"), "{}", ended.stderr);
    // Values that are not usable, or do not go together: before anything is made.
    for (text, told) in [
        ("[receiver]\nin_flight_bytes_max = 1\n", "receiver.in_flight_bytes_max is 1"),
        ("[log]\nsegment_bytes_min = 1\n", "log.segment_bytes_min is 1"),
        ("[log]\nrecord_bytes_max = \"1 MiB\"\n", "log.record_bytes_max of the log is 1048576"),
    ] {
        let config = place.write("wrong.toml", text);
        let args = ["receive", "--log", &place.arg("new"), "--config", &config, "--listen", "127.0.0.1:0"];
        let ended = seawall(&args).expect(1);
        assert!(ended.stderr.contains(told) && !place.path("new").exists(), "{}", ended.stderr);
    }
    // A log that something else wrote.
    seawall(&["ingest", "--log", &place.arg("other"), &file]).expect(0);
    let ended = seawall(&["receive", "--log", &place.arg("other"), "--listen", "127.0.0.1:0"]).expect(4);
    assert!(ended.stderr.contains("no receiver block"), "{}", ended.stderr);
}

/// The lines were taken, and the receiver did not open any more.
#[test]
fn a_receivers_log_takes_no_lines_but_its_own() {
    let place = Place::new();
    let file = place.write("input.txt", "a line\n");
    let receiver = Receiver::start(&place, "127.0.0.1:0");
    seawall(&["send", &file, "--to", &receiver.address]).expect(0);
    receiver.stop();
    let ended = seawall(&["ingest", "--log", &place.arg("log"), &file]).expect(4);
    assert!(ended.stderr.contains("is a receiver's"), "{}", ended.stderr);
    let receiver = Receiver::start(&place, "127.0.0.1:0");
    seawall(&["send", &file, "--to", &receiver.address]).expect(0);
    receiver.stop();
}

#[test]
fn a_token_is_asked_for_and_never_shown() {
    let place = Place::new();
    let file = place.write("input.txt", "a line\n");
    let token = place.write("token", "correct horse battery staple\n");
    let wrong = place.write("wrong", "incorrect horse battery staple\n");
    let mut running = Running::start(receive(&place, &["--listen", "127.0.0.1:0", "--token-file", &token]));
    let event: serde_json::Value = serde_json::from_str(&running.line().unwrap()).unwrap();
    let address = event["addresses"][0].as_str().unwrap().to_owned();
    let without = seawall(&["send", &file, "--to", &address]).expect(6);
    assert!(without.stderr.contains("Unauthorized"), "{}", without.stderr);
    let ended = seawall(&["send", &file, "--to", &address, "--token-file", &wrong]).expect(6);
    assert!(!ended.stderr.contains("horse"), "{}", ended.stderr);
    seawall(&["send", &file, "--to", &address, "--token-file", &token]).expect(0);
    let explained = support::ended(receive(&place, &["--explain-config", "--token-file", &token]).output().unwrap());
    assert!(!explained.expect(0).text().contains("horse"));
}

#[test]
fn the_configuration_is_explained_and_reads_back_as_it_was() {
    let place = Place::new();
    let config = place.write("receive.toml", SMALL);
    let args = ["receive", "--log", "nowhere", "--config", &config, "--stream", "clicks", "--explain-config"];
    let text = seawall(&args).expect(0).text();
    let line = |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("{key}: {text}"));
    assert!(line("block_bytes_max").ends_with("receive.toml") && line("block_bytes_max").contains("\"64 KiB\""));
    assert!(line("stream = \"clicks\"").ends_with("# --stream"));
    assert!(line("heartbeat").ends_with("# default"));
    let again = place.write("again.toml", &text);
    let args = ["receive", "--log", "nowhere", "--config", &again, "--explain-config", "--format", "json"];
    let read_back = &seawall(&args).expect(0).json()[0];
    assert_eq!(read_back["receiver"]["block_bytes_max"], "64 KiB");
    assert_eq!(read_back["stream"], "clicks");
}

/// A request without a library: what comes back, as text.
fn http(address: &str, request: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn http_lines_and_admin_are_other_doors_to_the_same_stream() {
    use std::io::Write;
    let place = Place::new();
    let doors = ["--http", "127.0.0.1:0", "--lines", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--stream", "clicks"];
    let args: Vec<&str> = ["--listen", "127.0.0.1:0"].into_iter().chain(doors).collect();
    let mut running = Running::start(receive(&place, &args));
    let event: serde_json::Value = serde_json::from_str(&running.line().unwrap()).unwrap();
    let door = |name: &str| event["doors"][name].as_str().unwrap_or_else(|| panic!("{event}")).to_owned();
    let post = "POST /v1/streams/clicks HTTP/1.1\r\nHost: x\r\nConnection: close\r\nSource-Id: web\r\nFirst-Seq: 1\r\n\
        Content-Type: application/x-ndjson\r\nContent-Length: 16\r\n\r\n{\"a\":1}\n{\"a\":2}\n";
    let answer = http(&door("http"), post);
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    let again = http(&door("http"), post);
    assert!(again.starts_with("HTTP/1.1 200"), "{again}");
    let mut lines = std::net::TcpStream::connect(door("lines")).unwrap();
    lines.write_all(b"first line\nsecond line\n").unwrap();
    drop(lines);
    let get =
        |path: &str| http(&door("admin"), &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
    assert!(get("/livez").starts_with("HTTP/1.1 200"));
    assert!(get("/readyz").starts_with("HTTP/1.1 200"));
    let began = Instant::now();
    let has_all = || {
        get("/metrics")
            .lines()
            .any(|line| line.starts_with("seawall_") && line.contains("records") && line.ends_with(" 4"))
    };
    while !has_all() {
        assert!(began.elapsed() < PATIENCE, "{}", get("/metrics"));
        std::thread::sleep(Duration::from_millis(10));
    }
    running.signal("INT");
    assert_eq!(code(running.child.wait().unwrap()), 130);
    let text = seawall(&["dump", "--log", &place.arg("log")]).expect(0).text();
    for record in ["{\"a\":1}", "{\"a\":2}", "first line", "second line"] {
        assert_eq!(text.lines().filter(|line| line.contains(record)).count(), 1, "{text}");
    }
}

/// Bodies ended at 4 MiB, whatever the receiver took.
#[test]
fn a_body_may_be_as_long_as_a_record() {
    let place = Place::new();
    let config =
        place.write("long.toml", "[receiver]\nrecord_bytes_max = \"6 MiB\"\nsession_window_bytes = \"16 MiB\"\n");
    let args = ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--format", "json"];
    let log = place.arg("log");
    let start = ["receive", "--log", &log, "--config", &config];
    let mut running = Running::start(command(&[&start[..], &args].concat()));
    let event: serde_json::Value = serde_json::from_str(&running.line().unwrap()).unwrap();
    let head = "POST /v1/streams/default HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
        Content-Type: application/octet-stream\r\nContent-Length: 5000000\r\n\r\n";
    let answer = http(event["doors"]["http"].as_str().unwrap(), &(head.to_owned() + &"x".repeat(5_000_000)));
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    running.signal("INT");
    assert_eq!(code(running.child.wait().unwrap()), 130);
}

/// Damage that an operator has to accept is damage, not a refusal of what is sent.
#[test]
fn a_stream_that_does_not_tell_what_sources_sent_is_damage() {
    let place = Place::new();
    let lines: String = (0..1000).map(|n| format!("line {n}, and then some\n")).collect();
    let file = place.write("input.txt", lines + "THE MARKED LINE\n");
    let receiver = Receiver::start(&place, "127.0.0.1:0");
    seawall(&["send", &file, "--to", &receiver.address]).expect(0);
    receiver.stop();
    support::flip_bit_at(&place.path("log"), b"THE MARKED LINE");
    let log = place.arg("log");
    seawall(&["repair", "--log", &log, "--quarantine"]).expect(0);
    let ended = support::ended(receive(&place, &["--listen", "127.0.0.1:0"]).output().unwrap()).expect(2);
    assert!(ended.stderr.contains("accept_damage"), "{}", ended.stderr);
}

/// It was tried again for ever, with words of the configuration that this command does not have.
#[test]
fn what_would_be_sent_unencrypted_is_refused_at_once() {
    // Where a packet to elsewhere would leave; none is sent.
    let outward = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let Some(own) = outward.connect("192.0.2.1:9").ok().and_then(|()| outward.local_addr().ok()) else {
        return println!("skipped: this machine has loopback only");
    };
    let place = Place::new();
    let file = place.write("input.txt", "a\n");
    let listener = TcpListener::bind((own.ip(), 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let args = ["send", &file, "--to", &address, "--give-up-after", "20s"];
    let ended = seawall(&args).expect(1);
    assert!(ended.stderr.contains("--plaintext-beyond-loopback"), "{}", ended.stderr);
}

/// The longest line was 64 KiB whatever a record may be, and nothing could be set to mend it.
#[test]
fn lines_are_taken_where_records_are_short() {
    let place = Place::new();
    let config = place.write("short.toml", "[receiver]\nrecord_bytes_max = \"16 KiB\"\n");
    let log = place.arg("log");
    let args = ["receive", "--log", &log, "--config", &config, "--listen", "127.0.0.1:0", "--lines", "127.0.0.1:0"];
    let mut running = Running::start(command(&[&args[..], &["--format", "json"]].concat()));
    running.lines_until(|line| line.contains("listening"));
    // It ended right behind that.
    running.signal("INT");
    let last = running.lines_until(|line| line.contains("\"end\""));
    assert!(last.last().unwrap().contains("interrupted"), "{last:?}");
    assert_eq!(code(running.child.wait().unwrap()), 130);
}

/// Only what stands on the command line was counted.
#[test]
fn a_certificate_in_the_file_goes_with_authorities_on_the_command_line() {
    let place = Place::new();
    let [cert, key] = certificate(&place);
    let config = place.write("tls.toml", format!("[server]\ncert = {cert:?}\nkey = {key:?}\n"));
    let explain = ["receive", "--log", "nowhere", "--explain-config", "--format", "json"];
    let mixed = ["--config", &config, "--client-ca", &cert];
    let settings = &seawall(&[&explain[..], &mixed].concat()).expect(0).json()[0];
    assert_eq!(
        (&settings["server"]["cert"], &settings["server"]["client_ca"]),
        (&cert.clone().into(), &cert.clone().into())
    );
    // What is missing is missing all the same.
    for lacking in [["--cert", &cert], ["--key", &key], ["--client-ca", &cert]] {
        let log = place.arg("log");
        let ended = seawall(&[&["receive", "--log", &log, "--listen", "127.0.0.1:0"][..], &lacking].concat()).expect(1);
        assert!(ended.stderr.contains("server.cert and server.key are needed"), "{}", ended.stderr);
    }
}

/// HTTP and lines had 10 s to finish whatever was configured.
#[test]
fn all_doors_have_as_long_to_finish_as_is_configured() {
    let place = Place::new();
    let config = place.write("drain.toml", "[server]\ndrain = \"10 ms\"\n");
    let log = place.arg("log");
    let args = ["receive", "--log", &log, "--config", &config, "--listen", "127.0.0.1:0", "--format", "json"];
    let mut running = Running::start(command(&[&args[..], &["--http", "127.0.0.1:0"]].concat()));
    let event: serde_json::Value = serde_json::from_str(&running.line().unwrap()).unwrap();
    // A request that does not end.
    let mut stream = TcpStream::connect(event["doors"]["http"].as_str().unwrap()).unwrap();
    stream
        .write_all(
            b"POST /v1/streams/default HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n\
            Expect: 100-continue\r\nContent-Length: 9\r\n\r\n",
        )
        .unwrap();
    let mut told = [0; 12];
    stream.read_exact(&mut told).unwrap();
    assert_eq!(&told, b"HTTP/1.1 100");
    running.signal("INT");
    assert_eq!(ended_within(&mut running, Duration::from_secs(9)), Some(130));
}

#[test]
fn doors_without_encryption_stay_on_this_machine() {
    let place = Place::new();
    for door in ["--http", "--lines", "--admin"] {
        let args = ["--listen", "127.0.0.1:0", door, "0.0.0.0:0"];
        let ended = support::ended(receive(&place, &args).output().unwrap()).expect(1);
        assert!(ended.stderr.contains("plaintext_beyond_loopback"), "{}", ended.stderr);
    }
}

/// A certificate for whatever it is asked for, in files.
fn certificate(place: &Place) -> [String; 2] {
    let signed = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    [place.write("cert.pem", signed.cert.pem()), place.write("key.pem", signed.signing_key.serialize_pem())]
}

#[test]
fn doors_with_a_certificate_are_encrypted_unless_they_are_asked_not_to_be() {
    let place = Place::new();
    let [cert, key] = certificate(&place);
    let open = format!("[server]\nplaintext_doors = true\n{SMALL}");
    for (config, address, is_encrypted) in [(SMALL, "0.0.0.0:0", true), (&open, "127.0.0.1:0", false)] {
        let config = place.write("doors.toml", config);
        let log = place.arg("log");
        let args = ["receive", "--log", &log, "--config", &config, "--format", "json", "--listen", "127.0.0.1:0"];
        let doors = ["--http", address, "--cert", &cert, "--key", &key];
        let mut running = Running::start(command(&[&args[..], &doors[..]].concat()));
        let line = running.line().expect("it says where it listens");
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        let http: SocketAddr = event["doors"]["http"].as_str().unwrap().parse().unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", http.port())).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        let _cut = stream.read_to_end(&mut answer);
        // Who speaks TLS answers with an alert: its first byte is 21.
        let begins: &[u8] = if is_encrypted { &[21] } else { b"HTTP/1.1 404" };
        assert!(answer.starts_with(begins), "{answer:?}");
        running.signal("INT");
        assert_eq!(code(running.child.wait().unwrap()), 130);
    }
    let open = place.write("doors.toml", &open);
    let args = ["--config", &open, "--listen", "127.0.0.1:0", "--http", "0.0.0.0:0", "--cert", &cert, "--key", &key];
    let ended = seawall(&[&["receive", "--log", &place.arg("log")][..], &args[..]].concat()).expect(1);
    assert!(ended.stderr.contains("plaintext_beyond_loopback"), "{}", ended.stderr);
    assert!(ended.stderr.contains("leave out `plaintext_doors`"), "{}", ended.stderr);

    // Where a certificate is needed, a token is not enough in the open either.
    let token = place.write("token", "plant-plant-plant");
    let asks = format!("[server]\nplaintext_doors = true\ntokens = [{{ file = {token:?} }}]\n{SMALL}");
    let asks = place.write("doors.toml", &asks);
    let args = ["--config", &asks, "--listen", "127.0.0.1:0", "--cert", &cert, "--key", &key, "--client-ca", &cert];
    for (door, why) in
        [("--http", "http without TLS sees no certificates"), ("--lines", "lines knows no source's name")]
    {
        let door = [door, "127.0.0.1:0"];
        let ended = seawall(&[&["receive", "--log", &place.arg("log")][..], &args[..], &door[..]].concat()).expect(1);
        assert!(ended.stderr.contains(why), "{}", ended.stderr);
    }
}
