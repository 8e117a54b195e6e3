//! Peers that are slow, cut, garbled or many, and a receiver that has no room, ends or fails.

use std::io::Write;
use std::time::{Duration, Instant};

use seawall::node::HttpConfig;
use seawall::receiver::{Code, ReceiverConfig};
use seawall::{Config, Seq, SourceId};

use crate::client::Client;
use crate::{World, epochs_written, records, until};

const RAW: (&str, &str) = ("Content-Type", "application/octet-stream");

#[test]
fn without_room_nothing_is_taken_and_room_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let config = ReceiverConfig { in_flight_bytes_max: 64 << 10, ..Default::default() };
    let (mut world, driver) = World::without_driver(dir.path(), Config::default(), config, None);
    let room_wait = Duration::from_millis(200);
    let http = world.serve_http(HttpConfig { room_wait, ..Default::default() });
    // Held until they are durable, which nothing is before the driver runs.
    let mut holder = Client::connect(http.address);
    holder.send(Client::head("/v1/streams/test", &[RAW, ("Content-Length", "60000")]));
    holder.send("x".repeat(60_000));
    until("the room is taken", || world.receiver.stats().intake.records == 1);
    let mut client = Client::connect(http.address);
    let began = Instant::now();
    for _ in 0..3 {
        // Refused before the body is sent: none of it is held.
        client.send(Client::head("/v1/streams/test", &[RAW, ("Content-Length", "60000"), ("Expect", "100-continue")]));
        let answer = client.answer();
        assert_eq!((answer.status, &answer.json["outcome"]), (429, &"nothing_taken".into()), "{answer:?}");
        assert_eq!(answer.header("retry-after"), Some("1"));
        client = Client::connect(http.address);
    }
    assert!(began.elapsed() >= 3 * room_wait, "the wait is real");
    assert!(world.receiver.stats().intake.charged_bytes < 64 << 10);
    world.thread = Some(driver.unwrap().spawn().unwrap());
    assert_eq!(holder.answer().status, 201);
    assert_eq!(client.post(&[RAW], "x".repeat(60_000)).status, 201);
    assert_eq!(records(&world.log).len(), 2);
    until("nothing is charged", || world.receiver.stats().intake.charged_bytes == 0);
    world.close();
}

/// Sessions that were kept for silent sources kept everybody else out, for as long as they were kept.
#[test]
fn a_session_that_is_kept_for_a_silent_source_makes_room() {
    let dir = tempfile::tempdir().unwrap();
    let config = ReceiverConfig { sessions_max: 4, ..Default::default() };
    let world = World::open(dir.path(), config);
    let http = world.serve_http(HttpConfig::default());
    let mut client = Client::connect(http.address);
    let from = |source: &'static str| [("Source-Id", source), ("First-Seq", "1")];
    for source in ["a", "b", "c", "d", "e"] {
        assert_eq!(client.post(&from(source), "x\n").status, 201, "{source}");
    }
    assert_eq!(client.post(&[RAW], "x").status, 201);
    // Half of them are for others.
    let others = [world.receiver.connect().unwrap(), world.receiver.connect().unwrap()];
    assert_eq!(world.receiver.connect().unwrap_err().code, Code::TooMany, "those of the last two are kept");
    assert_eq!(client.post(&[RAW], "x").status, 201, "one of them made room");
    assert_eq!(client.post(&from("f"), "x\n").status, 201);
    let again = client.post(&[("Source-Id", "a"), ("First-Seq", "2")], "x\n");
    assert_eq!((again.status, again.number("epoch")), (201, 1), "it goes on: {again:?}");
    drop(others);
    world.close();
}

#[test]
fn bodies_are_charged_before_they_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let config = ReceiverConfig { in_flight_bytes_max: 4 << 20, ..Default::default() };
    let world = World::open(dir.path(), config);
    let room_wait = Duration::from_millis(100);
    let http = world.serve_http(HttpConfig { room_wait, ..Default::default() });
    let mut open = Vec::new();
    for number in 0..12 {
        let mut client = Client::connect(http.address);
        let name = format!("source-{number}");
        let headers = [RAW, ("Content-Length", "1000000"), ("Source-Id", &name), ("First-Seq", "1")];
        client.send(Client::head("/v1/streams/test", &headers) + "just the beginning");
        open.push(client);
    }
    // Four have room, the others are answered.
    for client in &mut open[4..] {
        client.stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    }
    until("the others were refused", || http.watch.answers().any(|counted| counted == (429, 8)));
    let charged = world.receiver.stats().intake.charged_bytes;
    assert!((4_000_000..4 << 20).contains(&charged), "{charged}");
    // Those that go away give their room back.
    open.clear();
    until("nothing is charged", || world.receiver.stats().intake.charged_bytes == 0);
    assert_eq!(Client::connect(http.address).post(&[RAW], "x".repeat(4_000_000)).status, 201);
    world.close();
}

#[test]
fn a_body_of_unknown_length_is_charged_with_what_it_may_become() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    let http = world.serve_http(HttpConfig { unannounced_bytes_max: 300_000, ..Default::default() });
    let mut client = Client::connect(http.address);
    let chunked = [RAW, ("Transfer-Encoding", "chunked"), ("Source-Id", "a"), ("First-Seq", "1")];
    client.send(Client::head("/v1/streams/test", &chunked) + "3\r\nabc\r\n");
    until("it is charged", || world.receiver.stats().intake.charged_bytes >= 300_000);
    for _ in 0..10 {
        client.send(format!("{:x}\r\n{}\r\n", 20_000, "y".repeat(20_000)));
    }
    client.send("0\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.status, answer.number("records")), (201, 1), "{answer:?}");
    assert_eq!(records(&world.log)[0].2.len(), 200_003);
    // Its end never comes: at the limit it is refused.
    client.send(Client::head("/v1/streams/test", &[&chunked[..3], &[("First-Seq", "2")]].concat()));
    for _ in 0..40 {
        let _cut = client.stream.write_all(format!("{:x}\r\n{}\r\n", 20_000, "y".repeat(20_000)).as_bytes());
    }
    until("800 000 bytes are refused", || http.watch.answers().any(|(status, _)| status == 413));
    assert_eq!(client.answer().json["error"], "body_too_long");
    until("nothing is charged", || world.receiver.stats().intake.charged_bytes == 0);
    world.close();
}

/// One who had asked before it sent its body, was told to and then refused, lost the answer in a reset.
#[test]
fn who_was_told_to_go_on_hears_that_the_body_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    let http = world.serve_http(HttpConfig { unannounced_bytes_max: 300_000, ..Default::default() });
    let mut client = Client::connect(http.address);
    let asks = [RAW, ("Transfer-Encoding", "chunked"), ("Expect", "100-continue")];
    client.send(Client::head("/v1/streams/test", &asks));
    assert_eq!(client.interim(), 100);
    for piece in 0..100 {
        client.send(format!("{:x}\r\n{}\r\n", 20_000, "y".repeat(20_000)));
        if piece == 50 {
            // One who is still writing when it is refused gets to the end of it.
            until("it is refused", || http.watch.answers().any(|(status, _)| status == 413));
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    client.send("0\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.status, &answer.json["error"]), (413, &"body_too_long".into()), "{answer:?}");
    world.close();
}

#[test]
fn a_body_that_dribbles_is_given_up_and_its_source_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let config = ReceiverConfig { message_timeout: Duration::from_millis(500), ..Default::default() };
    let world = World::open(dir.path(), config);
    let http = world.serve_http(HttpConfig::default());
    let mut client = Client::connect(http.address);
    let head = [RAW, ("Content-Length", "1000"), ("Source-Id", "a"), ("First-Seq", "1")];
    let began = Instant::now();
    client.send(Client::head("/v1/streams/test", &head));
    let mut dribble = client.stream.try_clone().unwrap();
    let dribbling = std::thread::spawn(move || {
        while dribble.write_all(b"x").is_ok() && began.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let answer = client.answer();
    assert_eq!((answer.status, &answer.json["outcome"]), (408, &"nothing_taken".into()), "{answer:?}");
    let took = began.elapsed();
    assert!((Duration::from_millis(450)..Duration::from_secs(3)).contains(&took), "{took:?}");
    assert!(client.is_closed());
    dribbling.join().unwrap();
    let answer = Client::connect(http.address).post(&[("Source-Id", "a"), ("First-Seq", "1")], "1\n");
    assert_eq!((answer.status, answer.number("epoch")), (201, 1), "{answer:?}");
    assert_eq!((records(&world.log).len(), epochs_written(&world.log)), (1, 1));
    assert_eq!(world.receiver.stats().intake.charged_bytes, 0);
    world.close();
}

#[test]
fn while_others_wait_for_room_a_slow_body_is_given_up_sooner() {
    let dir = tempfile::tempdir().unwrap();
    let config = ReceiverConfig { in_flight_bytes_max: 64 << 10, ..Default::default() };
    let world = World::open(dir.path(), config);
    let http = world.serve_http(HttpConfig { room_wait: Duration::from_secs(10), ..Default::default() });
    let mut slow = Client::connect(http.address);
    slow.send(Client::head("/v1/streams/test", &[RAW, ("Content-Length", "60000")]) + "x");
    until("it has the room", || world.receiver.stats().intake.charged_bytes > 60_000);
    let began = Instant::now();
    let answer = Client::connect(http.address).post(&[RAW], "x".repeat(60_000));
    assert_eq!(answer.status, 201, "{answer:?}");
    assert!(began.elapsed() < Duration::from_secs(5), "not the 30 s that a body may take");
    assert_eq!(slow.answer().status, 408);
    world.close();
}

#[test]
fn a_request_that_waits_in_vain_for_its_turn_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    let config = HttpConfig { room_wait: Duration::from_millis(100), sources_kept_max: 1, ..Default::default() };
    let http = world.serve_http(config);
    let mut first = Client::connect(http.address);
    let named = |name, seq| [("Source-Id", name), ("First-Seq", seq)];
    let head = [&named("a", "1")[..], &[RAW, ("Content-Length", "2")]].concat();
    first.send(Client::head("/v1/streams/test", &head) + "x");
    until("its body is being read", || world.receiver.stats().intake.charged_bytes > 0);
    let mut second = Client::connect(http.address);
    let answer = second.post(&named("a", "2"), "2\n");
    assert_eq!((answer.status, &answer.json["error"]), (429, &"not_its_turn".into()), "{answer:?}");
    let answer = second.post(&named("b", "1"), "1\n");
    assert_eq!(
        (answer.status, &answer.json["error"]),
        (429, &"too_many".into()),
        "the only place is in use: {answer:?}"
    );
    first.send("y");
    assert_eq!(first.answer().status, 201);
    assert_eq!(second.post(&named("a", "2"), "2\n").status, 201);
    assert_eq!(second.post(&named("b", "1"), "1\n").status, 201);
    assert_eq!(world.receiver.stats().intake.sessions, 1, "one place, one session");
    world.close();
}

#[test]
fn a_client_that_goes_away_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (mut world, driver) = World::without_driver(dir.path(), Config::default(), ReceiverConfig::default(), None);
    let http = world.serve_http(HttpConfig::default());
    // Two ways: within the body, and while it waits for what is not durable yet.
    let mut client = Client::connect(http.address);
    client.send(Client::head("/v1/streams/test", &[RAW, ("Content-Length", "5")]) + "abc");
    until("it is being read", || world.receiver.stats().intake.charged_bytes > 0);
    drop(client);
    until("nothing is charged", || world.receiver.stats().intake.charged_bytes == 0);
    let mut client = Client::connect(http.address);
    client.send(Client::head("/v1/streams/test", &[RAW, ("Content-Length", "5")]) + "abcde");
    until("it was taken", || world.receiver.stats().intake.records == 1);
    drop(client);
    until("its session has ended", || world.receiver.stats().intake.sessions == 0);
    assert!(world.receiver.stats().intake.charged_bytes >= 5, "charged until it is durable");
    world.thread = Some(driver.unwrap().spawn().unwrap());
    until("nothing is charged", || world.receiver.stats().intake.charged_bytes == 0);
    assert_eq!(records(&world.log).len(), 1, "what was handed over is stored");
    world.close();
}

#[test]
fn kept_sessions_end_when_their_source_is_silent() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    let source_idle = Duration::from_millis(300);
    let http = world.serve_http(HttpConfig { source_idle, ..Default::default() });
    let mut client = Client::connect(http.address);
    let from = |first: &'static str| [("Source-Id", "a"), ("First-Seq", first)];
    assert_eq!(client.post(&from("1"), "1\n").status, 201);
    let id = SourceId::new("a").unwrap();
    assert!(world.receiver.source(&id).unwrap().is_connected);
    until("it has ended", || world.receiver.stats().intake.sessions == 0);
    let answer = client.post(&from("2"), "2\n");
    assert_eq!((answer.status, answer.number("epoch")), (201, 1), "{answer:?}");
    assert_eq!(epochs_written(&world.log), 1, "coming back cost nothing");
    world.close();
}

#[test]
fn a_poisoned_log_is_an_outcome_unknown_and_nothing_is_created_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    let http = world.serve_http(HttpConfig::default());
    let mut client = Client::connect(http.address);
    let from = |first: &'static str| [("Source-Id", "a"), ("First-Seq", first)];
    assert_eq!(client.post(&from("1"), "1\n").status, 201);
    // A log that is closed under the receiver takes nothing more, as one whose flush failed.
    world.log.clone().close(Duration::from_secs(10)).unwrap();
    for first in ["2", "2"] {
        let answer = client.post(&from(first), "2\n");
        assert_eq!((answer.status, &answer.json["outcome"]), (503, &"unknown".into()), "{answer:?}");
        assert_eq!(answer.number("durable"), 1);
    }
    let answer = client.post(&[], "x\n");
    assert_eq!((answer.status, &answer.json["outcome"]), (503, &"unknown".into()), "{answer:?}");
    assert_eq!(world.receiver.source(&SourceId::new("a").unwrap()).unwrap().durable, Seq::new(1));
}

#[test]
fn a_full_disk_is_said_and_waits_for_room() {
    let dir = tempfile::tempdir().unwrap();
    let of_log = Config { record_bytes_max: 1 << 20, ..crate::streams::small() };
    let config = ReceiverConfig {
        record_bytes_max: 16 << 10,
        frame_bytes_max: 16 << 10,
        block_bytes_max: 32 << 10,
        rejects_unseen_max: 1,
        snapshot_interval_bytes: 4096,
        ..Default::default()
    };
    let world = World::open_with(dir.path(), of_log, config, None);
    let http = world.serve_http(HttpConfig { durable_wait: Duration::from_millis(500), ..Default::default() });
    let mut client = Client::connect(http.address);
    let (mut first, mut attempts) = (1u64, 0);
    let answer = loop {
        attempts += 1;
        assert!(attempts < 200, "it is never full");
        let seq = first.to_string();
        let answer = client.post(&[RAW, ("Source-Id", "a"), ("First-Seq", &seq)], "x".repeat(16 << 10));
        match answer.status {
            200 | 201 => {}
            // A device that is busy with other tests.
            503 if answer.json["error"] == "timeout" => continue,
            429 => continue,
            _ => break answer,
        }
        first += 1;
        assert!(first < 40, "256 KiB hold no more than 16 times 16 KiB");
    };
    assert_eq!(
        (answer.status, &answer.json["error"], &answer.json["outcome"]),
        (503, &"full".into(), &"unknown".into())
    );
    // Room: the very request that was unknown is there then, once.
    let durable = world.receiver.source(&SourceId::new("a").unwrap()).unwrap().durable;
    assert_eq!(durable.get(), first - 1, "nothing is told that is not so");
    let mut trimmed = 0;
    until("it is taken", || {
        trimmed = world.receiver.trim(world.log.flushed()).unwrap().get().max(trimmed);
        let seq = first.to_string();
        let answer = client.post(&[RAW, ("Source-Id", "a"), ("First-Seq", &seq)], "x".repeat(16 << 10));
        answer.status == 200 && answer.number("duplicates") == 1
    });
    assert!(trimmed > 0);
    world.close();
}

#[test]
fn garbage_ends_its_connection_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    let http = world.serve_http(HttpConfig::default());
    let mut good = Client::connect(http.address);
    assert_eq!(good.post(&[], "1\n").status, 201);
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"SEND\n\n",
        b"POST / HTTP/9.9\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
    ] {
        let mut client = Client::connect(http.address);
        client.send(garbage);
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        let answer = client.try_answer().map(|answer| answer.status);
        assert!(matches!(answer, None | Some(400 | 505)), "{answer:?}");
        assert!(client.is_closed());
    }
    // A head without an end is given up at its limit.
    let mut client = Client::connect(http.address);
    let long = "x".repeat(1 << 20);
    let _cut = client.stream.write_all(format!("POST /v1/streams/test HTTP/1.1\r\nX: {long}\r\n").as_bytes());
    assert!(matches!(client.try_answer().map(|answer| answer.status), None | Some(431)));
    // Two lengths, or a length and chunks, are two requests to somebody.
    for headers in [
        &[("Content-Length", "1"), ("Content-Length", "2")][..],
        &[("Content-Length", "x")],
        &[("Transfer-Encoding", "gzip, identity"), RAW],
    ] {
        let mut client = Client::connect(http.address);
        client.send(Client::head("/v1/streams/test", headers) + "ab");
        assert_eq!(client.answer().status, 400, "{headers:?}");
    }
    for (path, status) in [("/", 404), ("/v1/streams/other", 404), ("/v1/streams/%zz", 404)] {
        assert_eq!(good.post_to(path, &[], "1\n").status, status, "{path}");
    }
    assert_eq!(good.get("/v1/streams/test").header("allow"), Some("POST"));
    assert_eq!(good.post(&[("Source-Id", "a")], "1\n").status, 400);
    assert_eq!(good.post(&[("Source-Id", &"x".repeat(129)), ("First-Seq", "1")], "1\n").status, 400);
    assert_eq!(good.post(&[], "").status, 400);
    assert_eq!(good.post(&[("Content-Type", "text/html")], "1\n").status, 415);
    let answer = good.post(&[("Source-Id", "a"), ("First-Seq", "18446744073709551615")], "1\n2\n");
    assert_eq!(answer.status, 409, "{answer:?}");
    assert_eq!(records(&world.log).len(), 1);
    world.close();
}

#[test]
fn idle_connections_are_closed_and_further_ones_wait() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    let config = HttpConfig { head_timeout: Duration::from_millis(400), connections_max: 2, ..Default::default() };
    let http = world.serve_http(config);
    let began = Instant::now();
    let mut silent = Client::connect(http.address);
    let mut dribbles = Client::connect(http.address);
    dribbles.send("POST /v1/str");
    // Beyond the limit: taken when one of the others was given up.
    let mut third = Client::connect(http.address);
    assert_eq!(third.post(&[], "1\n").status, 201);
    let took = began.elapsed();
    assert!((Duration::from_millis(350)..Duration::from_secs(5)).contains(&took), "{took:?}");
    assert!(silent.is_closed());
    assert_ne!(dribbles.try_answer().map_or(408, |answer| answer.status), 201);
    assert!(third.is_closed(), "also behind a request");
    world.close();
}

#[test]
fn a_gateway_that_is_asked_to_end_answers_what_has_begun() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    let http = world.serve_http(HttpConfig { drain: Duration::from_secs(2), ..Default::default() });
    let mut client = Client::connect(http.address);
    let mut idle = Client::connect(http.address);
    assert_eq!(idle.post(&[], "1\n").status, 201);
    let mut stuck = Client::connect(http.address);
    stuck.send(Client::head("/v1/streams/test", &[RAW, ("Content-Length", "5")]) + "abc");
    let headers = [RAW, ("Content-Length", "5"), ("Source-Id", "a"), ("First-Seq", "1")];
    client.send(Client::head("/v1/streams/test", &headers) + "abc");
    until("they are being read", || world.receiver.stats().intake.sessions == 2);
    let began = Instant::now();
    http.stop.send(()).unwrap();
    assert!(idle.is_closed());
    client.send("de");
    assert_eq!(client.answer().status, 201);
    world.runtime.block_on(http.task).unwrap();
    let took = began.elapsed();
    assert!((Duration::from_millis(1900)..Duration::from_secs(5)).contains(&took), "the stuck one is cut: {took:?}");
    assert!(stuck.try_answer().is_none());
    until("its sessions have ended", || world.receiver.stats().intake.sessions == 0);
    assert_eq!(world.receiver.stats().intake.charged_bytes, 0);
    world.close();
}

#[test]
fn a_receiver_that_drains_takes_no_new_requests() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    let http = world.serve_http(HttpConfig::default());
    let mut client = Client::connect(http.address);
    let from = |first: &'static str| [("Source-Id", "a"), ("First-Seq", first)];
    assert_eq!(client.post(&from("1"), "1\n").status, 201);
    world.receiver.drain(Duration::from_secs(5), "maintenance");
    for headers in [&from("2")[..], &[]] {
        let answer = client.post(headers, "2\n");
        assert_eq!((answer.status, &answer.json["outcome"]), (503, &"nothing_taken".into()), "{answer:?}");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    assert_eq!(records(&world.log).len(), 1);
    world.close();
}

#[test]
fn a_rate_holds_requests_back_and_lets_them_in_again() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), ReceiverConfig::default());
    let http = world.serve_http(HttpConfig { room_wait: Duration::from_secs(10), ..Default::default() });
    world.receiver.set_rate(Some(10_000.0));
    let mut client = Client::connect(http.address);
    let began = Instant::now();
    for _ in 0..4 {
        assert_eq!(client.post(&[RAW], "x".repeat(5000)).status, 201, "alone in line, it is let in by its own clock");
    }
    let took = began.elapsed();
    assert!((Duration::from_millis(400)..Duration::from_secs(8)).contains(&took), "{took:?}");
    world.close();
}
